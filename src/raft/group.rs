//! One Raft group with one member: open, propose, read, shut down.
//!
//! Everything that leaves this file is in ferry's words; openraft stays behind
//! it.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use openraft::{
    BasicNode, Config, Raft, SnapshotPolicy,
    async_runtime::watch::WatchReceiver as _,
    errors::{InitializeError, RaftError},
};
use tokio::sync::oneshot;

use super::{
    command::{Applied, Command},
    directory::{Directory, DirectoryError},
    line::{Line, Proposal},
    log_store::{LogDatabase, LogStore},
    machine::{self, Machine},
    metrics::RaftMetrics,
    network::Alone,
    sessions::Sessions,
    state::StateStore,
    types::Types,
};
pub use super::{directory::Identity, line::Pipeline, types::ProposeError};

/// The one group of a node, for now.
const GROUP: u32 = 0;
/// The clock that kept elections stable under load.
const HEARTBEAT: Duration = Duration::from_millis(100);
const ELECTION_MIN: Duration = Duration::from_millis(1_000);
const ELECTION_MAX: Duration = Duration::from_millis(2_000);
/// After how many log entries it is asked whether a snapshot is due.
const SNAPSHOT_CHECK_ENTRIES: u64 = 10_000;
/// Log entries that stay behind a snapshot, for readers that are a little late.
const KEEP_ENTRIES: u64 = 1_000;
/// How long a shutdown waits for what was committed to be applied.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(30);

/// What a group needs to know to open.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// Where log, state and snapshots lie.
    pub data_dir: PathBuf,
    /// How many proposals may be under way at once.
    pub pipeline: Pipeline,
    /// Whom the directory belongs to.
    pub identity: Identity,
    /// A snapshot is due when the log since the last one weighs this many
    /// bytes, or as much as the state if that is more.
    pub log_bytes_max: u64,
}

impl GroupSettings {
    /// Settings of a lone node: pipelined, node 1 of the cluster `ferry`, a
    /// snapshot at every GiB of log.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            pipeline: Pipeline::default(),
            identity: Identity {
                cluster: "ferry".into(),
                node: 1,
                groups: 1,
            },
            log_bytes_max: 1 << 30,
        }
    }
}

/// Why a group does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Its settings ask for what this version does not do.
    #[error("{groups} Raft groups: this version opens exactly 1; set groups to 1")]
    Groups {
        /// How many were asked for.
        groups: u32,
    },
    /// What is in the directory cannot be used.
    #[error("data directory {path}: {source}")]
    Store {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The state is behind what the log has let go of.
    #[error(
        "data directory {path}: the log begins behind entry {purged} and the state ends at \
         {applied}; restore log and state from the same backup"
    )]
    Parted {
        /// The directory.
        path: PathBuf,
        /// The last purged log entry.
        purged: u64,
        /// The last applied log entry, or `nothing`.
        applied: String,
    },
    /// openraft does not start.
    #[error("data directory {path}: the Raft group does not start: {reason}")]
    Raft {
        /// The directory.
        path: PathBuf,
        /// What openraft says.
        reason: String,
    },
}

/// An open Raft group. Clones are handles to the same one.
#[derive(Clone)]
pub struct Group(Arc<Shared>);

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("node", &self.0.node)
            .finish_non_exhaustive()
    }
}

struct Shared {
    raft: Raft<Types, Machine>,
    node: u64,
    line: Line,
    state: Arc<StateStore>,
    log: Arc<LogDatabase>,
    closing: Mutex<Option<Closing>>,
}

/// What is needed once, to close.
struct Closing {
    machine_gone: oneshot::Receiver<()>,
    directory: Directory,
}

/// What lies in the directory, open.
struct Opened {
    directory: Directory,
    log: Arc<LogDatabase>,
    log_store: LogStore,
    state: Arc<StateStore>,
}

impl Group {
    /// Opens the group in its directory, or begins one there. Returns when it
    /// leads and has applied everything that its log had before.
    ///
    /// # Errors
    /// One clear line: the directory is in use, unusable, somebody else's, or
    /// what is in it is damaged.
    pub async fn open(settings: GroupSettings, metrics: RaftMetrics) -> Result<Self, OpenError> {
        let path = settings.data_dir.clone();
        let raft_error = |error: &dyn ToString| OpenError::Raft {
            path: path.clone(),
            reason: error.to_string(),
        };
        let metrics = Arc::new(metrics);
        let node = settings.identity.node;
        let (pipeline, log_bytes_max) = (settings.pipeline, settings.log_bytes_max);
        let opened = {
            let metrics = Arc::clone(&metrics);
            tokio::task::spawn_blocking(move || open_stores(&settings, metrics))
                .await
                .map_err(|error| raft_error(&error))??
        };
        let Opened {
            directory,
            log,
            log_store,
            state,
        } = opened;
        let (machine, machine_gone) =
            Machine::start(Arc::clone(&state), Arc::clone(&metrics), log_bytes_max).map_err(
                |source| OpenError::Store {
                    path: path.clone(),
                    source,
                },
            )?;
        let config = config().validate().map_err(|error| raft_error(&error))?;
        let raft = Raft::new(node, Arc::new(config), Alone, log_store, machine)
            .await
            .map_err(|error| raft_error(&error))?;
        let members = BTreeMap::from([(node, BasicNode::default())]);
        match raft.initialize(members).await {
            // Not allowed means that it was done before.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => return Err(raft_error(&error)),
        }
        raft.wait(None)
            .metrics(|now| now.current_leader == Some(node), "leads its group")
            .await
            .map_err(|error| raft_error(&error))?;
        raft.wait_for_recovery(None)
            .await
            .map_err(|error| raft_error(&error))?;
        let line = Line::start(raft.clone(), metrics, pipeline);
        let closing = Mutex::new(Some(Closing {
            machine_gone,
            directory,
        }));
        Ok(Self(Arc::new(Shared {
            raft,
            node,
            line,
            state,
            log,
            closing,
        })))
    }

    /// Proposes a command that carries `entries` callers' entries.
    ///
    /// The command enters the line now, not when the future is polled first;
    /// dropping the future does not take it back.
    pub fn propose(
        &self,
        command: Command,
        entries: u32,
    ) -> impl Future<Output = Result<Applied, ProposeError>> + Send + 'static + use<> {
        let (answer, answered) = oneshot::channel();
        self.0.line.enter(Proposal {
            command,
            entries,
            answer,
        });
        async move {
            answered.await.unwrap_or_else(|_| {
                Err(ProposeError::Unknown(
                    "the Raft group stopped before it answered".into(),
                ))
            })
        }
    }

    /// The applied sessions.
    #[must_use]
    pub fn sessions(&self) -> Sessions {
        Sessions::new(Arc::clone(&self.0.state))
    }

    /// Whether the group takes writes: it runs, and this node leads it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let metrics = self.0.raft.metrics();
        let now = metrics.borrow_watched();
        now.running_state.is_ok() && now.current_leader == Some(self.0.node)
    }

    /// Proposals handed to the core since the group was opened.
    #[must_use]
    pub fn proposals(&self) -> u64 {
        self.0.line.tally().proposals.load(Ordering::Relaxed)
    }

    /// Entries that were proposed although their caller had left, since the
    /// group was opened.
    #[must_use]
    pub fn ghosts(&self) -> u64 {
        self.0.line.tally().ghosts.load(Ordering::Relaxed)
    }

    /// Waits until the log was purged for the first time; returns up to where.
    #[cfg(test)]
    pub(super) async fn wait_until_purged(&self) -> u64 {
        let patience = Some(SHUTDOWN_PATIENCE);
        let wait = self.0.raft.wait(patience);
        let now = wait
            .metrics(|now| now.purged.is_some(), "purged")
            .await
            .unwrap();
        now.purged.map_or(0, |id| id.index)
    }

    /// Stops the group, makes its state durable and closes its directory, so
    /// that it can be opened again at once. A second call does nothing.
    ///
    /// # Errors
    /// If the state cannot be flushed or a database stays in use; nothing that
    /// was acknowledged is lost even then, since the log has it.
    pub async fn shutdown(&self) -> io::Result<()> {
        let closing = self
            .0
            .closing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(Closing {
            machine_gone,
            directory,
        }) = closing
        else {
            return Ok(());
        };
        self.0.raft.shutdown().await.map_err(io::Error::other)?;
        // What was committed is still being applied; then openraft lets go.
        tokio::time::timeout(SHUTDOWN_PATIENCE, machine_gone)
            .await
            .ok();
        let (state, log) = (Arc::clone(&self.0.state), Arc::clone(&self.0.log));
        machine::blocking(move || {
            let flushed = state.flush();
            let closed = state.database.close().and(log.close());
            drop(directory);
            flushed.and(closed)
        })
        .await
    }
}

fn open_stores(settings: &GroupSettings, metrics: Arc<RaftMetrics>) -> Result<Opened, OpenError> {
    let path = &settings.data_dir;
    if settings.identity.groups != 1 {
        return Err(OpenError::Groups {
            groups: settings.identity.groups,
        });
    }
    let directory = Directory::open(path, &settings.identity)?;
    let store_error = |source| OpenError::Store {
        path: path.clone(),
        source,
    };
    let state = StateStore::open(&directory.group(GROUP)).map_err(store_error)?;
    let log = LogDatabase::open(&directory.log(), metrics).map_err(store_error)?;
    let opened = log.group(GROUP).and_then(|store| {
        let bytes = store.stored_bytes()?;
        state.unsnapped_bytes.store(bytes, Ordering::Relaxed);
        Ok(store)
    });
    let log_store = opened.map_err(store_error)?;
    let (purged, applied) = (log_store.purged(), state.position().applied);
    if purged > applied {
        return Err(OpenError::Parted {
            path: path.clone(),
            purged: purged.map_or(0, |id| id.index),
            applied: applied.map_or_else(|| "nothing".into(), |id| format!("entry {}", id.index)),
        });
    }
    Ok(Opened {
        directory,
        log,
        log_store,
        state: Arc::new(state),
    })
}

fn config() -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: "ferry".into(),
        heartbeat_interval: millis(HEARTBEAT),
        election_timeout_min: millis(ELECTION_MIN),
        election_timeout_max: millis(ELECTION_MAX),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_CHECK_ENTRIES),
        max_in_snapshot_log_to_keep: KEEP_ENTRIES,
        ..Config::default()
    }
}
