//! Where a batch goes: the Raft group in this process, or a service elsewhere.

mod again;
mod balance;
mod barrier;
mod client;
mod dial;
mod direct;
mod embedded;
mod exchange;
mod fault;
mod grpc;
mod leader;
mod leave;
mod line;
mod link;
mod noted;
mod pool;
mod reply;
#[cfg(test)]
mod stub;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, uri::Authority};
use tonic::{Code, Status};

pub use again::{Again, AgainLayer};
pub use barrier::{BarrierRule, Barriers, Before, Turn};
pub use client::RemoteClient;
pub use direct::Direct;
pub use embedded::Embedded;
pub use exchange::Receiving;
pub use grpc::Remote;
pub use leader::Led;
pub use noted::{Noted, NotedAnswer, NotedLayer};
pub use reply::BatchReply;

use crate::{
    limit::{Classify, Outcome},
    telemetry::Note,
    wire::{Piece, Plan},
};

/// One call as it stands in a window: bytes, not a decoded message.
#[derive(Clone, Debug)]
pub struct Call {
    /// The index of its method in the policy.
    pub method: usize,
    /// The Raft group that all of its entries belong to; 0 where there are no groups.
    pub group: u32,
    /// Its message, scanned.
    pub piece: Piece,
    /// The metadata that stands for its caller, the same for the whole
    /// partition; `None` if it has none.
    pub identity: Option<Arc<Identity>>,
    /// To whom it is addressed, the same for the whole partition; `None` where
    /// the upstream is not told.
    pub authority: Option<Authority>,
    /// When its caller stops waiting.
    pub deadline: Option<Instant>,
    /// What somebody wants to know of it, if anybody does.
    pub note: Option<Arc<Note>>,
    /// Its place among calls on its keys, where others wait for it.
    pub turn: Option<Turn>,
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
    /// The identity that these headers make, of a caller whose certificate
    /// has this digest; empty without one.
    #[must_use]
    pub fn new(headers: HeaderMap, certificate: &[u8]) -> Self {
        let mut names: Vec<_> = headers.keys().collect();
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        let mut key = Vec::new();
        let mut part = |bytes: &[u8]| {
            key.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            key.extend_from_slice(bytes);
        };
        // No header's name is empty, so none can pass for a certificate.
        part(b"");
        part(certificate);
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
    /// Most bytes of a batch's reply.
    pub max_reply_bytes: usize,
    /// How long an answer is waited for before the batch is sent again, if it is.
    pub attempt_timeout: Option<Duration>,
}

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

/// A batch's answer, if it came in its `timeout`. Its callers have been told by
/// then, but a call that is dropped at its deadline frees a place at an
/// upstream that is still at work; so an answer is awaited as long again.
async fn late<T>(
    timeout: Duration,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let sent = tokio::time::Instant::now();
    let answered = tokio::time::timeout(timeout * 2, answer).await;
    match answered {
        Ok(answer) if sent.elapsed() <= timeout => answer,
        Ok(Err(status)) => Err(status),
        Ok(Ok(_)) | Err(_) => Err(unanswered()),
    }
}

fn unanswered() -> Status {
    Status::deadline_exceeded(
        "the batch was sent and not answered in time: whether it took effect is unknown",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_is_awaited_as_long_again_and_counts_as_none() {
        let second = Duration::from_secs(1);
        let after = async |wait: u32| {
            let started = tokio::time::Instant::now();
            let answer = async {
                tokio::time::sleep(second * wait / 10).await;
                Ok(())
            };
            let code = late(second, answer).await.map_err(|status| status.code());
            (code, started.elapsed())
        };
        assert_eq!(after(9).await, (Ok(()), second * 9 / 10));
        let none = Err(Code::DeadlineExceeded);
        assert_eq!(after(15).await, (none, second * 15 / 10));
        assert_eq!(after(100).await, (none, second * 2));
    }

    fn identity(pairs: &[(&'static str, &'static str)]) -> Bytes {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().expect("a header value"));
        }
        Identity::new(headers, b"").key
    }

    #[test]
    fn equal_credentials_are_one_identity_in_any_order_of_keys() {
        assert_eq!(
            identity(&[("token", "t"), ("authorization", "a")]),
            identity(&[("authorization", "a"), ("token", "t")])
        );
    }

    #[test]
    fn callers_of_different_certificates_are_never_one_identity() {
        let of = |certificate| Identity::new(HeaderMap::new(), certificate).key;
        assert_eq!(of(b"a"), of(b"a"));
        assert_ne!(of(b"a"), of(b"b"));
        assert_ne!(of(b"a"), of(b""));
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
