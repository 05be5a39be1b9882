//! Wakes the worker when an arrival matters, and only then.
//!
//! While batches are in flight most arrivals change nothing: they will leave
//! with the next permit or when their window is full. Waking the worker for
//! each of them (what a channel's own `recv` does) cost more than the rest of
//! the batching together, since the worker mostly sleeps on another thread.
//! So the worker says how many arrivals it can sleep through.
//!
//! An arrival is counted before it is sent and rung for after that. Counted
//! only afterwards, it could be taken before it is counted, by a caller whose
//! thread lost its turn in between: the worker would then wait for one more
//! arrival than there is to come, and sleep through the next one.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Rung by callers, heard by the worker.
#[derive(Debug, Default)]
pub(super) struct Bell {
    /// Entries that arrived since the start, by weight.
    arrived: AtomicU64,
    /// The arrival that wakes the worker.
    wake_at: AtomicU64,
    notify: Notify,
}

impl Bell {
    /// Entries are about to be sent; how many that makes since the start.
    pub(super) fn count(&self, entries: u32) -> u64 {
        // SeqCst, here and below: of this addition and the worker's store one
        // comes first, and whoever comes second sees the other's.
        let entries = u64::from(entries);
        self.arrived.fetch_add(entries, Ordering::SeqCst) + entries
    }

    /// Entries stand in the channel that made it `arrived` since the start.
    pub(super) fn sent(&self, arrived: u64, urgent: bool) {
        if urgent || arrived >= self.wake_at.load(Ordering::SeqCst) {
            self.notify.notify_one();
        }
    }

    /// Wakes the worker whatever it waits for.
    pub(super) fn ring(&self) {
        self.notify.notify_one();
    }

    /// Sleeps until the arrivals since the start reach `wake_at` (`None`:
    /// until rung for another reason). May return early.
    pub(super) async fn heard(&self, wake_at: Option<u64>) {
        let wake_at = wake_at.unwrap_or(u64::MAX);
        self.wake_at.store(wake_at, Ordering::SeqCst);
        if self.arrived.load(Ordering::SeqCst) < wake_at {
            self.notify.notified().await;
        } else {
            // Perhaps it is counted and not sent yet: whoever sends it, and
            // everybody else on this thread, has a turn first.
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    fn arrive(bell: &Bell, entries: u32, urgent: bool) {
        bell.sent(bell.count(entries), urgent);
    }

    #[tokio::test]
    async fn the_worker_sleeps_through_what_does_not_matter() {
        let bell = Bell::default();
        let mut heard = std::pin::pin!(bell.heard(Some(3)));
        assert!(poll!(&mut heard).is_pending());
        arrive(&bell, 2, false);
        assert!(poll!(&mut heard).is_pending());
        arrive(&bell, 1, false);
        assert!(poll!(&mut heard).is_ready());
    }

    #[tokio::test]
    async fn what_arrived_before_the_worker_slept_is_not_slept_through() {
        let bell = Bell::default();
        arrive(&bell, 3, false);
        // It has no other way to be woken here: it wakes itself.
        bell.heard(Some(3)).await;
    }

    #[tokio::test]
    async fn an_arrival_is_heard_although_a_caller_before_it_has_not_rung_yet() {
        let bell = Bell::default();
        // The first is sent, and taken, by a caller that has lost its turn.
        let first = bell.count(1);
        let mut heard = std::pin::pin!(bell.heard(Some(2)));
        assert!(poll!(&mut heard).is_pending());
        arrive(&bell, 1, false);
        assert!(poll!(&mut heard).is_ready());
        bell.sent(first, false);
    }

    #[tokio::test]
    async fn an_urgent_entry_wakes_the_worker() {
        let bell = Bell::default();
        let mut heard = std::pin::pin!(bell.heard(None));
        assert!(poll!(&mut heard).is_pending());
        arrive(&bell, 1, true);
        assert!(poll!(&mut heard).is_ready());
    }
}
