//! One group's state machine database: where it lies, how it opens, what it
//! has applied.
//!
//! It is written without a write-ahead log, because the Raft log is one
//! already. What a crash leaves is therefore what RocksDB had flushed, and the
//! position it belongs to is in the same flush: one column family, and the
//! position in the same write batch as the records. openraft applies the rest
//! again from the log, which is never purged past what was flushed.
//!
//! ```text
//! group-0/CURRENT     names the directory below that counts
//! group-0/state-1     the database
//! group-0/snapshot    the last snapshot, if one was made
//! group-0/saving-0    a checkpoint, while a backup is made of it
//! ```
//! A snapshot that arrives is loaded into a directory of its own, and becomes
//! the state by one rename: the old state or the new one, never half of each.
//! The file `snapshot` goes before that and comes back after it: openraft makes
//! one where there is none, and would go on sending one that is out of date.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rocksdb::{BlockBasedOptions, Cache, DB, Options, Snapshot, WriteBatch, WriteOptions};

use super::{
    backup::Copy,
    codec,
    database::{self, Database},
    fail, keys,
    types::{LogId, StoredMembership},
};

const CURRENT: &str = "CURRENT";
const SNAPSHOT: &str = "snapshot";
const STATE_PREFIX: &str = "state-";
const COPY_PREFIX: &str = "saving-";

/// How much goes into one skip list: so little that it stays near the processor,
/// where inserting into it is the cost of a write, also where several groups
/// take turns.
const MEMTABLE_BYTES: usize = 2 << 20;
/// How many of them are flushed together, into one file.
const FLUSHED_TOGETHER: i32 = 4;
const CACHE_BYTES: usize = 32 << 20;

/// The state of one group.
pub(crate) struct StateStore {
    home: PathBuf,
    pub(crate) database: Arc<Database>,
    position: Mutex<Position>,
    /// Log bytes applied since the last snapshot.
    pub(crate) unsnapped_bytes: AtomicU64,
    /// Whether the group is being closed, which waits for no snapshot.
    pub(crate) is_closing: AtomicBool,
    /// Held by whoever gives the file `snapshot` another content.
    snapshot: Mutex<()>,
    copies: AtomicU64,
}

/// How far the state has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Position {
    /// The last applied log entry.
    pub(crate) applied: Option<LogId>,
    /// The last applied membership.
    pub(crate) membership: StoredMembership,
}

impl StateStore {
    /// Opens the state of a group below `home`, or begins one. Blocks.
    pub(crate) fn open(home: &Path) -> io::Result<Self> {
        fs::create_dir_all(home)?;
        let current = match current(home) {
            Ok(number) => name(number),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                refuse_states(home)?;
                database::write_atomically(&home.join(CURRENT), name(1).as_bytes())?;
                name(1)
            }
            Err(error) => return Err(error),
        };
        remove_leftovers(home, &current)?;
        let db = open_database(&home.join(current))?;
        let position = Position::read(&db, &db.snapshot())?;
        Ok(Self {
            home: home.to_owned(),
            database: Arc::new(Database::from(db)),
            position: Mutex::new(position),
            unsnapped_bytes: AtomicU64::new(0),
            is_closing: AtomicBool::new(false),
            snapshot: Mutex::new(()),
            copies: AtomicU64::new(0),
        })
    }

    pub(crate) fn position(&self) -> Position {
        self.position
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_position(&self, position: Position) {
        *self.position.lock().unwrap_or_else(PoisonError::into_inner) = position;
    }

    /// Makes everything applied so far durable. Blocks.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let db = self.database.get()?;
        db.flush()
            .map_err(|error| database::named(db.path(), &error))
    }

    /// Where the last snapshot lies, if there is one.
    pub(crate) fn snapshot_path(&self) -> PathBuf {
        self.home.join(SNAPSHOT)
    }

    /// The right to give that file another content, and the state with it.
    pub(crate) fn own_snapshot(&self) -> MutexGuard<'_, ()> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error for a record that is not what this version writes there.
    pub(crate) fn damaged(&self, key: &[u8]) -> io::Error {
        io::Error::new(
            ErrorKind::InvalidData,
            format!(
                "state of {}: the record under {} is damaged; restore the data directory from a \
                 backup",
                self.home.display(),
                key.escape_ascii()
            ),
        )
    }

    /// Bytes the state takes up on disk, roughly.
    pub(crate) fn stored_bytes(&self) -> u64 {
        let property = rocksdb::properties::ESTIMATE_LIVE_DATA_SIZE;
        let size = self
            .database
            .get()
            .map(|db| db.property_int_value(property));
        size.ok().and_then(Result::ok).flatten().unwrap_or(0)
    }

    /// What the state holds now, as a database beside it. Blocks for a flush.
    pub(super) fn copy(&self) -> io::Result<Copy> {
        let number = self.copies.fetch_add(1, Ordering::Relaxed);
        let path = self.home.join(format!("{COPY_PREFIX}{number}"));
        let db = self.database.get()?;
        Copy::of(&db, path)
    }

    /// Begins a state that was empty with what `load` puts into it. Blocks.
    pub(crate) fn begin(
        &self,
        position: &Position,
        load: impl FnOnce(&DB) -> io::Result<u64>,
    ) -> io::Result<()> {
        let db = self.database.get()?;
        load(&db)?;
        settle(&db, position)
    }

    /// Builds another state with `load` and puts it in this one's place, which
    /// is then without a snapshot; on an error this one stays. Blocks, and not
    /// for readers of the old state.
    pub(crate) fn replace(&self, load: impl FnOnce(&DB) -> io::Result<Position>) -> io::Result<()> {
        let name = name(current(&self.home)? + 1);
        let path = self.home.join(&name);
        let db = open_database(&path)?;
        let position = load(&db)?;
        settle(&db, &position)?;
        match fs::remove_file(self.snapshot_path()) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        database::sync_directory(&self.home)?;
        fail::point(fail::INSTALL_LOADED);
        database::write_atomically(&self.home.join(CURRENT), name.as_bytes())?;
        fail::point(fail::INSTALL_MOVED);
        self.database.replace(db);
        self.set_position(position);
        self.unsnapped_bytes.store(0, Ordering::Relaxed);
        Ok(())
    }
}

impl Position {
    /// The position of a database as of `moment`.
    pub(crate) fn read(db: &DB, moment: &Snapshot<'_>) -> io::Result<Self> {
        let corrupt = |what: &str, fault: &codec::Corrupt| {
            let path = db.path().display();
            io::Error::new(
                ErrorKind::InvalidData,
                format!(
                    "state database {path}: {what} is corrupt: {fault}; restore the data \
                     directory from a backup, or start with an empty one"
                ),
            )
        };
        let stored = |key| {
            moment
                .get(key)
                .map_err(|error| database::named(db.path(), &error))
        };
        let applied = stored(keys::APPLIED)?
            .map(|value| codec::read_log_id(keys::APPLIED, &value))
            .transpose()
            .map_err(|fault| corrupt("its position", &fault))?;
        let membership = stored(keys::MEMBERSHIP)?
            .map(|value| {
                let content = codec::unseal(keys::MEMBERSHIP, &value)?;
                serde_json::from_slice(content).map_err(|_| codec::Corrupt::Content)
            })
            .transpose()
            .map_err(|fault| corrupt("its membership", &fault))?;
        Ok(Self {
            applied,
            membership: membership.unwrap_or_default(),
        })
    }

    /// Adds the position to the batch whose records bring the state to it.
    pub(crate) fn write(&self, batch: &mut WriteBatch, new_membership: bool) -> io::Result<()> {
        if let Some(applied) = &self.applied {
            batch.put(keys::APPLIED, codec::log_id(keys::APPLIED, applied));
        }
        if new_membership {
            let mut value = Vec::new();
            codec::seal(keys::MEMBERSHIP, &mut value, |value| {
                Ok(serde_json::to_writer(value, &self.membership)?)
            })?;
            batch.put(keys::MEMBERSHIP, value);
        }
        Ok(())
    }
}

/// Writes a batch to a state database: with no write-ahead log.
pub(crate) fn write(db: &DB, batch: WriteBatch) -> io::Result<()> {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    db.write_opt(batch, &options)
        .map_err(|error| database::named(db.path(), &error))
}

/// The number of the state that counts.
fn current(home: &Path) -> io::Result<u64> {
    let path = home.join(CURRENT);
    let told = fs::read_to_string(&path)?;
    let number = told.trim_end().strip_prefix(STATE_PREFIX);
    number.and_then(|n| n.parse().ok()).ok_or_else(|| {
        io::Error::new(
            ErrorKind::InvalidData,
            format!(
                "{}: it says {told:?} where {STATE_PREFIX}<number> is meant; restore the data \
                 directory from a backup",
                path.display()
            ),
        )
    })
}

/// Refuses to begin a state where one lies already: which of them counted, only
/// the file that is missing said.
fn refuse_states(home: &Path) -> io::Result<()> {
    for entry in fs::read_dir(home)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(STATE_PREFIX) {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                format!(
                    "{}: it is missing, and {name} lies beside it; put it back, or restore the \
                     data directory from a backup",
                    home.join(CURRENT).display()
                ),
            ));
        }
    }
    Ok(())
}

fn name(number: u64) -> String {
    format!("{STATE_PREFIX}{number}")
}

/// Gives a database that was loaded its position, and makes it durable.
fn settle(db: &DB, position: &Position) -> io::Result<()> {
    let mut batch = WriteBatch::default();
    position.write(&mut batch, true)?;
    write(db, batch)?;
    db.flush()
        .map_err(|error| database::named(db.path(), &error))
}

/// Opens a copy of a state, to read it.
pub(crate) fn open_copy(path: &Path) -> io::Result<DB> {
    let opened = DB::open_for_read_only(&options(), path, false);
    opened.map_err(|error| database::named(path, &error))
}

fn open_database(path: &Path) -> io::Result<DB> {
    DB::open(&options(), path).map_err(|error| database::named(path, &error))
}

fn options() -> Options {
    let mut options = database::options();
    options.set_write_buffer_size(MEMTABLE_BYTES);
    options.set_min_write_buffer_number_to_merge(FLUSHED_TOGETHER);
    // Room for bursts: writers wait only when what six files take is full.
    options.set_max_write_buffer_number(6 * FLUSHED_TOGETHER);
    options.set_level_zero_file_num_compaction_trigger(8);
    options.set_level_zero_slowdown_writes_trigger(40);
    options.set_level_zero_stop_writes_trigger(64);
    // One writer: what concurrent ones need costs it.
    options.set_allow_concurrent_memtable_write(false);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
    table.set_bloom_filter(10.0, false);
    options.set_block_based_table_factory(&table);
    options
}

/// Removes what a crash left of states and files that never came to count.
fn remove_leftovers(home: &Path, current: &str) -> io::Result<()> {
    for entry in fs::read_dir(home)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_old = name.starts_with(STATE_PREFIX) && name != current;
        if is_old || name.starts_with(COPY_PREFIX) {
            // A late reader of a group that was closed may do the same.
            match fs::remove_dir_all(entry.path()) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        } else if name.ends_with(".new") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
