//! The gradient between a long and a short average of the latency. PURE.
//!
//! As Netflix's Gradient2 does it, each answered batch moving the limit:
//!
//! ```text
//! g = clamp(1.5 · long / short, 0.5, 1)       dimensionless; 1 while short ≤ 1.5 · long
//! L ← L + 0.2 · (g · L + 4 − L)               batches; 4 of them may queue
//! ```
//!
//! `long` (seconds) is a mean of about 600 latencies, `short` the latest one; a
//! `long` of more than twice `short` decays faster. It hears no errors, and a
//! load that stays is in time taken for the upstream's own latency, so under
//! steady overload the limit drifts up.

use super::rule::{Bounds, PUBLISHED_FIRST, Rule, Sample};

/// Latencies that `long` remembers, and how many of them are plainly averaged.
const WINDOW: f64 = 600.0;
const WARM_UP: f64 = 10.0;
/// How much `short` may exceed `long` before the limit falls.
const TOLERANCE: f64 = 1.5;
/// Batches that may queue.
const QUEUE: f64 = 4.0;
/// The part of the way to its target that the limit goes in one step.
const SMOOTHING: f64 = 0.2;
/// `long` over `short` above which `long` is stale, and what it then keeps.
const STALE: f64 = 2.0;
const DECAY: f64 = 0.95;

/// Scales the limit by how the latency compares with what it was for long.
#[derive(Debug)]
pub(super) struct Gradient2 {
    bounds: Bounds,
    limit: f64,
    /// Seconds.
    long: f64,
    samples: f64,
}

impl Gradient2 {
    pub(super) fn new(min: u32, max: u32) -> Self {
        let bounds = Bounds::new(min, max);
        Self {
            bounds,
            limit: bounds.clamp(PUBLISHED_FIRST),
            long: 0.0,
            samples: 0.0,
        }
    }
}

impl Rule for Gradient2 {
    fn learn(&mut self, sample: &Sample) {
        let short = sample.rtt().as_secs_f64();
        // A drop's latency is nobody's work; one of nothing divides by zero.
        if sample.outcome.is_drop() || short == 0.0 {
            return;
        }
        self.samples += 1.0;
        self.long += match self.samples <= WARM_UP {
            true => (short - self.long) / self.samples,
            false => (short - self.long) * 2.0 / (WINDOW + 1.0),
        };
        if self.long / short > STALE {
            self.long *= DECAY;
        }
        if f64::from(sample.in_flight) < self.limit / 2.0 {
            return;
        }
        let gradient = (TOLERANCE * self.long / short).clamp(0.5, 1.0);
        let target = self.limit.mul_add(gradient, QUEUE);
        let limit = SMOOTHING.mul_add(target - self.limit, self.limit);
        self.limit = self.bounds.clamp(limit);
    }

    fn limit(&self) -> f64 {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limit::{Outcome, rule::tests::sample};

    fn learn(rule: &mut Gradient2, ms: u64, outcome: Outcome) {
        rule.learn(&sample(Duration::from_millis(ms), 256, outcome));
    }

    #[test]
    fn a_steady_latency_raises_it_and_a_longer_one_lowers_it() {
        let mut rule = Gradient2::new(1, 256);
        for _ in 0..20 {
            learn(&mut rule, 10, Outcome::Success);
        }
        // 0.2 · 4 batches a sample, from 20.
        assert!((rule.limit() - 36.0).abs() < 1e-9, "{}", rule.limit());
        for _ in 0..20 {
            learn(&mut rule, 100, Outcome::Success);
        }
        assert!(rule.limit() < 12.0, "{}", rule.limit());
    }

    #[test]
    fn a_drop_and_a_latency_of_nothing_leave_it_as_it_is() {
        let mut rule = Gradient2::new(1, 256);
        learn(&mut rule, 10, Outcome::Success);
        let before = rule.limit();
        learn(&mut rule, 10_000, Outcome::TimedOut);
        learn(&mut rule, 0, Outcome::Success);
        assert_eq!(rule.limit(), before);
    }
}
