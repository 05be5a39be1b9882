//! One caller of the load: takes sessions, sends the call, awaits its answer,
//! and so on until the work is done. A plain state machine that its connection
//! drives, so that two thousand of them are two thousand small structs and not
//! as many tasks. Pure: takes `now` as an argument.

use std::{
    cell::RefCell,
    ops::Range,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    answer::Verdict,
    hpack::RequestHead,
    message::Messages,
    plan::{AfterTimeout, Deadline, Form, LoadPlan},
    tally::Tally,
};

/// The path that both generations of clients call.
const CREATE: &str = "/meta.service.mqtt.MqttService/CreateSession";
/// The paths that clients of etcd call.
const PUT: &str = "/etcdserverpb.KV/Put";
const TXN: &str = "/etcdserverpb.KV/Txn";

/// What all callers of a load share; they run on one thread.
pub(super) type SharedDesk = Rc<RefCell<Desk>>;

/// Where callers fetch their next sessions and report the last.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) tally: Tally,
    messages: Messages,
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

    /// When calls stop being sent, if ever.
    pub(super) fn closes(&self) -> Option<Instant> {
        self.closes
    }

    /// Whether calls may still be sent at `now`.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.closes.is_none_or(|closes| now < closes)
    }

    /// Whether no more calls will begin.
    pub(super) fn is_spent(&self, now: Instant) -> bool {
        self.unsent() == 0 || !self.is_open(now)
    }

    /// The sessions of `calls` calls were due, and will not be sent.
    pub(super) fn pass_over(&mut self, calls: u64) {
        let sessions = calls.saturating_mul(self.batch).min(self.unsent());
        self.next += sessions;
        self.tally.lateness.on_unsent(sessions);
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

/// The head of every call of `plan`.
pub(super) fn request_head(plan: &LoadPlan) -> RequestHead {
    let (target, timeout) = (plan.target.to_string(), grpc_timeout(plan.timeout));
    let path = match plan.form {
        Form::Legacy | Form::Batch => CREATE,
        Form::Put => PUT,
        Form::Txn => TXN,
    };
    let mut fields = vec![
        (":path", path),
        (":authority", &target),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        (
            "user-agent",
            concat!("ferry-bench/", env!("CARGO_PKG_VERSION")),
        ),
    ];
    if plan.deadline == Deadline::Announced {
        fields.push(("grpc-timeout", &timeout));
    }
    RequestHead::new(&fields)
}

/// At most eight digits, as gRPC asks: milliseconds, or else seconds.
fn grpc_timeout(timeout: Duration) -> String {
    let millis = timeout.as_millis();
    if millis < 100_000_000 {
        format!("{millis}m")
    } else {
        format!("{}S", timeout.as_secs().min(99_999_999))
    }
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
    /// It gave the call up: its stream is to be reset, and it can go on.
    Lost {
        /// The call's stream.
        stream: u32,
    },
}

#[derive(Debug)]
enum Stage {
    /// No sessions at hand.
    Idle,
    /// The sessions at hand are to be sent, perhaps again.
    Loaded,
    /// The call is out since `at`, on this stream, and was to be at `meant`.
    Sent {
        meant: Instant,
        at: Instant,
        stream: u32,
    },
}

impl Caller {
    /// A caller that has not begun.
    pub(super) fn new() -> Self {
        Self {
            sessions: 0..0,
            stage: Stage::Idle,
        }
    }

    /// Whether it holds sessions that are still to be sent.
    pub(super) fn is_loaded(&self) -> bool {
        matches!(self.stage, Stage::Loaded)
    }

    /// Takes the next sessions unless it holds some; whether there is a call
    /// to be sent. If not, this caller is done.
    pub(super) fn load(&mut self, desk: &mut Desk, now: Instant) -> bool {
        if self.is_loaded() {
            return desk.is_open(now);
        }
        let Some(sessions) = desk.fetch(now) else {
            return false;
        };
        self.sessions = sessions;
        self.stage = Stage::Loaded;
        true
    }

    /// Sends the call, which was to leave at `meant`, through `open`, which
    /// answers with its stream.
    pub(super) fn send(
        &mut self,
        desk: &mut Desk,
        (meant, now): (Instant, Instant),
        open: impl FnOnce(Bytes) -> u32,
    ) {
        let stream = open(desk.messages.frame(self.sessions.clone()));
        self.stage = Stage::Sent {
            meant,
            at: now,
            stream,
        };
    }

    /// The call at hand has ended.
    pub(super) fn settle(&mut self, verdict: Verdict, desk: &mut Desk, now: Instant) {
        let Stage::Sent { meant, .. } = self.stage else {
            return;
        };
        match verdict {
            Ok(()) => {
                let latency = now.saturating_duration_since(meant);
                desk.tally.acknowledge(self.sessions.clone(), latency, now);
            }
            Err(error) => desk
                .tally
                .fail(self.sessions.end - self.sessions.start, &error, now),
        }
        self.stage = Stage::Idle;
    }

    /// Gives up if the call at hand has had its time.
    pub(super) fn give_up_if_due(&mut self, desk: &mut Desk, now: Instant) -> Patience {
        let Stage::Sent { at, stream, .. } = self.stage else {
            return Patience::NotTried;
        };
        let due = at + desk.timeout;
        if now < due {
            return Patience::Until(due);
        }
        desk.tally
            .give_up(self.sessions.end - self.sessions.start, now);
        self.stage = match desk.after_timeout {
            AfterTimeout::SameSession => Stage::Loaded,
            AfterTimeout::NextSession => Stage::Idle,
        };
        Patience::Lost { stream }
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
    fn a_caller_that_gave_up_sends_the_same_session_again_if_asked_to() {
        for (after, again) in [
            (AfterTimeout::SameSession, 0..1),
            (AfterTimeout::NextSession, 1..2),
        ] {
            let mut plan = plan(([127, 0, 0, 1], 1).into());
            plan.after_timeout = after;
            let now = Instant::now();
            let (mut desk, mut caller) = (Desk::new(&plan, now), Caller::new());
            assert!(caller.load(&mut desk, now));
            caller.send(&mut desk, (now, now), |_| 7);
            let due = now + plan.timeout;
            assert_eq!(caller.give_up_if_due(&mut desk, now), Patience::Until(due));
            assert_eq!(
                caller.give_up_if_due(&mut desk, due),
                Patience::Lost { stream: 7 }
            );
            assert_eq!(caller.give_up_if_due(&mut desk, due), Patience::NotTried);
            assert!(caller.load(&mut desk, due));
            assert_eq!(caller.sessions, again);
            assert_eq!(desk.tally.timeout, 1);
        }
    }

    #[test]
    fn latency_counts_from_the_time_that_was_meant_and_patience_from_the_sending() {
        let mut plan = plan(([127, 0, 0, 1], 1).into());
        plan.timeout = Duration::from_secs(5);
        let meant = Instant::now();
        let sent = meant + Duration::from_secs(3);
        let (mut desk, mut caller) = (Desk::new(&plan, meant), Caller::new());
        assert!(caller.load(&mut desk, sent));
        caller.send(&mut desk, (meant, sent), |_| 7);
        let due = sent + plan.timeout;
        assert_eq!(caller.give_up_if_due(&mut desk, sent), Patience::Until(due));
        caller.settle(Ok(()), &mut desk, sent + Duration::from_secs(1));
        let latency = desk.tally.latency.max() as f64 / 4e6;
        assert!((latency - 1.0).abs() < 0.001, "four seconds, not one");
    }

    #[test]
    fn sessions_that_are_passed_over_are_not_sent_later() {
        let plan = plan(([127, 0, 0, 1], 1).into());
        let mut desk = Desk::new(&plan, Instant::now());
        desk.pass_over(60);
        assert_eq!(desk.unsent(), 40);
        desk.pass_over(60);
        assert!(desk.is_spent(Instant::now()));
    }

    #[test]
    fn grpc_timeout_has_at_most_eight_digits() {
        assert_eq!(grpc_timeout(Duration::from_millis(250)), "250m");
        assert_eq!(grpc_timeout(Duration::from_secs(1_000_000)), "1000000S");
    }
}
