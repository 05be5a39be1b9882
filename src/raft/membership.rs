//! Who belongs to a group: looking at it, and changing it.
//!
//! A change is made by the group's leader, whichever node was asked. It is a
//! log entry like any other, so it survives whatever a write survives. A node
//! comes in as a learner, which counts for nothing until it has caught up, and
//! only then as a voter: a group never waits for a newcomer to load its state.

use std::{collections::BTreeSet, time::Duration};

use openraft::{
    BasicNode, ChangeMembers, ServerState,
    async_runtime::watch::WatchReceiver as _,
    errors::{ClientWriteError, RaftError},
    metrics::RaftMetrics,
};
use tonic::Status;

use super::{
    group::Group,
    lookout::Lookout,
    network::{Leads, ReadError, Route},
    shape::{CAUGHT_UP_ENTRIES, Shape, Standing, heirs, is_fresh, is_settled, lag, leads},
    types::{LogId, Types},
};
use crate::proto::{
    cluster::{GroupStatus, Member},
    raft::{Learner, change_request::Change},
};

impl Group {
    /// Makes a change at whoever leads the group.
    pub(crate) async fn change(&self, change: Change) -> Result<(), Status> {
        if let Err(unled) = self.watched()?.leader() {
            return Err(Status::unavailable(format!(
                "the Raft group {unled}; try again once a majority of its voters runs"
            )));
        }
        match self.route()?.leads() {
            Leads::Here => self.change_here(change).await,
            Leads::There(node, address) => self.route()?.change(node, &address, change).await,
            Leads::Nobody => Err(Status::unavailable(
                "the Raft group has no leader that this node can reach; try again",
            )),
        }
    }

    /// Makes a change as the group's leader. Whoever asked may leave: a change
    /// of voters is two log entries, and the second has to follow the first.
    pub(crate) async fn change_here(&self, change: Change) -> Result<(), Status> {
        let group = self.clone();
        let made = tokio::spawn(async move { group.make(change).await });
        made.await.unwrap_or_else(|error| Err(stopped(error)))
    }

    async fn make(&self, change: Change) -> Result<(), Status> {
        match change {
            Change::Add(learner) => self.add(learner).await,
            Change::Promote(node) => self.promote(node).await,
            Change::Remove(node) => self.remove(node).await,
            Change::Transfer(node) => self.transfer(node).await,
        }
    }

    async fn add(&self, Learner { node, address }: Learner) -> Result<(), Status> {
        match self.shape().standing(node) {
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
        let shape = self.shape();
        match shape.standing(node) {
            Standing::Stranger => return Err(stranger(node)),
            Standing::Voter if !shape.is_joint => return Ok(()),
            // It was begun and not ended.
            Standing::Voter => {}
            Standing::Learner | Standing::Leaving => self.caught_up(node).await?,
        }
        let voters = &shape.voters | &BTreeSet::from([node]);
        self.carries(&voters, &format!("node {node} cannot be promoted"))
            .await?;
        self.reshape(ChangeMembers::AddVoterIds(BTreeSet::from([node])), true)
            .await
    }

    async fn remove(&self, node: u64) -> Result<(), Status> {
        let nodes = BTreeSet::from([node]);
        let shape = self.shape();
        match shape.standing(node) {
            Standing::Voter | Standing::Leaving => {
                let left = &shape.voters - &nodes;
                self.carries(&left, &format!("node {node} cannot be removed"))
                    .await?;
                self.reshape(ChangeMembers::RemoveVoters(nodes), false)
                    .await
            }
            Standing::Learner => self.reshape(ChangeMembers::RemoveNodes(nodes), false).await,
            Standing::Stranger => Ok(()),
        }
    }

    async fn transfer(&self, node: u64) -> Result<(), Status> {
        if self.shape().standing(node) != Standing::Voter {
            return Err(Status::failed_precondition(format!(
                "node {node} is no voter of this cluster; promote it first"
            )));
        }
        let raft = self.raft();
        // openraft takes no write from when leadership is to go until somebody
        // else has it, so it is not sent to where it is, or to nobody.
        if leads(&raft.metrics().borrow_watched()) && raft.metrics().borrow_watched().id == node {
            return Ok(());
        }
        let lately = self.watched()?.clock().election_max;
        let heard = raft.wait(Some(lately));
        let heard = heard.metrics(|now| is_fresh(now, node, lately), "the target is heard");
        if heard.await.is_err() {
            return Err(Status::failed_precondition(format!(
                "node {node} was not heard for {lately:?}, so it would not take over; see `ferry \
                 cluster status`"
            )));
        }
        self.caught_up(node).await?;
        let patience = self.route()?.peers().patience();
        match self.give(node, patience).await? {
            Some(leader) if leader == node => Ok(()),
            _ => Err(Status::deadline_exceeded(format!(
                "node {node} did not become the leader within {patience:?}; see `ferry cluster \
                 status`"
            ))),
        }
    }

    /// Offers leadership to a voter until another leads; returns who leads then,
    /// which may be a third.
    async fn give(&self, node: u64, patience: Duration) -> Result<Option<u64>, Status> {
        let again = self.watched()?.clock().heartbeat * 2;
        let raft = self.raft();
        let offering = async {
            loop {
                // One that still lacked a log entry did not take the last offer.
                let offered = raft.trigger().transfer_leader(node).await;
                offered.map_err(stopped)?;
                let led = raft.wait(Some(again));
                let led = led.metrics(
                    |now| now.current_leader.is_some_and(|leader| leader != now.id),
                    "another leads",
                );
                if let Ok(now) = led.await {
                    return Ok(now.current_leader);
                }
            }
        };
        let given = tokio::time::timeout(patience, offering).await;
        given.unwrap_or(Ok(None))
    }

    /// Has another voter lead, if this node does.
    pub(crate) async fn hand_on(&self) {
        let Ok(clock) = self.watched().map(Lookout::clock) else {
            return;
        };
        let heirs = heirs(&self.raft().metrics().borrow_watched(), clock.election_min);
        let Some(heirs) = heirs else { return };
        for heir in heirs {
            match self.give(heir, clock.election_max).await {
                Ok(Some(leader)) => {
                    tracing::info!(leader, "leadership is handed on");
                    return;
                }
                Ok(None) => tracing::warn!(node = heir, "leadership was not taken over"),
                Err(status) => return tracing::warn!("{}", status.message()),
            }
        }
        tracing::warn!("leadership is not handed on: no other voter answers and has caught up");
    }

    /// Waits until a node lacks few log entries.
    async fn caught_up(&self, node: u64) -> Result<(), Status> {
        let wait = self.raft().wait(Some(self.route()?.peers().patience()));
        let caught_up = wait.metrics(|now| lag(now, node) <= CAUGHT_UP_ENTRIES, "it caught up");
        if caught_up.await.is_ok() {
            return Ok(());
        }
        let lacks = lag(&self.raft().metrics().borrow_watched(), node);
        Err(Status::failed_precondition(format!(
            "node {node} lacks {lacks} log entries: must be at most {CAUGHT_UP_ENTRIES}; wait \
             until `ferry cluster status` shows that it has caught up"
        )))
    }

    /// Whether these voters would have a majority: a group without one cannot
    /// even take the change back.
    async fn carries(&self, voters: &BTreeSet<u64>, refused: &str) -> Result<(), Status> {
        let lately = self.watched()?.clock().election_max;
        let answering = |now: &RaftMetrics<Types>| {
            let fresh = voters.iter().filter(|voter| is_fresh(now, **voter, lately));
            fresh.count()
        };
        // Who leads since a moment ago has not heard of all yet.
        let wait = self.raft().wait(Some(lately));
        let carried = wait.metrics(
            |now| 2 * answering(now) > voters.len(),
            "a majority answers",
        );
        if carried.await.is_ok() {
            return Ok(());
        }
        let answer = answering(&self.raft().metrics().borrow_watched());
        Err(Status::failed_precondition(format!(
            "{refused}: of the {} voters that there would be {answer} answer, which is no \
             majority; bring others up or remove them first",
            voters.len()
        )))
    }

    async fn reshape(
        &self,
        change: ChangeMembers<u64, BasicNode>,
        retain: bool,
    ) -> Result<(), Status> {
        // One that was begun before goes first.
        let wait = self.raft().wait(Some(self.route()?.peers().patience()));
        let settled = wait.metrics(is_settled, "the members are settled");
        if settled.await.is_err() {
            return Err(Status::failed_precondition(
                "a change of the members is under way and may still happen; see `ferry cluster \
                 status`",
            ));
        }
        let changed = self.raft().change_membership(change, retain).await;
        changed.map_err(of_write).map(|_| ())
    }

    fn shape(&self) -> Shape {
        Shape::of(&self.raft().metrics().borrow_watched())
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

    fn watched(&self) -> Result<&Lookout, Status> {
        self.lookout().ok_or_else(|| {
            Status::failed_precondition("this group has one member, and no network to others")
        })
    }

    /// The log entry that a read must see, from this node as the leader.
    pub(crate) async fn read_index(&self) -> Result<LogId, ReadError> {
        let route = self.network_route().ok_or(ReadError::NoLeader)?;
        route.read_index(route.peers().patience()).await
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
            leader: match self.lookout() {
                Some(lookout) => lookout.leader().ok(),
                None => now.current_leader,
            },
            last_log_index: now.last_log_index.unwrap_or(0),
            committed_index: index(now.local_committed),
            applied_index: index(now.last_applied),
            snapshot_index: index(now.snapshot),
            fault: match &now.running_state {
                Ok(()) => String::new(),
                Err(fault) => fault.to_string(),
            },
            joint: Shape::of(&now).is_joint,
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
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => Status::unavailable(
            "the leader changed, or lost its majority, before the change was appended; try again",
        ),
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => Status::unknown(
            "the leader changed after the change was appended; see `ferry cluster status`",
        ),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(why)) => {
            Status::failed_precondition(why.to_string())
        }
        RaftError::APIError(other) => Status::failed_precondition(other.to_string()),
    }
}
