//! From a node that does not lead a group to the one that does.
//!
//! A caller never learns who leads: what it asks of any node is done, or is
//! answered by what is known of it. One hop is enough, since the node that is
//! asked as the leader and is none says so before it appends anything, which is
//! *Refused*, and safe to try again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::{
    BasicNode, Raft, ReadPolicy, async_runtime::watch::WatchReceiver as _, errors::RaftError,
};
use tonic::Status;

use super::{
    peers::{Peers, Use, never_sent},
    wire,
};
use crate::{
    proto::raft::{
        ChangeRequest, ProposeRequest, ReadIndexRequest, change_request::Change,
        propose_reply::Outcome,
    },
    raft::{
        command::Command,
        machine::Machine,
        types::{Answer, LogId, ProposeError, Types},
        unreached,
    },
};

/// How often a write is sent on when whom it was sent to turned out not to lead.
const HOPS: usize = 3;

/// Why a linearizable read cannot be served now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Nobody is known to lead.
    #[error(
        "the Raft group has no leader that this node knows of; try again, or read stale data with \
         the metadata ferry-read: stale"
    )]
    NoLeader,
    /// The leader could not be asked, or could not prove that it still leads.
    #[error(
        "the read could not be ordered after the writes before it: {0}; try again, or read stale \
         data with the metadata ferry-read: stale"
    )]
    Unconfirmed(String),
}

/// Who leads a group, seen from here.
#[derive(Debug)]
pub(crate) enum Leads {
    /// This node.
    Here,
    /// Another one, at its address.
    There(u64, String),
    /// Nobody that is known.
    Nobody,
}

/// One group's way to its leader.
#[derive(Clone)]
pub(crate) struct Route {
    peers: Peers,
    raft: Raft<Types, Machine>,
    group: u32,
    recovered: Arc<AtomicBool>,
}

impl Route {
    /// Must be called within a runtime.
    pub(crate) fn new(peers: Peers, raft: Raft<Types, Machine>, group: u32) -> Self {
        let recovered = Arc::new(AtomicBool::new(false));
        let (recovering, has) = (raft.clone(), Arc::clone(&recovered));
        tokio::spawn(async move {
            let wait = recovering.wait_for_recovery(None).await;
            has.store(wait.is_ok(), Ordering::Relaxed);
        });
        Self {
            peers,
            raft,
            group,
            recovered,
        }
    }

    /// Whether what the log had when the group was opened is applied.
    pub(crate) fn has_recovered(&self) -> bool {
        self.recovered.load(Ordering::Relaxed)
    }

    pub(crate) const fn peers(&self) -> &Peers {
        &self.peers
    }

    pub(crate) fn leads(&self) -> Leads {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        match now.current_leader {
            Some(leader) if leader == now.id => Leads::Here,
            Some(leader) => {
                let members = now.membership_config.membership();
                match members.get_node(&leader) {
                    Some(BasicNode { addr }) => Leads::There(leader, addr.clone()),
                    None => Leads::Nobody,
                }
            }
            None => Leads::Nobody,
        }
    }

    pub(crate) fn leads_here(&self) -> bool {
        matches!(self.leads(), Leads::Here)
    }

    /// Proposes at whoever leads; `here` proposes at this node.
    pub(crate) async fn propose<F>(
        &self,
        command: Command,
        entries: u32,
        here: impl Fn(Command) -> F,
    ) -> Answer
    where
        F: Future<Output = Answer>,
    {
        let mut refused = ProposeError::Refused("the Raft group has no leader".into());
        let mut before = None;
        for _ in 0..HOPS {
            let answer = match self.leads() {
                Leads::Nobody => return Err(refused),
                Leads::Here => here(command.clone()).await,
                // It refused a moment ago; asking again at once helps nobody.
                Leads::There(node, _) if before == Some(node) => return Err(refused),
                Leads::There(node, address) => {
                    before = Some(node);
                    self.send(node, &address, &command, entries).await
                }
            };
            match answer {
                Err(error @ ProposeError::Refused(_)) => refused = error,
                answer => return answer,
            }
        }
        Err(refused)
    }

    async fn send(&self, node: u64, address: &str, command: &Command, entries: u32) -> Answer {
        // Not the status' own text: it names addresses, which stay inside.
        let refused = |_: &Status| {
            ProposeError::Refused("the Raft group's leader cannot be reached from this node".into())
        };
        let mut client = self
            .peers
            .client(address, Use::Append)
            .map_err(|status| refused(&status))?;
        let request = ProposeRequest {
            group: self.group,
            command: command.encoded().clone(),
            entries,
        };
        let request = self.peers.badge().stamp(request, Some(node));
        let reply = client.propose(request).await.map_err(|status| {
            self.peers.tell(address, &status);
            match never_sent(&status) {
                true => refused(&status),
                false => ProposeError::Unknown(
                    "the connection to the Raft group's leader was lost after the write was sent"
                        .into(),
                ),
            }
        })?;
        match reply.into_inner().outcome {
            Some(Outcome::Applied(applied)) => serde_json::from_slice(&applied)
                .map_err(|_| ProposeError::Unknown("the leader's answer does not parse".into())),
            Some(Outcome::Refused(why)) => Err(ProposeError::Refused(why.into())),
            Some(Outcome::Unknown(why)) => Err(ProposeError::Unknown(why.into())),
            None => Err(ProposeError::Unknown("the leader's answer is empty".into())),
        }
    }

    /// Waits until this node has applied every write that was acknowledged
    /// before now, anywhere.
    pub(crate) async fn linearize(&self) -> Result<(), ReadError> {
        let patience = self.peers.patience();
        let at = match self.leads() {
            Leads::Nobody => return Err(ReadError::NoLeader),
            Leads::Here => self.read_index(patience).await?,
            Leads::There(node, address) => self.ask_index(node, &address, patience).await?,
        };
        let wait = self.raft.wait(Some(patience));
        let applied = wait.applied_index_at_least(Some(at.index), "a linearizable read");
        match applied.await {
            Ok(_) => Ok(()),
            Err(_) => Err(ReadError::Unconfirmed(
                "this node has not applied the writes before it in time".into(),
            )),
        }
    }

    /// The log entry that a read at this moment must see, if this node leads
    /// and can still reach a majority.
    pub(crate) async fn read_index(&self, patience: Duration) -> Result<LogId, ReadError> {
        let confirmed = self.raft.get_read_log_id(ReadPolicy::ReadIndex);
        match tokio::time::timeout(patience, confirmed).await {
            Ok(Ok((at, _))) => Ok(*at.log_id()),
            Ok(Err(RaftError::APIError(_))) => Err(ReadError::Unconfirmed(
                "the leader does not reach a majority of its group".into(),
            )),
            Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Unconfirmed(
                "the leader's Raft group has stopped".into(),
            )),
            Err(_) => Err(ReadError::Unconfirmed(format!(
                "a majority of the group did not answer within {patience:?}"
            ))),
        }
    }

    async fn ask_index(
        &self,
        node: u64,
        address: &str,
        patience: Duration,
    ) -> Result<LogId, ReadError> {
        let unconfirmed = |status: Status| {
            self.peers.tell(address, &status);
            ReadError::Unconfirmed("the Raft group's leader did not confirm it".into())
        };
        let mut client = self.peers.client(address, Use::Talk).map_err(unconfirmed)?;
        let request = ReadIndexRequest { group: self.group };
        let request = self.peers.badge().stamp(request, Some(node));
        match tokio::time::timeout(patience, client.read_index(request)).await {
            Ok(Ok(reply)) => {
                let at = reply.into_inner().at;
                let at = at.ok_or_else(|| Status::internal("an answer without a log id"));
                at.and_then(wire::read_log_id).map_err(unconfirmed)
            }
            Ok(Err(status)) => Err(unconfirmed(status)),
            Err(_) => Err(ReadError::Unconfirmed(format!(
                "the Raft group's leader did not answer within {patience:?}"
            ))),
        }
    }

    /// Asks the leader elsewhere for a change of the group's members.
    pub(crate) async fn change(
        &self,
        node: u64,
        address: &str,
        change: Change,
    ) -> Result<(), Status> {
        let request = ChangeRequest {
            group: self.group,
            change: Some(change),
        };
        let request = self.peers.badge().stamp(request, Some(node));
        let mut client = self.peers.client(address, Use::Talk)?;
        let changed = client.change(request).await;
        changed.map(|_| ()).map_err(|status| {
            let Some(why) = unreached(&status, " from this node") else {
                return status;
            };
            let leader = format!("the Raft group's leader, node {node} at {address}, {why}");
            match never_sent(&status) {
                true => Status::unavailable(format!("{leader}; try again")),
                false => Status::unknown(format!(
                    "{leader}; the change was begun and may still happen; see `ferry cluster \
                     status`"
                )),
            }
        })
    }
}
