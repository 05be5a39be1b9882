//! What an operator asks of a cluster, answered by any of its nodes.
//!
//! A change is made group by group, each at its own leader. It may be asked for
//! again: what was done is found done.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use tonic::{Request, Response, Status};

use super::{
    founding::{greet, join},
    groups::Groups,
    network::{Peers, ReadError},
};
use crate::proto::{
    cluster::{
        AddReply, AddRequest, Member, PromoteReply, PromoteRequest, RemoveReply, RemoveRequest,
        StatusReply, StatusRequest, TransferReply, TransferRequest, cluster_server::Cluster,
    },
    raft::{Learner, change_request::Change},
};

/// Answers `ferry cluster`.
#[derive(Clone, Debug)]
pub(super) struct ClusterService {
    pub(super) peers: Peers,
    pub(super) groups: Groups,
}

impl ClusterService {
    async fn in_every_group(&self, change: Change) -> Result<(), Status> {
        let groups = self.groups.all().iter();
        let changes = groups.map(|group| group.change(change.clone()));
        join_all(changes).await.into_iter().collect()
    }

    /// Whether every group has a leader with a majority behind it, and this node
    /// knows all that was changed before.
    async fn is_led(&self) -> Result<(), Status> {
        let asked = join_all(self.groups.all().iter().map(super::Group::linearize)).await;
        for (group, asked) in asked.into_iter().enumerate() {
            let why = match asked {
                Ok(()) => continue,
                Err(ReadError::NoLeader) => "it has no leader that this node knows of".to_owned(),
                Err(ReadError::Unconfirmed(why)) => why,
            };
            return Err(Status::unavailable(format!(
                "nothing is changed: Raft group {group} cannot change its members now: {why}; try \
                 again once a majority of its voters runs"
            )));
        }
        Ok(())
    }

    /// Whether a node is a member of any group.
    fn is_member(&self, node: u64) -> bool {
        self.members().iter().any(|member| member.node == node)
    }

    /// Whether a node is missing in some group, and in the others where it
    /// would be added.
    fn may_be_added(&self, node: u64, address: &str) -> bool {
        let groups = self.groups.all().iter();
        let known = groups.map(|group| {
            let mut members = group.members().into_iter();
            members.find(|member| member.node == node)
        });
        let known: Vec<_> = known.collect();
        known.iter().any(Option::is_none)
            && known.iter().flatten().all(|known| known.address == address)
    }

    /// A node is a voter if it is one of every group.
    fn members(&self) -> Vec<Member> {
        let mut all: BTreeMap<u64, Member> = BTreeMap::new();
        for member in self.groups.all().iter().flat_map(super::Group::members) {
            let known = all.entry(member.node).or_insert_with(|| member.clone());
            known.voter &= member.voter;
        }
        all.into_values().collect()
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let badge = self.peers.badge();
        let groups = (0..).zip(self.groups.all());
        Ok(Response::new(StatusReply {
            node: badge.node(),
            cluster: badge.cluster().to_owned(),
            cluster_id: badge.id().unwrap_or_default(),
            groups: groups.map(|(number, group)| group.status(number)).collect(),
            members: self.members(),
        }))
    }

    async fn add(&self, request: Request<AddRequest>) -> Result<Response<AddReply>, Status> {
        let address = request.into_inner().address;
        let own = self.peers.badge().id().ok_or_else(|| {
            Status::failed_precondition(
                "this node belongs to no cluster yet; ask one that does, with --node",
            )
        })?;
        let found = greet(&self.peers, None, &address).await?;
        if !found.cluster_id.is_empty() && found.cluster_id != own {
            return Err(Status::failed_precondition(format!(
                "node {} at {address} belongs to cluster {}, and this is {own}; start it with an \
                 empty data directory",
                found.node, found.cluster_id
            )));
        }
        if found.groups != self.groups.count().get() {
            return Err(Status::failed_precondition(format!(
                "node {} at {address} has {} Raft groups; must be {}, as in the cluster; set its \
                 groups to that",
                found.node,
                found.groups,
                self.groups.count()
            )));
        }
        self.is_led().await?;
        // An id says that it is no newcomer: what was begun is done to its end.
        let is_known = match found.cluster_id.is_empty() {
            true => self.is_member(found.node),
            false => !self.may_be_added(found.node, &address),
        };
        if is_known {
            return Err(Status::already_exists(format!(
                "node {} is a member of this cluster; if it lost its data, remove it first, else \
                 give the new node another number",
                found.node
            )));
        }
        // Last, since a node keeps the id for good.
        let taken = join(&self.peers, Some(found.node), &address, &own).await?;
        if taken != own {
            return Err(Status::failed_precondition(format!(
                "node {} at {address} belongs to cluster {taken}, and this is {own}",
                found.node
            )));
        }
        let learner = Learner {
            node: found.node,
            address,
        };
        self.in_every_group(Change::Add(learner)).await?;
        Ok(Response::new(AddReply { node: found.node }))
    }

    async fn promote(
        &self,
        request: Request<PromoteRequest>,
    ) -> Result<Response<PromoteReply>, Status> {
        let node = request.into_inner().node;
        self.in_every_group(Change::Promote(node)).await?;
        Ok(Response::new(PromoteReply {}))
    }

    async fn remove(
        &self,
        request: Request<RemoveRequest>,
    ) -> Result<Response<RemoveReply>, Status> {
        let node = request.into_inner().node;
        self.is_led().await?;
        if !self.is_member(node) {
            return Err(Status::not_found(format!(
                "node {node} is no member of this cluster"
            )));
        }
        self.in_every_group(Change::Remove(node)).await?;
        Ok(Response::new(RemoveReply {}))
    }

    async fn transfer(
        &self,
        request: Request<TransferRequest>,
    ) -> Result<Response<TransferReply>, Status> {
        let node = request.into_inner().node;
        self.in_every_group(Change::Transfer(node)).await?;
        Ok(Response::new(TransferReply {}))
    }
}
