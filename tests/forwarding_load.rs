//! Much at once, and much that is not taken: what is passed on is bounded by
//! its readers, in both directions.

use std::task::Poll;

use bytes::Bytes;
use ferry::accept::frame::framed;
use futures_util::future::poll_fn;

use crate::support::{
    client::{Line, grpc, messages, more},
    served::Served,
    soon,
    upstream::Upstream,
};

/// What may lie between an upstream and a caller that does not read: the
/// caller's own window of 1 MiB, ferry's window of 256 KiB for one reply, and
/// what the HTTP/2 machines on both sides hold to be sent.
const HELD_MAX: usize = 3 << 20;

/// Looks that must all see the same before it counts as standing still.
const STILL: usize = 50;

/// Waits until `counted` no longer moves, and returns it.
async fn settled(what: &str, counted: impl Fn() -> usize) -> usize {
    let mut looks = 0;
    let mut last = 0;
    crate::support::until(what, async || {
        let now = counted();
        looks = if now == last && now > 0 { looks + 1 } else { 0 };
        last = now;
        looks >= STILL
    })
    .await;
    last
}

#[tokio::test]
async fn a_caller_that_does_not_read_holds_bounded_memory_and_holds_up_nobody() {
    let upstream = Upstream::answering().await;
    let served = Served::before(upstream.address).await;
    let slow = served.line().await;
    let mut call = slow.send(grpc("/test.Streams/Flood"), framed(b"")).await;
    let (_, mut stream) = call.head().await.expect("the head comes");
    let held = settled("the flood stands still", || upstream.flooded()).await;
    assert!(held <= HELD_MAX, "{held} bytes are held");
    // Others on the same upstream connection go on.
    served.line().await.create("x", b"s").await;
    // And it flows again as it is read.
    let mut read = 0;
    while read < 2 * HELD_MAX {
        let bytes = more(&mut stream).await.expect("no reset");
        read += bytes.expect("it never ends").len();
    }
    assert!(upstream.flooded() >= read);
    call.reset();
}

#[tokio::test]
async fn an_upstream_that_does_not_read_holds_its_caller_up() {
    let upstream = Upstream::answering().await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    let path = "/test.Streams/SilentUntilLeft";
    let mut call = line.begin(grpc(path)).await;
    let chunk = Bytes::from_static(&[0; 16 << 10]);
    let (mut sent, mut full) = (0, 0);
    while full < STILL {
        let body = call.body();
        body.reserve_capacity(chunk.len());
        let room = poll_fn(|cx| match body.poll_capacity(cx) {
            Poll::Ready(room) => Poll::Ready(room),
            Poll::Pending => Poll::Ready(None),
        });
        match soon("a look at the window", room).await {
            Some(room) => {
                let room = room.expect("the call is open").min(chunk.len());
                sent += room;
                call.write(chunk.slice(..room), false);
                full = 0;
            }
            None => {
                full += 1;
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        }
        assert!(
            sent <= 8 << 20,
            "{sent} bytes were taken for one that reads none"
        );
    }
    // Others go on.
    served.line().await.create("x", b"s").await;
    call.reset();
}

#[tokio::test]
async fn ten_thousand_dialogues_at_once_are_all_carried() {
    const LINES: usize = 10;
    const EACH: usize = 1_000;
    let upstream = Upstream::answering().await;
    let served = Served::before(upstream.address).await;
    let mut lines = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..LINES {
        let line = served.line().await;
        for _ in 0..EACH {
            calls.push(line.begin(grpc("/test.Streams/Echo")).await);
        }
        lines.push(line);
    }
    let mut heard = Vec::new();
    for call in &mut calls {
        let (_, stream) = call.head().await.expect("each is answered");
        heard.push(stream);
    }
    // All are open now.
    for (place, call) in calls.iter_mut().enumerate() {
        call.write(framed(place.to_string().as_bytes()), true);
    }
    for (place, stream) in heard.iter_mut().enumerate() {
        let said = more(stream).await.expect("no reset");
        let Some(said) = said else {
            panic!("dialogue {place} ended: {:?}", stream.trailers().await);
        };
        assert_eq!(messages(said), [place.to_string()]);
    }
    drop::<Vec<Line>>(lines);
}
