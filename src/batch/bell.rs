//! Wakes the worker when an arrival matters, and only then.
//!
//! While batches are in flight most arrivals change nothing: they will leave
//! with the next permit or when their window is full. Waking the worker for
//! each of them (what a channel's own `recv` does) cost more than the rest of
//! the batching together, since the worker mostly sleeps on another thread.
//! So the worker says how many arrivals it can sleep through.

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
    /// Entries stand in the channel. Called after they were sent, so that a
    /// worker that counts them can take them.
    pub(super) fn arrived(&self, entries: u32, urgent: bool) {
        // SeqCst, here and below: of this addition and the worker's store one
        // comes first, and whoever comes second sees the other's.
        let entries = u64::from(entries);
        let arrived = self.arrived.fetch_add(entries, Ordering::SeqCst) + entries;
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
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, poll};

    use super::*;

    #[tokio::test]
    async fn the_worker_sleeps_through_what_does_not_matter() {
        let bell = Bell::default();
        let mut heard = std::pin::pin!(bell.heard(Some(3)));
        assert!(poll!(&mut heard).is_pending());
        bell.arrived(2, false);
        assert!(poll!(&mut heard).is_pending());
        bell.arrived(1, false);
        assert!(poll!(&mut heard).is_ready());
    }

    #[tokio::test]
    async fn what_arrived_before_the_worker_slept_is_not_slept_through() {
        let bell = Bell::default();
        bell.arrived(3, false);
        assert!(bell.heard(Some(3)).now_or_never().is_some());
    }

    #[tokio::test]
    async fn an_urgent_entry_wakes_the_worker() {
        let bell = Bell::default();
        let mut heard = std::pin::pin!(bell.heard(None));
        assert!(poll!(&mut heard).is_pending());
        bell.arrived(1, true);
        assert!(poll!(&mut heard).is_ready());
    }
}
