//! Netflix's Gradient2: a long average of the latency over the latest one,
//! with a tolerance of 1.5 and a queue of four, smoothed by 0.2. A long
//! average of more than twice the latest decays faster.

use ferry::limit::{Rule, Sample};

use super::{FIRST, clamp};

const WINDOW: f64 = 600.0;
const WARM_UP: f64 = 10.0;
const TOLERANCE: f64 = 1.5;
const QUEUE: f64 = 4.0;
const SMOOTHING: f64 = 0.2;

#[derive(Debug)]
pub(crate) struct Gradient2 {
    limit: f64,
    long: f64,
    samples: f64,
}

impl Default for Gradient2 {
    fn default() -> Self {
        Self {
            limit: FIRST,
            long: 0.0,
            samples: 0.0,
        }
    }
}

impl Rule for Gradient2 {
    fn learn(&mut self, sample: &Sample) {
        let short = sample.rtt().as_secs_f64();
        self.samples += 1.0;
        // A plain mean first, then an exponential one.
        self.long += match self.samples <= WARM_UP {
            true => (short - self.long) / self.samples,
            false => (short - self.long) * 2.0 / (WINDOW + 1.0),
        };
        if self.long / short > 2.0 {
            self.long *= 0.95;
        }
        if f64::from(sample.in_flight) < self.limit / 2.0 {
            return;
        }
        let gradient = (TOLERANCE * self.long / short).clamp(0.5, 1.0);
        let target = self.limit.mul_add(gradient, QUEUE);
        self.limit = clamp(SMOOTHING.mul_add(target - self.limit, self.limit));
    }

    fn limit(&self) -> f64 {
        self.limit
    }
}
