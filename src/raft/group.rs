//! One Raft group with one member: start, propose, read, shut down.
//!
//! Everything that leaves this file is in ferry's words; openraft stays behind
//! it. What a node's groups have in common is in [`super::groups`].

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
use prometheus::Registry;
use tokio::sync::oneshot;

use super::{
    command::{Applied, Command},
    directory::{DirectoryError, group_home},
    groups::{GROUPS_MAX, Groups, Home},
    line::{Line, Proposal},
    log_store::LogStore,
    machine::{self, Machine},
    metrics::RaftMetrics,
    network::Alone,
    runtime::Runs,
    sessions::Sessions,
    state::StateStore,
    types::Types,
};
pub use super::{directory::Identity, line::Pipeline, runtime::Runtime, types::ProposeError};

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

/// What the groups of a node need to know to open.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// Where log, state and snapshots lie.
    pub data_dir: PathBuf,
    /// How many proposals of a group may be under way at once.
    pub pipeline: Pipeline,
    /// Which threads the groups' cores run on.
    pub runtime: Runtime,
    /// Whom the directory belongs to, and how many groups it holds.
    pub identity: Identity,
    /// A group's snapshot is due when the log since the last one weighs this many
    /// bytes, or as much as the state if that is more.
    pub log_bytes_max: u64,
}

impl GroupSettings {
    /// Settings of a lone node with one group: pipelined, on the caller's
    /// runtime, node 1 of the cluster `ferry`, a snapshot at every GiB of log.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            pipeline: Pipeline::default(),
            runtime: Runtime::default(),
            identity: Identity {
                cluster: "ferry".into(),
                node: 1,
                groups: 1,
            },
            log_bytes_max: 1 << 30,
        }
    }

    pub(super) fn store_error(&self, source: io::Error) -> OpenError {
        OpenError::Store {
            path: self.data_dir.clone(),
            source,
        }
    }

    fn raft_error(&self, reason: &dyn ToString) -> OpenError {
        OpenError::Raft {
            path: self.data_dir.clone(),
            reason: reason.to_string(),
        }
    }
}

/// Why a group does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Its settings ask for no group, or for too many.
    #[error("{groups} Raft groups: must be 1 to {GROUPS_MAX}; set groups to one of them")]
    Groups {
        /// How many were asked for.
        groups: u32,
    },
    /// Its metrics are registered already.
    #[error("metrics: {0}; open each node's groups with a registry of their own")]
    Metrics(#[from] prometheus::Error),
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
    home: Arc<Home>,
    closing: Mutex<Option<Closing>>,
}

/// What is needed once, to close.
struct Closing {
    machine_gone: oneshot::Receiver<()>,
    runs: Runs,
}

impl Group {
    /// Opens a lone group: the only one in its directory.
    ///
    /// # Errors
    /// As [`Groups::open`]; also where the settings ask for several.
    pub async fn open(settings: GroupSettings, registry: &Registry) -> Result<Self, OpenError> {
        let groups = settings.identity.groups;
        if groups != 1 {
            return Err(OpenError::Groups { groups });
        }
        let groups = Groups::open(settings, registry).await?;
        Ok(groups.at(0).clone())
    }

    /// Opens one of a node's groups. Returns when it leads and has applied
    /// everything that its log had before.
    pub(super) async fn launch(
        number: u32,
        settings: Arc<GroupSettings>,
        home: Arc<Home>,
        metrics: RaftMetrics,
    ) -> Result<Self, OpenError> {
        let runs =
            Runs::of(settings.runtime, number).map_err(|source| settings.store_error(source))?;
        let (launching, place) = (Arc::clone(&settings), Arc::clone(&home));
        let launched = runs.spawn(async move {
            let started = start(number, &launching, &place, metrics).await;
            if started.is_err() {
                let left = machine::blocking(move || place.leave()).await;
                left.map_err(|source| launching.store_error(source))?;
            }
            started
        });
        let Started {
            raft,
            line,
            state,
            machine_gone,
        } = launched
            .await
            .map_err(|error| settings.raft_error(&error))??;
        Ok(Self(Arc::new(Shared {
            raft,
            node: settings.identity.node,
            line,
            state,
            home,
            closing: Mutex::new(Some(Closing { machine_gone, runs })),
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

    /// Stops the group and makes its state durable. The last of a node's groups
    /// closes the directory, so that it can be opened again at once. A second
    /// call does nothing.
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
        let Some(Closing { machine_gone, runs }) = closing else {
            return Ok(());
        };
        let stopped = self.0.raft.shutdown().await.map_err(io::Error::other);
        // What was committed is still being applied; then openraft lets go.
        tokio::time::timeout(SHUTDOWN_PATIENCE, machine_gone)
            .await
            .ok();
        let (state, home) = (Arc::clone(&self.0.state), Arc::clone(&self.0.home));
        let closed = machine::blocking(move || {
            let flushed = state.flush();
            let closed = state.database.close();
            let left = home.leave();
            flushed.and(closed).and(left)
        })
        .await;
        drop(runs);
        stopped.and(closed)
    }
}

/// A group that runs.
struct Started {
    raft: Raft<Types, Machine>,
    line: Line,
    state: Arc<StateStore>,
    machine_gone: oneshot::Receiver<()>,
}

/// Starts a group on the runtime that it will run on.
async fn start(
    number: u32,
    settings: &Arc<GroupSettings>,
    home: &Arc<Home>,
    metrics: RaftMetrics,
) -> Result<Started, OpenError> {
    let metrics = Arc::new(metrics);
    let (log_store, state) = {
        let (settings, home) = (Arc::clone(settings), Arc::clone(home));
        let metrics = Arc::clone(&metrics);
        tokio::task::spawn_blocking(move || open_stores(number, &settings, &home, metrics))
    }
    .await
    .map_err(|error| settings.raft_error(&error))??;
    let started = Machine::start(
        Arc::clone(&state),
        Arc::clone(&metrics),
        settings.log_bytes_max,
    );
    let (machine, machine_gone) = started.map_err(|source| settings.store_error(source))?;
    let config = config().validate();
    let config = Arc::new(config.map_err(|error| settings.raft_error(&error))?);
    let node = settings.identity.node;
    let raft = Raft::new(node, config, Alone, log_store, machine)
        .await
        .map_err(|error| settings.raft_error(&error))?;
    let members = BTreeMap::from([(node, BasicNode::default())]);
    match raft.initialize(members).await {
        // Not allowed means that it was done before.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
        Err(error) => return Err(settings.raft_error(&error)),
    }
    raft.wait(None)
        .metrics(|now| now.current_leader == Some(node), "leads its group")
        .await
        .map_err(|error| settings.raft_error(&error))?;
    raft.wait_for_recovery(None)
        .await
        .map_err(|error| settings.raft_error(&error))?;
    let line = Line::start(raft.clone(), metrics, settings.pipeline);
    Ok(Started {
        raft,
        line,
        state,
        machine_gone,
    })
}

fn open_stores(
    number: u32,
    settings: &GroupSettings,
    home: &Home,
    metrics: Arc<RaftMetrics>,
) -> Result<(LogStore, Arc<StateStore>), OpenError> {
    let path = &settings.data_dir;
    let store_error = |source| settings.store_error(source);
    let state = StateStore::open(&group_home(path, number)).map_err(store_error)?;
    let opened = home.log.group(number, metrics).and_then(|store| {
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
    Ok((log_store, Arc::new(state)))
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
