//! Clients and calls that a guard refused, and clients that could not be let in
//! at all: counted by reason, and logged so that an operator can act, but never
//! once for each.

use std::{
    fmt::Display,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus::{IntCounter, IntCounterVec};
use tokio::time::Instant;

/// A flood of refusals is one line of the log, so often at most.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Which guard refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A connection too many.
    Connections,
    /// No TLS in time, or no HTTP/2 in time or at all.
    Handshake,
    /// More streams than the listener takes, and than this client's share.
    Streams,
    /// A call with too many headers.
    Headers,
    /// A frame or header block that did not come whole.
    FrameTimeout,
    /// A message that did not come whole.
    MessageTimeout,
    /// Half messages of more bytes than this client's share.
    UnfinishedBytes,
    /// Frames that carry nothing.
    ControlFrames,
    /// Calls that were reset as they were made.
    Resets,
    /// What the HTTP/2 machine itself does not put up with.
    Http2,
    /// No call for long, or none while others wanted in.
    Idle,
    /// TLS that the two sides did not agree on.
    Tls,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Connections,
        Self::Handshake,
        Self::Streams,
        Self::Headers,
        Self::FrameTimeout,
        Self::MessageTimeout,
        Self::UnfinishedBytes,
        Self::ControlFrames,
        Self::Resets,
        Self::Http2,
        Self::Idle,
        Self::Tls,
    ];

    /// Its label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Handshake => "handshake",
            Self::Streams => "streams",
            Self::Headers => "headers",
            Self::FrameTimeout => "frame_timeout",
            Self::MessageTimeout => "message_timeout",
            Self::UnfinishedBytes => "unfinished_bytes",
            Self::ControlFrames => "control_frames",
            Self::Resets => "resets",
            Self::Http2 => "http2",
            Self::Idle => "idle",
            Self::Tls => "tls",
        }
    }

    /// The policy's key that says how much is too much, if one does.
    #[must_use]
    pub const fn key(self) -> Option<&'static str> {
        Some(match self {
            Self::Connections => "guards.max_connections",
            Self::Handshake => "guards.handshake_timeout",
            Self::Streams => "guards.max_streams_total",
            Self::Headers => "guards.max_headers",
            Self::FrameTimeout => "guards.frame_timeout",
            Self::MessageTimeout => "guards.message_timeout",
            Self::UnfinishedBytes => "guards.max_unfinished_bytes",
            Self::ControlFrames => "guards.max_control_frames",
            Self::Resets => "guards.max_resets",
            Self::Http2 => "guards.max_header_bytes",
            Self::Idle => "guards.idle_timeout",
            Self::Tls => return None,
        })
    }
}

/// Counts them.
#[derive(Debug)]
pub struct Refusals {
    counters: [IntCounter; Refusal::ALL.len()],
    told: Mutex<[Told; Refusal::ALL.len()]>,
    unaccepted: IntCounter,
    told_unaccepted: Mutex<Told>,
}

/// What the log has been told of one reason.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    at: Option<Instant>,
    untold: u64,
}

impl Told {
    /// How many the log is told of now, if it is.
    fn one_more(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.at.is_some_and(|at| now - at < SAY_EVERY) {
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

impl Default for Refusals {
    /// Some that nobody scrapes.
    fn default() -> Self {
        let counter =
            |name| IntCounter::new(name, "Refused.").expect("a reason is a metric's name");
        Self {
            counters: Refusal::ALL.map(|refusal| counter(refusal.name())),
            told: Mutex::default(),
            unaccepted: counter("unaccepted"),
            told_unaccepted: Mutex::default(),
        }
    }
}

impl Refusals {
    /// Counts in `refused`, by its label, and in `unaccepted`.
    #[must_use]
    pub fn new(refused: &IntCounterVec, unaccepted: IntCounter) -> Self {
        let counter = |refusal: Refusal| refused.with_label_values(&[refusal.name()]);
        Self {
            counters: Refusal::ALL.map(counter),
            told: Mutex::default(),
            unaccepted,
            told_unaccepted: Mutex::default(),
        }
    }

    /// Counts one of `peer`'s.
    pub fn note(&self, refusal: Refusal, peer: &str) {
        let told = self.count_one(refusal);
        // Of those that are only idle there is nothing to act on.
        let told = told.filter(|_| refusal != Refusal::Idle);
        if let (Some(refused), Some(key)) = (told, refusal.key()) {
            tracing::warn!(
                reason = refusal.name(),
                refused,
                last = peer,
                "a guard refused what clients did; if they mean well, raise {key}"
            );
        }
    }

    /// Counts a handshake of `peer`'s that failed, for the reason that TLS gives.
    pub fn no_tls(&self, peer: &str, error: &impl Display) {
        if let Some(refused) = self.count_one(Refusal::Tls) {
            tracing::warn!(
                reason = Refusal::Tls.name(),
                refused,
                last = peer,
                %error,
                "clients came to no TLS with a listener"
            );
        }
    }

    /// How many the log is told of now, if it is.
    fn count_one(&self, refusal: Refusal) -> Option<u64> {
        self.counters[refusal as usize].inc();
        lock(&self.told)[refusal as usize].one_more(Instant::now())
    }

    /// How many were refused for this reason.
    #[must_use]
    pub fn count(&self, refusal: Refusal) -> u64 {
        self.counters[refusal as usize].get()
    }

    /// Counts a connection that `place` could not take, and says `why`.
    pub fn not_accepted(&self, place: &dyn Display, why: &dyn Display) {
        self.unaccepted.inc();
        let told = lock(&self.told_unaccepted).one_more(Instant::now());
        if let Some(connections) = told {
            tracing::warn!(
                %place,
                connections,
                last = %why,
                "connections could not be accepted; where too many files are open, raise the \
                 process's limit (ulimit -n, LimitNOFILE)"
            );
        }
    }

    /// How many connections could not be accepted.
    #[must_use]
    pub fn unaccepted(&self) -> u64 {
        self.unaccepted.get()
    }
}

fn lock<T>(told: &Mutex<T>) -> MutexGuard<'_, T> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter() {
        let refusals = Refusals::default();
        for (place, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, place);
            refusals.note(refusal, "test");
            assert_eq!(refusals.count(refusal), 1, "{}", refusal.name());
        }
    }

    #[tokio::test]
    async fn each_connection_that_could_not_be_accepted_is_counted() {
        let refusals = Refusals::default();
        for connections in 1..=3 {
            refusals.not_accepted(&"here", &"too many open files");
            assert_eq!(refusals.unaccepted(), connections);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_refusals_is_one_line_that_says_how_many() {
        let mut told = Told::default();
        let now = Instant::now();
        assert_eq!(told.one_more(now), Some(1));
        for _ in 0..1_000 {
            assert_eq!(told.one_more(now + SAY_EVERY / 2), None);
        }
        assert_eq!(told.one_more(now + SAY_EVERY), Some(1_001));
    }
}
