//! One group's log, as openraft sees it.
//!
//! Positions and the recent entries are in memory under one lock that is never
//! held across anything slow; everything durable is ordered from the writer
//! thread. So an append returns at once, what it appended is readable at once,
//! and openraft goes on to the next while the sync runs: that pipelining is
//! where the throughput comes from.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{Stream, stream};
use openraft::{
    LogState, OptionalSend,
    storage::{IOFlushed, RaftLogReader, RaftLogStorage},
};
use rocksdb::{IteratorMode, Range};
use tokio::{sync::oneshot, time::Instant};

use super::{
    codec,
    database::Database,
    fail,
    keys::{self, Fact},
    log_disk::{self, edge, read_fact},
    log_writer::{self, LogWriter, Order},
    metrics::{LogMetrics, RaftMetrics},
    recent::Recent,
    types::{Entry, LogId, Types, Vote},
};

/// Most bytes of recent entries kept in memory, a group.
const RECENT_BYTES: usize = 32 << 20;
/// Most bytes of entries that are read at once.
const READ_BYTES: usize = 2 << 20;

/// The log database and its writer: all groups of a node share it.
pub(crate) struct LogDatabase {
    database: Arc<Database>,
    writer: LogWriter,
}

/// One group's part of the log. Clones read and write the same log.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<LogDatabase>,
    log: Arc<GroupLog>,
}

/// What of a group's log is in memory.
pub(crate) struct GroupLog {
    pub(crate) group: u32,
    pub(crate) metrics: Arc<RaftMetrics>,
    state: Mutex<State>,
}

/// Positions of a log and its recent entries.
pub(crate) struct State {
    pub(crate) recent: Recent,
    vote: Option<Vote>,
    purged: Option<LogId>,
    /// Index of the oldest entry there is, or of the next one if there is none.
    first: u64,
    last: Option<LogId>,
    committed: Option<LogId>,
}

impl GroupLog {
    #[cfg(test)]
    pub(crate) fn empty(group: u32, metrics: Arc<RaftMetrics>) -> Arc<Self> {
        let recent = Recent::new(RECENT_BYTES);
        let state = State {
            recent,
            vote: None,
            purged: None,
            first: 0,
            last: None,
            committed: None,
        };
        Arc::new(Self {
            group,
            metrics,
            state: Mutex::new(state),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogDatabase {
    /// Opens the database, with write buffers of so many bytes, and starts its
    /// writer. Blocks.
    pub(crate) fn open(
        path: &Path,
        buffer_bytes: usize,
        metrics: LogMetrics,
    ) -> io::Result<Arc<Self>> {
        let database = Database::open(&log_disk::options(buffer_bytes), path)
            .map_err(|error| super::database::named(path, &error))?;
        let database = Arc::new(database);
        let writer = LogWriter::start(Arc::clone(&database), metrics)?;
        Ok(Arc::new(Self { database, writer }))
    }

    /// Reads where one group's log stands. Blocks.
    pub(crate) fn group(
        self: &Arc<Self>,
        group: u32,
        metrics: Arc<RaftMetrics>,
    ) -> io::Result<LogStore> {
        let db = self.database.get()?;
        let purged = read_fact(&db, group, Fact::Purged, codec::read_log_id)?;
        let state = State {
            recent: Recent::new(RECENT_BYTES),
            vote: read_fact(&db, group, Fact::Vote, codec::read_vote)?,
            committed: read_fact(&db, group, Fact::Committed, codec::read_log_id)?,
            first: match &purged {
                Some(id) => id.index + 1,
                None => edge(&db, group, IteratorMode::Start)?.map_or(0, |id| id.index),
            },
            last: edge(&db, group, IteratorMode::End)?.max(purged),
            purged,
        };
        let log = Arc::new(GroupLog {
            group,
            metrics,
            state: Mutex::new(state),
        });
        Ok(LogStore {
            shared: Arc::clone(self),
            log,
        })
    }

    /// Writes what is queued, then closes the database. Blocks.
    pub(crate) fn close(&self) -> io::Result<()> {
        self.writer.stop();
        self.database.close()
    }
}

impl LogStore {
    /// Bytes of this group's entries on disk, roughly: what the write-ahead log
    /// alone has is not counted.
    pub(crate) fn stored_bytes(&self) -> io::Result<u64> {
        let group = self.log.group;
        let (from, to) = (keys::entry(group, 0), keys::entry(group, u64::MAX));
        let range = Range::new(&from, &to);
        Ok(self
            .shared
            .database
            .get()?
            .get_approximate_sizes(&[range])
            .into_iter()
            .sum())
    }

    /// The entry up to which this log was purged.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.log.lock().purged
    }

    /// The entries of `start..end` that exist, from the front, weighing at most
    /// `max_bytes` together; at least one if any exists.
    fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let (mut start, end, recent) = {
            let state = self.log.lock();
            let start = start.max(state.first);
            let end = end.min(state.last.map_or(0, |id| id.index + 1));
            let recent = state.recent.first().unwrap_or(end).min(end);
            if start >= recent {
                state.recent.copy(start, end, max_bytes, &mut entries);
                return Ok(entries);
            }
            (start, end, recent)
        };
        let db = self.shared.database.get()?;
        let bytes =
            log_disk::read_entries(&db, self.log.group, start..recent, max_bytes, &mut entries)?;
        start += entries.len() as u64;
        if start < recent {
            return Ok(entries);
        }
        let state = self.log.lock();
        if state.recent.first().is_none_or(|first| first <= start) {
            state
                .recent
                .copy(start, end, max_bytes.saturating_sub(bytes), &mut entries);
        }
        // Else more has left memory since; it is found on disk the next time.
        Ok(entries)
    }

    async fn ordered(&self, order: impl FnOnce(log_writer::Done) -> Order) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        self.shared.writer.order(order(done))?;
        durable
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the log writer has stopped")))
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // In pieces, so that catching up after a restart does not hold the
        // whole log in memory.
        let (start, end) = bounds(&range);
        let (store, piece) = (self.clone(), Vec::new().into_iter());
        Box::pin(stream::unfold(
            (store, start, piece),
            move |(store, start, mut piece)| async move {
                if let Some(entry) = piece.next() {
                    return Some((Ok(entry), (store, start, piece)));
                }
                match store.read(start, end, READ_BYTES) {
                    Ok(entries) => {
                        let next = entries.last().map_or(end, |last| last.log_id.index + 1);
                        piece = entries.into_iter();
                        let entry = piece.next()?;
                        Some((Ok(entry), (store, next, piece)))
                    }
                    Err(error) => Some((Err(error), (store, end, piece))),
                }
            },
        ))
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (mut start, end) = bounds(&range);
        let mut all = Vec::new();
        loop {
            let mut entries = self.read(start, end, usize::MAX)?;
            let Some(last) = entries.last() else {
                return Ok(all);
            };
            start = last.log_id.index + 1;
            all.append(&mut entries);
        }
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, READ_BYTES)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.lock().vote)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let state = self.log.lock();
        Ok(LogState {
            last_purged_log_id: state.purged,
            last_log_id: state.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (log, vote) = (Arc::clone(&self.log), *vote);
        fail::point(fail::VOTE_SAVE);
        self.ordered(|done| Order::Vote(log, vote, done)).await?;
        fail::point(fail::VOTE_SAVED);
        self.log.lock().vote = Some(vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(id) = committed else { return Ok(()) };
        self.log.lock().committed = Some(id);
        self.log.metrics.committed(id.index);
        self.shared
            .writer
            .order(Order::Committed(Arc::clone(&self.log), id))
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.log.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            let mut state = self.log.lock();
            for entry in &entries {
                if state.last.is_none() {
                    state.first = entry.log_id.index;
                }
                state.last = Some(entry.log_id);
                state.recent.push(entry.clone());
            }
        }
        let (log, since) = (Arc::clone(&self.log), Instant::now());
        self.shared.writer.order(Order::Append {
            log,
            entries,
            callback,
            since,
        })
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let index = last.map(|id| id.index);
        let end = {
            let mut state = self.log.lock();
            let end = state.last.map(|id| id.index);
            if end <= index {
                return Ok(());
            }
            state.recent.truncate_after(index);
            state.last = last.max(state.purged);
            end.unwrap_or(0)
        };
        let (log, from) = (Arc::clone(&self.log), index.map_or(0, |index| index + 1));
        self.ordered(|done| Order::Truncate(log, from, end, done))
            .await?;
        // Appends that were queued before have told of entries that are void.
        self.log.lock().recent.truncate_after(index);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        {
            let mut state = self.log.lock();
            if state.purged >= Some(upto) {
                return Ok(());
            }
            state.purged = Some(upto);
            state.first = upto.index + 1;
            state.last = state.last.max(Some(upto));
            state.recent.purge(upto.index);
        }
        self.shared
            .writer
            .order(Order::Purge(Arc::clone(&self.log), upto))
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&index) => index,
        Bound::Excluded(&index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&index) => index.saturating_add(1),
        Bound::Excluded(&index) => index,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}
