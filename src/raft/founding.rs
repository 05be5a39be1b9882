//! How a cluster begins: once.
//!
//! Of the nodes that the configurations name as the first members, the one with
//! the smallest number founds the cluster. It waits until every other one
//! answers and belongs to no cluster, draws the cluster's id, has each of them
//! take it for good, and only then gives the groups their members. A second
//! founder, on purpose or by accident, meets a node that has an id already and
//! goes no further. A node that lost its directory meets the same refusal, and
//! waits to be removed and added again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use openraft::{
    BasicNode,
    errors::{InitializeError, RaftError},
};
use tonic::Status;

use super::{
    groups::Groups,
    machine,
    network::{Peers, Use},
    unreached,
};
use crate::proto::raft::{GreetReply, GreetRequest, JoinRequest};

/// Between two looks at whether the others are there yet.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What a founder needs.
pub(super) struct Founding {
    pub(super) peers: Peers,
    pub(super) groups: Groups,
    /// The first members and where they listen for each other.
    pub(super) members: BTreeMap<u64, String>,
}

/// Why there is no cluster yet.
enum Obstacle {
    /// It may pass by itself.
    Waiting(String),
    /// It will not.
    Refused(String),
}

impl Founding {
    /// Founds the cluster, unless that is another node's part or was done
    /// before. Returns when there is no more to do.
    pub(super) async fn run(self) {
        let own = self.peers.badge().node();
        if self.members.keys().next() != Some(&own) {
            return;
        }
        let mut told = String::new();
        loop {
            let obstacle = match self.found().await {
                Ok(()) => return,
                Err(obstacle) => obstacle,
            };
            let (Obstacle::Waiting(what) | Obstacle::Refused(what)) = &obstacle;
            if *what != told {
                match &obstacle {
                    Obstacle::Waiting(what) => tracing::info!("not founded yet: {what}"),
                    Obstacle::Refused(what) => tracing::error!("not founded: {what}"),
                }
                told.clone_from(what);
            }
            if let Obstacle::Refused(_) = obstacle {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn found(&self) -> Result<(), Obstacle> {
        let mut missing = Vec::new();
        for (number, group) in self.groups.all().iter().enumerate() {
            if !group.raft().is_initialized().await.map_err(of_core)? {
                missing.push(number);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        for (node, address) in self.others() {
            self.look_at(node, address, &missing).await?;
        }
        let badge = Arc::clone(self.peers.badge());
        let id = machine::blocking(move || badge.draw()).await;
        let id = id.map_err(|error| {
            Obstacle::Refused(format!("the cluster id cannot be written: {error}"))
        })?;
        let Some(id) = id else {
            return Err(Obstacle::Refused(format!(
                "another node has taken this one for cluster {}, and one founder is enough; write \
                 the same `members` into the files of all first members",
                self.peers.badge().id().unwrap_or_default()
            )));
        };
        for (node, address) in self.others() {
            self.enlist(node, address, &id).await?;
        }
        let members: BTreeMap<u64, BasicNode> = self
            .members
            .iter()
            .map(|(node, address)| (*node, BasicNode::new(address)))
            .collect();
        for number in missing {
            let raft = self.groups.all()[number].raft();
            match raft.initialize(members.clone()).await {
                Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
                Err(error) => return Err(of_core(error)),
            }
        }
        tracing::info!(cluster = self.peers.badge().cluster(), %id, "founded the cluster");
        Ok(())
    }

    fn others(&self) -> impl Iterator<Item = (u64, &str)> {
        let own = self.peers.badge().node();
        let others = self.members.iter().filter(move |(node, _)| **node != own);
        others.map(|(node, address)| (*node, address.as_str()))
    }

    /// Whether a node is there, and free to be a first member.
    async fn look_at(&self, node: u64, address: &str, missing: &[usize]) -> Result<(), Obstacle> {
        let GreetReply {
            cluster_id,
            groups,
            founded,
            ..
        } = greet(&self.peers, Some(node), address)
            .await
            .map_err(|status| of_peer(node, &status))?;
        let own = self.peers.badge().id().unwrap_or_default();
        let refused = |what: String| Err(Obstacle::Refused(what));
        if !cluster_id.is_empty() && cluster_id != own {
            return refused(format!(
                "node {node} at {address} belongs to cluster {cluster_id} already, and there is \
                 one of a kind; to make this node a member of it, run `ferry cluster remove {}` \
                 if it was one before, then `ferry cluster add`",
                self.peers.badge().node()
            ));
        }
        if groups != self.groups.count().get() {
            return refused(format!(
                "node {node} at {address} has {groups} Raft groups and this one {}; configure the \
                 same number",
                self.groups.count()
            ));
        }
        let lost = |number: &&usize| founded.get(**number) == Some(&true);
        match missing.iter().find(lost) {
            Some(number) => refused(format!(
                "group {number} has members at node {node} and none here: this node lost its \
                 data; empty its directory, remove it and add it again"
            )),
            None => Ok(()),
        }
    }

    /// Has a node take the cluster's id for good.
    async fn enlist(&self, node: u64, address: &str, id: &str) -> Result<(), Obstacle> {
        let taken = join(&self.peers, Some(node), address, id)
            .await
            .map_err(|status| of_peer(node, &status))?;
        match taken == id {
            true => Ok(()),
            false => Err(Obstacle::Refused(format!(
                "node {node} at {address} was taken for cluster {taken} by another founder; empty \
                 the data directories of the nodes that belong together, and start them again"
            ))),
        }
    }
}

/// Asks the node at an address who it is.
pub(super) async fn greet(
    peers: &Peers,
    node: Option<u64>,
    address: &str,
) -> Result<GreetReply, Status> {
    let mut client = peers.client(address, Use::Talk)?;
    let greeting = client.greet(peers.badge().stamp(GreetRequest {}, node));
    Ok(in_time(peers, address, greeting).await?.into_inner())
}

/// Offers a node a cluster id; returns the one that it has from now on.
pub(super) async fn join(
    peers: &Peers,
    node: Option<u64>,
    address: &str,
    id: &str,
) -> Result<String, Status> {
    let mut client = peers.client(address, Use::Talk)?;
    let request = JoinRequest {
        cluster_id: id.to_owned(),
    };
    let joining = client.join(peers.badge().stamp(request, node));
    let joined = in_time(peers, address, joining).await?;
    Ok(joined.into_inner().cluster_id)
}

/// What was answered; an error names the address that it is about.
async fn in_time<T>(
    peers: &Peers,
    address: &str,
    asked: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let patience = peers.patience();
    let own = peers.badge().node();
    match tokio::time::timeout(patience, asked).await {
        Ok(answered) => answered.map_err(|status| {
            let what = match unreached(&status, &format!(" from node {own}")) {
                Some(why) => format!("{address} {why}"),
                None => format!("{address}: {}", status.message()),
            };
            Status::new(status.code(), what)
        }),
        Err(_) => Err(Status::unavailable(format!(
            "{address} gave node {own} no answer within {patience:?}"
        ))),
    }
}

fn of_peer(node: u64, status: &Status) -> Obstacle {
    let what = format!("node {node}: {}", status.message());
    match status.code() {
        tonic::Code::FailedPrecondition => Obstacle::Refused(what),
        _ => Obstacle::Waiting(what),
    }
}

fn of_core(error: impl ToString) -> Obstacle {
    Obstacle::Refused(format!(
        "this node's Raft group has stopped: {}",
        error.to_string()
    ))
}
