//! When to drain, so that all who share an upstream drain together. PURE.
//!
//! One of eight sidecars that sends less for a moment sees the queue of the
//! seven others, and takes it for the length of the way. If all eight send
//! less at the same moment, each sees the upstream unloaded. They know nothing
//! of each other but the time of day: so each drains at whole multiples of a
//! period, counted from one origin that all of them agree on. Clocks that
//! differ by less than a drain's length do; nothing else hangs on them.

use std::time::{Duration, Instant};

/// The grid, counted from the origin, seconds.
const GRID: u64 = 1;
/// A slot counts for periods of up to `GRID · 2^LEVELS`.
const LEVELS: u32 = 6;

/// The slots, and which of them have passed.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Without one, the first sample: its own drains are evenly spaced.
    origin: Option<Instant>,
    /// The slot that the last look fell into.
    last: Option<u64>,
}

impl Slots {
    /// A moment that all who share the upstream agree on, at or before any
    /// sample.
    pub(super) fn align(&mut self, origin: Instant) {
        (self.origin, self.last) = (Some(origin), None);
    }

    /// Seconds since the slot before.
    pub(super) fn since(&self, now: Instant) -> f64 {
        let origin = self.origin.unwrap_or(now);
        let past = now.saturating_duration_since(origin);
        let slot = Duration::from_secs(past.as_secs() / GRID * GRID);
        (past - slot).as_secs_f64()
    }

    /// If a slot has begun since the last look, the longest period that it
    /// ends: every slot ends a second, every other one two seconds, and so on.
    /// Who wants to drain seldom so drains with those who do so often.
    pub(super) fn has_begun(&mut self, now: Instant) -> Option<Duration> {
        let origin = *self.origin.get_or_insert(now);
        let slot = now.saturating_duration_since(origin).as_secs() / GRID;
        let last = self.last.replace(slot)?;
        let level = (0..=LEVELS).rev().find(|k| slot >> k != last >> k)?;
        Some(Duration::from_secs(GRID << level))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_who_agree_on_an_origin_drain_in_the_same_moments() {
        let origin = Instant::now();
        let at = |ms| origin + Duration::from_millis(ms);
        let every = |seconds: u64, first: u64| {
            let mut slots = Slots::default();
            slots.align(origin);
            let looks = (first..9_000).step_by(7);
            let begun = looks.filter(|ms| {
                let period = slots.has_begun(at(*ms));
                period.is_some_and(|period| period.as_secs() >= seconds)
            });
            begun.map(|ms| ms / 1_000).collect::<Vec<_>>()
        };
        assert_eq!(every(1, 0), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(every(2, 0), [2, 4, 6, 8]);
        assert_eq!(every(2, 1_333), [2, 4, 6, 8]);
        assert_eq!(every(4, 333), [4, 8]);
    }
}
