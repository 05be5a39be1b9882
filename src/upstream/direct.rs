//! A node's own face: each call is sent as it comes, a batch of its own.
//!
//! No window and no limit: this is what a client meets that calls the Raft
//! group without a sidecar, and what ferry is measured against.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tonic::Status;
use tower::Service;

use super::{BatchReply, Call};
use crate::batch::{Batch, BatchError, ClosedBy};

/// Sends each call to the upstream below, alone.
#[derive(Clone, Debug)]
pub struct Direct<S>(
    /// The upstream.
    pub S,
);

impl<S> Service<Call> for Direct<S>
where
    S: Service<Batch<Call>, Response = BatchReply, Error = Status>,
    S::Future: Send + 'static,
{
    type Response = Bytes;
    type Error = BatchError<Status>;
    type Future = Pin<Box<dyn Future<Output = Result<Bytes, BatchError<Status>>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx).map_err(BatchError::Upstream)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let answer = self.0.call(Batch {
            entries: call.piece.entries(),
            bytes: call.piece.merged_len(),
            closed_by: ClosedBy::Full,
            deadline: call.deadline,
            backlog: 0,
            requests: vec![call],
        });
        Box::pin(async move {
            let reply = answer.await.map_err(BatchError::Upstream)?;
            Ok(reply.0)
        })
    }
}
