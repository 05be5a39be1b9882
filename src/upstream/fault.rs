//! What a call is told whose upstream failed it: the status that gRPC gives to
//! each end of an HTTP/2 stream.
//!
//! Clients retry UNAVAILABLE, so it is said only where the upstream certainly
//! did no work: there was no connection, or the upstream itself says that it
//! did not take the call. A connection that is lost under a call proves
//! nothing, so that call ends UNKNOWN.

use h2::Reason;
use tonic::{Code, Status};

/// Why a call has no answer, or no more of it.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) status: Status,
    /// The upstream did not begin to work on it: to send it again is safe.
    pub(super) untaken: bool,
}

impl Fault {
    /// No connection could be had.
    pub(super) fn unreachable(upstream: &str, cause: &str) -> Self {
        Self {
            status: Status::unavailable(format!("upstream {upstream} cannot be reached: {cause}")),
            untaken: true,
        }
    }

    /// The call's time was up before it was sent.
    pub(super) fn late(when: &str) -> Self {
        Self {
            status: Status::deadline_exceeded(format!(
                "the call's time was up {when}: it was not sent"
            )),
            untaken: false,
        }
    }

    /// The call was sent.
    pub(super) fn of(upstream: &str, error: &h2::Error) -> Self {
        if error.is_remote() && error.is_go_away() {
            // Told only to the calls that the upstream left untouched.
            return Self {
                status: Status::unavailable(format!(
                    "upstream {upstream} is going away and did not take the call"
                )),
                untaken: true,
            };
        }
        let (code, what) = match error.reason() {
            Some(reason) if error.is_reset() && error.is_remote() => {
                (of_reset(reason), "reset the call")
            }
            Some(_) => (Code::Internal, "broke HTTP/2"),
            None => (
                Code::Unknown,
                "was lost after the call was sent, which may have taken effect",
            ),
        };
        Self {
            status: Status::new(code, format!("upstream {upstream} {what}: {error}")),
            untaken: error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM),
        }
    }
}

/// The table of gRPC over HTTP/2 for a stream that the other side reset.
fn of_reset(reason: Reason) -> Code {
    match reason {
        Reason::REFUSED_STREAM => Code::Unavailable,
        Reason::CANCEL => Code::Cancelled,
        Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        Reason::STREAM_CLOSED | Reason::HTTP_1_1_REQUIRED => Code::Unknown,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reset_has_the_code_that_grpc_gives_it() {
        for (reason, code) in [
            (Reason::NO_ERROR, Code::Internal),
            (Reason::PROTOCOL_ERROR, Code::Internal),
            (Reason::INTERNAL_ERROR, Code::Internal),
            (Reason::FLOW_CONTROL_ERROR, Code::Internal),
            (Reason::SETTINGS_TIMEOUT, Code::Internal),
            (Reason::FRAME_SIZE_ERROR, Code::Internal),
            (Reason::REFUSED_STREAM, Code::Unavailable),
            (Reason::CANCEL, Code::Cancelled),
            (Reason::COMPRESSION_ERROR, Code::Internal),
            (Reason::CONNECT_ERROR, Code::Internal),
            (Reason::ENHANCE_YOUR_CALM, Code::ResourceExhausted),
            (Reason::INADEQUATE_SECURITY, Code::PermissionDenied),
        ] {
            assert_eq!(of_reset(reason), code, "{reason:?}");
        }
    }

    #[test]
    fn what_the_upstream_may_have_done_is_never_unavailable() {
        for reason in (0..=13).map(Reason::from) {
            let unavailable = of_reset(reason) == Code::Unavailable;
            assert_eq!(unavailable, reason == Reason::REFUSED_STREAM, "{reason:?}");
        }
    }
}
