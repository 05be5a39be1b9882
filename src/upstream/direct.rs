//! A node's own face: each call is sent as it comes, a batch of its own.
//!
//! No window and no limit: this is what a client meets that calls the Raft
//! group without a sidecar, and what ferry is measured against.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tonic::Status;
use tower::{Service, ServiceExt};

use super::{BatchReply, Call};
use crate::{
    accept::Submit,
    batch::{Batch, BatchError, Callers, ClosedBy, HandedOver, Split as _},
};

/// Sends each call to the upstream below, alone.
#[derive(Clone, Debug)]
pub struct Direct<S> {
    /// The upstream.
    pub upstream: S,
    /// How long a call may take that has no earlier deadline.
    pub timeout: Duration,
}

impl<S> Submit for Direct<S>
where
    S: Service<Batch<Call>, Response = BatchReply, Error = Status>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    type Answer = BoxFuture<'static, Result<Bytes, BatchError<Status>>>;

    fn submit(&self, call: Call) -> Self::Answer {
        let given_up = tokio::time::Instant::now() + self.timeout;
        let deadline = call
            .deadline
            .map_or(given_up, |deadline| given_up.min(deadline.into()));
        let answer = self.upstream.clone().oneshot(Batch {
            entries: call.piece.entries(),
            bytes: call.piece.merged_len(),
            closed_by: ClosedBy::Full,
            deadline: Some(deadline.into_std()),
            backlog: 0,
            handed_over: HandedOver::default(),
            trace: None,
            callers: Callers::default(),
            requests: Arc::new(vec![call]),
        });
        Box::pin(async move {
            let answer = tokio::time::timeout_at(deadline, answer).await;
            let reply = answer.map_err(|_| BatchError::TimedOut)?;
            let parts = reply.map_err(BatchError::Upstream)?.split(1)?;
            parts
                .into_iter()
                .next()
                .unwrap_or(Err(BatchError::Unanswered))
        })
    }
}
