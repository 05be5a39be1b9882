//! The one table: what went wrong → the gRPC status that a caller gets.

use std::time::Duration;

use tonic::{Code, Status, metadata::MetadataValue};

use super::{frame::FrameError, inflate::InflateError};
use crate::{batch::BatchError, wire::ScanError};

/// The trailer that tells a client when to try again, in milliseconds.
pub const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// How a shed call is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShedAnswer {
    /// RESOURCE_EXHAUSTED, or UNAVAILABLE for clients that retry only that.
    pub code: Code,
    /// Whether to say when to try again.
    pub pushback: bool,
}

/// A call whose body is not one message. gRPC: a server that finds a wrong
/// number of messages answers UNIMPLEMENTED; a broken frame is INTERNAL.
#[must_use]
pub fn of_frame(error: FrameError) -> Status {
    let code = match error {
        FrameError::NoMessage | FrameError::MoreThanOne(_) => Code::Unimplemented,
        FrameError::Truncated { .. } | FrameError::Flag(_) => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// A message that can be no entry of any batch.
#[must_use]
pub fn of_scan(error: &ScanError) -> Status {
    Status::new(Code::InvalidArgument, error.to_string())
}

/// A compressed message that is not read.
#[must_use]
pub fn of_inflate(error: &InflateError) -> Status {
    let code = match error {
        InflateError::TooLarge { .. } => Code::ResourceExhausted,
        InflateError::Broken { .. } => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// A message longer than the method takes.
#[must_use]
pub fn too_large(bytes: usize, bound: usize) -> Status {
    Status::new(
        Code::ResourceExhausted,
        format!(
            "message of at least {bytes} bytes: at most {bound} are taken; \
             send less, or raise max_message_bytes in the policy"
        ),
    )
}

/// A message that did not come whole while its caller, or ferry, had patience.
#[must_use]
pub fn slow() -> Status {
    let what = "the message did not come whole in its time; send it sooner, or raise the \
                deadline, or guards.message_timeout in the policy";
    Status::new(Code::DeadlineExceeded, what)
}

/// A message of which half is here, from a client that keeps too many of those.
#[must_use]
pub fn crowded() -> Status {
    let what = "too many half messages are here, and more than its share of them from this \
                connection; finish one before the next, or raise guards.max_unfinished_bytes in \
                the policy";
    Status::new(Code::ResourceExhausted, what)
}

/// An entry that got no answer of its own.
///
/// `spread` in 0..1 places this caller within the pushback's jitter, so that
/// a refusal told to many at once does not bring all of them back at once.
#[must_use]
pub fn of_batch(error: BatchError<Status>, shed: ShedAnswer, spread: f64) -> Status {
    match error {
        BatchError::Upstream(status) => status,
        BatchError::DeadlineExceeded | BatchError::TimedOut => {
            Status::new(Code::DeadlineExceeded, error.to_string())
        }
        BatchError::Closed => Status::new(Code::Unavailable, error.to_string()),
        BatchError::Unsplittable { .. } => Status::new(Code::Internal, error.to_string()),
        BatchError::Unanswered => Status::new(Code::Unknown, error.to_string()),
        BatchError::Shed { retry_after, .. } => {
            let mut status = Status::new(shed.code, error.to_string());
            if shed.pushback {
                let pushback = pushback_ms(retry_after, spread);
                status
                    .metadata_mut()
                    .insert(PUSHBACK, MetadataValue::from(pushback));
            }
            status
        }
    }
}

/// Whether the upstream's status says that nothing took effect.
pub(super) fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied
    )
}

/// The backlog's drain time × U(0.5, 1.5), at least a millisecond.
fn pushback_ms(drain: Duration, spread: f64) -> u64 {
    let jittered = drain.mul_f64(0.5 + spread.clamp(0.0, 1.0));
    u64::try_from(jittered.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::ShedReason::{self, Deadline, QueueBytes, QueueWait};

    const SHED: ShedAnswer = ShedAnswer {
        code: Code::ResourceExhausted,
        pushback: true,
    };

    fn shed(reason: ShedReason, retry_after: Duration) -> BatchError<Status> {
        BatchError::Shed {
            reason,
            retry_after,
        }
    }

    #[test]
    fn pushback_is_jittered_per_caller() {
        let told = |spread| {
            let status = of_batch(shed(QueueWait, Duration::from_millis(100)), SHED, spread);
            let pushback = status.metadata().get(PUSHBACK).expect("it was asked for");
            pushback.to_str().expect("a number").to_owned()
        };
        assert_eq!(told(0.0), "50");
        assert_eq!(told(0.5), "100");
        assert_eq!(told(1.0), "150");
    }

    #[test]
    fn whatever_the_reason_for_shedding_the_policys_status_is_told_with_a_pushback() {
        for reason in [QueueBytes, QueueWait, Deadline] {
            // Even where the backlog is nearly gone, not at once.
            let status = of_batch(shed(reason, Duration::ZERO), SHED, 0.5);
            assert_eq!(status.code(), Code::ResourceExhausted, "{reason:?}");
            let pushback = status.metadata().get(PUSHBACK).expect("it was asked for");
            assert_eq!(pushback.to_str().expect("a number"), "1", "{reason:?}");
        }
    }

    #[test]
    fn a_policy_can_shed_with_unavailable_and_without_pushback() {
        let quiet = ShedAnswer {
            code: Code::Unavailable,
            pushback: false,
        };
        let status = of_batch(shed(QueueBytes, Duration::from_millis(100)), quiet, 0.5);
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.metadata().get(PUSHBACK).is_none());
    }

    #[test]
    fn a_failed_batch_gives_each_caller_code_message_and_details() {
        let upstream = Status::with_details(Code::Aborted, "why", bytes::Bytes::from_static(b"d"));
        let status = of_batch(BatchError::Upstream(upstream), SHED, 0.5);
        assert_eq!(
            (status.code(), status.message(), status.details()),
            (Code::Aborted, "why", &b"d"[..])
        );
    }
}
