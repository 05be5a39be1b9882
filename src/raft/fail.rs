//! Places at which the process can be made to die, for the crash harness.
//!
//! `FERRY_FAIL=log.synced@200` ends the process, with nothing flushed and
//! nobody told, when it passes the place `log.synced` for the 200th time. The
//! variable is read once; without it a place costs one load and one branch that
//! is never taken, and the places lie where a write of the disk is the next
//! thing to happen, never on the way of a single entry.
//!
//! [`ACKNOWLEDGE`] does not end the process but tells a lie: from then on the
//! log acknowledges what it does not write. It is there to prove that the
//! harness finds such a fault.

use std::{
    env,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// The variable that names a place and how often it is passed before it counts.
pub const VARIABLE: &str = "FERRY_FAIL";

/// The log's writer is about to write a round.
pub const LOG_WRITE: &str = "log.write";
/// The log's writer has synced a round; nobody has been told.
pub const LOG_SYNCED: &str = "log.synced";
/// A vote is about to be saved.
pub const VOTE_SAVE: &str = "vote.save";
/// A vote is durable; the core has not been told.
pub const VOTE_SAVED: &str = "vote.saved";
/// A load is about to be applied.
pub const APPLY_WRITE: &str = "apply.write";
/// A load is applied; no caller has been answered.
pub const APPLY_WRITTEN: &str = "apply.written";
/// A snapshot's state is flushed; none of its file is written.
pub const SNAPSHOT_FLUSHED: &str = "snapshot.flushed";
/// A snapshot's file is half written.
pub const SNAPSHOT_HALF: &str = "snapshot.half";
/// A snapshot's file is whole and does not have its name yet.
pub const SNAPSHOT_WHOLE: &str = "snapshot.whole";
/// A purge is about to be written.
pub const PURGE_WRITE: &str = "purge.write";
/// A purge is written; the files of what was purged are still there.
pub const PURGE_WRITTEN: &str = "purge.written";
/// A snapshot that arrived is half loaded.
pub const INSTALL_HALF: &str = "install.half";
/// A snapshot that arrived is loaded; the old state still counts.
pub const INSTALL_LOADED: &str = "install.loaded";
/// A snapshot that arrived is the state; the old one is still on disk.
pub const INSTALL_MOVED: &str = "install.moved";
/// The log acknowledges rounds, from this one on, that it does not write.
pub const ACKNOWLEDGE: &str = "log.acknowledge";

/// Every place at which the process can die.
pub const PLACES: [&str; 14] = [
    LOG_WRITE,
    LOG_SYNCED,
    VOTE_SAVE,
    VOTE_SAVED,
    APPLY_WRITE,
    APPLY_WRITTEN,
    SNAPSHOT_FLUSHED,
    SNAPSHOT_HALF,
    SNAPSHOT_WHOLE,
    PURGE_WRITE,
    PURGE_WRITTEN,
    INSTALL_HALF,
    INSTALL_LOADED,
    INSTALL_MOVED,
];

/// The one place that counts, and how often it is still to be passed.
struct Armed {
    place: &'static str,
    left: AtomicU64,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// Ends the process if this place is the one and its time has come.
#[inline]
pub(crate) fn point(place: &'static str) {
    if has_come(place) {
        // As `kill -9`: no destructor, no buffer, no goodbye.
        std::process::abort();
    }
}

/// Whether this place is the one, and its time is now or was before.
#[inline]
pub(crate) fn has_come(place: &'static str) -> bool {
    match ARMED.get_or_init(armed) {
        None => false,
        Some(armed) => armed.passes(place),
    }
}

impl Armed {
    fn passes(&self, place: &str) -> bool {
        if self.place != place {
            return false;
        }
        let before = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                Some(left.saturating_sub(1))
            });
        before.is_ok_and(|before| before <= 1)
    }
}

/// # Panics
/// If the variable names no place: a harness must not believe that it tests.
fn armed() -> Option<Armed> {
    let value = env::var(VARIABLE).ok()?;
    match parse(&value) {
        Some(armed) => Some(armed),
        None => panic!(
            "{VARIABLE}={value}: must be PLACE@COUNT, with a count of at least 1 and one of the \
             places {}, {ACKNOWLEDGE}",
            PLACES.join(", ")
        ),
    }
}

fn parse(value: &str) -> Option<Armed> {
    let (name, count) = value.split_once('@')?;
    let mut places = PLACES.into_iter().chain([ACKNOWLEDGE]);
    let left = count.parse().ok().filter(|&count| count > 0)?;
    Some(Armed {
        place: places.find(|place| *place == name)?,
        left: AtomicU64::new(left),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_when_it_is_passed_for_the_last_time_and_after() {
        let armed = parse("log.synced@3").unwrap();
        assert!(!armed.passes(LOG_WRITE));
        let passed: Vec<_> = (0..4).map(|_| armed.passes(LOG_SYNCED)).collect();
        assert_eq!(passed, [false, false, true, true]);
    }

    #[test]
    fn what_names_no_place_is_refused() {
        for wrong in [
            "",
            "log.synced",
            "log.synced@0",
            "log.sunk@1",
            "log.synced@x",
        ] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
