//! Additive increase, multiplicative decrease, as Netflix's limiter does it:
//! +1 while at least half of the limit is used, ×0.9 for a failure or an
//! answer slower than five seconds.

use std::time::Duration;

use ferry::limit::{Rule, Sample};

use super::{FIRST, clamp, is_drop};

const BACK_OFF: f64 = 0.9;
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Aimd(f64);

impl Default for Aimd {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Rule for Aimd {
    fn learn(&mut self, sample: &Sample) {
        if is_drop(sample.outcome) || sample.rtt() > TIMEOUT {
            self.0 = clamp((self.0 * BACK_OFF).floor());
        } else if f64::from(sample.in_flight) * 2.0 >= self.0 {
            self.0 = clamp(self.0 + 1.0);
        }
    }

    fn limit(&self) -> f64 {
        self.0
    }
}
