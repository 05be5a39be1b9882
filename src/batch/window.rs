//! The settings of a window (the pure window itself follows).
use std::{num::NonZeroU32, time::Duration};

/// When a partial window may close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// At once when the upstream is idle, else paced; at most after the linger.
    Adaptive,
    /// Only full or when the linger has elapsed.
    Fixed,
}

/// Bounds of one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSettings {
    /// Most entries a batch may hold.
    pub max_entries: NonZeroU32,
    /// Most payload bytes a batch may hold.
    pub max_bytes: usize,
    /// The longest a window's first entry waits for company.
    pub linger: Duration,
    /// When a partial window may close.
    pub close: Close,
}

/// Bounds of what waits in front of a window's upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// The longest an entry without an earlier deadline may wait.
    pub max_wait: Duration,
    /// Most payload bytes that may wait.
    pub max_bytes: usize,
}
