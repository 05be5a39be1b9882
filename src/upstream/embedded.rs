//! The Raft groups in this process: one batch, one proposal to its group.
//!
//! The merged bytes are the log entry: they are written once, behind the
//! command's header, and never decoded on the way.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tonic::Status;
use tower::Service;

use super::{BatchReply, Call, Target, late, reply::given};
use crate::{
    batch::Batch,
    raft::{
        Groups, ProposeError,
        command::{Applied, Command, Kind},
    },
};

/// Proposes batches to the embedded groups: all calls of a batch are one group's.
#[derive(Clone, Debug)]
pub struct Embedded {
    groups: Groups,
    targets: Arc<[(Kind, Target)]>,
    timeout: Duration,
}

impl Embedded {
    /// An upstream for the methods of a policy, in its order. A batch that is
    /// not applied within `timeout` is DEADLINE_EXCEEDED, and is answered so
    /// when it is applied, or after as long again.
    #[must_use]
    pub fn new(groups: Groups, targets: Vec<(Kind, Target)>, timeout: Duration) -> Self {
        Self {
            groups,
            targets: targets.into(),
            timeout,
        }
    }
}

impl Service<Batch<Call>> for Embedded {
    type Response = BatchReply;
    type Error = Status;
    type Future = BoxFuture<'static, Result<BatchReply, Status>>;

    /// Always ready: the group's line is unbounded, and the limiter in front
    /// of it is what keeps it short.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: Batch<Call>) -> Self::Future {
        let timeout = self.timeout;
        let group = self.groups.at(batch.requests[0].group).clone();
        let targets = Arc::clone(&self.targets);
        // Merged when the future is polled, in the batch's own task: the one
        // that seals windows has the next batch to see to.
        Box::pin(async move {
            let (kind, target) = &targets[batch.requests[0].method];
            let command = command(*kind, target, &batch);
            batch.handed_over.on(tokio::time::Instant::now().into_std());
            let applied = group.propose(command, batch.entries);
            late(timeout, async {
                match applied.await {
                    Ok(Applied::Done) => Ok(BatchReply::Same(Bytes::from_static(kind.reply()))),
                    // The rule of its kind keeps a conditional write out of batches.
                    Ok(Applied::Conflict) => Err(given(Status::internal(
                        "the batch expects offsets, and a conditional write shares no batch",
                    ))),
                    Ok(Applied::Malformed) => Err(given(Status::internal(
                        "the batch could not be applied: it does not parse",
                    ))),
                    Err(error) => Err(of_propose(&error)),
                }
            })
            .await
        })
    }
}

fn command(kind: Kind, target: &Target, batch: &Batch<Call>) -> Command {
    let pieces = || batch.requests.iter().map(|call| &call.piece);
    let header = Command::header(kind);
    let mut merged = BytesMut::with_capacity(header.len() + target.plan.merged_len(pieces()));
    merged.extend_from_slice(&header);
    target.plan.merge(pieces(), &mut merged);
    Command::from_encoded(merged.freeze())
}

/// Refused was never appended, so trying again is safe: UNAVAILABLE. All else
/// may have taken effect: UNKNOWN, which no client retries by itself.
fn of_propose(error: &ProposeError) -> Status {
    match error {
        ProposeError::Refused(_) => Status::unavailable(error.to_string()),
        ProposeError::Unknown(_) => Status::unknown(error.to_string()),
    }
}
