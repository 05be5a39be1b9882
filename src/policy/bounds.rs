//! Defaults and bounds of a method's numbers, each written once.

use std::{num::NonZeroU32, time::Duration};

use super::{
    fault::{Found, Position},
    file::{QueueFile, WindowFile},
    read_form::ReplyFile,
    section::At,
    units::{show_duration, show_size},
};
use crate::batch::{Close, QueueSettings, WindowSettings};

const MAX_ENTRIES: NonZeroU32 = NonZeroU32::new(500).expect("500 is not zero");
const WINDOW_BYTES: u64 = 1 << 20;
const LINGER: Duration = Duration::from_millis(2);
const LINGER_BOUNDS: (Duration, Duration) = (Duration::from_micros(50), Duration::from_secs(10));
const MAX_WAIT: Duration = Duration::from_secs(1);
const WAIT_BOUNDS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(3_600));
const QUEUE_BYTES: u64 = 64 << 20;
/// What gRPC servers accept unless told otherwise.
const MESSAGE_BYTES: u64 = 4 << 20;
/// What gRPC clients accept unless told otherwise, where each of them gets it.
const REPLY_BYTES: u64 = 4 << 20;
/// Parts that are small one by one are large together.
const SPLIT_BYTES: u64 = 64 << 20;
/// Each is looked at whenever the worker wakes.
const PARTITIONS: u64 = 1_024;
const PARTITIONS_BOUND: u64 = 65_536;
const ENTRIES_BOUND: u64 = 100_000;
const WINDOW_BYTES_BOUNDS: (u64, u64) = (1 << 10, 256 << 20);
const QUEUE_BYTES_BOUNDS: (u64, u64) = (1 << 10, 64 << 30);
const MESSAGE_BYTES_BOUNDS: (u64, u64) = (1 << 10, 256 << 20);
const REPLY_BYTES_BOUNDS: (u64, u64) = (1 << 10, 64 << 20);

/// The bounds of window and queue. Faults are noted; what is at fault counts
/// as its default, so that the comparisons after it still mean something.
pub(super) fn window_and_queue(
    path: &str,
    window: &WindowFile,
    queue: &QueueFile,
    found: &mut Found,
) -> (WindowSettings, QueueSettings) {
    let name = |key: &str| format!("{path}.{key}");
    let entries = count(
        window.max_entries.as_ref(),
        &name("window.max_entries"),
        ENTRIES_BOUND,
        found,
    );
    let max_entries = entries
        .and_then(|entries| NonZeroU32::new(u32::try_from(entries).ok()?))
        .unwrap_or(MAX_ENTRIES);
    let window_bytes = (WINDOW_BYTES, WINDOW_BYTES_BOUNDS);
    let window_bytes = bytes(
        window.max_bytes.as_ref(),
        &name("window.max_bytes"),
        window_bytes,
        found,
    );
    let queue_bytes = (QUEUE_BYTES, QUEUE_BYTES_BOUNDS);
    let queue_bytes = bytes(
        queue.max_bytes.as_ref(),
        &name("queue.max_bytes"),
        queue_bytes,
        found,
    );
    let linger = linger(window.linger.as_ref(), &name("window.linger"), found);
    let max_wait = span(
        queue.max_wait.clone(),
        &name("queue.max_wait"),
        WAIT_BOUNDS,
        found,
    );
    let max_wait = max_wait.unwrap_or(MAX_WAIT);
    // Else every entry of a quiet window would be shed before the window closes.
    if let Some(at) =
        place(window.linger.as_ref(), queue.max_wait.as_ref()).filter(|_| linger >= max_wait)
    {
        let (linger, wait) = (show_duration(linger), show_duration(max_wait));
        let what = format!("{linger}: must be shorter than queue.max_wait, which is {wait}");
        found.add::<()>(at, format!("{}: {what}", name("window.linger")));
    }
    if let Some(at) = place(window.max_bytes.as_ref(), queue.max_bytes.as_ref())
        .filter(|_| window_bytes > queue_bytes)
    {
        let (window, queue) = (
            show_size(window_bytes as u64),
            show_size(queue_bytes as u64),
        );
        let what = format!("{window}: must be at most queue.max_bytes, which is {queue}");
        found.add::<()>(at, format!("{}: {what}", name("window.max_bytes")));
    }
    let close = window
        .close
        .as_ref()
        .map_or(Close::Adaptive, |close| close.value);
    (
        WindowSettings {
            max_entries,
            max_bytes: window_bytes,
            linger,
            close,
        },
        QueueSettings {
            max_wait,
            max_bytes: queue_bytes,
        },
    )
}

/// Where to point for two values that do not go together.
fn place<T, U>(first: Option<&At<T>>, second: Option<&At<U>>) -> Option<Position> {
    first
        .map(|first| first.at)
        .or(second.map(|second| second.at))
}

fn linger(file: Option<&At<Duration>>, path: &str, found: &mut Found) -> Duration {
    if let Some(file) = file.filter(|file| file.value < LINGER_BOUNDS.0) {
        let what = "must be at least 50us; leave the key out, and with close: adaptive \
                    a call waits for nobody while the upstream is idle";
        found.add::<()>(
            file.at,
            format!("{path}: {}: {what}", show_duration(file.value)),
        );
        return LINGER;
    }
    span(file.cloned(), path, LINGER_BOUNDS, found).unwrap_or(LINGER)
}

pub(super) fn bytes(
    file: Option<&At<u64>>,
    path: &str,
    (default, (least, most)): (u64, (u64, u64)),
    found: &mut Found,
) -> usize {
    let mut value = default;
    if let Some(file) = file {
        let show = show_size;
        if file.value < least {
            let what = format!(
                "must be at least {}; leave the key out for {}",
                show(least),
                show(default)
            );
            found.add::<()>(file.at, format!("{path}: {}: {what}", show(file.value)));
        } else if file.value > most {
            let what = format!("must be at most {}; lower it", show(most));
            found.add::<()>(file.at, format!("{path}: {}: {what}", show(file.value)));
        } else {
            value = file.value;
        }
    }
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Most partitions of a method that may wait at once.
pub(super) fn partitions(path: &str, file: &QueueFile, found: &mut Found) -> usize {
    let path = format!("{path}.queue.max_partitions");
    let most = count(file.max_partitions.as_ref(), &path, PARTITIONS_BOUND, found);
    usize::try_from(most.unwrap_or(PARTITIONS)).unwrap_or(usize::MAX)
}

/// The most bytes that one call's message may have. It has to find room among
/// what waits, of which there are `queue` bytes at most.
pub(super) fn message(
    path: &str,
    file: Option<&At<u64>>,
    queue: usize,
    found: &mut Found,
) -> usize {
    let path = format!("{path}.max_message_bytes");
    let default = MESSAGE_BYTES.min(queue as u64);
    let message = bytes(file, &path, (default, MESSAGE_BYTES_BOUNDS), found);
    if let Some(file) = file.filter(|_| message > queue) {
        let (message, queue) = (show_size(message as u64), show_size(queue as u64));
        let what = format!(
            "{message}: must be at most queue.max_bytes, which is {queue}; raise that, or lower \
             this"
        );
        found.add::<()>(file.at, format!("{path}: {what}"));
    }
    message
}

/// The most bytes that a batch's reply may have.
pub(super) fn reply(path: &str, file: &ReplyFile, found: &mut Found) -> usize {
    let path = format!("{path}.reply.max_bytes");
    let default = match file.subresponse {
        Some(_) => SPLIT_BYTES,
        None => REPLY_BYTES,
    };
    let bounds = (default, REPLY_BYTES_BOUNDS);
    bytes(file.max_bytes.as_ref(), &path, bounds, found)
}

/// A number from 1 to `most`; `None` where it is absent or at fault.
pub(super) fn count(
    file: Option<&At<u64>>,
    path: &str,
    most: u64,
    found: &mut Found,
) -> Option<u64> {
    let At { value, at } = file?;
    match *value {
        0 => found.add(
            *at,
            format!("{path}: 0: must be at least 1; leave the key out for the default"),
        ),
        value if value > most => found.add(
            *at,
            format!("{path}: {value}: must be at most {most}; lower it"),
        ),
        value => Some(value),
    }
}

/// A duration within `(least, most)`; `None` where it is absent or at fault.
pub(super) fn span(
    file: Option<At<Duration>>,
    path: &str,
    (least, most): (Duration, Duration),
    found: &mut Found,
) -> Option<Duration> {
    let At { value, at } = file?;
    let show = show_duration;
    if value < least {
        let what = format!(
            "must be at least {}; leave the key out for the default",
            show(least)
        );
        return found.add(at, format!("{path}: {}: {what}", show(value)));
    }
    if value > most {
        return found.add(
            at,
            format!(
                "{path}: {}: must be at most {}; shorten it",
                show(value),
                show(most)
            ),
        );
    }
    Some(value)
}
