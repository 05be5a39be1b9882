//! How late an open loop's calls left, and whose fault that was: the load
//! generator's, which then was the limit and not the server; or that of the
//! answers that all its callers were waiting for. Pure.

use std::time::Duration;

use super::{pace::Rate, report::milliseconds};

/// A generator that is later than this adds to what it measures.
const LATE: Duration = Duration::from_millis(1);
/// The share of late calls, in per cent, that shows in a 99th percentile.
const LATE_SHARE: f64 = 1.0;

/// What kept a call from leaving at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// There was a caller and a stream for it: the generator was busy.
    Generator,
    /// Every caller waited for an answer, or the server took no more streams.
    Waiting,
}

/// The calls of an open loop, counted.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    sent: u64,
    late: u64,
    latest: Duration,
    held: u64,
    longest_held: Duration,
    unsent: u64,
}

impl Lateness {
    /// A call left `late` after its time, because of `cause`.
    pub(super) fn on_sent(&mut self, late: Duration, cause: Cause) {
        self.sent += 1;
        match cause {
            Cause::Generator if late > LATE => {
                self.late += 1;
                self.latest = self.latest.max(late);
            }
            Cause::Generator => {}
            Cause::Waiting => {
                self.held += 1;
                self.longest_held = self.longest_held.max(late);
            }
        }
    }

    /// So many sessions were due when the load closed, and not sent.
    pub(super) fn on_unsent(&mut self, sessions: u64) {
        self.unsent += sessions;
    }

    /// What the reader of the figures should know.
    pub(super) fn warnings(&self, rate: Rate, callers: u32) -> Vec<String> {
        let rate = rate.sessions_per_sec;
        let told = |duration: Duration| milliseconds(duration.as_secs_f64() * 1_000.0);
        let share = 100.0 * self.late as f64 / self.sent.max(1) as f64;
        let mut warnings = Vec::new();
        if share >= LATE_SHARE {
            warnings.push(format!(
                "the load generator was the limit: {share:.1} % of the calls left more than \
                 {} after their time, the latest by {}, and their latency includes that; lower \
                 --rate {rate} or give the bench a core of its own",
                told(LATE),
                told(self.latest),
            ));
        }
        if self.held > 0 {
            warnings.push(format!(
                "{} of {} calls could not leave at their time, the longest wait was {}: all \
                 --concurrency {callers} callers waited for answers or the server took no more \
                 streams; latency counts from the time that was meant",
                self.held,
                self.sent,
                told(self.longest_held),
            ));
        }
        if self.unsent > 0 {
            warnings.push(format!(
                "{} sessions were due and not sent when the load ended, and are in no figure: it \
                 was behind its --rate {rate} by then",
                self.unsent
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::{super::pace::Arrivals, *};

    const MS: Duration = Duration::from_millis(1);

    fn warnings(lateness: &Lateness) -> Vec<String> {
        let rate = Rate {
            sessions_per_sec: 5_000.try_into().unwrap(),
            arrivals: Arrivals::Even,
        };
        lateness.warnings(rate, 8)
    }

    #[test]
    fn a_load_in_time_deserves_no_warning() {
        let mut lateness = Lateness::default();
        (0..1_000).for_each(|_| lateness.on_sent(MS / 10, Cause::Generator));
        (0..9).for_each(|_| lateness.on_sent(5 * MS, Cause::Generator));
        assert!(warnings(&lateness).is_empty(), "under one in a hundred");
    }

    #[test]
    fn a_late_generator_is_told_from_callers_that_wait() {
        let mut lateness = Lateness::default();
        (0..98).for_each(|_| lateness.on_sent(MS / 10, Cause::Generator));
        lateness.on_sent(7 * MS, Cause::Generator);
        lateness.on_sent(400 * MS, Cause::Waiting);
        let told = warnings(&lateness);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("load generator was the limit: 1.0 %"));
        assert!(told[0].contains("7.00 ms"), "{told:?}");
        assert!(told[1].starts_with("1 of 100 calls could not leave"));
        assert!(told[1].contains("400 ms") && told[1].contains("--concurrency 8"));
    }

    #[test]
    fn what_was_never_sent_is_not_passed_over() {
        let mut lateness = Lateness::default();
        lateness.on_unsent(123);
        assert!(warnings(&lateness)[0].starts_with("123 sessions were due and not sent"));
    }
}
