//! Tells the notes of a batch's calls what became of it, and makes its span.
//!
//! It stands right below the windows, so that what it sees as one batch, and
//! as its answer, is what the callers see, however often it was sent again.
//! While no call has a note a batch is passed on without a look at its calls,
//! which are then in no trace either.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use pin_project_lite::pin_project;
use tonic::Status;
use tower::{Layer, Service};

use super::Call;
use crate::{
    batch::{Batch, HandedOver},
    limit::LimitView,
    telemetry::{BatchSpan, Note, Notes, Sent, Traces},
};

/// Puts [`Noted`] in front of a service.
#[derive(Clone, Debug)]
pub struct NotedLayer {
    notes: Notes,
    limit: LimitView,
    traces: Option<Arc<Traces>>,
    /// Paths of the methods, in the policy's order.
    methods: Arc<[String]>,
}

impl NotedLayer {
    /// For the calls of all doors that take `notes`; `limit` is what the
    /// batches wait for.
    #[must_use]
    pub fn new(notes: Notes, limit: LimitView) -> Self {
        Self {
            notes,
            limit,
            traces: None,
            methods: Arc::default(),
        }
    }

    /// The same, and batches of these `methods` may have spans.
    #[must_use]
    pub fn traced(self, traces: Option<Arc<Traces>>, methods: Arc<[String]>) -> Self {
        Self {
            traces,
            methods,
            ..self
        }
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

impl<S: Service<Batch<Call>, Error = Status>> Service<Batch<Call>> for Noted<S> {
    type Response = S::Response;
    type Error = Status;
    type Future = NotedAnswer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.below.poll_ready(cx)
    }

    fn call(&mut self, mut batch: Batch<Call>) -> Self::Future {
        let noted = self.layer.noted(&mut batch);
        let turns = batch.requests.iter().any(|call| call.turn.is_some());
        NotedAnswer {
            _turns: turns.then(|| Arc::clone(&batch.requests)),
            answer: self.below.call(batch),
            noted,
        }
    }
}

impl NotedLayer {
    fn noted(&self, batch: &mut Batch<Call>) -> Option<Waiting> {
        let mut notes = Vec::new();
        if self.notes.any() {
            notes.extend(batch.requests.iter().filter_map(|call| call.note.clone()));
        }
        if notes.is_empty() && self.traces.is_none() {
            return None;
        }
        let sent = || Sent {
            at: clock(),
            entries: batch.entries,
            closed_by: batch.closed_by,
            limit: self.limit.limit(),
            in_flight: self.limit.in_flight(),
        };
        let span = self.traces.as_ref().and_then(|traces| {
            let callers: Vec<_> = notes.iter().filter_map(|note| note.trace()).collect();
            let method = batch.requests[0].method;
            let method = self.methods.get(method).map_or("", String::as_str);
            traces.begin(method, &callers, sent)
        });
        if notes.is_empty() && span.is_none() {
            return None;
        }
        let sent = sent();
        notes.iter().for_each(|note| note.on_sent(sent));
        batch.trace = span.as_ref().map(BatchSpan::context);
        Some(Waiting {
            at: sent.at,
            handed_over: batch.handed_over.clone(),
            notes,
            span,
        })
    }
}

/// Who is told when the answer comes.
struct Waiting {
    at: Instant,
    handed_over: HandedOver,
    notes: Vec<Arc<Note>>,
    span: Option<BatchSpan>,
}

impl Waiting {
    fn answered(self, failed: Option<&Status>) {
        let took = clock().saturating_duration_since(self.at);
        self.notes.iter().for_each(|note| note.on_answered(took));
        if let Some(span) = self.span {
            let handed_over = self.handed_over.at();
            span.end(
                failed,
                handed_over.map(|at| at.saturating_duration_since(self.at)),
            );
        }
    }
}

pin_project! {
    /// A batch's answer, of which its calls' notes are told.
    pub struct NotedAnswer<F> {
        #[pin]
        answer: F,
        noted: Option<Waiting>,
        // Those who wait for its calls wait for its answer.
        _turns: Option<Arc<Vec<Call>>>,
    }
}

impl<F, R> Future for NotedAnswer<F>
where
    F: Future<Output = Result<R, Status>>,
{
    type Output = Result<R, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(cx));
        if let Some(waiting) = this.noted.take() {
            waiting.answered(answer.as_ref().err());
        }
        Poll::Ready(answer)
    }
}

fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;
    use tower::{ServiceExt as _, service_fn};

    use super::*;
    use crate::{
        limit::{LimitLayer, LimitSettings},
        upstream::{
            again::tests::batch,
            barrier::{BarrierRule, Barriers},
        },
    };

    #[tokio::test]
    async fn who_waits_for_a_batchs_calls_waits_until_it_is_answered() {
        let barriers = Barriers::default();
        let set = BarrierRule::new("/s.S/Set", true, ["/s.S/Delete"]);
        let delete = BarrierRule::new("/s.S/Delete", true, ["/s.S/Set"]);
        let mut batch = batch(&["client".to_owned()]);
        let mut call = batch.requests[0].clone();
        (call.turn, _) = barriers.enter(&set, &[1]);
        batch.requests = Arc::new(vec![call]);
        let (_, before) = barriers.enter(&delete, &[1]);
        let mut waits = Box::pin(before.over(None));

        // Like an upstream that has written the batch and let go of it.
        let (answer, answered) = oneshot::channel();
        let answered = Mutex::new(Some(answered));
        let below = service_fn(move |batch: Batch<Call>| {
            drop(batch);
            let answered = answered.lock().expect("no holder panics").take();
            async move {
                answered
                    .expect("it is called once")
                    .await
                    .map_err(|_| Status::ok(""))
            }
        });
        let limit = LimitLayer::new(LimitSettings::default()).view();
        let noted = NotedLayer::new(Notes::default(), limit).layer(below);
        let mut sent = Box::pin(noted.oneshot(batch));
        assert!((&mut sent).now_or_never().is_none());
        assert!((&mut waits).now_or_never().is_none(), "it is not answered");
        answer.send(()).expect("it is awaited");
        assert!(sent.await.is_ok());
        waits.await;
    }
}
