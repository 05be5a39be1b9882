//! One group's state machine, as openraft sees it.
//!
//! It hands committed entries to the apply thread and answers for the state's
//! position and snapshots. What must never happen is that the log lets go of an
//! entry whose effect only memory has: openraft purges up to a snapshot it was
//! told of, and it is told of one only after a flush of at least that much.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

use futures_util::{Stream, StreamExt};
use openraft::{
    OptionalSend, Snapshot,
    storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine},
};
use tokio::{
    sync::oneshot,
    task::{self, JoinHandle},
};

use super::{
    apply::{ApplyThread, Load},
    metrics::RaftMetrics,
    snapshot::{self, SnapshotFile},
    state::StateStore,
    types::{LogId, SnapshotMeta, StoredMembership, Types},
};

/// Most bytes of log entries that are applied in one write batch.
const LOAD_BYTES: usize = 4 << 20;

type MachineSnapshot = openraft::alias::SnapshotOf<Types, SnapshotFile>;

/// The state machine of one group.
pub(crate) struct Machine {
    store: Arc<StateStore>,
    apply: ApplyThread,
    log_bytes_max: u64,
    /// Dropped with the machine: whoever holds the other end learns of it.
    _alive: oneshot::Sender<()>,
}

impl Machine {
    /// Starts the machine over an open state. A snapshot is made whenever the
    /// log since the last one weighs `log_bytes_max`, or as much as the state
    /// if that is more: then the work for snapshots is at most the work for the
    /// log itself. The receiver learns when openraft has let go of the machine.
    pub(crate) fn start(
        store: Arc<StateStore>,
        metrics: Arc<RaftMetrics>,
        log_bytes_max: u64,
    ) -> io::Result<(Self, oneshot::Receiver<()>)> {
        let apply = ApplyThread::start(Arc::clone(&store), metrics)?;
        let (alive, gone) = oneshot::channel();
        Ok((
            Self {
                store,
                apply,
                log_bytes_max,
                _alive: alive,
            },
            gone,
        ))
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let position = self.store.position();
        Ok((position.applied, position.membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut load = Load::default();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            load.push(entry, responder);
            if load.bytes >= LOAD_BYTES {
                self.apply.apply(std::mem::take(&mut load)).await?;
            }
        }
        if load.entries.is_empty() {
            Ok(())
        } else {
            self.apply.apply(load).await
        }
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        let due = self.log_bytes_max.max(self.store.stored_bytes());
        let is_due = self.store.unsnapped_bytes.load(Ordering::Relaxed) >= due;
        if force || is_due {
            Some(self.get_snapshot_builder().await)
        } else {
            None
        }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let covered = self.store.unsnapped_bytes.swap(0, Ordering::Relaxed);
        let store = Arc::clone(&self.store);
        let (fixed, is_fixed) = oneshot::channel();
        let writing = task::spawn_blocking(move || {
            let written = snapshot::write(&store, || {
                fixed.send(()).ok();
            });
            if written.is_err() {
                store.unsnapped_bytes.fetch_add(covered, Ordering::Relaxed);
            }
            written.map(|(meta, snapshot)| Snapshot { meta, snapshot })
        });
        // Entries that are applied from here on must not be in it: openraft
        // would be told of a snapshot ahead of what it knows to be applied.
        is_fixed.await.ok();
        Builder {
            writing: Some(writing),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        mut snapshot: SnapshotFile,
    ) -> io::Result<()> {
        let (store, meta) = (Arc::clone(&self.store), meta.clone());
        blocking(move || {
            let _own = store.own_snapshot();
            store.replace(|db| {
                let position = snapshot.load(db)?;
                if snapshot::meta(&position) == meta {
                    Ok(position)
                } else {
                    Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the snapshot's position is not the one it was sent as",
                    ))
                }
            })?;
            snapshot.save_as(&store.snapshot_path())
        })
        .await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<MachineSnapshot>> {
        let found = SnapshotFile::open(&self.store.snapshot_path())?;
        Ok(found.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// A snapshot that is being written.
pub(crate) struct Builder {
    writing: Option<JoinHandle<io::Result<MachineSnapshot>>>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<MachineSnapshot> {
        match self.writing.take() {
            Some(writing) => writing.await.map_err(io::Error::other)?,
            None => Err(io::Error::other("a snapshot builder builds one snapshot")),
        }
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    task::spawn_blocking(work).await.map_err(io::Error::other)?
}
