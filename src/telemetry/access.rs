//! The access log: a line a call, or for one call in so many, where the policy
//! asks for it. A line is an event of the log's target `ferry::access`, so it
//! goes where the log goes, as text or JSON.
//!
//! Each call that is chosen gets exactly one line, written when its last word
//! is known: a caller that leaves before has a line without a status.

use std::{num::NonZeroU32, sync::Arc, time::Instant};

use super::note::{Note, milliseconds};

/// Which calls get a line.
#[derive(Clone, Copy, Debug)]
pub struct AccessLog(NonZeroU32);

impl AccessLog {
    /// One call in so many, chosen by chance.
    #[must_use]
    pub fn one_in(calls: NonZeroU32) -> Self {
        Self(calls)
    }

    /// The line of a call that has just arrived, if it gets one. `dice` gives
    /// a number below its argument, each as often as the others.
    #[must_use]
    pub fn begin(&self, path: &str, dice: impl FnOnce(u32) -> u32) -> Option<Box<AccessLine>> {
        let chosen = self.0.get() == 1 || dice(self.0.get()) == 0;
        chosen.then(|| {
            Box::new(AccessLine {
                started: clock(),
                path: path.to_owned(),
                http: None,
                status: None,
                note: None,
            })
        })
    }
}

/// One call's line; it is written when this is dropped.
#[derive(Debug)]
pub struct AccessLine {
    started: Instant,
    path: String,
    http: Option<u16>,
    status: Option<u32>,
    note: Option<Arc<Note>>,
}

impl AccessLine {
    /// When the call arrived.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The call was in a batch, or was to be.
    pub fn on_batch(&mut self, note: Arc<Note>) {
        self.note = Some(note);
    }

    /// Its answer began, with this HTTP status.
    pub fn on_head(&mut self, http: u16) {
        self.http = Some(http);
    }

    /// Its gRPC status is known.
    pub fn on_status(&mut self, status: u32) {
        self.status = Some(status);
    }
}

impl Drop for AccessLine {
    fn drop(&mut self) {
        let note = self.note.as_deref();
        let sent = note.and_then(Note::sent);
        let trace = note.and_then(Note::trace);
        // A field that is None is left out.
        tracing::info!(
            target: "ferry::access",
            path = self.path,
            http_status = self.http,
            grpc_status = self.status,
            took_ms = milliseconds(clock().saturating_duration_since(self.started)),
            batch_entries = sent.map(|sent| sent.entries),
            waited_ms = note.and_then(Note::waited).map(milliseconds),
            upstream_ms = note.and_then(Note::upstream).map(milliseconds),
            // As collectors show it, to be looked for there.
            trace_id = trace.map(|caller| format!("{:032x}", caller.trace)),
            "{}",
            if self.http.is_some() { "answered" } else { "the caller left" },
        );
    }
}

fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dice_are_thrown_only_where_not_every_call_gets_a_line() {
        let one_in = |calls| AccessLog::one_in(NonZeroU32::new(calls).expect("some"));
        let unthrown = |_| panic!("every call gets one");
        assert!(one_in(1).begin("/a.B/C", unthrown).is_some());
        let chosen = |dice| one_in(100).begin("/a.B/C", |of| dice % of).is_some();
        assert!(chosen(0) && !chosen(1) && !chosen(99));
    }
}
