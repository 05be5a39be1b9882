//! A state as a stream of bytes, whatever its size: records in blocks, each
//! with a checksum.
//!
//! ```text
//! block: length u32, content, crc32 u32   the first: position, as JSON
//! …                                       others: records, up to 256 KiB
//! block of length 0, then records u64, crc32 u32
//! record: key length u32, key, value length u32, value
//! ```
//! A block at a time is in memory, when writing and when reading. What is
//! damaged is told with the file that it is in.

use std::{
    io::{self, ErrorKind, Read, Write},
    path::Path,
};

use rocksdb::{DB, ReadOptions, Snapshot, WriteBatch};

use super::{
    database, fail, keys,
    state::{self, Position},
};

pub(super) const BLOCK_BYTES: usize = 256 << 10;
/// The largest block that is read: one record may be larger than a block.
const BLOCK_MAX: u32 = 1 << 30;

/// What a stream of blocks is read from, for whoever hears that it is damaged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub(super) what: &'static str,
    pub(super) path: &'a Path,
    pub(super) remedy: &'static str,
}

impl Named<'_> {
    pub(super) fn corrupt(&self, fault: &str) -> io::Error {
        let (what, path, remedy) = (self.what, self.path.display(), self.remedy);
        io::Error::new(
            ErrorKind::InvalidData,
            format!("{what} {path} is corrupt: {fault}; {remedy}"),
        )
    }

    /// The error of reading it.
    fn unread(&self, error: io::Error) -> io::Error {
        match error.kind() {
            ErrorKind::UnexpectedEof => self.corrupt("it is cut off"),
            kind => io::Error::new(
                kind,
                format!("{} {}: {error}", self.what, self.path.display()),
            ),
        }
    }
}

/// The blocks of a state that is being read.
pub(super) struct Blocks<'a, R> {
    named: Named<'a>,
    source: R,
}

impl<'a, R: Read> Blocks<'a, R> {
    /// Reads what begins with `magic`.
    pub(super) fn begin(named: Named<'a>, mut source: R, magic: [u8; 8]) -> io::Result<Self> {
        let mut found = [0; 8];
        let read = source.read_exact(&mut found);
        read.map_err(|error| named.unread(error))?;
        match found == magic {
            true => Ok(Self { named, source }),
            false => Err(named.corrupt("it is of no format that this version reads")),
        }
    }

    /// The next block, which is to be a head: JSON.
    pub(super) fn head<T: serde::de::DeserializeOwned>(&mut self) -> io::Result<T> {
        let head = match self.next()? {
            Next::Block(head) => head,
            Next::End(_) => return Err(self.named.corrupt("it has no head")),
        };
        let parsed = serde_json::from_slice(&head);
        parsed.map_err(|_| self.named.corrupt("its head does not parse"))
    }

    /// The position that the records bring a state to.
    pub(super) fn position(&mut self) -> io::Result<Position> {
        let (applied, membership) = self.head()?;
        Ok(Position {
            applied,
            membership,
        })
    }

    /// Shows each block of records to `take`, as a batch to write, up to their
    /// end; returns how many records there were.
    pub(super) fn records(
        &mut self,
        mut take: impl FnMut(WriteBatch) -> io::Result<()>,
    ) -> io::Result<u64> {
        let mut count = 0;
        loop {
            let block = match self.next()? {
                Next::Block(block) => block,
                Next::End(told) if told == count => return Ok(count),
                Next::End(_) => return Err(self.named.corrupt("its number of records is wrong")),
            };
            let mut batch = WriteBatch::default();
            let mut rest = &block[..];
            while !rest.is_empty() {
                let record = prefixed(&mut rest).zip(prefixed(&mut rest));
                let (key, value) =
                    record.ok_or_else(|| self.named.corrupt("a record is cut off"))?;
                batch.put(key, value);
                count += 1;
            }
            take(batch)?;
        }
    }

    /// Loads the records into an empty state database, which nothing reads yet.
    pub(super) fn load(&mut self, db: &DB) -> io::Result<u64> {
        self.records(|batch| {
            state::write(db, batch)?;
            fail::point(fail::INSTALL_HALF);
            Ok(())
        })
    }

    /// Checks that nothing is behind what was read.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let behind = self.source.read(&mut [0]);
        match behind.map_err(|error| self.named.unread(error))? {
            0 => Ok(()),
            _ => Err(self.named.corrupt("there is more behind its end")),
        }
    }

    fn next(&mut self) -> io::Result<Next> {
        let len = u32::from_be_bytes(self.array()?);
        if len == 0 {
            let count = self.array::<8>()?;
            if u32::from_be_bytes(self.array()?) != crc32fast::hash(&count) {
                return Err(self.named.corrupt("the checksum of its end is wrong"));
            }
            return Ok(Next::End(u64::from_be_bytes(count)));
        }
        if len > BLOCK_MAX {
            return Err(self.named.corrupt("a block is longer than any"));
        }
        let mut block = Vec::new();
        let mut part = (&mut self.source).take(u64::from(len));
        let read = part.read_to_end(&mut block);
        if read.map_err(|error| self.named.unread(error))? != len as usize {
            return Err(self.named.corrupt("it is cut off"));
        }
        if u32::from_be_bytes(self.array()?) != crc32fast::hash(&block) {
            return Err(self.named.corrupt("the checksum of a block is wrong"));
        }
        Ok(Next::Block(block))
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        let read = self.source.read_exact(&mut bytes);
        read.map_err(|error| self.named.unread(error))?;
        Ok(bytes)
    }
}

enum Next {
    Block(Vec<u8>),
    /// With the number of records before it.
    End(u64),
}

/// Writes a head: a block of JSON.
pub(super) fn write_head(out: &mut impl Write, head: &impl serde::Serialize) -> io::Result<()> {
    write_block(out, &serde_json::to_vec(head)?)
}

/// Writes the position of a state as its head.
pub(super) fn write_position(out: &mut impl Write, position: &Position) -> io::Result<()> {
    write_head(out, &(&position.applied, &position.membership))
}

/// Writes the records of `moment`, without their end; returns how many.
pub(super) fn write_records(
    out: &mut impl Write,
    db: &DB,
    moment: &Snapshot<'_>,
) -> io::Result<u64> {
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
            write_block(out, &block)?;
            block.clear();
        }
        records.next();
    }
    let read = records.status();
    read.map_err(|error| database::named(db.path(), &error))?;
    if !block.is_empty() {
        write_block(out, &block)?;
    }
    Ok(count)
}

/// Ends what [`write_records`] wrote.
pub(super) fn write_end(out: &mut impl Write, count: u64) -> io::Result<()> {
    let count = count.to_be_bytes();
    out.write_all(&0u32.to_be_bytes())?;
    out.write_all(&count)?;
    out.write_all(&crc32fast::hash(&count).to_be_bytes())
}

fn write_block(out: &mut impl Write, block: &[u8]) -> io::Result<()> {
    out.write_all(&length(block)?)?;
    out.write_all(block)?;
    out.write_all(&crc32fast::hash(block).to_be_bytes())
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
