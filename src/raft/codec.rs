//! What a value in the log database looks like: a version, the content, a
//! checksum over the key and both.
//!
//! RocksDB has checksums of its own for its blocks; this one also covers the
//! path between our memory and its own, and an entry that was moved under
//! another key. A value that fails says which one, and is never guessed at.

use std::io;

use bytes::{BufMut, Bytes};
use openraft::{EntryPayload, LogId as RaftLogId, Vote as RaftVote};

use super::{
    command::Command,
    types::{Entry, LogId, Types, Vote},
};

type LeaderId = <Types as openraft::RaftTypeConfig>::LeaderId;

/// The format of a value; raised when its layout changes.
const VERSION: u8 = 1;
const CHECKSUM_LEN: usize = 4;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// What is wrong with a stored value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Corrupt {
    #[error("it is {0} bytes, too short for any value")]
    Short(usize),
    #[error("its checksum is {found:08x} and its content makes {computed:08x}")]
    Checksum { found: u32, computed: u32 },
    #[error("its format is {0}, and this version reads format {VERSION}")]
    Version(u8),
    #[error("its content does not parse")]
    Content,
}

/// Writes the value of `entry`, to be stored under `key`, into `value`.
pub(crate) fn write_entry(key: &[u8], entry: &Entry, value: &mut Vec<u8>) -> io::Result<()> {
    seal(key, value, |value| {
        let leader = &entry.log_id.leader_id;
        match &entry.payload {
            EntryPayload::Blank => write_leader(value, BLANK, leader),
            EntryPayload::Normal(command) => {
                write_leader(value, NORMAL, leader);
                value.put_slice(command.encoded());
            }
            EntryPayload::Membership(membership) => {
                write_leader(value, MEMBERSHIP, leader);
                serde_json::to_writer(value, membership)?;
            }
        }
        Ok(())
    })
}

/// Reads the entry that is stored under `key` with this `index`.
pub(crate) fn read_entry(key: &[u8], index: u64, value: Vec<u8>) -> Result<Entry, Corrupt> {
    let value = Bytes::from(value);
    let content = unseal(key, &value)?;
    let (kind, rest) = content.split_first().ok_or(Corrupt::Content)?;
    let (leader, rest) = read_leader(rest)?;
    let payload = match *kind {
        BLANK if rest.is_empty() => EntryPayload::Blank,
        NORMAL => EntryPayload::Normal(Command::from_encoded(value.slice_ref(rest))),
        MEMBERSHIP => {
            EntryPayload::Membership(serde_json::from_slice(rest).map_err(|_| Corrupt::Content)?)
        }
        _ => return Err(Corrupt::Content),
    };
    Ok(Entry {
        log_id: LogId {
            leader_id: leader,
            index,
        },
        payload,
    })
}

/// The value of a log id, to be stored under `key`.
pub(crate) fn log_id(key: &[u8], id: &LogId) -> Vec<u8> {
    let mut value = Vec::with_capacity(32);
    let sealed = seal(key, &mut value, |value| {
        value.put_u64(id.leader_id.term);
        value.put_u64(id.leader_id.node_id);
        value.put_u64(id.index);
        Ok(())
    });
    debug_assert!(sealed.is_ok(), "writing to a Vec does not fail");
    value
}

/// Reads back what [`log_id`] wrote.
pub(crate) fn read_log_id(key: &[u8], value: &[u8]) -> Result<LogId, Corrupt> {
    let content = unseal(key, value)?;
    let (leader_id, rest) = read_leader(content)?;
    let index = rest.try_into().map_err(|_| Corrupt::Content)?;
    Ok(RaftLogId {
        leader_id,
        index: u64::from_be_bytes(index),
    })
}

/// The value of a vote, to be stored under `key`.
pub(crate) fn vote(key: &[u8], vote: &Vote) -> Vec<u8> {
    let mut value = Vec::with_capacity(32);
    let sealed = seal(key, &mut value, |value| {
        value.put_u64(vote.leader_id.term);
        value.put_u64(vote.leader_id.node_id);
        value.put_u8(u8::from(vote.committed));
        Ok(())
    });
    debug_assert!(sealed.is_ok(), "writing to a Vec does not fail");
    value
}

/// Reads back what [`vote`] wrote.
pub(crate) fn read_vote(key: &[u8], value: &[u8]) -> Result<Vote, Corrupt> {
    let content = unseal(key, value)?;
    let (leader_id, rest) = read_leader(content)?;
    match rest {
        [committed @ (0 | 1)] => Ok(RaftVote {
            leader_id,
            committed: *committed == 1,
        }),
        _ => Err(Corrupt::Content),
    }
}

/// Frames what `write` appends as one checked value.
pub(crate) fn seal(
    key: &[u8],
    value: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> io::Result<()>,
) -> io::Result<()> {
    value.clear();
    value.put_u8(VERSION);
    write(value)?;
    value.put_u32(checksum(key, value));
    Ok(())
}

/// The content of a value that [`seal`] framed.
pub(crate) fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], Corrupt> {
    let (framed, found) = value
        .split_last_chunk::<CHECKSUM_LEN>()
        .ok_or(Corrupt::Short(value.len()))?;
    let (version, content) = framed.split_first().ok_or(Corrupt::Short(value.len()))?;
    let (found, computed) = (u32::from_be_bytes(*found), checksum(key, framed));
    if found != computed {
        return Err(Corrupt::Checksum { found, computed });
    }
    if *version != VERSION {
        return Err(Corrupt::Version(*version));
    }
    Ok(content)
}

fn checksum(key: &[u8], framed: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(framed);
    hasher.finalize()
}

fn write_leader(value: &mut Vec<u8>, kind: u8, leader: &LeaderId) {
    value.put_u8(kind);
    value.put_u64(leader.term);
    value.put_u64(leader.node_id);
}

fn read_leader(content: &[u8]) -> Result<(LeaderId, &[u8]), Corrupt> {
    let (term, rest) = content.split_first_chunk::<8>().ok_or(Corrupt::Content)?;
    let (node_id, rest) = rest.split_first_chunk::<8>().ok_or(Corrupt::Content)?;
    let leader = LeaderId {
        term: u64::from_be_bytes(*term),
        node_id: u64::from_be_bytes(*node_id),
    };
    Ok((leader, rest))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use openraft::Membership;

    use super::*;
    use crate::raft::keys;

    fn id(index: u64) -> LogId {
        RaftLogId {
            leader_id: LeaderId {
                term: 3,
                node_id: 9,
            },
            index,
        }
    }

    fn entries() -> [Entry; 3] {
        let command = Command::from_encoded(Bytes::from_static(b"\x01\x01\x0a\x00"));
        let nodes = BTreeMap::from([(9, openraft::BasicNode::new("127.0.0.1:1"))]);
        let membership = Membership::new(vec![BTreeSet::from([9])], nodes).unwrap();
        [
            Entry {
                log_id: id(7),
                payload: EntryPayload::Blank,
            },
            Entry {
                log_id: id(7),
                payload: EntryPayload::Normal(command),
            },
            Entry {
                log_id: id(7),
                payload: EntryPayload::Membership(membership),
            },
        ]
    }

    #[test]
    fn every_kind_of_entry_is_read_back_as_it_was_written() {
        let key = keys::entry(0, 7);
        let mut value = Vec::new();
        for entry in entries() {
            write_entry(&key, &entry, &mut value).unwrap();
            assert_eq!(read_entry(&key, 7, value.clone()).unwrap(), entry);
        }
    }

    #[test]
    fn votes_and_log_ids_are_read_back_as_they_were_written() {
        for committed in [false, true] {
            let written = RaftVote {
                leader_id: LeaderId {
                    term: 5,
                    node_id: 2,
                },
                committed,
            };
            assert_eq!(read_vote(b"k", &vote(b"k", &written)), Ok(written));
        }
        assert_eq!(read_log_id(b"k", &log_id(b"k", &id(11))), Ok(id(11)));
    }

    #[test]
    fn any_flipped_bit_and_any_truncation_is_corrupt() {
        let key = keys::entry(0, 7);
        let mut value = Vec::new();
        for entry in entries() {
            write_entry(&key, &entry, &mut value).unwrap();
            for bit in 0..value.len() * 8 {
                let mut bent = value.clone();
                bent[bit / 8] ^= 1 << (bit % 8);
                assert!(read_entry(&key, 7, bent).is_err(), "bit {bit}");
            }
            for len in 0..value.len() {
                assert!(
                    read_entry(&key, 7, value[..len].to_vec()).is_err(),
                    "cut at {len}"
                );
            }
        }
    }

    #[test]
    fn a_value_of_another_version_is_refused_as_such() {
        let mut value = Vec::new();
        seal(b"key", &mut value, |_| Ok(())).unwrap();
        value[0] = VERSION + 1;
        let framed = value.len() - CHECKSUM_LEN;
        let sum = checksum(b"key", &value[..framed]);
        value[framed..].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(unseal(b"key", &value), Err(Corrupt::Version(VERSION + 1)));
    }

    #[test]
    fn a_value_under_another_key_is_corrupt() {
        let mut value = Vec::new();
        write_entry(&keys::entry(0, 7), &entries()[0], &mut value).unwrap();
        assert!(read_entry(&keys::entry(1, 7), 7, value).is_err());
    }
}
