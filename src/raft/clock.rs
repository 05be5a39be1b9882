//! How fast a group notices that its leader is gone.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

/// After how many log entries, at most, it is asked whether a snapshot is due.
const SNAPSHOT_CHECK_ENTRIES: u64 = 10_000;
/// It is asked sooner where less log than this, in bytes, for each of those
/// entries makes one due.
const ENTRY_BYTES: u64 = 64 << 10;
/// Log entries that stay behind a snapshot, for readers that are a little late:
/// at the least, and at the most.
const KEEP_ENTRIES: (u64, u64) = (100, 1_000);

/// The clock of a group's elections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// How often a leader says that it is there.
    pub heartbeat: Duration,
    /// The shortest silence after which a follower stands for election.
    pub election_min: Duration,
    /// The longest; each follower draws its own between the two.
    pub election_max: Duration,
}

impl Default for Clock {
    /// The clock that kept elections stable under load.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(1_000),
            election_max: Duration::from_millis(2_000),
        }
    }
}

impl Clock {
    /// What openraft is told, where `log_bytes_max` bytes of log make a snapshot
    /// due.
    pub(super) fn config(&self, log_bytes_max: u64) -> Config {
        let check = (log_bytes_max / ENTRY_BYTES).clamp(1, SNAPSHOT_CHECK_ENTRIES);
        let (least, most) = KEEP_ENTRIES;
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Config {
            cluster_name: "ferry".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            // A node that was cut off must not unseat a leader that the others
            // still hear, just because its own term has run ahead.
            enable_pre_vote: Some(true),
            // A peer that is down is asked again about as often as it would be
            // sent a heartbeat, and soon after it is back it is a follower.
            backoff: format!("{}ms", millis(self.heartbeat * 2)),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(check),
            max_in_snapshot_log_to_keep: check.clamp(least, most),
            ..Config::default()
        }
    }
}
