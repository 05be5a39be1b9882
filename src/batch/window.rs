//! The window: what waits to leave as one batch. PURE: it takes `now` as an
//! argument and answers with data; `worker.rs` executes what it answers.
//!
//! A window is a first-in-first-out line, not a fixed box: while it waits for
//! a permit it goes on filling, and a batch is cut from its front at the last
//! moment, so what was cancelled or has expired by then never leaves. (The
//! obvious other way, to close a box and queue the box, sends the work of
//! callers who left while the box stood in line.)

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use super::{
    Weight,
    distinct::Distinct,
    latency::Outlook,
    pace::paced_at,
    weight::{Amount, Scale},
};

/// When a partial window may close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// At once when the upstream is idle, else paced to its throughput; at
    /// most after the linger.
    Adaptive,
    /// Only when full or when the linger has elapsed.
    Fixed,
}

/// Bounds of one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSettings {
    /// Most entries a batch may hold.
    pub max_entries: NonZeroU32,
    /// Most payload bytes a batch may hold.
    pub max_bytes: usize,
    /// The longest a window's first entry waits for company.
    pub linger: Duration,
    /// When a partial window may close.
    pub close: Close,
}

impl Default for WindowSettings {
    /// Generous bounds: natural batching chooses the size within them.
    fn default() -> Self {
        Self {
            max_entries: NonZeroU32::new(500).expect("500 is not zero"),
            max_bytes: 1 << 20,
            linger: Duration::from_millis(2),
            close: Close::Adaptive,
        }
    }
}

/// Bounds of what waits in front of one upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// The longest an entry without an earlier deadline may wait.
    pub max_wait: Duration,
    /// Most payload bytes that may wait.
    pub max_bytes: usize,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            max_wait: Duration::from_secs(1),
            max_bytes: 64 << 20,
        }
    }
}

/// Why a window was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClosedBy {
    /// It held `max_entries` or `max_bytes`.
    Full,
    /// Its first entry had waited for the linger.
    Linger,
    /// The upstream was idle, or its pace asked for the next batch.
    Ready,
    /// An entry had used a quarter of the time to its deadline.
    Deadline,
    /// Intake has ended: what is held goes out.
    Drain,
}

/// What the window has to know of the upstream to close adaptively.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// Batches sent and not yet answered.
    pub in_flight: u32,
    /// When the last batch was sent.
    pub last_sent: Option<Instant>,
    /// Smoothed time between two finished batches, 1/X.
    pub spacing: Option<Duration>,
    /// No entry will come any more.
    pub draining: bool,
}

/// When a window wants to be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It is empty.
    Never,
    /// Now, if a permit is granted.
    Now(ClosedBy),
    /// At this time, unless something changes before.
    At(Instant),
}

/// Whether an entry's caller still waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// It waits for its answer.
    Waiting,
    /// It has left.
    Left,
}

/// One entry as it stands in the window.
#[derive(Debug)]
pub struct Held<T> {
    /// The entry.
    pub entry: T,
    /// What it adds to a batch.
    pub weight: Weight,
    /// When it came.
    pub arrived: Instant,
    /// When its caller stops waiting.
    pub deadline: Option<Instant>,
}

/// What a sealing took out of the window.
#[derive(Debug)]
pub struct Sealed<T> {
    /// What leaves as one batch, oldest first; may be empty.
    pub entries: Vec<Held<T>>,
    /// Entries by weight (a request may hold several).
    pub count: u32,
    /// Their payload bytes.
    pub bytes: usize,
    /// Fell out because the caller had left.
    pub cancelled: Vec<T>,
    /// Fell out because the deadline had passed.
    pub expired: Vec<T>,
    /// Fell out because no answer would come before the deadline.
    pub doomed: Vec<Held<T>>,
}

impl<T> Default for Sealed<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            count: 0,
            bytes: 0,
            cancelled: Vec::new(),
            expired: Vec::new(),
            doomed: Vec::new(),
        }
    }
}

impl<T> Sealed<T> {
    fn add(&mut self, held: Held<T>) {
        self.count += held.weight.entries;
        self.bytes += held.weight.bytes;
        self.entries.push(held);
    }
}

/// The open accumulation of one partition.
#[derive(Debug)]
pub struct Window<T> {
    settings: WindowSettings,
    scale: Scale,
    line: VecDeque<Held<T>>,
    waits: Amount,
    /// Payload bytes.
    bytes: usize,
    /// The earliest moment at which some entry has used a quarter of its
    /// slack. Kept as a lower bound: it may outlive its entry until the
    /// window is next sealed, which closes the window early, never late.
    urgent: Option<Instant>,
    distinct: Distinct,
}

impl<T> Window<T> {
    /// An empty window.
    #[must_use]
    pub fn new(settings: WindowSettings) -> Self {
        Self {
            settings,
            scale: Scale::of(&settings),
            line: VecDeque::new(),
            waits: Amount::default(),
            bytes: 0,
            urgent: None,
            distinct: Distinct::default(),
        }
    }

    /// Adds an entry at the end of the line.
    #[inline]
    pub fn push(&mut self, held: Held<T>) {
        self.waits += self.scale.amount(held.weight);
        self.bytes += held.weight.bytes;
        self.urgent = earlier(self.urgent, urgent_at(&held));
        self.line.push_back(held);
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Entries that wait, by weight.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.waits.entries
    }

    /// Payload bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What waits.
    pub(super) const fn waits(&self) -> Amount {
        self.waits
    }

    /// Entries that still fit before the window is full.
    #[must_use]
    pub fn room(&self) -> u64 {
        u64::from(self.settings.max_entries.get()).saturating_sub(self.count())
    }

    /// When it may close partially.
    pub(super) fn closes(&self) -> Close {
        self.settings.close
    }

    /// When the oldest entry came.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        self.line.front().map(|held| held.arrived)
    }

    /// When this window wants to be sealed, given how the upstream flows.
    #[must_use]
    pub fn due(&self, now: Instant, flow: &Flow) -> Due {
        let Some(oldest) = self.oldest() else {
            return Due::Never;
        };
        if self.is_full() {
            return Due::Now(ClosedBy::Full);
        }
        if flow.draining {
            return Due::Now(ClosedBy::Drain);
        }
        let (mut at, mut reason) = (oldest + self.settings.linger, ClosedBy::Linger);
        if let Some(urgent) = self.urgent.filter(|urgent| *urgent < at) {
            (at, reason) = (urgent, ClosedBy::Deadline);
        }
        if self.settings.close == Close::Adaptive {
            if flow.in_flight == 0 {
                return Due::Now(ClosedBy::Ready);
            }
            if let Some(paced) = paced_at(flow).filter(|paced| *paced < at) {
                (at, reason) = (paced, ClosedBy::Ready);
            }
        }
        if at <= now {
            Due::Now(reason)
        } else {
            Due::At(at)
        }
    }

    /// [`Window::seal_for`] an upstream of which nothing is known, for entries
    /// without keys.
    pub fn seal(&mut self, now: Instant, caller: impl Fn(&T) -> Caller) -> Sealed<T> {
        self.seal_for(now, &Outlook::default(), caller, |_| &[])
    }

    /// Takes one batch from the front: at most the bounds, never past an
    /// entry that does not fit (order is kept), and an entry too large for
    /// any batch goes alone. What was cancelled, has expired, or would not be
    /// answered in time falls out.
    ///
    /// An entry's `keys` (their hashes) may stand once in a batch: one whose
    /// key is taken stays in the line, at its place, and lets those of other
    /// keys pass. The order of one key's entries is kept.
    pub fn seal_for(
        &mut self,
        now: Instant,
        outlook: &Outlook,
        caller: impl Fn(&T) -> Caller,
        keys: impl Fn(&T) -> &[u64],
    ) -> Sealed<T> {
        let mut sealed = Sealed::default();
        self.seal_into(&mut sealed, now, outlook, caller, keys);
        sealed
    }

    /// [`Window::seal_for`], into an emptied `sealed` whose memory is used
    /// again: that of a large batch costs its entries much to get anew.
    pub(super) fn seal_into(
        &mut self,
        sealed: &mut Sealed<T>,
        now: Instant,
        outlook: &Outlook,
        caller: impl Fn(&T) -> Caller,
        keys: impl Fn(&T) -> &[u64],
    ) {
        let max_entries = self.settings.max_entries.get();
        let expected = self.line.len().min(max_entries as usize);
        let crowd = self.count() > u64::from(max_entries) || self.bytes > self.settings.max_bytes;
        let horizon = outlook.horizon(now, crowd);
        (sealed.count, sealed.bytes) = (0, 0);
        sealed.entries.reserve(expected);
        let mut aside = Vec::new();
        while let Some(held) = self.line.pop_front() {
            let before = |moment: Instant| held.deadline.is_some_and(|deadline| deadline <= moment);
            let (expired, doomed) = (before(now), before(horizon));
            let left = caller(&held.entry) == Caller::Left;
            if !doomed && !left {
                // The look past those of a busy key is bounded, else each
                // sealing would walk all of them.
                if !self.fits(sealed, held.weight) || aside.len() >= expected {
                    self.line.push_front(held);
                    break;
                }
                if !self.distinct.admits(keys(&held.entry)) {
                    aside.push(held);
                    continue;
                }
            }
            self.waits -= self.scale.amount(held.weight);
            self.bytes -= held.weight.bytes;
            // A caller answers itself at its deadline and is gone a moment
            // later: the deadline tells which of the two it was.
            if expired {
                sealed.expired.push(held.entry);
            } else if left {
                sealed.cancelled.push(held.entry);
            } else if doomed {
                sealed.doomed.push(held);
            } else {
                sealed.add(held);
            }
        }
        if sealed.entries.is_empty() && outlook.idle {
            self.spare(sealed, keys);
        }
        self.distinct.clear();
        for held in aside.into_iter().rev() {
            self.line.push_front(held);
        }
        // Entries past the next batch need no look: if there are any, the
        // window is full, and so due whatever its deadlines say.
        self.urgent = self.urgent.and_then(|_| {
            let next = self.line.iter().take(max_entries as usize);
            next.filter_map(urgent_at).min()
        });
    }

    /// Sends the doomed after all: a guess that nobody is ever sent to check
    /// would stay wrong for ever.
    fn spare(&mut self, sealed: &mut Sealed<T>, keys: impl Fn(&T) -> &[u64]) {
        for held in std::mem::take(&mut sealed.doomed) {
            if self.fits(sealed, held.weight) && self.distinct.admits(keys(&held.entry)) {
                sealed.add(held);
            } else {
                sealed.doomed.push(held);
            }
        }
    }

    /// Takes what has waited for `max_wait` or longer from the front.
    pub fn overdue(&mut self, now: Instant, max_wait: Duration) -> Vec<Held<T>> {
        let mut overdue = Vec::new();
        while let Some(held) = self
            .line
            .pop_front_if(|held| held.arrived + max_wait <= now)
        {
            self.waits -= self.scale.amount(held.weight);
            self.bytes -= held.weight.bytes;
            overdue.push(held);
        }
        overdue
    }

    /// Takes everything.
    pub fn clear(&mut self) -> impl Iterator<Item = T> + use<T> {
        (self.waits, self.bytes, self.urgent) = (Amount::default(), 0, None);
        std::mem::take(&mut self.line)
            .into_iter()
            .map(|held| held.entry)
    }

    fn is_full(&self) -> bool {
        self.count() >= u64::from(self.settings.max_entries.get())
            || self.bytes >= self.settings.max_bytes
    }

    fn fits(&self, sealed: &Sealed<T>, weight: Weight) -> bool {
        sealed.entries.is_empty()
            || (sealed.count.saturating_add(weight.entries) <= self.settings.max_entries.get()
                && sealed.bytes.saturating_add(weight.bytes) <= self.settings.max_bytes)
    }
}

/// A quarter of the way from arrival to the deadline: the rest of the slack
/// belongs to the upstream.
fn urgent_at<T>(held: &Held<T>) -> Option<Instant> {
    let slack = held.deadline?.saturating_duration_since(held.arrived);
    Some(held.arrived + slack / 4)
}

/// The earlier of two moments; `None` is later than any.
pub(super) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests;
