//! What an operator asks of a cluster, of nodes in this process.

use std::{collections::BTreeMap, path::Path, time::Duration};

use openraft::BasicNode;
use prometheus::Registry;
use tonic::{Code, Request};

use crate::{
    proto::{
        cluster::{AddRequest, cluster_server::Cluster as _},
        raft::change_request::Change,
    },
    raft::{
        GroupSettings,
        cluster::ClusterService,
        founding::join,
        member::{Member, MemberSettings},
    },
};

/// Only a fault waits so long.
const WITHIN: Duration = Duration::from_secs(20);

/// A node with two groups, of a cluster that these found.
async fn node(home: &Path, number: u64, members: BTreeMap<u64, String>) -> Member {
    let mut groups = GroupSettings::new(home);
    groups.identity.node = number;
    groups.identity.groups = 2;
    let settings = MemberSettings {
        groups,
        peer: ([127, 0, 0, 1], 0).into(),
        tls: None,
        members,
    };
    Member::start(settings, &Registry::new()).await.unwrap()
}

#[tokio::test]
async fn a_node_that_was_added_to_part_of_the_groups_may_be_added_again() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let nowhere = "127.0.0.1:1".to_owned();
    let founder = node(one.path(), 1, BTreeMap::from([(1, nowhere.clone())])).await;
    let founded = async {
        while !founder.groups().is_ready() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WITHIN, founded).await.unwrap();
    let newcomer = node(two.path(), 2, BTreeMap::new()).await;
    let address = newcomer.peer_addr().to_string();
    let route = founder.groups().at(0).network_route().unwrap();
    let asked = ClusterService {
        peers: route.peers().clone(),
        groups: founder.groups().clone(),
    };
    let add = || {
        let address = address.clone();
        asked.add(Request::new(AddRequest { address }))
    };

    // A member without what it had, and one that is somewhere else.
    let group = founder.groups().at(0);
    let put = async |address: &str| {
        group.change_here(Change::Remove(2)).await.unwrap();
        let node = BasicNode::new(address);
        group.raft().add_learner(2, node, false).await.unwrap();
    };
    put(&address).await;
    assert_eq!(add().await.unwrap_err().code(), Code::AlreadyExists);
    // What `add` had begun with before a group was without a leader.
    let id = route.peers().badge().id().unwrap();
    join(route.peers(), Some(2), &address, &id).await.unwrap();
    put(&nowhere).await;
    assert_eq!(add().await.unwrap_err().code(), Code::AlreadyExists);

    put(&address).await;
    assert_eq!(add().await.unwrap().into_inner().node, 2);
    for group in founder.groups().all() {
        assert!(group.members().iter().any(|member| member.node == 2));
    }
    assert_eq!(add().await.unwrap_err().code(), Code::AlreadyExists);
    newcomer.shutdown().await.unwrap();
    founder.shutdown().await.unwrap();
}
