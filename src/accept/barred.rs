//! A call of a method that has a barrier waits here for what came before it,
//! and then goes on to the windows. Where no method has one, nothing is looked at.
//!
//! Meanwhile it has a place in the queue, which is bounded: one call that takes
//! long may be waited for by all calls of its key.

use std::{
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use pin_project_lite::pin_project;
use tonic::Status;

use super::{door::Submit, partition::CallRules};
use crate::{
    batch::{BatchError, Batcher, Place},
    upstream::{BarrierRule, Barriers, Call},
};

/// Where calls go that may wait before they are submitted.
pub trait Reserve: Submit {
    /// A place in the queue for such a call.
    ///
    /// # Errors
    /// [`BatchError`] where it would be refused.
    fn reserve(&self, call: &Call) -> Result<Place<Call, CallRules>, BatchError<Status>>;
}

impl Reserve for Batcher<Call, CallRules, Bytes, Status> {
    fn reserve(&self, call: &Call) -> Result<Place<Call, CallRules>, BatchError<Status>> {
        self.reserve(call)
    }
}

/// Takes calls in the order of their keys where their methods have barriers.
#[derive(Clone, Debug)]
pub struct Barred<S> {
    below: Arc<S>,
    /// By method.
    rules: Arc<[Option<BarrierRule>]>,
    barriers: Arc<Barriers>,
}

impl<S> Barred<S> {
    /// In front of `below`; `rules` are the methods', in the policy's order,
    /// and `barriers` are shared with whoever else has calls under way.
    #[must_use]
    pub fn new(below: S, rules: Vec<Option<BarrierRule>>, barriers: Arc<Barriers>) -> Self {
        Self {
            below: Arc::new(below),
            rules: rules.into(),
            barriers,
        }
    }
}

impl<S: Reserve> Submit for Barred<S> {
    type Answer = BarredAnswer<S::Answer>;

    fn submit(&self, mut call: Call) -> Self::Answer {
        let Some(rule) = &self.rules[call.method] else {
            return BarredAnswer::of(self.below.submit(call));
        };
        // Before it has a turn: who is refused must leave none behind.
        let place = match self.below.reserve(&call) {
            Ok(place) => place,
            Err(refused) => return BarredAnswer::later(ready(Err(refused))),
        };
        let (turn, before) = self.barriers.enter(rule, call.piece.key_hashes());
        call.turn = turn;
        if before.is_empty() {
            drop(place);
            return BarredAnswer::of(self.below.submit(call));
        }
        let below = Arc::clone(&self.below);
        BarredAnswer::later(async move {
            let deadline = call.deadline.filter(|deadline| *deadline <= place.until());
            let is_over = before.over(deadline.or(Some(place.until()))).await;
            // Who is out of time is told so by the windows.
            if !is_over && deadline.is_none() {
                return Err(place.overdue());
            }
            drop(place);
            below.submit(call).await
        })
    }
}

pin_project! {
    /// The answer to a call, which may wait for others first.
    pub struct BarredAnswer<A> {
        #[pin]
        state: State<A>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<A> {
        Passes { #[pin] answer: A },
        Waits { answer: BoxFuture<'static, Result<Bytes, BatchError<Status>>> },
    }
}

impl<A> BarredAnswer<A> {
    const fn of(answer: A) -> Self {
        Self {
            state: State::Passes { answer },
        }
    }

    fn later(
        answer: impl Future<Output = Result<Bytes, BatchError<Status>>> + Send + 'static,
    ) -> Self {
        Self {
            state: State::Waits {
                answer: answer.boxed(),
            },
        }
    }
}

impl<A> Future for BarredAnswer<A>
where
    A: Future<Output = Result<Bytes, BatchError<Status>>>,
{
    type Output = A::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Passes { answer } => answer.poll(cx),
            StateProjection::Waits { answer } => answer.poll_unpin(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use futures_util::future::join_all;
    use tokio::time::Instant;
    use tower::{Layer, service_fn};

    use super::{
        super::partition::tests::{call, plan, rules},
        *,
    };
    use crate::{
        accept::Spread,
        batch::{Batch, BatchLayer, QueueSettings, ShedReason},
    };

    const KIB: usize = 1 << 10;
    const SET: usize = 0;
    const DELETE: usize = 1;

    type Line = Batcher<Call, CallRules, Bytes, Status>;

    /// Sets and deletes of one key: a batch of sets is answered at once, and
    /// one of deletes after so long.
    fn barred(max_bytes: usize, deletes_take: Option<Duration>) -> (Barred<Spread<Line>>, Line) {
        let mut methods = ["/test.S/Set", "/test.S/Delete"].map(|path| {
            let mut method = rules(1 << 20).0.remove(0);
            path.clone_into(&mut method.path);
            method.queue = QueueSettings {
                max_wait: Duration::from_secs(1),
                max_bytes,
            };
            method
        });
        methods[DELETE].timeout = Duration::from_secs(3_600);
        let upstream = service_fn(move |batch: Batch<Call>| async move {
            match (batch.requests[0].method, deletes_take) {
                (DELETE, Some(span)) => tokio::time::sleep(span).await,
                (DELETE, None) => pending().await,
                _ => {}
            }
            Ok::<_, Status>(vec![Bytes::new(); batch.requests.len()])
        });
        let line = BatchLayer::new(Arc::new(CallRules(methods.into()))).layer(upstream);
        let both = [
            Some(BarrierRule::new("/test.S/Set", true, ["/test.S/Delete"])),
            Some(BarrierRule::new("/test.S/Delete", true, ["/test.S/Set"])),
        ];
        let spread = Spread::lone(line.clone());
        (Barred::new(spread, both.into(), Arc::default()), line)
    }

    fn of(method: usize) -> Call {
        Call {
            method,
            ..call(&plan(), KIB, 0)
        }
    }

    const fn why(answer: &Result<Bytes, BatchError<Status>>) -> Option<ShedReason> {
        match answer {
            Err(BatchError::Shed { reason, .. }) => Some(*reason),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_at_a_barrier_is_bounded_in_bytes_and_in_time_and_counts_as_queued() {
        let (barred, line) = barred(4 * KIB, None);
        let stands = tokio::spawn(barred.submit(of(DELETE)));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let started = Instant::now();
        let mut sets: Vec<_> = (0..5).map(|_| barred.submit(of(SET))).collect();
        let queue = line.queue();
        assert_eq!(queue.entries(), 3);
        assert!(queue.bytes() > 3 * KIB as u64 && queue.bytes() <= 4 * KIB as u64);
        let past = join_all(sets.split_off(3)).await;
        assert!(
            past.iter()
                .all(|answer| why(answer) == Some(ShedReason::QueueBytes))
        );
        assert_eq!(started.elapsed(), Duration::ZERO);
        let late = join_all(sets).await;
        assert!(
            late.iter()
                .all(|answer| why(answer) == Some(ShedReason::QueueWait))
        );
        assert_eq!(started.elapsed(), Duration::from_secs(1));
        assert_eq!((queue.entries(), queue.bytes()), (0, 0));
        stands.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_a_barrier_leaves_its_place_and_who_passes_it_is_served() {
        let (barred, line) = barred(4 * KIB, Some(Duration::from_millis(500)));
        let deleted = tokio::spawn(barred.submit(of(DELETE)));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let (leaves, stays) = (barred.submit(of(SET)), barred.submit(of(SET)));
        assert_eq!(line.queue().entries(), 2);
        drop(leaves);
        assert_eq!(line.queue().entries(), 1);
        assert!(stays.await.is_ok());
        assert!(deleted.await.expect("no panic").is_ok());
        assert_eq!((line.queue().entries(), line.queue().bytes()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_passes_at_a_barrier_is_no_shedding() {
        let (barred, _) = barred(4 * KIB, None);
        let stands = tokio::spawn(barred.submit(of(DELETE)));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let deadline = Instant::now() + Duration::from_millis(300);
        let expires = Call {
            deadline: Some(deadline.into_std()),
            ..of(SET)
        };
        let answer = barred.submit(expires).await;
        assert!(matches!(answer, Err(BatchError::DeadlineExceeded)));
        stands.abort();
    }
}
