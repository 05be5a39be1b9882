//! What is sent again of a batch that failed, where the policy says that this
//! is safe: all of it after a status that passes, its halves after one that
//! rejects it for some of its entries.
//!
//! It stands between the windows and the limit, so whatever is sent again
//! takes a permit again and stands in line for it, and a batch that waits
//! between two attempts holds none. A budget bounds what is sent again to a
//! part of what is sent at all: an upstream that fails everything is not
//! failed twice as often for it. Who is sent again is settled when that permit
//! is granted, as at a sealing: whoever left meanwhile does not ride along. What
//! is not answered in its `attempt_timeout` goes on holding its own permit: the
//! upstream may still be at work on it.

use std::{
    ops::Range,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either};
use prometheus::IntCounterVec;
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::{
    Layer, Service, ServiceExt,
    retry::budget::{Budget, TpsBudget},
};

use super::{BatchReply, Call, reply::is_given, unanswered};
use crate::{
    batch::{Batch, BatchError, Callers, Split},
    policy::{OnError, Retry},
};

/// What the budget remembers.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Batches sent again a second that are always allowed: where little is sent,
/// a part of it would be nothing.
const ALWAYS: u32 = 10;
/// The part of all batches that may be sent again beside those.
const PART: f32 = 0.2;
/// The longest mean wait between two attempts.
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// Sends again what the policy allows.
#[derive(Clone, Debug)]
pub struct AgainLayer(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    /// By method.
    on_error: Vec<OnError>,
    /// No attempt begins later than this after the first.
    timeout: Duration,
    budget: TpsBudget,
    counted: IntCounterVec,
}

impl AgainLayer {
    /// The rules of a policy's methods, in its order. A batch ends after
    /// `timeout`, however often it is sent; `counted` counts by reason.
    #[must_use]
    pub fn new(on_error: Vec<OnError>, timeout: Duration, counted: IntCounterVec) -> Self {
        Self(Arc::new(Rules {
            on_error,
            timeout,
            budget: TpsBudget::new(REMEMBERED, ALWAYS, PART),
            counted,
        }))
    }
}

impl<S> Layer<S> for AgainLayer {
    type Service = Again<S>;

    fn layer(&self, below: S) -> Again<S> {
        Again {
            below,
            rules: Arc::clone(&self.0),
        }
    }
}

/// The service of [`AgainLayer`].
#[derive(Clone, Debug)]
pub struct Again<S> {
    below: S,
    rules: Arc<Rules>,
}

impl<S> Service<Batch<Call>> for Again<S>
where
    S: Service<Batch<Call>, Response = BatchReply, Error = Status>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    type Response = BatchReply;
    type Error = Status;
    type Future = Either<S::Future, BoxFuture<'static, Result<BatchReply, Status>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.below.poll_ready(cx)
    }

    fn call(&mut self, mut batch: Batch<Call>) -> Self::Future {
        if self.rules.on_error[batch.requests[0].method].is_final() {
            return Either::Left(self.below.call(batch));
        }
        let end = Instant::now() + self.rules.timeout;
        let end = batch
            .deadline
            .map_or(end, |callers| end.min(callers.into()));
        batch.deadline = Some(end.into());
        let first = self.below.call(batch.clone());
        let retry = self.rules.on_error[batch.requests[0].method].retry.clone();
        let failed = Failed {
            // A clone holds no permit.
            below: self.below.clone(),
            rules: Arc::clone(&self.rules),
            end,
        };
        Either::Right(Box::pin(async move {
            failed.rules.budget.deposit();
            let all = 0..batch.requests.len();
            let first = Made {
                attempt: in_time(first, retry.as_ref()).await,
                sent: all.len(),
            };
            let end = failed.until_final(&batch, &all, first, None).await;
            match end.answer {
                Err(status) if failed.bisects(&status, end.sent, &batch, &all) => {
                    let parts = failed.halve(&batch, status, end.doubt).await;
                    Ok(BatchReply::Each(parts))
                }
                answer => answer,
            }
        }))
    }
}

/// What became of one attempt.
enum Attempt {
    Answered(Result<BatchReply, Status>),
    /// Its time was up.
    Unanswered,
    /// It was not made: nobody waited for its answer any more.
    Left,
}

impl Attempt {
    /// Whether another may end better.
    fn may_pass(&self, retry: &Retry) -> bool {
        match self {
            Self::Answered(Err(status)) => retry.on.contains(&status.code()),
            Self::Unanswered => true,
            Self::Answered(Ok(_)) | Self::Left => false,
        }
    }

    fn answer(self) -> Result<BatchReply, Status> {
        match self {
            Self::Answered(answer) => answer,
            Self::Unanswered | Self::Left => Err(unanswered()),
        }
    }
}

/// An attempt with so many calls.
struct Made {
    attempt: Attempt,
    sent: usize,
}

/// What the last attempt came to, and with how many calls it was made.
struct End {
    answer: Result<BatchReply, Status>,
    sent: usize,
    doubt: Doubt,
}

/// What is said of an earlier attempt that may have taken effect. A refusal of
/// a later one says nothing of it.
type Doubt = Option<Status>;

/// The answer to an attempt, if it comes in the time that an attempt has. Else
/// it is awaited in the background, where it holds what it holds.
async fn in_time<F>(answer: F, retry: Option<&Retry>) -> Attempt
where
    F: Future<Output = Result<BatchReply, Status>> + Send + 'static,
{
    let Some(timeout) = retry.and_then(|retry| retry.attempt_timeout) else {
        return Attempt::Answered(answer.await);
    };
    let mut answer = Box::pin(answer);
    match tokio::time::timeout(timeout, &mut answer).await {
        Ok(answer) => Attempt::Answered(answer),
        Err(_) => {
            tokio::spawn(answer);
            Attempt::Unanswered
        }
    }
}

/// One batch, and how it may be sent again.
struct Failed<S> {
    below: S,
    rules: Arc<Rules>,
    /// Nothing is sent any more after this.
    end: Instant,
}

impl<S> Failed<S>
where
    S: Service<Batch<Call>, Response = BatchReply, Error = Status>,
    S: Clone + Send + Sync,
    S::Future: Send + 'static,
{
    /// Sends those calls of `range` again whose callers still wait once there
    /// is a permit for them.
    async fn send(&self, batch: &Batch<Call>, range: &Range<usize>) -> Made {
        let made = |attempt, sent| Made { attempt, sent };
        let mut below = self.below.clone();
        let ready = match below.ready().await {
            Ok(ready) => ready,
            Err(status) => return made(Attempt::Answered(Err(status)), 0),
        };
        let stay: Vec<usize> = staying(batch, range).collect();
        if stay.is_empty() {
            return made(Attempt::Left, 0);
        }
        let sent = ready.call(part_of(batch, &stay));
        let attempt = match in_time(sent, self.retry(batch)).await {
            Attempt::Answered(Ok(reply)) if stay.len() < range.len() => {
                Attempt::Answered(Ok(spread(reply, &stay, range)))
            }
            attempt => attempt,
        };
        made(attempt, stay.len())
    }

    /// What the policy says about sending `batch` again as it is.
    fn retry(&self, batch: &Batch<Call>) -> Option<&Retry> {
        self.rules.on_error[batch.requests[0].method].retry.as_ref()
    }

    /// Sends the calls of `range` again as long as what became of them may pass.
    async fn until_final(
        &self,
        batch: &Batch<Call>,
        range: &Range<usize>,
        mut last: Made,
        mut doubt: Doubt,
    ) -> End {
        let retry = self.retry(batch);
        for attempt in 1..retry.map_or(1, |retry| retry.attempts) {
            let Some(retry) = retry.filter(|retry| last.attempt.may_pass(retry)) else {
                break;
            };
            let mean = (retry.backoff * 2_u32.saturating_pow(attempt - 1)).min(LONGEST_BACKOFF);
            // Jittered, or all that one failure hit would come back at once.
            let wait = mean.mul_f64(0.5 + fastrand::f64());
            if Instant::now() + wait >= self.end || !self.may_send("retry") {
                break;
            }
            tokio::time::sleep(wait).await;
            let made = self.send(batch, range).await;
            if matches!(made.attempt, Attempt::Left) {
                break;
            }
            doubt = doubt.or(self.doubt(batch, std::mem::replace(&mut last, made)));
        }
        let answer = match (last.attempt.answer(), &doubt) {
            (Err(refused), Some(doubt)) if refused.code() == Code::Unavailable => {
                Err(doubt.clone())
            }
            (answer, _) => answer,
        };
        End {
            answer,
            sent: last.sent,
            doubt,
        }
    }

    /// What `made`, which failed, leaves in doubt: nothing where its calls were
    /// certainly refused.
    fn doubt(&self, batch: &Batch<Call>, made: Made) -> Doubt {
        let status = made.attempt.answer().err()?;
        let refused = status.code() == Code::Unavailable || self.rejects(&status, batch);
        (!refused).then_some(status)
    }

    /// Whether `status` says that some of the calls of `range` are at fault,
    /// several were `sent`, and somebody still waits to be told apart.
    /// Who was sent counts: the one at fault may be the one that has left.
    fn bisects(
        &self,
        status: &Status,
        sent: usize,
        batch: &Batch<Call>,
        range: &Range<usize>,
    ) -> bool {
        self.rejects(status, batch) && sent > 1 && staying(batch, range).next().is_some()
    }

    /// Whether `status` rejects `batch` for some of its calls. What ferry says
    /// of a reply that it cannot read, or of a call that broke off, does not,
    /// whatever its code: the batch may have taken effect.
    fn rejects(&self, status: &Status, batch: &Batch<Call>) -> bool {
        let rules = &self.rules.on_error[batch.requests[0].method];
        rules.bisect.contains(&status.code()) && is_given(status)
    }

    /// Each caller's own answer, by halves: k entries at fault among n cost
    /// about 2·k·log2(n) batches. One after the other and in the order of the
    /// batch, so that of two entries of one key the later stays the later.
    async fn halve(
        &self,
        batch: &Batch<Call>,
        status: Status,
        doubt: Doubt,
    ) -> Vec<Result<Bytes, Status>> {
        let mut parts = Vec::with_capacity(batch.requests.len());
        let mut left = Vec::new();
        split(&mut left, 0..batch.requests.len(), &(status, doubt));
        while let Some((range, (status, doubt))) = left.pop() {
            if Instant::now() >= self.end || !self.may_send("bisect") {
                parts.extend(range.map(|_| Err(status.clone())));
                continue;
            }
            let made = self.send(batch, &range).await;
            if matches!(made.attempt, Attempt::Left) {
                parts.extend(range.map(|_| Err(status.clone())));
                continue;
            }
            let end = self.until_final(batch, &range, made, doubt).await;
            match end.answer {
                Ok(reply) => parts.extend(own_parts(reply, range.len())),
                Err(status) if self.bisects(&status, end.sent, batch, &range) => {
                    split(&mut left, range, &(status, end.doubt));
                }
                Err(status) => parts.extend(range.map(|_| Err(status.clone()))),
            }
        }
        parts
    }

    fn may_send(&self, reason: &str) -> bool {
        let allowed = self.rules.budget.withdraw();
        let reason = if allowed { reason } else { "no_budget" };
        self.rules.counted.with_label_values(&[reason]).inc();
        allowed
    }
}

/// Puts both halves of `range` on the pile, the first one on top.
fn split<T: Clone>(left: &mut Vec<(Range<usize>, T)>, range: Range<usize>, known: &T) {
    let middle = range.start + range.len() / 2;
    left.push((middle..range.end, known.clone()));
    left.push((range.start..middle, known.clone()));
}

/// The places of `range` whose callers still wait.
fn staying(batch: &Batch<Call>, range: &Range<usize>) -> impl Iterator<Item = usize> {
    range.clone().filter(|at| !batch.callers.has_left(*at))
}

/// The calls at these places, as a batch of their own.
fn part_of(batch: &Batch<Call>, places: &[usize]) -> Batch<Call> {
    if places.len() == batch.requests.len() {
        return batch.clone();
    }
    let requests = places.iter().map(|at| batch.requests[*at].clone());
    let requests: Vec<_> = requests.collect();
    let (callers, own) = (batch.callers.clone(), places.to_vec());
    Batch {
        callers: Callers::new(move |at| own.get(at).is_none_or(|at| callers.has_left(*at))),
        entries: requests.iter().map(|call| call.piece.entries()).sum(),
        bytes: requests.iter().map(|call| call.piece.merged_len()).sum(),
        requests: Arc::new(requests),
        ..batch.clone()
    }
}

/// A reply to the calls of `range` that were sent, as one to all of them.
fn spread(reply: BatchReply, sent: &[usize], range: &Range<usize>) -> BatchReply {
    let left = || {
        Err(Status::cancelled(
            "the caller left before it was sent again",
        ))
    };
    let mut parts: Vec<_> = range.clone().map(|_| left()).collect();
    for (at, part) in sent.iter().zip(own_parts(reply, sent.len())) {
        parts[at - range.start] = part;
    }
    BatchReply::Each(parts)
}

/// The reply to one half, a part for each of its callers.
fn own_parts(reply: BatchReply, callers: usize) -> Vec<Result<Bytes, Status>> {
    let of_error = |error| match error {
        BatchError::Upstream(status) => status,
        other => Status::internal(other.to_string()),
    };
    match reply.split(callers) {
        Ok(parts) => parts.map(|part| part.map_err(of_error)).collect(),
        Err(error) => vec![Err(of_error(error)); callers],
    }
}

#[cfg(test)]
pub(super) mod tests;
