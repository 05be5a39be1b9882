//! Tells the notes of a batch's calls what became of it.
//!
//! It stands right below the windows, so that what it sees as one batch, and
//! as its answer, is what the callers see, however often it was sent again.
//! While no call has a note a batch is passed on without a look at its calls.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::Call;
use crate::{
    batch::Batch,
    limit::LimitView,
    telemetry::{Note, Notes, Sent},
};

/// Puts [`Noted`] in front of a service.
#[derive(Clone, Debug)]
pub struct NotedLayer {
    notes: Notes,
    limit: LimitView,
}

impl NotedLayer {
    /// For the calls of all doors that take `notes`; `limit` is what the
    /// batches wait for.
    #[must_use]
    pub fn new(notes: Notes, limit: LimitView) -> Self {
        Self { notes, limit }
    }
}

impl<S> Layer<S> for NotedLayer {
    type Service = Noted<S>;

    fn layer(&self, below: S) -> Noted<S> {
        Noted {
            below,
            layer: self.clone(),
        }
    }
}

/// The service of [`NotedLayer`].
#[derive(Clone, Debug)]
pub struct Noted<S> {
    below: S,
    layer: NotedLayer,
}

impl<S: Service<Batch<Call>>> Service<Batch<Call>> for Noted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = NotedAnswer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.below.poll_ready(cx)
    }

    fn call(&mut self, batch: Batch<Call>) -> Self::Future {
        let noted = self.layer.notes.any().then(|| self.layer.noted(&batch));
        NotedAnswer {
            answer: self.below.call(batch),
            noted: noted.flatten(),
        }
    }
}

impl NotedLayer {
    fn noted(&self, batch: &Batch<Call>) -> Option<Waiting> {
        let notes = batch.requests.iter().filter_map(|call| call.note.clone());
        let notes: Vec<_> = notes.collect();
        if notes.is_empty() {
            return None;
        }
        let sent = Sent {
            at: clock(),
            entries: batch.entries,
            closed_by: batch.closed_by,
            limit: self.limit.limit(),
            in_flight: self.limit.in_flight(),
        };
        notes.iter().for_each(|note| note.on_sent(sent));
        Some(Waiting { at: sent.at, notes })
    }
}

/// Who is told when the answer comes.
struct Waiting {
    at: Instant,
    notes: Vec<Arc<Note>>,
}

pin_project! {
    /// A batch's answer, of which its calls' notes are told.
    pub struct NotedAnswer<F> {
        #[pin]
        answer: F,
        noted: Option<Waiting>,
    }
}

impl<F: Future> Future for NotedAnswer<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(cx));
        if let Some(Waiting { at, notes }) = this.noted.take() {
            let took = clock().saturating_duration_since(at);
            notes.iter().for_each(|note| note.on_answered(took));
        }
        Poll::Ready(answer)
    }
}

fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}
