//! Samples in, limit out: Little's law brackets, elasticity trims. PURE.
//!
//! Little: `X·R = L` (throughput × latency = in flight), hence
//! `dlnX/dlnL + dlnR/dlnL = 1`. The throughput's elasticity
//! `e = dlnX/dlnL` tells where the knee is with no minimum latency at all:
//! 1 far below it (more in flight is more throughput), 0 far above (more in
//! flight only waits longer). Kleinrock's power `X^κ/R` peaks at
//! `e* = 1/(1+κ)`; we aim at `e* = 0.03`, i.e. κ = 32: throughput first.
//!
//! Little gives the coarse bracket quickly. With the unloaded latency of a
//! batch of n entries `τ(n) = α + β·n` (seconds), the upstream's
//! bandwidth-delay product in batches is the unloaded work it finishes a
//! second, `BDP = Σ τ(n_i) / elapsed`, and the slowdown is
//! `W = Σ rtt_i / Σ τ(n_i)`: both dimensionless, so a larger batch is not
//! mistaken for congestion. Then `L = θ·S·BDP + 1`: S is the
//! room that the spread of the unloaded latency asks for (`unloaded.rs`), and
//! the elasticity moves θ, the less the more the throughput scatters.

use std::time::{Duration, Instant};

use super::{
    elasticity::Phases,
    meter::Meter,
    rule::{Outcome, Rule, Sample},
    unloaded::Unloaded,
};

/// The elasticity at which one more batch in flight is no longer worth its wait.
const KNEE: f64 = 0.03;
/// How far θ moves with the elasticity's distance from the knee.
const TRIM_GAIN: f64 = 0.4;
/// The most one cycle believes of that distance.
const TRIM_CLAMP: f64 = 0.3;
/// How far a high phase goes above L. It never goes below: L is what should
/// carry the load, and looking for less must not cost any of it.
const DITHER: f64 = 1.3;
/// The deviation at which half of an elasticity is believed.
const DOUBT: f64 = 0.1;
/// An elasticity that is no trimming any more: the plant has become faster.
const FAR: f64 = 0.4;
/// The weight of the newest high phase in the BDP.
const BDP_GAIN: f64 = 0.4;
/// θ stays within: below, L could not carry the BDP; above, it is all queue.
const THETA: (f64, f64) = (0.5, 4.0);
/// L moves at most this much down and up in one cycle.
const CYCLE_STEP: (f64, f64) = (0.7, 1.25);
/// A round of START that grows throughput by less than this is flat.
const FLAT: f64 = 1.25;
/// The slowdown at which START stops.
const START_SLOWDOWN: f64 = 2.0;
/// A phase in which fewer of the batches waited for a permit is not bound by us.
const BOUND: f64 = 0.6;
/// How often τ is refreshed while bound, and with how many clean samples.
const DRAIN_EVERY: Duration = Duration::from_secs(5);
const DRAIN_SAMPLES: u32 = 12;
/// The part of the BDP that counts as alone. If τ, and so the BDP, is too
/// high by a queue, the next drain lowers both by this factor: it converges.
const DRAIN_TO: f64 = 2.0 / 3.0;
/// The limit before the first sample.
const FIRST_LIMIT: f64 = 2.0;
/// The cut for an upstream that says it has no resources left.
const CUT: f64 = 0.7;
/// Errors that make a cut: this many, and this part of the window.
const CUT_ERRORS: (u32, f64) = (2, 0.1);

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
    theta: f64,
    bdp: f64,
    unloaded: Unloaded,
    /// Smoothed rtt, seconds.
    srtt: f64,
    slowdown: f64,
    slow_rounds: u8,
    round: Option<Meter>,
    phases: Phases,
    last: Option<Instant>,
    last_drain: Option<Instant>,
    errors: u32,
    answers: u32,
    errors_since: Option<Instant>,
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
            theta: 1.0,
            bdp: 0.0,
            unloaded: Unloaded::default(),
            srtt: 0.0,
            slowdown: 0.0,
            slow_rounds: 0,
            round: None,
            phases: Phases::default(),
            last: None,
            last_drain: None,
            errors: 0,
            answers: 0,
            errors_since: None,
        }
    }

    fn clamp(&self, limit: f64) -> f64 {
        limit.clamp(self.min, self.max.max(self.min))
    }

    /// The two limits of a steady cycle, at least one batch apart.
    fn dither(&self) -> (f64, f64) {
        let low = self.clamp(self.centre.floor());
        let high = self.clamp((self.centre * DITHER).ceil().max(low + 1.0));
        (low, high)
    }

    fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.round = None;
    }

    fn start_from(&mut self, limit: f64) {
        self.centre = self.clamp(limit);
        self.slow_rounds = 0;
        self.phases = Phases::default();
        self.enter(Stage::Start { best: 0.0, flat: 0 });
    }

    /// Errors that speak of congestion cut the limit, once an RTT, if they
    /// are more than an accident.
    fn count_error(&mut self, sample: &Sample) {
        self.answers += 1;
        if matches!(sample.outcome, Outcome::Exhausted | Outcome::TimedOut) {
            self.errors += 1;
        }
        let since = *self.errors_since.get_or_insert(sample.now);
        let elapsed = sample.now.saturating_duration_since(since).as_secs_f64();
        let many = f64::from(self.errors) >= CUT_ERRORS.1 * f64::from(self.answers);
        if self.errors >= CUT_ERRORS.0 && many {
            self.centre = self.clamp(self.centre * CUT);
            self.bdp *= CUT;
            self.enter(Stage::Steady { phase: 0 });
        } else if elapsed < self.srtt.max(sample.rtt().as_secs_f64()) {
            return;
        }
        (self.errors, self.answers) = (0, 0);
        self.errors_since = Some(sample.now);
    }

    /// A pause of the whole upstream (garbage collection, compaction) says
    /// nothing of the limit.
    fn is_after_stall(&self, sample: &Sample) -> bool {
        self.srtt > 0.0
            && self.last.is_some_and(|last| {
                let silence = sample.now.saturating_duration_since(last).as_secs_f64();
                sample.sent <= last && silence > 4.0 * self.srtt + 0.002
            })
    }

    fn learn_latency(&mut self, sample: &Sample) {
        let rtt = sample.rtt().as_secs_f64();
        self.srtt += if self.srtt == 0.0 {
            rtt
        } else {
            0.1 * (rtt - self.srtt)
        };
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
        let slots = self.limit() as u32;
        match self.stage {
            Stage::Start { .. } => slots.max(3) + 1,
            _ => slots.max(12) + 1,
        }
    }

    fn end_round(&mut self, now: Instant, round: Meter) {
        if let Some(slowdown) = round.slowdown() {
            self.slowdown = slowdown;
        }
        let bound = round.bound() >= BOUND;
        match self.stage {
            Stage::Start { best, flat } => self.end_start_round(&round, best, flat, bound),
            Stage::Drain { .. } | Stage::Away => {}
            Stage::Steady { phase } => self.end_steady_phase(now, round, phase, bound),
        }
    }

    fn end_start_round(&mut self, round: &Meter, best: f64, flat: u8, bound: bool) {
        self.bdp = self.bdp.max(round.work_rate());
        if !bound {
            // Nobody pressed: there is nothing to find, unless it was the
            // upstream's queue that swallowed everybody.
            if self.is_queueing(round) && self.centre > self.target() {
                self.centre = self.clamp(self.target());
                return self.enter(Stage::Drain { clean: 0 });
            }
            return self.enter(Stage::Start { best, flat });
        }
        let throughput = round.throughput();
        let grew = throughput >= FLAT * best;
        let flat = if grew { 0 } else { flat + 1 };
        let congested = self.is_queueing(round);
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

    /// `L = θ·S·BDP + 1`, with S the room that an uneven upstream needs.
    fn target(&self) -> f64 {
        self.theta * self.unloaded.spread() * self.bdp + 1.0
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
        let overloaded = self.unloaded.knows(round.mean_entries())
            && round
                .slowdown()
                .is_some_and(|w| w > 1.6 * self.theta * self.unloaded.spread() + 0.4);
        self.slow_rounds = if overloaded { self.slow_rounds + 1 } else { 0 };
        if self.slow_rounds >= 3 {
            self.bdp = self.limit() / self.slowdown.max(1.0);
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
        let last = *self.last_drain.get_or_insert(now);
        if self.trim() > FAR {
            return self.start_from(self.centre);
        }
        if now.saturating_duration_since(last) >= DRAIN_EVERY {
            self.last_drain = Some(now);
            return self.enter(Stage::Drain { clean: 0 });
        }
        self.enter(Stage::Steady { phase: 0 });
    }

    /// A whole cycle was bound: the elasticity moves θ, and L follows.
    /// Returns what the elasticity of this cycle alone surely exceeds,
    /// `e − 2σ`; 0 if it is unknown.
    fn trim(&mut self) -> f64 {
        let (low, high) = self.dither();
        let lever = (high / low).ln();
        // What stands in the queue is one and the same for those behind it.
        let queued = low * (1.0 - 1.0 / self.slowdown.max(1.0));
        let correlated = 1.0 + queued;
        let Some((fresh, seen)) = self.phases.end_cycle(lever, correlated) else {
            return 0.0;
        };
        let distance = (seen.mean - KNEE).clamp(-TRIM_CLAMP, TRIM_CLAMP);
        let trust = 1.0 / (1.0 + (seen.deviation / DOUBT).powi(2));
        self.theta = (self.theta * (TRIM_GAIN * trust * distance).exp()).clamp(THETA.0, THETA.1);
        let target = self.target();
        let (down, up) = CYCLE_STEP;
        self.centre = self.clamp(target.clamp(self.centre * down, self.centre * up));
        fresh.mean - 2.0 * fresh.deviation
    }
}

impl Rule for Little {
    fn learn(&mut self, sample: &Sample) {
        if sample.outcome == Outcome::Unavailable {
            self.last = Some(sample.now);
            return self.enter(Stage::Away);
        }
        if self.stage == Stage::Away {
            self.start_from(self.centre / 2.0);
        }
        self.count_error(sample);
        let stalled = self.is_after_stall(sample);
        self.last = Some(sample.now);
        if stalled {
            self.round = None;
            return;
        }
        if sample.outcome != Outcome::Success {
            return; // its latency says nothing of the work
        }
        self.learn_latency(sample);
        if self.stage
            == (Stage::Drain {
                clean: DRAIN_SAMPLES,
            })
        {
            return self.enter(Stage::Steady { phase: 0 });
        }
        let needed = self.round_samples();
        let unloaded = self.unloaded.latency(f64::from(sample.entries));
        let round = self.round.get_or_insert_with(|| Meter::since(sample.now));
        round.add(sample, unloaded);
        if round.samples() >= needed {
            let round = std::mem::take(round);
            self.round = None;
            self.end_round(sample.now, round);
        }
    }

    fn limit(&self) -> f64 {
        match self.stage {
            Stage::Start { .. } => self.centre,
            Stage::Drain { .. } => self.clamp((self.bdp * DRAIN_TO).floor().max(1.0)),
            Stage::Steady { phase } if HIGH[phase] => self.dither().1,
            Stage::Steady { .. } => self.dither().0,
            Stage::Away => 1.0,
        }
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
