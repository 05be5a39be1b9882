//! The keys of a policy's guards.

use super::keys::{
    Keys,
    Takes::{Count, Duration, Size},
    key,
};

pub(super) static GUARDS: Keys = Keys::any_of(&[
    key("max_connections", Count, "Connections of a listener."),
    key("max_streams", Count, "Calls at once, a connection."),
    key("max_streams_total", Count, "Calls at once, a listener."),
    key("max_header_bytes", Size, "Bytes of headers, a call."),
    key("max_headers", Count, "Headers, a call."),
    key(
        "max_unfinished_bytes",
        Size,
        "Bytes of messages that are not whole yet, a listener.",
    ),
    key(
        "max_control_frames",
        Count,
        "Frames a second that carry nothing, a connection.",
    ),
    key(
        "max_resets",
        Count,
        "Calls a second that are reset as they are made, a connection.",
    ),
    key("handshake_timeout", Duration, "Time to shake hands."),
    key(
        "frame_timeout",
        Duration,
        "Time for a frame that has begun.",
    ),
    key(
        "message_timeout",
        Duration,
        "Time for a message that has begun.",
    ),
    key(
        "idle_timeout",
        Duration,
        "Time without a call after which a connection is closed.",
    ),
]);
