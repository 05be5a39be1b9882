//! A RocksDB database that can be closed while handles to it exist.
//!
//! RocksDB holds its directory until the last handle is gone, and handles are
//! everywhere: in the core, in readers, in streams to slow clients. So they are
//! borrowed for one operation at a time from here, and closing takes the
//! database away from all of them and waits for the operations under way.
//! Replacing it waits for nobody: whoever lets go of the old one last removes
//! it, since a slow reader must not hold up a group.

use std::{
    fs, io,
    ops::Deref,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rocksdb::{DB, DBCompressionType, Options};
use tokio::time::Instant;

/// How long [`Database::close`] waits for the operations under way.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);
const CLOSE_POLL: Duration = Duration::from_millis(1);

/// One RocksDB database, or the place where one was.
pub(crate) struct Database {
    open: RwLock<Option<Arc<Held>>>,
}

/// A database that somebody uses; its last user closes it.
pub(crate) struct Held {
    /// `None` only while it is dropped.
    db: Option<DB>,
    /// Whether its directory goes with it, since another has its place.
    is_replaced: AtomicBool,
}

impl Held {
    fn new(db: DB) -> Arc<Self> {
        Arc::new(Self {
            db: Some(db),
            is_replaced: AtomicBool::new(false),
        })
    }

    /// Whether another has its place: whoever holds it for long looks here,
    /// and stops.
    pub(crate) fn is_replaced(&self) -> bool {
        self.is_replaced.load(Ordering::Acquire)
    }
}

impl Deref for Held {
    type Target = DB;

    fn deref(&self) -> &DB {
        self.db.as_ref().expect("only a drop takes it")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let path = self.path().to_owned();
        drop(self.db.take());
        if self.is_replaced() {
            // What fails here is no fault of the state that counts.
            if let Err(error) = fs::remove_dir_all(&path) {
                let path = path.display();
                tracing::warn!(%error, "{path} stays until the next start: it cannot be removed");
            }
        }
    }
}

impl Database {
    pub(crate) fn open(options: &Options, path: &Path) -> Result<Self, rocksdb::Error> {
        Ok(Self::from(DB::open(options, path)?))
    }

    /// The database, for one operation; an error once it is closed.
    pub(crate) fn get(&self) -> io::Result<Arc<Held>> {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(|| io::Error::other("the database is closed: the Raft group was shut down"))
    }

    /// Whether [`Database::close`] has begun: whoever holds the database for
    /// long looks here, and stops.
    pub(crate) fn is_closed(&self) -> bool {
        self.open
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }

    /// Puts another database in this one's place. This one's directory is
    /// removed when nobody uses it any more.
    pub(crate) fn replace(&self, with: DB) {
        let with = Held::new(with);
        let old = self
            .open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(with);
        if let Some(old) = old {
            old.is_replaced.store(true, Ordering::Release);
        }
    }

    /// Closes the database. Blocks until the operations under way have ended.
    pub(crate) fn close(&self) -> io::Result<()> {
        let open = self
            .open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        open.map_or(Ok(()), release)
    }
}

impl From<DB> for Database {
    fn from(db: DB) -> Self {
        Self {
            open: RwLock::new(Some(Held::new(db))),
        }
    }
}

/// Drops a database as soon as nobody else uses it.
#[expect(
    clippy::disallowed_methods,
    reason = "closing runs on a thread that may block, and an Arc cannot tell when it is let go"
)]
fn release(mut db: Arc<Held>) -> io::Result<()> {
    let deadline = Instant::now() + CLOSE_PATIENCE;
    loop {
        match Arc::try_unwrap(db) {
            Ok(last) => {
                drop(last);
                return Ok(());
            }
            Err(shared) if Instant::now() < deadline => {
                db = shared;
                thread::sleep(CLOSE_POLL);
            }
            Err(shared) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!(
                        "the database {} is still in use after {CLOSE_PATIENCE:?}: end the calls \
                         that read it",
                        shared.path().display()
                    ),
                ));
            }
        }
    }
}

/// What both databases have in common.
pub(crate) fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    // The build has no compression library; sessions are mostly small and dense.
    options.set_compression_type(DBCompressionType::None);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options
}

/// Says which database an error comes from.
pub(crate) fn named(path: &Path, error: &rocksdb::Error) -> io::Error {
    io::Error::other(format!("database {}: {error}", path.display()))
}

/// A file that is replaced as a whole or not at all, power failure included.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary(path);
    std::fs::write(&temporary, content)?;
    std::fs::File::open(&temporary)?.sync_all()?;
    move_into_place(&temporary, path)
}

/// Renames a synced file or directory to `path`, and makes the name durable.
pub(crate) fn move_into_place(temporary: &Path, path: &Path) -> io::Result<()> {
    std::fs::rename(temporary, path)?;
    sync_directory(path.parent().unwrap_or_else(|| Path::new(".")))
}

pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}

/// The name under which a file is written before it moves to `path`.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_database_can_be_opened_again_at_once() {
        let home = tempfile::tempdir().unwrap();
        let database = Database::open(&options(), home.path()).unwrap();
        database.get().unwrap().put(b"k", b"v").unwrap();
        assert!(
            Database::open(&options(), home.path()).is_err(),
            "it is held"
        );
        database.close().unwrap();
        assert!(database.is_closed());
        assert!(database.get().is_err());
        let again = Database::open(&options(), home.path()).unwrap();
        assert_eq!(
            again.get().unwrap().get(b"k").unwrap().as_deref(),
            Some(&b"v"[..])
        );
    }

    #[test]
    fn closing_waits_for_the_operation_under_way() {
        let home = tempfile::tempdir().unwrap();
        let database = Database::open(&options(), home.path()).unwrap();
        let held = database.get().unwrap();
        thread::scope(|scope| {
            let closing = scope.spawn(|| database.close());
            while !database.is_closed() {
                thread::yield_now();
            }
            held.put(b"k", b"v").unwrap();
            drop(held);
            closing.join().unwrap().unwrap();
        });
        Database::open(&options(), home.path()).unwrap();
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_leaves_no_temporary_one() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert!(!temporary(&path).exists());
    }
}
