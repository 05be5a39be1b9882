//! TLS by rustls: its keys and certificates from files, read again when they
//! change, since a certificate ends sooner than a process.
//!
//! The files are looked at when a connection comes, at most once a second: a
//! listener that nobody calls needs no certificate, and a task that only looks
//! at clocks is one more thing to stop. Where new files cannot be used the old
//! ones go on, and the log says why.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::time::Instant;

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What is spoken inside: HTTP/2, and nothing else.
const ALPN: &[u8] = b"h2";

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
    stamps: Vec<Option<SystemTime>>,
    looked: Instant,
}

/// Files that make a TLS configuration.
pub(crate) trait Material<C> {
    /// Every file that it is made of.
    fn paths(&self) -> Vec<&Path>;
    fn load(&self) -> Result<C, TlsError>;
}

impl<C, F: Material<C>> Fresh<F, C> {
    /// Reads the files.
    pub(crate) fn new(files: F) -> Result<Self, TlsError> {
        // The times before the reading: what changes meanwhile is read again.
        let stamps = stamps(&files.paths());
        let config = Arc::new(files.load()?);
        let looked = Instant::now();
        let made = Mutex::new(Made {
            config,
            stamps,
            looked,
        });
        Ok(Self { files, made })
    }

    /// What the files make now.
    pub(crate) fn config(&self) -> Arc<C> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.looked.elapsed() >= LOOK_EVERY {
            made.looked = Instant::now();
            let stamps = stamps(&self.files.paths());
            if stamps != made.stamps {
                made.stamps = stamps;
                match self.files.load() {
                    Ok(config) => made.config = Arc::new(config),
                    Err(error) => {
                        tracing::error!(%error, "new certificates cannot be used: the old ones go on")
                    }
                }
            }
        }
        Arc::clone(&made.config)
    }
}

fn stamps(paths: &[&Path]) -> Vec<Option<SystemTime>> {
    let changed = |path: &&Path| fs::metadata(path)?.modified();
    paths.iter().map(|path| changed(path).ok()).collect()
}

fn file_error(path: &Path, wanted: &'static str, error: impl ToString) -> TlsError {
    TlsError::File {
        path: path.to_owned(),
        error: error.to_string(),
        wanted,
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wanted = "certificates";
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(chain) if chain.is_empty() => Err(file_error(path, wanted, "holds none")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(file_error(path, wanted, error)),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| file_error(path, "a private key", error))
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
        let config = builder.with_single_cert(certificates(&self.cert)?, key(&self.key)?);
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
            Some((cert, path)) => builder
                .with_client_auth_cert(certificates(cert)?, key(path)?)
                .map_err(|error| TlsError::Pair {
                    path: cert.clone(),
                    error: error.to_string(),
                })?,
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
