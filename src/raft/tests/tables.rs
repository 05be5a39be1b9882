//! What the tables beside the sessions promise, in one write batch and across
//! restarts.

use std::ops::ControlFlow;

use futures_util::future::join_all;
use prost::Message;

use super::{crash_image, create, encoded, open};
use crate::{
    proto::meta::{
        DeleteRaw, DeleteRequest, SaveOffsetData, SaveOffsetDataRequest,
        SaveOffsetDataRequestOffset, SetRaw, SetRequest,
    },
    raft::{
        Group, ProposeError,
        command::{Applied, Command, Kind},
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
