//! e = dlnX/dlnL from a low and a high phase, and how far to believe it. PURE.
//!
//! By Little `dlnX/dlnL = 1 − dlnR/dlnL`, so there are two readings of it:
//!
//! ```text
//! e_X = ln(X_high/X_low) / ln(L_high/L_low)
//! e_R = 1 − ln(R_high/R_low) / ln(L_high/L_low)
//! ```
//!
//! Past the knee answers come as evenly as the service works and latencies
//! scatter with the queue, so e_X is the sharper one; before the knee the
//! latency hardly moves and answers come in bursts, so e_R is. Each counts by
//! the inverse of its variance.

use super::meter::Meter;

/// An elasticity and its standard deviation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elasticity {
    pub(super) mean: f64,
    pub(super) deviation: f64,
}

/// What a cycle leaves of the phases measured before it. The throughput of
/// one phase of m batches deviates by j/√m, far more than the knee is wide.
const REMEMBER: f64 = 0.7;
/// A variance below which no reading is believed.
const FLOOR: f64 = 1e-4;

/// The phases of this cycle, and what is left of those before.
#[derive(Debug, Default)]
pub(super) struct Phases {
    pub(super) low: Meter,
    pub(super) high: Meter,
    past_low: Meter,
    past_high: Meter,
}

impl Phases {
    /// A cycle is over: its own elasticity, and the one with its past in it.
    pub(super) fn end_cycle(
        &mut self,
        lever: f64,
        correlated: f64,
    ) -> Option<(Elasticity, Elasticity)> {
        let fresh = Elasticity::between(&self.low, &self.high, lever, correlated);
        for (past, cycle) in [
            (&mut self.past_low, &mut self.low),
            (&mut self.past_high, &mut self.high),
        ] {
            past.fade(REMEMBER);
            past.merge(&std::mem::take(cycle));
        }
        let seen = Elasticity::between(&self.past_low, &self.past_high, lever, correlated);
        fresh.zip(seen)
    }
}

impl Elasticity {
    /// Of two phases whose limits are `lever = ln(L_high/L_low)` apart;
    /// `correlated` is how many latencies in a row tell of one and the same
    /// queue (1: none). `None` if a phase is empty or the limits are equal.
    pub(super) fn between(low: &Meter, high: &Meter, lever: f64, correlated: f64) -> Option<Self> {
        let (slow, fast) = (low.throughput(), high.throughput());
        let (short, long) = (low.latency(), high.latency());
        if lever <= 0.0 || slow <= 0.0 || fast <= 0.0 || short <= 0.0 || long <= 0.0 {
            return None;
        }
        let by_throughput = (fast / slow).ln() / lever;
        let by_latency = 1.0 - (long / short).ln() / lever;
        let scale = lever * lever;
        let variance = (low.throughput_variance() + high.throughput_variance()) / scale + FLOOR;
        let other = correlated * (low.latency_variance() + high.latency_variance()) / scale + FLOOR;
        let weight = other / (variance + other);
        Some(Self {
            mean: weight * by_throughput + (1.0 - weight) * by_latency,
            deviation: (variance * weight).sqrt(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::limit::{Outcome, Sample};

    /// Batches that came `gap` apart and took `rtt` each, in milliseconds.
    fn phase(gap: u64, rtt: u64) -> Meter {
        let start = Instant::now();
        let mut meter = Meter::since(start);
        for n in 0..20 {
            let sent = start + Duration::from_millis(gap * n);
            let now = sent + Duration::from_millis(rtt);
            meter.add(
                &Sample {
                    sent,
                    now,
                    entries: 100,
                    in_flight: 1,
                    waited: true,
                    backlog: 1_000,
                    outcome: Outcome::Success,
                },
                None,
            );
        }
        meter
    }

    #[test]
    fn it_is_one_before_the_knee_and_zero_behind_it() {
        let before = Elasticity::between(&phase(6, 30), &phase(3, 30), 2_f64.ln(), 1.0);
        let behind = Elasticity::between(&phase(3, 30), &phase(3, 60), 2_f64.ln(), 1.0);
        let (before, behind) = (before.expect("full"), behind.expect("full"));
        assert!((before.mean - 1.0).abs() < 1e-6, "{before:?}");
        assert!(behind.mean.abs() < 1e-6, "{behind:?}");
    }
}
