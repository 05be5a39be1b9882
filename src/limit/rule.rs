//! What a limiter tells its rule of a finished batch, and what the rule answers.
//! PURE.
//!
//! Here and not beside the count, so that a rule knows nothing of the limiter
//! that it moves: the limiter imports the rules, and no rule imports it.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// How a batch ended, as far as the limit has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered.
    Success,
    /// The upstream is out of resources: congestion, said outright.
    Exhausted,
    /// No answer in time: congestion, most likely, and the upstream may still
    /// be at work.
    TimedOut,
    /// Nobody there to answer: says nothing of congestion.
    Unavailable,
    /// Answered with any other error: the time it took still counts.
    Failed,
}

/// One finished batch.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When it was sent upstream. No time of our own queue is in `rtt`.
    pub sent: Instant,
    /// When its answer came.
    pub now: Instant,
    /// Entries it held.
    pub entries: u32,
    /// Batches in flight right after it was sent, itself included.
    pub in_flight: u32,
    /// Whether it had to wait for its permit: the limit was binding.
    pub waited: bool,
    /// Entries that still waited behind it when it was sent. 0: it took all
    /// there was, and more in flight would only have made smaller batches.
    pub backlog: u64,
    /// How it ended.
    pub outcome: Outcome,
}

impl Sample {
    /// From sending to the answer.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.now.saturating_duration_since(self.sent)
    }

    /// Whether as much again stood behind it.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        is_pressing(self.entries, self.backlog)
    }
}

/// A rule: samples in, a limit out. Adding an algorithm is adding a file with
/// one of these, and its line in the table of [`Algorithm`](super::Algorithm).
pub trait Rule: Send + fmt::Debug {
    /// Learns from a finished batch.
    fn learn(&mut self, sample: &Sample);

    /// Names a moment, before any sample, that all who share the upstream agree
    /// on: what a rule does at intervals it may do together with them.
    fn align(&mut self, _origin: Instant) {}

    /// A batch leaves now, and this many entries still wait behind it.
    fn leaves(&mut self, _now: Instant, _entries: u32, _backlog: u64) {}

    /// The limit, in batches, not yet clamped to the bounds.
    fn limit(&self) -> f64;

    /// The estimated bandwidth-delay product in batches: what the upstream
    /// works on at once when it is busy and nothing queues. 0 if unknown.
    fn bdp(&self) -> f64 {
        0.0
    }

    /// Latency over unloaded latency, a ratio. 0 if unknown.
    fn slowdown(&self) -> f64 {
        0.0
    }
}

/// Callers press if at least as much waits behind a batch as is in it: another
/// one could leave at once. With less, the next does better to go on filling.
pub(super) fn is_pressing(entries: u32, backlog: u64) -> bool {
    backlog >= u64::from(entries.max(1))
}

/// What a rule may not leave, in batches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    min: f64,
    max: f64,
}

impl Bounds {
    /// At least 1 and at least `min`, whatever `max` says.
    pub(super) fn new(min: u32, max: u32) -> Self {
        let min = f64::from(min.max(1));
        Self {
            min,
            max: f64::from(max).max(min),
        }
    }

    pub(super) const fn clamp(self, limit: f64) -> f64 {
        limit.clamp(self.min, self.max)
    }
}

/// Where the rules that others published begin, in batches: where their
/// authors begin them.
pub(super) const PUBLISHED_FIRST: f64 = 20.0;

impl Outcome {
    /// Whether it is what the published rules call a drop: they know one kind
    /// of failure, and an answer that merely is an error is none.
    pub(super) const fn is_drop(self) -> bool {
        matches!(self, Self::Exhausted | Self::TimedOut | Self::Unavailable)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A batch that waited for its permit and took `rtt`.
    pub(crate) fn sample(rtt: Duration, in_flight: u32, outcome: Outcome) -> Sample {
        let sent = Instant::now();
        Sample {
            sent,
            now: sent + rtt,
            entries: 100,
            in_flight,
            waited: true,
            backlog: 1_000,
            outcome,
        }
    }

    #[test]
    fn bounds_that_contradict_each_other_leave_the_lower_one() {
        assert_eq!(Bounds::new(9, 3).clamp(5.0), 9.0);
        assert_eq!(Bounds::new(0, 0).clamp(5.0), 1.0);
    }
}
