//! TLS between the nodes of a cluster.
//!
//! Both ends show a certificate of the cluster's authority: whoever has none
//! can neither append nor vote, and `ferry cluster` has to have one too.

use std::{fs, io, path::PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// Where a node's certificate lies, and whom it trusts. PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTls {
    /// The node's certificate, with what it is signed by, up to the authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority that every node's certificate is signed by.
    pub ca: PathBuf,
    /// Whether a caller has to show a certificate as well.
    pub verify_clients: bool,
}

/// A certificate or key cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}; name a PEM file that this user may read")]
pub struct TlsError {
    path: String,
    source: io::Error,
}

impl PeerTls {
    /// For the end that listens.
    pub(crate) fn server(&self) -> Result<ServerTlsConfig, TlsError> {
        let config = ServerTlsConfig::new().identity(self.identity()?);
        Ok(match self.verify_clients {
            true => config.client_ca_root(self.authority()?),
            false => config,
        })
    }

    /// For the end that connects.
    pub(crate) fn client(&self) -> Result<ClientTlsConfig, TlsError> {
        let config = ClientTlsConfig::new().ca_certificate(self.authority()?);
        Ok(config.identity(self.identity()?))
    }

    fn identity(&self) -> Result<Identity, TlsError> {
        Ok(Identity::from_pem(read(&self.cert)?, read(&self.key)?))
    }

    fn authority(&self) -> Result<Certificate, TlsError> {
        Ok(Certificate::from_pem(read(&self.ca)?))
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError {
        path: path.display().to_string(),
        source,
    })
}
