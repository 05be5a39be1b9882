//! Where calls arrive, and where ferry tells of itself.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
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
        let fixed = !matches!(&place, Place::Tcp(address) if address.port() == 0);
        if fixed && listen.iter().any(|held| held.value.place == place) {
            let key = match &place {
                Place::Tcp(_) => "address",
                Place::Unix(_) => "unix",
            };
            found.add::<()>(
                at,
                format!("{path}.{key}: {place}: stands twice; keep one of them"),
            );
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
    let taken = Place::Tcp(address);
    if address.port() != 0 && listen.iter().any(|held| held.value.place == taken) {
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
