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

/// The table of sessions in a state machine's database: `s`, client id.
pub const SESSIONS: u8 = b's';

/// The table of subscriptions: `t`, client id behind its length, path.
pub const SUBSCRIPTIONS: u8 = b't';

/// The table of consumer offsets: `u`, then tenant, group, shard and topic,
/// each behind its length, then the partition. One group's lie together.
pub const OFFSETS: u8 = b'u';

/// The table of values: `v`, key. The keys are in their own order, so that
/// those with a common beginning lie together.
pub const VALUES: u8 = b'v';

/// Every table, in order. A snapshot holds what lies from the first of them on.
pub const TABLES: [u8; 4] = [SESSIONS, SUBSCRIPTIONS, OFFSETS, VALUES];

/// Where a state machine keeps the log id that it applied last.
pub const APPLIED: &[u8] = b"\0applied";

/// Where a state machine keeps the membership it applied last.
pub const MEMBERSHIP: &[u8] = b"\0membership";

/// Appends a session's key.
pub fn session(key: &mut Vec<u8>, client_id: &[u8]) {
    key.push(SESSIONS);
    key.extend_from_slice(client_id);
}

/// The client id inside a session's key; `None` for any other key.
#[must_use]
pub fn parse_session(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(&[SESSIONS])
}

/// Appends a subscription's key.
pub fn subscription(key: &mut Vec<u8>, client_id: &[u8], path: &[u8]) {
    key.push(SUBSCRIPTIONS);
    part(key, client_id);
    key.extend_from_slice(path);
}

/// One shard of one consumer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its topic, where the name does not say it.
    pub topic: &'a [u8],
    /// The topic's partition.
    pub partition: u32,
}

/// Appends the key of an offset.
pub fn offset(key: &mut Vec<u8>, tenant: &[u8], group: &[u8], shard: Shard<'_>) {
    offsets_of(key, tenant, group);
    part(key, shard.name);
    part(key, shard.topic);
    key.extend_from_slice(&shard.partition.to_be_bytes());
}

/// Appends what the keys of all offsets of one consumer group begin with.
pub fn offsets_of(key: &mut Vec<u8>, tenant: &[u8], group: &[u8]) {
    key.push(OFFSETS);
    part(key, tenant);
    part(key, group);
}

/// The shard inside an offset's key; `None` for any other key.
#[must_use]
pub fn parse_offset(key: &[u8]) -> Option<Shard<'_>> {
    let mut rest = key.strip_prefix(&[OFFSETS])?;
    let _tenant = take_part(&mut rest)?;
    let _group = take_part(&mut rest)?;
    let name = take_part(&mut rest)?;
    let topic = take_part(&mut rest)?;
    let partition = u32::from_be_bytes(rest.try_into().ok()?);
    Some(Shard {
        name,
        topic,
        partition,
    })
}

/// Appends a value's key, or what such keys begin with.
pub fn value(key: &mut Vec<u8>, name: &[u8]) {
    key.push(VALUES);
    key.extend_from_slice(name);
}

/// A part behind its length, so that no two lists of parts make one key.
fn part(key: &mut Vec<u8>, part: &[u8]) {
    // A gRPC message is shorter than 4 GiB, and a part is part of one.
    key.extend_from_slice(&(part.len() as u32).to_be_bytes());
    key.extend_from_slice(part);
}

fn take_part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, behind) = rest.split_first_chunk::<4>()?;
    let (part, behind) = behind.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    *rest = behind;
    Some(part)
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
        let shard = Shard {
            name: b"shard",
            topic: b"",
            partition: 7,
        };
        let mut key = Vec::new();
        offset(&mut key, b"tenant", b"group", shard);
        assert_eq!(parse_offset(&key), Some(shard));
        for len in 0..key.len() {
            assert_eq!(parse_offset(&key[..len]), None, "cut at {len}");
        }
    }

    #[test]
    fn names_that_run_together_make_different_keys() {
        let written = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut key = Vec::new();
            write(&mut key);
            key
        };
        let shard = |name, topic| Shard {
            name,
            topic,
            partition: 0,
        };
        let keys = [
            written(&|key| subscription(key, b"ab", b"c")),
            written(&|key| subscription(key, b"a", b"bc")),
            written(&|key| offset(key, b"t", b"gs", shard(b"", b""))),
            written(&|key| offset(key, b"t", b"g", shard(b"s", b""))),
            written(&|key| offset(key, b"t", b"g", shard(b"", b"s"))),
            written(&|key| offset(key, b"tg", b"", shard(b"s", b""))),
        ];
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn no_table_lies_before_the_first_or_among_what_is_not_a_record() {
        assert!(TABLES.is_sorted_by(|a, b| a < b));
        assert!(APPLIED < &TABLES[..1] && MEMBERSHIP < &TABLES[..1]);
    }
}
