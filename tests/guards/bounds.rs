//! What one client may have at once, and for how long.

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use super::attacked::{guarded, refused, until_refused};
use crate::{
    process::Sidecar,
    support::{
        admin,
        client::{CREATE, Line, grpc, old_form, with},
        hostile,
        served::{ANY, one_at_a_time, policy_file},
        soon, until,
        upstream::Upstream,
    },
};

const SILENT: &str = "/test.Streams/SilentUntilLeft";

#[tokio::test]
async fn who_does_not_say_what_it_speaks_is_cut() {
    let upstream = Upstream::answering().await;
    let served = guarded(&upstream, "handshake_timeout: 50ms").await;
    for said in [&b""[..], b"PRI * HT", b"\x16\x03\x01\x02"] {
        let mut socket = TcpStream::connect(served.address()).await.expect("open");
        socket.write_all(said).await.expect("open");
        // It is closed, or reset where something was left unread.
        let _ = soon("it is cut", socket.read(&mut [0; 64])).await;
    }
    until("all are counted", async || {
        refused(&served, "handshake").await == 3.0
    })
    .await;
    served.line().await.create("x", b"s").await;
}

#[tokio::test]
async fn a_message_that_does_not_come_whole_is_answered_in_time_and_let_go_of() {
    let upstream = Upstream::answering().await;
    let served = guarded(
        &upstream,
        "message_timeout: 50ms, max_unfinished_bytes: 2MiB",
    )
    .await;
    let line = served.line().await;
    let mut message = old_form("x", &[7; 700 << 10]);
    let most = message.split_to(600 << 10);
    // The second and third have room only because the one before was let go of.
    for _ in 0..3 {
        let mut half = line.begin(grpc(CREATE)).await;
        half.write(most.clone(), false);
        let answer = half.answer().await.expect("an answer, not a reset");
        assert_eq!(answer.status().code(), Code::DeadlineExceeded);
    }
    assert_eq!(refused(&served, "message_timeout").await, 3.0);
    assert_eq!(refused(&served, "unfinished_bytes").await, 0.0);
    line.create("y", b"s").await;
}

#[tokio::test]
async fn a_caller_whose_own_deadline_passes_first_is_answered_then() {
    let upstream = Upstream::answering().await;
    let served = guarded(&upstream, "").await;
    let line = served.line().await;
    let mut half = line.begin(with(CREATE, &[("grpc-timeout", "30m")])).await;
    half.write(old_form("x", b"session").split_to(7), false);
    let answer = half.answer().await.expect("an answer, not a reset");
    assert_eq!(answer.status().code(), Code::DeadlineExceeded);
    assert_eq!(refused(&served, "message_timeout").await, 0.0);
}

#[tokio::test]
async fn a_slow_message_that_comes_whole_in_its_time_is_served() {
    let upstream = Upstream::answering().await;
    let served = guarded(&upstream, "").await;
    let line = served.line().await;
    let mut slow = line.begin(grpc(CREATE)).await;
    let mut message = old_form("slow", b"a session in pieces");
    while message.len() > 1 {
        slow.write(message.split_to(1), false);
        tokio::task::yield_now().await;
    }
    slow.write(message, true);
    let answer = slow.answer().await.expect("an answer");
    assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
    assert_eq!(upstream.batches()[0].clients, ["slow"]);
}

#[tokio::test]
async fn only_the_connection_with_most_half_messages_is_refused_more() {
    let upstream = Upstream::answering().await;
    let served = guarded(&upstream, "max_unfinished_bytes: 1MiB").await;
    let (greedy, modest) = (served.line().await, served.line().await);
    let mut own = old_form("own", &[7; 100 << 10]);
    let mut other = modest.begin(grpc(CREATE)).await;
    other.write(own.split_to(90 << 10), false);
    let half = old_form("x", &[7; 200 << 10]).slice(..150 << 10);
    let mut calls = Vec::new();
    for _ in 0..10 {
        let mut call = greedy.begin(grpc(CREATE)).await;
        call.write(half.clone(), false);
        calls.push(call);
    }
    until_refused(&served, "unfinished_bytes").await;
    let refusal = calls.pop().expect("ten").answer().await.expect("an answer");
    assert_eq!(refusal.status().code(), Code::ResourceExhausted);
    other.write(own, true);
    let answer = other.answer().await.expect("an answer");
    assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
}

#[tokio::test]
async fn a_stream_too_many_is_refused_and_its_connection_goes_on() {
    let upstream = Upstream::answering().await;
    let served = guarded(&upstream, "max_streams: 3").await;
    let mut socket = TcpStream::connect(served.address()).await.expect("open");
    let calls = [1, 3, 5, 7].map(|stream| hostile::call(stream, SILENT));
    let said = [hostile::opening(), calls.concat()].concat();
    socket.write_all(&said).await.expect("open");
    const REFUSED_STREAM: u8 = 7;
    let refusal = [0, 0, 4, 3, 0, 0, 0, 0, 7, 0, 0, 0, REFUSED_STREAM];
    let mut heard = Vec::new();
    soon("the fourth is refused", async {
        while !heard.windows(refusal.len()).any(|seen| seen == refusal) {
            let read = socket.read_buf(&mut heard).await.expect("open");
            assert!(read > 0, "the connection goes on");
        }
    })
    .await;
}

#[tokio::test]
async fn past_the_sum_of_streams_only_who_has_many_is_refused() {
    let upstream = Upstream::answering().await;
    let served = guarded(&upstream, "max_streams_total: 100").await;
    let (greedy, modest) = (served.line().await, served.line().await);
    modest.create("before", b"s").await;
    let mut open = Vec::new();
    for _ in 0..100 {
        open.push(greedy.send(grpc(SILENT), Bytes::new()).await);
    }
    until("it is full", async || {
        let one_more = greedy.send(grpc(CREATE), old_form("more", b"s")).await;
        let answer = one_more.answer().await.expect("an answer");
        answer.status().code() == Code::ResourceExhausted
    })
    .await;
    assert!(refused(&served, "streams").await >= 1.0);
    modest.create("x", b"s").await;
    served.line().await.create("y", b"s").await;
    drop(open);
    until("there is room again", async || {
        let one_more = greedy.send(grpc(CREATE), old_form("more", b"s")).await;
        let answer = one_more.answer().await.expect("an answer");
        answer.status().code() == Code::Ok
    })
    .await;
}

#[tokio::test]
async fn a_call_with_too_many_headers_is_refused_alone() {
    let upstream = Upstream::answering().await;
    let served = guarded(&upstream, "max_headers: 20").await;
    let line = served.line().await;
    let many: Vec<String> = (0..20).map(|n| format!("x-{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (&**name, "y")).collect();
    for path in [CREATE, "/test.Streams/Count"] {
        let answer = line.ask(with(path, &many), old_form("x", b"s")).await;
        assert_eq!(answer.status().code(), Code::ResourceExhausted, "{path}");
        let told = answer.status().message().to_owned();
        assert!(told.contains("guards.max_headers"), "{told}");
    }
    assert_eq!(refused(&served, "headers").await, 2.0);
    line.create("x", b"s").await;
}

#[tokio::test]
async fn a_call_whose_headers_are_too_long_is_refused_alone() {
    let upstream = Upstream::answering().await;
    let served = guarded(&upstream, "max_header_bytes: 4KiB").await;
    let line = served.line().await;
    let long = "x".repeat(5 << 10);
    let refusal = line.send(with(CREATE, &[("x-long", &long)]), old_form("x", b"s"));
    // HTTP's own word for it, or a client that does not even send it.
    if let Ok(answer) = refusal.await.answer().await {
        assert_eq!(
            answer.http,
            http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        );
    }
    line.create("x", b"s").await;
    assert!(
        upstream
            .batches()
            .iter()
            .all(|batch| batch.clients == ["x"])
    );
}

#[tokio::test]
async fn a_connection_too_many_is_refused_unless_an_idle_one_can_make_room() {
    let upstream = Upstream::answering().await;
    let served = guarded(&upstream, "max_connections: 2").await;
    let (first, second) = (served.line().await, served.line().await);
    let busy = [
        first.send(grpc(SILENT), Bytes::new()).await,
        second.send(grpc(SILENT), Bytes::new()).await,
    ];
    let mut third = TcpStream::connect(served.address()).await.expect("open");
    let cut = soon("it is cut", third.read(&mut [0; 1])).await;
    assert!(matches!(cut, Ok(0) | Err(_)), "{cut:?}");
    until_refused(&served, "connections").await;
    let [idle, _busy] = busy;
    idle.reset();
    // Once it has been seen to be idle, it makes room.
    until("the next is let in", async || {
        is_let_in(served.address()).await
    })
    .await;
    first.closed().await;
    assert!(refused(&served, "idle").await >= 1.0);
    second.create("x", b"s").await;
}

#[tokio::test]
async fn half_requests_at_the_admin_address_leave_descriptors_for_callers() {
    let upstream = Upstream::answering().await;
    let policy = policy_file(ANY, ANY, &one_at_a_time(upstream.address));
    let sidecar = Sidecar::with_descriptors(128, &policy).await;
    let mut halves = Vec::new();
    for _ in 0..150 {
        let socket = TcpStream::connect(sidecar.admin).await;
        let mut socket = socket.expect("the system lets them wait");
        // Some are closed by then, which is what is asked for.
        let _ = socket.write_all(b"GET / HTTP/1.1\r\nhost: here\r\n").await;
        halves.push(socket);
    }
    let line = soon("a caller is let in", Line::open(sidecar.address)).await;
    soon("its answer", line.create("x", b"s")).await;
    let unaccepted = admin::metric(sidecar.admin, "ferry_accept_errors_total", "").await;
    assert_eq!(unaccepted, 0.0);
}

async fn is_let_in(address: std::net::SocketAddr) -> bool {
    let socket = TcpStream::connect(address).await.expect("it listens");
    let Ok((calls, connection)) = h2::client::handshake(socket).await else {
        return false;
    };
    let driver = tokio::spawn(connection);
    let answer = match calls.ready().await {
        Ok(mut calls) => match calls.send_request(grpc("/test.Streams/Fail"), true) {
            Ok((answer, _)) => answer.await.is_ok(),
            Err(_) => false,
        },
        Err(_) => false,
    };
    driver.abort();
    answer
}

#[tokio::test]
async fn a_connection_without_calls_is_closed_in_time_and_one_with_a_call_is_not() {
    let upstream = Upstream::answering().await;
    let served = guarded(&upstream, "idle_timeout: 50ms").await;
    let (idle, busy) = (served.line().await, served.line().await);
    idle.create("x", b"s").await;
    let mut dialogue = busy.begin(grpc("/test.Streams/Echo")).await;
    let (_, mut heard) = dialogue.head().await.expect("it is answered");
    idle.closed().await;
    until_refused(&served, "idle").await;
    dialogue.write(ferry::accept::frame::framed(b"still?"), false);
    let said = crate::support::client::more(&mut heard).await;
    assert!(said.expect("no reset").is_some());
    drop::<Line>(busy);
}

/// A client that has said what it speaks and says nothing more, not even what
/// it has to; it has heard that it was let in.
async fn deaf(address: std::net::SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.expect("it listens");
    socket.write_all(&hostile::opening()).await.expect("open");
    let heard = soon("it is let in", socket.read(&mut [0; 1])).await;
    assert!(matches!(heard, Ok(1)), "{heard:?}");
    socket
}

#[tokio::test]
async fn who_does_not_answer_when_it_is_to_leave_is_closed_and_another_has_its_place() {
    let upstream = Upstream::answering().await;
    let guards = "max_connections: 1, idle_timeout: 50ms, frame_timeout: 50ms";
    let served = guarded(&upstream, guards).await;
    let mut deaf = deaf(served.address()).await;
    let mut heard = Vec::new();
    // Closed, or reset where something was left unread.
    let _ = soon("it is closed", deaf.read_to_end(&mut heard)).await;
    assert!(!heard.is_empty(), "it was asked to leave");
    until("the next is let in", async || {
        is_let_in(served.address()).await
    })
    .await;
}

#[tokio::test]
async fn who_does_not_answer_or_has_said_nothing_yet_does_not_hold_up_a_drain() {
    let upstream = Upstream::answering().await;
    let guards = "handshake_timeout: 60s, frame_timeout: 50ms";
    let served = guarded(&upstream, guards).await;
    let _silent = TcpStream::connect(served.address()).await.expect("open");
    // Who comes after it has been let in, so it has been, too.
    let _deaf = deaf(served.address()).await;
    let patience = std::time::Duration::from_secs(20);
    assert_eq!(served.stack.drain(patience).await, 0);
}

#[tokio::test]
async fn a_guard_that_a_reload_tightens_holds_for_the_next_connection() {
    let upstream = Upstream::answering().await;
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let path = home.path().join("policy.yaml");
    let any = crate::support::served::ANY;
    let upstream = crate::support::served::one_at_a_time(upstream.address);
    let policy = crate::support::served::policy_file(any, any, &upstream);
    std::fs::write(&path, &policy).expect("writable");
    let served = crate::support::served::Served::of_file(&path).await;
    let old = served.line().await;
    let headers = [("x-a", "1"), ("x-b", "2")];
    let ask = async |line: &Line| {
        let answer = line.ask(with(CREATE, &headers), old_form("x", b"s")).await;
        answer.status().code()
    };
    assert_eq!(ask(&old).await, Code::Ok);
    let tight = policy.replacen("version: 1", "version: 1\nguards: {max_headers: 3}", 1);
    std::fs::write(&path, tight).expect("writable");
    let reload = served.stack.reload(ferry::policy::Cause::Request).await;
    let reload = reload.expect("a sidecar");
    assert!(reload.accepted, "{:?}", reload.faults);
    let new = served.line().await;
    assert_eq!(ask(&new).await, Code::ResourceExhausted);
    assert_eq!(ask(&old).await, Code::Ok, "it keeps what it began with");
}
