//! The tower face: [`BatchLayer`] and the always-ready [`Batcher`].
//!
//! `call` decides at once, from what stands in the queue, whether a request
//! can be served in its time; an admitted one goes to the worker over one
//! channel. The answer's future owns the caller's end of the reply: dropping
//! it is leaving, and nothing else has to be told.

use std::{
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use pin_project_lite::pin_project;
use tokio::{
    sync::{mpsc, oneshot},
    time::Sleep,
};
use tower::{Layer, Service};

use super::{
    Batch, BatchError, Coalesce, Entry, Held, PartOf, Place, QueueSettings, ShedReason, Split,
    Weight,
    bell::Arrival,
    queue::Queue,
    weight::{Amount, Scale},
    worker::Worker,
};
use crate::reply::{self, Outcome};

/// Coalesces single requests into batches for the service below.
///
/// Building the service starts one task (so it needs a tokio runtime), which
/// ends when every clone of the service is gone and the last batch is answered.
pub struct BatchLayer<Req, C> {
    rules: Arc<C>,
    beside: Option<Arc<Queue>>,
    _request: PhantomData<fn(Req)>,
}

impl<Req, C: Coalesce<Req>> BatchLayer<Req, C> {
    /// A layer that batches by these rules.
    #[must_use]
    pub fn new(rules: Arc<C>) -> Self {
        Self {
            rules,
            beside: None,
            _request: PhantomData,
        }
    }

    /// Counts what waits together with what waits in `queue`: one bound for
    /// all who queue for the same upstream.
    #[must_use]
    pub fn beside(mut self, queue: &Arc<Queue>) -> Self {
        self.beside = Some(Arc::clone(queue));
        self
    }
}

impl<Req, C, S> Layer<S> for BatchLayer<Req, C>
where
    C: Coalesce<Req>,
    S: Service<Batch<Req>, Error: Clone + Send + Sync>,
    S: Clone + Send + 'static,
    S::Response: Split<S::Error, Part: Send> + Send,
    S::Future: Send + 'static,
    Req: Send + Sync + 'static,
{
    type Service = Batcher<Req, C, PartOf<S, Req>, S::Error>;

    fn layer(&self, below: S) -> Self::Service {
        let (intake, entries) = mpsc::unbounded_channel();
        let rules = Arc::clone(&self.rules);
        let queue = Arc::new(match &self.beside {
            Some(queue) => queue.beside(rules.kinds()),
            None => Queue::new(rules.kinds()),
        });
        let worker = Worker::new(below, Arc::clone(&rules), Arc::clone(&queue), entries);
        tokio::spawn(worker.run());
        Batcher {
            intake,
            queue,
            rules,
        }
    }
}

/// Whoever finds the queue full is not told to come back at once, also where
/// less than a batch fills it.
const SOONEST: Duration = Duration::from_millis(1);

/// What admission found out of a request.
pub(super) struct Admitted<K> {
    pub(super) partition: K,
    pub(super) kind: usize,
    pub(super) weight: Weight,
    pub(super) amount: Amount,
    deadline: Option<Instant>,
    pub(super) arrival: Arrival,
}

/// An admitted request on its way to the worker.
type Sent<Req, K, P, E> = Held<Entry<Req, K, P, E>>;

/// A `Service<Req>` whose requests leave in batches.
pub struct Batcher<Req, C: Coalesce<Req>, P, E> {
    intake: mpsc::UnboundedSender<Sent<Req, C::Partition, P, E>>,
    queue: Arc<Queue>,
    rules: Arc<C>,
}

impl<Req, C: Coalesce<Req>, P, E> Clone for Batcher<Req, C, P, E> {
    fn clone(&self) -> Self {
        Self {
            intake: self.intake.clone(),
            queue: Arc::clone(&self.queue),
            rules: Arc::clone(&self.rules),
        }
    }
}

impl<Req, C: Coalesce<Req>, P, E> Drop for Batcher<Req, C, P, E> {
    fn drop(&mut self) {
        // It may have been the last: the worker looks, and ends if so.
        self.queue.bell().ring();
    }
}

impl<Req, C: Coalesce<Req>, P, E> std::fmt::Debug for Batcher<Req, C, P, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl<Req, C, P, E> Batcher<Req, C, P, E>
where
    C: Coalesce<Req>,
{
    /// What waits in front of the upstream.
    #[must_use]
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// What [`Service::call`] does, for those who share one handle.
    pub fn submit(&self, request: Req) -> Answer<P, E> {
        let admitted = match self.admit(&request) {
            Ok(admitted) => admitted,
            Err(refused) => return Answer::refused(refused),
        };
        let Admitted {
            partition,
            kind,
            weight,
            amount,
            deadline,
            arrival,
        } = admitted;
        let (reply, answer) = reply::channel();
        self.queue.joined(kind, amount);
        let held = Held {
            entry: Entry {
                request,
                partition,
                reply,
            },
            weight,
            arrived: arrival.at,
            deadline,
        };
        let arrived = self.queue.bell().count(weight.entries);
        if self.intake.send(held).is_err() {
            self.queue.left(kind, amount);
            return Answer::refused(BatchError::Closed);
        }
        self.queue.bell().sent(arrived, &arrival);
        Answer::waiting(answer, deadline)
    }

    /// A place in the queue for a request that waits for something else before
    /// it is submitted: held to the same bounds, from now on.
    ///
    /// # Errors
    /// [`BatchError`] where it would be refused.
    pub fn reserve(&self, request: &Req) -> Result<Place<Req, C>, BatchError<E>> {
        let admitted = self.admit(request)?;
        Ok(Place::new(&self.rules, &self.queue, admitted))
    }

    fn admit(&self, request: &Req) -> Result<Admitted<C::Partition>, BatchError<E>> {
        let now = tokio::time::Instant::now().into_std();
        let partition = self.rules.partition(request);
        let weight = self.rules.weight(request);
        let deadline = self.rules.deadline(request);
        let slack = deadline.map(|deadline| deadline.saturating_duration_since(now));
        if slack.is_some_and(|slack| slack.is_zero()) {
            return Err(BatchError::DeadlineExceeded);
        }
        let kind = self.rules.kind(&partition);
        let window = self.rules.window(&partition);
        let bounds = self.rules.queue(&partition);
        let scale = Scale::of(&window);
        let amount = scale.amount(weight);
        if let Err((reason, retry_after)) = self.judge(kind, amount.bytes, slack, bounds) {
            self.rules.shed(&partition, weight.entries, reason);
            return Err(BatchError::Shed {
                reason,
                retry_after,
            });
        }
        let arrival = Arrival {
            at: now,
            window,
            is_large: scale.is_large(weight),
            slack,
            max_wait: bounds.max_wait,
        };
        Ok(Admitted {
            partition,
            kind,
            weight,
            amount,
            deadline,
            arrival,
        })
    }

    /// Whether an entry can be served in its time, judged by what waits: it
    /// may stand in the queue for `max_wait`, and must be answered in its slack.
    /// Else the answer is why not, and when what waits will have left.
    fn judge(
        &self,
        kind: usize,
        bytes: u64,
        slack: Option<Duration>,
        bounds: QueueSettings,
    ) -> Result<(), (ShedReason, Duration)> {
        let wait = self.queue.drain_time();
        let held = self.queue.bytes_of(kind);
        // Alone it is let in: it would be refused for ever.
        if held > 0 && held + bytes > bounds.max_bytes as u64 {
            let soonest = self.queue.spacing().max(SOONEST);
            return Err((ShedReason::QueueBytes, wait.max(soonest)));
        }
        let reason = if wait > bounds.max_wait {
            ShedReason::QueueWait
        } else if slack.is_some_and(|slack| self.queue.answered_in(kind, wait) > slack) {
            ShedReason::Deadline
        } else {
            return Ok(());
        };
        Err((reason, wait))
    }
}

impl<Req, C, P, E> Service<Req> for Batcher<Req, C, P, E>
where
    C: Coalesce<Req>,
{
    type Response = P;
    type Error = BatchError<E>;
    type Future = Answer<P, E>;

    /// Always ready: what cannot be taken is refused by `call`, with a reason.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.submit(request)
    }
}

pin_project! {
    /// The answer to one request. Dropping it is leaving: an entry that still
    /// waits is then never proposed.
    pub struct Answer<P, E> {
        #[pin]
        state: State<P, E>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<P, E> {
        Waiting {
            #[pin]
            answer: oneshot::Receiver<Outcome<P, E>>,
            // A box, and only for callers that have a deadline.
            deadline: Option<Pin<Box<Sleep>>>,
        },
        Refused { error: Option<BatchError<E>> },
    }
}

impl<P, E> Answer<P, E> {
    fn refused(error: BatchError<E>) -> Self {
        let error = Some(error);
        Self {
            state: State::Refused { error },
        }
    }

    fn waiting(answer: oneshot::Receiver<Outcome<P, E>>, deadline: Option<Instant>) -> Self {
        let deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at.into())));
        Self {
            state: State::Waiting { answer, deadline },
        }
    }
}

impl<P, E> Future for Answer<P, E> {
    type Output = Outcome<P, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (answer, deadline) = match self.project().state.project() {
            StateProjection::Waiting { answer, deadline } => (answer, deadline),
            StateProjection::Refused { error } => {
                let error = error.take().expect("an answer is polled to its end once");
                return Poll::Ready(Err(error));
            }
        };
        if let Poll::Ready(outcome) = answer.poll(cx) {
            // The reply's drop answers too, so the channel cannot close
            // without an outcome.
            return Poll::Ready(outcome.unwrap_or(Err(BatchError::Unanswered)));
        }
        let Some(deadline) = deadline else {
            return Poll::Pending;
        };
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(BatchError::DeadlineExceeded))
    }
}
