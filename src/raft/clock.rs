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

/// A lease outlives a heartbeat that is lost, and a little: openraft wants each
/// wait longer than the longest pause between two heartbeats.
const HEARTBEATS_A_WAIT: f64 = 1.5;

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
    /// Two seconds at the longest, as a Raft store's callers expect.
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
        let (wait_min, wait_max) = self.waits();
        Config {
            cluster_name: "ferry".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(wait_min),
            election_timeout_max: millis(wait_max),
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

    /// What openraft calls its election timeouts, the shortest and the longest.
    ///
    /// A follower of openraft first lets its leader's lease run out, which lasts
    /// as long as the longest timeout M, and then waits for a timeout of its own,
    /// drawn from m to M (`core/raft_core.rs`, `handle_tick_election`). The
    /// silence before it stands is therefore between M + m and 2 M, so
    /// M = `election_max` / 2 and m = `election_min` - M; where that leaves no
    /// time for a heartbeat, m is one and a half of them.
    fn waits(&self) -> (Duration, Duration) {
        let longest = self.election_max / 2;
        let least = self.heartbeat.mul_f64(HEARTBEATS_A_WAIT);
        let shortest = self.election_min.saturating_sub(longest).max(least);
        (shortest, longest.max(shortest + Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(heartbeat: u64, min: u64, max: u64) -> Clock {
        Clock {
            heartbeat: Duration::from_millis(heartbeat),
            election_min: Duration::from_millis(min),
            election_max: Duration::from_millis(max),
        }
    }

    #[test]
    fn the_silence_before_an_election_is_what_the_file_says() {
        for (clock, shortest, longest) in [
            (clock(100, 1_500, 2_000), 1_500, 2_000),
            // Where min leaves a heartbeat no time beside the lease.
            (clock(100, 1_000, 2_000), 1_150, 2_000),
            (clock(20, 100, 200), 130, 200),
        ] {
            let config = clock.config(1 << 20).validate().expect("openraft takes it");
            let lease = config.election_timeout_max;
            assert_eq!(lease + config.election_timeout_min, shortest, "{clock:?}");
            assert_eq!(2 * lease, longest, "{clock:?}");
        }
    }

    #[test]
    fn the_tightest_clock_that_a_file_may_have_is_one_for_openraft() {
        for heartbeat in [10, 11, 100, 9_999] {
            let tightest = clock(heartbeat, 3 * heartbeat, 3 * heartbeat + 1);
            let taken = tightest.config(1 << 20).validate();
            assert!(taken.is_ok(), "{heartbeat} ms: {taken:?}");
        }
    }
}
