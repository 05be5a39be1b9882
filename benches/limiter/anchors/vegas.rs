//! Netflix's Vegas: the queue is what of the limit does not fit into the
//! smallest latency seen, `L·(1 − rtt0/rtt)`, and is kept between two bounds
//! that grow with the limit's logarithm. Every 30·L samples (jittered) the
//! smallest latency is forgotten.

use ferry::limit::{Rule, Sample};

use super::{FIRST, clamp, is_drop};

const ALPHA: f64 = 3.0;
const BETA: f64 = 6.0;
const PROBE_MULTIPLIER: f64 = 30.0;

#[derive(Debug)]
pub(crate) struct Vegas {
    limit: f64,
    rtt0: f64,
    samples: f64,
    rng: fastrand::Rng,
    probe_jitter: f64,
}

impl Default for Vegas {
    fn default() -> Self {
        Self {
            limit: FIRST,
            rtt0: 0.0,
            samples: 0.0,
            rng: fastrand::Rng::with_seed(1),
            probe_jitter: 0.75,
        }
    }
}

impl Rule for Vegas {
    fn learn(&mut self, sample: &Sample) {
        let rtt = sample.rtt().as_secs_f64();
        self.samples += 1.0;
        if self.samples >= self.probe_jitter * PROBE_MULTIPLIER * self.limit {
            self.samples = 0.0;
            self.probe_jitter = self.rng.f64().mul_add(0.5, 0.5);
            self.rtt0 = rtt;
            return;
        }
        if self.rtt0 == 0.0 || rtt < self.rtt0 {
            self.rtt0 = rtt;
            return;
        }
        let step = self.limit.log10().max(1.0);
        if is_drop(sample.outcome) {
            self.limit = clamp(self.limit - step);
            return;
        }
        if f64::from(sample.in_flight) * 2.0 < self.limit {
            return;
        }
        let queue = (self.limit * (1.0 - self.rtt0 / rtt)).ceil();
        if queue <= step {
            self.limit = clamp(BETA.mul_add(step, self.limit));
        } else if queue < ALPHA * step {
            self.limit = clamp(self.limit + step);
        } else if queue > BETA * step {
            self.limit = clamp(self.limit - step);
        }
    }

    fn limit(&self) -> f64 {
        self.limit
    }
}
