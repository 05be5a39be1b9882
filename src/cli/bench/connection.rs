//! One connection of the load and the callers that use it: reads, settles what
//! was answered, sends what comes next, writes it all at once. One task, and
//! no waker but its own: who is answered is known from the bytes.

use std::{
    collections::VecDeque,
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant as StdInstant},
};

use bytes::Buf;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep, timeout},
};

use super::{
    alarm::Alarm,
    caller::{Caller, Desk, Patience, SharedDesk, request_head},
    frame::Broken,
    http2::{Answer, Http2},
    lateness::Cause,
    pace::Pace,
    plan::LoadPlan,
};

/// Read at once; some hundreds of answers.
const READ: usize = 64 << 10;
/// How long a new connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an open loop that sends seldom looks whether others sent the last.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Why a connection is no longer polled.
#[derive(Debug)]
pub(super) enum Ended {
    /// All its callers are done.
    Done,
    /// It broke, or the server closed it.
    Lost(String),
}

/// What outlives a connection: its callers and, in an open loop, their pace.
#[derive(Debug)]
pub(super) struct Crew {
    pub(super) callers: Vec<Caller>,
    pub(super) pace: Option<Pace>,
}

/// One connection with its callers.
pub(super) struct Line {
    stream: TcpStream,
    http2: Http2,
    read: Box<[u8]>,
    answers: Vec<Answer>,
    callers: Vec<Caller>,
    /// In an open loop: when calls are due, and what wakes the task then.
    pace: Option<(Pace, Alarm)>,
    /// Until when a call was last held up for want of a caller or a stream, and
    /// whether one still is.
    held_until: StdInstant,
    is_holding: bool,
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
    /// Connects to the target of `plan` for `crew`.
    ///
    /// # Errors
    /// Gives the crew back with the reason.
    pub(super) async fn connect(plan: &LoadPlan, crew: Crew) -> Result<Self, (Crew, io::Error)> {
        let connected = timeout(CONNECT_TIMEOUT, open(plan.target)).await;
        let stream = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => stream,
            Err(error) => return Err((crew, error)),
        };
        let Crew { callers, pace } = crew;
        let line = Self {
            stream,
            http2: Http2::new(request_head(plan)),
            read: vec![0; READ].into(),
            answers: Vec::new(),
            eager: (0..callers.len()).collect(),
            working: callers.len(),
            callers,
            pace: None,
            // What was due before is no fault of the generator's.
            held_until: Instant::now().into_std(),
            is_holding: false,
            alarm: Box::pin(sleep(Duration::ZERO)),
        };
        match pace {
            Some(pace) => line.at(pace),
            None => Ok(line),
        }
    }

    /// Sends calls at their times, from now on.
    ///
    /// # Errors
    /// If the system has no timer; the crew is given back.
    pub(super) fn at(mut self, pace: Pace) -> Result<Self, (Crew, io::Error)> {
        match Alarm::new() {
            Ok(alarm) => {
                self.pace = Some((pace, alarm));
                Ok(self)
            }
            Err(error) => {
                let callers = self.callers;
                let pace = Some(pace);
                Err((Crew { callers, pace }, error))
            }
        }
    }

    /// Whether it sends calls at their times.
    pub(super) fn is_paced(&self) -> bool {
        self.pace.is_some()
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

    /// The crew, for the next connection.
    pub(super) fn into_crew(self) -> Crew {
        Crew {
            callers: self.callers,
            pace: self.pace.map(|(pace, _)| pace),
        }
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
            match self.poll_read(cx)? {
                Poll::Ready(()) => self.settle(desk),
                Poll::Pending if self.poll_due(cx, desk)?.is_ready() => {}
                Poll::Pending => return Poll::Pending,
            }
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
        if self.pace.is_some() {
            return self.send_due(desk);
        }
        if self.eager.is_empty() {
            return;
        }
        let now = Instant::now().into_std();
        while let Some(&at) = self.eager.front() {
            let caller = &mut self.callers[at];
            if !caller.load(desk, now) {
                self.working -= 1;
            } else if self.http2.can_open() {
                caller.send(desk, (now, now), |message| self.http2.open(at, message));
            } else {
                return;
            }
            self.eager.pop_front();
        }
    }

    /// Sends the calls whose time has come, as far as there are callers for
    /// them and the server takes them.
    fn send_due(&mut self, desk: &mut Desk) {
        let Some((pace, _)) = &mut self.pace else {
            return;
        };
        let now = Instant::now().into_std();
        if let Some(closed) = desk.closes().filter(|closes| *closes <= now) {
            desk.pass_over(pace.pass_until(closed));
        }
        if std::mem::take(&mut self.is_holding) {
            self.held_until = now;
        }
        while !desk.is_spent(now) {
            let meant = pace.next();
            if meant > now {
                return;
            }
            let Some(&at) = self.eager.front().filter(|_| self.http2.can_open()) else {
                self.is_holding = true;
                return;
            };
            let caller = &mut self.callers[at];
            if !caller.load(desk, now) {
                break;
            }
            let cause = match self.held_until < meant {
                true => Cause::Generator,
                false => Cause::Waiting,
            };
            desk.tally.lateness.on_sent(now - meant, cause);
            caller.send(desk, (meant, now), |message| self.http2.open(at, message));
            self.eager.pop_front();
            pace.advance();
        }
        self.working -= self.eager.len();
        self.eager.clear();
    }

    /// In an open loop: ready when the next call is due, or the load over.
    fn poll_due(&mut self, cx: &mut Context<'_>, desk: &Desk) -> Result<Poll<()>, Broken> {
        let Some((pace, alarm)) = &mut self.pace else {
            return Ok(Poll::Pending);
        };
        let now = Instant::now().into_std();
        if self.is_holding || desk.is_spent(now) && self.eager.is_empty() {
            // An answer is what it waits for.
            return Ok(Poll::Pending);
        }
        let moment = pace.next().min(now + LOOK_AGAIN);
        let moment = desk.closes().map_or(moment, |closes| closes.min(moment));
        match alarm.poll_until(moment, cx) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
            Poll::Ready(Err(error)) => Err(lost(&error)),
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
