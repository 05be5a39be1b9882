//! The metric handles of one Raft group, and those of the log that all groups
//! of a node share, registered once and kept.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry, core::Collector,
    exponential_buckets,
};

use crate::telemetry::names;

/// Handles of every metric that the one log writer of a node moves. A sync
/// serves all groups at once, so these have no group.
pub struct LogMetrics {
    pub(crate) sync_seconds: Histogram,
    pub(crate) proposals_per_sync: Histogram,
}

impl LogMetrics {
    /// Registers the metrics of a node's log.
    ///
    /// # Errors
    /// If the registry already has them.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let histogram = |name: &str, help: &str, buckets| {
            let opts = HistogramOpts::new(name, help).buckets(buckets);
            keep(registry, Histogram::with_opts(opts)?)
        };
        Ok(Self {
            sync_seconds: histogram(
                names::RAFT_LOG_SYNC_SECONDS,
                "One synced write of the log writer, in seconds.",
                seconds()?,
            )?,
            proposals_per_sync: histogram(
                names::RAFT_PROPOSALS_PER_SYNC,
                "Log entries, of all groups, made durable by one sync.",
                exponential_buckets(1.0, 2.0, 12)?,
            )?,
        })
    }
}

/// Handles of every metric that a group moves.
pub struct RaftMetrics {
    pub(crate) write_requests: IntCounter,
    pub(crate) write_success: IntCounter,
    pub(crate) write_failures: IntCounter,
    pub(crate) write_seconds: Histogram,
    pub(crate) append_seconds: Histogram,
    pub(crate) apply_seconds: Histogram,
    pub(crate) has_leader: IntGauge,
    apply_lag: IntGauge,
    committed: AtomicU64,
    applied: AtomicU64,
}

impl RaftMetrics {
    /// Registers the metrics of `group`, which becomes their label.
    ///
    /// # Errors
    /// If the registry already has this group's metrics.
    pub fn register(registry: &Registry, group: u32) -> prometheus::Result<Self> {
        let label = group.to_string();
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter =
                IntCounter::with_opts(Opts::new(name, help).const_label("group", &label))?;
            keep(registry, counter)
        };
        let histogram =
            |name: &str, help: &str, buckets: Vec<f64>| -> prometheus::Result<Histogram> {
                let opts = HistogramOpts::new(name, help)
                    .const_label("group", &label)
                    .buckets(buckets);
                keep(registry, Histogram::with_opts(opts)?)
            };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::with_opts(Opts::new(name, help).const_label("group", &label))?;
            keep(registry, gauge)
        };
        Ok(Self {
            write_requests: counter(
                names::RAFT_WRITE_REQUESTS,
                "Proposals handed to the Raft group.",
            )?,
            write_success: counter(names::RAFT_WRITE_SUCCESS, "Proposals applied.")?,
            write_failures: counter(
                names::RAFT_WRITE_FAILURES,
                "Proposals that ended in an error, their outcome unknown included.",
            )?,
            write_seconds: histogram(
                names::RAFT_WRITE_SECONDS,
                "Proposal to apply, in seconds.",
                seconds()?,
            )?,
            append_seconds: histogram(
                names::RAFT_LOG_APPEND_SECONDS,
                "Log append, queueing and sync included, in seconds.",
                seconds()?,
            )?,
            apply_seconds: histogram(
                names::RAFT_APPLY_BATCH_SECONDS,
                "One apply call of the state machine, in seconds.",
                seconds()?,
            )?,
            has_leader: gauge(
                names::RAFT_HAS_LEADER,
                "1 while the group has a leader with a majority behind it, as this node can tell.",
            )?,
            apply_lag: gauge(
                names::RAFT_APPLY_LAG,
                "Log entries committed and not yet applied.",
            )?,
            committed: AtomicU64::new(0),
            applied: AtomicU64::new(0),
        })
    }

    /// Log entries up to `index` are committed.
    pub(crate) fn committed(&self, index: u64) {
        self.committed.fetch_max(index, Ordering::Relaxed);
        self.update_lag();
    }

    /// Log entries up to `index` are applied.
    pub(crate) fn applied(&self, index: u64) {
        self.applied.fetch_max(index, Ordering::Relaxed);
        self.update_lag();
    }

    fn update_lag(&self) {
        let committed = self.committed.load(Ordering::Relaxed);
        let lag = committed.saturating_sub(self.applied.load(Ordering::Relaxed));
        self.apply_lag.set(i64::try_from(lag).unwrap_or(i64::MAX));
    }
}

/// 50 µs to 26 s: from an idle local sync to a stalled disk.
fn seconds() -> prometheus::Result<Vec<f64>> {
    exponential_buckets(50e-6, 2.0, 20)
}

fn keep<M: Collector + Clone + 'static>(registry: &Registry, metric: M) -> prometheus::Result<M> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_groups_share_one_registry_and_one_group_registers_once() {
        let registry = Registry::new();
        RaftMetrics::register(&registry, 0).unwrap();
        RaftMetrics::register(&registry, 1).unwrap();
        assert!(RaftMetrics::register(&registry, 0).is_err());
    }

    #[test]
    fn the_lag_is_what_is_committed_and_not_yet_applied() {
        let metrics = RaftMetrics::register(&Registry::new(), 0).unwrap();
        metrics.committed(10);
        metrics.applied(4);
        assert_eq!(metrics.apply_lag.get(), 6);
        metrics.applied(10);
        metrics.applied(7);
        assert_eq!(metrics.apply_lag.get(), 0);
    }
}
