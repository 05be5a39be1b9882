//! A limit that stays where it is put: for those who know it, and to measure
//! the others against. PURE.

use super::rule::{Rule, Sample};

/// Stays at its upper bound.
#[derive(Debug)]
pub(super) struct Fixed(u32);

impl Fixed {
    pub(super) const fn new(_: u32, max: u32) -> Self {
        Self(max)
    }
}

impl Rule for Fixed {
    fn learn(&mut self, _: &Sample) {}

    fn limit(&self) -> f64 {
        f64::from(self.0)
    }
}
