//! Where a batch goes: the Raft group in this process, or a service elsewhere.

mod direct;
mod embedded;
mod grpc;

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::HeaderMap;
use tonic::{Code, Status};

pub use direct::Direct;
pub use embedded::Embedded;
pub use grpc::{Remote, RemoteClient};

use crate::{
    batch::Replicate,
    limit::{Classify, Outcome},
    wire::{Piece, Plan},
};

/// One call as it stands in a window: bytes, not a decoded message.
#[derive(Clone, Debug)]
pub struct Call {
    /// The index of its method in the policy.
    pub method: usize,
    /// Its message, scanned.
    pub piece: Piece,
    /// The metadata that stands for its caller, the same for the whole
    /// partition; `None` if it has none.
    pub identity: Option<Arc<Identity>>,
    /// When its caller stops waiting.
    pub deadline: Option<Instant>,
}

/// The metadata that stands for a caller.
#[derive(Debug)]
pub struct Identity {
    /// What the upstream is sent.
    pub headers: HeaderMap,
    /// The same as canonical bytes: equal exactly where the metadata is, in
    /// whatever order its keys came.
    pub key: Bytes,
}

impl Identity {
    /// The identity that these headers make.
    #[must_use]
    pub fn new(headers: HeaderMap) -> Self {
        let mut names: Vec<_> = headers.keys().collect();
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        let mut key = Vec::new();
        let mut part = |bytes: &[u8]| {
            key.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            key.extend_from_slice(bytes);
        };
        for name in names {
            for value in headers.get_all(name) {
                part(name.as_str().as_bytes());
                part(value.as_bytes());
            }
        }
        Self {
            key: key.into(),
            headers,
        }
    }
}

/// How one method's batches are made and named upstream.
#[derive(Clone, Debug)]
pub struct Target {
    /// The method's path, `/package.Service/Method`.
    pub path: String,
    /// How its messages merge.
    pub plan: Arc<Plan>,
}

/// The reply's message, for every caller of the batch.
pub type BatchReply = Replicate<Bytes>;

/// Reads a gRPC status as the limiter has to understand it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByStatus;

impl<R> Classify<R, Status> for ByStatus {
    fn classify(&self, result: &Result<R, Status>) -> Outcome {
        match result.as_ref().map_err(Status::code) {
            Ok(_) => Outcome::Success,
            Err(Code::ResourceExhausted) => Outcome::Exhausted,
            Err(Code::DeadlineExceeded) => Outcome::TimedOut,
            Err(Code::Unavailable) => Outcome::Unavailable,
            Err(_) => Outcome::Failed,
        }
    }
}

/// When a batch ends: with the last of its callers, and never later than the
/// upstream's own bound, also where a caller would wait for ever.
fn batch_deadline(callers: Option<Instant>, bound: std::time::Duration) -> tokio::time::Instant {
    let bound = tokio::time::Instant::now() + bound;
    callers.map_or(bound, |callers| bound.min(callers.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(pairs: &[(&'static str, &'static str)]) -> Bytes {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a header value"));
        }
        Identity::new(headers).key
    }

    #[test]
    fn equal_credentials_are_one_identity_in_any_order_of_keys() {
        assert_eq!(
            identity(&[("token", "t"), ("authorization", "a")]),
            identity(&[("authorization", "a"), ("token", "t")])
        );
    }

    #[test]
    fn different_credentials_are_never_one_identity() {
        let one = identity(&[("token", "ab")]);
        for other in [
            identity(&[("token", "a")]),
            identity(&[("token", "a"), ("token", "b")]),
            identity(&[("tokena", "b")]),
            identity(&[("authorization", "ab")]),
            identity(&[]),
        ] {
            assert_ne!(one, other);
        }
    }
}
