//! The log database as it is on disk: how it opens, and how what is in it is
//! read, with a clear word where that is damaged.

use std::{io, ops::Range, path::Path};

use rocksdb::{DB, DBRecoveryMode, IteratorMode, Options, ReadOptions};

use super::{
    codec::{self, Corrupt},
    database,
    keys::{self, Fact},
    recent::weight,
    types::{Entry, LogId},
};

/// Write buffers of the log database: large, since a log is written once, read
/// rarely and deleted by files, and large buffers leave few and large ones.
pub(crate) const BUFFER_BYTES: usize = 64 << 20;

/// Options of the log database, with write buffers of so many bytes.
pub(crate) fn options(buffer_bytes: usize) -> Options {
    let mut options = database::options();
    options.set_write_buffer_size(buffer_bytes);
    options.set_max_total_wal_size(4 * buffer_bytes as u64);
    // What was acknowledged must not be rolled back: damage in the middle is
    // refused, where RocksDB's default would silently end the log there. Only
    // a record that a crash tore at the very end was never acknowledged.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options
}

/// Says what is damaged, where, and what to do about it.
fn corrupt(path: &Path, what: &str, fault: &Corrupt) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "log database {}: {what} is corrupt: {fault}; restore the data directory from a \
             backup, or start with an empty one",
            path.display()
        ),
    )
}

/// What a group remembers beside its entries, if it does.
pub(crate) fn read_fact<T>(
    db: &DB,
    group: u32,
    fact: Fact,
    read: impl FnOnce(&[u8], &[u8]) -> Result<T, Corrupt>,
) -> io::Result<Option<T>> {
    let key = keys::fact(group, fact);
    let value = db
        .get_pinned(key)
        .map_err(|error| database::named(db.path(), &error))?;
    value
        .map(|value| {
            read(&key, &value).map_err(|fault| {
                let what = format!("the {fact:?} of group {group}").to_lowercase();
                corrupt(db.path(), &what, &fault)
            })
        })
        .transpose()
}

/// The first or the last entry of a group's log.
pub(crate) fn edge(db: &DB, group: u32, from: IteratorMode<'_>) -> io::Result<Option<LogId>> {
    let mut options = ReadOptions::default();
    options.set_iterate_range(keys::entry(group, 0)..keys::entry(group + 1, 0));
    let found = db.iterator_opt(from, options).next().transpose();
    let Some((key, value)) = found.map_err(|error| database::named(db.path(), &error))? else {
        return Ok(None);
    };
    parse_entry(db, &key, value.into_vec()).map(|entry| Some(entry.log_id))
}

/// Reads the entries of `range`, from the front, while they weigh at most
/// `max_bytes` together; at least one. Returns what they weigh.
pub(crate) fn read_entries(
    db: &DB,
    group: u32,
    range: Range<u64>,
    max_bytes: usize,
    into: &mut Vec<Entry>,
) -> io::Result<usize> {
    let (mut bytes, mut expected) = (0, range.start);
    let mut options = ReadOptions::default();
    options.set_iterate_range(keys::entry(group, range.start)..keys::entry(group, range.end));
    for pair in db.iterator_opt(IteratorMode::Start, options) {
        let (key, value) = pair.map_err(|error| database::named(db.path(), &error))?;
        let entry = parse_entry(db, &key, value.into_vec())?;
        if entry.log_id.index != expected {
            break;
        }
        expected += 1;
        let grown = bytes + weight(&entry);
        if grown > max_bytes && !into.is_empty() {
            return Ok(bytes);
        }
        bytes = grown;
        into.push(entry);
    }
    if expected == range.end {
        return Ok(bytes);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "log database {}: the entry of group {group} at index {expected} is missing; restore \
             the data directory from a backup, or start with an empty one",
            db.path().display()
        ),
    ))
}

fn parse_entry(db: &DB, key: &[u8], value: Vec<u8>) -> io::Result<Entry> {
    let (group, index) = keys::parse_entry(key)
        .ok_or_else(|| corrupt(db.path(), &format!("key {key:02x?}"), &Corrupt::Content))?;
    codec::read_entry(key, index, value).map_err(|fault| {
        let what = format!("the entry of group {group} at index {index}");
        corrupt(db.path(), &what, &fault)
    })
}
