//! A snapshot as a file: what a state database held at one moment.
//!
//! ```text
//! "FERRYSN1"   format
//! …            the position and the records, as `blocks` has them
//! ```
//! It is written and read a block at a time, whatever the state's size, and
//! moves to its name when it is whole and synced.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, ErrorKind, Write},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use rocksdb::DB;

use super::{
    blocks::{self, BLOCK_BYTES, Blocks, Named},
    database::{self, Held},
    fail,
    state::{Position, StateStore},
    types::SnapshotMeta,
};

const MAGIC: [u8; 8] = *b"FERRYSN1";
/// What to do about a damaged snapshot of this node's.
const OWN_REMEDY: &str = "delete it, a new one is made";
/// What to do about one that another node sent.
const SENT_REMEDY: &str = "the node that sends it has it so: stop that node, delete the file \
                           `snapshot` in the group's folder of its data directory, and start it \
                           again: it makes a new one";

/// A snapshot file, open: it stays readable when another takes its name.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    file: File,
    path: PathBuf,
    remedy: &'static str,
}

impl SnapshotFile {
    /// Opens the snapshot at `path`; `None` if there is none.
    pub(crate) fn open(path: &Path) -> io::Result<Option<(SnapshotMeta, Self)>> {
        match Self::begin(path, OWN_REMEDY) {
            Ok(opened) => Ok(Some(opened)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens what another node sent and was written to `path`, once it is read
    /// to its end and whole: an install that fails stops the group for good.
    pub(crate) fn sent(path: &Path) -> io::Result<(SnapshotMeta, Self)> {
        let (meta, mut snapshot) = Self::begin(path, SENT_REMEDY)?;
        let mut blocks = snapshot.blocks()?;
        blocks.position()?;
        blocks.records(|_| Ok(()))?;
        blocks.end()?;
        Ok((meta, snapshot))
    }

    fn begin(path: &Path, remedy: &'static str) -> io::Result<(SnapshotMeta, Self)> {
        let mut snapshot = Self {
            file: File::open(path)?,
            path: path.to_owned(),
            remedy,
        };
        let position = snapshot.blocks()?.position()?;
        Ok((meta(&position), snapshot))
    }

    /// Loads the records into an empty state database, and checks that the file
    /// is whole.
    pub(crate) fn load(&mut self, db: &DB) -> io::Result<Position> {
        let mut blocks = self.blocks()?;
        let position = blocks.position()?;
        blocks.load(db)?;
        blocks.end()?;
        Ok(position)
    }

    /// Copies the file to `path`, in place of what is there.
    pub(crate) fn save_as(&mut self, path: &Path) -> io::Result<()> {
        use io::Seek as _;
        self.file.rewind()?;
        // Another is perhaps just being written to the usual temporary file.
        let temporary = database::temporary(&path.with_extension("installed"));
        let mut copy = File::create(&temporary)?;
        io::copy(&mut self.file, &mut copy)?;
        copy.sync_all()?;
        database::move_into_place(&temporary, path)
    }

    /// Reads bytes of the file at `offset`, whatever else is read of it; fewer
    /// than there is room for only at its end. Blocks.
    pub(crate) fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        use std::os::unix::fs::FileExt as _;
        let mut len = 0;
        while len < bytes.len() {
            match self.file.read_at(&mut bytes[len..], offset + len as u64)? {
                0 => break,
                more => len += more,
            }
        }
        Ok(len)
    }

    fn blocks(&mut self) -> io::Result<Blocks<'_, BufReader<&File>>> {
        use io::Seek as _;
        self.file.rewind()?;
        let named = Named {
            what: "snapshot",
            path: &self.path,
            remedy: self.remedy,
        };
        let file = BufReader::with_capacity(BLOCK_BYTES, &self.file);
        Blocks::begin(named, file, MAGIC)
    }
}

/// Writes what `store` holds now to its snapshot file, in place of what is
/// there, and calls `fixed` as soon as later writes no longer count. Blocks.
///
/// The state is flushed first: a snapshot lets the log before it go, so what it
/// stands for must not depend on that log any more. It is given up, with an
/// error, as soon as the group is being closed: until it ends it keeps the
/// database open. It is given up as well when another snapshot is installed
/// meanwhile: that one is what is returned, since openraft takes an error for
/// the end of the group.
pub(crate) fn write(
    store: &StateStore,
    fixed: impl FnOnce(),
) -> io::Result<(SnapshotMeta, SnapshotFile)> {
    let db = store.database.get()?;
    let written = write_temporary(store, &db, fixed);
    // Whoever replaces the database holds this until its snapshot is there.
    let own = store.own_snapshot();
    let path = store.snapshot_path();
    if db.is_replaced() {
        fs::remove_file(database::temporary(&path)).ok();
    } else {
        database::move_into_place(&written?, &path)?;
    }
    drop(own);
    SnapshotFile::open(&path)?
        .ok_or_else(|| io::Error::other("the snapshot is gone as soon as it was written"))
}

/// Writes the file under the name that it has until it is whole.
fn write_temporary(store: &StateStore, db: &Held, fixed: impl FnOnce()) -> io::Result<PathBuf> {
    let moment = db.snapshot();
    // The snapshot of RocksDB, not the memory of the store, says what is in it.
    let position = Position::read(db, &moment)?;
    fixed();
    db.flush()
        .map_err(|error| database::named(db.path(), &error))?;
    fail::point(fail::SNAPSHOT_FLUSHED);
    let temporary = database::temporary(&store.snapshot_path());
    let file = File::create(&temporary)?;
    let mut file = BufWriter::with_capacity(BLOCK_BYTES, Stoppable { file, store, db });
    file.write_all(&MAGIC)?;
    blocks::write_position(&mut file, &position)?;
    let count = blocks::write_records(&mut file, db, &moment)?;
    file.flush()?;
    fail::point(fail::SNAPSHOT_HALF);
    blocks::write_end(&mut file, count)?;
    file.into_inner()?.file.sync_all()?;
    fail::point(fail::SNAPSHOT_WHOLE);
    Ok(temporary)
}

/// A file that takes no more once what it holds is of no use.
struct Stoppable<'a> {
    file: File,
    store: &'a StateStore,
    db: &'a Held,
}

impl Write for Stoppable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.store.is_closing.load(Ordering::Relaxed) {
            let what = "the group is being closed: its snapshot was given up";
            return Err(io::Error::other(what));
        }
        if self.db.is_replaced() {
            let what = "the state was replaced: the snapshot of the old one was given up";
            return Err(io::Error::other(what));
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A position in openraft's words.
pub(crate) fn meta(position: &Position) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: position.applied,
        last_membership: position.membership.clone(),
    }
}
