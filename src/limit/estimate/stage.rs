//! What the rule is doing at present. PURE.

use crate::limit::doubling::Doubling;

/// What the rule is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stage {
    /// Doubles a round until throughput stops growing.
    Start(Doubling),
    /// Holds back until hardly anything of ours is in flight, and sends a few
    /// batches that meet no queue; then what it broke off goes on.
    Drain { alone: f64, left: u32, then: Then },
    /// Dithers between L and a little more.
    Steady { phase: usize },
    /// Nobody answers: one probe at a time.
    Away,
}

/// What a drain breaks off, and what goes on after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Then {
    Start(Doubling),
    Steady { phase: usize },
}

impl From<Then> for Stage {
    fn from(then: Then) -> Self {
        match then {
            Then::Start(doubling) => Self::Start(doubling),
            Then::Steady { phase } => Self::Steady { phase },
        }
    }
}

/// Which phases of a steady cycle run high. Low, high, high, low cancels
/// drift; the others stay low, so that most batches wait in no longer a queue.
pub(super) const HIGH: [bool; 6] = [false, true, true, false, false, false];
