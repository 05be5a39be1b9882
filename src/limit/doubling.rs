//! What START learns by doubling: when to stop, and how far it paid. PURE.
//!
//! Past the knee of a plant that works at one thing at a time, twice as much
//! in flight carries nothing more. Where work is shared (a group commit, whose
//! one sync takes all that wait) there is no knee: with `R = A + B·L` the
//! throughput `X = L/R` grows with the elasticity `e = A/(A + B·L)`, and the
//! unloaded latency says nothing of how far that pays. The doublings do.

use super::meter::Meter;

/// A round that grows throughput by less than this is flat.
const FLAT: f64 = 1.25;
/// A doubling that surely grows throughput by this much pays.
const PAYS: f64 = 1.1;
/// What of a limit that paid is sure to: it grew by so much from half of it.
const SURE: f64 = 0.75;
/// `e·W` past which the growth is taken from others (`trim.rs`).
const SHARED: f64 = 1.2;

/// What a round of START says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Twice as much in flight carried far more.
    Grew,
    /// It did not, or took it from others.
    Still,
    /// It did not for the second time.
    Flat,
}

/// The rounds of one START.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Doubling {
    best: f64,
    variance: f64,
    slowdown: f64,
    flat: u8,
    paid: f64,
}

impl Doubling {
    /// A round under `limit`, at the slowdown W.
    pub(super) fn round(&mut self, limit: f64, round: &Meter, slowdown: f64) -> Verdict {
        let (throughput, variance) = (round.throughput(), round.throughput_variance());
        let growth = throughput / self.best;
        let grew = throughput >= FLAT * self.best;
        self.flat = if grew { 0 } else { self.flat + 1 };
        let taken = grew && self.best > 0.0 && growth.log2() * self.slowdown > SHARED;
        let deviation = (variance + self.variance).sqrt();
        if self.best > 0.0 && growth.ln() - deviation >= PAYS.ln() {
            self.paid = limit;
        }
        if throughput > self.best {
            (self.best, self.variance) = (throughput, variance);
        }
        self.slowdown = slowdown;
        match (grew && !taken, self.flat >= 2) {
            (true, _) => Verdict::Grew,
            (false, true) => Verdict::Flat,
            (false, false) => Verdict::Still,
        }
    }

    /// The limit up to which doubling surely paid, batches.
    pub(super) const fn paid(&self) -> f64 {
        self.paid * SURE
    }
}
