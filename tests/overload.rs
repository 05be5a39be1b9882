//! More load than the upstream can carry, over real sockets.

use std::net::SocketAddr;

use tonic::Code;

use crate::support::{
    admin,
    client::{CREATE, grpc, old_form, with},
    served::{Served, one_at_a_time, policy_file},
    soon,
    upstream::Upstream,
};

#[tokio::test]
async fn a_batch_whose_time_is_up_is_not_dropped_and_keeps_its_place_until_the_late_reply() {
    let upstream = Upstream::holding().await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    let request = with(CREATE, &[("grpc-timeout", "50m")]);
    let hasty = line.ask(request, old_form("hasty", b"session")).await;
    assert_eq!(hasty.status().code(), Code::DeadlineExceeded);
    let next = line.send(grpc(CREATE), old_form("next", b"session")).await;
    served.until_queued(1).await;
    assert_eq!(upstream.left(), 0, "the upstream's call goes on");
    assert_eq!(upstream.batches().len(), 1);
    assert_eq!(
        admin::metric(served.admin(), "ferry_in_flight", "").await,
        1.0
    );
    upstream.answer();
    upstream.until_batches(2).await;
    upstream.answer();
    let answer = soon("the next caller's answer", next.answer()).await;
    let answer = answer.expect("an answer, not a reset");
    assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
}

#[tokio::test]
async fn who_is_shed_gets_the_policys_status_and_a_hint_when_to_come_again() {
    let upstream = Upstream::holding().await;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let shed = format!(
        "{}\nshed: {{status: UNAVAILABLE, pushback: true}}",
        one_at_a_time(upstream.address)
    );
    let small = "window: {max_bytes: 32KiB}\n    queue: {max_wait: 50s, max_bytes: 64KiB}";
    let policy = policy_file(any, any, &shed);
    let policy = policy.replace("queue: {max_wait: 50s, max_bytes: 64MiB}", small);
    let served = Served::by(&policy).await;
    let line = served.line().await;
    let first = line.send(grpc(CREATE), old_form("first", b"s")).await;
    upstream.until_batches(1).await;
    let large = vec![b's'; 40 << 10];
    let waits = line.send(grpc(CREATE), old_form("waits", &large)).await;
    served.until_queued(1).await;
    let shed = line.ask(grpc(CREATE), old_form("shed", &large)).await;
    let status = shed.status();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    let pushback = pushback.expect("a hint").to_str().expect("a number");
    assert!(pushback.parse::<u64>().expect("a number") >= 1);
    let reasons = [("queue_bytes", 1.0), ("queue_wait", 0.0), ("deadline", 0.0)];
    for (reason, expected) in reasons {
        let counted = admin::metric(served.admin(), "ferry_entries_shed_total", reason);
        assert_eq!(counted.await, expected, "{reason}");
    }
    upstream.answer_all();
    for call in [first, waits] {
        let answer = soon("an answer", call.answer()).await;
        let answer = answer.expect("an answer, not a reset");
        assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
    }
}
