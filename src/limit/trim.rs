//! The elasticity moves θ, the factor on the BDP. PURE.
//!
//! Kleinrock's power `X^κ/R` has its peak where `κ·dX/X = dR/R`, which by
//! Little (`dlnR/dlnL = 1 − e`) is the elasticity `e* = 1/(1+κ)`. θ goes up
//! while e is above e* and down while it is below. An elasticity that
//! deviates by σ is believed by `1/(1 + (σ/σ₀)²)`; one that is far above e*,
//! measured in its own σ, is believed the more, since what is not in flight
//! costs throughput, and what is too much costs only a wait.
//!
//! **Others at the same upstream.** Let R(L) be the latency of a plant that
//! is ours alone. Queues make it convex, so its slope at L is at least that
//! of the chord from 0: `dR/dL ≥ (R − R₀)/L`, hence `e = 1 − dlnR/dlnL ≤
//! R₀/R ≤ τ/R = 1/W`. So `e·W ≤ 1`. If k sidecars share the plant, each moves
//! only a k-th of what is in flight, and sees `e ≈ 1 − 1/k` however long the
//! queue is: `e·W` goes past 1. What such an e promises would be taken from
//! the others. But it proves nothing: a τ that is too low makes `e·W` as large,
//! and the latency of a group commit, which jumps from one sync to two with the
//! second batch, is not convex. So it is a suspicion, which drains settle
//! (`drain.rs`) and `estimate/crowd.rs` acts upon; until then θ stays.

use super::elasticity::Elasticity;

/// The elasticity at which one more batch in flight is no longer worth its
/// wait: κ = 49, throughput first.
const KNEE: f64 = 0.02;
/// How far θ moves with the elasticity's distance from the knee.
const GAIN: f64 = 0.4;
/// The most one cycle believes of that distance.
const CLAMP: f64 = 0.3;
/// σ₀, the deviation at which half of an elasticity is believed.
const DOUBT: f64 = 0.1;
/// What is believed of an elasticity below the knee, over that.
const CAUTION: f64 = 0.75;
/// θ stays within: below, L could not carry the BDP; above, it is all queue.
const THETA: (f64, f64) = (0.5, 8.0);
/// A slowdown from which on there is a queue that may be of others.
const QUEUEING: f64 = 1.5;
/// `e·W` past which the plant seems shared: 1, less what `e − σ/2` is below e …
const SHARED: f64 = 0.9;
/// … and past which it may be.
const MAYBE_SHARED: f64 = SHARED / 2.0;
/// The weight of the newest cycle in `e·W`.
const SHARED_GAIN: f64 = 0.35;
/// What a queue that is ours leaves of θ.
const YIELD: f64 = 0.85;
/// Seconds for which the plant counts as ours alone: after the first proof that
/// it is, twice as long after each further one, up to the second figure.
const ALONE: (f64, f64) = (4.0, 128.0);
/// `e·W` from which on a drain that leaves no queue proves that it is ours: of the
/// upstream's work (1) others would have left as much more.
const TELLING: f64 = 1.3;
/// Cycles for which others are remembered.
const OTHERS: u32 = 100;
/// Seconds for which whoever met them does not climb …
const WARY: f64 = 120.0;
/// … past this slowdown.
const ENOUGH: f64 = 3.0;

/// θ, and what it goes by.
#[derive(Debug)]
pub(super) struct Trim {
    theta: f64,
    /// Smoothed `e·W`; 0 where nothing queues.
    excess: f64,
    /// Cycles for which others are remembered.
    others: u32,
    /// Seconds for which it is not forgotten that they were met.
    wary: f64,
    /// Seconds for which the plant counts as ours alone …
    alone: f64,
    /// … and for how many it will after the next proof.
    patience: f64,
}

impl Trim {
    pub(super) const fn new() -> Self {
        Self {
            theta: 1.0,
            excess: 0.0,
            others: 0,
            wary: 0.0,
            alone: 0.0,
            patience: ALONE.0,
        }
    }

    pub(super) const fn theta(&self) -> f64 {
        self.theta
    }

    /// Where L is known to be worth it by other means.
    pub(super) fn set(&mut self, theta: f64) {
        self.theta = theta.clamp(THETA.0, THETA.1);
    }

    /// What stands upstream is our own queue.
    pub(super) fn yields(&mut self) {
        self.set(self.theta * YIELD);
    }

    /// Whether others seem to send to the same upstream, or τ is too low: only
    /// drains can tell.
    pub(super) fn is_shared(&self) -> bool {
        self.alone <= 0.0 && self.excess > SHARED
    }

    /// The same, with half of the evidence.
    pub(super) fn may_be_shared(&self) -> bool {
        self.alone <= 0.0 && self.looks_shared()
    }

    /// Whether it looks so, whatever has been proved.
    pub(super) fn looks_shared(&self) -> bool {
        self.excess > MAYBE_SHARED
    }

    /// Whether others were at the same upstream not long ago. What they leave
    /// to us looks like an upstream that has become faster.
    pub(super) const fn has_others(&self) -> bool {
        self.others > 0
    }

    /// Others are there.
    pub(super) const fn meets_others(&mut self) {
        (self.others, self.wary) = (OTHERS, WARY);
    }

    /// The queue that looked like that of others is ours. Where others would have
    /// left little of it, that is so for a while only: with the part `e` of what is
    /// in flight, they leave a latency of `max(1, e·W)`.
    pub(super) fn is_alone(&mut self) {
        if self.excess < TELLING {
            return self.holds_out(ALONE.0);
        }
        self.wary = 0.0;
        self.holds_out(self.patience);
        self.patience = (self.patience * 2.0).min(ALONE.1);
    }

    /// For so many seconds nothing raises the suspicion.
    pub(super) const fn holds_out(&mut self, seconds: f64) {
        (self.alone, self.excess) = (seconds, 0.0);
    }

    /// A whole cycle of so many `seconds` was bound: its elasticity, at the
    /// slowdown W. While something is `suspected`, θ stays.
    pub(super) fn learn(&mut self, seen: Elasticity, slowdown: f64, seconds: f64, suspected: bool) {
        self.alone = (self.alone - seconds).max(0.0);
        self.others = self.others.saturating_sub(1);
        self.wary = (self.wary - seconds).max(0.0);
        let surely = (seen.mean - seen.deviation / 2.0).max(0.0);
        let excess = match slowdown > QUEUEING {
            true => surely * slowdown,
            false => 0.0,
        };
        self.excess += SHARED_GAIN * (excess - self.excess);
        let step = Self::step(seen);
        let climbs_on = step > 0.0 && self.wary > 0.0 && slowdown > ENOUGH;
        if !(suspected || climbs_on) {
            self.set(self.theta * step.exp());
        }
    }

    fn step(seen: Elasticity) -> f64 {
        let distance = (seen.mean - KNEE).clamp(-CLAMP, CLAMP);
        let belief = 1.0 / (1.0 + (seen.deviation / DOUBT).powi(2));
        let belief = match distance > 0.0 {
            true => belief.max(1.0 / (1.0 + (seen.deviation / distance).powi(2))),
            false => belief * CAUTION,
        };
        GAIN * belief * distance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sure(mean: f64) -> Elasticity {
        Elasticity {
            mean,
            deviation: 0.01,
        }
    }

    fn after(cycles: u32, mean: f64, slowdown: f64) -> Trim {
        let mut trim = Trim::new();
        for _ in 0..cycles {
            trim.learn(sure(mean), slowdown, 0.1, false);
        }
        trim
    }

    #[test]
    fn an_elasticity_above_the_knee_asks_for_more_and_below_it_for_less() {
        assert!(after(5, 0.2, 1.0).theta() > 1.2);
        assert!(after(5, -0.2, 2.0).theta() < 0.8);
        let at_the_knee = after(50, KNEE, 1.5).theta();
        assert!((at_the_knee - 1.0).abs() < 1e-9, "{at_the_knee}");
    }

    #[test]
    fn an_elasticity_that_no_plant_of_our_own_could_have_is_a_suspicion_and_holds_theta() {
        // A group commit well behind its second sync: R₀/R of a quarter, and W = 3.
        let alone = after(30, 0.25, 3.0);
        assert!(!alone.is_shared() && alone.theta() > 2.0);
        // Eight who share a plant, 1 − 1/8 at the same slowdown.
        let mut shared = after(10, 0.875, 3.0);
        assert!(shared.is_shared());
        let before = shared.theta();
        shared.learn(sure(0.875), 3.0, 0.1, true);
        assert!((shared.theta() - before).abs() < 1e-9);
    }

    #[test]
    fn who_is_proved_to_be_alone_is_not_suspected_again_for_a_while_and_then_for_longer() {
        let mut trim = after(10, 0.875, 3.0);
        let mut trusted = || {
            assert!(trim.is_shared());
            trim.is_alone();
            let mut cycles = 0;
            while !trim.is_shared() {
                trim.learn(sure(0.875), 3.0, 0.1, false);
                cycles += 1;
            }
            f64::from(cycles) * 0.1
        };
        let (first, second) = (trusted(), trusted());
        assert!((4.0..4.5).contains(&first), "{first}");
        assert!((8.0..8.5).contains(&second), "{second}");
    }
}
