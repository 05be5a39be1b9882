//! How much of one client is read before others have a turn. PURE.
//!
//! The HTTP/2 machine reads for as long as there is something to read, and a
//! client that sends frames faster than they are looked at keeps its thread
//! for ever: tokio's own budget, which would end that, is switched off for
//! connections (`connection.rs`). So a turn has a measure of its own.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Frames of one turn. A call is two of them; another that waits for its turn
/// waits at every hop of its call, so a turn must be short.
const FRAMES: usize = 256;
/// Bytes of one turn: what a large message is read in without being held up.
const BYTES: usize = 512 << 10;

/// What a turn has read so far; shared by the socket and whoever polls it.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn(Arc<Spent>);

#[derive(Debug, Default)]
struct Spent {
    frames: AtomicUsize,
    bytes: AtomicUsize,
}

impl Turn {
    /// A new turn begins.
    pub(super) fn begin(&self) {
        self.0.frames.store(0, Ordering::Relaxed);
        self.0.bytes.store(0, Ordering::Relaxed);
    }

    /// So much was read.
    pub(super) fn spend(&self, frames: usize, bytes: usize) {
        self.0.frames.fetch_add(frames, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether the rest is for the next turn.
    pub(super) fn is_spent(&self) -> bool {
        self.0.frames.load(Ordering::Relaxed) >= FRAMES
            || self.0.bytes.load(Ordering::Relaxed) >= BYTES
    }
}
