//! One connection of the load and the callers that use it: reads, settles what
//! was answered, sends what comes next, writes it all at once. One task, and
//! no waker but its own: who is answered is known from the bytes.

use std::{
    collections::VecDeque,
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Buf;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep, timeout},
};

use super::{
    caller::{Caller, Desk, Patience, SharedDesk, request_head},
    frame::Broken,
    http2::{Answer, Http2},
    plan::LoadPlan,
};

/// Read at once; some hundreds of answers.
const READ: usize = 64 << 10;
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
    stream: TcpStream,
    http2: Http2,
    read: Box<[u8]>,
    answers: Vec<Answer>,
    callers: Vec<Caller>,
    /// Callers that would send.
    eager: VecDeque<usize>,
    /// Callers that are not done.
    working: usize,
    alarm: Pin<Box<Sleep>>,
}

impl fmt::Debug for Line {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Line")
            .field("working", &self.working)
            .finish_non_exhaustive()
    }
}

impl Line {
    /// Connects to the target of `plan` for `callers`.
    ///
    /// # Errors
    /// Gives the callers back with the reason.
    pub(super) async fn connect(
        plan: &LoadPlan,
        callers: Vec<Caller>,
    ) -> Result<Self, (Vec<Caller>, io::Error)> {
        let stream = match timeout(CONNECT_TIMEOUT, open(plan.target)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err((callers, error)),
            Err(_) => return Err((callers, io::ErrorKind::TimedOut.into())),
        };
        Ok(Self {
            stream,
            http2: Http2::new(request_head(plan)),
            read: vec![0; READ].into(),
            answers: Vec::new(),
            eager: (0..callers.len()).collect(),
            working: callers.len(),
            callers,
            alarm: Box::pin(sleep(Duration::ZERO)),
        })
    }

    /// Runs until the callers are done or the connection is lost.
    pub(super) async fn run(&mut self, desk: &SharedDesk) -> Ended {
        std::future::poll_fn(|cx| {
            let desk = &mut desk.borrow_mut();
            match self.poll(cx, desk) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Ok(())) => Poll::Ready(Ended::Done),
                Poll::Ready(Err(Broken(reason))) => {
                    self.lose(&reason, desk);
                    Poll::Ready(Ended::Lost(reason))
                }
            }
        })
        .await
    }

    /// The callers, for the next connection.
    pub(super) fn into_callers(self) -> Vec<Caller> {
        self.callers
    }

    /// How many calls the server lets this connection have in flight.
    pub(super) fn stream_limit(&self) -> usize {
        self.http2.max_streams()
    }

    /// How many callers share this connection.
    pub(super) fn callers(&self) -> usize {
        self.callers.len()
    }

    fn poll(&mut self, cx: &mut Context<'_>, desk: &mut Desk) -> Poll<Result<(), Broken>> {
        self.poll_alarm(cx, desk);
        loop {
            self.send(desk);
            // Once for all that the last answers brought about.
            self.poll_write(cx)?;
            if self.working == 0 {
                return Poll::Ready(Ok(()));
            }
            if self.poll_read(cx)?.is_pending() {
                return Poll::Pending;
            }
            self.settle(desk);
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        let mut into = ReadBuf::new(&mut self.read);
        match Pin::new(&mut self.stream).poll_read(cx, &mut into) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Err(error)) => return Err(lost(&error)),
            Poll::Ready(Ok(())) => {}
        }
        if into.filled().is_empty() {
            return Err(lost(&"closed by the server"));
        }
        self.http2.receive(into.filled(), &mut self.answers)?;
        Ok(Poll::Ready(()))
    }

    fn settle(&mut self, desk: &mut Desk) {
        let now = Instant::now().into_std();
        for Answer { caller, verdict } in self.answers.drain(..) {
            self.callers[caller].settle(verdict, desk, now);
            self.eager.push_back(caller);
        }
    }

    /// Sends the calls of those who would, as far as the server takes them.
    fn send(&mut self, desk: &mut Desk) {
        if self.eager.is_empty() {
            return;
        }
        let now = Instant::now().into_std();
        while let Some(&at) = self.eager.front() {
            let caller = &mut self.callers[at];
            if !caller.load(desk, now) {
                self.working -= 1;
            } else if self.http2.can_open() {
                caller.send(desk, now, |message| self.http2.open(at, message));
            } else {
                return;
            }
            self.eager.pop_front();
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        while !self.http2.outbound().is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, self.http2.outbound()) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Err(lost(&error)),
                Poll::Ready(Ok(0)) => return Err(lost(&"nothing more can be sent")),
                Poll::Ready(Ok(sent)) => self.http2.outbound().advance(sent),
            }
        }
        Ok(())
    }

    /// Lets callers whose time is up give up, and sets the clock for the next.
    /// Only the earliest moment is kept: every call has the same patience, so
    /// a call sent later cannot be due before it.
    fn poll_alarm(&mut self, cx: &mut Context<'_>, desk: &mut Desk) {
        while self.alarm.as_mut().poll(cx).is_ready() {
            let now = Instant::now().into_std();
            let mut next = now + desk.timeout();
            // Callers that wait for a free stream must see the load close.
            if let Some(closes) = desk.closes().filter(|closes| now < *closes) {
                next = next.min(closes);
            }
            for (at, caller) in self.callers.iter_mut().enumerate() {
                match caller.give_up_if_due(desk, now) {
                    Patience::NotTried => {}
                    Patience::Until(due) => next = next.min(due),
                    Patience::Lost { stream } => {
                        self.http2.reset(stream);
                        self.eager.push_back(at);
                    }
                }
            }
            self.alarm.as_mut().reset(next.into());
        }
    }

    /// Settles every call that was out, as far as the bytes did not.
    fn lose(&mut self, reason: &str, desk: &mut Desk) {
        self.settle(desk);
        let now = Instant::now().into_std();
        for caller in &mut self.callers {
            caller.settle(Err(reason.to_owned().into()), desk, now);
        }
    }
}

async fn open(target: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn lost(reason: &dyn fmt::Display) -> Broken {
    Broken(format!("connection lost: {reason}"))
}
