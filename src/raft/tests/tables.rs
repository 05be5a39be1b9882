//! What the tables beside the sessions promise, in one write batch and across
//! restarts.

use std::{ops::ControlFlow, path::Path, sync::Arc};

use futures_util::{future::join_all, stream};
use openraft::{
    EntryPayload, Snapshot,
    storage::{RaftSnapshotBuilder as _, RaftStateMachine as _},
};
use prost::Message;

use super::{crash_image, create, encoded, log_id, metrics, open};
use crate::{
    proto::meta::{
        DeleteRaw, DeleteRequest, SaveOffsetData, SaveOffsetDataRequest,
        SaveOffsetDataRequestOffset, SetRaw, SetRequest,
    },
    raft::{
        Group, ProposeError, View,
        command::{Applied, Command, Kind},
        machine::Machine,
        state::StateStore,
        types::Entry,
    },
};

fn set(key: &str, value: &str) -> Command {
    let raw = SetRaw {
        key: key.into(),
        value: value.into(),
    };
    let request = SetRequest {
        entries: vec![raw],
        ..SetRequest::default()
    };
    encoded(Kind::Set, &request.encode_to_vec())
}

fn unset(key: &str) -> Command {
    let request = DeleteRequest {
        entries: vec![DeleteRaw { key: key.into() }],
        ..DeleteRequest::default()
    };
    encoded(Kind::Delete, &request.encode_to_vec())
}

/// Saves one offset of the group `g`.
fn save(shard_name: &str, offset: u64, expected_offset: Option<u64>) -> Command {
    let record = SaveOffsetDataRequestOffset {
        shard_name: shard_name.into(),
        offset,
        expected_offset,
        ..SaveOffsetDataRequestOffset::default()
    };
    let request = SaveOffsetDataRequest {
        offsets: vec![SaveOffsetData {
            group: "g".into(),
            offsets: vec![record],
            tenant: String::new(),
        }],
    };
    encoded(Kind::SaveOffsetData, &request.encode_to_vec())
}

fn offsets(group: &Group) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    let shown = group.view().offsets(b"", b"g", |shard, offset| {
        all.push((String::from_utf8(shard.name.to_vec()).unwrap(), offset));
        ControlFlow::Continue(())
    });
    assert_eq!(shown.unwrap(), all.len() as u64);
    all
}

/// Proposes all at once, so that they are applied in few write batches.
async fn all_at_once(group: &Group, commands: Vec<Command>) -> Vec<Applied> {
    let proposals = commands.into_iter().map(|c| group.propose(c, 1));
    let outcomes = join_all(proposals.collect::<Vec<_>>()).await;
    outcomes.into_iter().map(Result::unwrap).collect()
}

#[tokio::test]
async fn a_set_and_a_delete_of_one_key_keep_their_order_in_one_write_batch() {
    let home = tempfile::tempdir().unwrap();
    let group = open(home.path()).await;
    let mut commands = Vec::new();
    for n in 0..200 {
        let (gone, there) = (format!("gone-{n}"), format!("there-{n}"));
        commands.extend([set(&gone, "1"), set(&there, "1"), unset(&there)]);
        commands.extend([unset(&gone), set(&there, "2")]);
    }
    let outcomes = all_at_once(&group, commands).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Applied::Done));
    for n in 0..200 {
        let value = |key: String| group.view().value(key.as_bytes()).unwrap();
        assert_eq!(value(format!("gone-{n}")), None);
        assert_eq!(value(format!("there-{n}")).unwrap(), "2");
    }
}

#[tokio::test]
async fn an_expectation_sees_what_was_proposed_before_it_in_the_same_write_batch() {
    let home = tempfile::tempdir().unwrap();
    let group = open(home.path()).await;
    let (mut commands, mut expected) = (Vec::new(), Vec::new());
    for n in 0..300 {
        // Unconditional, a good guess, a bad one that leaves nothing, a value between.
        commands.push(save("s", 10 * n + 1, None));
        commands.push(save("s", 10 * n + 2, Some(10 * n + 1)));
        commands.push(save("s", 10 * n + 3, Some(10 * n + 1)));
        commands.push(set("between", &n.to_string()));
        expected.extend([
            Applied::Done,
            Applied::Done,
            Applied::Conflict,
            Applied::Done,
        ]);
    }
    assert_eq!(all_at_once(&group, commands).await, expected);
    assert_eq!(offsets(&group), [("s".to_owned(), 2_992)]);
    // What a crash leaves is applied again, to the same end.
    let image = tempfile::tempdir().unwrap();
    crash_image(home.path(), image.path());
    let again = open(image.path()).await;
    assert_eq!(offsets(&again), offsets(&group));
    assert_eq!(again.view().value(b"between").unwrap().unwrap(), "299");
}

#[tokio::test]
async fn a_command_from_the_future_is_refused_before_it_can_enter_the_log() {
    let home = tempfile::tempdir().unwrap();
    let group = open(home.path()).await;
    for header in [&b"\x02\x01"[..], b"\x01\x7f"] {
        let command = Command::from_encoded(header.to_vec().into());
        let refused = group.propose(command, 1).await.unwrap_err();
        let ProposeError::Refused(why) = refused else {
            panic!("{refused}: it never came near the log");
        };
        assert!(why.contains("start the newer one"), "{why}");
    }
    assert_eq!(group.proposals(), 0);
    assert_eq!(
        group.propose(create(&[("a", "1")]), 1).await,
        Ok(Applied::Done)
    );
}

fn machine(home: &Path) -> (Arc<StateStore>, Machine) {
    let store = Arc::new(StateStore::open(home).unwrap());
    let metrics = Arc::new(metrics());
    let (machine, _gone) = Machine::start(Arc::clone(&store), metrics, u64::MAX).unwrap();
    (store, machine)
}

async fn apply(machine: &mut Machine, commands: Vec<Command>) -> std::io::Result<()> {
    let entries = (1..).zip(commands).map(|(index, command)| {
        let log_id = log_id(index);
        let payload = EntryPayload::Normal(command);
        Ok((Entry { log_id, payload }, None))
    });
    machine.apply(stream::iter(entries)).await
}

#[tokio::test]
async fn a_log_entry_from_the_future_stops_the_replica_and_leaves_its_state() {
    let home = tempfile::tempdir().unwrap();
    let (store, mut machine) = machine(home.path());
    let future = Command::from_encoded(b"\x01\x7fwhatever".to_vec().into());
    let stopped = apply(&mut machine, vec![set("a", "1"), future]).await;
    let why = stopped.unwrap_err().to_string();
    assert!(why.contains("log entry 2"), "{why}");
    assert!(why.contains("start the newer one"), "{why}");
    assert_eq!(store.position().applied, None);
    assert_eq!(View::new(store).value(b"a").unwrap(), None);
}

#[tokio::test]
async fn a_snapshot_holds_every_table() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, mut sending) = machine(from.path());
    let subscribe = b"\xc2\x3e\x09\x0a\x01c\x12\x01p\x1a\x01s"; // field 1000: c, p, s
    let commands = vec![
        create(&[("c", "session")]),
        encoded(Kind::SetSubscribe, subscribe),
        save("s", 7, None),
        set("k", "v"),
    ];
    apply(&mut sending, commands).await.unwrap();
    let mut builder = sending.try_create_snapshot_builder(true).await.unwrap();
    let Snapshot { meta, snapshot } = builder.build_snapshot().await.unwrap();
    let (receiver, mut receiving) = machine(to.path());
    receiving.install_snapshot(&meta, snapshot).await.unwrap();
    let view = View::new(receiver);
    assert_eq!(view.sessions().get(b"c").unwrap().unwrap(), "session");
    let mut subscriptions = Vec::new();
    let shown = view.subscriptions(|subscribe| {
        subscriptions.push(subscribe.to_vec());
        ControlFlow::Continue(())
    });
    assert_eq!((shown.unwrap(), subscriptions), (1, vec![b"s".to_vec()]));
    let shown = view.offsets(b"", b"g", |shard, offset| {
        assert_eq!((shard.name, offset), (&b"s"[..], 7));
        ControlFlow::Continue(())
    });
    assert_eq!(shown.unwrap(), 1);
    assert_eq!(view.value(b"k").unwrap().unwrap(), "v");
}
