//! How many batches may be in flight.

/// The rule that moves the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Little's law brackets, the throughput's elasticity trims.
    Little,
    /// `limit = min = max`: never moves.
    Fixed,
}

/// Bounds of one limiter; counts batches in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// The rule that moves the limit.
    pub algorithm: Algorithm,
    /// Never below this many batches.
    pub min: u32,
    /// Never above this many batches.
    pub max: u32,
}
