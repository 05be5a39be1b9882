//! The types that openraft is instantiated with, and how a proposal is answered.
//!
//! The rest of the program speaks of commands and outcomes; this file and the
//! two storage files are all that knows openraft's generics.

use std::{any::Any, borrow::Cow, marker::PhantomData, sync::Arc};

use openraft::{
    OptionalSend, RaftTypeConfig,
    alias::LogIdOf,
    errors::ClientWriteError,
    raft::{ClientWriteResult, responder::Responder},
    vote::RaftLeaderId,
};
use tokio::{sync::oneshot, time::Instant};

use super::{
    command::{Applied, Command},
    metrics::RaftMetrics,
};

/// ferry's instance of openraft's types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl RaftTypeConfig for Types {
    type D = Command;
    type R = Applied;
    type NodeId = u64;
    type Node = openraft::BasicNode;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Self::D, Self::NodeId, Self::Node>;
    type Entry = openraft::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = openraft::TokioRuntime;
    type Responder<T>
        = Reply<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type Entry = openraft::alias::EntryOf<Types>;
pub(crate) type LogId = LogIdOf<Types>;
pub(crate) type Vote = openraft::alias::VoteOf<Types>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;

/// Why a proposal was not answered with what it applied to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Definitely not appended: the leader said so before appending it, or it
    /// never reached the leader.
    #[error("refused before it was appended: {0}")]
    Refused(Cow<'static, str>),
    /// It may have been appended, and may have been or yet be applied.
    #[error("outcome unknown: {0}; it may have been applied")]
    Unknown(Cow<'static, str>),
}

pub(crate) type Answer = Result<Applied, ProposeError>;

/// Carries one proposal's answer from the core back to its caller.
///
/// Answers exactly once: dropping it unanswered tells the caller that the
/// outcome is unknown. openraft's own responder would warn in the log of each
/// caller that has left, which under load is every line of the log.
pub(crate) struct Reply<T> {
    answer: Option<oneshot::Sender<Answer>>,
    committed: Option<oneshot::Sender<()>>,
    proposed: Instant,
    metrics: Arc<RaftMetrics>,
    kind: PhantomData<fn(T)>,
}

impl<T> Reply<T> {
    pub(crate) fn new(answer: oneshot::Sender<Answer>, metrics: Arc<RaftMetrics>) -> Self {
        metrics.write_requests.inc();
        Self {
            answer: Some(answer),
            committed: None,
            proposed: Instant::now(),
            metrics,
            kind: PhantomData,
        }
    }

    /// Also tells `committed` when the proposal's log entry is committed.
    pub(crate) fn with_commit(mut self, committed: oneshot::Sender<()>) -> Self {
        self.committed = Some(committed);
        self
    }

    fn settle(&mut self, answer: Answer) {
        let Some(sender) = self.answer.take() else {
            return;
        };
        match answer {
            Ok(_) => self.metrics.write_success.inc(),
            Err(_) => self.metrics.write_failures.inc(),
        }
        self.metrics
            .write_seconds
            .observe(self.proposed.elapsed().as_secs_f64());
        // A caller that left after the proposal disturbs nobody.
        sender.send(answer).ok();
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        self.settle(Err(ProposeError::Unknown(
            "the Raft group stopped before it answered".into(),
        )));
    }
}

impl<T: OptionalSend + 'static> Responder<Types, T> for Reply<T> {
    fn on_commit(&mut self, _: LogId) {
        if let Some(committed) = self.committed.take() {
            committed.send(()).ok();
        }
    }

    fn on_complete(mut self, result: T) {
        // `T` is the result of a write wherever this responder is used; openraft
        // only cannot say so in the type.
        let mut slot = Some(result);
        let write = (&mut slot as &mut dyn Any)
            .downcast_mut::<Option<ClientWriteResult<Types>>>()
            .and_then(Option::take);
        if let Some(write) = write {
            self.settle(write.map(|done| done.data).map_err(classify));
        }
    }
}

fn classify(error: ClientWriteError<Types>) -> ProposeError {
    match error {
        // The text of this error names the leader's address, which clients
        // follow by pattern: it must not leak.
        ClientWriteError::ForwardToLeader(_) => {
            ProposeError::Refused("this node does not lead its Raft group".into())
        }
        ClientWriteError::LogEntryDiscarded(_) => {
            ProposeError::Unknown("the leader changed after the entry was appended".into())
        }
        other => ProposeError::Refused(other.to_string().into()),
    }
}
