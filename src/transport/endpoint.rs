//! Where an upstream is, as its policy names it.

use std::{fmt, path::PathBuf};

use http::{Uri, uri::Scheme};

/// One of an upstream's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `http://HOST:PORT`, or `https://HOST:PORT` for TLS.
    Url(Uri),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// Whether calls to it go inside TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        matches!(self, Self::Url(uri) if uri.scheme() == Some(&Scheme::HTTPS))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(uri) => {
                let scheme = uri.scheme_str().unwrap_or("http");
                let authority = uri.authority().map_or("", |authority| authority.as_str());
                write!(to, "{scheme}://{authority}")
            }
            Self::Unix(path) => write!(to, "unix:{}", path.display()),
        }
    }
}
