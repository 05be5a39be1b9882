//! One batch on its way: from handing it over to the answer of each caller.
//!
//! It runs in a task of its own, so that no caller's leaving and no slow
//! fan-out holds up the next batch. The callers are answered at the batch's
//! deadline at the latest, but the call below is not dropped then: the
//! upstream is at work on it still, and as long as it is, the permit that
//! travels with the call stays taken. To drop the call would let the next
//! batch in while nothing has got free, which is how an overloaded upstream
//! is overloaded for good.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    Answering, Batch, BatchError, Callers, ClosedBy, Coalesce, Entry, HandedOver, Sealed, Split,
    callers::Replies,
};
use crate::reply::Reply;

/// A finished batch, as its task reports it.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) kind: usize,
    pub(super) entries: u32,
    /// From sending to the answer; `None` if it failed or was sent again.
    pub(super) rtt: Option<Duration>,
}

/// Reports when it is dropped, also by a panic: a batch that is lost still
/// frees its place.
pub(super) struct Report {
    pub(super) to: mpsc::UnboundedSender<Finished>,
    pub(super) kind: usize,
    pub(super) entries: u32,
    pub(super) rtt: Option<Duration>,
}

impl Drop for Report {
    fn drop(&mut self) {
        // The worker outlives its batches: it ends when none is in flight.
        let _ = self.to.send(Finished {
            kind: self.kind,
            entries: self.entries,
            rtt: self.rtt,
        });
    }
}

/// What is remembered of a batch until its answer comes.
pub(super) struct Flight<K, P, E> {
    pub(super) partition: K,
    /// When its window began to wait for readiness.
    pub(super) asked: Instant,
    pub(super) sent: Instant,
    pub(super) handed_over: HandedOver,
    pub(super) entries: u32,
    pub(super) deadline: Option<Instant>,
    /// When each request had arrived.
    pub(super) arrivals: Vec<Instant>,
    /// The entries of each; none where each is one.
    pub(super) weights: Vec<u32>,
    pub(super) replies: Replies<P, E>,
}

impl<K, P, E: Clone> Flight<K, P, E> {
    /// Awaits the batch's answer and gives each caller its part.
    pub(super) async fn land<Req, C, R>(
        self,
        answer: impl Future<Output = Result<R, E>>,
        rules: Arc<C>,
        mut report: Report,
    ) where
        C: Coalesce<Req, Partition = K>,
        R: Split<E, Part = P>,
    {
        let ghosts = {
            let replies = self.replies.lock();
            let replies = replies.unwrap_or_else(PoisonError::into_inner);
            replies.iter().filter(|reply| reply.has_left()).count()
        };
        let mut answer = pin!(answer);
        let in_time = match self.deadline {
            Some(deadline) => tokio::time::timeout_at(deadline.into(), &mut answer)
                .await
                .ok(),
            None => Some((&mut answer).await),
        };
        let answered = clock();
        let (outcome, late) = match in_time {
            Some(outcome) => {
                // An error may come at once, and is no measure of the work; nor
                // is what was sent again.
                let measures = outcome.is_ok() && !self.handed_over.again();
                report.rtt = measures.then(|| answered - self.sent);
                drop(report);
                (outcome.map_err(BatchError::Upstream), None)
            }
            None => (Err(BatchError::TimedOut), Some(report)),
        };
        let replies = {
            let replies = self.replies.lock();
            std::mem::take(&mut *replies.unwrap_or_else(PoisonError::into_inner))
        };
        let (committed, abandoned) = fan_out(outcome, replies, &self.weights);
        rules.answered(
            &self.partition,
            &Answering {
                now: clock(),
                asked: self.asked,
                sent: self.sent,
                handed_over: self.handed_over.at(),
                answered,
                arrivals: &self.arrivals,
                entries: self.entries,
                abandoned,
                ghosts,
                committed,
            },
        );
        if let Some(mut report) = late {
            // Nobody is left to be told: what counts is that it has ended,
            // and how long that took.
            let _ = answer.await;
            report.rtt = (!self.handed_over.again()).then(|| clock() - self.sent);
        }
    }
}

/// Parts the requests, which go up, from the replies, which stay. What was
/// sealed is left empty, and keeps its memory.
pub(super) fn unzip<Req, K, P, E>(
    sealed: &mut Sealed<Entry<Req, K, P, E>>,
    closed_by: ClosedBy,
) -> (Batch<Req>, Replies<P, E>)
where
    P: Send + 'static,
    E: Send + 'static,
{
    let mut requests = Vec::with_capacity(sealed.entries.len());
    let mut replies = Vec::with_capacity(sealed.entries.len());
    let mut deadline = sealed.entries.first().and_then(|held| held.deadline);
    for held in sealed.entries.drain(..) {
        // None is later than any Some.
        deadline = deadline
            .zip(held.deadline)
            .map(|(latest, deadline)| latest.max(deadline));
        requests.push(held.entry.request);
        replies.push(held.entry.reply);
    }
    let replies = Arc::new(Mutex::new(replies));
    let batch = Batch {
        requests: Arc::new(requests),
        entries: sealed.count,
        bytes: sealed.bytes,
        closed_by,
        deadline,
        backlog: 0,
        handed_over: HandedOver::default(),
        trace: None,
        callers: Callers::of(&replies),
    };
    (batch, replies)
}

/// Gives each caller its part; tells how many entries, by weight, the upstream
/// took, and how many callers had left.
fn fan_out<R, E>(
    outcome: Result<R, BatchError<E>>,
    replies: Vec<Reply<R::Part, E>>,
    weights: &[u32],
) -> (u32, usize)
where
    R: Split<E>,
    E: Clone,
{
    let parts = outcome.and_then(|answer| answer.split(replies.len()));
    let (mut committed, mut abandoned) = (0, 0);
    match parts {
        Ok(parts) => {
            let mut weights = weights.iter();
            for (reply, part) in replies.into_iter().zip(parts) {
                let weight = weights.next().copied().unwrap_or(1);
                committed += if part.is_ok() { weight } else { 0 };
                abandoned += usize::from(!reply.send(part));
            }
        }
        Err(error) => {
            for reply in replies {
                abandoned += usize::from(!reply.send(Err(error.clone())));
            }
        }
    }
    (committed, abandoned)
}

pub(super) fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}
