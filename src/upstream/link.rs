//! One HTTP/2 connection to an upstream.
//!
//! Callers' tasks write their calls into the connection's machine themselves
//! and read their answers out of it; the connection's own task only moves
//! bytes. So whatever all calls of one turn have to say leaves with one write
//! (`transport/coalesce.rs`), and no call costs a task of its own.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{Builder, Connection, SendRequest},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use super::leave::Leaving;
use crate::transport::{Ahead, Coalesced, Driven};

/// Any kind of socket.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<IO: AsyncRead + AsyncWrite + Send + Unpin> Socket for IO {}

/// A socket whose kind no longer matters.
pub(super) type AnySocket = Box<dyn Socket>;
type ReadAhead = Ahead<AnySocket>;

/// What one reply may have unread: a burst of small messages never waits for
/// a WINDOW_UPDATE, and a caller that reads slowly holds no more than this.
const STREAM_WINDOW: u32 = 256 << 10;
/// All replies together. Each slow reader takes a stream's window out of it,
/// so it must be many of those, or a few would hold everybody up. Small unread
/// messages count at what they cost here, and may cost as much: else the
/// machine would close the connection on ten thousand dialogues' first words.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// Most bytes of one reply's headers or trailers.
const HEADER_BYTES: u32 = 256 << 10;
/// Calls at once until the upstream has said how many it takes.
const FIRST_STREAMS: usize = 100;

/// When to ask a silent upstream whether it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeepAlive {
    /// How long after the last answer.
    pub interval: Duration,
    /// How long it may take to answer.
    pub timeout: Duration,
}

/// A connection that takes calls until it is closed.
#[derive(Debug)]
pub(super) struct Link {
    calls: SendRequest<Bytes>,
    pub(super) leaving: Leaving,
    carried: Arc<AtomicUsize>,
    closed: Arc<AtomicBool>,
}

/// What is under way on all connections of a line.
#[derive(Debug, Default)]
pub(super) struct Burden {
    carried: AtomicUsize,
    /// Rung when a call has ended, for one that waits for room.
    pub(super) eased: Notify,
}

impl Burden {
    pub(super) fn carried(&self) -> usize {
        self.carried.load(Ordering::Relaxed)
    }
}

/// Stands for one call under way, on its connection and on its line.
#[derive(Debug)]
pub(super) struct Carried {
    link: Arc<AtomicUsize>,
    line: Arc<Burden>,
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.link.fetch_sub(1, Ordering::Relaxed);
        self.line.carried.fetch_sub(1, Ordering::Relaxed);
        self.line.eased.notify_one();
    }
}

impl Link {
    /// Speaks HTTP/2 over `socket`; the connection is made once the upstream
    /// has answered a ping. `ended` is called when it is lost.
    pub(super) async fn open(
        socket: AnySocket,
        keep_alive: Option<KeepAlive>,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Self, h2::Error> {
        let socket = Coalesced::new(Ahead::new(socket));
        let handshake = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_BYTES)
            .data_frame_budget(CONNECTION_WINDOW as usize)
            .initial_max_send_streams(FIRST_STREAMS)
            .enable_push(false)
            .handshake(socket.share());
        let (calls, mut connection) = handshake.await?;
        let mut pings = connection.ping_pong().expect("it is taken once");
        let mut driven = socket.drive(connection);
        {
            let mut first = std::pin::pin!(pings.ping(Ping::opaque()));
            poll_fn(|cx| match Pin::new(&mut driven).poll(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => Poll::Ready(Err(closed_at_once())),
                Poll::Pending => first.as_mut().poll(cx).map_ok(|_| ()),
            })
            .await?;
        }
        let closed = Arc::<AtomicBool>::default();
        let told = Arc::clone(&closed);
        tokio::spawn(async move {
            drive(driven, pings, keep_alive).await;
            told.store(true, Ordering::Release);
            ended();
        });
        Ok(Self {
            calls,
            leaving: Leaving::new(),
            carried: Arc::default(),
            closed,
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Takes no more calls: it said that it goes away.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(super) fn carried(&self) -> usize {
        self.carried.load(Ordering::Relaxed)
    }

    /// Whether another call would not have to wait for one to end. The
    /// upstream's own bound has come before the answer to the first ping.
    pub(super) fn has_room(&self) -> bool {
        self.carried() < self.calls.current_max_send_streams().max(1)
    }

    /// What writes a call into the machine, and the call's place in the count.
    pub(super) fn take(&self, line: &Arc<Burden>) -> (SendRequest<Bytes>, Carried) {
        let (link, line) = (Arc::clone(&self.carried), Arc::clone(line));
        link.fetch_add(1, Ordering::Relaxed);
        line.carried.fetch_add(1, Ordering::Relaxed);
        (self.calls.clone(), Carried { link, line })
    }
}

fn closed_at_once() -> h2::Error {
    h2::Error::from(h2::Reason::CONNECT_ERROR)
}

/// Moves the connection's bytes until it ends, or no longer answers.
async fn drive(
    mut driven: Driven<Connection<Coalesced<ReadAhead>, Bytes>, ReadAhead>,
    mut pings: PingPong,
    keep_alive: Option<KeepAlive>,
) {
    let Some(KeepAlive {
        interval,
        timeout: patience,
    }) = keep_alive
    else {
        ended(driven.await);
        return;
    };
    let silence = async {
        let mut next = Instant::now() + interval;
        loop {
            sleep_until(next).await;
            match timeout(patience, pings.ping(Ping::opaque())).await {
                Ok(Ok(_)) => next = Instant::now() + interval,
                Ok(Err(_)) => std::future::pending().await,
                Err(_) => return,
            }
        }
    };
    tokio::select! {
        done = &mut driven => ended(done),
        () = silence => tracing::warn!(?patience, "an upstream connection no longer answers: it is given up"),
    }
}

fn ended(done: Result<(), h2::Error>) {
    if let Err(error) = done {
        tracing::debug!(%error, "an upstream connection ended with an error");
    }
}
