//! The one thread that writes the log database, for all its groups.
//!
//! A sync costs the same for one entry as for four hundred, so the thread takes
//! whatever has queued up while the last sync ran, makes it one synced write,
//! and then answers all of it. Everything goes through the one queue: a vote
//! or a truncation behind an append is written behind it, in the same write.
//!
//! After a failed write nothing is written any more. What reached the disk is
//! unknown then, and a later sync that succeeds would not prove otherwise.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
};

use openraft::storage::IOFlushed;
use rocksdb::{DB, WriteBatch, WriteOptions};
use tokio::{sync::oneshot, time::Instant};

use super::{
    codec,
    database::Database,
    fail,
    keys::{self, Fact},
    log_store::GroupLog,
    metrics::LogMetrics,
    recent::weight,
    types::{Entry, LogId, Types, Vote},
};

/// Most payload bytes of one write: bounds its memory and the wait of the first
/// append in it.
const ROUND_BYTES: usize = 32 << 20;

/// Something to write, in the order of the queue.
pub(crate) enum Order {
    /// Entries, and whom to tell when they are durable.
    Append {
        /// The group they belong to.
        log: Arc<GroupLog>,
        /// The entries, contiguous.
        entries: Vec<Entry>,
        /// openraft's callback.
        callback: IOFlushed<Types>,
        /// When they were handed over.
        since: Instant,
    },
    /// A group's vote.
    Vote(Arc<GroupLog>, Vote, Done),
    /// Entries `from..=to` are void.
    Truncate(Arc<GroupLog>, u64, u64, Done),
    /// Entries up to this one are no longer needed.
    Purge(Arc<GroupLog>, LogId),
    /// Entries up to this one are committed. Never a reason to sync.
    Committed(Arc<GroupLog>, LogId),
    /// The end of the queue.
    Stop,
}

/// Told when an order is durable, or why it is not.
pub(crate) type Done = oneshot::Sender<io::Result<()>>;

/// The queue to the writer thread.
pub(crate) struct LogWriter {
    orders: mpsc::Sender<Order>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl LogWriter {
    /// Starts the thread.
    pub(crate) fn start(database: Arc<Database>, metrics: LogMetrics) -> io::Result<Self> {
        let (orders, queue) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("ferry-log".into())
            .spawn(move || write_orders(&queue, &database, &metrics))?;
        Ok(Self {
            orders,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Puts an order at the end of the queue.
    pub(crate) fn order(&self, order: Order) -> io::Result<()> {
        self.orders
            .send(order)
            .map_err(|_| io::Error::other("the log is closed: the Raft group was shut down"))
    }

    /// Lets the thread finish its queue and end. Blocks until it has.
    pub(crate) fn stop(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            self.orders.send(Order::Stop).ok();
            thread.join().ok();
        }
    }
}

fn write_orders(queue: &mpsc::Receiver<Order>, database: &Database, metrics: &LogMetrics) {
    let mut broken = None;
    while let Ok(first) = queue.recv() {
        let mut round = Round::default();
        let mut next = Some(first);
        while let Some(order) = next.take() {
            round.add(order);
            if !round.last && round.bytes < ROUND_BYTES {
                next = queue.try_recv().ok();
            }
        }
        let last = round.last;
        if broken.is_none() {
            broken = database.get().and_then(|db| round.write(&db, metrics)).err().map(|error| {
                tracing::error!(%error, "the log cannot be written; this node stops taking writes");
                error.to_string()
            });
        }
        round.answer(broken.as_deref());
        if last {
            return;
        }
    }
}

/// What one synced write holds, and who waits for it.
#[derive(Default)]
struct Round {
    batch: WriteBatch,
    bytes: usize,
    entries: u64,
    durable: bool,
    last: bool,
    fault: Option<io::Error>,
    value: Vec<u8>,
    appends: Vec<(Arc<GroupLog>, u64, IOFlushed<Types>, Instant)>,
    waiting: Vec<Done>,
    purged: Vec<(u32, u64)>,
}

impl Round {
    fn add(&mut self, order: Order) {
        match order {
            Order::Append {
                log,
                entries,
                callback,
                since,
            } => {
                self.append(log, &entries, callback, since);
            }
            Order::Vote(log, vote, done) => {
                let key = keys::fact(log.group, Fact::Vote);
                self.batch.put(key, codec::vote(&key, &vote));
                self.waiting.push(done);
                self.durable = true;
            }
            Order::Truncate(log, from, to, done) => {
                // One by one, the last first: they are few, and a range
                // tombstone would slow every later read.
                for index in (from..=to).rev() {
                    self.batch.delete(keys::entry(log.group, index));
                }
                self.waiting.push(done);
                self.durable = true;
            }
            Order::Purge(log, upto) => {
                let key = keys::fact(log.group, Fact::Purged);
                self.batch.put(key, codec::log_id(&key, &upto));
                let end = upto.index.saturating_add(1);
                self.batch
                    .delete_range(keys::entry(log.group, 0), keys::entry(log.group, end));
                self.purged.push((log.group, upto.index));
                // Not for safety: so that the files can be deleted at once.
                self.durable = true;
            }
            Order::Committed(log, id) => {
                let key = keys::fact(log.group, Fact::Committed);
                self.batch.put(key, codec::log_id(&key, &id));
            }
            Order::Stop => self.last = true,
        }
    }

    fn append(
        &mut self,
        log: Arc<GroupLog>,
        entries: &[Entry],
        callback: IOFlushed<Types>,
        since: Instant,
    ) {
        for entry in entries {
            let key = keys::entry(log.group, entry.log_id.index);
            if let Err(fault) = codec::write_entry(&key, entry, &mut self.value) {
                self.fault.get_or_insert(fault);
            }
            self.batch.put(key, &self.value);
            self.bytes += weight(entry);
        }
        self.entries += entries.len() as u64;
        self.durable = true;
        let end = entries.last().map_or(0, |entry| entry.log_id.index);
        self.appends.push((log, end, callback, since));
    }

    fn write(&mut self, db: &DB, metrics: &LogMetrics) -> io::Result<()> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        if self.batch.is_empty() {
            return Ok(());
        }
        if fail::has_come(fail::ACKNOWLEDGE) {
            return Ok(());
        }
        fail::point(fail::LOG_WRITE);
        if !self.purged.is_empty() {
            fail::point(fail::PURGE_WRITE);
        }
        let mut options = WriteOptions::default();
        options.set_sync(self.durable);
        let begin = Instant::now();
        db.write_opt(std::mem::take(&mut self.batch), &options)
            .map_err(|error| super::database::named(db.path(), &error))?;
        fail::point(fail::LOG_SYNCED);
        if self.durable {
            metrics.sync_seconds.observe(begin.elapsed().as_secs_f64());
        }
        if self.entries > 0 {
            metrics.proposals_per_sync.observe(self.entries as f64);
        }
        if !self.purged.is_empty() {
            fail::point(fail::PURGE_WRITTEN);
        }
        for (group, upto) in &self.purged {
            // A file that is left behind costs space until compaction, no more.
            let (from, to) = (keys::entry(*group, 0), keys::entry(*group, *upto));
            if let Err(error) = db.delete_file_in_range(from, to) {
                tracing::warn!(%error, group, "the files of a purged log stay for a while");
            }
        }
        Ok(())
    }

    fn answer(self, broken: Option<&str>) {
        let result = || match broken {
            None => Ok(()),
            Some(error) => Err(io::Error::other(error.to_owned())),
        };
        for (log, end, callback, since) in self.appends {
            if broken.is_none() {
                log.lock().recent.written(end);
                log.metrics
                    .append_seconds
                    .observe(since.elapsed().as_secs_f64());
            }
            callback.io_completed(result());
        }
        for done in self.waiting {
            done.send(result()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::{EntryPayload, type_config::TypeConfigExt as _};
    use prometheus::Registry;

    use super::{
        super::{log_disk, metrics::RaftMetrics},
        *,
    };
    use crate::raft::tests::log_id;

    #[test]
    fn an_append_is_told_to_be_durable_only_once_its_write_has_succeeded() {
        let home = tempfile::tempdir().unwrap();
        let registry = Registry::new();
        let metrics = LogMetrics::register(&registry).unwrap();
        let database = Arc::new(
            Database::open(&log_disk::options(log_disk::BUFFER_BYTES), home.path()).unwrap(),
        );
        let log = GroupLog::empty(0, Arc::new(RaftMetrics::register(&registry, 0).unwrap()));
        let writer = LogWriter::start(Arc::clone(&database), metrics).unwrap();
        let append = |index| {
            let (tx, durable) = Types::oneshot();
            let payload = EntryPayload::Blank;
            let entry = Entry {
                log_id: log_id(index),
                payload,
            };
            let order = Order::Append {
                log: Arc::clone(&log),
                entries: vec![entry],
                callback: IOFlushed::signal(tx),
                since: Instant::now(),
            };
            writer.order(order).unwrap();
            durable.blocking_recv().expect("every append is answered")
        };
        append(0).unwrap();
        database.close().unwrap();
        append(1).expect_err("it was written nowhere");
        writer.stop();
    }

    #[test]
    fn after_a_failed_write_nothing_is_acknowledged_any_more() {
        let home = tempfile::tempdir().unwrap();
        let registry = Registry::new();
        let metrics = LogMetrics::register(&registry).unwrap();
        let database = Arc::new(
            Database::open(&log_disk::options(log_disk::BUFFER_BYTES), home.path()).unwrap(),
        );
        let log = GroupLog::empty(0, Arc::new(RaftMetrics::register(&registry, 0).unwrap()));
        let writer = LogWriter::start(Arc::clone(&database), metrics).unwrap();
        let save = |term| {
            let (done, durable) = oneshot::channel();
            writer
                .order(Order::Vote(Arc::clone(&log), Vote::new(term, 1), done))
                .unwrap();
            durable.blocking_recv().expect("every order is answered")
        };
        save(1).unwrap();
        // The database goes away, and comes back: what happened between is unknown.
        database.close().unwrap();
        save(2).unwrap_err();
        database
            .replace(DB::open(&log_disk::options(log_disk::BUFFER_BYTES), home.path()).unwrap());
        save(3).unwrap_err();
        writer.stop();
    }
}
