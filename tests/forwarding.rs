//! Every method that no policy lists goes to the upstream as it came and comes
//! back as it was answered: bytes, metadata, trailers, status, and the news
//! that one side has left.

use bytes::Bytes;
use ferry::accept::frame::framed;
use h2::Reason;
use http::HeaderMap;
use tonic::Code;

use crate::support::{
    admin,
    client::{Call, Line, grpc, messages, more, old_form, with},
    served::Served,
    until,
    upstream::{Upstream, refusal},
};

const ECHO: &str = "/test.Streams/Echo";
const COUNT: &str = "/test.Streams/Count";
const SUM: &str = "/test.Streams/Sum";

/// Metadata with a key that stands twice and one whose values are bytes.
const METADATA: [(&str, &str); 4] = [
    ("x-twice", "one"),
    ("x-raw-bin", "AAEC/w"),
    ("x-twice", "two"),
    ("x-once", "a, b"),
];

async fn served() -> (Upstream, Served, Line) {
    let upstream = Upstream::answering().await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    (upstream, served, line)
}

#[track_caller]
fn has_metadata(headers: &HeaderMap) {
    for (name, _) in METADATA {
        let sent = METADATA.iter().filter(|pair| pair.0 == name);
        let sent: Vec<_> = sent.map(|pair| pair.1).collect();
        let came: Vec<_> = headers.get_all(name).iter().collect();
        assert_eq!(came, sent, "{name}");
    }
}

#[tokio::test]
async fn a_forwarded_unary_call_keeps_bytes_metadata_and_trailers() {
    let (_upstream, served, line) = served().await;
    // A flag that says compressed: what it holds is nobody's business here.
    let mut body = framed(&[0, 255, 1, 254]).to_vec();
    body[0] = 1;
    let body = Bytes::from(body);
    let answer = line.ask(with(ECHO, &METADATA), body.clone()).await;
    assert_eq!(answer.status().code(), Code::Ok);
    assert_eq!(answer.body, body);
    assert_eq!(answer.headers["content-type"], "application/grpc");
    has_metadata(&answer.headers);
    has_metadata(&answer.trailers);
    let forwarded = admin::metric(served.admin(), "ferry_forwarded_total", "").await;
    assert_eq!(forwarded, 1.0);
}

#[tokio::test]
async fn a_forwarded_server_stream_arrives_message_by_message() {
    let (_upstream, _served, line) = served().await;
    let answer = line.ask(grpc(COUNT), framed(&[0; 300])).await;
    assert_eq!(answer.status().code(), Code::Ok);
    let meant: Vec<_> = (0..300).map(|place| place.to_string()).collect();
    assert_eq!(messages(answer.body), meant);
}

#[tokio::test]
async fn a_forwarded_client_stream_arrives_message_by_message() {
    let (_upstream, _served, line) = served().await;
    let mut call = line.begin(grpc(SUM)).await;
    for message in [b"one", b"two", b"six"] {
        let frame = framed(message);
        // Also where a message comes in pieces.
        call.write(frame.slice(..6), false);
        call.write(frame.slice(6..), false);
    }
    call.write(Bytes::new(), true);
    let answer = call.answer().await.expect("an answer, not a reset");
    assert_eq!(messages(answer.body), ["3:onetwosix"]);
}

#[tokio::test]
async fn a_forwarded_dialogue_goes_back_and_forth() {
    let (_upstream, _served, line) = served().await;
    let mut call = line.begin(with(ECHO, &METADATA)).await;
    let (head, mut stream) = call.head().await.expect("the head comes first");
    has_metadata(&head.headers);
    for said in ["ping", "and", "pong"] {
        // Each answer is read before the next message is sent.
        call.write(framed(said.as_bytes()), false);
        let heard = more(&mut stream).await.expect("no reset").expect("no end");
        assert_eq!(messages(heard), [said]);
    }
    call.write(Bytes::new(), true);
    assert_eq!(more(&mut stream).await.expect("no reset"), None);
    let trailers = stream.trailers().await.expect("no reset");
    let trailers = trailers.expect("a stream ends with its status");
    assert_eq!(trailers["grpc-status"], "0");
    has_metadata(&trailers);
}

#[tokio::test]
async fn a_message_of_64_mebibytes_is_forwarded_whole_both_ways() {
    let (_upstream, _served, line) = served().await;
    let large: Vec<u8> = (0..64_u32 << 20).map(|n| (n % 251) as u8).collect();
    let body = framed(&large);
    let answer = line.ask(grpc(ECHO), body.clone()).await;
    assert_eq!(answer.status().code(), Code::Ok);
    assert!(answer.body == body, "{} bytes came back", answer.body.len());
}

#[tokio::test]
async fn an_upstreams_error_arrives_with_message_details_and_metadata() {
    let (_upstream, _served, line) = served().await;
    let meant = refusal();
    for (path, messages_before) in [("/test.Streams/Fail", 0), ("/test.Streams/FailLate", 1)] {
        let answer = line.ask(grpc(path), old_form("x", b"s")).await;
        let status = answer.status();
        assert_eq!(status.code(), meant.code(), "{path}");
        assert_eq!(status.message(), meant.message(), "{path}");
        assert_eq!(status.details(), meant.details(), "{path}");
        assert_eq!(
            status.metadata().get("x-why"),
            meant.metadata().get("x-why")
        );
        assert_eq!(messages(answer.body).len(), messages_before, "{path}");
    }
}

#[tokio::test]
async fn a_method_that_the_upstream_does_not_know_is_for_the_upstream_to_refuse() {
    let (_upstream, _served, line) = served().await;
    let answer = line.ask(grpc("/no.such/Method"), framed(b"")).await;
    assert_eq!(answer.status().code(), Code::Unimplemented);
    assert_eq!(answer.status().message(), "not /no.such/Method");
}

#[tokio::test]
async fn a_caller_that_leaves_a_forwarded_call_is_gone_for_the_upstream_too() {
    let (upstream, served, line) = served().await;
    let silent = line.send(grpc("/test.Streams/SilentUntilLeft"), framed(b""));
    let silent = silent.await;
    let (speaking, _) = spoken_to(&line).await;
    assert_eq!(upstream.left(), 0);
    speaking.reset();
    until("the upstream loses one call", async || upstream.left() == 1).await;
    silent.reset();
    until("and the other", async || upstream.left() == 2).await;
    // So too where the whole connection goes.
    let lost = served.line().await;
    let (_call, _stream) = spoken_to(&lost).await;
    lost.hang_up().await;
    until("and a third", async || upstream.left() == 3).await;
    // And the caller's other calls go on.
    line.create("x", b"s").await;
}

/// A stream of which the first message has come, and no other ever will.
async fn spoken_to(line: &Line) -> (Call, h2::RecvStream) {
    let path = "/test.Streams/SpeakUntilLeft";
    let mut call = line.send(grpc(path), framed(b"")).await;
    let (_, mut stream) = call.head().await.expect("the head comes");
    let heard = more(&mut stream).await.expect("no reset").expect("no end");
    assert_eq!(messages(heard), ["still there?"]);
    (call, stream)
}

#[tokio::test]
async fn an_upstream_that_breaks_off_is_never_mistaken_for_a_good_end() {
    let (_upstream, _served, line) = served().await;
    let mut call = line.begin(grpc("/test.Streams/BreakOff")).await;
    let (_, mut stream) = call.head().await.expect("the head comes");
    let heard = more(&mut stream).await.expect("no reset yet");
    assert_eq!(messages(heard.expect("a message")), ["and then"]);
    call.write(framed(b"go on"), true);
    let broken = more(&mut stream).await.expect_err("the stream is reset");
    assert_ne!(broken.reason(), Some(Reason::NO_ERROR), "{broken}");
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_named_to_those_who_ask_for_it() {
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0");
        let listener = listener.expect("loopback has free ports");
        listener.local_addr().expect("it is bound")
    };
    let served = Served::before(gone).await;
    let line = served.line().await;
    for path in [ECHO, crate::support::client::CREATE] {
        let answer = line.ask(grpc(path), old_form("x", b"s")).await;
        let status = answer.status();
        assert_eq!(status.code(), Code::Unavailable, "{path}: {status}");
        assert!(status.message().contains(&gone.to_string()), "{status}");
        assert!(status.message().contains("cannot be reached"), "{status}");
    }
}
