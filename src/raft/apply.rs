//! The thread that applies committed entries to a state database.
//!
//! Inserting into RocksDB is what a small write costs most of, and now and then
//! it has to wait for a flush; neither may hold up the threads that serve
//! calls. One apply call is one write batch: its keys are sorted, since the
//! skip list takes neighbours faster than strangers, and stably, so that of two
//! equal keys the later wins.

use std::{
    io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering, mpsc},
    thread::{self, JoinHandle},
};

use openraft::{EntryPayload, storage::ApplyResponder};
use rocksdb::WriteBatch;
use tokio::{sync::oneshot, time::Instant};

use super::{
    command::{Applied, Change, Command},
    fail, keys,
    metrics::RaftMetrics,
    recent::weight,
    state::{self, Position, StateStore},
    types::{Entry, StoredMembership, Types},
};

/// Entries to apply in one write batch, and whom to answer.
#[derive(Default)]
pub(crate) struct Load {
    pub(crate) entries: Vec<Entry>,
    pub(crate) responders: Vec<Option<ApplyResponder<Types>>>,
    pub(crate) bytes: usize,
}

impl Load {
    pub(crate) fn push(&mut self, entry: Entry, responder: Option<ApplyResponder<Types>>) {
        self.bytes += weight(&entry);
        self.entries.push(entry);
        self.responders.push(responder);
    }
}

type Work = (Load, oneshot::Sender<io::Result<()>>);

/// The handle to the thread.
pub(crate) struct ApplyThread {
    work: mpsc::Sender<Work>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl ApplyThread {
    pub(crate) fn start(store: Arc<StateStore>, metrics: Arc<RaftMetrics>) -> io::Result<Self> {
        let (work, queue) = mpsc::channel::<Work>();
        let thread = thread::Builder::new()
            .name("ferry-apply".into())
            .spawn(move || {
                let mut scratch = Scratch::default();
                for (load, done) in queue {
                    done.send(apply(&store, &metrics, &mut scratch, load)).ok();
                }
            })?;
        Ok(Self {
            work,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Applies a load and answers its callers; returns when that is done.
    pub(crate) async fn apply(&self, load: Load) -> io::Result<()> {
        let stopped = || io::Error::other("the apply thread has stopped");
        let (done, applied) = oneshot::channel();
        self.work.send((load, done)).map_err(|_| stopped())?;
        applied.await.map_err(|_| stopped())?
    }
}

impl Drop for ApplyThread {
    fn drop(&mut self) {
        let (closed, _) = mpsc::channel();
        self.work = closed;
        if let Some(thread) = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            thread.join().ok();
        }
    }
}

/// Memory that is used again for the next load.
#[derive(Default)]
struct Scratch {
    keys: Vec<u8>,
}

/// One change, its key in the scratch memory; no value deletes.
struct Slot<'a> {
    key: Range<usize>,
    value: Option<&'a [u8]>,
}

fn apply(
    store: &StateStore,
    metrics: &RaftMetrics,
    scratch: &mut Scratch,
    load: Load,
) -> io::Result<()> {
    let Some(last) = load.entries.last() else {
        return Ok(());
    };
    let begin = Instant::now();
    let mut position = Position {
        applied: Some(last.log_id),
        ..store.position()
    };
    let mut new_membership = false;
    let mut results = Vec::with_capacity(load.entries.len());
    let mut slots = Vec::new();
    scratch.keys.clear();
    for entry in &load.entries {
        results.push(match &entry.payload {
            EntryPayload::Normal(command) => collect(command, &mut scratch.keys, &mut slots),
            EntryPayload::Blank => Applied::Done,
            EntryPayload::Membership(membership) => {
                position.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                new_membership = true;
                Applied::Done
            }
        });
    }
    let mut batch = sorted(&scratch.keys, slots);
    position.write(&mut batch, new_membership)?;
    let db = store.database.get()?;
    fail::point(fail::APPLY_WRITE);
    state::write(&db, batch)?;
    fail::point(fail::APPLY_WRITTEN);
    drop(db);
    store
        .unsnapped_bytes
        .fetch_add(load.bytes as u64, Ordering::Relaxed);
    metrics.applied(last.log_id.index);
    store.set_position(position);
    metrics.apply_seconds.observe(begin.elapsed().as_secs_f64());
    for (responder, result) in load.responders.into_iter().zip(results) {
        if let Some(responder) = responder {
            responder.send(result);
        }
    }
    Ok(())
}

/// Collects a command's changes; of one that does not parse, none.
fn collect<'a>(command: &'a Command, keys: &mut Vec<u8>, slots: &mut Vec<Slot<'a>>) -> Applied {
    let (keys_before, slots_before) = (keys.len(), slots.len());
    let parsed = command.changes(|change| {
        let (client_id, value) = match change {
            Change::Put { client_id, session } => (client_id, Some(session)),
            Change::Delete { client_id } => (client_id, None),
        };
        let start = keys.len();
        keys.push(keys::SESSIONS);
        keys.extend_from_slice(client_id);
        slots.push(Slot {
            key: start..keys.len(),
            value,
        });
    });
    if parsed.is_ok() {
        return Applied::Done;
    }
    keys.truncate(keys_before);
    slots.truncate(slots_before);
    Applied::Malformed
}

/// The changes as a write batch in key order; of equal keys, only the last.
fn sorted(keys: &[u8], mut slots: Vec<Slot<'_>>) -> WriteBatch {
    slots.sort_by(|a, b| keys[a.key.clone()].cmp(&keys[b.key.clone()]));
    let mut batch = WriteBatch::default();
    let mut slots = slots.into_iter().peekable();
    while let Some(slot) = slots.next() {
        let key = &keys[slot.key];
        if slots
            .peek()
            .is_some_and(|later| keys[later.key.clone()] == *key)
        {
            continue;
        }
        match slot.value {
            Some(value) => batch.put(key, value),
            None => batch.delete(key),
        }
    }
    batch
}
