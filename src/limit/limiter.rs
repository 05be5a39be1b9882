//! The count that stands in front of an upstream. PURE: it takes `now` as an
//! argument and answers with data.
//!
//! A batch is admitted if and only if `in_flight < limit`. That is a counter
//! and not a semaphore on purpose: a semaphore with waiters hands a released
//! permit on before it could be forgotten, so its limit cannot fall under
//! overload, which is exactly when it has to.

use std::time::Instant;

use super::{
    aimd::Aimd,
    estimate::Little,
    fixed::Fixed,
    gradient2::Gradient2,
    rule::{Outcome, Rule, Sample},
    vegas::Vegas,
};

/// Names every rule once: its type, what a policy calls it, what it does.
macro_rules! algorithms {
    ($($rule:ident, $name:literal, $does:literal;)+) => {
        /// The rule that moves the limit.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Algorithm {
            $(#[doc = concat!("The limit is ", $does, ".")] $rule,)+
        }

        impl Algorithm {
            /// All of them, the default first.
            pub const ALL: &[Self] = &[$(Self::$rule),+];

            /// What a policy calls it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$rule => $name,)+ }
            }

            /// How the limit comes about, to complete "the limit is …".
            #[must_use]
            pub const fn does(self) -> &'static str {
                match self { $(Self::$rule => $does,)+ }
            }

            fn rule(self, min: u32, max: u32) -> Box<dyn Rule> {
                match self { $(Self::$rule => Box::new($rule::new(min, max)),)+ }
            }
        }
    };
}

// An algorithm is a file with a `Rule`, and its line here.
algorithms! {
    Little, "little", "found by Little's law and trimmed by the throughput's elasticity";
    Aimd, "aimd", "raised by one an answer and cut by a tenth a failure";
    Vegas, "vegas", "held where a few batches queue upstream, judged by the least latency seen";
    Gradient2, "gradient2", "scaled by the long-term latency over the present one";
    Fixed, "fixed", "always the same";
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

/// What is remembered of a batch between sending and its answer.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    at: Instant,
    entries: u32,
    in_flight: u32,
    waited: bool,
    backlog: u64,
}

/// The count and its rule.
#[derive(Debug)]
pub struct Limiter {
    settings: LimitSettings,
    in_flight: u32,
    rule: Box<dyn Rule>,
    origin: Option<Instant>,
}

impl Limiter {
    /// A limiter with nothing in flight.
    #[must_use]
    pub fn new(settings: LimitSettings) -> Self {
        let rule = settings.algorithm.rule(settings.min, settings.max);
        Self::with_rule(settings, rule)
    }

    /// A limiter that goes by any rule; of the settings only the bounds count.
    #[must_use]
    pub fn with_rule(settings: LimitSettings, rule: Box<dyn Rule>) -> Self {
        Self {
            settings,
            in_flight: 0,
            rule,
            origin: None,
        }
    }

    /// Goes by other settings from now on; what is in flight still counts. A
    /// rule that changes has everything to learn again.
    pub fn retune(&mut self, settings: LimitSettings) {
        if settings != self.settings {
            let (in_flight, origin) = (self.in_flight, self.origin);
            *self = Self::new(settings);
            self.in_flight = in_flight;
            if let Some(origin) = origin {
                self.align(origin);
            }
        }
    }

    /// What it goes by.
    #[must_use]
    pub fn settings(&self) -> LimitSettings {
        self.settings
    }

    /// Names a moment, before any sample, that all who share the upstream agree
    /// on, so that they look for its unloaded latency together.
    pub fn align(&mut self, origin: Instant) {
        self.origin = Some(origin);
        self.rule.align(origin);
    }

    /// Takes a permit, if one is free.
    pub fn try_admit(&mut self) -> bool {
        let admitted = self.in_flight < self.limit();
        self.in_flight += u32::from(admitted);
        admitted
    }

    /// A permit was used: its batch leaves now. `waited` says whether it had
    /// to wait for its permit, `backlog` how many entries wait behind it.
    pub fn sent(&mut self, now: Instant, entries: u32, waited: bool, backlog: u64) -> Sent {
        self.rule.leaves(now, entries, backlog);
        Sent {
            at: now,
            entries,
            in_flight: self.in_flight,
            waited,
            backlog,
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
            backlog: sent.backlog,
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
    use std::time::Duration;

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
    fn every_algorithm_begins_and_stays_within_its_bounds() {
        for &algorithm in Algorithm::ALL {
            for (min, max) in [(1, 4), (30, 40)] {
                let settings = LimitSettings {
                    algorithm,
                    min,
                    max,
                };
                let mut limiter = Limiter::new(settings);
                let mut now = Instant::now();
                for outcome in [Outcome::Success, Outcome::TimedOut].repeat(50) {
                    let limit = limiter.limit();
                    assert!((min..=max).contains(&limit), "{algorithm:?}: {limit}");
                    assert!(limiter.try_admit(), "nothing is in flight");
                    let sent = limiter.sent(now, 100, true, 1_000);
                    now += Duration::from_millis(10);
                    limiter.answered(now, sent, outcome);
                }
            }
        }
    }

    #[test]
    fn what_is_in_flight_counts_against_a_limit_that_was_lowered() {
        let mut limiter = fixed(3);
        assert!((0..3).all(|_| limiter.try_admit()));
        limiter.retune(LimitSettings {
            algorithm: Algorithm::Fixed,
            min: 1,
            max: 2,
        });
        limiter.release();
        assert!(!limiter.try_admit());
        limiter.release();
        assert!(limiter.try_admit());
    }

    #[test]
    fn a_limit_of_zero_still_lets_one_batch_through() {
        assert!(fixed(0).try_admit());
    }
}
