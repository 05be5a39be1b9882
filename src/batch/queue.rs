//! What stands in front of the upstream, as callers see it: counts and a pace,
//! each one atomic, so that admission needs no lock and no trip to the worker.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    bell::Bell,
    weight::{Amount, FULL},
};

/// What stands in front of the upstream, as `call` sees it without a lock.
#[derive(Debug)]
pub struct Queue {
    waiting: Arc<Waiting>,
    /// By the partitions' kind.
    kinds: Box<[Arc<Kind>]>,
    bell: Bell,
}

/// Shared by all who queue for one upstream: while one policy's windows drain
/// and the next one's fill, the bounds hold for both together.
#[derive(Debug, Default)]
struct Waiting {
    entries: AtomicU64,
    /// Entries that have a place and stand in no window yet.
    aside: AtomicU64,
    /// In parts of [`FULL`].
    batches: AtomicU64,
    /// Nanoseconds between two finished batches; 0 before the first.
    spacing: AtomicU64,
    /// Every kind that there was, by name.
    kinds: Mutex<BTreeMap<String, Arc<Kind>>>,
}

/// What is known of the partitions of one kind.
#[derive(Debug, Default)]
struct Kind {
    /// Bytes that wait, in memory.
    bytes: AtomicU64,
    /// Nanoseconds after which a batch is all but surely answered; 0 before
    /// the first.
    latest: AtomicU64,
}

impl Waiting {
    fn kinds(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Kind>>> {
        // Insertions only, so a panic leaves nothing half done.
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// A line of partitions of these kinds.
    pub(super) fn new(kinds: Vec<String>) -> Self {
        Self::counted(Arc::default(), kinds)
    }

    /// A line of its own that is counted together with this one.
    pub(super) fn beside(&self, kinds: Vec<String>) -> Self {
        Self::counted(Arc::clone(&self.waiting), kinds)
    }

    fn counted(waiting: Arc<Waiting>, names: Vec<String>) -> Self {
        let mut kinds = waiting.kinds();
        let own = names.into_iter().map(|name| {
            let kind = kinds.entry(name).or_default();
            Arc::clone(kind)
        });
        let own = own.collect();
        drop(kinds);
        Self {
            waiting,
            kinds: own,
            bell: Bell::default(),
        }
    }

    /// Entries that wait.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.backlog() + self.waiting.aside.load(Ordering::Relaxed)
    }

    /// Those of them that wait in windows.
    pub(super) fn backlog(&self) -> u64 {
        self.waiting.entries.load(Ordering::Relaxed)
    }

    /// Bytes that wait, in memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let kinds = self.waiting.kinds();
        let bytes = kinds
            .values()
            .map(|kind| kind.bytes.load(Ordering::Relaxed));
        bytes.sum()
    }

    /// Bytes of one kind that wait.
    pub(super) fn bytes_of(&self, kind: usize) -> u64 {
        self.kinds[kind].bytes.load(Ordering::Relaxed)
    }

    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    pub(super) fn joined(&self, kind: usize, amount: Amount) {
        let Waiting {
            entries, batches, ..
        } = &*self.waiting;
        entries.fetch_add(amount.entries, Ordering::Relaxed);
        batches.fetch_add(amount.batches, Ordering::Relaxed);
        let bytes = &self.kinds[kind].bytes;
        bytes.fetch_add(amount.bytes, Ordering::Relaxed);
    }

    pub(super) fn left(&self, kind: usize, amount: Amount) {
        let Waiting {
            entries, batches, ..
        } = &*self.waiting;
        entries.fetch_sub(amount.entries, Ordering::Relaxed);
        batches.fetch_sub(amount.batches, Ordering::Relaxed);
        let bytes = &self.kinds[kind].bytes;
        bytes.fetch_sub(amount.bytes, Ordering::Relaxed);
    }

    /// Entries wait that stand in no window yet.
    pub(super) fn came(&self, kind: usize, amount: Amount) {
        let (aside, bytes) = (&self.waiting.aside, &self.kinds[kind].bytes);
        aside.fetch_add(amount.entries, Ordering::Relaxed);
        bytes.fetch_add(amount.bytes, Ordering::Relaxed);
    }

    /// They do so no more.
    pub(super) fn went(&self, kind: usize, amount: Amount) {
        let (aside, bytes) = (&self.waiting.aside, &self.kinds[kind].bytes);
        aside.fetch_sub(amount.entries, Ordering::Relaxed);
        bytes.fetch_sub(amount.bytes, Ordering::Relaxed);
    }

    /// How fast the upstream takes batches.
    pub(super) fn paced(&self, spacing: Option<Duration>) {
        let spacing = nanos(spacing.unwrap_or_default());
        self.waiting.spacing.store(spacing, Ordering::Relaxed);
    }

    /// How late the upstream may answer a batch of this kind.
    pub(super) fn answers(&self, kind: usize, latest: Duration) {
        let of = &self.kinds[kind].latest;
        of.store(nanos(latest), Ordering::Relaxed);
    }

    /// By when an entry of this kind that comes now is all but surely answered:
    /// after what stands before it, which takes `drain`, its own batch. Zero
    /// while less than a batch waits: then only the sealing can tell.
    pub(super) fn answered_in(&self, kind: usize, drain: Duration) -> Duration {
        match drain {
            Duration::ZERO => drain,
            drain => {
                let latest = self.kinds[kind].latest.load(Ordering::Relaxed);
                drain.saturating_add(Duration::from_nanos(latest))
            }
        }
    }

    /// Time between two batches; zero before the second.
    pub(super) fn spacing(&self) -> Duration {
        Duration::from_nanos(self.waiting.spacing.load(Ordering::Relaxed))
    }

    /// The least time in which what waits can leave: full batches, one a
    /// spacing. A lower bound, so that a burst behind small batches (whose
    /// cost an entry is high) is not refused for a wait it would not have.
    pub(super) fn drain_time(&self) -> Duration {
        let batches = self.waiting.batches.load(Ordering::Relaxed) / FULL;
        let spacing = self.waiting.spacing.load(Ordering::Relaxed);
        Duration::from_nanos(batches.saturating_mul(spacing))
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
