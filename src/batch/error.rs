//! What a caller may hear instead of its part of the batch's answer.

use std::time::Duration;

/// Why an entry was refused for load, before it was proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShedReason {
    /// The queue in front of the upstream holds its bound in bytes.
    QueueBytes,
    /// It would have waited (or has waited) longer than the queue's `max_wait`.
    QueueWait,
    /// It would not have been served before its deadline.
    Deadline,
}

impl ShedReason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::QueueBytes, Self::QueueWait, Self::Deadline];

    /// The reason as a metric's label says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueBytes => "queue_bytes",
            Self::QueueWait => "queue_wait",
            Self::Deadline => "deadline",
        }
    }
}

/// Why a request in a batch got no answer of its own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError<E> {
    /// Refused for load: never sent, safe to try again.
    #[error("shed before it was sent ({}): try again in {} ms", .reason.name(), .retry_after.as_millis())]
    Shed {
        /// What was full.
        reason: ShedReason,
        /// When the present backlog will have drained.
        retry_after: Duration,
    },
    /// The caller's deadline passed. If the batch had left by then, its
    /// effect is unknown.
    #[error("the deadline passed before the answer came")]
    DeadlineExceeded,
    /// The batch was sent and had no answer when its time was up: its effect
    /// is unknown.
    #[error("the batch was sent and not answered in time: whether it took effect is unknown")]
    TimedOut,
    /// The service has shut down: never sent.
    #[error("intake has ended: the request was never sent")]
    Closed,
    /// The batch was sent as a whole and failed as a whole.
    #[error("the batch failed: {0}")]
    Upstream(E),
    /// The upstream's answer does not fall into one part for each entry.
    #[error("the batch of {entries} was answered with {parts} parts")]
    Unsplittable {
        /// Entries that were sent.
        entries: usize,
        /// Parts that came back.
        parts: usize,
    },
    /// The batch was lost on its way (a panic below): its effect is unknown.
    #[error("the batch was lost: whether it took effect is unknown")]
    Unanswered,
}
