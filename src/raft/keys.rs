//! The keys of both databases, as plain byte arrays.
//!
//! Log entries of all groups share one database, so a key is `group|index`,
//! both big-endian: one group's entries lie together and in order, and one
//! writer can make several groups durable with one sync. What else a group
//! must remember (its vote, how far it was purged) lies behind every possible
//! entry, under a group number that is never handed out, and therefore never
//! inside a range that is scanned or deleted.
//!
//! In a state machine's database the first byte names the table, so that
//! later kinds of records can join the same column family: one column family
//! is what keeps the records and the position they belong to together.

/// Length of every key in the log database.
pub const LOG_KEY_LEN: usize = 12;

/// The group number under which facts about groups are kept.
const FACTS: u32 = u32::MAX;

/// The largest group number that may hold a log.
pub const GROUP_MAX: u32 = FACTS - 1;

/// What a group remembers beside its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The vote it last saved.
    Vote = 1,
    /// The last log id that was purged.
    Purged = 2,
    /// The last log id it knew to be committed.
    Committed = 3,
}

/// The key of a log entry.
#[must_use]
pub fn entry(group: u32, index: u64) -> [u8; LOG_KEY_LEN] {
    let mut key = [0; LOG_KEY_LEN];
    key[..4].copy_from_slice(&group.to_be_bytes());
    key[4..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The key of a fact about a group.
#[must_use]
pub fn fact(group: u32, fact: Fact) -> [u8; LOG_KEY_LEN] {
    entry(FACTS, (u64::from(group) << 32) | fact as u64)
}

/// The group and index that a log entry's key stands for; `None` for any
/// other key.
#[must_use]
pub fn parse_entry(key: &[u8]) -> Option<(u32, u64)> {
    let key: &[u8; LOG_KEY_LEN] = key.try_into().ok()?;
    let (group, index) = key.split_first_chunk::<4>()?;
    let group = u32::from_be_bytes(*group);
    let index = u64::from_be_bytes(index.try_into().ok()?);
    (group != FACTS).then_some((group, index))
}

/// The table of sessions in a state machine's database.
pub const SESSIONS: u8 = b's';

/// The first key behind the table of sessions.
pub const SESSIONS_END: [u8; 1] = [SESSIONS + 1];

/// Where a state machine keeps the log id that it applied last.
pub const APPLIED: &[u8] = b"\0applied";

/// Where a state machine keeps the membership it applied last.
pub const MEMBERSHIP: &[u8] = b"\0membership";

/// The client id inside a session's key; `None` for any other key.
#[must_use]
pub fn parse_session(key: &[u8]) -> Option<&[u8]> {
    match key.split_first() {
        Some((&SESSIONS, client_id)) => Some(client_id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_group_lie_together_and_in_order() {
        let keys = [
            entry(0, 0),
            entry(0, 1),
            entry(0, 256),
            entry(0, u64::MAX),
            entry(1, 0),
            entry(GROUP_MAX, u64::MAX),
        ];
        assert!(keys.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn no_fact_lies_inside_any_group() {
        for group in [0, 1, GROUP_MAX] {
            for kind in [Fact::Vote, Fact::Purged, Fact::Committed] {
                assert!(fact(group, kind) > entry(GROUP_MAX, u64::MAX));
                assert_eq!(parse_entry(&fact(group, kind)), None);
            }
        }
        assert_ne!(fact(0, Fact::Vote), fact(1, Fact::Vote));
        assert_ne!(fact(0, Fact::Vote), fact(0, Fact::Purged));
    }

    #[test]
    fn a_key_parses_back_into_what_it_was_made_of() {
        assert_eq!(parse_entry(&entry(7, 42)), Some((7, 42)));
        assert_eq!(parse_entry(b"short"), None);
        assert_eq!(parse_session(b"sclient"), Some(&b"client"[..]));
        assert_eq!(parse_session(APPLIED), None);
        assert_eq!(parse_session(b""), None);
    }
}
