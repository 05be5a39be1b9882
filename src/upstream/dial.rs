//! Where an upstream is, and a socket to it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use http::uri::{Authority, Scheme};
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::link::AnySocket;
use crate::transport::{ClientFiles, Endpoint, Fresh};

/// When the kernel asks a silent peer whether it lives, how often, and how
/// many times it may not answer. Unlike HTTP/2's pings this asks nothing of
/// the upstream's server, which may take pings for abuse.
const SILENT: Duration = Duration::from_secs(20);
const ASK_EVERY: Duration = Duration::from_secs(5);
const ASK_TIMES: u32 = 3;

/// One address of an upstream.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) address: Address,
    /// As the policy names it, for people.
    pub(super) name: Arc<str>,
    pub(super) scheme: Scheme,
    /// What its calls are addressed to where the caller names nothing.
    pub(super) authority: Authority,
    /// What proves it, and by which name.
    pub(super) tls: Option<(Arc<Fresh<ClientFiles, ClientConfig>>, ServerName<'static>)>,
}

/// What can be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(Arc<Path>),
    /// Host and port, still to be looked up.
    Name(Arc<str>, u16),
}

impl fmt::Display for Target {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.name)?;
        match &self.address {
            // Where the name says it already, once is enough.
            Address::Tcp(address) if !self.name.ends_with(&address.to_string()) => {
                write!(to, " ({address})")
            }
            _ => Ok(()),
        }
    }
}

impl Target {
    /// Where an endpoint is; `secured` is what its TLS goes by.
    ///
    /// # Panics
    /// If it names no host; the policy's loader sees to that.
    pub(super) fn of(
        endpoint: &Endpoint,
        files: &ClientFiles,
        secured: Option<&Arc<Fresh<ClientFiles, ClientConfig>>>,
    ) -> Self {
        let name = endpoint.to_string().into();
        let uri = match endpoint {
            Endpoint::Url(uri) => uri,
            Endpoint::Unix(path) => {
                return Self {
                    address: Address::Unix(path.as_path().into()),
                    name,
                    scheme: Scheme::HTTP,
                    authority: Authority::from_static("localhost"),
                    tls: None,
                };
            }
        };
        let authority = uri.authority().expect("an endpoint names a host").clone();
        let port = authority.port_u16().unwrap_or(80);
        let host = authority.host();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address = match host.parse::<IpAddr>() {
            Ok(ip) => Address::Tcp(SocketAddr::new(ip, port)),
            Err(_) => Address::Name(host.into(), port),
        };
        let tls = secured.filter(|_| endpoint.is_secure()).map(|config| {
            let proven = files.server_name.as_deref().unwrap_or(host).to_owned();
            let proven = ServerName::try_from(proven).expect("the policy's loader checked it");
            (Arc::clone(config), proven)
        });
        Self {
            address,
            name,
            scheme: if tls.is_some() {
                Scheme::HTTPS
            } else {
                Scheme::HTTP
            },
            authority,
            tls,
        }
    }

    /// Whether it proves its name.
    pub(super) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) async fn dial(&self) -> Result<AnySocket, String> {
        let failed = |error: std::io::Error| error.to_string();
        let socket = match &self.address {
            Address::Tcp(address) => {
                let socket = TcpStream::connect(address).await.map_err(failed)?;
                tune(&socket).map_err(failed)?;
                socket
            }
            Address::Unix(path) => {
                let socket = UnixStream::connect(path).await.map_err(failed)?;
                return Ok(Box::new(socket));
            }
            Address::Name(host, _) => return Err(format!("{host} is not looked up")),
        };
        match &self.tls {
            None => Ok(Box::new(socket)),
            Some((config, name)) => {
                let connector = TlsConnector::from(config.config());
                let socket = connector.connect(name.clone(), socket).await;
                Ok(Box::new(
                    socket.map_err(|error| format!("no TLS: {error}"))?,
                ))
            }
        }
    }
}

fn tune(socket: &TcpStream) -> std::io::Result<()> {
    // Writes are gathered already; what is written is to leave at once.
    socket.set_nodelay(true)?;
    let keep_alive = TcpKeepalive::new()
        .with_time(SILENT)
        .with_interval(ASK_EVERY)
        .with_retries(ASK_TIMES);
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(&keep_alive)?;
    // The same for what was sent and is not acknowledged.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(SILENT + ASK_EVERY * ASK_TIMES))?;
    Ok(())
}
