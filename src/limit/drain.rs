//! Drains: moments in which hardly anything of ours is in flight, and what the
//! few batches that are sent in them find out. PURE.
//!
//! An unloaded latency can only be seen unloaded. So from time to time the rule
//! holds back, sends [`SAMPLES`] batches that meet no queue of ours (nor, at a
//! slot, of others like us), and goes on at once. A suspicion waits for that
//! too: an upstream that takes far longer than it should either has a queue,
//! which a drain leaves behind, or has become slower or its way longer, which a
//! drain sees all the same. No other signal tells the two apart, for what a
//! longer way and a crowd of others do to latency and throughput is alike.
//!
//! **Whose queue it is** a second kind of drain tells, which we make alone, at a
//! moment that nobody else shares. Let slowdowns be E at a slot, where all drain,
//! W as usual, and O in a drain of our own: what it leaves of the queue, `q = (O −
//! E)/(W − E)`, is the part of others. Alone before a group commit q is 0, however
//! far a second batch in flight makes latencies jump; as one of k it is `1 − 1/k`.

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use super::{meter::Meter, rule::Sample, slots::Slots};

/// Batches of a drain: enough to tell a queue from a longer way, so few that
/// the upstream hardly notices.
pub(super) const SAMPLES: u32 = 4;
/// How often there is a drain although nothing is in doubt …
const EVERY: Duration = Duration::from_secs(2);
/// … and how many times its own length lies between two: a drain of a slow
/// upstream takes long, so there it is seldom.
const COST: f64 = 20.0;
/// Drains in which what START learnt is still in doubt.
const FRESH: u32 = 6;
/// Slowdowns that raise no doubt: neither a long queue nor less than τ.
const DOUBTLESS: RangeInclusive<f64> = 0.9..=2.2;
/// A drain that takes this much of the suspected slowdown left no queue behind.
const LONGER: f64 = 0.75;
/// q from which on the queue is of others, if it is one: W − E is at least
/// [`QUEUE`], and O − E more than a latency scatters.
const THEIRS: f64 = 0.4;
/// q up to which it is ours.
const OURS: f64 = 0.1;
/// W − E that is a queue, and that is none.
const QUEUE: f64 = 0.5;
const NO_QUEUE: f64 = 0.25;
/// E is at least this: four batches may have been lucky.
const EMPTY: f64 = 0.8;
/// The weight of the newest slot in E.
const EMPTY_GAIN: f64 = 0.5;
/// The part of a second, from a slot on, in which nobody drains at a slot.
const BETWEEN: (f64, f64) = (0.2, 0.8);
/// What must be left of it for a look to begin, seconds.
const TO_LOOK: f64 = 0.1;
/// A drain that is so much faster than τ, and more than chance makes it, shows
/// that a queue was taken for τ.
const SHORTER: f64 = 0.15;

/// What a drain found: latencies over τ, and what that means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found {
    /// Σrtt / Στ(n) of its batches.
    pub(super) unloaded: f64,
    /// Entries of a batch, and seconds that it took, on the mean.
    pub(super) entries: f64,
    pub(super) rtt: f64,
    pub(super) purpose: Purpose,
    pub(super) verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// τ is what it was.
    Same,
    /// τ had a queue in it.
    Shorter,
    /// What was suspected is a queue.
    Queue,
    /// What was suspected is no queue: the upstream takes that long.
    Longer,
    /// The queue is of others who share the upstream …
    Others,
    /// … or ours …
    Ours,
    /// … or one cannot tell.
    Unclear,
}

/// What a drain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The unloaded latency: with all who share the upstream, at a slot.
    Empty,
    /// Whose the queue is that is suspected, a first look: ours alone.
    Look,
    /// The same of a queue that a slot has shown to be one.
    Proof,
}

impl Purpose {
    pub(super) fn is_ours_alone(self) -> bool {
        self != Self::Empty
    }
}

/// The batches that a drain sends.
#[derive(Debug)]
struct Probe {
    purpose: Purpose,
    since: Instant,
    /// When the first of them left: until then a queue of our own ran empty,
    /// and the upstream had its work.
    from: Option<Instant>,
    /// When the last of them left.
    until: Option<Instant>,
    meter: Meter,
    /// Σ ln(rtt/τ(n)).
    logarithms: f64,
}

impl Probe {
    /// The geometric mean of its latencies over τ: one that was late by chance
    /// does not look like a queue, which makes all of them late.
    fn typical(&self) -> f64 {
        (self.logarithms / f64::from(self.meter.samples().max(1))).exp()
    }
}

/// When to drain, and what came of it.
#[derive(Debug)]
pub(super) struct Drains {
    slots: Slots,
    probe: Option<Probe>,
    /// How long the last one held back, without the time before its first batch.
    length: Duration,
    /// Drains left until τ is trusted.
    fresh: u32,
    /// The upstream takes far longer than it should.
    suspects: bool,
    /// The last drain found it so without a queue, too.
    seemed_longer: bool,
    /// A drain of our own that is to come or is under way: when, and what for.
    own: Option<(Instant, Purpose)>,
    /// O and W of the first look, until a slot shows whether it was a queue.
    look: Option<(f64, f64)>,
    /// E; 0 before the first slot.
    empty: f64,
    /// Slots since START.
    slots_seen: u32,
    /// The longest period that ends now, if a slot has just begun.
    slot: Option<Duration>,
}

impl Drains {
    pub(super) fn new() -> Self {
        Self {
            slots: Slots::default(),
            probe: None,
            length: Duration::ZERO,
            fresh: FRESH,
            suspects: false,
            seemed_longer: false,
            own: None,
            look: None,
            empty: 0.0,
            slots_seen: 0,
            slot: None,
        }
    }

    pub(super) fn align(&mut self, origin: Instant) {
        self.slots.align(origin);
    }

    /// START begins: all that was believed is in doubt, and nothing suspected.
    pub(super) fn renew(&mut self) {
        (self.fresh, self.suspects, self.slots_seen) = (FRESH, false, 0);
        self.look = None;
        self.break_off();
    }

    /// What was begun is broken off.
    pub(super) fn break_off(&mut self) {
        (self.probe, self.own) = (None, None);
    }

    /// Nothing hangs on a look of our own any more.
    pub(super) fn forget_own(&mut self) {
        self.own = None;
        self.probe.take_if(|probe| probe.purpose.is_ours_alone());
    }

    /// The next slot is to tell a queue from a longer way.
    pub(super) fn suspect(&mut self) {
        self.suspects = true;
    }

    pub(super) const fn suspects(&self) -> bool {
        self.suspects
    }

    /// Slots since START.
    pub(super) const fn slots_seen(&self) -> u32 {
        self.slots_seen
    }

    /// The longest period that ends now, if the last [`Self::due`] began a slot.
    pub(super) const fn slot(&self) -> Option<Duration> {
        self.slot
    }

    /// Seconds since the slot before.
    pub(super) fn since_slot(&self, now: Instant) -> f64 {
        self.slots.since(now)
    }

    /// Whether a drain of our own is to come, or under way.
    pub(super) const fn looks(&self) -> bool {
        self.own.is_some()
    }

    /// A first look at whose the queue is, between two slots; `lot`, of 0 to 1,
    /// says when: others must not look in the same moment.
    pub(super) fn look(&mut self, now: Instant, lot: f64) {
        let (from, to) = BETWEEN;
        let since = self.slots.since(now);
        let wait = match since {
            _ if since < from => from - since + lot * (to - from),
            _ if since > to - TO_LOOK => 1.0 + from - since + lot * (to - from),
            _ => lot * (to - since),
        };
        let at = now + Duration::from_secs_f64(wait);
        self.own.get_or_insert((at, Purpose::Look));
    }

    /// A slot has begun: between it and the next, we look alone.
    pub(super) fn prove(&mut self, now: Instant, lot: f64) {
        let (from, to) = BETWEEN;
        let wait = from + lot * (to - TO_LOOK - from);
        self.own = Some((now + Duration::from_secs_f64(wait), Purpose::Proof));
    }

    /// What is to be drained for now, given the usual slowdown. Where others
    /// are suspected only slots count at which all drain.
    pub(super) fn due(&mut self, now: Instant, slowdown: f64, others: bool) -> Option<Purpose> {
        self.slot = self.slots.has_begun(now);
        let Some(period) = self.slot else {
            let since = self.slots.since(now);
            let between = self.probe.is_none() && BETWEEN.0 <= since && since <= BETWEEN.1;
            let own = self.own.filter(|(at, _)| between && *at <= now);
            return own.map(|(_, purpose)| purpose);
        };
        let doubts = self.fresh > 0 || !DOUBTLESS.contains(&slowdown);
        let wanted = if doubts { Duration::ZERO } else { EVERY };
        let all = period >= EVERY;
        let suspects = self.suspects && (all || !(others || self.look.is_some()));
        let proves = matches!(self.own, Some((_, Purpose::Proof)));
        let due = suspects || proves && all || period >= wanted.max(self.length.mul_f64(COST));
        due.then_some(Purpose::Empty)
    }

    pub(super) fn begin(&mut self, now: Instant, purpose: Purpose) {
        if purpose == Purpose::Empty {
            self.fresh = self.fresh.saturating_sub(1);
            self.slots_seen = self.slots_seen.saturating_add(1);
        }
        self.probe = Some(Probe {
            purpose,
            since: now,
            from: None,
            until: None,
            meter: Meter::since(now),
            logarithms: 0.0,
        });
    }

    /// Whether the drain that is under way is ours alone.
    pub(super) fn is_ours_alone(&self) -> bool {
        let probe = self.probe.as_ref();
        probe.is_some_and(|probe| probe.purpose.is_ours_alone())
    }

    /// A batch of the drain leaves now; after it, `left` more.
    pub(super) fn leaves(&mut self, now: Instant, left: u32) {
        if let Some(probe) = &mut self.probe {
            let from = *probe.from.get_or_insert(now);
            if left == 0 {
                probe.until = Some(now);
                if probe.purpose == Purpose::Empty {
                    self.length = now.saturating_duration_since(from);
                }
            }
        }
    }

    /// Whether a drain sent it.
    pub(super) fn sent(&self, sample: &Sample) -> bool {
        self.probe.as_ref().is_some_and(|probe| {
            sample.sent > probe.since && probe.until.is_none_or(|until| sample.sent <= until)
        })
    }

    /// One of its batches was answered; τ(n) is `unloaded` seconds, one latency
    /// deviates by `scatter` (relative), and `slowdown` is what is suspected.
    pub(super) fn answered(
        &mut self,
        sample: &Sample,
        unloaded: Option<f64>,
        scatter: f64,
        slowdown: f64,
    ) -> Option<Found> {
        let probe = self.probe.as_mut()?;
        probe.meter.add(sample, unloaded);
        let of_unloaded = unloaded.map_or(1.0, |tau| sample.rtt().as_secs_f64() / tau);
        probe.logarithms += of_unloaded.max(f64::MIN_POSITIVE).ln();
        if probe.meter.samples() < SAMPLES {
            return None;
        }
        let probe = self.probe.take()?;
        let (typical, purpose) = (probe.typical(), probe.purpose);
        let meter = probe.meter;
        let unloaded = meter.slowdown()?;
        let slowdown = slowdown.max(1.0);
        Some(Found {
            unloaded,
            entries: meter.mean_entries(),
            rtt: meter.latency(),
            purpose,
            verdict: match purpose {
                Purpose::Empty => {
                    self.learn_empty(typical);
                    self.judge(unloaded, scatter, slowdown)
                }
                Purpose::Look => self.judge_look(typical, slowdown),
                Purpose::Proof => self.judge_proof(typical, scatter, slowdown),
            },
        })
    }

    /// A first look settles only that the queue is ours.
    fn judge_look(&mut self, own: f64, slowdown: f64) -> Verdict {
        self.own = None;
        let empty = self.empty.max(EMPTY);
        let queue = slowdown - empty;
        if queue > NO_QUEUE && own - empty < OURS * queue {
            return Verdict::Ours;
        }
        (self.suspects, self.look) = (true, Some((own, slowdown)));
        Verdict::Same
    }

    fn judge_proof(&mut self, own: f64, scatter: f64, slowdown: f64) -> Verdict {
        self.own = None;
        let empty = self.empty.max(EMPTY);
        match slowdown - empty {
            queue if queue < NO_QUEUE => Verdict::Ours,
            _ if is_theirs(own, empty, slowdown, scatter) => Verdict::Others,
            queue if own - empty < OURS * queue => Verdict::Ours,
            _ => Verdict::Unclear,
        }
    }

    fn learn_empty(&mut self, typical: f64) {
        let gain = match self.suspects || self.empty == 0.0 {
            true => 1.0,
            false => EMPTY_GAIN,
        };
        self.empty += gain * (typical - self.empty);
    }

    fn judge(&mut self, unloaded: f64, scatter: f64, suspected: f64) -> Verdict {
        if self.suspects {
            let longer = unloaded > LONGER * suspected;
            let again = std::mem::replace(&mut self.seemed_longer, longer);
            if longer && !again {
                // Others like us may have been at something of their own.
                return Verdict::Same;
            }
            (self.suspects, self.seemed_longer) = (false, false);
            let look = self.look.take();
            let theirs = |(own, slowdown)| is_theirs(own, self.empty, slowdown, scatter);
            return match longer {
                true => Verdict::Longer,
                false if look.is_some_and(theirs) => Verdict::Others,
                false => Verdict::Queue,
            };
        }
        // Of so few batches the mean deviates by half of what one does.
        if unloaded < 1.0 - SHORTER.max(scatter / 2.0) {
            self.fresh = FRESH;
            return Verdict::Shorter;
        }
        Verdict::Same
    }
}

/// Whether the queue is of others: O, E and W, and what one latency scatters.
fn is_theirs(own: f64, empty: f64, slowdown: f64, scatter: f64) -> bool {
    let (left, queue) = (own - empty, slowdown - empty);
    queue > QUEUE && left > scatter && left > THEIRS * queue
}

#[cfg(test)]
mod tests;
