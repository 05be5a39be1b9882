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
//!
//! **Where that is wrong.** The latency of a group commit jumps with the second
//! batch, from one sync to two, and stays there: it is not convex, and `e·W`
//! comes to 2 with nobody else there. So [`FEW`] batches at a slowdown that such
//! a jump explains raise no suspicion; and yielding is a trial. Others who yield
//! in the same slot shorten what all of them wait for. If R stays although L
//! fell, nobody else is there: θ goes back to where it was, and the plant counts
//! as ours alone for some cycles, each time for twice as many.

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
/// `e·W` past which the plant is shared: 1, less what `e − σ` is below e.
const SHARED: f64 = 0.9;
/// The weight of the newest cycle in `e·W`.
const SHARED_GAIN: f64 = 0.25;
/// Batches in flight below which a slowdown of up to [`JUMP`] proves no others.
const FEW: f64 = 8.0;
/// More than the slowdown that two syncs instead of one make, by what W scatters.
const JUMP: f64 = 2.6;
/// What a cycle leaves of θ while the plant is shared.
const YIELD: f64 = 0.85;
/// Cycles after which the proof is to be had again.
const PROVED: u32 = 8;
/// Cycles of yielding after which the trial is judged.
const TRIAL: u32 = 3;
/// `ln L` must have fallen by this much for the trial to tell anything …
const FELL: f64 = 0.2;
/// … and `ln R` by this part of that, if others are there.
const QUICKER: f64 = 0.3;
/// Cycles for which the plant counts as ours alone after the first trial.
const ALONE: u32 = 30;
/// Cycles for which others are remembered.
const OTHERS: u32 = 100;

/// What a cycle's low phases were like.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Low {
    /// Their limit, batches.
    pub(super) limit: f64,
    /// R in them, seconds.
    pub(super) latency: f64,
}

/// θ, and what it goes by.
#[derive(Debug)]
pub(super) struct Trim {
    theta: f64,
    /// Smoothed `e·W`; 0 where nothing queues.
    excess: f64,
    /// Cycles for which a drain's proof that it is no longer way counts.
    proved: u32,
    /// Cycles for which others are remembered.
    others: u32,
    /// Of the last cycle.
    low: Low,
    /// What was there when θ, which is kept too, began to yield.
    trial: Option<(Low, f64)>,
    /// Cycles for which the plant counts as ours alone …
    alone: u32,
    /// … and for how many it will after the next trial.
    patience: u32,
}

impl Trim {
    pub(super) const fn new() -> Self {
        Self {
            theta: 1.0,
            excess: 0.0,
            proved: 0,
            others: 0,
            low: Low {
                limit: 0.0,
                latency: 0.0,
            },
            trial: None,
            alone: 0,
            patience: ALONE,
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
        if self.is_shared() {
            self.others = OTHERS;
            self.trial.get_or_insert((self.low, self.theta));
        }
        self.theta = (self.theta * YIELD).max(THETA.0);
        self.proved = PROVED;
    }

    /// Whether others seem to send to the same upstream, or τ is too low: only
    /// a drain can tell.
    pub(super) fn is_shared(&self) -> bool {
        self.alone == 0 && self.excess > SHARED
    }

    /// Whether others were at the same upstream not long ago. What they leave
    /// to us looks like an upstream that has become faster.
    pub(super) const fn has_others(&self) -> bool {
        self.others > 0
    }

    /// A whole cycle was bound: its elasticity, at the slowdown W.
    pub(super) fn learn(&mut self, seen: Elasticity, slowdown: f64, low: Low) {
        self.low = low;
        self.alone = self.alone.saturating_sub(1);
        self.judge_trial();
        let surely = (seen.mean - seen.deviation).max(0.0);
        let queueing = slowdown > QUEUEING && (low.limit >= FEW || slowdown > JUMP);
        let excess = if queueing { surely * slowdown } else { 0.0 };
        self.excess += SHARED_GAIN * (excess - self.excess);
        let shared = self.is_shared() || (self.alone == 0 && excess > SHARED);
        let factor = match (shared, self.proved > 0) {
            (true, true) => YIELD,
            (true, false) => 1.0,
            (false, _) => Self::step(seen).exp(),
        };
        self.proved = self.proved.saturating_sub(1);
        self.others = self.others.saturating_sub(1);
        self.theta = (self.theta * factor).clamp(THETA.0, THETA.1);
    }

    /// Whether what was yielded has shortened anybody's wait.
    fn judge_trial(&mut self) {
        if self.proved > PROVED - TRIAL {
            return;
        }
        let Some((before, theta)) = self.trial.take() else {
            return;
        };
        let fell = (before.limit / self.low.limit).ln();
        let quicker = (before.latency / self.low.latency).ln();
        if fell > FELL && quicker < QUICKER * fell {
            self.theta = theta;
            self.alone = self.patience;
            self.patience = self.patience.saturating_mul(2);
            (self.excess, self.proved, self.others) = (0.0, 0, 0);
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

    /// So many batches in flight, each of which takes `ms`.
    fn low(limit: f64, ms: f64) -> Low {
        Low {
            limit,
            latency: ms / 1e3,
        }
    }

    fn after(cycles: u32, mean: f64, slowdown: f64) -> Trim {
        let mut trim = Trim::new();
        for _ in 0..cycles {
            trim.learn(sure(mean), slowdown, low(10.0, 30.0));
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
        // A group commit: R₀/R of a quarter, and W = 3.
        let alone = after(30, 0.25, 3.0);
        assert!(!alone.is_shared() && alone.theta() > 2.0);
        // Eight who share a plant, 1 − 1/8 at the same slowdown; or a way that
        // has become longer. Until a drain tells which, θ stays.
        let mut shared = after(10, 0.875, 3.0);
        assert!(shared.is_shared());
        let before = shared.theta();
        shared.learn(sure(0.875), 3.0, low(10.0, 30.0));
        assert!((shared.theta() - before).abs() < 1e-9);
        shared.yields();
        shared.learn(sure(0.875), 3.0, low(9.0, 28.0));
        assert!(shared.theta() < 0.8 * before);
    }

    #[test]
    fn who_yields_in_vain_is_alone_and_goes_back() {
        let yielding = |latency: fn(f64) -> f64| {
            let mut trim = after(10, 0.875, 3.0);
            let before = trim.theta();
            trim.yields();
            for limit in [9.0, 7.5, 6.2, 6.0] {
                trim.learn(sure(0.875), 3.0, low(limit, latency(limit)));
            }
            trim.theta() / before
        };
        // Others yield too: the queue is as much shorter. Nobody else: it is not.
        assert!(yielding(|limit| 3.0 * limit) < 0.6);
        assert!(yielding(|_| 30.0) > 0.95);
    }

    #[test]
    fn the_second_sync_of_a_group_commit_is_not_taken_for_others() {
        let mut trim = Trim::new();
        for _ in 0..10 {
            trim.learn(sure(0.9), 1.9, low(3.0, 6.0));
        }
        assert!(!trim.is_shared() && trim.theta() > 2.0);
    }
}
