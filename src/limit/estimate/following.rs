//! Who comes in last: it sees that others have given way. PURE.
//!
//! The upstream works at `BDP` batches at once, so in a drain of its own one with
//! the share s of what is in flight finds `O = max(1, (1 − s)·W)`: nothing, as long
//! as the others have less in flight than the way holds. Few have: three quarters
//! are one's own soon where there are two to four, and who finds the queue its own
//! so climbs on. A drain cannot tell it better. What it can see is what the others
//! do: those who know come in together at a slot of [`TOGETHER`] seconds, and give
//! way there. A second later everybody compares the slowdown of that second with
//! the one before: if it fell, and the limit of our own did not, it was others.
//!
//! Who does not follow leaves those who came in with a large W and little of it.
//! They take back what they had, and give way again at the next of these slots:
//! it is seen once more, and until then nobody is starved.

use std::time::{Duration, Instant};

use super::{
    Little, Stage,
    crowd::{SLOTS, TRIAL},
};
use crate::limit::rule::Sample;

/// Who has found others comes in at a slot of this period.
pub(super) const TOGETHER: Duration = Duration::from_secs(4);
/// The part of a second after a slot that does not count: all drain in it.
const DRAINING: f64 = 0.2;
/// Batches of a second that tell its slowdown.
const ENOUGH: u32 = 20;
/// A slowdown that leaves room for a fall.
const QUEUED: f64 = 1.5;
/// How far (in its logarithm) W falls where others give way …
const FELL: f64 = 0.15;
/// … and for each unit that one latency scatters.
const SCATTERED: f64 = 0.9;
/// What a limit that stays may lose to the rounding.
const STAYS: f64 = 0.97;
/// A slowdown from which on giving way was in vain.
const IN_VAIN: f64 = 2.5;

/// The slowdown, second by second from slot to slot.
#[derive(Debug, Default)]
pub(super) struct Seconds {
    /// Of this second: Σrtt, Στ(n), and of how many batches.
    rtt: f64,
    work: f64,
    batches: u32,
    /// W of the second before, and L at its end.
    before: Option<(f64, f64)>,
    /// Whether others were suspected when this second began.
    suspected: bool,
}

impl Seconds {
    pub(super) fn count(&mut self, rtt: f64, work: f64, batches: u32) {
        self.rtt += rtt;
        self.work += work;
        self.batches += batches;
    }

    /// A slot: W of the second that it ends, if enough was sent in it.
    fn end(&mut self) -> Option<f64> {
        let (rtt, work) = (self.rtt, self.work);
        let known = self.batches > ENOUGH && work > 0.0;
        (self.rtt, self.work, self.batches) = (0.0, 0.0, 0);
        known.then(|| rtt / work)
    }
}

impl Little {
    /// A batch that no drain sent.
    pub(super) fn count_second(&mut self, sample: &Sample, unloaded: Option<f64>) {
        let counts = |at| self.drains.since_slot(at) > DRAINING;
        let counts = sample.is_pressed() && counts(sample.now) && counts(sample.sent);
        if let Some(unloaded) = unloaded.filter(|_| counts) {
            let rtt = sample.rtt().as_secs_f64();
            self.seconds.count(rtt, unloaded, 1);
        }
    }

    /// A slot has begun that ends `period`.
    pub(super) fn end_second(&mut self, now: Instant, period: Duration) {
        let slowdown = self.seconds.end();
        let after = self.crowd.begins_slot(period >= TOGETHER);
        let suspects = self.trim.looks_shared();
        let suspected = std::mem::replace(&mut self.seconds.suspected, suspects) || suspects;
        let new = slowdown.map(|slowdown| (slowdown, self.centre));
        let before = std::mem::replace(&mut self.seconds.before, new);
        let Some(slowdown) = slowdown else {
            return;
        };
        if self.crowd.has_been_in(now) > TRIAL && slowdown > IN_VAIN {
            return self.take_back();
        }
        let may_follow =
            after && !self.crowd.is_met() && matches!(self.stage, Stage::Steady { .. });
        let seems_shared = suspected || self.trim.has_others();
        if may_follow
            && seems_shared
            && self.drains.slots_seen() >= SLOTS
            && before.is_some_and(|before| self.have_given_way(before, slowdown))
        {
            self.meet(now);
        }
    }

    /// Whether W fell, from one second to the next, by what others do.
    fn have_given_way(&self, (before, limit): (f64, f64), slowdown: f64) -> bool {
        let fell = (before / slowdown).ln() > FELL.max(SCATTERED * self.unloaded.deviation());
        fell && before > QUEUED && self.centre > STAYS * limit
    }
}
