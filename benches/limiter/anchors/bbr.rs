//! A rule in the manner of BBR: the limit follows the highest delivery rate
//! of the last ten rounds times the least latency of the last ten seconds.
//!
//! ```text
//! X_max  the highest of ten rounds; X = answers between sending and answer / rtt
//! R_min  the least rtt of ten seconds
//! L      = max(g · X_max · R_min, 4)      batches
//! ```
//!
//! g is 2/ln 2 until X_max grows by less than a quarter in three rounds, then
//! its inverse until no queue is left, then one of 1.25, 0.75, 1, 1, 1, 1, 1,
//! 1 for R_min each. If R_min has not been seen for ten seconds, L is 4 for
//! 200 ms and a round. Source: Cardwell et al., "BBR: congestion-based
//! congestion control" (ACM Queue, 2016), and its Internet-Draft. BBR paces
//! what it sends with g and bounds what is in flight by twice the product;
//! a limit has no pace, so here g moves the bound itself.
//!
//! R_min is a point minimum: where latencies scatter it is far below their
//! mean, L = X·R_min is less than what made X, and it ratchets down.

use std::{
    collections::VecDeque,
    f64::consts::LN_2,
    time::{Duration, Instant},
};

use ferry::limit::{Outcome, Rule, Sample};

use super::clamp;

const FIRST_LIMIT: f64 = 10.0;
const LEAST_LIMIT: f64 = 4.0;
const STARTUP: f64 = 2.0 / LN_2;
const CYCLE: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
const RATE_ROUNDS: u64 = 10;
const LATENCY_LASTS: Duration = Duration::from_secs(10);
const PROBE: Duration = Duration::from_millis(200);
const GROWTH: f64 = 1.25;
const FLAT_ROUNDS: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Startup {
        best: f64,
        flat: u8,
    },
    Drain,
    /// Which gain of the cycle, and since when.
    Cruise {
        phase: usize,
        since: Instant,
    },
    /// Hardly anything in flight, until then and for a round.
    Probe {
        until: Instant,
        round: u64,
    },
}

#[derive(Debug)]
pub(crate) struct Bbr {
    mode: Mode,
    /// When answers came, oldest first, and how many there were before.
    answers: VecDeque<Instant>,
    rounds: u64,
    round_began: Option<Instant>,
    /// Rates in batches a second with their round, falling.
    rates: VecDeque<(u64, f64)>,
    /// Seconds, and when it was seen.
    least: Option<(f64, Instant)>,
}

impl Default for Bbr {
    fn default() -> Self {
        Self {
            mode: Mode::Startup { best: 0.0, flat: 0 },
            answers: VecDeque::new(),
            rounds: 0,
            round_began: None,
            rates: VecDeque::new(),
            least: None,
        }
    }
}

impl Bbr {
    fn rate(&self) -> f64 {
        self.rates.front().map_or(0.0, |(_, rate)| *rate)
    }

    /// X_max · R_min, batches.
    fn product(&self) -> f64 {
        self.least.map_or(0.0, |(rtt, _)| rtt * self.rate())
    }

    #[allow(clippy::cast_precision_loss)]
    fn learn_rate(&mut self, sample: &Sample) {
        let rtt = sample.rtt().as_secs_f64();
        self.answers.push_back(sample.now);
        while (self.answers.front()).is_some_and(|at| sample.now - *at > LATENCY_LASTS) {
            self.answers.pop_front();
        }
        let before = self.answers.partition_point(|at| *at <= sample.sent);
        let rate = (self.answers.len() - before) as f64 / rtt;
        // Fewer than could have been in flight say nothing of what is possible.
        if sample.waited || rate > self.rate() {
            while self.rates.back().is_some_and(|(_, less)| *less <= rate) {
                self.rates.pop_back();
            }
            self.rates.push_back((self.rounds, rate));
        }
        let oldest = self.rounds.saturating_sub(RATE_ROUNDS);
        while self.rates.len() > 1 && self.rates[0].0 < oldest {
            self.rates.pop_front();
        }
    }

    /// Whether R_min had to be replaced because it is old.
    fn learn_latency(&mut self, sample: &Sample) -> bool {
        let rtt = sample.rtt().as_secs_f64();
        let old = |(_, seen): (f64, Instant)| sample.now - seen > LATENCY_LASTS;
        let expired = self.least.is_some_and(old);
        if expired || self.least.is_none_or(|(least, _)| rtt <= least) {
            self.least = Some((rtt, sample.now));
        }
        expired
    }

    fn end_round(&mut self) {
        self.rounds += 1;
        if let Mode::Startup { best, flat } = self.mode {
            let rate = self.rate();
            self.mode = match rate >= GROWTH * best {
                true => Mode::Startup {
                    best: rate,
                    flat: 0,
                },
                false if flat + 1 >= FLAT_ROUNDS => Mode::Drain,
                false => Mode::Startup {
                    best,
                    flat: flat + 1,
                },
            };
        }
    }

    fn advance(&mut self, sample: &Sample) {
        let now = sample.now;
        let cruise = |phase| Mode::Cruise { phase, since: now };
        self.mode = match self.mode {
            // BBR begins its cycle anywhere but in the phase that drains.
            Mode::Drain if f64::from(sample.in_flight) <= self.product().max(LEAST_LIMIT) => {
                cruise(2)
            }
            Mode::Cruise { phase, since } => {
                let least = self.least.map_or(0.0, |(rtt, _)| rtt);
                match now.duration_since(since).as_secs_f64() > least {
                    true => cruise((phase + 1) % CYCLE.len()),
                    false => return,
                }
            }
            Mode::Probe { until, round } if now >= until && self.rounds > round => cruise(2),
            _ => return,
        };
    }
}

impl Rule for Bbr {
    fn learn(&mut self, sample: &Sample) {
        if sample.outcome != Outcome::Success || sample.rtt().is_zero() {
            return;
        }
        self.learn_rate(sample);
        let expired = self.learn_latency(sample);
        if self.round_began.is_none_or(|began| sample.sent >= began) {
            self.round_began = Some(sample.now);
            self.end_round();
        }
        self.advance(sample);
        if expired && !matches!(self.mode, Mode::Probe { .. }) {
            self.mode = Mode::Probe {
                until: sample.now + PROBE,
                round: self.rounds,
            };
        }
    }

    fn limit(&self) -> f64 {
        let gain = match self.mode {
            _ if self.rates.is_empty() => return FIRST_LIMIT,
            Mode::Probe { .. } => return LEAST_LIMIT,
            Mode::Startup { .. } => STARTUP,
            Mode::Drain => 1.0 / STARTUP,
            Mode::Cruise { phase, .. } => CYCLE[phase],
        };
        clamp((gain * self.product()).max(LEAST_LIMIT))
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports)] // of no use to the bench, which has no harness
mod tests {
    use super::{super::tests::Serial, *};

    /// The limits of the next seconds: least, mean and most.
    fn limits(bbr: &mut Bbr, plant: &mut Serial, seconds: u32) -> (f64, f64, f64) {
        let steps = seconds * 200;
        let (mut least, mut sum, mut most) = (f64::MAX, 0.0, 0.0_f64);
        for _ in 0..steps {
            plant.answer(bbr, 0.005);
            let limit = bbr.limit();
            (least, most) = (least.min(limit), most.max(limit));
            sum += limit;
        }
        (least, sum / f64::from(steps), most)
    }

    #[test]
    fn bbr_finds_what_a_way_holds_and_probes_a_quarter_around_it() {
        let (mut bbr, mut plant) = (Bbr::default(), Serial::new(0.049, 0.001));
        plant.answer(&mut bbr, 3.0);
        let (least, mean, most) = limits(&mut bbr, &mut plant, 5);
        assert!((45.0..=55.0).contains(&mean), "{mean}");
        assert!(most > 1.15 * mean, "{most} of {mean}");
        assert!(least < 0.85 * mean, "{least} of {mean}");
    }

    #[test]
    fn bbr_holds_four_for_a_moment_when_its_least_latency_is_old() {
        let (mut bbr, mut plant) = (Bbr::default(), Serial::new(0.049, 0.001));
        plant.answer(&mut bbr, 3.0);
        plant.way = 0.055;
        let (least, ..) = limits(&mut bbr, &mut plant, 12);
        assert_eq!(least, 4.0);
    }

    #[test]
    fn bbr_ratchets_down_where_latencies_scatter() {
        let (mut bbr, mut plant) = (Bbr::default(), Serial::new(0.049, 0.001));
        plant.jitter = 0.5;
        plant.answer(&mut bbr, 60.0);
        let (_, mean, _) = limits(&mut bbr, &mut plant, 10);
        // Fifty would carry all.
        assert!(mean < 25.0, "{mean}");
    }
}
