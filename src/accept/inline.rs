//! One task a connection, its streams polled inside it.
//!
//! The obvious other way, a spawned task a stream, costs a small unary call
//! more than everything else ferry does with it: a scheduler round trip there
//! and one back, and a write to the socket for each. Here a stream's future
//! is pushed to its connection, which polls the HTTP/2 machine and the
//! streams in turn until nothing moves, and so answers all that became ready
//! with one write.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, CatchUnwind},
    stream::FuturesUnordered,
    task::AtomicWaker,
};

use super::turn::Turn;

/// Rounds of polling before other connections of this thread get a turn.
const ROUNDS: usize = 32;
/// Streams that may arrive or end before they do. Rounds alone do not bound a
/// turn: one of them carries all streams that a client has open, and whoever a
/// stream woke on this thread (a batch's worker above all) waits for its end,
/// since tokio keeps the task that was woken last where no other thread can
/// take it.
const STREAMS: usize = 512;

/// The executor hyper is given: it hands stream futures to their connection.
#[derive(Clone, Default)]
pub(super) struct Streams {
    arrived: Arc<Mutex<Vec<BoxFuture<'static, ()>>>>,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // Boxed as it is: the future is large, and each layer around it
        // would move it once more.
        self.lock().push(Box::pin(stream));
    }
}

impl Streams {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<BoxFuture<'static, ()>>> {
        // Only ever contended if a connection moved threads in mid-poll,
        // which it does not: the lock is there to make the executor `Sync`.
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection and the streams it carries, as one future.
pub(super) struct Inline<C> {
    connection: Pin<Box<C>>,
    arrived: Streams,
    /// A stream that panics is reset; the connection's others go on.
    running: FuturesUnordered<CatchUnwind<AssertUnwindSafe<BoxFuture<'static, ()>>>>,
    relay: Arc<Relay>,
    waker: Waker,
    turn: Turn,
    /// Streams that ever arrived.
    taken: u64,
}

impl<C: Future> Inline<C> {
    /// `turn` is what the connection's socket reads by.
    pub(super) fn new(connection: C, arrived: Streams, turn: Turn) -> Self {
        let relay = Arc::new(Relay::default());
        Self {
            connection: Box::pin(connection),
            arrived,
            running: FuturesUnordered::new(),
            waker: Waker::from(Arc::clone(&relay)),
            relay,
            turn,
            taken: 0,
        }
    }

    /// Streams that are open.
    pub(super) fn open(&self) -> usize {
        self.running.len()
    }

    /// Streams that were ever opened.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// The HTTP/2 machine, to ask it to shut down gracefully.
    pub(super) fn connection(&mut self) -> Pin<&mut C> {
        self.connection.as_mut()
    }

    /// Polls everything once; how many streams arrived or ended by that.
    fn poll_round(&mut self) -> (usize, Poll<C::Output>) {
        let mut cx = Context::from_waker(&self.waker);
        let done = self.connection.as_mut().poll(&mut cx);
        let mut moved = 0;
        {
            let mut arrived = self.arrived.lock();
            moved += arrived.len();
            self.taken += arrived.len() as u64;
            let arrived = arrived.drain(..);
            self.running
                .extend(arrived.map(|stream| AssertUnwindSafe(stream).catch_unwind()));
        }
        while let Poll::Ready(Some(_)) = self.running.poll_next_unpin(&mut cx) {
            moved += 1;
        }
        (moved, done)
    }
}

impl<C: Future> Future for Inline<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.relay.parent.register(cx.waker());
        self.relay.polling.store(true, Ordering::SeqCst);
        self.turn.begin();
        let (mut rounds, mut streams) = (0, 0);
        while rounds < ROUNDS && streams < STREAMS {
            rounds += 1;
            self.relay.woken.store(false, Ordering::SeqCst);
            let (moved, done) = self.poll_round();
            if done.is_ready() {
                return done;
            }
            streams += moved;
            if self.turn.is_spent() {
                break; // there is more to read, after the others
            }
            if moved > 0 || self.relay.woken.load(Ordering::SeqCst) {
                continue;
            }
            // From here a wake reaches the task. One that came between the
            // look above and this line only set the flag: look again.
            self.relay.polling.store(false, Ordering::SeqCst);
            if !self.relay.woken.load(Ordering::SeqCst) {
                return Poll::Pending;
            }
            self.relay.polling.store(true, Ordering::SeqCst);
        }
        self.relay.polling.store(false, Ordering::SeqCst);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Passes wakes on to the task, except for those that come while it polls
/// (an answer wakes the connection that is about to write it): for these a
/// flag is enough, and a trip through the scheduler is saved.
#[derive(Default)]
struct Relay {
    polling: AtomicBool,
    woken: AtomicBool,
    parent: AtomicWaker,
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        if !self.polling.load(Ordering::SeqCst) {
            self.parent.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, sync::atomic::AtomicUsize};

    use futures_util::poll;
    use hyper::rt::Executor;

    use super::*;

    /// Streams that arrive each time the connection is polled.
    const ARRIVE: usize = 100;

    #[tokio::test]
    async fn a_connection_that_is_never_idle_lets_others_of_its_thread_have_a_turn() {
        let served = Arc::new(AtomicUsize::new(0));
        let streams = Streams::default();
        let (arrived, answered) = (streams.clone(), Arc::clone(&served));
        let connection = poll_fn(move |_| {
            for _ in 0..ARRIVE {
                let answered = Arc::clone(&answered);
                arrived.execute(async move {
                    answered.fetch_add(1, Ordering::Relaxed);
                });
            }
            Poll::<()>::Pending
        });
        let mut busy = pin!(Inline::new(connection, streams, Turn::default()));
        for _ in 0..10 {
            let before = served.load(Ordering::Relaxed);
            assert!(poll!(&mut busy).is_pending(), "it is never done");
            let turn = served.load(Ordering::Relaxed) - before;
            assert!((1..=STREAMS + ARRIVE).contains(&turn), "{turn} streams");
        }
    }
}
