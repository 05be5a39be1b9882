//! What a run leaves behind.

/// The width of a bin of the timeline, seconds.
pub(crate) const BIN: f64 = 0.25;

/// One answered batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    /// Virtual seconds.
    pub(crate) at: f64,
    pub(crate) rtt: f64,
    pub(crate) entries: u32,
    pub(crate) limit: u32,
}

/// What a run leaves behind.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) answered: Vec<Answered>,
    /// Caller latencies: when answered, how long, how many entries.
    pub(crate) callers: Vec<(f64, f64, u32)>,
    /// Entries answered, by sidecar.
    pub(crate) by_sidecar: Vec<f64>,
    /// Entries sent although their caller had left.
    pub(crate) ghosts: u64,
    /// Entries that fell out of the window because their caller had left.
    pub(crate) cancelled: u64,
    /// Entries that were shed or fell out before they were sent.
    pub(crate) shed: u64,
    /// Entries answered after their caller's deadline.
    pub(crate) late: u64,
}
