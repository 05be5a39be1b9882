//! How fast the upstream finishes: entries a second for admission, time
//! between batches for pacing. PURE.
//!
//! Both are measured only over busy intervals (something was in flight from
//! one finished batch to the next), since an idle gap says nothing of what
//! the upstream can do.

use std::time::{Duration, Instant};

use super::Flow;

/// Smoothed throughput of one upstream.
#[derive(Debug, Default)]
pub struct Pace {
    last: Option<Instant>,
    /// Seconds between two finished batches.
    spacing: Option<f64>,
    /// Seconds an entry.
    per_entry: Option<f64>,
}

/// The weight of the newest interval: about ten batches are remembered.
const GAIN: f64 = 0.1;

impl Pace {
    /// A batch of `entries` finished; `busy` says whether others are still in
    /// flight, i.e. whether the next interval is one of work.
    pub fn finished(&mut self, now: Instant, entries: u32, busy: bool) {
        if let Some(last) = self.last {
            let seconds = now.saturating_duration_since(last).as_secs_f64();
            smooth(&mut self.spacing, seconds);
            smooth(&mut self.per_entry, seconds / f64::from(entries.max(1)));
        }
        self.last = busy.then_some(now);
    }

    /// A batch was sent to an idle upstream: the interval of work starts here.
    pub fn started(&mut self, now: Instant) {
        self.last.get_or_insert(now);
    }

    /// Time between two finished batches.
    #[must_use]
    pub fn spacing(&self) -> Option<Duration> {
        self.spacing.map(Duration::from_secs_f64)
    }

    /// Seconds the upstream needs for one entry, at its present batch size.
    #[must_use]
    pub fn seconds_per_entry(&self) -> Option<f64> {
        self.per_entry
    }
}

/// When a partial batch may follow the last one: a little more than one
/// spacing (1/X) after it, for a partial batch that is sent faster than the
/// upstream finishes waits there, where nobody can join it. Since sending less
/// often is finishing less often, the spacing would so grow for ever; but by
/// Little `in_flight · spacing` is the time to an answer, and a part of that
/// is the most a window waits for its pace.
pub(super) fn paced_at(flow: &Flow) -> Option<Instant> {
    let part = f64::from(flow.in_flight) / PARTS;
    Some(flow.last_sent? + flow.spacing?.mul_f64(part.min(PACE)))
}

/// The spacings after which a partial batch follows the last one.
const PACE: f64 = 1.1;
/// Partial batches in flight up to which they follow each other faster.
const PARTS: f64 = 3.0;

fn smooth(value: &mut Option<f64>, sample: f64) {
    *value = Some(match *value {
        Some(old) => old + GAIN * (sample - old),
        None => sample,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_gap_is_not_counted_as_slow_work() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::default();
        pace.started(at(0));
        pace.finished(at(10), 100, true);
        pace.finished(at(20), 100, false);
        pace.started(at(5_000));
        pace.finished(at(5_010), 100, false);
        assert_eq!(pace.spacing(), Some(Duration::from_millis(10)));
        let per_entry = pace.seconds_per_entry().expect("three batches finished");
        assert!((per_entry - 1e-4).abs() < 1e-9, "{per_entry}");
    }
}
