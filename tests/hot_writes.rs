//! RobustMQ's other hot writes through the built-in policy: sent one by one, as
//! its clients do, and kept by few proposals.

use ferry::proto::{
    meta::{
        ExistsRequest, GetPrefixRequest, GetRequest, HeartbeatRequest, SaveOffsetData,
        SaveOffsetDataRequest, SetRequest,
    },
    mqtt::{DeleteSessionRequest, SetSubscribeRequest},
};
use futures_util::future::join_all;
use tonic::Code;

use crate::support::{
    admin,
    client::{frame, grpc, messages},
    hot::{
        common, delete, mqtt, offset, offsets, set, subscribe, subscriptions, subscriptions_of,
        unsubscribe,
    },
    served::Served,
};

/// Callers at once; enough that a proposal each would show.
const CALLERS: usize = 400;

const SET_SUBSCRIBE: &str = "/meta.service.mqtt.MqttService/SetSubscribe";
const SAVE: &str = "/meta.service.common.MetaServiceService/SaveOffsetData";
const SET: &str = "/meta.service.common.MetaServiceService/Set";

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

#[tokio::test]
async fn single_subscriptions_become_few_proposals_and_are_listed_and_deleted() {
    let served = Served::built_in(1).await;
    let client = mqtt(served.address()).await;
    let created = coalesced(
        &served,
        (0..CALLERS).map(|n| {
            let mut client = client.clone();
            async move { client.set_subscribe(subscribe(n)).await }
        }),
    )
    .await;
    assert!(created.iter().all(Result::is_ok), "{created:?}");
    let listed = subscriptions(client.clone()).await;
    assert_eq!(listed, subscriptions_of(0..CALLERS));
    let deleted = coalesced(
        &served,
        (1..CALLERS).map(|n| {
            let mut client = client.clone();
            async move { client.delete_subscribe(unsubscribe(n)).await }
        }),
    )
    .await;
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    assert_eq!(subscriptions(client).await, subscriptions_of(0..1));
}

#[tokio::test]
async fn single_deletes_of_sessions_become_few_proposals() {
    let served = Served::built_in(1).await;
    let line = served.line().await;
    for n in 0..20 {
        line.create(&format!("c{n}"), b"session").await;
    }
    let client = mqtt(served.address()).await;
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
    let client = common(served.address()).await;
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
    let reply = client.clone().get_offset_data(offsets()).await;
    let offsets = reply.expect("offsets").into_inner().offsets;
    assert_eq!(offsets.len(), CALLERS);
    for record in offsets {
        assert_eq!(record.shard_name, format!("s{}", record.offset));
    }
}

#[tokio::test]
async fn of_conditional_calls_among_others_each_caller_hears_of_its_own() {
    let served = Served::built_in(4).await;
    let client = common(served.address()).await;
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
    let reply = client.clone().get_offset_data(offsets()).await;
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
        let client = common(served.address()).await;
        let done = coalesced(
            &served,
            (0..CALLERS).map(|n| {
                let mut client = client.clone();
                async move { client.set(set(n)).await }
            }),
        )
        .await;
        assert!(done.iter().all(Result::is_ok), "{done:?}");
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
                async move { client.delete(delete(n)).await }
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
    for (path, body, reply) in [
        (SET_SUBSCRIBE, frame(&subscribe(1)), &b""[..]),
        (SET, frame(&set(1)), b""),
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
