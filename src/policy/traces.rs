//! `telemetry.traces`: where spans go, and how ferry proves who it is there.
//!
//! What must not be seen (a header with a token) stands in a file of its own.
//! Those files are watched like the policy, so a token that is renewed is used
//! without a restart; and a token goes nowhere in the clear but to this machine.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use http::{HeaderName, HeaderValue, Uri};

use super::{
    client_tls,
    fault::Found,
    keys::TRACES,
    secret::Secret,
    section::{At, Section},
    telemetry::one_in,
};
use crate::transport::ClientFiles;

/// Shown where none is given or one is wrong.
const EXAMPLE: &str = "https://collector.example:4317";

/// A collector that takes OTLP over gRPC, and what it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracesTo {
    /// `http://host:port` or `https://host:port`.
    pub endpoint: Uri,
    /// What proves the collector, and ferry to it.
    pub tls: ClientFiles,
    /// Sent with every request.
    pub headers: Vec<SecretHeader>,
    /// One batch in so many has a span although no caller's is recorded;
    /// `None` is no such batch.
    pub one_in: Option<NonZeroU32>,
}

/// A header whose value is a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretHeader {
    /// Its name, in lower case.
    pub name: String,
    /// Where its value was read.
    pub file: PathBuf,
    /// What it was.
    pub value: Secret,
}

impl TracesTo {
    /// Whether it goes inside TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.endpoint.scheme_str() == Some("https")
    }
}

/// The section in `telemetry`, if it has one.
pub(super) fn read(telemetry: &Section<'_>, folder: &Path, found: &mut Found) -> Option<TracesTo> {
    let traces = telemetry.section("traces", &TRACES, found)?;
    let one_in = one_in(&traces, "one_in", found);
    let tls = client_tls::check(client_tls::read(&traces, found), folder, found);
    let headers = headers(&traces, folder, found);
    traces.require("endpoint", &format!("write endpoint: {EXAMPLE}"), found)?;
    let told = traces.text("endpoint", found)?;
    let path = traces.path_of("endpoint");
    let Some(endpoint) = collector(&told.value) else {
        let what = "must be http://host:port or https://host:port of a collector that takes OTLP \
                    over gRPC";
        return found.add(told.at, format!("{path}: {}: {what}", told.value));
    };
    let to = TracesTo {
        endpoint,
        tls,
        headers,
        one_in,
    };
    if to.is_secure() {
        return Some(to);
    }
    let in_clear = |key: &str, remedy: &str, found: &mut Found| {
        if let Some(node) = traces.node(key) {
            let what = format!("has no place beside {}; {remedy}", told.value);
            found.add::<()>(node.at, format!("{}: {what}", traces.path_of(key)));
        }
    };
    in_clear("tls", "write https://, or leave it out", found);
    if !is_this_machine(&to.endpoint) {
        let remedy = "it would be sent unencrypted: write https://";
        in_clear("header_files", remedy, found);
    }
    Some(to)
}

fn collector(told: &str) -> Option<Uri> {
    let uri = told.parse::<Uri>().ok()?;
    let plain = uri.path() == "/" && uri.query().is_none() && !told.contains('@');
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    (plain && known && uri.port_u16().is_some_and(|port| port > 0)).then_some(uri)
}

fn is_this_machine(endpoint: &Uri) -> bool {
    let host = endpoint.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let address = address.parse().map(|ip: IpAddr| ip.is_loopback());
    host == "localhost" || address.unwrap_or(false)
}

fn headers(traces: &Section<'_>, folder: &Path, found: &mut Found) -> Vec<SecretHeader> {
    let pairs = traces.pairs("header_files", found).unwrap_or_default();
    let pairs = pairs.into_iter();
    pairs
        .filter_map(|(name, file)| header(traces, &name, &file, folder, found))
        .collect()
}

fn header(
    traces: &Section<'_>,
    name: &At<String>,
    file: &At<String>,
    folder: &Path,
    found: &mut Found,
) -> Option<SecretHeader> {
    let path = format!("{}.{}", traces.path_of("header_files"), name.value);
    let lower = name.value.to_ascii_lowercase();
    let own = ["grpc-", ":"].iter().any(|own| lower.starts_with(own)) || lower.ends_with("-bin");
    let known = ["te", "content-type", "user-agent", "host"].contains(&&*lower);
    if own || known || lower.parse::<HeaderName>().is_err() {
        let what = "must be a header of your own with text in it, such as authorization";
        return found.add(name.at, format!("{path}: {what}"));
    }
    let value = Secret::line(file, folder, &path, found)?;
    if HeaderValue::from_bytes(value.reveal()).is_err() {
        let what = "must hold one line of visible characters";
        return found.add(file.at, format!("{path}: {}: {what}", file.value));
    }
    Some(SecretHeader {
        name: lower,
        file: folder.join(&file.value),
        value,
    })
}

/// In words, for `ferry check`; of secrets the names alone.
pub(super) fn describe(traces: Option<&TracesTo>) -> String {
    let Some(to) = traces else {
        return "no traces".to_owned();
    };
    let endpoint = to.endpoint.to_string();
    let endpoint = endpoint.trim_end_matches('/');
    let more = match to.one_in {
        None => String::new(),
        Some(batches) => format!(", and of one in {batches}"),
    };
    let names: Vec<_> = to.headers.iter().map(|header| &*header.name).collect();
    let headers = match names.is_empty() {
        true => String::new(),
        false => format!(", with {} from files", names.join(", ")),
    };
    format!("spans to {endpoint} of batches with a traced caller{more}{headers}")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::policy::Policy;

    /// A policy with this section in a folder that has a token's file.
    fn load(traces: &str) -> Result<Policy, String> {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("token"), "Bearer hush-hush\n").unwrap();
        fs::write(home.path().join("two-lines"), "one\ntwo\n").unwrap();
        fs::write(home.path().join("empty"), "\n").unwrap();
        let yaml = format!(
            "version: 1\nupstream: {{embedded: {{}}}}\nmethods: []\ntelemetry: {{traces: {traces}}}\n"
        );
        let policy = Policy::load(&yaml, &home.path().join("policy.yaml"));
        policy.map_err(|faults| faults.to_string())
    }

    #[test]
    fn a_headers_secret_is_read_watched_and_shown_nowhere() {
        let policy = load(
            "{endpoint: 'https://a:4317', header_files: {Authorization: token}, one_in: 10, \
             tls: {ca: ca.pem}}",
        );
        let policy = policy.unwrap();
        let to = policy.telemetry.traces.as_ref().unwrap();
        assert!(to.is_secure());
        assert_eq!(to.headers[0].value.reveal(), b"Bearer hush-hush");
        assert_eq!(
            describe(Some(to)),
            "spans to https://a:4317 of batches with a traced caller, and of one in 10, with \
             authorization from files"
        );
        assert!(!format!("{policy:?}").contains("hush-hush"));
        assert_eq!(policy.files.len(), 1, "the token's file is watched");
    }

    #[test]
    fn a_fault_in_traces_is_told_with_its_key_and_remedy() {
        let https = "endpoint: 'https://a:4317'";
        for (section, told) in [
            ("{one_in: 10}".to_owned(), "traces.endpoint: is missing"),
            (
                "{endpoint: 'localhost:4317'}".to_owned(),
                "must be http://host:port or https://host:port",
            ),
            (
                "{endpoint: 'http://a:4317/v1/traces'}".to_owned(),
                "over gRPC",
            ),
            (
                "{endpoint: 'http://a:4317', tls: {ca: x}}".to_owned(),
                "traces.tls: has no place beside http://a:4317",
            ),
            (
                "{endpoint: 'http://a:4317', header_files: {authorization: token}}".to_owned(),
                "it would be sent unencrypted: write https://",
            ),
            (
                format!("{{{https}, header_files: {{grpc-timeout: token}}}}"),
                "header_files.grpc-timeout: must be a header of your own",
            ),
            (
                format!("{{{https}, header_files: {{authorization: nowhere}}}}"),
                "header_files.authorization: nowhere: cannot be read",
            ),
            (
                format!("{{{https}, header_files: {{authorization: two-lines}}}}"),
                "two-lines: must hold one line",
            ),
            (
                format!("{{{https}, header_files: {{authorization: empty}}}}"),
                "empty: 0 characters",
            ),
            (
                format!("{{{https}, tls: {{cert: x}}}}"),
                "telemetry.traces.tls.key",
            ),
        ] {
            let faults = load(&section).unwrap_err();
            assert!(faults.contains(told), "{section}: {faults}");
            assert!(!faults.contains("hush-hush"), "{faults}");
        }
        let near = "{endpoint: 'http://127.0.0.1:4317', header_files: {authorization: token}}";
        assert!(load(near).is_ok(), "it does not leave this machine");
    }
}
