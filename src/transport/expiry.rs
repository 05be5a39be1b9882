//! Whether a certificate that is shown to others has run out, or is not valid
//! yet. rustls asks that of other people's certificates only.

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

/// Says so where the certificate that is shown to others, the first of `chain`,
/// has run out or is not valid yet. It is used all the same: what becomes of it
/// is for them to say, and the clock of this machine may be wrong.
pub(super) fn warn_of_time(path: &Path, chain: &[CertificateDer<'static>]) {
    if let Some(why) = chain
        .first()
        .and_then(|leaf| out_of_time(leaf, UnixTime::now()))
    {
        tracing::warn!("tls: {}: {why}; write a new one", path.display());
    }
}

/// Why others will not take a certificate `now`, if its time is the reason.
fn out_of_time(leaf: &CertificateDer<'static>, now: UnixTime) -> Option<String> {
    // Whoever verifies looks at the time first, before asking who signed it.
    let mut roots = RootCertStore::empty();
    roots.add(leaf.clone()).ok()?;
    let verifier = WebPkiServerVerifier::builder(Arc::new(roots))
        .build()
        .ok()?;
    let anyone = ServerName::try_from("localhost").ok()?;
    let verified = verifier.verify_server_cert(leaf, &[], &anyone, &[], now);
    let rustls::Error::InvalidCertificate(error) = verified.err()? else {
        return None;
    };
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    match error {
        Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. } => {
            Some(error.to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_certificate_that_has_run_out_or_is_not_valid_yet_is_known_by_its_time() {
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]);
        let mut params = params.expect("a DNS name");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let key = rcgen::KeyPair::generate().expect("randomness");
        let leaf = params.self_signed(&key).expect("it signs itself");
        let at = |years: u64| {
            let since = Duration::from_secs((years - 1970) * 365 * 24 * 3_600);
            out_of_time(leaf.der(), UnixTime::since_unix_epoch(since))
        };
        let early = at(2010).expect("its time has not come");
        assert!(early.contains("not valid yet"), "{early}");
        let late = at(2030).expect("its time is over");
        assert!(late.contains("expired"), "{late}");
        // Half a year in, whoever has signed it.
        let during = UnixTime::since_unix_epoch(Duration::from_secs(1_593_600_000));
        assert_eq!(out_of_time(leaf.der(), during), None);
    }
}
