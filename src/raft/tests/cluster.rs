//! What an operator asks of a cluster, of nodes in this process.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use openraft::{BasicNode, ChangeMembers, async_runtime::watch::WatchReceiver as _};
use prometheus::Registry;
use tonic::{Code, Request};

use super::create;
use crate::{
    proto::{
        self,
        cluster::{
            AddRequest, PromoteRequest, RemoveRequest, TransferRequest,
            cluster_server::Cluster as _,
        },
        raft::{Learner, change_request::Change},
    },
    raft::{
        Group, GroupSettings,
        cluster::ClusterService,
        founding::join,
        member::{Member, MemberSettings},
    },
};

/// Only a fault waits so long.
const WITHIN: Duration = Duration::from_secs(20);

/// Where nobody listens.
const NOWHERE: &str = "127.0.0.1:1";

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

/// Waits for what will be.
async fn soon(mut is_so: impl FnMut() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WITHIN, waited).await.unwrap();
}

/// The only node of a cluster, which leads its groups.
async fn founder(home: &Path) -> Member {
    let founder = node(home, 1, BTreeMap::from([(1, NOWHERE.to_owned())])).await;
    soon(|| founder.groups().is_ready()).await;
    founder
}

fn service(node: &Member) -> ClusterService {
    let route = node.groups().at(0).network_route().unwrap();
    ClusterService {
        peers: route.peers().clone(),
        groups: node.groups().clone(),
    }
}

/// How many sets of voters a group has.
fn configs(group: &Group) -> usize {
    let metrics = group.raft().metrics();
    let now = metrics.borrow_watched();
    let members = now.membership_config.membership();
    members.get_joint_config().len()
}

#[tokio::test]
async fn a_node_is_not_taken_in_before_a_leader_has_agreed() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // It belongs to a cluster, of which no other node is there.
    let left = node(one.path(), 1, BTreeMap::new()).await;
    let asked = service(&left);
    asked.peers.badge().adopt("a").unwrap();
    let newcomer = node(two.path(), 2, BTreeMap::new()).await;
    let address = newcomer.peer_addr().to_string();
    let refused = asked.add(Request::new(AddRequest { address })).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("no leader"), "{refused}");
    assert_eq!(service(&newcomer).peers.badge().id(), None);
    newcomer.shutdown().await.unwrap();
    left.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_no_group_knows_is_not_removed_and_what_one_knows_is() {
    let home = tempfile::tempdir().unwrap();
    let founder = founder(home.path()).await;
    let asked = service(&founder);
    let remove = async || asked.remove(Request::new(RemoveRequest { node: 7 })).await;
    assert_eq!(remove().await.unwrap_err().code(), Code::NotFound);
    let raft = founder.groups().at(1).raft();
    let added = raft.add_learner(7, BasicNode::new(NOWHERE), false).await;
    added.unwrap();
    remove().await.unwrap();
    assert_eq!(remove().await.unwrap_err().code(), Code::NotFound);
    founder.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_address_that_cannot_be_reached_is_named_with_the_systems_reason() {
    let home = tempfile::tempdir().unwrap();
    let founder = founder(home.path()).await;
    let address = NOWHERE.to_owned();
    let refused = service(&founder)
        .add(Request::new(AddRequest { address }))
        .await
        .unwrap_err();
    let words = "127.0.0.1:1 cannot be reached from node 1: Connection refused";
    assert!(refused.message().starts_with(words), "{refused}");
    founder.shutdown().await.unwrap();
}

#[tokio::test]
async fn leadership_that_is_sent_to_where_it_is_stays_and_stops_nothing() {
    let home = tempfile::tempdir().unwrap();
    let founder = founder(home.path()).await;
    let asked = service(&founder);
    let group = founder.groups().at(0);
    let term = group.status(0).term;
    let request = Request::new(TransferRequest { node: 1 });
    asked.transfer(request).await.unwrap();
    let status = group.status(0);
    assert_eq!((status.term, status.leader), (term, Some(1)));
    group.propose(create(&[("a", "1")]), 1).await.unwrap();
    founder.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_learner_that_does_not_answer_is_not_made_the_voter_that_everybody_waits_for() {
    let home = tempfile::tempdir().unwrap();
    let founder = founder(home.path()).await;
    let group = founder.groups().at(0);
    let address = NOWHERE.to_owned();
    let learner = Learner { node: 2, address };
    group.change_here(Change::Add(learner)).await.unwrap();
    // Done it would wait for the other voter for ever.
    let promoted = tokio::time::timeout(WITHIN, group.change_here(Change::Promote(2))).await;
    let refused = promoted.unwrap().unwrap_err();
    assert!(refused.message().contains("no majority"), "{refused}");
    assert_eq!(configs(group), 1);
    group.propose(create(&[("a", "1")]), 1).await.unwrap();
    founder.shutdown().await.unwrap();
}

/// A founder whose first group is between two sets of voters, of which the
/// second has a newcomer that was not there then, and the newcomer, which is now.
async fn joint(one: &Path, two: &Path) -> (Member, Member) {
    let founder = founder(one).await;
    let newcomer = node(two, 2, BTreeMap::new()).await;
    let id = service(&founder).peers.badge().id().unwrap();
    let group = founder.groups().at(0);
    // It is a stranger and answers nothing before it has the id.
    let address = newcomer.peer_addr().to_string();
    let learner = Learner { node: 2, address };
    group.change_here(Change::Add(learner)).await.unwrap();
    let raft = group.raft().clone();
    let promoting = tokio::spawn(async move {
        let voters = ChangeMembers::AddVoterIds(BTreeSet::from([2]));
        raft.change_membership(voters, true).await
    });
    soon(|| configs(group) == 2).await;
    promoting.abort();
    assert!(promoting.await.unwrap_err().is_cancelled());
    service(&newcomer).peers.badge().adopt(&id).unwrap();
    (founder, newcomer)
}

#[tokio::test]
async fn a_promotion_that_was_cut_off_is_shown_and_ended_by_another() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (founder, newcomer) = joint(one.path(), two.path()).await;
    let group = founder.groups().at(0);
    assert!(group.status(0).joint);
    let promoted = group.change_here(Change::Promote(2)).await;
    assert_eq!(configs(group), 1, "{promoted:?}");
    promoted.unwrap();
    let voters = group.members().into_iter().filter(|member| member.voter);
    assert_eq!(voters.count(), 2);
    newcomer.shutdown().await.unwrap();
    founder.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_change_that_nobody_is_at_is_finished_by_the_leader() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (founder, newcomer) = joint(one.path(), two.path()).await;
    let group = founder.groups().at(0);
    soon(|| configs(group) == 1).await;
    let voters = group.members().into_iter().filter(|member| member.voter);
    assert_eq!(voters.count(), 2);
    newcomer.shutdown().await.unwrap();
    founder.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_change_whose_caller_leaves_is_made_to_its_end() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let founder = founder(one.path()).await;
    let newcomer = node(two.path(), 2, BTreeMap::new()).await;
    let id = service(&founder).peers.badge().id().unwrap();
    service(&newcomer).peers.badge().adopt(&id).unwrap();
    let group = founder.groups().at(0);
    let address = newcomer.peer_addr().to_string();
    let learner = Learner { node: 2, address };
    group.change_here(Change::Add(learner)).await.unwrap();
    let mut promoting = Box::pin(group.change_here(Change::Promote(2)));
    assert!(futures_util::poll!(&mut promoting).is_pending());
    drop(promoting);
    let is_voter = |member: &proto::cluster::Member| member.node == 2 && member.voter;
    soon(|| configs(group) == 1 && group.members().iter().any(is_voter)).await;
    newcomer.shutdown().await.unwrap();
    founder.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_voter_without_which_no_majority_answers_is_not_removed() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let founder = founder(one.path()).await;
    let newcomer = node(two.path(), 2, BTreeMap::new()).await;
    let address = newcomer.peer_addr().to_string();
    let asked = service(&founder);
    asked
        .add(Request::new(AddRequest { address }))
        .await
        .unwrap();
    let promote = Request::new(PromoteRequest { node: 2 });
    asked.promote(promote).await.unwrap();
    newcomer.shutdown().await.unwrap();
    let group = founder.groups().at(0);
    // The last that hears it: from now on it would be the only voter left.
    soon(|| !group.is_ready()).await;
    let refused = group.change_here(Change::Remove(1)).await.unwrap_err();
    assert!(refused.message().contains("cannot be removed"), "{refused}");
    assert_eq!(configs(group), 1);
    founder.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_node_that_was_added_to_part_of_the_groups_may_be_added_again() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let nowhere = NOWHERE.to_owned();
    let founder = founder(one.path()).await;
    let newcomer = node(two.path(), 2, BTreeMap::new()).await;
    let address = newcomer.peer_addr().to_string();
    let route = founder.groups().at(0).network_route().unwrap();
    let asked = service(&founder);
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
