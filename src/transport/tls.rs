//! TLS by rustls: its keys and certificates from files, read again when they
//! change, since a certificate ends sooner than a process.
//!
//! The files are looked at when a connection comes, at most once a second: a
//! listener that nobody calls needs no certificate, and a task that only looks
//! at clocks is one more thing to stop. Where new files cannot be used the old
//! ones go on, the log says why, and the next look tries them again: whoever
//! writes them may not be done.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::time::Instant;

use super::expiry::warn_of_time;

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What is spoken inside: HTTP/2, and nothing else.
const ALPN: &[u8] = b"h2";

/// Stands in the head of a key that needs a password.
const ENCRYPTED: &[u8] = b"ENCRYPTED";

/// Where a listener's key and certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// The certificate chain, leaf first, as PEM.
    pub cert: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
    /// Who must have signed a client's certificate; without it none is asked for.
    pub client_ca: Option<PathBuf>,
}

/// What a client of an upstream goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// Who must have signed the upstream's certificate; the machine's own
    /// authorities if there is none.
    pub ca: Option<PathBuf>,
    /// The certificate chain and the key to show, as PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the upstream's certificate must have, where it is not
    /// the endpoint's own.
    pub server_name: Option<String>,
}

/// Why files make no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of its kind.
    #[error("tls: {path}: {error}; name a PEM file with {wanted}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The files do not go together.
    #[error("tls: {path}: {error}; name a certificate chain and the key that it is for")]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// What rustls says.
        error: String,
    },
}

/// Something made of files, made again when they change.
#[derive(Debug)]
pub(crate) struct Fresh<F, C> {
    files: F,
    made: Mutex<Made<C>>,
}

#[derive(Debug)]
struct Made<C> {
    config: Arc<C>,
    /// What the files looked like when it was made of them.
    stamps: Vec<Stamp>,
    /// The same when they could not be used: the log says that once.
    failed: Option<Vec<Stamp>>,
    looked: Instant,
}

/// Which file it is, its length, and when it was last written, renamed or
/// made readable; `None` where there is none.
type Stamp = Option<[u64; 5]>;

/// Files that make a TLS configuration.
pub(crate) trait Material<C> {
    /// Every file that it is made of.
    fn paths(&self) -> Vec<&Path>;
    fn load(&self) -> Result<C, TlsError>;
}

impl<C, F: Material<C>> Fresh<F, C> {
    /// Reads the files.
    pub(crate) fn new(files: F) -> Result<Self, TlsError> {
        // Before the reading: what changes meanwhile is read again.
        let stamps = stamps(&files.paths());
        let config = Arc::new(files.load()?);
        let made = Mutex::new(Made {
            config,
            stamps,
            failed: None,
            looked: Instant::now(),
        });
        Ok(Self { files, made })
    }

    /// What the files make now.
    pub(crate) fn config(&self) -> Arc<C> {
        let mut made = self.made();
        if made.looked.elapsed() >= LOOK_EVERY {
            made.look(&self.files);
        }
        Arc::clone(&made.config)
    }

    fn made(&self) -> MutexGuard<'_, Made<C>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Made<C> {
    fn look(&mut self, files: &impl Material<C>) {
        self.looked = Instant::now();
        let stamps = stamps(&files.paths());
        if stamps == self.stamps && self.failed.is_none() {
            return;
        }
        match files.load() {
            Ok(config) => {
                self.config = Arc::new(config);
                self.stamps = stamps;
                self.failed = None;
            }
            Err(error) => {
                if self.failed.as_ref() != Some(&stamps) {
                    tracing::error!(%error, "new certificates cannot be used: the old ones go on");
                }
                self.failed = Some(stamps);
            }
        }
    }
}

/// The TLS of a listener; a reload may name other files for it.
#[derive(Clone, Debug)]
pub struct ServerTls(Arc<ArcSwap<Fresh<ServerFiles, ServerConfig>>>);

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn new(files: ServerFiles) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(Fresh::new(files)?))))
    }

    /// What the next connection is served by.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.0.load().config()
    }

    /// What makes it go by `files`. The same ones are only looked at: where
    /// they cannot be used now, the old ones go on, as they do without a reload.
    ///
    /// # Errors
    /// If they are others, and cannot be used.
    pub(crate) fn prepare(&self, files: &ServerFiles) -> Result<impl FnOnce() + use<>, TlsError> {
        let now = self.0.load_full();
        let next = match now.files == *files {
            true => {
                now.made().look(&now.files);
                now
            }
            false => Arc::new(Fresh::new(files.clone())?),
        };
        let tls = Arc::clone(&self.0);
        Ok(move || tls.store(next))
    }
}

fn stamps(paths: &[&Path]) -> Vec<Stamp> {
    let stamp = |path: &&Path| {
        let file = fs::metadata(path).ok()?;
        let [seconds, nanos] = [file.ctime(), file.ctime_nsec()].map(i64::cast_unsigned);
        Some([file.dev(), file.ino(), file.len(), seconds, nanos])
    };
    paths.iter().map(stamp).collect()
}

fn file_error(path: &Path, wanted: &'static str, error: impl ToString) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        error: error.to_string(),
        wanted,
    }
}

/// Refuses a pipe, which would hold up whoever reads it.
fn regular(path: &Path, wanted: &'static str) -> Result<(), TlsError> {
    match fs::metadata(path) {
        Ok(file) if !file.is_file() => Err(file_error(path, wanted, "is no regular file")),
        _ => Ok(()),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wanted = "certificates";
    regular(path, wanted)?;
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(chain) if chain.is_empty() => Err(file_error(path, wanted, "holds none")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(file_error(path, wanted, error)),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let wanted = "a private key";
    regular(path, wanted)?;
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        let encrypted = |pem: Vec<u8>| pem.windows(ENCRYPTED.len()).any(|part| part == ENCRYPTED);
        match fs::read(path).is_ok_and(encrypted) {
            true => file_error(path, "a private key as it is", "is encrypted"),
            false => file_error(path, wanted, error),
        }
    })
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| file_error(path, "certificates of authorities", error))?;
    }
    Ok(roots)
}

impl ServerFiles {
    /// Whether they make a listener's TLS as they are now.
    ///
    /// # Errors
    /// Where one of them cannot be used, or they do not go together.
    pub fn check(&self) -> Result<(), TlsError> {
        self.load().map(drop)
    }
}

impl ClientFiles {
    /// Whether they make a client's TLS as they are now.
    ///
    /// # Errors
    /// Where one of them cannot be used, or they do not go together.
    pub fn check(&self) -> Result<(), TlsError> {
        self.load().map(drop)
    }
}

impl Material<ServerConfig> for ServerFiles {
    fn paths(&self) -> Vec<&Path> {
        let own = [&*self.cert, &*self.key];
        own.into_iter().chain(self.client_ca.as_deref()).collect()
    }

    fn load(&self) -> Result<ServerConfig, TlsError> {
        let pair = |error: &dyn ToString| TlsError::Pair {
            path: self.cert.clone(),
            error: error.to_string(),
        };
        let builder = ServerConfig::builder();
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let verifier = WebPkiClientVerifier::builder(Arc::new(authorities(path)?)).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| pair(&error))?)
            }
        };
        let chain = certificates(&self.cert)?;
        warn_of_time(&self.cert, &chain);
        let config = builder.with_single_cert(chain, key(&self.key)?);
        let mut config = config.map_err(|error| pair(&error))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }
}

impl Material<ClientConfig> for ClientFiles {
    fn paths(&self) -> Vec<&Path> {
        let identity = self
            .identity
            .iter()
            .flat_map(|(cert, key)| [&**cert, &**key]);
        self.ca.as_deref().into_iter().chain(identity).collect()
    }

    fn load(&self) -> Result<ClientConfig, TlsError> {
        let roots = match &self.ca {
            Some(path) => authorities(path)?,
            None => machine_authorities(),
        };
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((cert, path)) => {
                let chain = certificates(cert)?;
                warn_of_time(cert, &chain);
                let shown = builder.with_client_auth_cert(chain, key(path)?);
                shown.map_err(|error| TlsError::Pair {
                    path: cert.clone(),
                    error: error.to_string(),
                })?
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }
}

/// Those that the machine trusts. One that cannot be read is not trusted.
fn machine_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// A client's certificate, by its digest: what tells one client from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate(Arc<[u8]>);

impl ClientCertificate {
    pub(crate) fn of(leaf: &CertificateDer<'_>) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, leaf);
        Self(digest.as_ref().into())
    }

    /// Its SHA-256.
    #[must_use]
    pub fn digest(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::*;

    /// Makes nothing of a file but what stands in it, while it can be used.
    struct Text {
        path: PathBuf,
        usable: AtomicBool,
    }

    impl Material<String> for Text {
        fn paths(&self) -> Vec<&Path> {
            vec![&self.path]
        }

        fn load(&self) -> Result<String, TlsError> {
            match fs::read_to_string(&self.path) {
                Ok(text) if self.usable.load(Relaxed) => Ok(text),
                _ => Err(file_error(&self.path, "text", "cannot be used")),
            }
        }
    }

    fn text(said: &str) -> (tempfile::TempDir, Fresh<Text, String>) {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let path = home.path().join("text");
        fs::write(&path, said).expect("it is writable");
        let usable = AtomicBool::new(true);
        let fresh = Fresh::new(Text { path, usable });
        (home, fresh.expect("it can be used"))
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_could_not_be_used_are_tried_again_though_they_look_the_same() {
        let (_home, fresh) = text("old");
        fresh.files.usable.store(false, Relaxed);
        fs::write(&fresh.files.path, "new").expect("it is writable");
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(*fresh.config(), "old");
        let failed = fresh.made().failed.clone();
        assert_eq!(
            failed,
            Some(stamps(&fresh.files.paths())),
            "it is told once"
        );
        fresh.files.usable.store(true, Relaxed);
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(*fresh.config(), "new");
        assert_eq!(fresh.made().failed, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_of_another_length_is_another_one_at_whatever_time_it_was_written() {
        let (_home, fresh) = text("old");
        let written = fs::metadata(&fresh.files.path).and_then(|file| file.modified());
        fs::write(&fresh.files.path, "newer").expect("it is writable");
        let file = fs::File::options().write(true).open(&fresh.files.path);
        let file = file.expect("it is there");
        file.set_modified(written.expect("it has a time"))
            .expect("it is ours");
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(*fresh.config(), "newer");
    }
}
