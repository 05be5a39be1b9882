//! The files of TLS that a policy names, looked at before anybody calls.
//!
//! Not a part of loading: certificates change while ferry runs, and a policy
//! that is read again in the midst of that is no worse for it.

use std::path::Path;

use super::{fault::Fault, rules::Policy, rules::Upstream};
use crate::transport::TlsError;

impl Policy {
    /// Every place of the policy whose TLS could not be spoken with the files
    /// as they are now.
    #[must_use]
    pub fn tls_faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (i, listen) in self.listen.iter().enumerate() {
            let Some(files) = &listen.tls else { continue };
            let key_of = |path: &Path| match path {
                path if path == files.cert => "cert",
                path if path == files.key => "key",
                _ => "client_ca",
            };
            let checked = files.check();
            faults.extend(told(&format!("listen[{i}].tls"), key_of, checked));
        }
        let upstream = match &self.upstream {
            Upstream::Remote { tls, .. } => Some(("upstream.tls", tls)),
            Upstream::Embedded { .. } => None,
        };
        let traces = self.telemetry.traces.as_ref();
        let traces = traces.map(|traces| ("telemetry.traces.tls", &traces.tls));
        for (section, files) in upstream.into_iter().chain(traces) {
            let key_of = |path: &Path| match &files.identity {
                Some((cert, _)) if path == cert => "cert",
                Some((_, key)) if path == key => "key",
                _ => "ca",
            };
            faults.extend(told(section, key_of, files.check()));
        }
        faults
    }
}

fn told<'a>(
    section: &str,
    key_of: impl Fn(&Path) -> &'a str,
    checked: Result<(), TlsError>,
) -> Option<Fault> {
    let error = checked.err()?;
    let key = match &error {
        TlsError::File { path, .. } => key_of(path),
        TlsError::Pair { .. } => "cert",
    };
    let what = error.to_string();
    let what = what.strip_prefix("tls: ").unwrap_or(&what);
    Some(Fault {
        at: None,
        what: format!("{section}.{key}: {what}"),
    })
}
