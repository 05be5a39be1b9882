//! Floods: what is said over and over is cut, and nobody else notices.

use std::time::Duration;

use ferry::telemetry::names;

use crate::support::{
    admin,
    client::{CREATE, Line, grpc, old_form},
    hostile::{Attack, Hostile, named},
    served::Served,
    soon, until,
    upstream::Upstream,
};

/// Calls of somebody else while an attack goes on.
const CALLS: usize = 10;

/// A sidecar whose policy has these guards.
pub(super) async fn guarded(upstream: &Upstream, guards: &str) -> Served {
    let with = format!("version: 1\nguards: {{{guards}}}\n");
    Served::before_with(upstream.address, "version: 1\n", &with).await
}

pub(super) async fn refused(served: &Served, reason: &str) -> f64 {
    let label = format!("reason=\"{reason}\"");
    admin::metric(served.admin(), names::GUARD_REFUSALS, &label).await
}

pub(super) async fn until_refused(served: &Served, reason: &str) {
    until(reason, async || refused(served, reason).await >= 1.0).await;
}

/// Old callers and new ones are served while `attack` goes on, until its
/// guard has stopped it.
async fn others_go_on_under(attack: Attack, served: &Served) {
    let known = served.line().await;
    known.create("before", b"s").await;
    let hostile = Hostile::begin(attack, served.address());
    for call in 0..CALLS {
        known.create(&format!("known-{call}"), b"s").await;
        served.line().await.create("new", b"s").await;
    }
    if let Some(reason) = attack.refused {
        until_refused(served, reason).await;
    }
    known.create("after", b"s").await;
    drop(hostile);
}

async fn is_stopped(attack: &str, guards: &str) {
    let upstream = Upstream::answering().await;
    let served = guarded(&upstream, guards).await;
    others_go_on_under(named(attack), &served).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_pings_is_cut_and_others_go_on() {
    is_stopped("pings", "max_control_frames: 10").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_settings_is_cut_and_others_go_on() {
    is_stopped("settings", "max_control_frames: 10").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_unknown_frames_is_cut_and_others_go_on() {
    is_stopped("unknown frames", "max_control_frames: 10").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_window_updates_is_cut_and_others_go_on() {
    is_stopped("window updates", "max_control_frames: 10").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_empty_data_frames_is_cut_and_others_go_on() {
    is_stopped("empty DATA", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_tiny_data_frames_is_cut_and_others_go_on() {
    is_stopped("tiny DATA", "max_control_frames: 10").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_never_ended_are_bounded_and_others_go_on() {
    is_stopped("open calls", "max_streams: 500").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_continuations_is_cut_and_others_go_on() {
    is_stopped("CONTINUATION", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_bomb_is_cut_and_others_go_on() {
    is_stopped("header bomb", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_a_client_makes_ferry_reset_are_cut_and_others_go_on() {
    is_stopped("made you reset", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_messages_are_bounded_in_bytes_and_others_go_on() {
    is_stopped("half messages", "max_unfinished_bytes: 1MiB").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_a_byte_at_a_time_are_cut_and_others_go_on() {
    is_stopped("slow headers", "frame_timeout: 500ms").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_reset_as_they_are_made_are_cut_and_others_go_on() {
    is_stopped("rapid reset", "max_resets: 10").await;
    is_stopped("rapid reset, batched", "max_resets: 10").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_reset_as_they_are_made_do_not_cost_others_their_upstream_connection() {
    let upstream = Upstream::answering().await;
    // As many resets as can be: only that they go no further saves the others.
    let served = guarded(&upstream, "max_resets: 10000000").await;
    let line = served.line().await;
    let mut dialogue = line.begin(grpc("/test.Streams/Echo")).await;
    let (_, mut heard) = dialogue.head().await.expect("it is answered");
    let hostile = Hostile::begin(named("rapid reset"), served.address());
    for call in 0..CALLS {
        line.create(&format!("x-{call}"), b"s").await;
        dialogue.write(ferry::accept::frame::framed(b"still?"), false);
        let said = crate::support::client::more(&mut heard).await;
        assert!(said.expect("no reset").is_some(), "the dialogue goes on");
    }
    drop(hostile);
}

#[tokio::test]
async fn a_client_that_never_pauses_does_not_keep_its_thread_to_itself() {
    let upstream = Upstream::answering().await;
    // Nothing cuts it, and there is but one thread.
    let served = guarded(&upstream, "max_control_frames: 10000000").await;
    let line = served.line().await;
    let hostile = Hostile::begin(named("pings"), served.address());
    for call in 0..CALLS {
        let create = line.send(grpc(CREATE), old_form(&format!("x-{call}"), b"s"));
        let answer = soon("an answer", async { create.await.answer().await }).await;
        answer.expect("it is served");
    }
    drop(hostile);
}

#[tokio::test]
async fn who_pings_for_each_answer_and_waits_for_it_is_no_attacker() {
    let upstream = Upstream::answering().await;
    let served = guarded(&upstream, "max_control_frames: 1").await;
    let io = tokio::net::TcpStream::connect(served.address()).await;
    let handshake = h2::client::handshake(io.expect("it listens")).await;
    let (mut calls, mut connection) = handshake.expect("it speaks HTTP/2");
    let mut pings = connection.ping_pong().expect("it is taken once");
    let driver = tokio::spawn(connection);
    for _ in 0..200 {
        let ready = soon("room", calls.ready()).await.expect("it is open");
        calls = ready;
        let (answer, mut body) = calls
            .send_request(grpc(CREATE), false)
            .expect("a well-formed request");
        body.send_data(old_form("x", b"s"), true).expect("open");
        soon("an answer", answer).await.expect("it is answered");
        soon("a pong", pings.ping(h2::Ping::opaque()))
            .await
            .expect("it is answered");
    }
    assert_eq!(refused(&served, "control_frames").await, 0.0);
    driver.abort();
}

#[tokio::test]
async fn a_client_that_is_cut_is_told_why() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let upstream = Upstream::answering().await;
    let served = guarded(&upstream, "frame_timeout: 50ms").await;
    let socket = tokio::net::TcpStream::connect(served.address()).await;
    let mut socket = socket.expect("it listens");
    let half = [crate::support::hostile::opening(), vec![0, 0, 8]].concat();
    socket.write_all(&half).await.expect("it reads");
    let mut heard = Vec::new();
    let read = soon("it is cut", socket.read_to_end(&mut heard)).await;
    read.expect("what was said comes before the end");
    let why = b"frame_timeout";
    assert!(heard.ends_with(why), "{}", heard.escape_ascii());
    until_refused(&served, "frame_timeout").await;
}

#[tokio::test]
async fn under_no_attack_no_guard_refuses_anything() {
    let upstream = Upstream::answering().await;
    let served = guarded(&upstream, "").await;
    let lines: Vec<Line> = vec![served.line().await, served.line().await];
    for call in 0..100 {
        lines[call % 2].create(&format!("x-{call}"), b"s").await;
    }
    // A probe that only looks whether somebody listens.
    drop(tokio::net::TcpStream::connect(served.address()).await);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(
        admin::metric(served.admin(), names::GUARD_REFUSALS, "").await,
        0.0
    );
}
