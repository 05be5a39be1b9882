//! The thread that applies committed entries to a state database.
//!
//! Inserting into RocksDB is what a small write costs most of, and now and then
//! it has to wait for a flush; neither may hold up the threads that serve
//! calls. One load is one write batch, or more where it has conditional writes,
//! each of which has to see those before it; with each batch goes the position
//! that it brings the state to.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering, mpsc},
    thread::{self, JoinHandle},
};

use openraft::{EntryPayload, storage::ApplyResponder};
use tokio::{sync::oneshot, time::Instant};

use super::{
    command::{Applied, CommandError},
    fail,
    metrics::RaftMetrics,
    pending::{Pending, Scratch},
    recent::weight,
    state::{self, StateStore},
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
    let db = store.database.get()?;
    let mut position = store.position();
    let mut new_membership = false;
    let mut results = Vec::with_capacity(load.entries.len());
    let mut pending = Pending::new(scratch);
    for entry in &load.entries {
        results.push(match &entry.payload {
            EntryPayload::Normal(command) => match pending.collect(command) {
                Err(foreign) => return Err(unknown(entry, &foreign)),
                Ok(Err(malformed)) => malformed,
                Ok(Ok(mut collected)) if collected.is_conditional() => {
                    if collected.has_offsets_before() {
                        let mut batch = pending.batch_before(&mut collected);
                        position.write(&mut batch, new_membership)?;
                        state::write(&db, batch)?;
                    }
                    pending.judge(&db, store, &collected)?
                }
                Ok(Ok(_)) => Applied::Done,
            },
            EntryPayload::Blank => Applied::Done,
            EntryPayload::Membership(membership) => {
                position.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                new_membership = true;
                Applied::Done
            }
        });
        position.applied = Some(entry.log_id);
    }
    let mut batch = pending.into_batch();
    position.write(&mut batch, new_membership)?;
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

fn unknown(entry: &Entry, foreign: &CommandError) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("log entry {}: {foreign}", entry.log_id.index),
    )
}
