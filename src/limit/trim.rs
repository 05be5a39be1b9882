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
//! the others, so θ yields instead. But a τ that is too low makes `e·W` as
//! large: so θ stays until a drain has shown that τ is right (`drain.rs`).

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
/// A slowdown from which on the upstream queues at all.
const QUEUEING: f64 = 1.3;
/// `e·W` past which the plant is shared: 1, and room for the scatter of e.
const SHARED: f64 = 1.15;
/// The weight of the newest cycle in `e·W`.
const SHARED_GAIN: f64 = 0.15;
/// What a cycle leaves of θ while the plant is shared.
const YIELD: f64 = 0.85;
/// Cycles after which the proof is to be had again.
const PROVED: u32 = 8;

/// θ, and what it goes by.
#[derive(Debug)]
pub(super) struct Trim {
    theta: f64,
    /// Smoothed `e·W`; 0 where nothing queues.
    excess: f64,
    /// Cycles for which a drain's proof that it is no longer way counts.
    proved: u32,
}

impl Trim {
    pub(super) const fn new() -> Self {
        Self {
            theta: 1.0,
            excess: 0.0,
            proved: 0,
        }
    }

    pub(super) const fn theta(&self) -> f64 {
        self.theta
    }

    /// Where L is known to be worth it by other means.
    pub(super) fn set(&mut self, theta: f64) {
        self.theta = theta.clamp(THETA.0, THETA.1);
    }

    /// A drain has shown that the queue is one: ours, or of all who share the
    /// upstream.
    pub(super) fn yields(&mut self) {
        self.theta = (self.theta * YIELD).max(THETA.0);
        self.proved = PROVED;
    }

    /// Whether others seem to send to the same upstream, or τ is too low: only
    /// a drain can tell.
    pub(super) fn is_shared(&self) -> bool {
        self.excess > SHARED
    }

    /// A whole cycle was bound: its elasticity, at the slowdown W.
    pub(super) fn learn(&mut self, seen: Elasticity, slowdown: f64) {
        let surely = (seen.mean - seen.deviation).max(0.0);
        let queueing = slowdown > QUEUEING;
        let excess = if queueing { surely * slowdown } else { 0.0 };
        self.excess += SHARED_GAIN * (excess - self.excess);
        let shared = self.is_shared() || excess > SHARED;
        let factor = match (shared, self.proved > 0) {
            (true, true) => YIELD,
            (true, false) => 1.0,
            (false, _) => Self::step(seen).exp(),
        };
        self.proved = self.proved.saturating_sub(1);
        self.theta = (self.theta * factor).clamp(THETA.0, THETA.1);
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
            trim.learn(sure(mean), slowdown);
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
    fn an_elasticity_that_no_plant_of_our_own_could_have_yields_once_a_drain_has_proved_it() {
        // A group commit: R₀/R of a third, and W = 3.
        let alone = after(30, 0.3, 3.0);
        assert!(!alone.is_shared() && alone.theta() > 2.0);
        // Eight who share a plant, 1 − 1/8 at the same slowdown; or a way that
        // has become longer. Until a drain tells which, θ stays.
        let mut shared = after(10, 0.875, 3.0);
        assert!(shared.is_shared());
        let before = shared.theta();
        shared.learn(sure(0.875), 3.0);
        assert!((shared.theta() - before).abs() < 1e-9);
        shared.yields();
        shared.learn(sure(0.875), 3.0);
        assert!(shared.theta() < 0.8 * before);
    }
}
