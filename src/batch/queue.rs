//! What stands in front of the upstream, as callers see it: counts and a pace,
//! each one atomic, so that admission needs no lock and no trip to the worker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{Weight, bell::Bell};

/// What stands in front of the upstream, as `call` sees it without a lock.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Arc<Waiting>,
    bell: Bell,
}

/// Shared by all who queue for one upstream: while one policy's windows drain
/// and the next one's fill, the bounds hold for both together.
#[derive(Debug, Default)]
struct Waiting {
    entries: AtomicU64,
    bytes: AtomicU64,
    /// Nanoseconds between two finished batches; 0 before the first.
    spacing: AtomicU64,
    /// Nanoseconds after which a batch is all but surely answered; 0 before
    /// the first.
    latest: AtomicU64,
}

impl Queue {
    /// A line of its own that is counted together with this one.
    pub(super) fn beside(&self) -> Self {
        Self {
            waiting: Arc::clone(&self.waiting),
            bell: Bell::default(),
        }
    }

    /// Entries that wait.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.waiting.entries.load(Ordering::Relaxed)
    }

    /// Payload bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.waiting.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    pub(super) fn joined(&self, weight: Weight) {
        self.waiting
            .entries
            .fetch_add(u64::from(weight.entries), Ordering::Relaxed);
        self.waiting
            .bytes
            .fetch_add(weight.bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn left(&self, entries: u64, bytes: usize) {
        self.waiting.entries.fetch_sub(entries, Ordering::Relaxed);
        self.waiting
            .bytes
            .fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// How fast the upstream takes batches, and how late it may answer one.
    pub(super) fn paced(&self, spacing: Option<Duration>, latest: Duration) {
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let spacing = nanos(spacing.unwrap_or_default());
        self.waiting.spacing.store(spacing, Ordering::Relaxed);
        self.waiting.latest.store(nanos(latest), Ordering::Relaxed);
    }

    /// By when an entry that comes now is all but surely answered: after what
    /// stands before it, which takes `drain`, its own batch. Zero while less
    /// than a batch waits: then only the sealing can tell.
    pub(super) fn answered_in(&self, drain: Duration) -> Duration {
        match drain {
            Duration::ZERO => drain,
            drain => {
                let latest = self.waiting.latest.load(Ordering::Relaxed);
                drain.saturating_add(Duration::from_nanos(latest))
            }
        }
    }

    /// The least time in which what waits can leave: full batches, one a
    /// spacing. A lower bound, so that a burst behind small batches (whose
    /// cost an entry is high) is not refused for a wait it would not have.
    pub(super) fn drain_time(&self, full: Weight) -> Duration {
        let (entries, most_entries) = (self.entries(), u64::from(full.entries.max(1)));
        let (bytes, most_bytes) = (self.bytes(), full.bytes.max(1) as u64);
        if entries < most_entries && bytes < most_bytes {
            return Duration::ZERO;
        }
        let by_count = entries / most_entries;
        let by_bytes = bytes / most_bytes;
        let spacing = self.waiting.spacing.load(Ordering::Relaxed);
        Duration::from_nanos(by_count.max(by_bytes).saturating_mul(spacing))
    }
}
