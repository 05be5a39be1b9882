//! When the rule holds back, how far, and what follows from what it then sees.
//! PURE.

use std::time::Instant;

use super::{DRAIN_TO, Little, Phases, Stage, Then};
use crate::limit::{
    drain::{self, Found, Purpose, Verdict},
    rule::Sample,
};

/// The same where a queue is suspected, which may be in the BDP, too …
const DOUBT_TO: f64 = 0.5;
/// … and, in batches, where it may be that of others, who see what we leave.
const SHARED_TO: f64 = 3.0;

impl Little {
    pub(super) fn learn_drain(&mut self, sample: &Sample) {
        let tau = self.unloaded.latency(f64::from(sample.entries));
        if !self.drains.suspects() && !self.drains.is_ours_alone() {
            self.learn_unloaded(sample);
        }
        let scatter = self.unloaded.deviation();
        if let Some(found) = self.drains.answered(sample, tau, scatter, self.slowdown) {
            self.end_drain(sample.now, found);
        }
    }

    pub(super) fn drain(&mut self, now: Instant, then: Then, purpose: Purpose) {
        self.drains.begin(now, purpose);
        self.enter(Stage::Drain {
            alone: self.depth(purpose).max(1.0),
            left: drain::SAMPLES,
            then,
        });
    }

    /// Batches in flight that count as none.
    fn depth(&self, purpose: Purpose) -> f64 {
        let crowded = self.trim.looks_shared() || self.trim.has_others();
        if !(crowded || self.drains.suspects() || purpose.is_ours_alone()) {
            return DRAIN_TO * self.bdp;
        }
        let doubted = DOUBT_TO * self.bdp.min(self.centre / self.slowdown.max(1.0));
        match crowded {
            true => doubted.min(SHARED_TO),
            false => doubted,
        }
    }

    /// The upstream was seen with hardly anything of ours in it, and, at a slot,
    /// of others like us.
    pub(super) fn end_drain(&mut self, now: Instant, found: Found) {
        let lower = found.verdict == Verdict::Queue && found.unloaded < 1.0;
        if lower || matches!(found.verdict, Verdict::Shorter | Verdict::Longer) {
            self.unloaded.becomes(found.entries, found.rtt);
        }
        match found.verdict {
            Verdict::Same => {}
            Verdict::Shorter => {
                // What was in flight for the longer way is a queue now.
                self.bdp *= found.unloaded;
                if !matches!(self.stage, Stage::Start(_)) {
                    self.centre = self.clamp(self.centre.min(self.target()));
                }
            }
            Verdict::Longer => self.start_from(self.centre),
            Verdict::Queue => self.end_suspicion(now, &found),
            Verdict::Others | Verdict::Ours | Verdict::Unclear => self.tell(now, &found),
        }
    }

    /// What stands upstream is our own queue.
    pub(super) fn give_up_queue(&mut self) {
        self.bdp = self.centre / self.slowdown.max(1.0);
        self.trim.yields();
        self.settle_at(self.target());
    }

    /// Goes on from another limit, as if nothing had been measured under this.
    pub(super) fn settle_at(&mut self, limit: f64) {
        self.centre = self.clamp(limit);
        self.usual = 0.0;
        self.phases = Phases::default();
        self.enter(Stage::Steady { phase: 0 });
    }

    /// In the moments for it, a drain: of START, too, for its doublings would
    /// fill the moments in which others look for an empty upstream.
    pub(super) fn watch_slots(&mut self, now: Instant) {
        let others = self.trim.is_shared() || self.crowd.is_met();
        let due = self.drains.due(now, self.usual, others);
        if let Some(period) = self.drains.slot() {
            self.end_second(now, period);
        }
        let Some(purpose) = due else {
            return;
        };
        if purpose == Purpose::Empty {
            self.watch_crowd(now);
        }
        let then = match self.stage {
            Stage::Steady { phase } => Then::Steady { phase },
            Stage::Start(doubling) if self.bdp > 0.0 => Then::Start(doubling),
            _ => return,
        };
        if self.pressed {
            if purpose == Purpose::Empty {
                self.unloaded.relax();
            }
            self.drain(now, then, purpose);
        }
    }
}
