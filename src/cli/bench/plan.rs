//! What a load is asked to be, checked once: whoever holds a [`LoadPlan`] that
//! passed [`LoadPlan::checked`] need not ask again whether its numbers make
//! sense together. Pure, so that every refusal is tested without a socket.

use std::{fmt, net::SocketAddr, num::NonZeroU32, time::Duration};

use serde::{Serialize, Serializer};

use super::pace::Rate;

/// Most sessions a second that an open loop sends.
pub(super) const MAX_RATE: u32 = 10_000_000;
/// Most callers at once; each holds one stream's state, some 300 bytes.
pub(super) const MAX_CONCURRENCY: u32 = 100_000;
/// Most connections at once, under the usual limit of open files.
pub(super) const MAX_CONNECTIONS: u32 = 900;
/// Most entries in one call of the batch form.
pub(super) const MAX_BATCH: u32 = 50_000;
/// Most bytes in one call's message; gRPC servers refuse 4 MiB by default.
pub(super) const MAX_MESSAGE: u64 = 64 << 20;

/// Which generation of client the load imitates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// One session a call, as clients up to v0.3.2 send it.
    Legacy,
    /// `batch_size` sessions a call, as clients from v0.3.3 can send it.
    Batch,
    /// One key a call, as clients of etcd send it (the benchmark's alone).
    #[value(skip)]
    Put,
    /// `batch_size` keys a call, as a client of etcd that batches by hand
    /// sends them (the benchmark's alone).
    #[value(skip)]
    Txn,
}

/// What a caller does after it gave up on a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterTimeout {
    /// It goes on with a new session.
    NextSession,
    /// It sends the same session again, until the load ends.
    SameSession,
}

/// Whether a caller tells the server how long it will wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// It only resets the stream when it gives up, as old clients do.
    Kept,
    /// It also sends `grpc-timeout`.
    Announced,
}

/// One load: who calls what, how often, for how long.
#[derive(Clone, Debug, Serialize)]
pub struct LoadPlan {
    /// Where the calls go.
    pub target: SocketAddr,
    /// Old or new form of the call.
    pub form: Form,
    /// Sessions a call (the batch form only; 1 in the legacy form).
    pub batch_size: NonZeroU32,
    /// TCP connections, among which the callers are dealt evenly.
    pub connections: NonZeroU32,
    /// Callers; each has one call in flight and sends the next when answered,
    /// or, at a rate, when one is due.
    pub concurrency: NonZeroU32,
    /// Calls are sent at their times (open loop), if given; else each caller
    /// sends its next call when the last is answered (closed loop).
    pub rate: Option<Rate>,
    /// Ends after this many sessions, if given.
    pub count: Option<u64>,
    /// Starts no call after this long, if given.
    #[serde(rename = "duration_seconds", serialize_with = "seconds")]
    pub duration: Option<Duration>,
    /// How long a caller waits for one answer.
    #[serde(rename = "timeout_ms", serialize_with = "milliseconds")]
    pub timeout: Duration,
    /// What it does then.
    #[serde(rename = "retry", serialize_with = "retries")]
    pub after_timeout: AfterTimeout,
    /// Whether the server is told.
    #[serde(rename = "grpc_timeout", serialize_with = "announced")]
    pub deadline: Deadline,
    /// Bytes of one session's value.
    pub value_bytes: usize,
    /// What every client id begins with; the session's number follows.
    pub client_id_prefix: String,
}

/// A plan that makes no sense: the value, the bound, the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{flag} {value}: {bound}; {remedy}")]
pub struct PlanError {
    flag: &'static str,
    value: String,
    bound: String,
    remedy: &'static str,
}

impl PlanError {
    /// A refusal of `value` given to `flag`: what is allowed, and what to do.
    pub fn new(
        flag: &'static str,
        value: impl fmt::Display,
        bound: impl Into<String>,
        remedy: &'static str,
    ) -> Self {
        Self {
            flag,
            value: value.to_string(),
            bound: bound.into(),
            remedy,
        }
    }
}

impl LoadPlan {
    /// The plan itself if its numbers make sense together.
    ///
    /// # Errors
    /// Names the first flag that does not, its bound and the remedy.
    pub fn checked(self) -> Result<Self, PlanError> {
        if self.count.is_none() && self.duration.is_none() {
            return Err(PlanError::new(
                "--count",
                "(none)",
                "a load must end",
                "give --count, --duration or both",
            ));
        }
        if self.count == Some(0) {
            return Err(PlanError::new(
                "--count",
                0,
                "must be at least 1",
                "leave it out to be ended by --duration alone",
            ));
        }
        if self.duration.is_some_and(|duration| duration.is_zero()) {
            return Err(PlanError::new(
                "--duration",
                "0s",
                "must be longer than nothing",
                "leave it out to be ended by --count alone",
            ));
        }
        if self.after_timeout == AfterTimeout::SameSession && self.duration.is_none() {
            return Err(PlanError::new(
                "--retry",
                "(set)",
                "a session that is never answered would be sent for ever",
                "add --duration",
            ));
        }
        self.check_rate()?;
        if self.timeout < Duration::from_millis(1) {
            return Err(PlanError::new(
                "--timeout-ms",
                self.timeout.as_millis(),
                "must be at least 1",
                "60000 gives every answer the time it needs",
            ));
        }
        self.check_crowd()?;
        self.check_message()?;
        Ok(self)
    }

    fn check_rate(&self) -> Result<(), PlanError> {
        let Some(rate) = self.rate else {
            return Ok(());
        };
        let rate = rate.sessions_per_sec.get();
        if rate > MAX_RATE {
            return Err(PlanError::new(
                "--rate",
                rate,
                format!("must be 1 to {MAX_RATE} sessions a second"),
                "leave it out for as many as the server answers",
            ));
        }
        if self.after_timeout == AfterTimeout::SameSession {
            return Err(PlanError::new(
                "--rate",
                rate,
                "each session is sent once, at its time",
                "leave --retry or --rate out",
            ));
        }
        Ok(())
    }

    fn check_crowd(&self) -> Result<(), PlanError> {
        let (callers, lines) = (self.concurrency.get(), self.connections.get());
        if callers > MAX_CONCURRENCY {
            return Err(PlanError::new(
                "--concurrency",
                callers,
                format!("must be 1 to {MAX_CONCURRENCY}"),
                "run a second bench for more",
            ));
        }
        if lines > MAX_CONNECTIONS {
            return Err(PlanError::new(
                "--connections",
                lines,
                format!("must be 1 to {MAX_CONNECTIONS}"),
                "one connection carries many calls at once",
            ));
        }
        if lines > callers {
            return Err(PlanError::new(
                "--connections",
                lines,
                format!("must be at most --concurrency {callers}"),
                "a connection without a caller would stay idle",
            ));
        }
        Ok(())
    }

    fn check_message(&self) -> Result<(), PlanError> {
        let batch = self.batch_size.get();
        if matches!(self.form, Form::Legacy | Form::Put) && batch != 1 {
            return Err(PlanError::new(
                "--batch-size",
                batch,
                "the legacy form carries 1 session a call",
                "add --form batch",
            ));
        }
        if batch > MAX_BATCH {
            return Err(PlanError::new(
                "--batch-size",
                batch,
                format!("must be 1 to {MAX_BATCH}"),
                "raise --concurrency for more sessions in flight",
            ));
        }
        if self.value_bytes == 0 {
            return Err(PlanError::new(
                "--value-bytes",
                0,
                "an empty session is refused by every server",
                "1 is the smallest",
            ));
        }
        let prefix = &self.client_id_prefix;
        if prefix.len() > 200 || prefix.chars().any(char::is_control) {
            return Err(PlanError::new(
                "--client-id-prefix",
                format!("{prefix:.40?}"),
                "must be at most 200 bytes without control characters",
                "leave it out for a prefix that is new each time",
            ));
        }
        let message =
            (self.value_bytes as u64 + prefix.len() as u64 + 40).saturating_mul(u64::from(batch));
        if message > MAX_MESSAGE {
            return Err(PlanError::new(
                "--value-bytes",
                self.value_bytes,
                format!("one call would be {message} bytes, above {MAX_MESSAGE}"),
                "lower it or --batch-size",
            ));
        }
        Ok(())
    }

    /// How many callers each connection owns: the remainder goes to the first.
    pub fn callers_of_each_connection(&self) -> impl Iterator<Item = u32> + use<> {
        let (callers, lines) = (self.concurrency.get(), self.connections.get());
        (0..lines).map(move |line| callers / lines + u32::from(line < callers % lines))
    }
}

fn seconds<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    duration
        .map(|duration| duration.as_secs_f64())
        .serialize(to)
}

fn milliseconds<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn retries<S: Serializer>(after: &AfterTimeout, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bool(*after == AfterTimeout::SameSession)
}

fn announced<S: Serializer>(deadline: &Deadline, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bool(*deadline == Deadline::Announced)
}

#[cfg(test)]
pub(super) mod tests {
    use super::{super::pace::Arrivals, *};

    /// A small plan that every test may bend.
    pub(in crate::cli::bench) fn plan(target: SocketAddr) -> LoadPlan {
        LoadPlan {
            target,
            form: Form::Legacy,
            batch_size: NonZeroU32::MIN,
            connections: NonZeroU32::MIN,
            concurrency: NonZeroU32::new(4).unwrap(),
            rate: None,
            count: Some(100),
            duration: None,
            timeout: Duration::from_secs(30),
            after_timeout: AfterTimeout::NextSession,
            deadline: Deadline::Kept,
            value_bytes: 64,
            client_id_prefix: "t-".into(),
        }
    }

    fn anywhere() -> LoadPlan {
        plan(SocketAddr::from(([127, 0, 0, 1], 1)))
    }

    fn refusal(bend: impl FnOnce(&mut LoadPlan)) -> String {
        let mut plan = anywhere();
        bend(&mut plan);
        plan.checked().unwrap_err().to_string()
    }

    #[test]
    fn a_refusal_names_the_value_the_bound_and_the_remedy() {
        assert_eq!(
            refusal(|plan| plan.batch_size = NonZeroU32::new(100).unwrap()),
            "--batch-size 100: the legacy form carries 1 session a call; add --form batch"
        );
        assert_eq!(
            refusal(|plan| plan.connections = NonZeroU32::new(5).unwrap()),
            "--connections 5: must be at most --concurrency 4; \
             a connection without a caller would stay idle"
        );
    }

    #[test]
    fn a_load_without_an_end_is_refused() {
        assert!(refusal(|plan| plan.count = None).contains("give --count, --duration or both"));
        assert!(refusal(|plan| plan.count = Some(0)).starts_with("--count 0: "));
        assert!(
            refusal(|plan| plan.duration = Some(Duration::ZERO)).starts_with("--duration 0s: ")
        );
    }

    #[test]
    fn a_rate_that_makes_no_sense_is_refused() {
        let rate = |sessions| Rate {
            sessions_per_sec: NonZeroU32::new(sessions).unwrap(),
            arrivals: Arrivals::Poisson,
        };
        let told = refusal(|plan| plan.rate = Some(rate(MAX_RATE + 1)));
        assert!(told.starts_with("--rate 10000001: must be 1 to 10000000"));
        let told = refusal(|plan| {
            plan.rate = Some(rate(5));
            plan.after_timeout = AfterTimeout::SameSession;
            plan.duration = Some(Duration::from_secs(1));
        });
        assert!(told.contains("leave --retry or --rate out"), "{told}");
    }

    #[test]
    fn a_message_that_no_server_would_take_is_refused() {
        assert!(refusal(|plan| plan.value_bytes = 0).starts_with("--value-bytes 0: "));
        let told = refusal(|plan| {
            plan.form = Form::Batch;
            plan.batch_size = NonZeroU32::new(MAX_BATCH).unwrap();
            plan.value_bytes = 1 << 20;
        });
        assert!(told.contains("lower it or --batch-size"), "{told}");
        assert!(refusal(|plan| plan.client_id_prefix = "a\nb".into()).contains("control"));
    }

    #[test]
    fn callers_are_dealt_to_the_connections_evenly_and_completely() {
        let mut plan = anywhere();
        plan.concurrency = NonZeroU32::new(11).unwrap();
        plan.connections = NonZeroU32::new(4).unwrap();
        let dealt: Vec<_> = plan.callers_of_each_connection().collect();
        assert_eq!(dealt, [3, 3, 3, 2]);
    }

    #[test]
    fn the_plan_serializes_with_its_units_in_the_names() {
        let mut plan = anywhere();
        plan.after_timeout = AfterTimeout::SameSession;
        let json = serde_json::to_value(&plan).unwrap();
        assert_eq!(json["timeout_ms"], 30_000);
        assert_eq!(json["retry"], true);
        assert_eq!(json["grpc_timeout"], false);
        assert_eq!(json["form"], "legacy");
        assert!(json["rate"].is_null());
        assert!(json["duration_seconds"].is_null());
    }
}
