//! What is noted of one call because somebody wants to know what became of
//! it: its caller, with a `ferry-explain` header; whoever traces it; or the
//! access log.
//!
//! A call that nobody asks about has no note and costs a null pointer. That
//! notes exist at all is counted, so that a batch is looked through for them
//! only where there may be one.

use std::{
    fmt::Write as _,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::HeaderValue;

use super::metrics::closed_by_name;
use crate::batch::{ClosedBy, TraceContext};

/// The header with which a caller asks, and in which it is told.
pub const EXPLAIN: &str = "ferry-explain";
/// The header in which a caller names its span.
pub const TRACEPARENT: &str = "traceparent";

/// How many notes there are, over all the doors of a sidecar.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<AtomicUsize>);

impl Notes {
    /// A note of a call that arrived at `arrived`. It `asks` where its caller
    /// is to be told; `trace` is its caller's span, if its batch is to be
    /// linked to it.
    #[must_use]
    pub fn take(&self, arrived: Instant, asks: bool, trace: Option<TraceContext>) -> Arc<Note> {
        // What is read of a note crosses a channel, which orders this.
        self.0.fetch_add(1, Ordering::Relaxed);
        Arc::new(Note {
            arrived,
            asks,
            trace,
            sent: OnceLock::new(),
            upstream: OnceLock::new(),
            all: self.clone(),
        })
    }

    /// Whether any call has a note now.
    #[must_use]
    pub fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// The batch that a call left with.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// When it was sealed.
    pub at: Instant,
    /// Entries it held.
    pub entries: u32,
    /// Why its window was closed.
    pub closed_by: ClosedBy,
    /// The limit then, in batches.
    pub limit: u32,
    /// Batches in flight then, itself included.
    pub in_flight: u32,
}

/// What is noted of one call. Of one that was split among groups it is what
/// became of the part that was first.
#[derive(Debug)]
pub struct Note {
    arrived: Instant,
    asks: bool,
    trace: Option<TraceContext>,
    sent: OnceLock<Sent>,
    upstream: OnceLock<Duration>,
    all: Notes,
}

impl Note {
    /// The call's batch was sealed.
    pub fn on_sent(&self, sent: Sent) {
        // Another part of a split call may have been first.
        let _ = self.sent.set(sent);
    }

    /// The call's batch was answered, so long after it was sealed.
    pub fn on_answered(&self, upstream: Duration) {
        let _ = self.upstream.set(upstream);
    }

    /// Whether the caller is to be told.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.asks
    }

    /// The caller's span, if the batch is to be linked to it.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    /// The batch that the call left with, if it did.
    #[must_use]
    pub fn sent(&self) -> Option<Sent> {
        self.sent.get().copied()
    }

    /// From arrival to the sealing of its batch.
    #[must_use]
    pub fn waited(&self) -> Option<Duration> {
        let sent = self.sent.get()?;
        Some(sent.at.saturating_duration_since(self.arrived))
    }

    /// From the sealing of its batch to the upstream's answer.
    #[must_use]
    pub fn upstream(&self) -> Option<Duration> {
        self.upstream.get().copied()
    }

    /// All of it for the caller: [`explained`], then what is known of its batch.
    ///
    /// # Panics
    /// Never: what is written here is a header's value.
    #[must_use]
    pub fn told(&self, outcome: &str, reason: Option<&str>) -> HeaderValue {
        let mut text = words(outcome, reason);
        let written = "a String takes all that is written";
        if let (Some(sent), Some(waited)) = (self.sent(), self.waited()) {
            write!(
                text,
                ", entries={}, closed-by={}, waited-ms={:.3}, limit={}, in-flight={}",
                sent.entries,
                closed_by_name(sent.closed_by),
                milliseconds(waited),
                sent.limit,
                sent.in_flight
            )
            .expect(written);
        }
        if let Some(upstream) = self.upstream() {
            write!(text, ", upstream-ms={:.3}", milliseconds(upstream)).expect(written);
        }
        value(text)
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        self.all.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a caller is told whose call was in no batch: a dictionary of
/// structured fields (RFC 8941), `outcome=alone, reason=metadata`.
///
/// # Panics
/// If one of them is no word of visible ASCII.
#[must_use]
pub fn explained(outcome: &str, reason: Option<&str>) -> HeaderValue {
    value(words(outcome, reason))
}

fn words(outcome: &str, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("outcome={outcome}, reason={reason}"),
        None => format!("outcome={outcome}"),
    }
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("words, figures and punctuation")
}

/// To the microsecond, so that it is not written with digits that mean nothing.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_tells_its_batch_in_one_header_and_no_more_than_is_known() {
        let (notes, start) = (Notes::default(), Instant::now());
        let note = notes.take(start, true, None);
        assert_eq!(
            note.told("shed", Some("queue_wait")),
            "outcome=shed, reason=queue_wait"
        );
        note.on_sent(Sent {
            at: start + Duration::from_micros(1_500),
            entries: 37,
            closed_by: ClosedBy::Ready,
            limit: 4,
            in_flight: 3,
        });
        let sent = "outcome=unknown, entries=37, closed-by=ready, waited-ms=1.500, limit=4, \
                    in-flight=3";
        assert_eq!(note.told("unknown", None), sent, "it was never answered");
        note.on_answered(Duration::from_millis(2));
        let told = note.told("committed", None);
        let told = told.to_str().expect("visible ASCII");
        assert!(told.ends_with("in-flight=3, upstream-ms=2.000"), "{told}");
    }

    #[test]
    fn a_batch_is_looked_through_only_while_there_are_notes() {
        let notes = Notes::default();
        assert!(!notes.any());
        let first = notes.take(Instant::now(), true, None);
        let second = notes.clone().take(Instant::now(), false, None);
        drop(first);
        assert!(notes.any());
        drop(second);
        assert!(!notes.any());
    }
}
