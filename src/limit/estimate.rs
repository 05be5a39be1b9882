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
//! τ is seen in drains (`drain.rs`), which also tell a queue from a longer way
//! where that is suspected: for a slowdown that no limit of ours explains, and
//! for an elasticity that no plant of ours alone could have.
//!
//! Who finds that others share the upstream goes by a rule that is fair to
//! them, as long as they are there (`estimate/crowd.rs`); who cannot find them
//! sees them give way (`estimate/following.rs`).
//!
//! All of that speaks of callers who press: as much again waits behind a
//! batch as is in it. While they do not, `partial.rs` gives the limit.

use std::time::Instant;

use super::{
    doubling::{self, Doubling},
    drain::{Drains, Purpose},
    elasticity::Phases,
    faults::Faults,
    meter::Meter,
    partial::Partial,
    rule::{Outcome, Rule, Sample, is_pressing},
    trim::Trim,
    unloaded::Unloaded,
};
use crowd::Crowd;
use following::Seconds;
use stage::{HIGH, Stage, Then};

/// How far a high phase goes above L. It never goes below: L is what should
/// carry the load, and looking for less must not cost any of it.
const DITHER: f64 = 1.3;
/// A centre this close to the next whole batch counts as it.
const ROUND_UP: f64 = 0.3;
/// The slowdown at which START stops, unless throughput still grows by itself.
const START_SLOWDOWN: f64 = 2.0;
/// A round in which fewer of the batches left as much behind is not bound by us.
const BOUND: f64 = 0.6;
/// The part of the BDP that counts as alone. If τ, and so the BDP, is too
/// high by a queue, the next drain lowers both by this factor: it converges.
const DRAIN_TO: f64 = 0.8;
/// The limit before the first sample: one, so that the first latencies are
/// of batches that met no other of ours.
const FIRST_LIMIT: f64 = 1.0;
/// The cut for an upstream that says it has no resources left.
const CUT: f64 = 0.7;
/// Idleness after which the limit found under load is not trusted, seconds.
const IDLE: f64 = 10.0;
/// Room over the BDP while nobody presses, and for the rounding.
const LIGHT: (f64, f64) = (1.2, 0.5);

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
    drains: Drains,
    /// Which phase a cycle begins with: cycles of several sidecars that share
    /// an upstream must not keep step.
    turn: usize,
    began: Option<Instant>,
    /// When the cycle before ended.
    cycle_began: Option<Instant>,
    /// The slowdown as it usually is.
    usual: f64,
    round: Option<Meter>,
    phases: Phases,
    faults: Faults,
    /// Whether as much again stood behind the batch sent last.
    pressed: bool,
    partial: Partial,
    crowd: Crowd,
    seconds: Seconds,
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
            stage: Stage::Start(Doubling::default()),
            trim: Trim::new(),
            bdp: 0.0,
            unloaded: Unloaded::default(),
            srtt: 0.0,
            slowdown: 0.0,
            slow_rounds: 0,
            drains: Drains::new(),
            turn: 0,
            began: None,
            cycle_began: None,
            usual: 0.0,
            round: None,
            phases: Phases::default(),
            faults: Faults::default(),
            pressed: false,
            partial: Partial::new(1.0),
            crowd: Crowd::default(),
            seconds: Seconds::default(),
        }
    }

    fn clamp(&self, limit: f64) -> f64 {
        limit.clamp(self.min, self.max.max(self.min))
    }

    /// The two limits of a steady cycle, at least one batch apart.
    fn dither(&self) -> (f64, f64) {
        if self.crowd.is_met() {
            let low = self.clamp((self.centre + ROUND_UP).floor());
            return (low, self.clamp(low + 1.0));
        }
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
        if let Some(share) = self.crowd.share(self.bdp, self.usual) {
            return share;
        }
        self.bracket() * self.bdp + 1.0
    }

    /// The limit while callers press.
    fn full_limit(&self) -> f64 {
        match self.stage {
            Stage::Start(_) => self.centre,
            Stage::Drain { alone, .. } => self.clamp(alone.floor()),
            Stage::Steady { phase } if self.is_high(phase) => self.dither().1,
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
        self.crowd.forget();
        self.slow_rounds = 0;
        self.drains.renew();
        self.usual = 0.0;
        self.phases = Phases::default();
        self.enter(Stage::Start(Doubling::default()));
    }

    fn cut(&mut self) {
        self.centre = self.clamp(self.centre * CUT);
        self.bdp *= CUT;
        self.partial.cut(CUT);
        self.drains.break_off();
        self.enter(Stage::Steady { phase: 0 });
    }

    /// Nothing was sent for long: τ and θ stay, the limit of a burst does not.
    fn resume(&mut self) {
        if self.bdp > 0.0 {
            self.centre = self.clamp(self.target().min(self.centre));
            self.drains.break_off();
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
        if self.drains.sent(sample) {
            return self.learn_drain(sample);
        }
        // While callers press, only a drain is clean: others may be there.
        let alone = f64::from(sample.in_flight) <= (self.bdp * DRAIN_TO).max(1.0);
        let clean = alone && !sample.is_pressed();
        // The first few are as clean as any will be before START is over.
        if clean || self.unloaded.is_new() {
            self.learn_unloaded(sample);
        }
    }

    fn learn_unloaded(&mut self, sample: &Sample) {
        let rtt = sample.rtt().as_secs_f64();
        self.unloaded.learn(f64::from(sample.entries), rtt);
    }

    /// Samples that make a round: enough to see each slot once or twice.
    fn round_samples(&self) -> u32 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let slots = self.full_limit() as u32;
        match self.stage {
            Stage::Start(_) => slots.max(3) + 1,
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
        if let Stage::Drain { .. } = self.stage {
            return;
        }
        if !self.drains.sent(sample) {
            self.count_second(sample, unloaded);
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
            Stage::Start(doubling) => self.end_start_round(now, &round, doubling, bound),
            Stage::Drain { .. } | Stage::Away => {}
            Stage::Steady { phase } => self.end_steady_phase(now, round, phase, bound),
        }
    }

    fn end_start_round(
        &mut self,
        now: Instant,
        round: &Meter,
        mut doubling: Doubling,
        bound: bool,
    ) {
        if !bound {
            return self.enter(Stage::Start(doubling));
        }
        self.bdp = self.bdp.max(round.work_rate());
        let known = self.unloaded.knows(round.mean_entries());
        let slowdown = round.slowdown().filter(|_| known).unwrap_or(1.0);
        let verdict = doubling.round(self.centre, round, slowdown);
        let congested = slowdown > START_SLOWDOWN && verdict != doubling::Verdict::Grew;
        if verdict == doubling::Verdict::Flat || congested || self.centre >= self.max {
            self.centre = self.clamp(self.target());
            if doubling.paid() > self.centre {
                self.centre = doubling.paid();
                let theta = (self.centre - 1.0) / (self.unloaded.spread() * self.bdp);
                self.trim.set(theta);
            }
            return self.drain(now, Then::Steady { phase: 0 }, Purpose::Empty);
        }
        self.centre = self.clamp(self.centre * 2.0);
        self.enter(Stage::Start(doubling));
    }

    /// A number of 0 to 1 that differs from one sidecar to the next.
    fn lot(&self, now: Instant) -> f64 {
        let began = self.began.unwrap_or(now);
        let nanos = now.saturating_duration_since(began).subsec_nanos();
        f64::from(nanos % 1_000_000) / 1e6
    }
}

impl Rule for Little {
    fn learn(&mut self, sample: &Sample) {
        self.began.get_or_insert(sample.sent);
        let idle = self.faults.idle_before(sample) > IDLE;
        let stalled = self.faults.ends_stall(sample, self.srtt);
        if sample.outcome == Outcome::Unavailable {
            self.drains.break_off();
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
            if self.drains.sent(sample) {
                // It would wait for this one for ever, and hold L meanwhile.
                self.drains.break_off();
            }
            return; // its latency says nothing of the work
        }
        self.smooth(sample.rtt().as_secs_f64());
        if stalled {
            self.round = None;
            return;
        }
        self.watch_slots(sample.now);
        self.learn_latency(sample);
        self.measure(sample);
    }

    fn align(&mut self, origin: Instant) {
        self.drains.align(origin);
    }

    fn leaves(&mut self, now: Instant, entries: u32, backlog: u64) {
        self.pressed = is_pressing(entries, backlog);
        if let Stage::Drain { left, then, .. } = &mut self.stage {
            *left = left.saturating_sub(1);
            let (left, then) = (*left, *then);
            self.drains.leaves(now, left);
            if left == 0 {
                self.enter(then.into());
            }
        }
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

mod crowd;
mod draining;
mod following;
mod stage;
mod steady;

#[cfg(test)]
mod tests;
