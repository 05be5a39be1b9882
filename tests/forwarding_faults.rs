//! What a caller is told whose upstream failed it: gRPC's own status for it,
//! and UNAVAILABLE only where the upstream certainly did nothing.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use ferry::accept::frame::framed;
use h2::Reason;
use tonic::Code;

use crate::support::{
    client::{CREATE, grpc, messages, more, old_form, with},
    frames::{Act, DATA, Odd, frame, going_away, ok, reply_end, reply_head, reset},
    served::Served,
    upstream::Upstream,
};

const ANY: &str = "/test.Odd/Any";

#[tokio::test]
async fn a_reset_of_the_upstream_is_the_status_that_grpc_gives_it() {
    let code = Arc::new(AtomicU32::new(0));
    let told = Arc::clone(&code);
    let resets = move |_, stream| Act::Say(reset(stream, told.load(Ordering::SeqCst)));
    let upstream = Odd::start(resets).await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    for (reason, meant) in [
        (Reason::NO_ERROR, Code::Internal),
        (Reason::PROTOCOL_ERROR, Code::Internal),
        (Reason::INTERNAL_ERROR, Code::Internal),
        (Reason::CANCEL, Code::Cancelled),
        (Reason::ENHANCE_YOUR_CALM, Code::ResourceExhausted),
        (Reason::INADEQUATE_SECURITY, Code::PermissionDenied),
    ] {
        code.store(reason.into(), Ordering::SeqCst);
        let before = upstream.calls();
        let status = line.ask(grpc(ANY), framed(b"")).await.status();
        assert_eq!(status.code(), meant, "{reason}: {status}");
        assert_eq!(upstream.calls() - before, 1, "{reason}: it was sent again");
    }
}

/// So many small messages, each in a frame of its own.
fn small_frames(stream: u32, messages: u8) -> Vec<u8> {
    let each = (0..messages).map(|n| frame(DATA, 0, stream, &framed(&[n; 40])));
    each.collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn small_frames_of_a_reply_that_came_together_go_on_together() {
    let says = |_, stream| {
        let reply = [reply_head(stream), small_frames(stream, 100)].concat();
        Act::Say([reply, reply_end(stream)].concat())
    };
    let upstream = Odd::start(says).await;
    let served = Served::before(upstream.address).await;
    let mut call = served.line().await.send(grpc(ANY), framed(b"")).await;
    let (_, mut body) = call.head().await.expect("it is answered");
    let (mut frames, mut bytes) = (0, Vec::new());
    while let Some(some) = more(&mut body).await.expect("it ends well") {
        frames += 1;
        bytes.extend_from_slice(&some);
    }
    let trailers = body.trailers().await.expect("it ends well");
    assert_eq!(trailers.expect("a status")["grpc-status"], "0");
    let came = messages(bytes.into());
    assert!(came.iter().map(|message| message[0]).eq(0..100), "{came:?}");
    assert!(frames < 50, "{frames} frames");
}

#[tokio::test]
async fn a_reset_behind_small_frames_of_a_reply_is_not_lost() {
    let code: u32 = Reason::ENHANCE_YOUR_CALM.into();
    let says = move |_, stream| {
        let reply = [reply_head(stream), small_frames(stream, 3)].concat();
        Act::Say([reply, reset(stream, code)].concat())
    };
    let upstream = Odd::start(says).await;
    let served = Served::before(upstream.address).await;
    let call = served.line().await.send(grpc(ANY), framed(b"")).await;
    let error = call.answer().await.expect_err("it was broken off");
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM), "{error}");
}

#[tokio::test]
async fn a_call_that_the_upstream_refused_is_sent_again_and_answered() {
    let refuse: u32 = Reason::REFUSED_STREAM.into();
    let upstream = Odd::start(move |before, stream| match before {
        0 => Act::Say(reset(stream, refuse)),
        _ => Act::Say(ok(stream)),
    });
    let upstream = upstream.await;
    let served = Served::before(upstream.address).await;
    let answer = served.line().await.ask(grpc(ANY), framed(b"x")).await;
    assert_eq!(answer.status().code(), Code::Ok);
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn an_upstream_that_refuses_every_time_is_unavailable() {
    let refuse: u32 = Reason::REFUSED_STREAM.into();
    let upstream = Odd::start(move |_, stream| Act::Say(reset(stream, refuse))).await;
    let served = Served::before(upstream.address).await;
    let status = served
        .line()
        .await
        .ask(grpc(ANY), framed(b"x"))
        .await
        .status();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(upstream.calls(), 3);
}

#[tokio::test]
async fn a_call_that_came_too_late_for_an_upstream_going_away_is_sent_to_its_successor() {
    let upstream = Odd::start(|before, stream| match before {
        0 => Act::Say(going_away(0)),
        _ => Act::Say(ok(stream)),
    });
    let upstream = upstream.await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    for _ in 0..2 {
        let answer = line.ask(grpc(ANY), framed(b"x")).await;
        assert_eq!(answer.status().code(), Code::Ok);
    }
    assert_eq!(upstream.calls(), 3);
}

#[tokio::test]
async fn a_call_whose_connection_is_lost_is_unknown_and_never_sent_again() {
    let upstream = Odd::start(|before, stream| match before {
        0 => Act::HangUp,
        _ => Act::Say(ok(stream)),
    });
    let upstream = upstream.await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    let status = line.ask(grpc(ANY), framed(b"x")).await.status();
    assert_eq!(status.code(), Code::Unknown, "{status}");
    assert_eq!(upstream.calls(), 1);
    // The next call finds a connection that is there.
    let answer = line.ask(grpc(ANY), framed(b"x")).await;
    assert_eq!(answer.status().code(), Code::Ok);
}

#[tokio::test]
async fn a_call_that_goes_alone_tells_the_upstream_what_remains_of_its_time() {
    let upstream = Upstream::answering().await;
    let served = Served::before(upstream.address).await;
    let metadata = [("x-unknown", "1"), ("grpc-timeout", "50S")];
    let answer = served.line().await;
    let answer = answer
        .ask(with(CREATE, &metadata), old_form("x", b"s"))
        .await;
    assert_eq!(answer.status().code(), Code::Ok);
    let said = &upstream.batches()[0].headers["grpc-timeout"];
    let said = said.to_str().expect("digits and a letter");
    let micros: u64 = said
        .strip_suffix('u')
        .expect("microseconds")
        .parse()
        .expect("digits");
    assert!(micros < 50_000_000, "{said}: time has passed");
}
