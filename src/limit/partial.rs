//! How many batches may be in flight while nothing waits behind them. PURE.
//!
//! A batch that took all there was is as large as the callers made it. One
//! more in flight carries nothing more, it only makes each smaller, so there
//! is no throughput to look at; what counts is the time to an answer. A batch
//! that queues upstream waits where nobody can join it, a window that waits
//! here goes on filling. So the queue upstream is kept near nothing.
//!
//! With N batches in flight on the mean and the slowdown `W = Σrtt / Στ(n)`,
//! Little gives N/W of them at work and `Q = N − N/W` (batches) in a queue. Let s
//! be the time between two sendings, S a service of coefficient of variation
//! c, paced and so without burstiness of its own (Kingman's approximation):
//!
//! ```text
//! T(s) = s/2 + S + c²/2 · S²/(s − S)      the mean wait here, service, queue
//! dT/ds = 0  ⇒  s = S·(1 + c)  ⇒  Q = wait/s = c / (2·(1 + c))
//! ```
//!
//! which is 0.08 batches for c = 0.2 and 0.25 for c = 1: a fraction of one
//! batch, however long the way is.

use super::{meter::Meter, rule::Sample};

/// The queue that is meant, batches.
const QUEUE: f64 = 0.25;
/// What τ may be wrong by, as a part of the batches in flight.
const TOLERANCE: f64 = 0.1;
/// A round has at least this many samples.
const ROUND: u32 = 8;
/// The part of batches that had to wait for a permit, from which on the limit
/// is what holds them back.
const BOUND: f64 = 0.3;
/// Rounds to hold still after a step too far; doubled each time.
const HOLD: (u32, u32) = (8, 64);

/// The limit while windows empty with every batch.
#[derive(Debug)]
pub(super) struct Partial {
    limit: f64,
    round: Option<Meter>,
    /// Rounds left to hold still, and how many it was the last time.
    hold: u32,
    held: u32,
}

impl Partial {
    pub(super) const fn new(limit: f64) -> Self {
        Self {
            limit,
            round: None,
            hold: 0,
            held: HOLD.0,
        }
    }

    pub(super) const fn limit(&self, floor: f64) -> f64 {
        self.limit.max(floor)
    }

    /// The upstream says it has no resources left.
    pub(super) fn cut(&mut self, factor: f64) {
        self.limit = (self.limit * factor).max(1.0);
    }

    /// A batch behind which nothing waited; `unloaded` is its τ(n) in
    /// seconds, if that is known.
    pub(super) fn learn(&mut self, sample: &Sample, unloaded: Option<f64>, floor: f64) {
        let Some(unloaded) = unloaded else {
            self.round = None;
            return;
        };
        let round = self.round.get_or_insert_with(|| Meter::since(sample.now));
        round.add(sample, Some(unloaded));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let needed = ROUND.max(self.limit as u32) + 1;
        if round.samples() >= needed
            && let Some(round) = self.round.take()
        {
            self.end_round(&round, floor);
        }
    }

    fn end_round(&mut self, round: &Meter, floor: f64) {
        let Some(slowdown) = round.slowdown() else {
            return;
        };
        if round.bound() < BOUND {
            return;
        }
        let at_work = round.work_rate();
        let queue = at_work * (slowdown - 1.0);
        if queue > QUEUE + TOLERANCE * at_work {
            let part = (at_work + QUEUE) / (at_work + queue);
            self.limit = (self.limit * part.max(0.5)).max(floor).max(1.0);
            self.hold = self.held;
            self.held = (self.held * 2).min(HOLD.1);
        } else if self.hold > 0 {
            self.hold -= 1;
        } else {
            self.limit += (self.limit / 2.0).max(0.5);
        }
    }
}
