//! A snapshot as a file: what a state database held at one moment.
//!
//! ```text
//! "FERRYSN1"                              format
//! block: length u32, content, crc32 u32   the first: position, as JSON
//! …                                       others: records, up to 256 KiB
//! block of length 0, then records u64, crc32 u32
//! record: key length u32, key, value length u32, value
//! ```
//! It is written and read a block at a time, whatever the state's size, and
//! moves to its name when it is whole and synced.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

use rocksdb::{DB, ReadOptions, WriteBatch};

use super::{
    database, fail, keys,
    state::{self, Position},
    types::SnapshotMeta,
};

const MAGIC: [u8; 8] = *b"FERRYSN1";
const BLOCK_BYTES: usize = 256 << 10;
/// The largest block that is read: one record may be larger than a block.
const BLOCK_MAX: u32 = 1 << 30;

/// A snapshot file, open: it stays readable when another takes its name.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    file: File,
    path: PathBuf,
}

impl SnapshotFile {
    /// Opens the snapshot at `path`; `None` if there is none.
    pub(crate) fn open(path: &Path) -> io::Result<Option<(SnapshotMeta, Self)>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut snapshot = Self {
            file,
            path: path.to_owned(),
        };
        let position = snapshot.blocks()?.position;
        Ok(Some((meta(&position), snapshot)))
    }

    /// Loads the records into an empty state database, and checks that the file
    /// is whole.
    pub(crate) fn load(&mut self, db: &DB) -> io::Result<Position> {
        let path = self.path.clone();
        let mut blocks = self.blocks()?;
        let mut count = 0;
        while let Some(block) = blocks.next()? {
            let mut batch = WriteBatch::default();
            let mut rest = &block[..];
            while !rest.is_empty() {
                let record = prefixed(&mut rest).zip(prefixed(&mut rest));
                let (key, value) = record.ok_or_else(|| corrupt(&path, "a record is cut off"))?;
                batch.put(key, value);
                count += 1;
            }
            state::write(db, batch)?;
            fail::point(fail::INSTALL_HALF);
        }
        if blocks.count != count {
            return Err(corrupt(&path, "its number of records is wrong"));
        }
        Ok(blocks.position)
    }

    /// Copies the file to `path`, in place of what is there.
    pub(crate) fn save_as(&mut self, path: &Path) -> io::Result<()> {
        use io::Seek as _;
        self.file.rewind()?;
        let temporary = database::temporary(path);
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

    fn blocks(&mut self) -> io::Result<Blocks<'_>> {
        use io::Seek as _;
        self.file.rewind()?;
        let mut blocks = Blocks {
            path: &self.path,
            file: BufReader::with_capacity(BLOCK_BYTES, &self.file),
            position: Position::default(),
            count: 0,
        };
        let mut magic = [0; MAGIC.len()];
        blocks
            .file
            .read_exact(&mut magic)
            .map_err(|error| blocks.fault(error))?;
        if magic != MAGIC {
            return Err(corrupt(
                &self.path,
                "it is no snapshot of a format this version reads",
            ));
        }
        let head = blocks
            .next()?
            .ok_or_else(|| corrupt(&self.path, "it has no position"))?;
        let (applied, membership) = serde_json::from_slice(&head)
            .map_err(|_| corrupt(&self.path, "its position does not parse"))?;
        blocks.position = Position {
            applied,
            membership,
        };
        Ok(blocks)
    }
}

/// The blocks of a snapshot that is being read.
struct Blocks<'a> {
    path: &'a Path,
    file: BufReader<&'a File>,
    position: Position,
    /// Records, known at the end.
    count: u64,
}

impl Blocks<'_> {
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let len = u32::from_be_bytes(self.array()?);
        if len == 0 {
            let count = self.array::<8>()?;
            if u32::from_be_bytes(self.array()?) != crc32fast::hash(&count) {
                return Err(corrupt(self.path, "the checksum of its end is wrong"));
            }
            self.count = u64::from_be_bytes(count);
            return Ok(None);
        }
        if len > BLOCK_MAX {
            return Err(corrupt(self.path, "a block is longer than any"));
        }
        let mut block = Vec::new();
        let read = (&mut self.file)
            .take(u64::from(len))
            .read_to_end(&mut block)?;
        if read != len as usize {
            return Err(corrupt(self.path, "it is cut off"));
        }
        if u32::from_be_bytes(self.array()?) != crc32fast::hash(&block) {
            return Err(corrupt(self.path, "the checksum of a block is wrong"));
        }
        Ok(Some(block))
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file
            .read_exact(&mut bytes)
            .map_err(|error| self.fault(error))?;
        Ok(bytes)
    }

    fn fault(&self, error: io::Error) -> io::Error {
        match error.kind() {
            ErrorKind::UnexpectedEof => corrupt(self.path, "it is cut off"),
            _ => error,
        }
    }
}

/// Writes what `db` holds now to a snapshot at `path`, in place of what is
/// there, and calls `fixed` as soon as later writes no longer count. Blocks.
///
/// The state is flushed first: a snapshot lets the log before it go, so what it
/// stands for must not depend on that log any more.
pub(crate) fn write(db: &DB, path: &Path, fixed: impl FnOnce()) -> io::Result<Position> {
    let moment = db.snapshot();
    // The snapshot of RocksDB, not the memory of the store, says what is in it.
    let position = Position::read(db, &moment)?;
    fixed();
    db.flush()
        .map_err(|error| database::named(db.path(), &error))?;
    fail::point(fail::SNAPSHOT_FLUSHED);
    let temporary = database::temporary(path);
    let mut file = BufWriter::with_capacity(BLOCK_BYTES, File::create(&temporary)?);
    file.write_all(&MAGIC)?;
    let head = serde_json::to_vec(&(&position.applied, &position.membership))?;
    write_block(&mut file, &head)?;

    let mut options = ReadOptions::default();
    options.set_iterate_range(&[keys::SESSIONS][..]..);
    options.fill_cache(false);
    let mut records = moment.raw_iterator_opt(options);
    records.seek_to_first();
    let (mut block, mut count) = (Vec::with_capacity(BLOCK_BYTES), 0u64);
    while let Some((key, value)) = records.item() {
        append_prefixed(&mut block, key)?;
        append_prefixed(&mut block, value)?;
        count += 1;
        if block.len() >= BLOCK_BYTES {
            write_block(&mut file, &block)?;
            block.clear();
        }
        records.next();
    }
    records
        .status()
        .map_err(|error| database::named(db.path(), &error))?;
    if !block.is_empty() {
        write_block(&mut file, &block)?;
    }
    file.flush()?;
    fail::point(fail::SNAPSHOT_HALF);
    file.write_all(&0u32.to_be_bytes())?;
    file.write_all(&count.to_be_bytes())?;
    file.write_all(&crc32fast::hash(&count.to_be_bytes()).to_be_bytes())?;
    file.into_inner()?.sync_all()?;
    fail::point(fail::SNAPSHOT_WHOLE);
    database::move_into_place(&temporary, path)?;
    Ok(position)
}

/// A position in openraft's words.
pub(crate) fn meta(position: &Position) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: position.applied,
        last_membership: position.membership.clone(),
    }
}

fn write_block(file: &mut impl Write, block: &[u8]) -> io::Result<()> {
    file.write_all(&length(block)?)?;
    file.write_all(block)?;
    file.write_all(&crc32fast::hash(block).to_be_bytes())
}

fn append_prefixed(block: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    block.extend_from_slice(&length(bytes)?);
    block.extend_from_slice(bytes);
    Ok(())
}

fn length(bytes: &[u8]) -> io::Result<[u8; 4]> {
    match u32::try_from(bytes.len()) {
        Ok(len) if len <= BLOCK_MAX => Ok(len.to_be_bytes()),
        _ => Err(io::Error::new(
            ErrorKind::FileTooLarge,
            format!(
                "a record of {} bytes: a snapshot holds at most {BLOCK_MAX}",
                bytes.len()
            ),
        )),
    }
}

fn prefixed<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, behind) = rest.split_first_chunk::<4>()?;
    let (bytes, behind) = behind.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    *rest = behind;
    Some(bytes)
}

fn corrupt(path: &Path, what: &str) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidData,
        format!(
            "snapshot {} is corrupt: {what}; delete it, a new one is made",
            path.display()
        ),
    )
}
