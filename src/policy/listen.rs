//! Where calls arrive, and where ferry tells of itself.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use super::{
    fault::{Found, Position},
    file::{AdminFile, ListenFile, ServerTlsFile},
    section::At,
};
use crate::transport::{Place, ServerFiles};

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1229);
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);

/// Where calls arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The socket.
    pub place: Place,
    /// The files of its TLS; without them it is spoken in the clear.
    pub tls: Option<ServerFiles>,
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self {
            place: Place::Tcp(address),
            tls: None,
        }
    }
}

impl Listen {
    /// Whether who calls `endpoint` calls here, as far as an address tells.
    pub(super) fn is_at(&self, endpoint: &str) -> bool {
        let address = match &self.place {
            Place::Unix(path) => {
                let socket = endpoint.strip_prefix("unix:");
                return socket.is_some_and(|socket| Path::new(socket) == path);
            }
            Place::Tcp(address) => *address,
        };
        let Ok(uri) = endpoint.parse::<http::Uri>() else {
            return false;
        };
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host: IpAddr = match host {
            "localhost" if address.is_ipv6() => Ipv6Addr::LOCALHOST.into(),
            "localhost" => Ipv4Addr::LOCALHOST.into(),
            host => match host.parse() {
                Ok(host) => host,
                Err(_) => return false,
            },
        };
        let all = address.ip().is_unspecified() && (host.is_loopback() || host.is_unspecified());
        uri.port_u16() == Some(address.port())
            && address.port() != 0
            && (host == address.ip() || all && (address.is_ipv6() || host.is_ipv4()))
    }
}

/// Whether two sockets cannot both be had: the same, or one of all addresses
/// beside one of them. All of IPv6 are those of IPv4 too.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let has = |all: SocketAddr, one: SocketAddr| {
        all.ip().is_unspecified() && (all.is_ipv6() || one.is_ipv4())
    };
    let same = one.ip() == other.ip() || has(one, other) || has(other, one);
    one.port() != 0 && one.port() == other.port() && same
}

impl fmt::Display for Listen {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(to)?;
        match &self.tls {
            None => Ok(()),
            Some(tls) if tls.client_ca.is_some() => to.write_str(" (TLS, clients too)"),
            Some(_) => to.write_str(" (TLS)"),
        }
    }
}

/// Every place, each once. Files are relative to the policy's `folder`.
pub(super) fn check(
    file: Option<Vec<ListenFile>>,
    folder: &Path,
    found: &mut Found,
) -> Vec<At<Listen>> {
    let Some(listed) = file else {
        let at = Position { line: 1, column: 1 };
        return vec![At {
            value: LISTEN.into(),
            at,
        }];
    };
    let mut listen: Vec<At<Listen>> = Vec::with_capacity(listed.len());
    for (i, one) in listed.into_iter().enumerate() {
        let path = format!("listen[{i}]");
        let Some(At { value: place, at }) = place(&one, &path, found) else {
            continue;
        };
        let key = match &place {
            Place::Tcp(_) => "address",
            Place::Unix(_) => "unix",
        };
        let mut places = listen.iter().map(|held| &held.value.place);
        let taken = places.find(|held| match (held, &place) {
            (Place::Tcp(held), Place::Tcp(address)) => overlap(*held, *address),
            _ => **held == place,
        });
        if let Some(held) = taken {
            let what = match *held == place {
                true => "stands twice; keep one of them".to_owned(),
                false => format!("overlaps {held}; keep one of them, or choose another port"),
            };
            found.add::<()>(at, format!("{path}.{key}: {place}: {what}"));
        }
        let tls = one.tls.map(|tls| files(tls, folder));
        listen.push(At {
            value: Listen { place, tls },
            at,
        });
    }
    listen
}

fn place(one: &ListenFile, path: &str, found: &mut Found) -> Option<At<Place>> {
    match (&one.address, &one.unix) {
        (Some(_), Some(unix)) => found.add(
            unix.at,
            format!("{path}.unix: stands beside {path}.address; keep one of them"),
        ),
        (Some(text), None) => Some(At {
            value: Place::Tcp(address(text, &format!("{path}.address"), found)?),
            at: text.at,
        }),
        (None, Some(text)) if text.value.is_empty() => found.add(
            text.at,
            format!("{path}.unix: is empty; name a path, such as /run/ferry.sock"),
        ),
        (None, Some(text)) => Some(At {
            value: Place::Unix(PathBuf::from(&text.value)),
            at: text.at,
        }),
        (None, None) => None,
    }
}

fn files(tls: ServerTlsFile, folder: &Path) -> ServerFiles {
    let file = |text: At<String>| folder.join(text.value);
    ServerFiles {
        cert: file(tls.cert),
        key: file(tls.key),
        client_ca: tls.client_ca.map(file),
    }
}

/// `None` where it is at fault, `Some(None)` where it is switched off.
pub(super) fn admin(
    file: Option<&At<AdminFile>>,
    listen: &[At<Listen>],
    found: &mut Found,
) -> Option<Option<SocketAddr>> {
    let Some(At { value, at }) = file else {
        return Some(Some(ADMIN));
    };
    let AdminFile::Address(text) = value else {
        return Some(None);
    };
    let text = At {
        value: text.clone(),
        at: *at,
    };
    let address = address(&text, "admin.address", found)?;
    let taken = |held: &At<Listen>| match held.value.place {
        Place::Tcp(held) => overlap(held, address),
        Place::Unix(_) => false,
    };
    if listen.iter().any(taken) {
        return found.add(
            *at,
            format!("admin.address: {address}: calls arrive there; choose another port"),
        );
    }
    Some(Some(address))
}

fn address(text: &At<String>, path: &str, found: &mut Found) -> Option<SocketAddr> {
    match text.value.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            let value = &text.value;
            found.add(
                text.at,
                format!("{path}: {value}: must be IP:port, such as 127.0.0.1:1229 or [::1]:1229"),
            )
        }
    }
}
