//! Where an upstream is, and a socket to it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{
    Uri,
    uri::{Authority, Scheme},
};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::link::AnySocket;

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
}

/// What can be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(SocketAddr),
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
    /// Where an endpoint is: `http://HOST:PORT`.
    ///
    /// # Panics
    /// If it names no host; the policy's loader sees to that.
    pub(super) fn of(endpoint: &Uri) -> Self {
        let authority = endpoint
            .authority()
            .expect("an endpoint names a host")
            .clone();
        let port = authority.port_u16().unwrap_or(80);
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let address = match host.parse::<IpAddr>() {
            Ok(ip) => Address::Tcp(SocketAddr::new(ip, port)),
            Err(_) => Address::Name(host.into(), port),
        };
        Self {
            address,
            name: format!("http://{authority}").into(),
            scheme: Scheme::HTTP,
            authority,
        }
    }

    pub(super) async fn dial(&self) -> Result<AnySocket, String> {
        let failed = |error: std::io::Error| error.to_string();
        match &self.address {
            Address::Tcp(address) => {
                let socket = TcpStream::connect(address).await.map_err(failed)?;
                tune(&socket).map_err(failed)?;
                Ok(Box::new(socket))
            }
            Address::Name(host, _) => Err(format!("{host} is not looked up")),
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
