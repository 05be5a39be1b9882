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
