//! Samples in, limit out: Little's law brackets, elasticity trims. PURE.
//!
//! Little: `X·R = L` (throughput × latency = in flight), hence
//! `dlnX/dlnL + dlnR/dlnL = 1`. The throughput's elasticity
//! `e = dlnX/dlnL` tells where the knee is with no minimum latency at all:
//! 1 far below it (more in flight is more throughput), 0 far above (more in
//! flight only waits longer).
//!
//! Little gives the coarse bracket quickly. With the unloaded latency of a
//! batch of n entries `τ(n) = α + β·n` (seconds), the upstream's
//! bandwidth-delay product in batches is the unloaded work it finishes a
//! second, `BDP = Σ τ(n_i) / elapsed`, and the slowdown is
//! `W = Σ rtt_i / Σ τ(n_i)`: both dimensionless, so a larger batch is not
//! mistaken for congestion. Then `L = θ·S·BDP + 1`: S is the room that the
//! spread of the unloaded latency asks for (`unloaded.rs`), and the
//! elasticity moves θ (`trim.rs`).
//!
//! All of that speaks of callers who press: as much again waits behind a
//! batch as is in it. While they do not, `partial.rs` gives the limit.

use std::time::{Duration, Instant};

use super::{
    elasticity::Phases,
    faults::Faults,
    meter::Meter,
    partial::Partial,
    rule::{Outcome, Rule, Sample, is_pressing},
    trim::Trim,
    unloaded::Unloaded,
};

/// How far a high phase goes above L. It never goes below: L is what should
/// carry the load, and looking for less must not cost any of it.
const DITHER: f64 = 1.3;
/// A centre this close to the next whole batch counts as it.
const ROUND_UP: f64 = 0.2;
/// An elasticity that is no trimming any more: the plant has become faster.
const FAR: f64 = 0.4;
/// The weight of the newest high phase in the BDP.
const BDP_GAIN: f64 = 0.4;
/// L moves at most this much down and up in one cycle.
const CYCLE_STEP: (f64, f64) = (0.7, 1.25);
/// A round of START that grows throughput by less than this is flat.
const FLAT: f64 = 1.25;
/// Doublings of the limit that make this much more throughput although the
/// upstream seems to queue, so many in a row, prove that τ is too low: the way
/// became longer. (Eight who share a plant gain 1.78 and then 1.64 times.)
const PROOF: (f64, u8) = (1.75, 2);
/// The slowdown at which START stops, unless throughput still grows.
const START_SLOWDOWN: f64 = 2.0;
/// A round in which fewer of the batches left as much behind is not bound by us.
const BOUND: f64 = 0.6;
/// GUARD: the slowdown that this many phases in a row may not exceed, as
/// `a·θ·S + b`. At the knee W is about θ·S.
const GUARD: (f64, f64, u8) = (1.6, 0.4, 3);
/// The weight of the newest phase in the usual slowdown.
const USUAL_GAIN: f64 = 0.1;
/// How often τ is refreshed while bound, and with how many clean samples.
const DRAIN_EVERY: Duration = Duration::from_secs(5);
const DRAIN_SAMPLES: u32 = 12;
/// The part of the BDP that counts as alone. If τ, and so the BDP, is too
/// high by a queue, the next drain lowers both by this factor: it converges.
const DRAIN_TO: f64 = 2.0 / 3.0;
/// The limit before the first sample: one, so that the first latencies are
/// of batches that met no other of ours.
const FIRST_LIMIT: f64 = 1.0;
/// The cut for an upstream that says it has no resources left.
const CUT: f64 = 0.7;
/// Idleness after which the limit found under load is not trusted, seconds.
const IDLE: f64 = 10.0;
/// Room over the BDP while nobody presses, and for the rounding.
const LIGHT: (f64, f64) = (1.2, 0.5);

/// What the rule is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// Doubles a round until throughput stops growing.
    Start { best: f64, flat: u8 },
    /// Sends less for a moment, to see the unloaded latency again.
    Drain { clean: u32 },
    /// Dithers between L and a little more.
    Steady { phase: usize },
    /// Nobody answers: one probe at a time.
    Away,
}

/// Which phases of a steady cycle run high. Low, high, high, low cancels
/// drift; the others stay low, so that most batches wait in no longer a queue.
const HIGH: [bool; 6] = [false, true, true, false, false, false];

/// The default rule.
#[derive(Debug)]
pub struct Little {
    min: f64,
    max: f64,
    /// The centre; phases and stages run around it.
    centre: f64,
    stage: Stage,
    trim: Trim,
    bdp: f64,
    unloaded: Unloaded,
    /// Smoothed rtt, seconds.
    srtt: f64,
    slowdown: f64,
    slow_rounds: u8,
    proofs: u8,
    /// The slowdown as it usually is.
    usual: f64,
    round: Option<Meter>,
    phases: Phases,
    last_drain: Option<Instant>,
    faults: Faults,
    /// Whether as much again stood behind the batch sent last.
    pressed: bool,
    partial: Partial,
}

impl Little {
    /// A rule that has seen nothing yet.
    #[must_use]
    pub fn new(min: u32, max: u32) -> Self {
        let (min, max) = (f64::from(min.max(1)), f64::from(max.max(1)));
        Self {
            min,
            max,
            centre: FIRST_LIMIT.clamp(min, max.max(min)),
            stage: Stage::Start { best: 0.0, flat: 0 },
            trim: Trim::new(),
            bdp: 0.0,
            unloaded: Unloaded::default(),
            srtt: 0.0,
            slowdown: 0.0,
            slow_rounds: 0,
            proofs: 0,
            usual: 0.0,
            round: None,
            phases: Phases::default(),
            last_drain: None,
            faults: Faults::default(),
            pressed: false,
            partial: Partial::new(1.0),
        }
    }

    fn clamp(&self, limit: f64) -> f64 {
        limit.clamp(self.min, self.max.max(self.min))
    }

    /// The two limits of a steady cycle, at least one batch apart.
    fn dither(&self) -> (f64, f64) {
        let low = self.clamp((self.centre + ROUND_UP).floor());
        let high = self.clamp((self.centre * DITHER).ceil().max(low + 1.0));
        (low, high)
    }

    /// The limit that is at least right while nobody presses: what the way
    /// holds, without the batch that waits so that the upstream never does.
    fn light_limit(&self) -> f64 {
        match self.bdp > 0.0 {
            true => self.bracket().max(LIGHT.0) * self.bdp + LIGHT.1,
            false => 0.0,
        }
    }

    /// θ·S: how much more than the BDP is in flight.
    fn bracket(&self) -> f64 {
        self.trim.theta() * self.unloaded.spread()
    }

    /// `L = θ·S·BDP + 1`: the one waits, so that the upstream never does.
    fn target(&self) -> f64 {
        self.bracket() * self.bdp + 1.0
    }

    /// The limit while callers press.
    fn full_limit(&self) -> f64 {
        match self.stage {
            Stage::Start { .. } => self.centre,
            Stage::Drain { .. } => self.clamp((self.bdp * DRAIN_TO).floor().max(1.0)),
            Stage::Steady { phase } if HIGH[phase] => self.dither().1,
            Stage::Steady { .. } => self.dither().0,
            Stage::Away => 1.0,
        }
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.round = None;
    }

    fn start_from(&mut self, limit: f64) {
        self.centre = self.clamp(limit);
        self.slow_rounds = 0;
        self.proofs = 0;
        self.usual = 0.0;
        self.phases = Phases::default();
        self.enter(Stage::Start { best: 0.0, flat: 0 });
    }

    fn cut(&mut self) {
        self.centre = self.clamp(self.centre * CUT);
        self.bdp *= CUT;
        self.partial.cut(CUT);
        self.enter(Stage::Steady { phase: 0 });
    }

    /// Nothing was sent for long: τ and θ stay, the limit of a burst does not.
    fn resume(&mut self) {
        if self.bdp > 0.0 {
            self.centre = self.clamp(self.target().min(self.centre));
            self.enter(Stage::Steady { phase: 0 });
        }
    }

    /// Of stalls, too: a way that has become longer is one only once.
    fn smooth(&mut self, rtt: f64) {
        self.srtt += match self.srtt == 0.0 {
            true => rtt,
            false => 0.1 * (rtt - self.srtt),
        };
    }

    fn learn_latency(&mut self, sample: &Sample) {
        let rtt = sample.rtt().as_secs_f64();
        let alone = (self.bdp * DRAIN_TO).max(1.0);
        // The first few are as clean as any will be before START is over.
        if f64::from(sample.in_flight) <= alone || self.unloaded.is_new() {
            self.unloaded.learn(f64::from(sample.entries), rtt);
            if let Stage::Drain { clean } = &mut self.stage {
                *clean += 1;
            }
        }
    }

    /// Samples that make a round: enough to see each slot once or twice.
    fn round_samples(&self) -> u32 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let slots = self.full_limit() as u32;
        match self.stage {
            Stage::Start { .. } => slots.max(3) + 1,
            _ => slots.max(12) + 1,
        }
    }

    fn measure(&mut self, sample: &Sample) {
        let entries = f64::from(sample.entries);
        let unloaded = self.unloaded.latency(entries);
        if !sample.is_pressed() {
            let known = unloaded.filter(|_| self.unloaded.knows(entries));
            self.partial.learn(sample, known, self.light_limit());
        }
        let needed = self.round_samples();
        let round = self.round.get_or_insert_with(|| Meter::since(sample.now));
        round.add(sample, unloaded);
        if round.samples() >= needed
            && let Some(round) = self.round.take()
        {
            self.end_round(sample.now, round);
        }
    }

    fn end_round(&mut self, now: Instant, round: Meter) {
        if let Some(slowdown) = round.slowdown() {
            self.slowdown = slowdown;
        }
        let bound = round.pressed() >= BOUND;
        match self.stage {
            Stage::Start { best, flat } => self.end_start_round(&round, best, flat, bound),
            Stage::Drain { .. } | Stage::Away => {}
            Stage::Steady { phase } => self.end_steady_phase(now, round, phase, bound),
        }
    }

    fn end_start_round(&mut self, round: &Meter, best: f64, flat: u8, bound: bool) {
        if !bound {
            return self.enter(Stage::Start { best, flat });
        }
        self.bdp = self.bdp.max(round.work_rate());
        let throughput = round.throughput();
        let grew = throughput >= FLAT * best;
        let flat = if grew { 0 } else { flat + 1 };
        // What grows with the limit is no queue, whatever τ says.
        let queueing = self.is_queueing(round);
        let congested = !grew && queueing;
        let proof = queueing && best > 0.0 && throughput >= PROOF.0 * best;
        self.proofs = if proof { self.proofs + 1 } else { 0 };
        if self.proofs >= PROOF.1 {
            self.unloaded.refuted();
        }
        if flat >= 2 || congested || self.centre >= self.max {
            self.centre = self.clamp(self.target());
            return self.enter(Stage::Drain { clean: 0 });
        }
        self.centre = self.clamp(self.centre * 2.0);
        self.enter(Stage::Start {
            best: best.max(throughput),
            flat,
        });
    }

    /// Whether the upstream takes far longer than for the same work alone.
    fn is_queueing(&self, round: &Meter) -> bool {
        self.unloaded.knows(round.mean_entries())
            && round.slowdown().is_some_and(|w| w > START_SLOWDOWN)
    }

    fn end_steady_phase(&mut self, now: Instant, round: Meter, phase: usize, bound: bool) {
        if !bound {
            // App-limited: θ is frozen, for there is no elasticity to see.
            self.slow_rounds = 0;
            return self.enter(Stage::Steady { phase: 0 });
        }
        if self.is_overloaded(&round) {
            self.bdp = self.full_limit() / self.slowdown.max(1.0);
            return self.start_from(self.centre / 2.0);
        }
        if HIGH[phase] {
            self.bdp += BDP_GAIN * (round.work_rate() - self.bdp);
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
        let last = *self.last_drain.get_or_insert(now);
        if self.adjust() > FAR {
            self.start_from(self.centre);
        } else if now.saturating_duration_since(last) >= DRAIN_EVERY {
            self.last_drain = Some(now);
            self.unloaded.relax();
            self.enter(Stage::Drain { clean: 0 });
        } else {
            self.enter(Stage::Steady { phase: 0 });
        }
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
        let slow =
            self.unloaded.knows(round.mean_entries()) && slowdown > factor * self.bracket() + room;
        self.slow_rounds = if slow { self.slow_rounds + 1 } else { 0 };
        self.slow_rounds >= rounds
    }

    /// A whole cycle was bound: the elasticity moves θ, and L follows.
    /// Returns what the elasticity of this cycle alone surely exceeds,
    /// `e − 2σ`; 0 if it is unknown or not ours alone.
    fn adjust(&mut self) -> f64 {
        let (low, high) = self.dither();
        let lever = (high / low).ln();
        // What stands in the queue is one and the same for those behind it.
        let queued = low * (1.0 - 1.0 / self.slowdown.max(1.0));
        let Some((fresh, seen)) = self.phases.end_cycle(lever, 1.0 + queued) else {
            return 0.0;
        };
        self.trim.learn(seen, self.usual);
        let (down, up) = CYCLE_STEP;
        let target = self.target();
        self.centre = self.clamp(target.clamp(self.centre * down, self.centre * up));
        match self.trim.is_shared() {
            true => 0.0,
            false => fresh.mean - 2.0 * fresh.deviation,
        }
    }
}

impl Rule for Little {
    fn learn(&mut self, sample: &Sample) {
        let idle = self.faults.idle_before(sample) > IDLE;
        let stalled = self.faults.ends_stall(sample, self.srtt);
        if sample.outcome == Outcome::Unavailable {
            return self.enter(Stage::Away);
        }
        if self.stage == Stage::Away {
            self.start_from(self.centre / 2.0);
        }
        if idle {
            self.resume();
        }
        if self.faults.is_congested(sample, self.srtt) {
            self.cut();
        }
        if sample.outcome != Outcome::Success {
            return; // its latency says nothing of the work
        }
        self.smooth(sample.rtt().as_secs_f64());
        if stalled {
            self.round = None;
            return;
        }
        self.learn_latency(sample);
        let drained = Stage::Drain {
            clean: DRAIN_SAMPLES,
        };
        if self.stage == drained {
            return self.enter(Stage::Steady { phase: 0 });
        }
        self.measure(sample);
    }

    fn leaves(&mut self, entries: u32, backlog: u64) {
        self.pressed = is_pressing(entries, backlog);
    }

    fn limit(&self) -> f64 {
        if !self.pressed && self.stage != Stage::Away {
            return self.clamp(self.partial.limit(self.light_limit()));
        }
        self.full_limit()
    }

    fn bdp(&self) -> f64 {
        self.bdp
    }

    fn slowdown(&self) -> f64 {
        self.slowdown
    }
}

#[cfg(test)]
mod tests;
