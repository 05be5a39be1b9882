//! What is compared: the rules that ship, and known limiters that do not,
//! written anew from their published rules behind the trait that ferry's own
//! rule has. Each keeps its published parameters and its own first limit;
//! ferry's bounds replace theirs.

mod arc;
mod bbr;
mod brpc;
mod envoy;

use ferry::limit::{Algorithm, LimitSettings, Limiter, Rule};

/// Everything that is compared, ferry's own first.
pub(crate) const NAMES: [&str; 8] = [
    "little",
    "envoy",
    "gradient2",
    "vegas",
    "aimd",
    "arc",
    "brpc",
    "bbr",
];

/// A limiter by its name in [`NAMES`].
pub(crate) fn limiter(name: &str) -> Limiter {
    let settings = LimitSettings::default();
    let port: Option<Box<dyn Rule>> = match name {
        "envoy" => Some(Box::new(envoy::Gradient::default())),
        "arc" => Some(Box::new(arc::Arc::default())),
        "brpc" => Some(Box::new(brpc::Auto::default())),
        "bbr" => Some(Box::new(bbr::Bbr::default())),
        _ => None,
    };
    if let Some(rule) = port {
        return Limiter::with_rule(settings, rule);
    }
    let shipped = Algorithm::ALL.iter().find(|shipped| shipped.name() == name);
    let algorithm = *shipped.expect("what is no port is a policy's");
    Limiter::new(LimitSettings {
        algorithm,
        ..settings
    })
}

/// A limit that stays.
pub(crate) fn fixed(max: u32) -> Limiter {
    Limiter::new(LimitSettings {
        algorithm: Algorithm::Fixed,
        min: 1,
        max,
    })
}

fn clamp(limit: f64) -> f64 {
    let bounds = LimitSettings::default();
    limit.clamp(f64::from(bounds.min), f64::from(bounds.max))
}

/// The n-th of numbers in 0 .. 1 that spread as evenly as drawn ones and need
/// no generator: the multiples of the golden ratio, modulo 1.
fn spread(n: f64) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    (n * GOLDEN).fract()
}

#[cfg(test)]
#[allow(dead_code, unused_imports)] // of no use to the bench, which has no harness
mod tests {
    use std::time::{Duration, Instant};

    use ferry::limit::{Outcome, Sample};

    use super::*;

    /// A serial server behind a way, always asked for as much as the limit
    /// allows. By Little's law L in flight take `max(way + service, L·service)`.
    pub(super) struct Serial {
        pub(super) way: f64,
        service: f64,
        /// Latencies lie in `1 ± jitter` of that, evenly.
        pub(super) jitter: f64,
        now: Instant,
        answers: f64,
    }

    impl Serial {
        pub(super) fn new(way: f64, service: f64) -> Self {
            Self {
                way,
                service,
                jitter: 0.0,
                now: Instant::now() + Duration::from_secs(1),
                answers: 0.0,
            }
        }

        /// Answers for so many seconds.
        pub(super) fn answer(&mut self, rule: &mut dyn Rule, seconds: f64) {
            let end = self.now + Duration::from_secs_f64(seconds);
            while self.now < end {
                self.next(rule, Outcome::Success);
            }
        }

        pub(super) fn fail(&mut self, rule: &mut dyn Rule, outcome: Outcome) {
            self.next(rule, outcome);
        }

        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        fn next(&mut self, rule: &mut dyn Rule, outcome: Outcome) {
            let limit = rule.limit().floor().max(1.0);
            let mean = (self.way + self.service).max(limit * self.service);
            self.answers += 1.0;
            let luck = self.jitter * spread(self.answers).mul_add(2.0, -1.0);
            let rtt = mean * (1.0 + luck);
            self.now += Duration::from_secs_f64(mean / limit);
            rule.learn(&Sample {
                sent: self.now - Duration::from_secs_f64(rtt),
                now: self.now,
                entries: 100,
                in_flight: limit as u32,
                waited: true,
                backlog: 1_000,
                outcome,
            });
        }
    }

    #[test]
    fn every_rule_that_is_compared_stays_within_the_bounds() {
        for name in NAMES {
            let mut limiter = limiter(name);
            let mut now = Instant::now();
            for outcome in [Outcome::Success, Outcome::TimedOut, Outcome::Unavailable].repeat(200) {
                assert!((1..=256).contains(&limiter.limit()), "{name}");
                assert!(limiter.try_admit(), "{name}: nothing is in flight");
                let sent = limiter.sent(now, 100, true, 1_000);
                now += Duration::from_millis(10);
                limiter.answered(now, sent, outcome);
            }
        }
        assert_eq!(fixed(7).limit(), 7);
    }
}
