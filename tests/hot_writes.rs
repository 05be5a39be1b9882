//! RobustMQ's other hot writes through the built-in policy: sent one by one, as
//! its clients do, and kept by few proposals.

use std::collections::HashSet;

use ferry::proto::{
    meta::{
        DeleteRequest, ExistsRequest, GetOffsetDataRequest, GetPrefixRequest, GetRequest,
        HeartbeatRequest, SaveOffsetData, SaveOffsetDataRequest, SaveOffsetDataRequestOffset,
        SetRequest, meta_service_service_client::MetaServiceServiceClient,
    },
    mqtt::{
        DeleteSessionRequest, DeleteSubscribeRequest, ListSubscribeRequest, SetSubscribeRequest,
        mqtt_service_client::MqttServiceClient,
    },
};
use futures_util::future::join_all;
use tonic::{Code, transport::Channel};

use crate::support::{
    admin,
    client::{frame, grpc, messages},
    served::Served,
};

/// Callers at once; enough that a proposal each would show.
const CALLERS: usize = 400;

const SET_SUBSCRIBE: &str = "/meta.service.mqtt.MqttService/SetSubscribe";
const SAVE: &str = "/meta.service.common.MetaServiceService/SaveOffsetData";
const SET: &str = "/meta.service.common.MetaServiceService/Set";

async fn channel(served: &Served) -> Channel {
    let channel = Channel::from_shared(format!("http://{}", served.address()));
    let channel = channel.expect("an address").connect().await;
    channel.expect("it listens")
}

async fn mqtt(served: &Served) -> MqttServiceClient<Channel> {
    MqttServiceClient::new(channel(served).await)
}

async fn common(served: &Served) -> MetaServiceServiceClient<Channel> {
    MetaServiceServiceClient::new(channel(served).await)
}

async fn proposals(served: &Served) -> f64 {
    admin::metric(served.admin(), "ferry_raft_write_requests_total", "").await
}

/// Makes these calls at once; they must come to far fewer proposals.
async fn coalesced<T>(
    served: &Served,
    calls: impl Iterator<Item = impl Future<Output = T>>,
) -> Vec<T> {
    let before = proposals(served).await;
    let answers = join_all(calls).await;
    let made = proposals(served).await - before;
    let calls = answers.len();
    assert!(
        made >= 1.0 && made < calls as f64 / 2.0,
        "{calls} calls made {made} proposals"
    );
    answers
}

fn offset(shard: &str, offset: u64, expected: Option<u64>) -> SaveOffsetDataRequest {
    let record = SaveOffsetDataRequestOffset {
        shard_name: shard.into(),
        offset,
        expected_offset: expected,
        ..SaveOffsetDataRequestOffset::default()
    };
    SaveOffsetDataRequest {
        offsets: vec![SaveOffsetData {
            group: "g".into(),
            offsets: vec![record],
            tenant: "t".into(),
        }],
    }
}

#[tokio::test]
async fn single_subscriptions_become_few_proposals_and_are_listed_and_deleted() {
    let served = Served::built_in(1).await;
    let client = mqtt(&served).await;
    let created = coalesced(
        &served,
        (0..CALLERS).map(|n| {
            let mut client = client.clone();
            async move {
                let request = SetSubscribeRequest {
                    client_id: format!("c{n}"),
                    path: "a/#".into(),
                    subscribe: format!("subscription {n}").into(),
                    subscriptions: Vec::new(),
                };
                client.set_subscribe(request).await
            }
        }),
    )
    .await;
    assert!(created.iter().all(Result::is_ok), "{created:?}");
    let listed = listed(client.clone()).await;
    assert_eq!(listed.len(), CALLERS);
    assert!((0..CALLERS).all(|n| listed.contains(format!("subscription {n}").as_bytes())));
    let deleted = coalesced(
        &served,
        (1..CALLERS).map(|n| {
            let mut client = client.clone();
            async move {
                let request = DeleteSubscribeRequest {
                    client_id: format!("c{n}"),
                    path: "a/#".into(),
                    subscriptions: Vec::new(),
                };
                client.delete_subscribe(request).await
            }
        }),
    )
    .await;
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    let left = self::listed(client).await;
    assert_eq!(left, HashSet::from([b"subscription 0".to_vec()]));
}

async fn listed(mut client: MqttServiceClient<Channel>) -> HashSet<Vec<u8>> {
    let stream = client.list_subscribe(ListSubscribeRequest {}).await;
    let mut stream = stream.expect("a listing").into_inner();
    let mut all = HashSet::new();
    while let Some(reply) = stream.message().await.expect("a subscription") {
        all.insert(reply.subscribe.to_vec());
    }
    all
}

#[tokio::test]
async fn single_deletes_of_sessions_become_few_proposals() {
    let served = Served::built_in(1).await;
    let line = served.line().await;
    for n in 0..20 {
        line.create(&format!("c{n}"), b"session").await;
    }
    let client = mqtt(&served).await;
    let deleted = coalesced(
        &served,
        (0..CALLERS).map(|n| {
            let mut client = client.clone();
            async move {
                let request = DeleteSessionRequest {
                    tenant: "t".into(),
                    client_id: format!("c{}", n + 1),
                    sessions: Vec::new(),
                };
                client.delete_session(request).await
            }
        }),
    )
    .await;
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    assert_eq!(line.list("").await.len(), 1);
    assert_eq!(line.list("c0").await, ["session"]);
}

#[tokio::test]
async fn single_offsets_become_few_proposals_and_each_caller_hears_committed() {
    let served = Served::built_in(1).await;
    let client = common(&served).await;
    let saved = coalesced(
        &served,
        (0..CALLERS).map(|n| {
            let mut client = client.clone();
            let request = offset(&format!("s{n}"), n as u64, None);
            async move { client.save_offset_data(request).await }
        }),
    )
    .await;
    for reply in saved {
        assert!(reply.expect("saved").into_inner().committed);
    }
    let request = GetOffsetDataRequest {
        tenant: "t".into(),
        group: "g".into(),
    };
    let reply = client.clone().get_offset_data(request).await;
    let offsets = reply.expect("offsets").into_inner().offsets;
    assert_eq!(offsets.len(), CALLERS);
    for record in offsets {
        assert_eq!(record.shard_name, format!("s{}", record.offset));
    }
}

#[tokio::test]
async fn of_conditional_calls_among_others_each_caller_hears_of_its_own() {
    let served = Served::built_in(4).await;
    let client = common(&served).await;
    let calls = (0..CALLERS).map(|n| {
        let mut client = client.clone();
        // A third expects what is so for the first of them alone; a third what never is.
        let request = match n % 3 {
            0 => offset("race", 1 + n as u64, Some(0)),
            1 => offset(&format!("never-{n}"), 1, Some(7)),
            _ => offset(&format!("plain-{n}"), 1, None),
        };
        async move {
            let reply = client.save_offset_data(request).await;
            (n, reply.expect("an answer").into_inner().committed)
        }
    });
    let answers = join_all(calls).await;
    let committed = |third| {
        let of_third = answers.iter().filter(move |(n, _)| n % 3 == third);
        of_third
            .filter(|(_, committed)| *committed)
            .map(|(n, _)| *n)
    };
    let winners: Vec<_> = committed(0).collect();
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(committed(1).count(), 0);
    assert_eq!(
        committed(2).count(),
        (0..CALLERS).filter(|n| n % 3 == 2).count()
    );
    let request = GetOffsetDataRequest {
        tenant: "t".into(),
        group: "g".into(),
    };
    let reply = client.clone().get_offset_data(request).await;
    let offsets = reply.expect("offsets").into_inner().offsets;
    let race: Vec<_> = offsets.iter().filter(|o| o.shard_name == "race").collect();
    assert_eq!(race.len(), 1);
    assert_eq!(race[0].offset, 1 + winners[0] as u64);
    assert!(!offsets.iter().any(|o| o.shard_name.starts_with("never")));
}

#[tokio::test]
async fn single_sets_and_deletes_become_few_proposals_over_several_groups_too() {
    for groups in [1, 4] {
        let served = Served::built_in(groups).await;
        let client = common(&served).await;
        let set = coalesced(
            &served,
            (0..CALLERS).map(|n| {
                let mut client = client.clone();
                async move {
                    let request = SetRequest {
                        key: format!("k/{n:03}"),
                        value: format!("value {n:03}"),
                        entries: Vec::new(),
                    };
                    client.set(request).await
                }
            }),
        )
        .await;
        assert!(set.iter().all(Result::is_ok), "{set:?}");
        let mut client = client.clone();
        let key = String::from("k/007");
        let got = client.get(GetRequest { key: key.clone() }).await;
        assert_eq!(got.expect("a value").into_inner().value, "value 007");
        let prefix = String::from("k/");
        let all = client.get_prefix(GetPrefixRequest { prefix }).await;
        let expected: Vec<_> = (0..CALLERS).map(|n| format!("value {n:03}")).collect();
        assert_eq!(all.expect("values").into_inner().values, expected);
        let deleted = coalesced(
            &served,
            (0..CALLERS).map(|n| {
                let mut client = client.clone();
                async move {
                    let key = format!("k/{n:03}");
                    let entries = Vec::new();
                    client.delete(DeleteRequest { key, entries }).await
                }
            }),
        )
        .await;
        assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
        let exists = client.exists(ExistsRequest { key }).await;
        assert!(!exists.expect("an answer").into_inner().flag);
        client
            .heartbeat(HeartbeatRequest { node_id: 1 })
            .await
            .expect("the node is there");
    }
}

#[tokio::test]
async fn a_client_that_knows_no_batch_form_gets_the_replies_that_it_knows() {
    let served = Served::built_in(1).await;
    let line = served.line().await;
    let subscribe = SetSubscribeRequest {
        client_id: "c".into(),
        path: "p".into(),
        subscribe: "s".into(),
        subscriptions: Vec::new(),
    };
    let set = SetRequest {
        key: "k".into(),
        value: "v".into(),
        entries: Vec::new(),
    };
    for (path, body, reply) in [
        (SET_SUBSCRIBE, frame(&subscribe), &b""[..]),
        (SET, frame(&set), b""),
        (SAVE, frame(&offset("s", 1, None)), b"\x08\x01"),
        (SAVE, frame(&offset("s", 2, Some(1))), b"\x08\x01"),
        (SAVE, frame(&offset("s", 3, Some(1))), b""), // committed: false
    ] {
        let answer = line.ask(grpc(path), body).await;
        assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
        assert_eq!(messages(answer.body), [reply], "{path}");
    }
}

#[tokio::test]
async fn a_bad_write_is_refused_by_the_name_that_its_sender_knows() {
    let served = Served::built_in(1).await;
    let line = served.line().await;
    let unnamed = SetSubscribeRequest {
        client_id: "c".into(),
        subscribe: "s".into(),
        ..SetSubscribeRequest::default()
    };
    let nobody = SaveOffsetDataRequest {
        offsets: vec![SaveOffsetData::default()],
    };
    for (path, body, named) in [
        (SET_SUBSCRIBE, frame(&unnamed), "path"),
        (SET, frame(&SetRequest::default()), "entries"),
        (SAVE, frame(&nobody), "offsets[0].group"),
    ] {
        let before = proposals(&served).await;
        let status = line.ask(grpc(path), body).await.status();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(named), "{status}");
        assert_eq!(proposals(&served).await, before, "nothing was proposed");
    }
}
