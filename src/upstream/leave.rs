//! Calls that are left before their upstream can have looked at them.
//!
//! A stream that is reset as it is made is what an attack looks like from the
//! upstream's side: after a few of them in one go many HTTP/2 machines close
//! the connection, and with it the calls of everybody else. A client that
//! opens many calls and hangs up would do that to all that ferry carries. So a
//! call that is left young stays open upstream for a moment, and the resets of
//! such calls are spaced. Until then it counts among the calls that are carried:
//! it takes one of the streams that the upstream allows.

use std::{
    future::Future,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    RecvStream,
    client::{ResponseFuture, SendRequest},
};
use http::Response;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};

use super::link::{Carried, Link};

/// Older calls have been looked at, and are reset at once.
const YOUNG: Duration = Duration::from_millis(50);
/// Between two resets of young ones.
const SPACE: Duration = Duration::from_millis(1);
/// Longer than this none is kept: they are open upstream as long.
const KEPT: Duration = Duration::from_secs(5);

/// When the next young call of a connection may be reset.
#[derive(Debug)]
pub(super) struct Leaving(Mutex<Option<Instant>>);

impl Leaving {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// When a call that was sent at `sent` and is left `now` may be reset;
    /// `None` for at once.
    pub(super) fn turn(&self, sent: Instant, now: Instant) -> Option<Instant> {
        let old = sent + YOUNG;
        if old <= now {
            return None;
        }
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = next.map_or(old, |next| next.max(old));
        if turn > now + KEPT {
            return None;
        }
        *next = Some(turn + SPACE);
        Some(turn)
    }
}

/// An upstream's answer that is waited for; dropped before it has come, its
/// stream is reset in its turn.
pub(super) struct Awaited<'a> {
    waiting: Option<Waiting>,
    sent: Instant,
    link: &'a Link,
}

struct Waiting {
    answer: ResponseFuture,
    /// What wrote the call into the machine.
    calls: SendRequest<Bytes>,
    carried: Carried,
}

impl<'a> Awaited<'a> {
    pub(super) fn new(
        answer: ResponseFuture,
        (calls, carried): (SendRequest<Bytes>, Carried),
        sent: Instant,
        link: &'a Link,
    ) -> Self {
        Self {
            waiting: Some(Waiting {
                answer,
                calls,
                carried,
            }),
            sent,
            link,
        }
    }
}

impl Future for Awaited<'_> {
    type Output = Result<(Response<RecvStream>, Carried), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let waiting = self.waiting.as_mut().expect("an answer comes once");
        let answer = ready!(Pin::new(&mut waiting.answer).poll(cx));
        let Waiting { carried, .. } = self.waiting.take().expect("it was there just now");
        Poll::Ready(answer.map(|response| (response, carried)))
    }
}

impl Waiting {
    /// Whether its stream waits for another to end, so that the upstream has
    /// not heard of it.
    fn is_unopened(&mut self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        self.calls.poll_ready(&mut nobody).is_pending()
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let Some(mut waiting) = self.waiting.take() else {
            return;
        };
        if waiting.is_unopened() {
            return;
        }
        let turn = self.link.leaving.turn(self.sent, Instant::now());
        if let (Some(turn), Ok(runtime)) = (turn, Handle::try_current()) {
            runtime.spawn(async move {
                sleep_until(turn).await;
                drop(waiting);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Arc};

    use http::Request;
    use tokio::{io::duplex, task::yield_now};

    use super::*;
    use crate::upstream::link::Burden;

    /// A connection to an upstream that answers nothing, and takes so many
    /// calls at once.
    async fn link(streams: u32) -> Link {
        let (near, far) = duplex(1 << 16);
        tokio::spawn(async move {
            let mut server = h2::server::Builder::new();
            server.max_concurrent_streams(streams);
            let server = server.handshake::<_, Bytes>(far).await;
            let mut server = server.expect("ferry speaks HTTP/2");
            let mut open = Vec::new();
            while let Some(Ok(came)) = server.accept().await {
                open.push(came);
            }
            pending::<()>().await;
        });
        let link = Link::open(Box::new(near), None, || {}).await;
        link.expect("it answers a ping")
    }

    /// Makes a call as if it were sent later than now, and lets it come there.
    async fn call<'a>(link: &'a Link, burden: &Arc<Burden>) -> Awaited<'a> {
        let (mut calls, carried) = link.take(burden);
        let request = Request::post("http://upstream/s.S/Ask").body(());
        let sent = calls.send_request(request.expect("a request"), true);
        let (answer, _) = sent.expect("the connection is open");
        let later = Instant::now() + KEPT / 2;
        let mut awaited = Awaited::new(answer, (calls, carried), later, link);
        for _ in 0..100 {
            yield_now().await;
        }
        assert!(futures_util::poll!(&mut awaited).is_pending());
        awaited
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_left_young_counts_until_its_stream_is_reset() {
        let (link, burden) = (link(2).await, Arc::default());
        let calls = [call(&link, &burden).await, call(&link, &burden).await];
        drop(calls);
        assert_eq!(link.carried(), 2);
        assert!(!link.has_room(), "both streams are open upstream");
        tokio::time::sleep(KEPT).await;
        assert_eq!((link.carried(), burden.carried()), (0, 0));
        assert!(link.has_room());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_the_upstream_has_not_heard_of_is_let_go_of_at_once() {
        let (link, burden) = (link(1).await, Arc::default());
        let _first = call(&link, &burden).await;
        let second = call(&link, &burden).await;
        assert_eq!(link.carried(), 2);
        drop(second);
        assert_eq!(link.carried(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn young_calls_are_reset_one_after_the_other_and_old_ones_at_once() {
        let (leaving, now) = (Leaving::new(), Instant::now());
        let turns: Vec<_> = (0..100).map(|_| leaving.turn(now, now)).collect();
        for (place, turn) in (0..).zip(turns) {
            assert_eq!(turn, Some(now + YOUNG + place * SPACE));
        }
        assert_eq!(leaving.turn(now, now + YOUNG), None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_is_kept_for_long_after_it_was_left() {
        let (leaving, now) = (Leaving::new(), Instant::now());
        let kept = (0..20_000).filter_map(|_| leaving.turn(now, now));
        assert!(kept.max().expect("some are") <= now + KEPT);
        assert_eq!(leaving.turn(now, now), None, "it is reset at once");
    }
}
