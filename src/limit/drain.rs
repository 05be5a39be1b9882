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
}

/// The batches that a drain sends.
#[derive(Debug)]
struct Probe {
    since: Instant,
    /// When the first of them left: until then a queue of our own ran empty,
    /// and the upstream had its work.
    from: Option<Instant>,
    /// When the last of them left.
    until: Option<Instant>,
    meter: Meter,
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
        }
    }

    pub(super) fn align(&mut self, origin: Instant) {
        self.slots.align(origin);
    }

    /// START begins: all that was believed is in doubt, and nothing suspected.
    pub(super) fn renew(&mut self) {
        (self.fresh, self.suspects, self.probe) = (FRESH, false, None);
    }

    /// What was begun is broken off.
    pub(super) fn break_off(&mut self) {
        self.probe = None;
    }

    /// The next slot is to tell a queue from a longer way.
    pub(super) fn suspect(&mut self) {
        self.suspects = true;
    }

    pub(super) const fn suspects(&self) -> bool {
        self.suspects
    }

    /// Whether it is time, given the usual slowdown.
    pub(super) fn is_due(&mut self, now: Instant, slowdown: f64) -> bool {
        let Some(period) = self.slots.has_begun(now) else {
            return false;
        };
        let doubts = self.fresh > 0 || !DOUBTLESS.contains(&slowdown);
        let wanted = if doubts { Duration::ZERO } else { EVERY };
        self.suspects || period >= wanted.max(self.length.mul_f64(COST))
    }

    pub(super) fn begin(&mut self, now: Instant) {
        self.fresh = self.fresh.saturating_sub(1);
        self.probe = Some(Probe {
            since: now,
            from: None,
            until: None,
            meter: Meter::since(now),
        });
    }

    /// A batch of the drain leaves now; after it, `left` more.
    pub(super) fn leaves(&mut self, now: Instant, left: u32) {
        if let Some(probe) = &mut self.probe {
            let from = *probe.from.get_or_insert(now);
            if left == 0 {
                probe.until = Some(now);
                self.length = now.saturating_duration_since(from);
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
        if probe.meter.samples() < SAMPLES {
            return None;
        }
        let meter = self.probe.take()?.meter;
        let unloaded = meter.slowdown()?;
        Some(Found {
            unloaded,
            entries: meter.mean_entries(),
            rtt: meter.latency(),
            verdict: self.judge(unloaded, scatter, slowdown.max(1.0)),
        })
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
            return if longer {
                Verdict::Longer
            } else {
                Verdict::Queue
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::rule::{Outcome, tests::sample};

    /// A drain of batches that take `ms`, where τ is 10 ms.
    fn found(drains: &mut Drains, ms: u64, suspected: f64) -> Found {
        let mut found = None;
        for _ in 0..SAMPLES {
            let sample = sample(Duration::from_millis(ms), 1, Outcome::Success);
            if drains.probe.is_none() {
                drains.begin(sample.sent - Duration::from_nanos(1));
            }
            found = drains.answered(&sample, Some(0.01), 0.1, suspected);
        }
        found.expect("all of its batches were answered")
    }

    #[test]
    fn a_drain_tells_a_queue_from_a_longer_way() {
        let mut drains = Drains::new();
        drains.suspect();
        assert_eq!(found(&mut drains, 11, 4.0).verdict, Verdict::Queue);
        assert!(!drains.suspects());
        drains.suspect();
        assert_eq!(found(&mut drains, 40, 4.0).verdict, Verdict::Same);
        assert!(drains.suspects(), "it looks again before it believes that");
        assert_eq!(found(&mut drains, 40, 4.0).verdict, Verdict::Longer);
    }

    #[test]
    fn a_drain_that_is_faster_than_the_unloaded_latency_corrects_it() {
        let mut drains = Drains::new();
        assert_eq!(found(&mut drains, 5, 1.0).verdict, Verdict::Shorter);
        assert_eq!(found(&mut drains, 9, 1.0).verdict, Verdict::Same);
    }

    #[test]
    fn drains_of_a_slow_upstream_are_seldom() {
        let origin = Instant::now();
        let often = |length: Duration| {
            let mut drains = Drains {
                fresh: 0,
                length,
                ..Drains::new()
            };
            drains.align(origin);
            let looks = (0..65).map(|s| origin + Duration::from_secs(s));
            looks.filter(|now| drains.is_due(*now, 1.2)).count()
        };
        assert_eq!(often(Duration::from_millis(10)), 32);
        assert_eq!(often(Duration::from_millis(400)), 8);
    }
}
