//! An authority of the tests' own, and clients that trust it.

use std::{fs, net::SocketAddr, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::client::Line;

/// An authority of the test's own, and what it has signed, as PEM files.
pub(crate) struct Authority {
    home: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("randomness");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("it signs itself");
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        fs::write(home.path().join("ca.pem"), issuer.pem()).expect("it is writable");
        Self { home, issuer }
    }

    /// Writes `NAME.pem` and `NAME.key` for localhost.
    pub(crate) fn sign(&self, name: &str) {
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a DNS name");
        let key = KeyPair::generate().expect("randomness");
        let signed = params.signed_by(&key, &self.issuer).expect("it signs");
        fs::write(self.path(&format!("{name}.pem")), signed.pem()).expect("it is writable");
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("it is writable");
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    /// A client that trusts this authority, with the certificate `name` if any.
    pub(crate) fn client(&self, name: Option<&str>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("an authority");
        let client = ClientConfig::builder().with_root_certificates(roots);
        let mut client = match name {
            None => client.with_no_client_auth(),
            Some(name) => {
                let chain = CertificateDer::from_pem_file(self.path(&format!("{name}.pem")));
                let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key")));
                let chain = vec![chain.expect("PEM")];
                client
                    .with_client_auth_cert(chain, key.expect("PEM"))
                    .expect("they belong together")
            }
        };
        client.alpn_protocols = vec![b"h2".to_vec()];
        client
    }

    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        name: Option<&str>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(address).await?;
        let server = ServerName::try_from("localhost").expect("a DNS name");
        TlsConnector::from(Arc::new(self.client(name)))
            .connect(server, socket)
            .await
    }

    pub(crate) async fn line(&self, address: SocketAddr, name: Option<&str>) -> Line {
        let socket = self.connect(address, name).await;
        Line::over(socket.expect("they trust each other")).await
    }
}
