//! Vector's adaptive request concurrency: additive increase, multiplicative
//! decrease, by how the latency compares with what it was. Once in a mean
//! latency, with `now` the mean since the last look, `past` an exponentially
//! weighted mean (α = 0.4) and σ its deviation, all in seconds:
//!
//! ```text
//! L ← L + 1      the limit was reached, no back pressure, now ≤ past
//! L ← ⌊0.9·L⌋    back pressure, or now ≥ past + 2.5·σ
//! ```
//!
//! Source: Vector's documentation of `request.adaptive_concurrency` and its
//! RFC 1858; mean and variance after Finch, "Incremental calculation of
//! weighted mean and variance". What it is compared with follows the queue
//! up, so a load that stays is taken for the upstream's own latency.

use std::time::{Duration, Instant};

use ferry::limit::{Outcome, Rule, Sample};

use super::clamp;

const FIRST_LIMIT: f64 = 1.0;
const DECREASE: f64 = 0.9;
const ALPHA: f64 = 0.4;
const DEVIATIONS: f64 = 2.5;

/// Seconds, and s².
#[derive(Clone, Copy, Debug)]
struct Past {
    mean: f64,
    variance: f64,
}

impl Past {
    fn learn(&mut self, latency: f64) {
        let distance = latency - self.mean;
        let step = ALPHA * distance;
        self.mean += step;
        self.variance = (1.0 - ALPHA) * (self.variance + distance * step);
    }
}

#[derive(Debug)]
pub(crate) struct Arc {
    limit: f64,
    past: Option<Past>,
    /// Latencies since the last look: their sum in seconds, how many.
    present: (f64, f64),
    pushed_back: bool,
    reached: bool,
    look: Option<Instant>,
}

impl Default for Arc {
    fn default() -> Self {
        Self {
            limit: FIRST_LIMIT,
            past: None,
            present: (0.0, 0.0),
            pushed_back: false,
            reached: false,
            look: None,
        }
    }
}

impl Arc {
    fn adjust(&mut self, present: Option<f64>, past: Past) {
        let high = past.mean + DEVIATIONS * past.variance.sqrt();
        let quick = present.is_some_and(|present| present <= past.mean);
        let slow = present.is_some_and(|present| present >= high);
        if self.reached && !self.pushed_back && quick {
            self.limit = clamp(self.limit + 1.0);
        } else if self.pushed_back || slow {
            self.limit = clamp((self.limit * DECREASE).floor());
        }
    }
}

impl Rule for Arc {
    fn learn(&mut self, sample: &Sample) {
        self.pushed_back |= matches!(
            sample.outcome,
            Outcome::Exhausted | Outcome::TimedOut | Outcome::Unavailable
        );
        self.reached |= f64::from(sample.in_flight) >= self.limit;
        if sample.outcome == Outcome::Success {
            self.present.0 += sample.rtt().as_secs_f64();
            self.present.1 += 1.0;
        }
        let (sum, count) = self.present;
        let present = (count > 0.0).then(|| sum / count);
        if self.look.is_some_and(|look| sample.now < look) {
            return;
        }
        if let Some(past) = self.past {
            self.adjust(present, past);
        }
        if let Some(present) = present {
            let first = Past {
                mean: present,
                variance: 0.0,
            };
            self.past.get_or_insert(first).learn(present);
        }
        if let Some(past) = self.past {
            self.look = Some(sample.now + Duration::from_secs_f64(past.mean));
            self.present = (0.0, 0.0);
            (self.pushed_back, self.reached) = (false, false);
        }
    }

    fn limit(&self) -> f64 {
        self.limit
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports)] // of no use to the bench, which has no harness
mod tests {
    use super::{super::tests::Serial, *};

    #[test]
    fn arc_begins_at_one_and_adds_at_most_one_a_latency() {
        let (mut arc, mut plant) = (Arc::default(), Serial::new(0.010, 0.001));
        assert_eq!(arc.limit(), 1.0);
        plant.jitter = 0.05;
        for _ in 0..20 {
            let before = arc.limit();
            plant.answer(&mut arc, 0.010);
            assert!(arc.limit() <= before + 1.0, "{} of {before}", arc.limit());
        }
        assert!(arc.limit() >= 5.0, "{}", arc.limit());
    }

    #[test]
    fn arc_gives_a_tenth_for_back_pressure() {
        let (mut arc, mut plant) = (Arc::default(), Serial::new(0.040, 0.001));
        plant.jitter = 0.05;
        plant.answer(&mut arc, 5.0);
        let before = arc.limit();
        assert!(before >= 11.0, "{before}");
        plant.fail(&mut arc, Outcome::Exhausted);
        while arc.pushed_back {
            plant.answer(&mut arc, 0.001);
        }
        assert_eq!(arc.limit(), (before * 0.9).floor());
    }

    #[test]
    fn arc_takes_a_queue_that_stays_for_the_latency() {
        let (mut arc, mut plant) = (Arc::default(), Serial::new(0.004, 0.001));
        plant.jitter = 0.1;
        plant.answer(&mut arc, 60.0);
        // Five are enough for the way; it holds a queue of several more.
        assert!(arc.limit() > 7.0, "{}", arc.limit());
    }
}
