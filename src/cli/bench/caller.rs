//! One caller of the load: takes sessions, sends the call, awaits its answer,
//! and so on until the work is done. A plain state machine that its connection
//! polls, so that two thousand of them are two thousand small structs and not
//! as many tasks.

use std::{
    cell::RefCell,
    ops::Range,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Reason, SendStream, client::SendRequest};
use http::{HeaderValue, Method, Request, Version, header};

use super::{
    answer::Answer,
    message::Messages,
    plan::{AfterTimeout, Deadline, LoadPlan},
    tally::Tally,
};

/// The path that both generations of clients call.
const PATH: &str = "/meta.service.mqtt.MqttService/CreateSession";

/// What all callers of a load share; they run on one thread.
pub(super) type SharedDesk = Rc<RefCell<Desk>>;

/// Where callers fetch their next sessions and report the last.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) tally: Tally,
    messages: Messages,
    request: Request<()>,
    after_timeout: AfterTimeout,
    timeout: Duration,
    batch: u64,
    next: u64,
    end: u64,
    closes: Option<Instant>,
}

impl Desk {
    /// The desk of the load `plan`, open from `started` on.
    pub(super) fn new(plan: &LoadPlan, started: Instant) -> Self {
        Self {
            tally: Tally::new(started),
            messages: Messages::new(plan),
            request: request(plan),
            after_timeout: plan.after_timeout,
            timeout: plan.timeout,
            batch: u64::from(plan.batch_size.get()),
            next: 0,
            end: plan.count.unwrap_or(u64::MAX),
            closes: plan.duration.map(|duration| started + duration),
        }
    }

    /// How long a caller waits for one answer.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether calls may still be sent at `now`.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.closes.is_none_or(|closes| now < closes)
    }

    /// Sessions that no caller has fetched.
    pub(super) fn unsent(&self) -> u64 {
        self.end - self.next
    }

    fn fetch(&mut self, now: Instant) -> Option<Range<u64>> {
        if self.next == self.end || !self.is_open(now) {
            return None;
        }
        let first = self.next;
        self.next = self.end.min(first.saturating_add(self.batch));
        Some(first..self.next)
    }
}

/// The head of every call, prepared once.
fn request(plan: &LoadPlan) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = format!("http://{}{PATH}", plan.target)
        .parse()
        .expect("a socket address and a fixed path make a URI");
    let headers = request.headers_mut();
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("ferry-bench/", env!("CARGO_PKG_VERSION"))),
    );
    if plan.deadline == Deadline::Announced {
        headers.insert("grpc-timeout", grpc_timeout(plan.timeout));
    }
    request
}

/// At most eight digits, as gRPC asks: milliseconds, or else seconds.
fn grpc_timeout(timeout: Duration) -> HeaderValue {
    let millis = timeout.as_millis();
    let text = if millis < 100_000_000 {
        format!("{millis}m")
    } else {
        format!("{}S", timeout.as_secs().min(99_999_999))
    };
    text.parse()
        .expect("digits and a letter make a header value")
}

/// One caller.
#[derive(Debug)]
pub(super) struct Caller {
    sessions: Range<u64>,
    stage: Stage,
}

/// What became of a caller's patience with its call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// It waits for no answer.
    NotTried,
    /// It waits until this moment.
    Until(Instant),
    /// It has just reset the call, and can go on.
    Lost,
}

#[derive(Debug)]
enum Stage {
    /// No sessions at hand.
    Idle,
    /// The sessions at hand are to be sent, perhaps again.
    Loaded,
    /// The call is out.
    Sent {
        at: Instant,
        stream: SendStream<Bytes>,
        answer: Answer,
    },
    /// There is nothing left to do.
    Done,
}

impl Caller {
    /// A caller that has not begun.
    pub(super) fn new() -> Self {
        Self {
            sessions: 0..0,
            stage: Stage::Idle,
        }
    }

    /// Whether this caller has nothing left to do.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// Whether it holds no sessions that are still to be sent.
    pub(super) fn is_empty_handed(&self) -> bool {
        matches!(self.stage, Stage::Idle | Stage::Done)
    }

    /// Goes as far as it can at `now`.
    ///
    /// # Errors
    /// The connection takes no more calls; the sessions at hand stay loaded
    /// for the next.
    pub(super) fn advance(
        &mut self,
        cx: &mut Context<'_>,
        line: &mut SendRequest<Bytes>,
        desk: &mut Desk,
        now: Instant,
    ) -> Result<(), h2::Error> {
        loop {
            match &mut self.stage {
                Stage::Done => return Ok(()),
                Stage::Idle => match desk.fetch(now) {
                    Some(sessions) => {
                        self.sessions = sessions;
                        self.stage = Stage::Loaded;
                    }
                    None => self.stage = Stage::Done,
                },
                Stage::Loaded if !desk.is_open(now) => self.stage = Stage::Done,
                Stage::Loaded => match line.poll_ready(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(ready) => {
                        ready?;
                        self.stage = self.send(line, desk, now)?;
                    }
                },
                Stage::Sent { at, answer, .. } => match answer.poll(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(())) => {
                        let latency = now.saturating_duration_since(*at);
                        desk.tally.acknowledge(self.sessions.clone(), latency, now);
                        self.stage = Stage::Idle;
                    }
                    Poll::Ready(Err(error)) => self.fail(&error, desk, now),
                },
            }
        }
    }

    fn send(
        &self,
        line: &mut SendRequest<Bytes>,
        desk: &mut Desk,
        now: Instant,
    ) -> Result<Stage, h2::Error> {
        let (head, mut stream) = line.send_request(desk.request.clone(), false)?;
        stream.send_data(desk.messages.frame(self.sessions.clone()), true)?;
        Ok(Stage::Sent {
            at: now,
            stream,
            answer: Answer::Awaited(head),
        })
    }

    /// Gives up if the call at hand has had its time.
    pub(super) fn give_up_if_due(&mut self, desk: &mut Desk, now: Instant) -> Patience {
        let Stage::Sent { at, stream, .. } = &mut self.stage else {
            return Patience::NotTried;
        };
        let due = *at + desk.timeout;
        if now < due {
            return Patience::Until(due);
        }
        stream.send_reset(Reason::CANCEL);
        desk.tally
            .give_up(self.sessions.end - self.sessions.start, now);
        self.stage = match desk.after_timeout {
            AfterTimeout::SameSession => Stage::Loaded,
            AfterTimeout::NextSession => Stage::Idle,
        };
        Patience::Lost
    }

    /// The connection is gone: a call that was out has failed.
    pub(super) fn lose(&mut self, error: &str, desk: &mut Desk, now: Instant) {
        if matches!(self.stage, Stage::Sent { .. }) {
            self.fail(error, desk, now);
        }
    }

    fn fail(&mut self, error: &str, desk: &mut Desk, now: Instant) {
        desk.tally
            .fail(self.sessions.end - self.sessions.start, error, now);
        self.stage = Stage::Idle;
    }
}

#[cfg(test)]
mod tests {
    use super::{super::plan::tests::plan, *};

    #[test]
    fn the_desk_hands_out_every_session_once_and_a_shorter_last_batch() {
        let mut plan = plan(([127, 0, 0, 1], 1).into());
        plan.batch_size = 40.try_into().unwrap();
        let now = Instant::now();
        let mut desk = Desk::new(&plan, now);
        assert_eq!(desk.fetch(now), Some(0..40));
        assert_eq!(desk.fetch(now), Some(40..80));
        assert_eq!(desk.unsent(), 20);
        assert_eq!(desk.fetch(now), Some(80..100));
        assert_eq!(desk.fetch(now), None);
    }

    #[test]
    fn the_desk_closes_when_the_duration_is_over() {
        let mut plan = plan(([127, 0, 0, 1], 1).into());
        plan.count = None;
        plan.duration = Some(Duration::from_secs(2));
        let now = Instant::now();
        let mut desk = Desk::new(&plan, now);
        assert!(desk.fetch(now + Duration::from_millis(1_999)).is_some());
        assert_eq!(desk.fetch(now + Duration::from_secs(2)), None);
    }

    #[test]
    fn grpc_timeout_is_sent_only_when_asked_for_and_in_eight_digits() {
        let mut plan = plan(([127, 0, 0, 1], 1).into());
        assert!(!request(&plan).headers().contains_key("grpc-timeout"));
        plan.deadline = Deadline::Announced;
        plan.timeout = Duration::from_millis(250);
        assert_eq!(request(&plan).headers()["grpc-timeout"], "250m");
        assert_eq!(grpc_timeout(Duration::from_secs(1_000_000)), "1000000S");
    }
}
