//! Errors that speak of congestion, and silences that do not. PURE.

use std::time::Instant;

use super::rule::{Outcome, Sample};

/// Errors that make a cut: this many, and this part of the answers.
const CUT_ERRORS: (u32, f64) = (2, 0.1);
/// A silence longer than this many smoothed latencies, and this many seconds
/// more, is a stall.
const STALL: (f64, f64) = (4.0, 0.002);

/// What went wrong within the last round trip.
#[derive(Debug, Default)]
pub(super) struct Faults {
    errors: u32,
    answers: u32,
    since: Option<Instant>,
    last: Option<Instant>,
}

impl Faults {
    /// Whether the limit is to be cut: at most once in `srtt` seconds, and
    /// only for errors that are more than an accident.
    pub(super) fn is_congested(&mut self, sample: &Sample, srtt: f64) -> bool {
        self.answers += 1;
        if matches!(sample.outcome, Outcome::Exhausted | Outcome::TimedOut) {
            self.errors += 1;
        }
        let since = *self.since.get_or_insert(sample.now);
        let elapsed = sample.now.saturating_duration_since(since).as_secs_f64();
        let many = f64::from(self.errors) >= CUT_ERRORS.1 * f64::from(self.answers);
        let congested = self.errors >= CUT_ERRORS.0 && many;
        if congested || elapsed >= srtt.max(sample.rtt().as_secs_f64()) {
            (self.errors, self.answers) = (0, 0);
            self.since = Some(sample.now);
        }
        congested
    }

    /// Whether this answer ends a pause of the whole upstream (garbage
    /// collection, compaction): nothing came for far longer than a batch
    /// takes, although this one was there before the silence began.
    pub(super) fn ends_stall(&mut self, sample: &Sample, srtt: f64) -> bool {
        let last = self.last.replace(sample.now);
        srtt > 0.0
            && last.is_some_and(|last| {
                let silence = sample.now.saturating_duration_since(last).as_secs_f64();
                sample.sent <= last && silence > STALL.0 * srtt + STALL.1
            })
    }

    /// Seconds between the answer before and the sending of this batch.
    pub(super) fn idle_before(&self, sample: &Sample) -> f64 {
        self.last.map_or(0.0, |last| {
            sample.sent.saturating_duration_since(last).as_secs_f64()
        })
    }
}
