//! Subscriptions, offsets, keys and values: each family written and read back
//! over several groups, conditions and both forms included.

use super::*;

fn subscription(client_id: &str, path: &str, subscribe: &str) -> SetSubscribeRaw {
    SetSubscribeRaw {
        client_id: client_id.into(),
        path: path.into(),
        subscribe: Bytes::copy_from_slice(subscribe.as_bytes()),
    }
}

/// An offset of the shard `s`.
fn offset(offset: u64, expected_offset: Option<u64>) -> SaveOffsetDataRequestOffset {
    SaveOffsetDataRequestOffset {
        shard_name: "s".into(),
        offset,
        expected_offset,
        ..Default::default()
    }
}

fn offsets_of(group: &str, offsets: Vec<SaveOffsetDataRequestOffset>) -> SaveOffsetData {
    SaveOffsetData {
        group: group.into(),
        offsets,
        tenant: "t".into(),
    }
}

impl Node {
    async fn subscribe(&self, request: SetSubscribeRequest) -> Result<(), Status> {
        let request = Request::new(request);
        self.service.set_subscribe(request).await.map(drop)
    }

    async fn subscriptions(&self) -> Vec<Bytes> {
        let request = Request::new(ListSubscribeRequest {});
        let stream = self.service.list_subscribe(request).await.unwrap();
        let all = stream.into_inner().map(|reply| reply.unwrap().subscribe);
        let mut all: Vec<_> = all.collect().await;
        all.sort();
        all
    }

    /// Whether it was committed.
    async fn save(&self, offsets: Vec<SaveOffsetData>) -> Result<bool, Status> {
        let request = Request::new(SaveOffsetDataRequest { offsets });
        let reply = self.service.save_offset_data(request).await?;
        Ok(reply.into_inner().committed)
    }

    /// The offset of the shard `s`.
    async fn offset(&self, group: &str) -> Option<u64> {
        let request = Request::new(GetOffsetDataRequest {
            tenant: "t".into(),
            group: group.into(),
        });
        let reply = self.service.get_offset_data(request).await.unwrap();
        let offsets = reply.into_inner().offsets;
        assert!(offsets.len() <= 1, "{offsets:?}");
        offsets.first().map(|of| of.offset)
    }

    async fn set(&self, pairs: &[(&str, &str)]) -> Result<(), Status> {
        let raw = |&(key, value): &(&str, &str)| SetRaw {
            key: key.into(),
            value: value.into(),
        };
        let request = SetRequest {
            entries: pairs.iter().map(raw).collect(),
            ..SetRequest::default()
        };
        self.service.set(Request::new(request)).await.map(drop)
    }

    /// The value, and whether there is one.
    async fn value(&self, key: &str) -> (String, bool) {
        let key = key.to_owned();
        let found = self
            .service
            .get(Request::new(GetRequest { key: key.clone() }));
        let value = found.await.unwrap().into_inner().value;
        let exists = self.service.exists(Request::new(ExistsRequest { key }));
        (value, exists.await.unwrap().into_inner().flag)
    }

    async fn with_prefix(&self, prefix: &str) -> Result<Vec<String>, Status> {
        let prefix = prefix.to_owned();
        let request = Request::new(GetPrefixRequest { prefix });
        let reply = self.service.get_prefix(request).await?;
        Ok(reply.into_inner().values)
    }
}

#[tokio::test]
async fn subscriptions_of_several_groups_are_listed_until_they_are_deleted() {
    for groups in [1, 4] {
        let node = node_of(groups).await;
        let many = (0..20).map(|n| subscription(&format!("c{n}"), "a/b", &format!("{n:02}")));
        let batch = SetSubscribeRequest {
            subscriptions: many.collect(),
            ..SetSubscribeRequest::default()
        };
        node.subscribe(batch).await.unwrap();
        let SetSubscribeRaw {
            client_id,
            path,
            subscribe,
        } = subscription("c7", "a/b", "newer");
        let single = SetSubscribeRequest {
            client_id,
            path,
            subscribe,
            subscriptions: Vec::new(),
        };
        node.subscribe(single).await.unwrap();
        let all = node.subscriptions().await;
        assert_eq!(all.len(), 20);
        assert!(all.contains(&"newer".into()) && !all.contains(&"07".into()));
        let delete = DeleteSubscribeRequest {
            client_id: "c7".into(),
            path: "a/b".into(),
            subscriptions: Vec::new(),
        };
        let deleted = node.service.delete_subscribe(Request::new(delete));
        deleted.await.unwrap();
        let left = node.subscriptions().await;
        assert!(left.len() == 19 && !left.contains(&"newer".into()));
    }
}

#[tokio::test]
async fn sessions_are_deleted_in_batches_too() {
    let node = node_of(4).await;
    let ids: Vec<String> = (0..40).map(|n| format!("{n:02}")).collect();
    let pairs: Vec<_> = ids.iter().map(|id| (id.as_str(), "session")).collect();
    node.create(&pairs).await.unwrap();
    let sessions = ids[1..].iter().map(|client_id| DeleteSessionRaw {
        tenant: "t".into(),
        client_id: client_id.clone(),
    });
    let request = DeleteSessionRequest {
        sessions: sessions.collect(),
        ..DeleteSessionRequest::default()
    };
    let deleted = node.service.delete_session(Request::new(request));
    deleted.await.unwrap();
    assert_eq!(node.list("").await.len(), 1);
    assert_eq!(node.list("00").await.len(), 1);
}

#[tokio::test]
async fn an_offset_is_saved_only_where_it_is_as_expected() {
    let node = node().await;
    let save = async |to, expected| {
        node.save(vec![offsets_of("g", vec![offset(to, expected)])])
            .await
            .unwrap()
    };
    assert!(!save(5, Some(1)).await, "nothing is stored, which is as 0");
    assert_eq!(node.offset("g").await, None);
    assert!(save(5, Some(0)).await);
    assert!(!save(9, Some(4)).await);
    assert_eq!(node.offset("g").await, Some(5));
    assert!(save(9, Some(5)).await);
    assert!(
        save(2, None).await,
        "without an expectation it is always saved"
    );
    assert_eq!(node.offset("g").await, Some(2));
    assert_eq!(node.offset("other").await, None);
}

#[tokio::test]
async fn of_a_conditional_call_all_is_saved_or_nothing() {
    let node = node().await;
    let both = |to, one, other| {
        vec![
            offsets_of("one", vec![offset(to, Some(one))]),
            offsets_of("other", vec![offset(to, Some(other))]),
        ]
    };
    assert!(node.save(both(3, 0, 0)).await.unwrap());
    assert!(!node.save(both(7, 3, 4)).await.unwrap());
    assert!(!node.save(both(7, 4, 3)).await.unwrap());
    assert_eq!(node.offset("one").await, Some(3));
    assert_eq!(node.offset("other").await, Some(3));
    // All are judged before any is saved.
    let twice = offsets_of("one", vec![offset(4, Some(3)), offset(5, Some(3))]);
    assert!(node.save(vec![twice]).await.unwrap());
    assert_eq!(node.offset("one").await, Some(5));
}

#[tokio::test]
async fn of_callers_that_expect_the_same_offset_exactly_one_is_told_that_it_was_committed() {
    let node = node().await;
    for round in 0..20 {
        let saves = (1..=16).map(|caller| {
            let to = offset(round * 100 + caller, Some(round_start(round)));
            node.save(vec![offsets_of("g", vec![to])])
        });
        let committed = join_all(saves).await;
        let winners = committed.iter().filter(|save| matches!(save, Ok(true)));
        assert_eq!(winners.count(), 1, "{committed:?}");
        assert!(committed.iter().all(Result::is_ok));
        let end = round_start(round + 1);
        let reset = offsets_of("g", vec![offset(end, None)]);
        assert!(node.save(vec![reset]).await.unwrap());
    }
}

/// What the stored offset is when a round begins.
const fn round_start(round: u64) -> u64 {
    round * 100
}

#[tokio::test]
async fn a_conditional_call_of_several_raft_groups_is_refused_and_saves_nothing() {
    let node = node_of(8).await;
    let groups: Vec<String> = (0..40).map(|n| format!("g{n}")).collect();
    let all = |expected| {
        let one = |group: &String| offsets_of(group, vec![offset(1, expected)]);
        groups.iter().map(one).collect::<Vec<_>>()
    };
    let status = node.save(all(Some(0))).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status.message().contains("send a call for each"),
        "{status}"
    );
    assert_eq!(node.service.groups.proposals(), 0);
    assert!(node.save(all(None)).await.unwrap());
    for group in &groups {
        assert_eq!(node.offset(group).await, Some(1), "{group}");
    }
}

#[tokio::test]
async fn shards_topics_and_partitions_are_kept_apart_and_told_as_they_were_saved() {
    let node = node().await;
    let record = |shard_name: &str, topic: &str, partition, offset| SaveOffsetDataRequestOffset {
        shard_name: shard_name.into(),
        offset,
        topic: topic.into(),
        partition,
        expected_offset: None,
    };
    let saved = [
        record("", "t", 0, 1),
        record("", "t", 1, u64::MAX),
        record("s", "", 0, 0),
        record("s", "t", u32::MAX, 4),
    ];
    assert!(
        node.save(vec![offsets_of("g", saved.to_vec())])
            .await
            .unwrap()
    );
    let request = Request::new(GetOffsetDataRequest {
        tenant: "t".into(),
        group: "g".into(),
    });
    let reply = node.service.get_offset_data(request).await.unwrap();
    let mut told: Vec<_> = reply.into_inner().offsets;
    told.sort_by_key(|of| (of.shard_name.clone(), of.partition));
    let told: Vec<_> = told
        .into_iter()
        .map(|of| record(&of.shard_name, &of.topic, of.partition, of.offset))
        .collect();
    assert_eq!(told, saved);
}

#[tokio::test]
async fn values_are_set_read_by_key_and_by_prefix_and_deleted() {
    for groups in [1, 4] {
        let node = node_of(groups).await;
        let keys: Vec<String> = (0..30).map(|n| format!("a/{n:02}")).collect();
        let pairs: Vec<_> = keys
            .iter()
            .map(|key| (key.as_str(), key.as_str()))
            .collect();
        node.set(&pairs).await.unwrap();
        node.set(&[("b", ""), ("a", "short")]).await.unwrap();
        assert_eq!(node.value("a/07").await, ("a/07".into(), true));
        assert_eq!(node.value("b").await, (String::new(), true));
        assert_eq!(node.value("c").await, (String::new(), false));
        assert_eq!(node.with_prefix("a/").await.unwrap(), keys);
        assert_eq!(node.with_prefix("").await.unwrap().len(), 32);
        let delete = DeleteRequest {
            key: "a/07".into(),
            entries: Vec::new(),
        };
        node.service.delete(Request::new(delete)).await.unwrap();
        assert_eq!(node.value("a/07").await, (String::new(), false));
        assert_eq!(node.with_prefix("a/").await.unwrap().len(), 29);
    }
}

#[tokio::test]
async fn what_does_not_fit_in_one_reply_is_told_so() {
    let node = node().await;
    let large = "x".repeat(REPLY_MAX / 2);
    node.set(&[("a/1", &large), ("a/2", &large)]).await.unwrap();
    let status = node.with_prefix("a/").await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert!(status.message().contains("longer prefix"), "{status}");
    assert_eq!(node.with_prefix("a/1").await.unwrap(), [large]);
}

#[tokio::test]
async fn both_forms_at_once_and_neither_are_refused() {
    let node = node().await;
    let raw = subscription("c", "p", "s");
    let both = SetSubscribeRequest {
        client_id: "c".into(),
        subscriptions: vec![raw],
        ..SetSubscribeRequest::default()
    };
    for (request, named) in [
        (both, "subscriptions: stands beside the single form"),
        (SetSubscribeRequest::default(), "client_id: it is empty"),
    ] {
        let status = node.subscribe(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(named), "{status}");
    }
    let status = node.set(&[("a", "1"), ("", "2")]).await.unwrap_err();
    assert!(status.message().starts_with("entries[1].key: it is empty"));
    assert_eq!(node.service.groups.proposals(), 0);
}
