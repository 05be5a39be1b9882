//! One connection of the load and the callers that use it, polled inline by
//! one task: h2, the socket, the clock and every caller are its parts, and
//! only those that have something to do are polled.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::client::{self, SendRequest};
use tokio::{
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::{
    bell::Bell,
    caller::{Caller, Desk, Patience, SharedDesk},
    socket::{self, Outbox, Socket},
};

/// The parts in the bell's numbering; the callers follow.
const WIRE: usize = 0;
const ALARM: usize = 1;
const FIRST_CALLER: usize = 2;
/// Rounds in one poll, before the other connections have their turn.
const MAX_ROUNDS: usize = 64;
/// Flow-control windows so wide that they never close on small replies.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;
/// How long a new connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a connection is no longer polled.
#[derive(Debug)]
pub(super) enum Ended {
    /// All its callers are done.
    Done,
    /// It broke, or the server closed it.
    Lost(String),
}

/// One connection with its callers.
pub(super) struct Line {
    h2: client::Connection<Socket, Bytes>,
    outbox: Outbox,
    seats: Vec<Seat>,
    working: usize,
    bell: Arc<Bell>,
    rung: Vec<usize>,
    wire: Waker,
    alarm: Waker,
    alarm_clock: Pin<Box<Sleep>>,
}

/// A caller at a connection.
struct Seat {
    caller: Caller,
    /// Its own handle, since a handle remembers the one stream it waits to open.
    line: SendRequest<Bytes>,
    waker: Waker,
}

impl Line {
    /// Connects to `target` for `callers`.
    ///
    /// # Errors
    /// Gives the callers back with the reason.
    pub(super) async fn connect(
        target: SocketAddr,
        callers: Vec<Caller>,
    ) -> Result<Self, (Vec<Caller>, io::Error)> {
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, open(target, callers.len())).await;
        let (h2, outbox, line) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Err((callers, error)),
            Err(_) => return Err((callers, io::ErrorKind::TimedOut.into())),
        };
        let (bell, mut wakers) = Bell::with_cords(FIRST_CALLER + callers.len());
        let seats: Vec<_> = wakers
            .drain(FIRST_CALLER..)
            .zip(callers)
            .map(|(waker, caller)| Seat {
                caller,
                line: line.clone(),
                waker,
            })
            .collect();
        let [wire, alarm] = wakers
            .try_into()
            .unwrap_or_else(|_| unreachable!("two parts come before the callers"));
        Ok(Self {
            h2,
            outbox,
            working: seats.iter().filter(|seat| !seat.caller.is_done()).count(),
            seats,
            bell,
            rung: Vec::new(),
            wire,
            alarm,
            alarm_clock: Box::pin(sleep(Duration::ZERO)),
        })
    }

    /// Runs until the callers are done or the connection is lost.
    pub(super) async fn run(&mut self, desk: &SharedDesk) -> Ended {
        std::future::poll_fn(|cx| self.poll(cx, &mut desk.borrow_mut())).await
    }

    /// The callers, for the next connection.
    pub(super) fn into_callers(self) -> Vec<Caller> {
        self.seats.into_iter().map(|seat| seat.caller).collect()
    }

    /// How many calls the server lets this connection have in flight.
    pub(super) fn stream_limit(&self) -> usize {
        self.seats
            .first()
            .map_or(usize::MAX, |seat| seat.line.current_max_send_streams())
    }

    /// How many callers share this connection.
    pub(super) fn callers(&self) -> usize {
        self.seats.len()
    }

    fn poll(&mut self, cx: &mut Context<'_>, desk: &mut Desk) -> Poll<Ended> {
        let mut rung = std::mem::take(&mut self.rung);
        for _ in 0..MAX_ROUNDS {
            self.bell.take(&mut rung);
            if rung.is_empty() {
                break;
            }
            let now = Instant::now();
            for &part in &rung {
                let moved = match part {
                    WIRE => self.poll_wire(),
                    ALARM => {
                        self.poll_alarm(desk);
                        Ok(())
                    }
                    caller => self.poll_caller(caller - FIRST_CALLER, desk, now),
                };
                if let Err(error) = moved {
                    return Poll::Ready(self.lose(error, desk));
                }
            }
        }
        self.rung = rung;
        // Once a wake-up, not once a call: all that the rounds brought about
        // leaves in one write.
        if let Err(error) = self.poll_outbox() {
            return Poll::Ready(self.lose(error, desk));
        }
        if self.working == 0 {
            return Poll::Ready(Ended::Done);
        }
        self.bell.sleep(cx.waker());
        Poll::Pending
    }

    fn poll_wire(&mut self) -> Result<(), String> {
        let mut cx = Context::from_waker(&self.wire);
        match Pin::new(&mut self.h2).poll(&mut cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => Err("connection lost: closed by the server".into()),
            Poll::Ready(Err(error)) => Err(format!("connection lost: {error}")),
        }
    }

    fn poll_outbox(&mut self) -> Result<(), String> {
        let mut cx = Context::from_waker(&self.wire);
        match self.outbox.poll_send(&mut cx) {
            Poll::Ready(Err(error)) => Err(format!("connection lost: {error}")),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    fn poll_caller(&mut self, at: usize, desk: &mut Desk, now: Instant) -> Result<(), String> {
        let Seat {
            caller,
            line,
            waker,
        } = &mut self.seats[at];
        if caller.is_done() {
            return Ok(());
        }
        let mut cx = Context::from_waker(waker);
        let moved = caller.advance(&mut cx, line, desk, now);
        self.working -= usize::from(caller.is_done());
        moved.map_err(|error| format!("connection lost: {error}"))
    }

    /// Lets callers whose time is up give up, and sets the clock for the next.
    /// Only the earliest moment is kept: every call has the same patience, so
    /// a call sent later cannot be due before it.
    fn poll_alarm(&mut self, desk: &mut Desk) {
        loop {
            let mut cx = Context::from_waker(&self.alarm);
            if self.alarm_clock.as_mut().poll(&mut cx).is_pending() {
                return;
            }
            let now = Instant::now();
            let mut next = now + desk.timeout();
            for seat in &mut self.seats {
                match seat.caller.give_up_if_due(desk, now) {
                    Patience::Until(due) => next = next.min(due),
                    Patience::Lost => seat.waker.wake_by_ref(),
                    Patience::NotTried => {}
                }
            }
            self.alarm_clock.as_mut().reset(next.into());
        }
    }

    fn lose(&mut self, error: String, desk: &mut Desk) -> Ended {
        let now = Instant::now();
        for seat in &mut self.seats {
            seat.caller.lose(&error, desk, now);
        }
        Ended::Lost(error)
    }
}

type Opened = (
    client::Connection<Socket, Bytes>,
    Outbox,
    SendRequest<Bytes>,
);

async fn open(target: SocketAddr, callers: usize) -> io::Result<Opened> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let (socket, outbox) = socket::halves(stream);
    let (line, h2) = client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // Replies are a few bytes each; thousands may lie unread in one round.
        .data_frame_budget(CONNECTION_WINDOW as usize)
        // Callers that give up all at once must not cost the connection: their
        // late answers are expected.
        .max_concurrent_reset_streams(4 * callers)
        .reset_stream_duration(Duration::from_secs(1))
        .max_local_error_reset_streams(None)
        .handshake(socket)
        .await
        .map_err(io::Error::other)?;
    Ok((h2, outbox, line))
}
