//! When an open loop's calls are meant to be sent: at a rate that does not wait
//! for answers, as a crowd of independent clients would send them. A closed loop
//! slows down with the server that it measures, and so leaves out the very calls
//! that would have had to wait (coordinated omission). Here each call has a moment
//! of its own, which is where its latency begins, sent in time or not.
//!
//! Each connection has a pace of its own, so that one that is held up holds up
//! its own calls alone. Pure: takes the start and `now`, and draws from a
//! generator with a seed.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use serde::Serialize;

/// How calls are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// As independent clients send them: bunched now, sparse then.
    Poisson,
    /// One after the other with the same time between any two.
    Even,
}

/// How often an open loop sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// Sessions a second, over all connections.
    pub sessions_per_sec: NonZeroU32,
    /// How the calls that carry them are spread.
    pub arrivals: Arrivals,
}

/// The moments at which one connection's calls are meant to be sent.
#[derive(Debug)]
pub(super) struct Pace {
    started: Instant,
    /// Seconds from one call to the next, on average.
    gap: f64,
    arrivals: Arrivals,
    random: fastrand::Rng,
    /// Seconds from the start to the next call.
    next: f64,
}

impl Pace {
    /// The pace of connection `line` of `lines`, whose calls carry `batch`
    /// sessions each, from `started` on.
    pub(super) fn new(rate: Rate, batch: u32, (line, lines): (u32, u32), started: Instant) -> Self {
        // sessions a call / (sessions a second) × connections = seconds a call
        let each = f64::from(batch) / f64::from(rate.sessions_per_sec.get());
        let gap = each * f64::from(lines);
        let mut random = fastrand::Rng::with_seed(u64::from(line) + 1);
        let next = match rate.arrivals {
            // The connections take turns.
            Arrivals::Even => each * f64::from(line),
            Arrivals::Poisson => exponential(gap, &mut random),
        };
        Self {
            started,
            gap,
            arrivals: rate.arrivals,
            random,
            next,
        }
    }

    /// When the next call is meant to be sent.
    pub(super) fn next(&self) -> Instant {
        self.started + Duration::from_secs_f64(self.next)
    }

    /// It has been sent, or never will be.
    pub(super) fn advance(&mut self) {
        self.next += match self.arrivals {
            Arrivals::Even => self.gap,
            Arrivals::Poisson => exponential(self.gap, &mut self.random),
        };
    }

    /// How many calls were still to be sent before `closes`; none is afterwards.
    pub(super) fn pass_until(&mut self, closes: Instant) -> u64 {
        let mut passed = 0;
        while self.next() < closes {
            self.advance();
            passed += 1;
        }
        passed
    }
}

/// The time to the next of independent events that are `mean` seconds apart on
/// average: -mean × ln(u), u uniform in (0, 1].
fn exponential(mean: f64, random: &mut fastrand::Rng) -> f64 {
    -mean * (1.0 - random.f64()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(sessions: u32, arrivals: Arrivals) -> Rate {
        Rate {
            sessions_per_sec: NonZeroU32::new(sessions).unwrap(),
            arrivals,
        }
    }

    /// Milliseconds from the start to each of the first `calls`.
    fn moments(pace: &mut Pace, started: Instant, calls: usize) -> Vec<f64> {
        let moment = |pace: &mut Pace| {
            let at = pace.next().saturating_duration_since(started);
            pace.advance();
            at.as_secs_f64() * 1_000.0
        };
        (0..calls).map(|_| moment(pace)).collect()
    }

    #[test]
    fn evenly_spaced_calls_take_turns_among_the_connections() {
        let start = Instant::now();
        let of = |line| {
            let rate = rate(1_000, Arrivals::Even);
            moments(&mut Pace::new(rate, 10, (line, 2), start), start, 3)
        };
        assert_eq!(of(0), [0.0, 20.0, 40.0], "100 calls of 10 a second");
        assert_eq!(of(1), [10.0, 30.0, 50.0]);
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_and_are_as_irregular_as_independent_clients() {
        let start = Instant::now();
        let rate = rate(1_000, Arrivals::Poisson);
        let moments = moments(&mut Pace::new(rate, 1, (0, 1), start), start, 100_000);
        let gaps: Vec<_> = moments.windows(2).map(|two| two[1] - two[0]).collect();
        let count = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / count;
        assert!((mean - 1.0).abs() < 0.02, "{mean} ms");
        // Of a Poisson process the gaps' deviation equals their mean, and a
        // share of 1/e of them is longer than that.
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count;
        assert!((variance.sqrt() - 1.0).abs() < 0.03, "{variance}");
        let long = gaps.iter().filter(|gap| **gap > mean).count() as f64 / count;
        assert!((long - (-1.0_f64).exp()).abs() < 0.01, "{long}");
    }

    #[test]
    fn connections_do_not_send_poisson_arrivals_in_step() {
        let start = Instant::now();
        let rate = rate(100, Arrivals::Poisson);
        let first = |line| Pace::new(rate, 1, (line, 4), start).next();
        assert_ne!(first(0), first(1));
    }

    #[test]
    fn what_is_due_when_the_load_closes_is_counted_and_not_forgotten() {
        let start = Instant::now();
        let rate = rate(1_000, Arrivals::Even);
        let mut pace = Pace::new(rate, 1, (0, 1), start);
        (0..40).for_each(|_| pace.advance());
        assert_eq!(pace.pass_until(start + Duration::from_millis(100)), 60);
        assert_eq!(pace.pass_until(start + Duration::from_millis(100)), 0);
    }
}
