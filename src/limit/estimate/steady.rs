//! STEADY and GUARD: what the phases of a cycle say of θ and the BDP. PURE.

use std::time::Instant;

use super::{HIGH, Little, Stage};
use crate::limit::meter::Meter;

/// An elasticity that is no trimming any more: the plant has become faster.
const FAR: f64 = 0.4;
/// … unless it still queues this much.
const FAR_SLOWDOWN: f64 = 1.2;
/// The weight of the newest high phase in the BDP.
const BDP_GAIN: f64 = 0.4;
/// L moves at most this much down and up in one cycle.
const CYCLE_STEP: (f64, f64) = (0.7, 1.25);
/// GUARD: the slowdown that this many phases in a row may not exceed, as
/// `a·θ·S + max(b, 1/BDP)`. At the knee W is about θ·S. What exceeds it is
/// suspected, and the next drain tells whether it is a queue.
const GUARD: (f64, f64, u8) = (1.6, 0.4, 3);
/// The weight of the newest phase in the usual slowdown.
const USUAL_GAIN: f64 = 0.1;

impl Little {
    pub(super) fn end_steady_phase(
        &mut self,
        now: Instant,
        round: Meter,
        phase: usize,
        bound: bool,
    ) {
        if !bound {
            // App-limited: θ is frozen, for there is no elasticity to see.
            self.slow_rounds = 0;
            return self.enter(Stage::Steady { phase: 0 });
        }
        if self.is_overloaded(&round) {
            self.drains.suspect();
        }
        if self.is_high(phase) || self.crowd.is_met() {
            self.bdp += BDP_GAIN * (round.work_rate() - self.bdp);
        }
        if self.is_high(phase) {
            self.phases.high.merge(&round);
        } else {
            self.phases.low.merge(&round);
        }
        if phase + 1 < HIGH.len() {
            return self.enter(Stage::Steady { phase: phase + 1 });
        }
        self.end_steady_cycle(now);
    }

    fn end_steady_cycle(&mut self, now: Instant) {
        self.turn = now
            .saturating_duration_since(self.began.unwrap_or(now))
            .subsec_nanos() as usize;
        if self.adjust(now) > FAR {
            return self.start_from(self.centre);
        }
        self.enter(Stage::Steady { phase: 0 });
    }

    pub(super) fn is_high(&self, phase: usize) -> bool {
        HIGH[(phase + self.turn) % HIGH.len()]
    }

    /// GUARD: whether the upstream has been far slower than at the knee for
    /// several phases. Keeps the usual slowdown, too.
    fn is_overloaded(&mut self, round: &Meter) -> bool {
        let Some(slowdown) = round.slowdown() else {
            return false;
        };
        self.usual += match self.usual == 0.0 {
            true => slowdown,
            false => USUAL_GAIN * (slowdown - self.usual),
        };
        let (factor, room, rounds) = GUARD;
        // With little on its way, the one batch that waits is much beside it.
        let allowed = factor * self.bracket() + room.max(1.0 / self.bdp);
        let slow = self.unloaded.knows(round.mean_entries()) && slowdown > allowed;
        self.slow_rounds = if slow { self.slow_rounds + 1 } else { 0 };
        self.slow_rounds >= rounds
    }

    /// A whole cycle was bound: the elasticity moves θ, and L follows.
    /// Returns what the elasticity of this cycle alone surely exceeds,
    /// `e − 2σ`; 0 if it is unknown or not ours alone.
    fn adjust(&mut self, now: Instant) -> f64 {
        let (low, high) = self.dither();
        let lever = (high / low).ln();
        self.crowd.carries(self.phases.low.throughput());
        let seconds = self.cycle_began.replace(now).map_or(0.0, |began| {
            now.saturating_duration_since(began).as_secs_f64()
        });
        // What stands in the queue is one and the same for those behind it.
        let queued = low * (1.0 - 1.0 / self.slowdown.max(1.0));
        let Some((fresh, seen)) = self.phases.end_cycle(lever, 1.0 + queued) else {
            return 0.0;
        };
        if self.crowd.is_met() {
            self.end_cycle_in_crowd();
            return 0.0;
        }
        let held = self.is_held();
        self.trim.learn(seen, self.usual, seconds, held);
        self.suspect_others(now);
        self.follow();
        // A queue that is there still says that nothing has become faster.
        let others = self.trim.has_others() || self.trim.is_shared();
        match self.usual > FAR_SLOWDOWN || others {
            true => 0.0,
            false => fresh.mean - 2.0 * fresh.deviation,
        }
    }

    /// L goes where θ and the BDP are, not too fast.
    pub(super) fn follow(&mut self) {
        if self.is_held() {
            return;
        }
        let (down, up) = CYCLE_STEP;
        let target = self.target();
        self.centre = self.clamp(target.clamp(self.centre * down, self.centre * up));
    }
}
