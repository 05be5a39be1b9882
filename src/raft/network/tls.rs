//! TLS between the nodes of a cluster.
//!
//! Both ends show a certificate of the cluster's authority: whoever has none
//! can neither append nor vote, and `ferry cluster` has to have one too. The
//! files are read again when they change, for the next connection: a node whose
//! certificate runs out needs no restart.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tower::Service;

pub use crate::transport::TlsError;
use crate::transport::{ClientFiles, Fresh, ServerFiles};

/// How many callers may be shaking hands at once, and each for how long.
const HANDSHAKES_MAX: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(10);

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

impl PeerTls {
    /// For the end that listens.
    pub(crate) fn server(&self) -> Result<Fresh<ServerFiles, ServerConfig>, TlsError> {
        Fresh::new(ServerFiles {
            cert: self.cert.clone(),
            key: self.key.clone(),
            client_ca: self.verify_clients.then(|| self.ca.clone()),
        })
    }

    /// For the end that connects.
    pub(crate) fn client(&self) -> Result<Fresh<ClientFiles, ClientConfig>, TlsError> {
        Fresh::new(ClientFiles {
            ca: Some(self.ca.clone()),
            identity: Some((self.cert.clone(), self.key.clone())),
            server_name: None,
        })
    }
}

/// The callers of a listener that have shaken hands.
pub(crate) fn secured<E>(
    incoming: impl Stream<Item = Result<TcpStream, E>>,
    tls: Fresh<ServerFiles, ServerConfig>,
) -> impl Stream<Item = Result<server::TlsStream<TcpStream>, E>> {
    incoming
        .map(move |socket| {
            let tls = TlsAcceptor::from(tls.config());
            async move {
                let socket = match socket {
                    Ok(socket) => socket,
                    Err(error) => return Some(Err(error)),
                };
                match timeout(HANDSHAKE, tls.accept(socket)).await {
                    Ok(Ok(socket)) => Some(Ok(socket)),
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "a caller without TLS");
                        None
                    }
                    Err(_) => None,
                }
            }
        })
        .buffer_unordered(HANDSHAKES_MAX)
        .filter_map(std::future::ready)
}

/// Connects to other nodes by TLS.
#[derive(Clone)]
pub(crate) struct Dial {
    /// Where a connection comes from, if that is not left to the system.
    pub(crate) from: Option<IpAddr>,
    pub(crate) tls: Arc<Fresh<ClientFiles, ClientConfig>>,
}

impl Dial {
    async fn dial(self, to: Uri) -> io::Result<client::TlsStream<TcpStream>> {
        let host = to.host().unwrap_or("");
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let socket = connect(host, to.port_u16().unwrap_or(443), self.from).await?;
        socket.set_nodelay(true)?;
        let tls = TlsConnector::from(self.tls.config());
        tls.connect(name, socket).await
    }
}

/// The first address of a host that takes a connection.
async fn connect(host: &str, port: u16, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let mut refused = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in lookup_host((host, port)).await? {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(from) = from.filter(|from| from.is_ipv4() == address.is_ipv4()) {
            socket.bind(SocketAddr::new(from, 0))?;
        }
        match socket.connect(address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

impl Service<Uri> for Dial {
    type Response = TokioIo<client::TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let dialled = self.clone().dial(to);
        Box::pin(async move { Ok(TokioIo::new(dialled.await?)) })
    }
}
