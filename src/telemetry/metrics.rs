//! The sidecar's metric handles: registered once, kept, moved a batch at a time.
//!
//! Histograms of entries are filled in a local buffer and flushed once a
//! batch, so an entry costs a plain addition and no shared cache line.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    core::Collector, exponential_buckets,
};

use super::{Recent, Refusals, names, observed::by_label};
use crate::{
    batch::{Answering, BatchError, ClosedBy, Queue, Sealing, ShedReason},
    limit::LimitView,
};

/// Everything the sidecar counts of one batched method.
#[derive(Debug)]
pub struct MethodMetrics {
    entries: IntCounterVec,
    shed: IntCounterVec,
    alone: IntCounterVec,
    cancelled: IntCounter,
    expired: IntCounter,
    ghosts: IntCounter,
    abandoned: IntCounter,
    batches: IntCounterVec,
    batch_entries: Histogram,
    batch_bytes: Histogram,
    entry_seconds: Histogram,
    queue_seconds: Histogram,
    batch_seconds: Histogram,
    committed: IntCounter,
    path: String,
    recent: Arc<Recent>,
    recorded: bool,
}

/// A registry and what is common to all methods.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    recent: Arc<Recent>,
    recorded: bool,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            registry: Registry::default(),
            recent: Arc::new(Recent::new(tokio::time::Instant::now().into_std())),
            recorded: true,
        }
    }
}

impl Metrics {
    /// Metrics of which none is recorded that a call or a batch would move: to
    /// measure what recording costs.
    #[must_use]
    pub fn unrecorded() -> Self {
        Self {
            recorded: false,
            ..Self::default()
        }
    }

    /// The batches that failed or were slow, of all methods.
    #[must_use]
    pub fn recent(&self) -> &Arc<Recent> {
        &self.recent
    }

    /// The registry, for those who bring their own metrics and for scraping.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The handles of a batched method; `path` is its label.
    ///
    /// # Errors
    /// If this registry already has the method.
    pub fn method(&self, path: &str) -> prometheus::Result<MethodMetrics> {
        let vec = |name, help: &str, label: &str| {
            let opts = Opts::new(name, help).const_label("method", path);
            self.keep(IntCounterVec::new(opts, &[label])?)
        };
        let counter = |name, help: &str| {
            self.keep(IntCounter::with_opts(
                Opts::new(name, help).const_label("method", path),
            )?)
        };
        let histogram = |name, help: &str, buckets: prometheus::Result<Vec<f64>>| {
            let opts = HistogramOpts::new(name, help).const_label("method", path);
            self.keep(Histogram::with_opts(opts.buckets(buckets?))?)
        };
        let entries = vec(names::ENTRIES, "Entries answered, by outcome.", "outcome")?;
        let cancelled = Opts::new(
            names::ENTRIES_CANCELLED,
            "Entries dropped before they were proposed: the caller had left or its deadline had passed.",
        );
        let cancelled = self.keep(IntCounterVec::new(
            cancelled.const_label("method", path),
            &["stage"],
        )?)?;
        let shed = vec(
            names::ENTRIES_SHED,
            "Entries refused for load before they were proposed, by reason.",
            "reason",
        )?;
        // A series that is there from the start, so that its first rise shows.
        for reason in ShedReason::ALL {
            shed.with_label_values(&[reason.name()]);
        }
        Ok(MethodMetrics {
            path: path.to_owned(),
            recent: Arc::clone(&self.recent),
            recorded: self.recorded,
            committed: entries.with_label_values(&["committed"]),
            entries,
            shed,
            alone: vec(
                names::ENTRIES_ALONE,
                "Entries that could share no batch and went alone, by reason.",
                "reason",
            )?,
            cancelled: cancelled.with_label_values(&["left"]),
            expired: cancelled.with_label_values(&["expired"]),
            ghosts: counter(
                names::GHOSTS,
                "Entries proposed although their caller had already left.",
            )?,
            abandoned: counter(
                names::ENTRIES_ABANDONED,
                "Entries whose caller left after they were proposed.",
            )?,
            batches: vec(
                names::BATCHES,
                "Batches sent, by what closed their window.",
                "closed_by",
            )?,
            batch_entries: histogram(names::BATCH_ENTRIES, "Entries a batch.", sizes(1.0))?,
            batch_bytes: histogram(names::BATCH_BYTES, "Payload bytes a batch.", sizes(64.0))?,
            entry_seconds: histogram(
                names::ENTRY_SECONDS,
                "From an entry's arrival to its answer, in seconds.",
                seconds(),
            )?,
            queue_seconds: histogram(
                names::QUEUE_SECONDS,
                "From an entry's arrival to the sealing of its batch, in seconds.",
                seconds(),
            )?,
            batch_seconds: histogram(
                names::BATCH_SECONDS,
                "From sending a batch to its reply, in seconds.",
                seconds(),
            )?,
        })
    }

    /// The gauges of one limiter and the queue in front of it; `group` is their
    /// label where they belong to one.
    ///
    /// # Errors
    /// If this registry already has them.
    pub fn limiter(
        &self,
        group: Option<u32>,
        view: LimitView,
        queue: Arc<Queue>,
    ) -> prometheus::Result<LimitMetrics> {
        let opts = |name, help: &str| {
            let opts = Opts::new(name, help);
            match group {
                Some(group) => opts.const_label("group", group.to_string()),
                None => opts,
            }
        };
        let count = |name, help: &str| self.keep(IntGauge::with_opts(opts(name, help))?);
        let value = |name, help: &str| self.keep(Gauge::with_opts(opts(name, help))?);
        Ok(LimitMetrics {
            limit: count(names::LIMIT, "The adaptive limit, in batches in flight.")?,
            least: count(
                names::LIMIT_MIN,
                "What the limit never falls below, in batches in flight.",
            )?,
            most: count(
                names::LIMIT_MAX,
                "What the limit never rises above, in batches in flight.",
            )?,
            in_flight: count(names::IN_FLIGHT, "Batches that hold a permit.")?,
            queued_entries: count(
                names::QUEUED_ENTRIES,
                "Entries that wait in windows or at a barrier.",
            )?,
            queued_bytes: count(
                names::QUEUED_BYTES,
                "Bytes of the messages that wait in windows or at a barrier.",
            )?,
            bdp: value(
                names::LIMIT_BDP,
                "The estimated bandwidth-delay product, in batches.",
            )?,
            slowdown: value(
                names::LIMIT_SLOWDOWN,
                "Latency over unloaded latency, a ratio.",
            )?,
            view,
            queue,
        })
    }

    /// The counter of forwarded calls, by gRPC status code.
    ///
    /// # Errors
    /// If this registry already has it.
    pub fn forwarded(&self) -> prometheus::Result<IntCounterVec> {
        let opts = Opts::new(
            names::FORWARDED,
            "Calls passed through unbatched, by gRPC status code (none: the reply's trailers carry it).",
        );
        self.keep(IntCounterVec::new(opts, &["code"])?)
    }

    /// The counters of what guards refuse, by reason, and of who could not be
    /// accepted at all.
    ///
    /// # Errors
    /// If this registry already has them.
    pub fn refusals(&self) -> prometheus::Result<Refusals> {
        let opts = Opts::new(
            names::GUARD_REFUSALS,
            "Connections closed and calls refused by a guard, by reason.",
        );
        let refused = self.keep(IntCounterVec::new(opts, &["reason"])?)?;
        let unaccepted = Opts::new(
            names::ACCEPT_ERRORS,
            "Connections that could not be accepted, such as for want of descriptors.",
        );
        let unaccepted = self.keep(IntCounter::with_opts(unaccepted)?)?;
        Ok(Refusals::new(&refused, unaccepted))
    }

    /// The counter of batches that were sent again, or would have been.
    ///
    /// # Errors
    /// If this registry already has it.
    pub fn again(&self) -> prometheus::Result<IntCounterVec> {
        let opts = Opts::new(
            names::BATCHES_AGAIN,
            "Batches and halves of batches sent again after a failure, by reason (no_budget: not sent).",
        );
        let again = self.keep(IntCounterVec::new(opts, &["reason"])?)?;
        for reason in ["retry", "bisect", "no_budget"] {
            again.with_label_values(&[reason]);
        }
        Ok(again)
    }

    /// The counter of policy reloads, by result.
    ///
    /// # Errors
    /// If this registry already has it.
    pub fn reloads(&self) -> prometheus::Result<IntCounterVec> {
        let opts = Opts::new(
            names::POLICY_RELOADS,
            "Reloads of the policy, by whether it was put in force.",
        );
        self.keep(IntCounterVec::new(opts, &["result"])?)
    }

    pub(super) fn keep<C: Collector + Clone + 'static>(
        &self,
        collector: C,
    ) -> prometheus::Result<C> {
        self.registry.register(Box::new(collector.clone()))?;
        Ok(collector)
    }
}

/// 50 µs to 13 s in half octaves and whole ones above.
fn seconds() -> prometheus::Result<Vec<f64>> {
    exponential_buckets(50e-6, std::f64::consts::SQRT_2, 37)
}

/// Powers of two from `first`, sixteen of them.
pub(super) fn sizes(first: f64) -> prometheus::Result<Vec<f64>> {
    exponential_buckets(first, 2.0, 16)
}

impl MethodMetrics {
    /// An entry was refused for load.
    pub fn on_shed(&self, entries: u32, reason: ShedReason) {
        let shed = self.shed.with_label_values(&[reason.name()]);
        shed.inc_by(u64::from(entries));
    }

    /// Entries go alone, for a reason.
    pub fn on_alone(&self, reason: &str, entries: u32) {
        let alone = self.alone.with_label_values(&[reason]);
        alone.inc_by(u64::from(entries));
    }

    /// Entries that went alone so far, by reason.
    #[must_use]
    pub fn alone(&self) -> BTreeMap<String, u64> {
        by_label(&self.alone)
    }

    /// A window was sealed.
    pub fn on_sealed(&self, sealing: &Sealing<'_>) {
        if !self.recorded {
            return;
        }
        self.cancelled.inc_by(sealing.cancelled as u64);
        self.expired.inc_by(sealing.expired as u64);
        if sealing.arrivals.is_empty() {
            return;
        }
        let closed_by = closed_by_name(sealing.closed_by);
        self.batches.with_label_values(&[closed_by]).inc();
        self.batch_entries.observe(f64::from(sealing.entries));
        self.batch_bytes.observe(sealing.bytes as f64);
        observe_since(&self.queue_seconds, sealing.arrivals, sealing.now);
    }

    /// A batch was answered.
    pub fn on_answered(&self, answering: &Answering<'_>) {
        if !self.recorded {
            return;
        }
        self.ghosts.inc_by(answering.ghosts as u64);
        self.abandoned.inc_by(answering.abandoned as u64);
        let since_sent = answering.now.saturating_duration_since(answering.sent);
        self.batch_seconds.observe(since_sent.as_secs_f64());
        observe_since(&self.entry_seconds, answering.arrivals, answering.now);
        self.committed.inc_by(u64::from(answering.committed));
        self.recent.on_answered(&self.path, answering);
    }

    /// A caller was told that its entry has no answer of its own.
    pub fn on_error<E>(&self, error: &BatchError<E>, definitely_not_applied: bool) {
        let outcome = outcome_name(error, definitely_not_applied);
        self.entries.with_label_values(&[outcome]).inc();
    }

    /// A call was answered at the door: its message can be no entry.
    pub fn on_invalid(&self) {
        self.entries.with_label_values(&["invalid"]).inc();
    }

    /// Entries proposed although their caller had already left.
    #[must_use]
    pub fn ghosts(&self) -> u64 {
        self.ghosts.get()
    }
}

/// What became of an entry whose caller was told `error`.
pub const fn outcome_name<E>(error: &BatchError<E>, definitely_not_applied: bool) -> &'static str {
    match error {
        BatchError::Shed { .. } | BatchError::Closed => "shed",
        BatchError::Upstream(_) if definitely_not_applied => "refused",
        BatchError::DeadlineExceeded => "expired",
        _ => "unknown",
    }
}

fn observe_since(histogram: &Histogram, arrivals: &[Instant], now: Instant) {
    let local = histogram.local();
    for arrived in arrivals {
        local.observe(now.saturating_duration_since(*arrived).as_secs_f64());
    }
    local.flush();
}

pub(super) const fn closed_by_name(closed_by: ClosedBy) -> &'static str {
    match closed_by {
        ClosedBy::Full => "full",
        ClosedBy::Linger => "linger",
        ClosedBy::Ready => "ready",
        ClosedBy::Deadline => "deadline",
        ClosedBy::Drain => "drain",
    }
}

/// Gauges that are read off the limiter and its queue when they are asked for.
#[derive(Debug)]
pub struct LimitMetrics {
    view: LimitView,
    queue: Arc<Queue>,
    limit: IntGauge,
    least: IntGauge,
    most: IntGauge,
    in_flight: IntGauge,
    queued_entries: IntGauge,
    queued_bytes: IntGauge,
    bdp: Gauge,
    slowdown: Gauge,
}

impl LimitMetrics {
    /// Takes the present values over.
    pub fn refresh(&self) {
        let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let bounds = self.view.settings();
        self.limit.set(i64::from(self.view.limit()));
        self.least.set(i64::from(bounds.min));
        self.most.set(i64::from(bounds.max));
        self.in_flight.set(i64::from(self.view.in_flight()));
        self.queued_entries.set(whole(self.queue.entries()));
        self.queued_bytes.set(whole(self.queue.bytes()));
        self.bdp.set(self.view.bdp());
        self.slowdown.set(self.view.slowdown());
    }
}
