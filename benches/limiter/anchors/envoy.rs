//! Envoy's gradient controller: each 100 ms the limit is multiplied by
//! 1.25·minRTT over the median latency (between 0.5 and 2), plus a headroom
//! of its square root. For minRTT the limit is pinned to 3 for 50 samples,
//! at the start and each 60 s.

use std::time::{Duration, Instant};

use ferry::limit::{Outcome, Rule, Sample};

use super::clamp;

const UPDATE: Duration = Duration::from_millis(100);
const PROBE: Duration = Duration::from_secs(60);
const PROBE_LIMIT: f64 = 3.0;
const PROBE_SAMPLES: usize = 50;
const BUFFER: f64 = 1.25;

#[derive(Debug)]
pub(crate) struct Gradient {
    limit: f64,
    min_rtt: f64,
    probing: bool,
    rtts: Vec<f64>,
    updated: Option<Instant>,
    probed: Option<Instant>,
}

impl Default for Gradient {
    fn default() -> Self {
        Self {
            limit: PROBE_LIMIT,
            min_rtt: 0.0,
            probing: true,
            rtts: Vec::new(),
            updated: None,
            probed: None,
        }
    }
}

impl Gradient {
    fn median(&mut self) -> f64 {
        self.rtts.sort_unstable_by(f64::total_cmp);
        let median = self.rtts[self.rtts.len() / 2];
        self.rtts.clear();
        median
    }
}

impl Rule for Gradient {
    fn learn(&mut self, sample: &Sample) {
        if sample.outcome != Outcome::Success {
            return;
        }
        self.rtts.push(sample.rtt().as_secs_f64());
        if self.probing {
            if self.rtts.len() >= PROBE_SAMPLES {
                self.min_rtt = self.median();
                self.probing = false;
                self.probed = Some(sample.now);
                self.updated = Some(sample.now);
            }
            return;
        }
        let since = |then: Option<Instant>| {
            then.map_or(Duration::MAX, |then| {
                sample.now.saturating_duration_since(then)
            })
        };
        if since(self.probed) >= PROBE {
            self.probing = true;
            self.rtts.clear();
        } else if since(self.updated) >= UPDATE {
            self.updated = Some(sample.now);
            let gradient = (BUFFER * self.min_rtt / self.median()).clamp(0.5, 2.0);
            let limit = self.limit * gradient;
            self.limit = clamp(limit + limit.sqrt());
        }
    }

    fn limit(&self) -> f64 {
        match self.probing {
            true => PROBE_LIMIT,
            false => self.limit,
        }
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports)] // of no use to the bench, which has no harness
mod tests {
    use super::{super::tests::Serial, *};

    #[test]
    fn envoys_rule_is_pinned_to_three_while_it_looks_for_the_least_latency() {
        let (mut gradient, mut plant) = (Gradient::default(), Serial::new(0.009, 0.001));
        plant.answer(&mut gradient, 0.1);
        assert_eq!(gradient.limit(), 3.0);
        plant.answer(&mut gradient, 5.0);
        assert!(gradient.limit() > 10.0, "{}", gradient.limit());
        let mut pinned = false;
        for _ in 0..6_000 {
            plant.answer(&mut gradient, 0.01);
            pinned |= gradient.limit() == 3.0;
        }
        assert!(pinned, "it looks again each minute");
    }

    #[test]
    fn envoys_rule_keeps_a_queue_of_its_headroom_on_a_serial_server() {
        let (mut gradient, mut plant) = (Gradient::default(), Serial::new(0.0003, 0.003));
        plant.answer(&mut gradient, 20.0);
        // Two carry all.
        assert!(
            (4.0..=9.0).contains(&gradient.limit()),
            "{}",
            gradient.limit()
        );
    }
}
