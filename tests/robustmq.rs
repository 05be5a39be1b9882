//! `policies/robustmq.yaml` in front of a meta service that is as particular
//! as the real one: both generations of clients, a leader that moves, and a
//! session that would be the end of it.

use std::net::SocketAddr;

use tonic::Code;

use crate::support::{
    client::{CREATE, DELETE, Line, batch_form, grpc, old_form},
    robustmq::{Member, UNDECODABLE},
    served::{ANY, Served},
};

/// The shipped policy, in front of `members`.
async fn before(members: &[SocketAddr]) -> Served {
    let path = crate::support::root().join("policies/robustmq.yaml");
    let yaml = std::fs::read_to_string(path).expect("the policy is shipped");
    let members: Vec<_> = members.iter().map(|at| format!("http://{at}")).collect();
    let mut served = yaml.clone();
    for (from, to) in [
        ("http://127.0.0.1:1228", members.join(", ")),
        ("127.0.0.1:1229\n\n", format!("{ANY}\n\n")),
        ("{address: 127.0.0.1:9901}", format!("{{address: {ANY}}}")),
    ] {
        assert_eq!(served.matches(from).count(), 1, "{from}");
        served = served.replace(from, &to);
    }
    Served::by(&served).await
}

async fn created(line: &Line, prefix: &str) {
    let (old, new) = (format!("{prefix}-old"), format!("{prefix}-new"));
    line.create(&old, b"session").await;
    let body = batch_form(&[(&new, b"session")]);
    let answer = line.ask(grpc(CREATE), body).await;
    assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
}

#[tokio::test]
async fn both_generations_of_clients_are_served_and_share_batches() {
    let member = Member::leading().await;
    let served = before(&[member.address]).await;
    let line = served.line().await;
    let mut calls = Vec::new();
    for n in 0..50 {
        let (old, new) = (format!("old-{n}"), format!("new-{n}"));
        calls.push(line.send(grpc(CREATE), old_form(&old, b"s")).await);
        calls.push(line.send(grpc(CREATE), batch_form(&[(&new, b"s")])).await);
    }
    for call in calls {
        let answer = call.answer().await.expect("an answer, not a reset");
        assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
    }
    let applied = member.applied();
    assert_eq!(applied.iter().flatten().count(), 100);
    let mixed = |batch: &Vec<String>| {
        ["old", "new"]
            .iter()
            .all(|kind| batch.iter().any(|id| id.starts_with(kind)))
    };
    assert!(applied.iter().any(mixed), "{applied:?}");
}

#[tokio::test]
async fn a_leader_that_moves_is_followed_inside_and_its_address_never_told() {
    let (one, two) = (Member::leading().await, Member::leading().await);
    one.follows(&two.address.to_string());
    let served = before(&[one.address, two.address]).await;
    let line = served.line().await;
    created(&line, "first").await;
    assert_eq!(one.applied().len(), 0);
    one.leads();
    two.follows(&one.address.to_string());
    created(&line, "second").await;
    assert_eq!(one.applied().iter().flatten().count(), 2);
    assert_eq!(two.applied().iter().flatten().count(), 2);
    // What is forwarded goes there too, and tells as little when it cannot.
    let asked = one.calls();
    assert_eq!(line.delete("first-old").await.code(), Code::Ok);
    assert_eq!(one.calls(), asked + 1);
    for nowhere in ["", "192.0.2.1:1228"] {
        one.follows(nowhere);
        two.follows(nowhere);
        for (path, body) in [(CREATE, old_form("x", b"s")), (DELETE, old_form("x", b"s"))] {
            let answer = line.ask(grpc(path), body).await;
            let status = answer.status();
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            let text = status.message();
            assert!(
                !text.contains("forward") && !text.contains("1228"),
                "{text}"
            );
        }
    }
}

#[tokio::test]
async fn a_session_that_ends_the_service_is_sent_once_and_never_bisected() {
    let member = Member::leading().await;
    let served = before(&[member.address]).await;
    let line = served.line().await;
    created(&line, "before").await;
    let asked = member.calls();
    let poison = batch_form(&[("a", b"s"), ("poison", UNDECODABLE), ("b", b"s")]);
    let answer = line.ask(grpc(CREATE), poison).await;
    assert_eq!(answer.status().code(), Code::Internal);
    assert_eq!(member.calls(), asked + 1, "neither halved nor tried again");
    assert_eq!(member.applied().iter().flatten().count(), 2);
}

#[tokio::test]
async fn what_the_service_would_refuse_a_whole_batch_for_is_refused_at_the_door() {
    let member = Member::leading().await;
    let served = before(&[member.address]).await;
    let line = served.line().await;
    for body in [
        old_form("", b"s"),
        old_form("x", b""),
        batch_form(&[("x", b"s"), ("", b"s")]),
        batch_form(&[]),
    ] {
        let answer = line.ask(grpc(CREATE), body).await;
        assert_eq!(answer.status().code(), Code::InvalidArgument);
    }
    assert_eq!(member.calls(), 0);
    created(&line, "good").await;
}
