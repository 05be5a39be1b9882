//! A connection carries its streams inside one task: one that goes wrong must
//! not take the others along, and none may be forgotten.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ferry::accept::{AnswerBody, Arriving, Guards, Server, answer};
use http::{Request, Response};
use tokio::sync::Notify;

use crate::support::client::{Line, grpc};

/// Answers by path: at once, never, after everyone else, or with a panic.
async fn serve(released: Arc<Notify>, waiting: Arc<AtomicUsize>) -> Server {
    let answer = move |request: Request<Arriving>| {
        let (released, waiting) = (Arc::clone(&released), Arc::clone(&waiting));
        async move { by_path(&request, &released, &waiting).await }
    };
    let address = "127.0.0.1:0".parse().expect("an address");
    let listening = Server::listen(address, Guards::default(), answer).await;
    listening.expect("a free port")
}

async fn by_path(
    request: &Request<Arriving>,
    released: &Notify,
    waiting: &AtomicUsize,
) -> Response<AnswerBody> {
    match request.uri().path() {
        "/test/Panic" => panic!("asked to"),
        "/test/Never" => pending().await,
        "/test/Held" => {
            let release = released.notified();
            waiting.fetch_add(1, Ordering::SeqCst);
            release.await;
            answer::message(b"held")
        }
        _ => answer::message(b"now"),
    }
}

async fn server() -> (Server, Arc<Notify>, Arc<AtomicUsize>) {
    let (released, waiting) = (Arc::new(Notify::new()), Arc::default());
    let server = serve(Arc::clone(&released), Arc::clone(&waiting)).await;
    (server, released, waiting)
}

#[tokio::test]
async fn a_stream_that_panics_is_reset_and_its_connections_others_go_on() {
    let (server, released, waiting) = server().await;
    let line = Line::open(server.local_addr()).await;
    let held = line.send(grpc("/test/Held"), Bytes::new()).await;
    let panics = line.send(grpc("/test/Panic"), Bytes::new()).await;
    let reset = panics.answer().await;
    assert!(reset.is_err(), "a panic is no answer: {reset:?}");
    let now = line.ask(grpc("/test/Now"), Bytes::new()).await;
    assert_eq!(now.status().code(), tonic::Code::Ok);
    while waiting.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    released.notify_waiters();
    let held = held.answer().await.expect("its connection goes on");
    assert_eq!(held.status().code(), tonic::Code::Ok);
}

#[tokio::test]
async fn a_thousand_streams_woken_at_once_from_elsewhere_are_all_answered() {
    const STREAMS: usize = 1_000;
    let (server, released, waiting) = server().await;
    let line = Line::open(server.local_addr()).await;
    let mut calls = Vec::new();
    for _ in 0..STREAMS {
        calls.push(line.send(grpc("/test/Held"), Bytes::new()).await);
    }
    while waiting.load(Ordering::SeqCst) < STREAMS {
        tokio::task::yield_now().await;
    }
    // From another thread, while the connection is polled or not, as it comes.
    std::thread::spawn(move || released.notify_waiters())
        .join()
        .expect("it wakes and ends");
    for call in calls {
        let answered = call.answer().await.expect("each stream is answered");
        assert_eq!(answered.status().code(), tonic::Code::Ok);
    }
}

#[tokio::test]
async fn a_drain_that_nobody_ends_cuts_what_is_left_at_its_patience() {
    let (server, ..) = server().await;
    let line = Line::open(server.local_addr()).await;
    let never = line.send(grpc("/test/Never"), Bytes::new()).await;
    line.ask(grpc("/test/Now"), Bytes::new()).await;
    let cut = server.drain(Duration::from_millis(50)).await;
    assert_eq!(cut, 1, "one connection still had a stream");
    assert!(never.answer().await.is_err(), "it was cut");
}
