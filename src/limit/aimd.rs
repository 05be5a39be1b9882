//! Additive increase, multiplicative decrease. PURE.
//!
//! As Netflix's concurrency-limits does it: +1 an answer while at least half of
//! the limit is used, ×0.9 for a drop or an answer slower than five seconds.
//! It needs drops to find a limit: where the upstream queues rather than
//! refuses, it climbs until answers take those five seconds.

use std::time::Duration;

use super::rule::{Bounds, PUBLISHED_FIRST, Rule, Sample};

/// What a drop leaves of the limit.
const BACK_OFF: f64 = 0.9;
/// A latency that counts as a drop.
const TIMEOUT: Duration = Duration::from_secs(5);

/// One step up, a tenth down.
#[derive(Debug)]
pub(super) struct Aimd {
    bounds: Bounds,
    limit: f64,
}

impl Aimd {
    pub(super) fn new(min: u32, max: u32) -> Self {
        let bounds = Bounds::new(min, max);
        Self {
            bounds,
            limit: bounds.clamp(PUBLISHED_FIRST),
        }
    }
}

impl Rule for Aimd {
    fn learn(&mut self, sample: &Sample) {
        if sample.outcome.is_drop() || sample.rtt() > TIMEOUT {
            self.limit = self.bounds.clamp((self.limit * BACK_OFF).floor());
        } else if f64::from(sample.in_flight) * 2.0 >= self.limit {
            self.limit = self.bounds.clamp(self.limit + 1.0);
        }
    }

    fn limit(&self) -> f64 {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{Outcome, rule::tests::sample};

    const RTT: Duration = Duration::from_millis(10);

    #[test]
    fn it_rises_by_one_while_it_is_used_and_falls_by_a_tenth_for_a_drop() {
        let mut aimd = Aimd::new(1, 256);
        aimd.learn(&sample(RTT, 10, Outcome::Success));
        assert_eq!(aimd.limit(), 21.0);
        aimd.learn(&sample(RTT, 10, Outcome::Success));
        assert_eq!(aimd.limit(), 21.0, "less than half is used");
        aimd.learn(&sample(RTT, 21, Outcome::Exhausted));
        assert_eq!(aimd.limit(), 18.0);
        aimd.learn(&sample(RTT * 1_000, 18, Outcome::Success));
        assert_eq!(aimd.limit(), 16.0, "ten seconds are a drop too");
    }
}
