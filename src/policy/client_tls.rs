//! The `tls` section of whatever ferry calls: an upstream, a collector.

use std::path::Path;

use rustls::pki_types::ServerName;

use super::{
    fault::{Found, Position},
    keys::CLIENT_TLS,
    section::{At, Section},
};
use crate::transport::ClientFiles;

/// The section as it stands in the file.
#[derive(Debug, Default)]
pub(super) struct ClientTlsFile {
    path: String,
    /// Where it stands, if it does.
    pub(super) at: Option<Position>,
    ca: Option<At<String>>,
    cert: Option<At<String>>,
    key: Option<At<String>>,
    server_name: Option<At<String>>,
}

/// The section `tls` of `of`, or nothing told.
pub(super) fn read(of: &Section<'_>, found: &mut Found) -> ClientTlsFile {
    let Some(tls) = of.section("tls", &CLIENT_TLS, found) else {
        return ClientTlsFile::default();
    };
    for (key, beside) in [("cert", "key"), ("key", "cert")] {
        if tls.node(key).is_some() {
            tls.require(
                beside,
                "a certificate and its key are named together",
                found,
            );
        }
    }
    ClientTlsFile {
        ca: tls.text("ca", found),
        cert: tls.text("cert", found),
        key: tls.text("key", found),
        server_name: tls.text("server_name", found),
        at: Some(tls.at),
        path: tls.path,
    }
}

/// Files are relative to the policy's folder.
pub(super) fn check(file: ClientTlsFile, folder: &Path, found: &mut Found) -> ClientFiles {
    let path = |text: At<String>| folder.join(text.value);
    if let Some(name) = &file.server_name
        && ServerName::try_from(name.value.as_str()).is_err()
    {
        let what = "must be a DNS name or an IP address";
        found.add::<()>(
            name.at,
            format!("{}.server_name: {}: {what}", file.path, name.value),
        );
    }
    ClientFiles {
        ca: file.ca.map(path),
        identity: file.cert.map(path).zip(file.key.map(path)),
        server_name: file.server_name.map(|name| name.value),
    }
}
