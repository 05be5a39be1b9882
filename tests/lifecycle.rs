//! The process from its start to its end: it says when it is ready, on SIGTERM
//! it answers what it accepted, and what it acknowledged is there when it is
//! started again.

use std::time::Duration;

use ferry::stack::Cut;
use tokio::net::TcpStream;
use tonic::Code;

use crate::{
    process::Sidecar,
    support::{
        admin,
        client::{CREATE, Call, Line, grpc, old_form},
        load::Loading,
        served::{self, Served},
        until,
        upstream::Upstream,
    },
};

/// Waits until nothing listens at the sidecar's address any more.
async fn until_intake_ends(sidecar: &Sidecar) {
    until("new connections are refused", async || {
        TcpStream::connect(sidecar.address).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn on_sigterm_all_that_was_accepted_is_answered_and_the_process_ends_well() {
    let upstream = Upstream::holding().await;
    let any = ([127, 0, 0, 1], 0).into();
    let policy = served::policy_file(any, any, &served::one_at_a_time(upstream.address));
    let sidecar = Sidecar::with_policy(&policy).await;
    let (line, idle) = (
        Line::open(sidecar.address).await,
        Line::open(sidecar.address).await,
    );

    // One call whose batch is out, some that wait for it, one half sent.
    let mut calls = vec![sent(&line, "out").await];
    upstream.until_batches(1).await;
    for n in 0..20 {
        calls.push(sent(&line, &format!("waits-{n}")).await);
    }
    let mut body = old_form("half", b"session");
    let mut half = line.begin(grpc(CREATE)).await;
    half.write(body.split_to(7), false);
    until("they wait", async || {
        admin::metric(sidecar.admin, "ferry_queued_entries", "").await == 20.0
    })
    .await;

    sidecar.terminate().await;
    until_intake_ends(&sidecar).await;
    idle.closed().await;
    let ready = admin::fetch(sidecar.admin, "/ready").await;
    let (code, why) = ready.expect("it can be asked until the end");
    assert_eq!((code, &*why), (503, "not ready: draining\n"));
    half.write(body, true);
    calls.push(half);
    upstream.answer_all();

    for call in calls {
        let answer = call.answer().await.expect("an answer, not a reset");
        assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
    }
    let (status, _home) = sidecar.ended().await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(upstream.left(), 0);
    let sent: usize = upstream.batches().iter().map(|b| b.clients.len()).sum();
    assert_eq!(sent, 22);
}

async fn sent(line: &Line, client_id: &str) -> Call {
    line.send(grpc(CREATE), old_form(client_id, b"session"))
        .await
}

#[tokio::test]
async fn drained_under_load_and_started_again_it_has_every_acknowledged_session() {
    let mut home = tempfile::tempdir().expect("a temporary directory can be made");
    let mut loads = Vec::new();
    for round in 0..2 {
        let sidecar = Sidecar::start_again(home).await;
        let loading = Loading::start(sidecar.address, &format!("round-{round}-"));
        loading.until_acknowledged(1_000).await;
        sidecar.terminate().await;
        let (status, kept) = sidecar.ended().await;
        assert_eq!(status.code(), Some(0));
        loads.push(loading.stop());
        home = kept;
    }
    let sidecar = Sidecar::start_again(home).await;
    let line = Line::open(sidecar.address).await;
    for loaded in &loads {
        assert!(loaded.acknowledged.total() >= 1_000);
        assert_eq!(loaded.missing(&line).await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn the_admin_address_tells_of_life_readiness_and_what_was_counted() {
    let sidecar = Sidecar::start().await;
    let line = Line::open(sidecar.address).await;
    for n in 0..7 {
        line.create(&format!("x-{n}"), b"session").await;
    }
    let refused = line.ask(grpc(CREATE), old_form("", b"session")).await;
    assert_eq!(refused.status().code(), Code::InvalidArgument);
    line.list("x-1").await;

    let page = async |path| admin::fetch(sidecar.admin, path).await.expect("it answers");
    assert_eq!(page("/live").await, (200, "live\n".to_owned()));
    assert_eq!(page("/ready").await, (200, "ready\n".to_owned()));
    assert_eq!(page("/nowhere").await.0, 404);
    let metric = async |name, label| admin::metric(sidecar.admin, name, label).await;
    for (name, label, value) in [
        ("ferry_entries_total", "outcome=\"committed\"", 7.0),
        ("ferry_entries_total", "outcome=\"invalid\"", 1.0),
        ("ferry_batch_entries_sum", "CreateSession", 7.0),
        ("ferry_forwarded_total", "", 1.0),
        ("ferry_ghosts_total", "", 0.0),
        ("ferry_queued_entries", "", 0.0),
        ("ferry_in_flight", "", 0.0),
        ("ferry_raft_write_failures_total", "group=\"0\"", 0.0),
    ] {
        until(name, async || metric(name, label).await == value).await;
    }
    assert!(metric("ferry_raft_write_success_total", "group=\"0\"").await >= 1.0);
    assert!(metric("ferry_limit", "").await >= 1.0);
}

#[tokio::test]
async fn what_waits_for_no_answer_does_not_hold_up_the_end() {
    let sidecar = Sidecar::start().await;
    let lines = [
        Line::open(sidecar.address).await,
        Line::open(sidecar.address).await,
    ];
    lines[0].create("x", b"session").await;
    sidecar.terminate().await;
    for line in lines {
        line.closed().await;
    }
    let (status, _home) = sidecar.ended().await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_pipe_in_the_place_of_the_policy_is_refused_and_holds_up_no_end() {
    let upstream = Upstream::answering().await;
    let any = ([127, 0, 0, 1], 0).into();
    let policy = served::policy_file(any, any, &served::one_at_a_time(upstream.address));
    let sidecar = Sidecar::with_policy(&policy).await;
    let path = sidecar.policy();
    std::fs::remove_file(&path).expect("it is there");
    let made = tokio::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.await.expect("there is a mkfifo").success());
    sidecar.hang_up().await;
    until("it is refused", async || {
        let label = "result=\"refused\"";
        admin::metric(sidecar.admin, "ferry_policy_reloads_total", label).await >= 1.0
    })
    .await;
    sidecar.terminate().await;
    let (status, _home) = sidecar.ended().await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_drain_tells_streams_that_are_passed_on_from_calls_that_were_not_answered() {
    let patience = Duration::from_millis(50);
    let upstream = Upstream::holding().await;
    let sidecar = Served::before(upstream.address).await;
    let line = sidecar.line().await;
    let mut dialogue = line.begin(grpc("/test.Streams/Echo")).await;
    let _heard = dialogue.head().await.expect("it is answered");
    let streams = Cut {
        connections: 1,
        unanswered: 0,
    };
    assert_eq!(sidecar.stack.finish(patience).await, streams);

    let sidecar = Served::before(upstream.address).await;
    let line = sidecar.line().await;
    let _call = sent(&line, "out").await;
    upstream.until_batches(1).await;
    let cut = sidecar.stack.finish(patience).await;
    assert_eq!(cut.connections, 1);
    assert!(cut.unanswered > 0, "{cut:?}");
}
