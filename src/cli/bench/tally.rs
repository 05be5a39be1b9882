//! What a running load counts: one owner on one thread, so no atomics but the
//! few that a progress bar watches. Takes `now` as an argument and touches no
//! clock, so the arithmetic is tested without waiting.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::{acknowledged::Acknowledged, lateness::Lateness};

/// Distinct errors kept apart; a server that puts an id into each message must
/// not fill our memory.
const MAX_ERRORS: usize = 32;
/// Where the errors past [`MAX_ERRORS`] are counted.
const OTHER_ERRORS: &str = "others";
/// Longest error text kept, in characters.
const MAX_ERROR_TEXT: usize = 200;
/// Longest latency told apart, in microseconds: an hour.
const MAX_LATENCY: u64 = 3_600_000_000;
/// The length of one throughput sample.
const SECOND: Duration = Duration::from_secs(1);

/// What a load shows while it runs, and the way to stop it.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    not_done: AtomicU64,
    last_second: AtomicU64,
    last_second_p99: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    /// Sessions acknowledged so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Sessions that failed or timed out so far.
    pub fn not_done(&self) -> u64 {
        self.not_done.load(Ordering::Relaxed)
    }

    /// Sessions acknowledged within the last whole second.
    pub fn last_second(&self) -> u64 {
        self.last_second.load(Ordering::Relaxed)
    }

    /// The 99th percentile of the calls answered in that second.
    pub fn last_second_p99(&self) -> Duration {
        Duration::from_micros(self.last_second_p99.load(Ordering::Relaxed))
    }

    /// Ends the load at once; calls in flight are reset and not counted.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether [`Progress::stop`] was called.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Everything counted, in sessions; latency in microseconds a call.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) success: u64,
    pub(super) failed: u64,
    pub(super) timeout: u64,
    pub(super) latency: Histogram<u64>,
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) acknowledged: Acknowledged,
    pub(super) warnings: Vec<String>,
    /// Callers ended before the load did, since there was no server any more.
    pub(super) cut_short: bool,
    pub(super) lateness: Lateness,
    started: Instant,
    last_answer: Instant,
    second: Second,
    last_second: (u64, u64),
    peak: u64,
}

/// The throughput sample that is being filled.
#[derive(Debug)]
struct Second {
    ends: Instant,
    success: u64,
    latency: Histogram<u64>,
}

impl Tally {
    pub(super) fn new(started: Instant) -> Self {
        Self {
            success: 0,
            failed: 0,
            timeout: 0,
            latency: histogram(),
            errors: BTreeMap::new(),
            acknowledged: Acknowledged::default(),
            warnings: Vec::new(),
            cut_short: false,
            lateness: Lateness::default(),
            started,
            last_answer: started,
            second: Second {
                ends: started + SECOND,
                success: 0,
                latency: histogram(),
            },
            last_second: (0, 0),
            peak: 0,
        }
    }

    /// The sessions `numbers` were acknowledged `latency` after they were
    /// sent, or were meant to be.
    pub(super) fn acknowledge(&mut self, numbers: Range<u64>, latency: Duration, now: Instant) {
        self.close_seconds(now);
        let micros = u64::try_from(latency.as_micros()).unwrap_or(MAX_LATENCY);
        let sessions = numbers.end - numbers.start;
        self.success += sessions;
        self.second.success += sessions;
        self.latency.saturating_record(micros);
        self.second.latency.saturating_record(micros);
        numbers.for_each(|number| self.acknowledged.insert(number));
        self.last_answer = now;
    }

    /// `sessions` were answered with `error`, or their connection was lost.
    pub(super) fn fail(&mut self, sessions: u64, error: &str, now: Instant) {
        self.failed += sessions;
        self.last_answer = now;
        let cut = error
            .char_indices()
            .nth(MAX_ERROR_TEXT)
            .map_or(error, |(at, _)| &error[..at]);
        let known = self.errors.contains_key(cut);
        let key = if known || self.errors.len() < MAX_ERRORS {
            cut
        } else {
            OTHER_ERRORS
        };
        match self.errors.get_mut(key) {
            Some(count) => *count += sessions,
            None => {
                self.errors.insert(key.to_owned(), sessions);
            }
        }
    }

    /// A caller gave up on `sessions`.
    pub(super) fn give_up(&mut self, sessions: u64, now: Instant) {
        self.timeout += sessions;
        self.last_answer = now;
    }

    /// Notes something that the reader of the figures should know, once.
    pub(super) fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) && self.warnings.len() < MAX_ERRORS {
            self.warnings.push(warning);
        }
    }

    /// Shows the state to whoever watches.
    pub(super) fn show(&mut self, progress: &Progress, now: Instant) {
        self.close_seconds(now);
        let (sessions, p99) = self.last_second;
        progress.last_second.store(sessions, Ordering::Relaxed);
        progress.last_second_p99.store(p99, Ordering::Relaxed);
        progress.done.store(self.success, Ordering::Relaxed);
        progress
            .not_done
            .store(self.failed + self.timeout, Ordering::Relaxed);
    }

    /// Closes the throughput samples that ended by `now`.
    fn close_seconds(&mut self, now: Instant) {
        while now >= self.second.ends {
            self.peak = self.peak.max(self.second.success);
            let p99 = self.second.latency.value_at_quantile(0.99);
            self.last_second = (self.second.success, p99);
            self.second.ends += SECOND;
            self.second.success = 0;
            self.second.latency.reset();
        }
    }

    /// From the start to the last answer (or giving up).
    pub(super) fn elapsed(&self) -> Duration {
        self.last_answer.saturating_duration_since(self.started)
    }

    /// The most sessions acknowledged within one second. A load shorter than a
    /// second, or whose best second fell across two samples, peaks at its mean.
    pub(super) fn peak_per_second(&self) -> f64 {
        (self.peak.max(self.second.success) as f64).max(self.mean_per_second())
    }

    /// Sessions acknowledged a second over the whole load.
    pub(super) fn mean_per_second(&self) -> f64 {
        let seconds = self.elapsed().as_secs_f64();
        if seconds > 0.0 {
            self.success as f64 / seconds
        } else {
            0.0
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY, 3).expect("1 us to 1 h at 3 digits is a valid range")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_peak_is_the_best_second_and_the_mean_is_over_all() {
        let start = Instant::now();
        let (mut tally, progress) = (Tally::new(start), Progress::default());
        for (at, sessions) in [(100, 10), (900, 20), (1_500, 90), (3_999, 1)] {
            let now = start + at * MS;
            let first = tally.success;
            tally.acknowledge(first..first + sessions, 5 * MS, now);
        }
        tally.show(&progress, start + 4_000 * MS);
        assert_eq!(tally.peak_per_second(), 90.0);
        assert_eq!(tally.mean_per_second(), 121.0 / 3.999);
        assert_eq!(progress.done(), 121);
        assert_eq!(progress.last_second(), 1);
        let p99 = progress.last_second_p99();
        assert!(p99 >= 5 * MS && p99 < 6 * MS, "{p99:?}");
    }

    #[test]
    fn a_load_shorter_than_a_second_peaks_at_its_mean() {
        let start = Instant::now();
        let mut tally = Tally::new(start);
        tally.acknowledge(0..50, MS, start + 100 * MS);
        assert_eq!(tally.mean_per_second(), 500.0);
        assert_eq!(tally.peak_per_second(), 500.0);
    }

    #[test]
    fn errors_are_counted_by_their_text_in_bounded_memory() {
        let mut tally = Tally::new(Instant::now());
        let now = Instant::now();
        for number in 0..1_000 {
            tally.fail(1, "UNAVAILABLE: draining", now);
            tally.fail(
                2,
                &format!("INTERNAL: no {number} {}", "x".repeat(500)),
                now,
            );
        }
        assert_eq!(tally.errors["UNAVAILABLE: draining"], 1_000);
        assert_eq!(tally.errors.len(), MAX_ERRORS + 1);
        assert_eq!(tally.errors.values().sum::<u64>(), tally.failed);
        assert!(tally.errors.keys().all(|text| text.len() <= MAX_ERROR_TEXT));
    }
}
