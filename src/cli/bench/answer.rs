//! What one call's answer says. It counts as success only if its `grpc-status`
//! is 0 *and* it brought a message: anything less is an error that a real
//! client would report. Pure.

use std::borrow::Cow;

use super::message::FRAME_HEADER;

/// The names of gRPC's status codes, by number.
const STATUS_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// How a call ended; the error is status and message.
pub(super) type Verdict = Result<(), Cow<'static, str>>;

/// The fields of a head or of trailers that matter.
#[derive(Debug, Default)]
pub(super) struct Fields {
    http_status: Option<Cow<'static, [u8]>>,
    grpc_status: Option<Cow<'static, [u8]>>,
    grpc_message: Option<Vec<u8>>,
}

/// What a head means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// There is none: these are trailers.
    Absent,
    /// Another head will follow.
    Interim,
    /// The message may follow.
    Begun,
    /// This is no answer to a gRPC call.
    Foreign(String),
}

impl Fields {
    /// Keeps a field if it matters.
    pub(super) fn note(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b":status" => self.http_status = Some(kept(value)),
            b"grpc-status" => self.grpc_status = Some(kept(value)),
            b"grpc-message" => self.grpc_message = Some(value.to_vec()),
            _ => {}
        }
    }

    /// What they mean as a head.
    pub(super) fn head(&self) -> Head {
        match self.http_status.as_deref() {
            None => Head::Absent,
            Some(b"200") => Head::Begun,
            Some([b'1', _, _]) => Head::Interim,
            Some(other) => Head::Foreign(format!("HTTP {}", String::from_utf8_lossy(other))),
        }
    }

    /// What they say at the end of a call that brought `received` bytes.
    pub(super) fn verdict(&self, received: usize) -> Verdict {
        match self.grpc_status.as_deref() {
            Some(b"0") if received >= FRAME_HEADER => Ok(()),
            Some(b"0") => Err("INTERNAL: status OK without a message".into()),
            None => Err("INTERNAL: the answer has no grpc-status".into()),
            Some(code) => Err(self.named(code).into()),
        }
    }

    fn named(&self, code: &[u8]) -> String {
        let code = String::from_utf8_lossy(code);
        let name = code
            .parse()
            .ok()
            .and_then(|code: usize| STATUS_NAMES.get(code).copied());
        let name = name.map_or_else(|| format!("status {code}"), str::to_owned);
        match &self.grpc_message {
            Some(message) => format!("{name}: {}", percent_decoded(message)),
            None => name,
        }
    }
}

/// The values of every successful answer cost no memory.
fn kept(value: &[u8]) -> Cow<'static, [u8]> {
    match value {
        b"0" => Cow::Borrowed(b"0"),
        b"200" => Cow::Borrowed(b"200"),
        other => Cow::Owned(other.to_vec()),
    }
}

/// gRPC sends a message's bytes outside of printable ASCII as `%XX`.
fn percent_decoded(message: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(message.len());
    let mut rest = message;
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() {
            &after[2..]
        } else {
            after
        };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(noted: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        noted
            .iter()
            .for_each(|(name, value)| fields.note(name.as_bytes(), value.as_bytes()));
        fields
    }

    #[test]
    fn only_status_0_with_a_message_is_success() {
        assert_eq!(
            fields(&[("grpc-status", "0")]).verdict(FRAME_HEADER),
            Ok(())
        );
        assert!(fields(&[("grpc-status", "0")]).verdict(0).is_err());
        assert!(fields(&[("x-status", "0")]).verdict(FRAME_HEADER).is_err());
    }

    #[test]
    fn an_error_is_told_by_name_and_decoded_message() {
        let told = |status, message| {
            fields(&[("grpc-status", status), ("grpc-message", message)])
                .verdict(0)
                .unwrap_err()
        };
        assert_eq!(
            told("8", "queue%20full: 5%25 %zz %"),
            "RESOURCE_EXHAUSTED: queue full: 5% %zz %"
        );
        assert_eq!(told("99", "?"), "status 99: ?");
        assert_eq!(
            fields(&[("grpc-status", "14")]).verdict(0).unwrap_err(),
            "UNAVAILABLE"
        );
    }

    #[test]
    fn a_head_is_told_from_trailers_and_from_other_protocols() {
        assert_eq!(fields(&[("grpc-status", "0")]).head(), Head::Absent);
        assert_eq!(fields(&[(":status", "200")]).head(), Head::Begun);
        assert_eq!(fields(&[(":status", "103")]).head(), Head::Interim);
        assert_eq!(
            fields(&[(":status", "503")]).head(),
            Head::Foreign("HTTP 503".into())
        );
    }
}
