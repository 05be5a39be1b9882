//! Who belongs to a group: looking at it, and changing it.
//!
//! A change is made by the group's leader, whichever node was asked. It is a
//! log entry like any other, so it survives whatever a write survives. A node
//! comes in as a learner, which counts for nothing until it has caught up, and
//! only then as a voter: a group never waits for a newcomer to load its state.

use std::collections::BTreeSet;

use openraft::{
    BasicNode, ChangeMembers, ServerState,
    async_runtime::watch::WatchReceiver as _,
    errors::{ClientWriteError, RaftError},
    metrics::RaftMetrics,
};
use tonic::Status;

use super::{
    group::Group,
    network::{Leads, ReadError, Route},
    types::{LogId, Types},
};
use crate::proto::{
    cluster::{GroupStatus, Member},
    raft::{Learner, change_request::Change},
};

/// A learner may become a voter when it lacks no more log entries than this: a
/// fraction of a second's worth.
const CAUGHT_UP_ENTRIES: u64 = 1_000;

impl Group {
    /// Makes a change at whoever leads the group.
    pub(crate) async fn change(&self, change: Change) -> Result<(), Status> {
        match self.route()?.leads() {
            Leads::Here => self.change_here(change).await,
            Leads::There(node, address) => self.route()?.change(node, &address, change).await,
            Leads::Nobody => Err(Status::unavailable(
                "the Raft group has no leader that this node knows of; try again once a majority \
                 of its voters runs",
            )),
        }
    }

    /// Makes a change as the group's leader.
    pub(crate) async fn change_here(&self, change: Change) -> Result<(), Status> {
        match change {
            Change::Add(learner) => self.add(learner).await,
            Change::Promote(node) => self.promote(node).await,
            Change::Remove(node) => self.remove(node).await,
            Change::Transfer(node) => self.transfer(node).await,
        }
    }

    async fn add(&self, Learner { node, address }: Learner) -> Result<(), Status> {
        match self.standing(node) {
            Standing::Stranger => {}
            Standing::Learner if self.address(node).as_ref() == Some(&address) => return Ok(()),
            _ => {
                return Err(Status::already_exists(format!(
                    "node {node} is a member of this cluster; if it lost its data, remove it first"
                )));
            }
        }
        let added = self
            .raft()
            .add_learner(node, BasicNode::new(address), false);
        added.await.map_err(of_write).map(|_| ())
    }

    async fn promote(&self, node: u64) -> Result<(), Status> {
        match self.standing(node) {
            Standing::Learner => {}
            Standing::Voter => return Ok(()),
            Standing::Stranger => return Err(stranger(node)),
        }
        let wait = self.raft().wait(Some(self.route()?.peers().patience()));
        let caught_up = wait.metrics(|now| lag(now, node) <= CAUGHT_UP_ENTRIES, "it caught up");
        if caught_up.await.is_err() {
            let lacks = lag(&self.raft().metrics().borrow_watched(), node);
            return Err(Status::failed_precondition(format!(
                "node {node} lacks {lacks} log entries: must be at most {CAUGHT_UP_ENTRIES}; wait \
                 until `ferry cluster status` shows that it has caught up"
            )));
        }
        self.reshape(ChangeMembers::AddVoterIds(BTreeSet::from([node])), true)
            .await
    }

    async fn remove(&self, node: u64) -> Result<(), Status> {
        let nodes = BTreeSet::from([node]);
        match self.standing(node) {
            Standing::Voter => {
                self.reshape(ChangeMembers::RemoveVoters(nodes), false)
                    .await
            }
            Standing::Learner => self.reshape(ChangeMembers::RemoveNodes(nodes), false).await,
            Standing::Stranger => Ok(()),
        }
    }

    async fn transfer(&self, node: u64) -> Result<(), Status> {
        if self.standing(node) != Standing::Voter {
            return Err(Status::failed_precondition(format!(
                "node {node} is no voter of this cluster; promote it first"
            )));
        }
        let raft = self.raft();
        raft.trigger()
            .transfer_leader(node)
            .await
            .map_err(stopped)?;
        let patience = self.route()?.peers().patience();
        let led = raft.wait(Some(patience));
        let led = led.metrics(|now| now.current_leader == Some(node), "it leads");
        led.await.map(|_| ()).map_err(|_| {
            Status::deadline_exceeded(format!(
                "node {node} did not become the leader within {patience:?}; see `ferry cluster \
                 status`"
            ))
        })
    }

    async fn reshape(
        &self,
        change: ChangeMembers<u64, BasicNode>,
        retain: bool,
    ) -> Result<(), Status> {
        let changed = self.raft().change_membership(change, retain).await;
        changed.map_err(of_write).map(|_| ())
    }

    fn standing(&self, node: u64) -> Standing {
        let metrics = self.raft().metrics();
        let now = metrics.borrow_watched();
        let members = now.membership_config.membership();
        if members.voter_ids().any(|voter| voter == node) {
            Standing::Voter
        } else if members.get_node(&node).is_some() {
            Standing::Learner
        } else {
            Standing::Stranger
        }
    }

    fn address(&self, node: u64) -> Option<String> {
        let metrics = self.raft().metrics();
        let now = metrics.borrow_watched();
        let member = now.membership_config.membership().get_node(&node);
        member.map(|at| at.addr.clone())
    }

    fn route(&self) -> Result<&Route, Status> {
        self.network_route().ok_or_else(|| {
            Status::failed_precondition("this group has one member, and no network to others")
        })
    }

    /// The log entry that a read must see, from this node as the leader.
    pub(crate) async fn read_index(&self) -> Result<LogId, ReadError> {
        let route = self.network_route().ok_or(ReadError::NoLeader)?;
        route.read_index(route.peers().patience()).await
    }

    /// A voter other than this node, which leads the group, that has every log
    /// entry or nearly so.
    pub(crate) fn heir(&self) -> Option<u64> {
        let metrics = self.raft().metrics();
        let now = metrics.borrow_watched();
        if now.current_leader != Some(now.id) {
            return None;
        }
        let voters = now.membership_config.membership().voter_ids();
        voters
            .filter(|voter| *voter != now.id && lag(&now, *voter) <= CAUGHT_UP_ENTRIES)
            .min_by_key(|voter| lag(&now, *voter))
    }

    /// How the group looks from this node.
    pub(crate) fn status(&self, group: u32) -> GroupStatus {
        let metrics = self.raft().metrics();
        let now = metrics.borrow_watched();
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        let role = match now.state {
            ServerState::Leader => "leader",
            ServerState::Follower => "follower",
            ServerState::Candidate => "candidate",
            ServerState::Learner => "learner",
            ServerState::Shutdown => "stopped",
        };
        GroupStatus {
            group,
            role: role.to_owned(),
            term: now.current_term,
            leader: now.current_leader,
            last_log_index: now.last_log_index.unwrap_or(0),
            committed_index: index(now.local_committed),
            applied_index: index(now.last_applied),
            snapshot_index: index(now.snapshot),
            fault: match &now.running_state {
                Ok(()) => String::new(),
                Err(fault) => fault.to_string(),
            },
        }
    }

    /// The group's members as this node knows them.
    pub(crate) fn members(&self) -> Vec<Member> {
        let metrics = self.raft().metrics();
        let now = metrics.borrow_watched();
        let members = now.membership_config.membership();
        let voters: BTreeSet<u64> = members.voter_ids().collect();
        let members = members.nodes().map(|(node, at)| Member {
            node: *node,
            address: at.addr.clone(),
            voter: voters.contains(node),
        });
        members.collect()
    }
}

/// What a node is to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Voter,
    Learner,
    Stranger,
}

/// How many log entries a node lacks, as this leader knows.
fn lag(now: &RaftMetrics<Types>, node: u64) -> u64 {
    let matched = now.replication.as_ref().and_then(|all| all.get(&node));
    let matched = matched.copied().flatten().map_or(0, |id| id.index + 1);
    let next = now.last_log_index.map_or(0, |last| last + 1);
    next.saturating_sub(matched)
}

fn stranger(node: u64) -> Status {
    Status::not_found(format!(
        "node {node} is no member of this cluster; add it first with `ferry cluster add`"
    ))
}

fn stopped(error: impl ToString) -> Status {
    let error = error.to_string();
    Status::internal(format!("this node's Raft group has stopped: {error}"))
}

fn of_write(error: RaftError<Types, ClientWriteError<Types>>) -> Status {
    match error {
        RaftError::Fatal(fatal) => stopped(fatal),
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
            Status::unavailable("the leader changed before the change was appended; try again")
        }
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => Status::unknown(
            "the leader changed after the change was appended; see `ferry cluster status`",
        ),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(why)) => {
            Status::failed_precondition(why.to_string())
        }
        RaftError::APIError(other) => Status::failed_precondition(other.to_string()),
    }
}
