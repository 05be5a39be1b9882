//! How proposals reach the core: all at once, or one at a time.
//!
//! openraft 0.9 waits in its core for each append's sync, so whatever the
//! concurrency, one proposal is made durable at a time; callers stand in an
//! unbounded first-in-first-out line, and an entry whose caller has left is
//! proposed all the same. [`Line`] has exactly that behaviour on top of 0.10,
//! as the thing to compare with. It is also the honest model of any upstream
//! that works like this.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures_util::FutureExt as _;
use openraft::Raft;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::unconstrained,
};

use super::{
    command::Command,
    machine::Machine,
    metrics::RaftMetrics,
    types::{Answer, ProposeError, Reply, Types},
};

/// How many proposals may be under way in the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pipeline {
    /// As many as arrive: the next is appended while the last one syncs.
    #[default]
    Full,
    /// One: the next is taken when the last one is synced and committed, as in
    /// openraft 0.9.
    Serial,
}

/// What was proposed since the group was opened.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) proposals: AtomicU64,
    pub(crate) ghosts: AtomicU64,
}

/// One proposal on its way to the core.
pub(crate) struct Proposal {
    pub(crate) command: Command,
    pub(crate) entries: u32,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// The way into the core.
pub(crate) struct Line {
    raft: Raft<Types, Machine>,
    metrics: Arc<RaftMetrics>,
    tally: Arc<Tally>,
    runtime: Handle,
    serial: Option<mpsc::UnboundedSender<Proposal>>,
}

impl Line {
    /// Must be called within a runtime, whose tasks then serve the line.
    pub(crate) fn start(
        raft: Raft<Types, Machine>,
        metrics: Arc<RaftMetrics>,
        pipeline: Pipeline,
    ) -> Self {
        let (tally, runtime) = (Arc::new(Tally::default()), Handle::current());
        let serial = (pipeline == Pipeline::Serial).then(|| {
            let (serial, waiting) = mpsc::unbounded_channel();
            let (metrics, tally) = (Arc::clone(&metrics), Arc::clone(&tally));
            runtime.spawn(one_at_a_time(raft.clone(), waiting, metrics, tally));
            serial
        });
        Self {
            raft,
            metrics,
            tally,
            runtime,
            serial,
        }
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Puts a proposal at the end of the line, at once.
    pub(crate) fn enter(&self, proposal: Proposal) {
        match &self.serial {
            Some(serial) => {
                if let Err(mpsc::error::SendError(refused)) = serial.send(proposal) {
                    refuse(refused.answer);
                }
            }
            None => self.hand_over(proposal),
        }
    }

    /// Hands a proposal to the core without waiting for it.
    fn hand_over(&self, proposal: Proposal) {
        count(&self.tally, &proposal);
        let reply = Reply::new(proposal.answer, Arc::clone(&self.metrics));
        let raft = self.raft.clone();
        let mut sending = Box::pin(unconstrained(async move {
            // An error means that the reply was dropped, which answers.
            raft.client_write_ff(proposal.command, Some(reply))
                .await
                .ok();
        }));
        // One poll is enough unless the core's queue of tens of thousands is
        // full. Then a task waits for room: the caller may leave, the proposal
        // may not.
        if sending.as_mut().now_or_never().is_none() {
            self.runtime.spawn(sending);
        }
    }
}

async fn one_at_a_time(
    raft: Raft<Types, Machine>,
    mut waiting: mpsc::UnboundedReceiver<Proposal>,
    metrics: Arc<RaftMetrics>,
    tally: Arc<Tally>,
) {
    while let Some(proposal) = waiting.recv().await {
        count(&tally, &proposal);
        let (committed, is_committed) = oneshot::channel();
        let reply = Reply::new(proposal.answer, Arc::clone(&metrics)).with_commit(committed);
        if raft
            .client_write_ff(proposal.command, Some(reply))
            .await
            .is_err()
        {
            // The core has stopped for good: nobody behind was proposed.
            waiting.close();
            while let Some(proposal) = waiting.recv().await {
                refuse(proposal.answer);
            }
            return;
        }
        // Either way the core is done with it: committed, or answered otherwise.
        is_committed.await.ok();
    }
}

fn count(tally: &Tally, proposal: &Proposal) {
    tally.proposals.fetch_add(1, Ordering::Relaxed);
    if proposal.answer.is_closed() {
        tally
            .ghosts
            .fetch_add(u64::from(proposal.entries), Ordering::Relaxed);
    }
}

fn refuse(answer: oneshot::Sender<Answer>) {
    answer
        .send(Err(ProposeError::Refused(
            "the Raft group was shut down".into(),
        )))
        .ok();
}
