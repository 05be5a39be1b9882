//! The count that stands in front of an upstream. PURE: it takes `now` as an
//! argument and answers with data.
//!
//! A batch is admitted if and only if `in_flight < limit`. That is a counter
//! and not a semaphore on purpose: a semaphore with waiters hands a released
//! permit on before it could be forgotten, so its limit cannot fall under
//! overload, which is exactly when it has to.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::estimate::Little;

/// The rule that moves the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Little's law brackets, the throughput's elasticity trims.
    Little,
    /// Stays at `max`.
    Fixed,
}

/// Bounds of one limiter; counts batches in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// The rule that moves the limit.
    pub algorithm: Algorithm,
    /// Never below this many batches; at least 1.
    pub min: u32,
    /// Never above this many batches.
    pub max: u32,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Little,
            min: 1,
            max: 256,
        }
    }
}

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
    /// How it ended.
    pub outcome: Outcome,
}

impl Sample {
    /// From sending to the answer.
    #[must_use]
    pub fn rtt(&self) -> Duration {
        self.now.saturating_duration_since(self.sent)
    }
}

/// A rule: samples in, a limit out. Adding an algorithm is adding one of these.
pub trait Rule: Send + fmt::Debug {
    /// Learns from a finished batch.
    fn learn(&mut self, sample: &Sample);

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

/// Stays where it is put.
#[derive(Debug)]
struct Fixed(u32);

impl Rule for Fixed {
    fn learn(&mut self, _: &Sample) {}

    fn limit(&self) -> f64 {
        f64::from(self.0)
    }
}

/// What is remembered of a batch between sending and its answer.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    at: Instant,
    entries: u32,
    in_flight: u32,
    waited: bool,
}

/// The count and its rule.
#[derive(Debug)]
pub struct Limiter {
    settings: LimitSettings,
    in_flight: u32,
    rule: Box<dyn Rule>,
}

impl Limiter {
    /// A limiter with nothing in flight.
    #[must_use]
    pub fn new(settings: LimitSettings) -> Self {
        let rule: Box<dyn Rule> = match settings.algorithm {
            Algorithm::Little => Box::new(Little::new(settings.min, settings.max)),
            Algorithm::Fixed => Box::new(Fixed(settings.max)),
        };
        Self::with_rule(settings, rule)
    }

    /// A limiter that goes by any rule; of the settings only the bounds count.
    #[must_use]
    pub fn with_rule(settings: LimitSettings, rule: Box<dyn Rule>) -> Self {
        Self {
            settings,
            in_flight: 0,
            rule,
        }
    }

    /// Takes a permit, if one is free.
    pub fn try_admit(&mut self) -> bool {
        let admitted = self.in_flight < self.limit();
        self.in_flight += u32::from(admitted);
        admitted
    }

    /// A permit was used: its batch leaves now.
    pub fn sent(&mut self, now: Instant, entries: u32, waited: bool) -> Sent {
        Sent {
            at: now,
            entries,
            in_flight: self.in_flight,
            waited,
        }
    }

    /// The batch was answered: its permit is free, and its time is learnt from.
    pub fn answered(&mut self, now: Instant, sent: Sent, outcome: Outcome) {
        self.release();
        self.rule.learn(&Sample {
            sent: sent.at,
            now,
            entries: sent.entries,
            in_flight: sent.in_flight,
            waited: sent.waited,
            outcome,
        });
    }

    /// A permit comes back unused, or its batch was lost: nothing is learnt.
    pub fn release(&mut self) {
        self.in_flight -= 1;
    }

    /// Batches that may be in flight.
    #[must_use]
    pub fn limit(&self) -> u32 {
        // Truncation is meant: a limit of 2.9 admits two.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let limit = self.rule.limit() as u32;
        limit.clamp(self.settings.min.max(1), self.settings.max.max(1))
    }

    /// Batches that hold a permit.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The rule, for those who want to see its estimates.
    #[must_use]
    pub fn rule(&self) -> &dyn Rule {
        &*self.rule
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(max: u32) -> Limiter {
        Limiter::new(LimitSettings {
            algorithm: Algorithm::Fixed,
            min: 1,
            max,
        })
    }

    #[test]
    fn no_more_batches_are_in_flight_than_the_limit_allows() {
        let mut limiter = fixed(2);
        assert!(limiter.try_admit());
        assert!(limiter.try_admit());
        assert!(!limiter.try_admit());
        limiter.release();
        assert!(limiter.try_admit());
        assert_eq!(limiter.in_flight(), 2);
    }

    #[test]
    fn a_limit_of_zero_still_lets_one_batch_through() {
        assert!(fixed(0).try_admit());
    }
}
