//! A snapshot on its way from one node to another, over a real connection.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use futures_util::stream;
use openraft::{
    BasicNode, EntryPayload, Membership, RaftNetworkFactory, RaftNetworkV2 as _,
    RaftSnapshotBuilder as _,
    impls::leader_id_adv::LeaderId,
    network::RPCOption,
    storage::{RaftStateMachine as _, Snapshot},
};
use tonic::transport::{Server, server::TcpIncoming};

use super::{create, metrics, open};
use crate::raft::{
    Group, Groups,
    clock::Clock,
    command::Applied,
    machine::Machine,
    network::{Badge, Gate, Links, Peers, RaftServer},
    snapshot::SnapshotFile,
    state::StateStore,
    types::{Entry, LogId, Types, Vote},
};

/// Makes a snapshot file of many blocks, as of log entry 900.
async fn snapshot(home: &Path) -> std::path::PathBuf {
    let store = Arc::new(StateStore::open(home).unwrap());
    let (mut sending, _gone) =
        Machine::start(Arc::clone(&store), Arc::new(metrics()), u64::MAX).unwrap();
    let large = "x".repeat(100_000);
    let nodes = [1, 2].map(|node| (node, BasicNode::default()));
    let members = Membership::new(vec![[1, 2].into()], BTreeMap::from(nodes)).unwrap();
    for index in 879..=900 {
        let payload = match index {
            879 => EntryPayload::Membership(members.clone()),
            _ => EntryPayload::Normal(create(&[(&format!("sent-{index}"), &large)])),
        };
        let entry = Entry {
            log_id: LogId::new(
                LeaderId {
                    term: 900,
                    node_id: 2,
                },
                index,
            ),
            payload,
        };
        let entries = stream::iter([Ok((entry, None))]);
        sending.apply(entries).await.unwrap();
    }
    let mut builder = sending.try_create_snapshot_builder(true).await.unwrap();
    builder.build_snapshot().await.unwrap();
    store.snapshot_path()
}

/// A node that takes part in a cluster, with the group that it has by itself.
struct Receiver {
    group: Group,
    link: <Links as RaftNetworkFactory<Types>>::Network,
    _homes: [tempfile::TempDir; 2],
}

async fn receiver() -> Receiver {
    let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [badge, sender] = [1, 2].map(|node| {
        let badge = Badge::open(homes[1].path(), "ferry", node).unwrap();
        badge.adopt("id").unwrap();
        Arc::new(badge)
    });
    let group = open(homes[0].path()).await;
    let groups = Groups::of_one(group.clone());
    let any = ([127, 0, 0, 1], 0).into();
    let listener = TcpIncoming::bind(any).unwrap();
    let address = listener.local_addr().unwrap();
    let server = RaftServer::new(Arc::clone(&badge), groups, homes[1].path());
    let serving = Server::builder().add_service(Gate::new(badge, server));
    tokio::spawn(serving.serve_with_incoming(listener));
    let peers = Peers::new(sender, None, Clock::default(), any).unwrap();
    let link = Links::new(peers, 0)
        .new_client(1, &BasicNode::new(address))
        .await;
    Receiver {
        group,
        link,
        _homes: homes,
    }
}

impl Receiver {
    /// Sends the file at `path` as a leader that it has to follow.
    async fn send(&mut self, path: &Path) -> Result<(), String> {
        let (meta, snapshot) = SnapshotFile::open(path).unwrap().unwrap();
        let option = RPCOption::new(std::time::Duration::from_secs(20));
        let vote = Vote::new_committed(900, 2);
        let snapshot = Snapshot { meta, snapshot };
        let sent = self
            .link
            .full_snapshot(vote, snapshot, std::future::pending(), option);
        sent.await.map(drop).map_err(|error| error.to_string())
    }
}

#[tokio::test]
async fn a_snapshot_that_is_damaged_where_it_comes_from_is_refused_and_its_receiver_goes_on() {
    let from = tempfile::tempdir().unwrap();
    let path = snapshot(from.path()).await;
    let whole = fs::read(&path).unwrap();
    let mut receiver = receiver().await;
    let mut bent = whole.clone();
    bent[whole.len() / 2] ^= 0x10;
    let cut = &whole[..whole.len() / 2];
    for (damaged, fault) in [(&bent[..], "checksum"), (cut, "cut off")] {
        fs::write(&path, damaged).unwrap();
        let told = receiver.send(&path).await.unwrap_err();
        for words in [fault, "group 0", "stop that node, delete the file"] {
            assert!(told.contains(words), "{words:?} is not in: {told}");
        }
        let written = receiver.group.propose(create(&[("own", "1")]), 1).await;
        assert_eq!(written, Ok(Applied::Done));
    }
    fs::write(&path, whole).unwrap();
    receiver.send(&path).await.unwrap();
    let sessions = receiver.group.sessions();
    assert_eq!(sessions.count().unwrap(), 21);
}
