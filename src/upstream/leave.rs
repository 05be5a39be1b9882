//! Calls that are left before their upstream can have looked at them.
//!
//! A stream that is reset as it is made is what an attack looks like from the
//! upstream's side: after a few of them in one go many HTTP/2 machines close
//! the connection, and with it the calls of everybody else. A client that
//! opens many calls and hangs up would do that to all that ferry carries. So a
//! call that is left young stays open upstream for a moment, and the resets of
//! such calls are spaced.

use std::{
    future::Future,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use h2::client::ResponseFuture;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};

use super::link::Link;

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
    answer: Option<ResponseFuture>,
    sent: Instant,
    link: &'a Link,
}

impl<'a> Awaited<'a> {
    pub(super) fn new(answer: ResponseFuture, sent: Instant, link: &'a Link) -> Self {
        Self {
            answer: Some(answer),
            sent,
            link,
        }
    }
}

impl Future for Awaited<'_> {
    type Output = <ResponseFuture as Future>::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = self.answer.as_mut().expect("an answer comes once");
        let polled = Pin::new(answer).poll(cx);
        if polled.is_ready() {
            self.answer = None;
        }
        polled
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let Some(answer) = self.answer.take() else {
            return;
        };
        let turn = self.link.leaving.turn(self.sent, Instant::now());
        if let (Some(turn), Ok(runtime)) = (turn, Handle::try_current()) {
            runtime.spawn(async move {
                sleep_until(turn).await;
                drop(answer);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
