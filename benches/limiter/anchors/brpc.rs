//! brpc's automatic concurrency limiter: Little's law with the highest
//! throughput and the least mean latency seen, and some room. After each 200
//! answers (or each second, of at least 100 answers), with R their mean
//! latency in seconds and X their number a second:
//!
//! ```text
//! R_min ← R                          at first, then 0.9·R_min + 0.1·R if R < R_min
//! X_max ← X                          if X ≥ X_max, else 0.99·X_max + 0.01·X
//! g     ← min(g + 0.02, 0.3)         if R ≤ 1.06·R_min or X ≤ X_max/1.06
//! g     ← max(g − 0.02, 0.06)        else
//! L     = X_max · R_min · (1 + g)    batches
//! ```
//!
//! Each 25 to 50 s R_min is taken anew: L = 0.9·X_max·R_min for two mean
//! latencies, then it begins with what it sees. The latencies of failures are
//! added to those of the others. Source: brpc's document "auto concurrency
//! limiter" and the defaults of its flags.

use std::time::{Duration, Instant};

use ferry::limit::{Outcome, Rule, Sample};

use super::{clamp, spread};

const FIRST_LIMIT: f64 = 40.0;
const SAMPLING: Duration = Duration::from_micros(100);
const WINDOW: Duration = Duration::from_secs(1);
const SAMPLES: (u32, u32) = (100, 200);
const REMEASURE: Duration = Duration::from_secs(50);
const SMOOTHING: f64 = 0.1;
const EXPLORE: (f64, f64) = (0.06, 0.3);
const EXPLORE_STEP: f64 = 0.02;
const REDUCE: f64 = 0.9;

/// What was answered since its beginning.
#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    /// Of all answers, for X.
    answered: f64,
    succeeded: u32,
    failed: u32,
    /// Seconds, failures' included.
    latency: f64,
}

impl Window {
    fn since(since: Instant) -> Self {
        Self {
            since,
            answered: 0.0,
            succeeded: 0,
            failed: 0,
            latency: 0.0,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Auto {
    limit: f64,
    window: Option<Window>,
    sampled: Option<Instant>,
    /// Seconds; `None` while it is to be taken anew.
    least_latency: Option<f64>,
    /// Batches a second.
    most: f64,
    explore: f64,
    remeasures: f64,
    remeasure: Option<Instant>,
    /// Until then nothing is learnt: what was in flight drains.
    quiet: Option<Instant>,
}

impl Default for Auto {
    fn default() -> Self {
        Self {
            limit: FIRST_LIMIT,
            window: None,
            sampled: None,
            least_latency: None,
            most: 0.0,
            explore: EXPLORE.1,
            remeasures: 0.0,
            remeasure: None,
            quiet: None,
        }
    }
}

impl Auto {
    fn plan(&mut self, now: Instant) {
        let wait = REMEASURE.mul_f64(spread(self.remeasures).mul_add(0.5, 0.5));
        self.remeasures += 1.0;
        self.remeasure = Some(now + wait);
    }

    fn update(&mut self, now: Instant, window: &Window) {
        let latency = window.latency / f64::from(window.succeeded);
        let throughput = window.answered / now.duration_since(window.since).as_secs_f64();
        let least = match self.least_latency {
            Some(least) if latency < least => least + SMOOTHING * (latency - least),
            Some(least) => least,
            None => latency,
        };
        self.least_latency = Some(least);
        self.most = match throughput >= self.most {
            true => throughput,
            false => self.most + SMOOTHING / 10.0 * (throughput - self.most),
        };
        let unloaded = self.most * least;
        if self.remeasure.is_some_and(|remeasure| remeasure <= now) {
            self.quiet = Some(now + Duration::from_secs_f64(2.0 * latency));
            self.limit = clamp((unloaded * REDUCE).ceil());
            return;
        }
        let (low, high) = EXPLORE;
        let idle = latency <= least * (1.0 + low) || throughput <= self.most / (1.0 + low);
        self.explore = match idle {
            true => (self.explore + EXPLORE_STEP).min(high),
            false => (self.explore - EXPLORE_STEP).max(low),
        };
        self.limit = clamp((unloaded * (1.0 + self.explore)).floor());
    }
}

impl Rule for Auto {
    fn learn(&mut self, sample: &Sample) {
        let now = sample.now;
        if self.remeasure.is_none() {
            self.plan(now);
        }
        let succeeded = sample.outcome == Outcome::Success;
        if let Some(window) = &mut self.window {
            window.answered += f64::from(u8::from(succeeded));
        }
        let soon = |last| now.saturating_duration_since(last) < SAMPLING;
        if self.sampled.is_some_and(soon) {
            return;
        }
        self.sampled = Some(now);
        if let Some(quiet) = self.quiet {
            if now < quiet {
                return;
            }
            self.quiet = None;
            self.least_latency = None;
            self.plan(now);
            self.window = None;
        }
        let window = self.window.get_or_insert_with(|| Window::since(now));
        window.latency += sample.rtt().as_secs_f64();
        match succeeded {
            true => window.succeeded += 1,
            false => window.failed += 1,
        }
        let (count, length) = (
            window.succeeded + window.failed,
            now.duration_since(window.since),
        );
        if count < SAMPLES.0 {
            if length >= WINDOW {
                self.window = None;
            }
            return;
        }
        if length < WINDOW && count < SAMPLES.1 {
            return;
        }
        let window = *window;
        self.window = Some(Window::since(now));
        match window.succeeded {
            0 => self.limit = clamp((self.limit / 2.0).floor()),
            _ => self.update(now, &window),
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
    fn brpc_settles_a_little_above_what_the_way_holds() {
        let (mut auto, mut plant) = (Auto::default(), Serial::new(0.019, 0.001));
        assert_eq!(auto.limit(), 40.0);
        // Its least latency is that of the first limit, 40 ms, until it is
        // taken anew under the lower one: each time it comes nearer.
        plant.answer(&mut auto, 20.0);
        assert!(auto.limit() >= 40.0, "{}", auto.limit());
        plant.answer(&mut auto, 1_000.0);
        assert!((20.0..=28.0).contains(&auto.limit()), "{}", auto.limit());
    }

    #[test]
    fn brpc_holds_less_for_a_moment_to_see_the_least_latency_again() {
        let (mut auto, mut plant) = (Auto::default(), Serial::new(0.059, 0.001));
        plant.answer(&mut auto, 24.0);
        let (mut least, mut most) = (auto.limit(), auto.limit());
        for _ in 0..300 {
            plant.answer(&mut auto, 0.1);
            least = least.min(auto.limit());
            most = most.max(auto.limit());
        }
        // 0.9 against 1.06 to 1.3 of the same product.
        assert!(least < 0.88 * most, "{least} to {most}");
    }

    #[test]
    fn brpc_halves_when_every_answer_is_a_failure() {
        let (mut auto, mut plant) = (Auto::default(), Serial::new(0.010, 0.001));
        for _ in 0..210 {
            plant.fail(&mut auto, Outcome::Exhausted);
        }
        assert_eq!(auto.limit(), 20.0);
    }
}
