//! What one client may have of a listener, as a policy may set it.

use std::time::Duration;

use super::{
    bounds::{bytes, count, span},
    fault::Found,
    keys_guards::GUARDS,
    section::Section,
    units::{show_duration, show_size},
};
use crate::accept::Guards;

const COUNT_MOST: u64 = 10_000_000;
/// Less has no room for the headers that every gRPC call has.
const HEADER_BYTES_BOUNDS: (u64, u64) = (1 << 10, 1 << 20);
const UNFINISHED_BOUNDS: (u64, u64) = (1 << 20, 64 << 30);
const TIME_BOUNDS: (Duration, Duration) = (
    Duration::from_millis(10),
    Duration::from_secs(30 * 24 * 3_600),
);

/// The section in `top`, or what holds without one.
pub(super) fn read(top: &Section<'_>, found: &mut Found) -> Guards {
    let default = Guards::default();
    let Some(section) = top.section("guards", &GUARDS, found) else {
        return default;
    };
    let mut number = |key: &str, default: usize| {
        let told = section.count(key, found);
        let told = count(told.as_ref(), &section.path_of(key), COUNT_MOST, found);
        told.map_or(default, |told| usize::try_from(told).unwrap_or(usize::MAX))
    };
    let max_connections = number("max_connections", default.max_connections);
    let max_streams_total = number("max_streams_total", default.max_streams_total);
    let max_headers = number("max_headers", default.max_headers);
    let mut small = |key: &str, default: u32| {
        let told = number(key, default as usize);
        u32::try_from(told).expect("at most ten millions")
    };
    let max_streams = small("max_streams", default.max_streams);
    let max_control_frames = small("max_control_frames", default.max_control_frames);
    let max_resets = small("max_resets", default.max_resets);
    let mut size = |key: &str, default: usize, bounds: (u64, u64)| {
        let told = section.size(key, found);
        let bounds = (default as u64, bounds);
        bytes(told.as_ref(), &section.path_of(key), bounds, found)
    };
    let header_bytes = size(
        "max_header_bytes",
        default.max_header_bytes as usize,
        HEADER_BYTES_BOUNDS,
    );
    let unfinished_bytes = size(
        "max_unfinished_bytes",
        default.max_unfinished_bytes,
        UNFINISHED_BOUNDS,
    );
    let mut time = |key: &str, default: Duration| {
        let told = section.duration(key, found);
        let told = span(told, &section.path_of(key), TIME_BOUNDS, found);
        told.unwrap_or(default)
    };
    Guards {
        max_connections,
        max_streams,
        max_streams_total,
        max_header_bytes: u32::try_from(header_bytes).expect("at most a mebibyte"),
        max_headers,
        max_unfinished_bytes: unfinished_bytes,
        max_control_frames,
        max_resets,
        handshake_timeout: time("handshake_timeout", default.handshake_timeout),
        frame_timeout: time("frame_timeout", default.frame_timeout),
        message_timeout: time("message_timeout", default.message_timeout),
        idle_timeout: time("idle_timeout", default.idle_timeout),
    }
}

/// In words, for `ferry check`.
pub(super) fn describe(guards: &Guards) -> String {
    let Guards {
        max_connections,
        max_streams,
        max_streams_total,
        max_header_bytes,
        max_headers,
        max_unfinished_bytes,
        max_control_frames,
        max_resets,
        handshake_timeout,
        frame_timeout,
        message_timeout,
        idle_timeout,
    } = guards;
    let [handshake, frame, message, idle] = [
        handshake_timeout,
        frame_timeout,
        message_timeout,
        idle_timeout,
    ]
    .map(|span| show_duration(*span));
    format!(
        "a listener: {max_connections} connections, {max_streams_total} calls at once, {} of half \
         messages; a connection: {max_streams} calls at once, a second {max_control_frames} frames \
         that carry nothing and {max_resets} calls reset at once; a call: {} of headers, \
         {max_headers} of them; time: {handshake} to shake hands, {frame} a frame, {message} a \
         message, {idle} without a call",
        show_size(*max_unfinished_bytes as u64),
        show_size(u64::from(*max_header_bytes)),
    )
}
