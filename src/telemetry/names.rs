//! Every metric name in one place: an interface that dashboards and alerts
//! are written against (base units, `_total` for counters).

/// Entries answered, by `method` and `outcome`.
pub const ENTRIES: &str = "ferry_entries_total";
/// Entries refused for load before they were proposed, by `method` and `reason`.
pub const ENTRIES_SHED: &str = "ferry_entries_shed_total";
/// Entries dropped before proposal because the caller left or its deadline passed, by `stage`.
pub const ENTRIES_CANCELLED: &str = "ferry_entries_cancelled_total";
/// Entries that could share no batch and went alone, by `method` and `reason`.
pub const ENTRIES_ALONE: &str = "ferry_entries_alone_total";
/// Calls of observed methods, by `method` and `verdict`: batched, alone,
/// refused, expired, unseen.
pub const OBSERVED_CALLS: &str = "ferry_observed_calls_total";
/// Entries that would have gone alone, by `method` and `reason`.
pub const OBSERVED_ALONE: &str = "ferry_observed_alone_total";
/// Batches that would have left, by what would have closed their window.
pub const OBSERVED_BATCHES: &str = "ferry_observed_batches_total";
/// Entries a batch that would have left.
pub const OBSERVED_BATCH_ENTRIES: &str = "ferry_observed_batch_entries";
/// Calls that the upstream would not have got.
pub const OBSERVED_CALLS_SAVED: &str = "ferry_observed_calls_saved_total";
/// Entries proposed although their caller had already left.
pub const GHOSTS: &str = "ferry_ghosts_total";
/// Entries whose caller left after they were proposed.
pub const ENTRIES_ABANDONED: &str = "ferry_entries_abandoned_total";
/// Batches sealed, by what closed their window.
pub const BATCHES: &str = "ferry_batches_total";
/// Entries a batch.
pub const BATCH_ENTRIES: &str = "ferry_batch_entries";
/// Payload bytes a batch.
pub const BATCH_BYTES: &str = "ferry_batch_bytes";
/// Arrival to answer, in seconds.
pub const ENTRY_SECONDS: &str = "ferry_entry_seconds";
/// Arrival to sealing, in seconds.
pub const QUEUE_SECONDS: &str = "ferry_queue_seconds";
/// Sending a batch to its reply, in seconds.
pub const BATCH_SECONDS: &str = "ferry_batch_seconds";
/// The adaptive limit, in batches in flight.
pub const LIMIT: &str = "ferry_limit";
/// What the limit never falls below, in batches in flight.
pub const LIMIT_MIN: &str = "ferry_limit_min";
/// What the limit never rises above, in batches in flight.
pub const LIMIT_MAX: &str = "ferry_limit_max";
/// Batches holding a permit.
pub const IN_FLIGHT: &str = "ferry_in_flight";
/// Entries waiting in windows.
pub const QUEUED_ENTRIES: &str = "ferry_queued_entries";
/// Payload bytes waiting in windows.
pub const QUEUED_BYTES: &str = "ferry_queued_bytes";
/// The limiter's estimate of the bandwidth-delay product, in batches.
pub const LIMIT_BDP: &str = "ferry_limit_bdp";
/// The limiter's slowdown: latency over unloaded latency, a ratio.
pub const LIMIT_SLOWDOWN: &str = "ferry_limit_slowdown";
/// Calls passed through unbatched, by gRPC status `code`.
pub const FORWARDED: &str = "ferry_forwarded_total";
/// Clients and calls that a guard refused, by `reason`.
pub const GUARD_REFUSALS: &str = "ferry_guard_refusals_total";
/// Connections that could not be accepted, of all listeners.
pub const ACCEPT_ERRORS: &str = "ferry_accept_errors_total";
/// Batches sent again, by `reason`: retry, bisect, or no_budget for those that
/// were not.
pub const BATCHES_AGAIN: &str = "ferry_batches_again_total";
/// Reloads of the policy, by `result`: accepted or refused.
pub const POLICY_RELOADS: &str = "ferry_policy_reloads_total";
/// Proposals handed to the Raft group.
pub const RAFT_WRITE_REQUESTS: &str = "ferry_raft_write_requests_total";
/// Proposals applied.
pub const RAFT_WRITE_SUCCESS: &str = "ferry_raft_write_success_total";
/// Proposals that ended in an error.
pub const RAFT_WRITE_FAILURES: &str = "ferry_raft_write_failures_total";
/// Proposal to apply, in seconds.
pub const RAFT_WRITE_SECONDS: &str = "ferry_raft_write_seconds";
/// Log append, queueing and sync included, in seconds.
pub const RAFT_LOG_APPEND_SECONDS: &str = "ferry_raft_log_append_seconds";
/// One synced write of the log writer, in seconds.
pub const RAFT_LOG_SYNC_SECONDS: &str = "ferry_raft_log_sync_seconds";
/// One apply call of the state machine, in seconds.
pub const RAFT_APPLY_BATCH_SECONDS: &str = "ferry_raft_apply_batch_seconds";
/// 1 while the group has a leader with a majority behind it.
pub const RAFT_HAS_LEADER: &str = "ferry_raft_has_leader";
/// Log entries committed and not yet applied.
pub const RAFT_APPLY_LAG: &str = "ferry_raft_apply_lag";
/// Log entries made durable by one sync.
pub const RAFT_PROPOSALS_PER_SYNC: &str = "ferry_raft_proposals_per_sync";

/// All of them.
pub const ALL: &[&str] = &[
    ENTRIES,
    ENTRIES_SHED,
    ENTRIES_CANCELLED,
    ENTRIES_ALONE,
    OBSERVED_CALLS,
    OBSERVED_ALONE,
    OBSERVED_BATCHES,
    OBSERVED_BATCH_ENTRIES,
    OBSERVED_CALLS_SAVED,
    GHOSTS,
    ENTRIES_ABANDONED,
    BATCHES,
    BATCH_ENTRIES,
    BATCH_BYTES,
    ENTRY_SECONDS,
    QUEUE_SECONDS,
    BATCH_SECONDS,
    LIMIT,
    LIMIT_MIN,
    LIMIT_MAX,
    IN_FLIGHT,
    QUEUED_ENTRIES,
    QUEUED_BYTES,
    LIMIT_BDP,
    LIMIT_SLOWDOWN,
    FORWARDED,
    BATCHES_AGAIN,
    GUARD_REFUSALS,
    ACCEPT_ERRORS,
    POLICY_RELOADS,
    RAFT_WRITE_REQUESTS,
    RAFT_WRITE_SUCCESS,
    RAFT_WRITE_FAILURES,
    RAFT_WRITE_SECONDS,
    RAFT_LOG_APPEND_SECONDS,
    RAFT_LOG_SYNC_SECONDS,
    RAFT_APPLY_BATCH_SECONDS,
    RAFT_HAS_LEADER,
    RAFT_APPLY_LAG,
    RAFT_PROPOSALS_PER_SYNC,
];
