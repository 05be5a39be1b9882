//! Wakes the worker when an arrival matters, and only then.
//!
//! While batches are in flight most arrivals change nothing: they will leave
//! with the next permit or when their window is full. Waking the worker for
//! each of them (what a channel's own `recv` does) cost more than the rest of
//! the batching together, since the worker mostly sleeps on another thread.
//! So the worker says what it sleeps through: so many arrivals, and whatever
//! is in no haste before it looks by itself.
//!
//! An arrival is counted before it is sent and rung for after that. Counted
//! only afterwards, it could be taken before it is counted, by a caller whose
//! thread lost its turn in between: the worker would then wait for one more
//! arrival than there is to come, and sleep through the next one.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    flight::clock,
    window::{Close, WindowSettings},
};

/// What one arrival may change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    /// Its window's.
    pub(super) window: WindowSettings,
    /// Its window fills by bytes before it fills by count.
    pub(super) is_large: bool,
    /// Until its deadline.
    pub(super) slack: Option<Duration>,
    pub(super) max_wait: Duration,
}

/// What the worker sleeps through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sleep {
    /// Entries it has taken since the start, by weight.
    pub(super) seen: u64,
    /// The arrivals after these that change nothing; `None` while a permit is
    /// awaited: all that come then are taken when the window is sealed, and
    /// matter only once they have waited too long.
    pub(super) room: Option<u64>,
    /// When it looks by itself.
    pub(super) look: Option<Instant>,
    /// Whether an adaptive window is open, so that the upstream's pace, by
    /// which another one would close, is among what it looks for.
    pub(super) is_paced: bool,
}

impl Sleep {
    /// Whether an arrival may matter in it that did not in `last`.
    fn is_lighter(&self, last: &Self) -> bool {
        let later = match (self.look, last.look) {
            (Some(look), Some(last)) => look > last,
            (look, last) => look.is_none() && last.is_some(),
        };
        later || (self.room.is_some() && last.room.is_none()) || (!self.is_paced && last.is_paced)
    }
}

/// What the worker remembers of its sleeps.
#[derive(Debug, Default)]
pub(super) struct Slept {
    last: Option<Sleep>,
    /// Arrivals of which some may have gone by what was said before: they are
    /// taken before it sleeps again.
    unsure: u64,
}

/// Rung by callers, heard by the worker.
#[derive(Debug)]
pub(super) struct Bell {
    /// What `look` counts from.
    base: Instant,
    /// Entries that arrived since the start, by weight.
    arrived: AtomicU64,
    /// Those that the worker had taken when it went to sleep.
    seen: AtomicU64,
    /// The arrival that wakes the worker.
    wake_at: AtomicU64,
    /// When the worker looks by itself, in nanoseconds, and below that one bit
    /// for `Sleep::is_paced`.
    look: AtomicU64,
    notify: Notify,
}

/// The arrival that wakes a worker which waits for a permit.
const NONE: u64 = u64::MAX;

impl Default for Bell {
    fn default() -> Self {
        Self {
            base: clock(),
            arrived: AtomicU64::default(),
            seen: AtomicU64::default(),
            wake_at: AtomicU64::default(),
            look: AtomicU64::default(),
            notify: Notify::default(),
        }
    }
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
    #[inline]
    pub(super) fn sent(&self, arrived: u64, arrival: &Arrival) {
        let wake_at = self.wake_at.load(Ordering::SeqCst);
        if arrived >= wake_at || self.matters(arrived, wake_at == NONE, arrival) {
            self.notify.notify_one();
        }
    }

    /// Whether an arrival wants something before the worker next looks.
    fn matters(&self, arrived: u64, awaits_permit: bool, arrival: &Arrival) -> bool {
        let Arrival { window, slack, .. } = *arrival;
        let look = self.look.load(Ordering::Relaxed);
        let left = (look >> 1).saturating_sub(self.nanos(arrival.at));
        let left = Duration::from_nanos(left);
        if awaits_permit {
            return arrival.max_wait < left;
        }
        let is_paced = look & 1 == 1;
        let new = arrived.saturating_sub(self.seen.load(Ordering::Relaxed));
        arrival.is_large
            || (window.close == Close::Adaptive && !is_paced)
            // Perhaps all of them are of one window, which was not open.
            || new >= u64::from(window.max_entries.get())
            || window.linger.min(arrival.max_wait) < left
            || slack.is_some_and(|slack| slack < left * 4)
    }

    /// Wakes the worker whatever it waits for.
    pub(super) fn ring(&self) {
        self.notify.notify_one();
    }

    /// Sleeps until an arrival matters, or until rung for another reason. May
    /// return early.
    pub(super) async fn heard(&self, slept: &mut Slept, sleep: Sleep) {
        let wake_at = sleep.room.map_or(NONE, |room| sleep.seen + room);
        let look = sleep.look.map_or(u64::MAX >> 1, |at| self.nanos(at));
        let look = look << 1 | u64::from(sleep.is_paced);
        self.look.store(look, Ordering::Relaxed);
        self.seen.store(sleep.seen, Ordering::Relaxed);
        self.wake_at.store(wake_at, Ordering::SeqCst);
        let arrived = self.arrived.load(Ordering::SeqCst);
        // Whoever went by the sleep before is counted by now.
        if slept.last.is_none_or(|last| sleep.is_lighter(&last)) {
            slept.unsure = arrived;
        }
        slept.last = Some(sleep);
        if arrived < wake_at && slept.unsure <= sleep.seen {
            self.notify.notified().await;
        } else {
            // Perhaps it is counted and not sent yet: whoever sends it, and
            // everybody else on this thread, has a turn first.
            tokio::task::yield_now().await;
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.base).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX).min(u64::MAX >> 1)
    }
}

#[cfg(test)]
mod tests;
