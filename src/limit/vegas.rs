//! Vegas: how many batches queue upstream, judged by the least latency seen.
//! PURE.
//!
//! As Netflix's concurrency-limits does it. By Little's law, of L batches in
//! flight L·rtt0/rtt are worked on; the rest queue:
//!
//! ```text
//! Q = L · (1 − rtt0 / rtt)           batches; rtt0 is the least latency seen, seconds
//! Q ≤ s        L ← L + 6·s           s = max(1, log10 L), the step
//! Q < 3·s      L ← L + s
//! Q > 6·s      L ← L − s
//! ```
//!
//! Every 30·L samples or so rtt0 is forgotten and taken anew from one sample,
//! which under load has the queue in it: then the limit keeps that queue.

use super::rule::{Bounds, PUBLISHED_FIRST, Rule, Sample};

/// Queues in steps: between them the limit stays.
const ALPHA: f64 = 3.0;
const BETA: f64 = 6.0;
/// Samples between two probes, over the limit.
const PROBE_MULTIPLIER: f64 = 30.0;
/// 1/φ: its multiples, modulo 1, spread as evenly as drawn numbers and need
/// no generator. Probes are spread so that sidecars do not probe in step.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Keeps a queue of a few batches.
#[derive(Debug)]
pub(super) struct Vegas {
    bounds: Bounds,
    limit: f64,
    /// Seconds; 0 before the first sample.
    rtt0: f64,
    samples: f64,
    probes: f64,
}

impl Vegas {
    pub(super) fn new(min: u32, max: u32) -> Self {
        let bounds = Bounds::new(min, max);
        Self {
            bounds,
            limit: bounds.clamp(PUBLISHED_FIRST),
            rtt0: 0.0,
            samples: 0.0,
            probes: 0.0,
        }
    }

    /// Samples from one probe to the next: 15 to 30 times the limit.
    fn probe_after(&self) -> f64 {
        let jitter = (self.probes * GOLDEN).fract().mul_add(0.5, 0.5);
        jitter * PROBE_MULTIPLIER * self.limit
    }
}

impl Rule for Vegas {
    fn learn(&mut self, sample: &Sample) {
        let step = self.limit.log10().max(1.0);
        // Before its latency is looked at: a refusal is quick, and as rtt0 it
        // would hold the limit down until the next probe.
        if sample.outcome.is_drop() {
            self.limit = self.bounds.clamp(self.limit - step);
            return;
        }
        let rtt = sample.rtt().as_secs_f64();
        self.samples += 1.0;
        if self.samples >= self.probe_after() {
            self.samples = 0.0;
            self.probes += 1.0;
            self.rtt0 = rtt;
            return;
        }
        if self.rtt0 == 0.0 || rtt < self.rtt0 {
            self.rtt0 = rtt;
            return;
        }
        if f64::from(sample.in_flight) * 2.0 < self.limit {
            return;
        }
        let queue = (self.limit * (1.0 - self.rtt0 / rtt)).ceil();
        let limit = if queue <= step {
            BETA.mul_add(step, self.limit)
        } else if queue < ALPHA * step {
            self.limit + step
        } else if queue > BETA * step {
            self.limit - step
        } else {
            self.limit
        };
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

    fn learn(rule: &mut Vegas, ms: u64, outcome: Outcome) {
        rule.learn(&sample(Duration::from_millis(ms), 256, outcome));
    }

    #[test]
    fn it_rises_while_little_queues_and_falls_while_much_does() {
        let mut rule = Vegas::new(1, 256);
        learn(&mut rule, 10, Outcome::Success);
        assert_eq!(rule.limit(), 20.0, "the first latency is the least");
        learn(&mut rule, 10, Outcome::Success);
        // log10 20 = 1.30, six times.
        assert!((rule.limit() - 27.806).abs() < 1e-3, "{}", rule.limit());
        let before = rule.limit();
        learn(&mut rule, 20, Outcome::Success);
        assert!(rule.limit() < before, "half of the limit queues");
    }

    #[test]
    fn a_quick_refusal_is_not_the_least_latency() {
        let mut rule = Vegas::new(1, 256);
        learn(&mut rule, 10, Outcome::Success);
        learn(&mut rule, 1, Outcome::Exhausted);
        let before = rule.limit();
        assert!(before < 20.0);
        learn(&mut rule, 10, Outcome::Success);
        assert!(rule.limit() > before, "nothing queues at 10 ms");
    }
}
