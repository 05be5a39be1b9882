//! A place in the queue of a request that stands in no window yet.
//!
//! Whoever lets requests wait for something else before they are submitted
//! would let them wait outside every bound. With a place they count as what
//! waits, in bytes and in time; the upstream has no work with them yet, so
//! nobody else is refused for how long they will take.

use std::{sync::Arc, time::Instant};

use super::{BatchError, Coalesce, Queue, ShedReason, service::Admitted, weight::Amount};

/// What [`Batcher::reserve`](super::Batcher::reserve) gives; it ends when it is
/// dropped, which is before its request is submitted.
pub struct Place<Req, C: Coalesce<Req>> {
    rules: Arc<C>,
    queue: Arc<Queue>,
    partition: C::Partition,
    kind: usize,
    entries: u32,
    amount: Amount,
    until: Instant,
}

impl<Req, C: Coalesce<Req>> Place<Req, C> {
    pub(super) fn new(
        rules: &Arc<C>,
        queue: &Arc<Queue>,
        admitted: Admitted<C::Partition>,
    ) -> Self {
        queue.came(admitted.kind, admitted.amount);
        Self {
            rules: Arc::clone(rules),
            queue: Arc::clone(queue),
            partition: admitted.partition,
            kind: admitted.kind,
            entries: admitted.weight.entries,
            amount: admitted.amount,
            until: admitted.arrival.at + admitted.arrival.max_wait,
        }
    }

    /// When its request will have waited for `max_wait`.
    #[must_use]
    pub const fn until(&self) -> Instant {
        self.until
    }

    /// It has: what its caller hears.
    #[must_use]
    pub fn overdue<E>(self) -> BatchError<E> {
        let reason = ShedReason::QueueWait;
        self.rules.shed(&self.partition, self.entries, reason);
        BatchError::Shed {
            reason,
            retry_after: self.queue.drain_time(),
        }
    }
}

impl<Req, C: Coalesce<Req>> Drop for Place<Req, C> {
    fn drop(&mut self) {
        self.queue.went(self.kind, self.amount);
    }
}

impl<Req, C: Coalesce<Req>> std::fmt::Debug for Place<Req, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place")
            .field("amount", &self.amount)
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}
