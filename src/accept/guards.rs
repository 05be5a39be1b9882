//! What one client may have of a listener: the bounds of the policy's `guards`.
//!
//! None of them is a limit that a client which means well comes near; all of
//! them together are why one that does not cannot take what others need.

use std::time::Duration;

/// The bounds, as they are without a policy's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guards {
    /// Connections open at once on one listener; past it the one that has
    /// been idle longest makes room, if any is.
    pub max_connections: usize,
    /// Streams open at once on one connection.
    pub max_streams: u32,
    /// Streams open at once on one listener, past which a connection that has
    /// more than its share is refused more.
    pub max_streams_total: usize,
    /// Most bytes of a call's headers, as HTTP/2 counts them.
    pub max_header_bytes: u32,
    /// Most headers of a call.
    pub max_headers: usize,
    /// Bytes of calls whose message has not come whole, of one listener; past
    /// it a connection that has more than its share is refused.
    pub max_unfinished_bytes: usize,
    /// Frames that carry nothing, a second, beside what a client's calls pay
    /// for.
    pub max_control_frames: u32,
    /// Calls that are reset as they are made, a second, beside as many that
    /// are not.
    pub max_resets: u32,
    /// How long a client may take for its TLS, and again to say that it
    /// speaks HTTP/2.
    pub handshake_timeout: Duration,
    /// How long a frame or a header block may take that has begun.
    pub frame_timeout: Duration,
    /// How long the message of a call that batches may take from its headers.
    pub message_timeout: Duration,
    /// How long a connection may be open without a call.
    pub idle_timeout: Duration,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            // hyper's own default of 200 is too few for a client that
            // multiplexes thousands of calls.
            max_streams: 10_000,
            max_streams_total: 100_000,
            max_header_bytes: 16 << 10,
            max_headers: 256,
            max_unfinished_bytes: 256 << 20,
            max_control_frames: 1_000,
            max_resets: 100,
            handshake_timeout: Duration::from_secs(10),
            frame_timeout: Duration::from_secs(10),
            message_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(3_600),
        }
    }
}

impl Guards {
    /// How often a connection is looked at for what has taken too long.
    pub(super) fn look_every(&self) -> Duration {
        let least = self.frame_timeout.min(self.idle_timeout) / 2;
        least.clamp(Duration::from_millis(5), Duration::from_secs(1))
    }
}
