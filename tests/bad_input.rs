//! Whatever is wrong with a call, or with a connection, is told to the one who
//! sent it, with the value, the bound and the remedy; and while that happens
//! good calls, on the same connection and on another, are answered and kept.

use bytes::Bytes;
use ferry::{
    accept::frame::framed,
    proto::mqtt::{CreateSessionRequest, OldCreateSession},
    raft::command::NAME_MAX,
};
use h2::Reason;
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use crate::support::{
    client::{Answer, CREATE, Call, Line, batch_form, grpc, old_form},
    served::Served,
    soon,
};

const SESSION: &[u8] = b"a session that must be kept";

/// Does something bad while two good calls are half sent, on the connection
/// that it is done on and on another; finishes these, makes two more, and
/// sees that the four are kept and nothing else is.
async fn among_good_calls<T>(bad: impl AsyncFnOnce(&Served, &Line) -> T) -> T {
    let served = Served::embedded().await;
    let (same, other) = (served.line().await, served.line().await);
    let halves = [begun(&same, "a").await, begun(&other, "b").await];
    let outcome = bad(&served, &same).await;
    for (mut call, rest) in halves {
        call.write(rest, true);
        let answer = call.answer().await.expect("an answer, not a reset");
        assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
    }
    same.create("c", SESSION).await;
    other.create("d", SESSION).await;
    for client_id in ["a", "b", "c", "d"] {
        assert_eq!(other.list(client_id).await, [SESSION], "{client_id}");
    }
    let kept = other.list("").await.len();
    assert_eq!(kept, 4, "something of a bad call was stored");
    outcome
}

/// A good call of which half has been sent, and the other half.
async fn begun(line: &Line, client_id: &str) -> (Call, Bytes) {
    let mut body = old_form(client_id, SESSION);
    let mut call = line.begin(grpc(CREATE)).await;
    call.write(body.split_to(body.len() / 2), false);
    (call, body)
}

/// CreateSession with this body is refused with this status, in these words.
async fn refused(body: Bytes, code: Code, words: &[&str]) {
    let answer = among_good_calls(async |_, line| line.ask(grpc(CREATE), body).await).await;
    told(&answer, code, words);
}

fn told(answer: &Answer, code: Code, words: &[&str]) {
    let status = answer.status();
    assert_eq!(status.code(), code, "{status}");
    for word in words {
        let message = status.message();
        assert!(message.contains(word), "{word:?} is not told in: {message}");
    }
}

#[tokio::test]
async fn a_call_without_a_message_is_told_so_and_disturbs_nobody() {
    let words = ["exactly one message", "none"];
    refused(Bytes::new(), Code::Unimplemented, &words).await;
}

#[tokio::test]
async fn a_call_with_two_messages_is_told_so_and_disturbs_nobody() {
    let (one, two) = (old_form("x", SESSION), old_form("y", SESSION));
    let more = format!("{} bytes follow the first", two.len());
    let body = [one, two].concat().into();
    refused(body, Code::Unimplemented, &["exactly one message", &more]).await;
}

#[tokio::test]
async fn a_message_cut_short_is_told_how_much_came_and_disturbs_nobody() {
    let whole = old_form("x", b"123456789");
    let body = whole.slice(..whole.len() - 4);
    let came = format!("{} of {} bytes came", body.len(), whole.len());
    refused(body, Code::Internal, &[&came, "send a gRPC frame"]).await;
}

#[tokio::test]
async fn a_message_that_is_not_protobuf_is_told_so_and_disturbs_nobody() {
    let words = [
        "failed to decode Protobuf message",
        "meta.service.mqtt.CreateSessionRequest",
        "at byte 0",
        "send a whole encoded message",
    ];
    refused(framed(&[0xff; 40]), Code::InvalidArgument, &words).await;
}

#[tokio::test]
async fn both_forms_at_once_are_refused_and_disturb_nobody() {
    let single = OldCreateSession {
        client_id: "x".into(),
        session: SESSION.into(),
    };
    let batch = batch_form(&[("y", SESSION)]).slice(5..);
    let body = framed(&[single.encode_to_vec(), batch.to_vec()].concat());
    let words = ["sessions", "OldCreateSession", "one form or the other"];
    refused(body, Code::InvalidArgument, &words).await;
}

#[tokio::test]
async fn neither_form_is_refused_and_disturbs_nobody() {
    let body = framed(&CreateSessionRequest::default().encode_to_vec());
    let words = [
        "meta.service.mqtt.CreateSessionRequest.sessions",
        "at least 1",
        "or send meta.service.mqtt.OldCreateSession",
    ];
    refused(body, Code::InvalidArgument, &words).await;
}

#[tokio::test]
async fn an_empty_client_id_is_refused_and_disturbs_nobody() {
    let words = ["client_id: is empty", "at least 1 byte", "fill it in"];
    refused(old_form("", SESSION), Code::InvalidArgument, &words).await;
}

#[tokio::test]
async fn an_empty_session_is_refused_and_disturbs_nobody() {
    let words = ["session: is empty", "at least 1 byte", "fill it in"];
    refused(old_form("x", b""), Code::InvalidArgument, &words).await;
}

#[tokio::test]
async fn an_empty_client_id_in_a_batch_is_named_by_its_place_and_disturbs_nobody() {
    let body = batch_form(&[("x", SESSION), ("y", SESSION), ("", SESSION)]);
    let words = ["sessions[2].client_id: is empty", "fill it in"];
    refused(body, Code::InvalidArgument, &words).await;
}

#[tokio::test]
async fn an_over_long_client_id_is_refused_and_disturbs_nobody() {
    let long = "x".repeat(NAME_MAX + 1);
    let words = ["client_id: 65536 bytes", "at most 65535", "shorten it"];
    refused(old_form(&long, SESSION), Code::InvalidArgument, &words).await;
    let body = batch_form(&[("y", SESSION), (&long, SESSION)]);
    let words = ["sessions[1].client_id: 65536 bytes", "at most 65535"];
    refused(body, Code::InvalidArgument, &words).await;
}

#[tokio::test]
async fn a_client_id_that_is_not_text_is_refused_and_disturbs_nobody() {
    let body = framed(&[0x12, 2, b'x', 0xff, 0x1a, 1, b's']);
    let words = ["client_id: not valid UTF-8 after 1 bytes", "as UTF-8"];
    refused(body, Code::InvalidArgument, &words).await;
}

#[tokio::test]
async fn five_mebibytes_of_session_are_refused_again_and_again_and_disturb_nobody() {
    let body = old_form("x", &vec![7; 5 << 20]);
    // More of them than the connection's flow-control window holds: what is
    // refused must not use it up.
    let answers = among_good_calls(async |_, line| {
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(line.ask(grpc(CREATE), body.clone()).await);
        }
        answers
    })
    .await;
    for answer in &answers {
        let words = ["at most 4194304 are taken", "max_message_bytes"];
        told(answer, Code::ResourceExhausted, &words);
    }
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented_and_disturbs_nobody() {
    for path in [
        "/meta.service.mqtt.MqttService/Subscribe",
        "/no.such.Service/Method",
        "/",
    ] {
        let body = old_form("x", SESSION);
        let answer = among_good_calls(async |_, line| line.ask(grpc(path), body).await).await;
        told(&answer, Code::Unimplemented, &[path, "endpoints"]);
    }
}

#[tokio::test]
async fn what_is_http_2_and_not_grpc_is_told_so_in_http() {
    let get = http::Request::get(format!("http://ferry{CREATE}"));
    let mut json = grpc(CREATE);
    let content_type = "application/json".parse().expect("a header value");
    json.headers_mut().insert("content-type", content_type);
    let mut web = grpc(CREATE);
    let content_type = "application/grpc-web".parse().expect("a header value");
    web.headers_mut().insert("content-type", content_type);
    for (request, code, words) in [
        (get.body(()).expect("well-formed"), 405, ["GET", "POST"]),
        (json, 415, ["application/json", "application/grpc"]),
        (web, 415, ["application/grpc-web", "application/grpc"]),
    ] {
        let body = old_form("x", SESSION);
        let answer = among_good_calls(async |_, line| line.ask(request, body).await).await;
        assert_eq!(answer.http, code);
        let said = String::from_utf8_lossy(&answer.body);
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
}

#[tokio::test]
async fn http_1_is_told_what_to_speak_and_disturbs_nobody() {
    for method in ["GET", "POST"] {
        let request = format!("{method} {CREATE} HTTP/1.1\r\nhost: ferry\r\n\r\n");
        let said = among_good_calls(async |served, _| say(served, request.as_bytes()).await).await;
        let said = String::from_utf8_lossy(&said);
        assert!(said.starts_with("HTTP/1.1 505 "), "{said}");
        assert!(said.contains("use HTTP/2"), "{said}");
    }
}

#[tokio::test]
async fn garbage_on_the_socket_ends_its_own_connection_and_no_other() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let garbage: Vec<u8> = (0..4_000_u32).map(|n| (n * n % 251) as u8).collect();
    for bytes in [
        garbage.clone(),
        // TLS, where none is spoken.
        vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        // Frames of no kind, after a good beginning.
        [&preface[..], &garbage].concat(),
        // A SETTINGS frame that says it is 16 MiB long.
        [&preface[..], &[0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0]].concat(),
        vec![0; 100],
    ] {
        among_good_calls(async |served, _| say(served, &bytes).await).await;
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_within_a_call_disturbs_nobody() {
    among_good_calls(async |served, _| {
        let line = served.line().await;
        let (_call, _rest) = begun(&line, "x").await;
        line.hang_up().await;
    })
    .await;
}

#[tokio::test]
async fn metadata_past_its_bound_ends_no_other_call() {
    let large = "x".repeat(20 << 10);
    let mut request = grpc(CREATE);
    let value = large.parse().expect("a header value");
    request.headers_mut().insert("x-large", value);
    let body = old_form("x", SESSION);
    let outcome = among_good_calls(async |_, line| line.send(request, body).await.answer().await);
    match outcome.await {
        Ok(answer) => assert_eq!(answer.http, 431, "{answer:?}"),
        Err(reset) => assert_eq!(reset.reason(), Some(Reason::PROTOCOL_ERROR)),
    }
}

/// Everything that comes back for `bytes`, until the other side hangs up.
async fn say(served: &Served, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(served.address())
        .await
        .expect("it listens");
    socket.write_all(bytes).await.expect("it reads");
    let mut said = Vec::new();
    // A reset is as good an end as any: what came before it counts.
    let _ = soon("the connection is closed", socket.read_to_end(&mut said)).await;
    said
}
