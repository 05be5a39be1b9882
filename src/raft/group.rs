//! One Raft group: start, propose, read, shut down.
//!
//! Everything that leaves this file is in ferry's words; openraft stays behind
//! it. What a node's groups have in common is in [`super::groups`].

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    io,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use openraft::{
    BasicNode, Raft,
    async_runtime::watch::WatchReceiver as _,
    errors::{InitializeError, RaftError},
};
use prometheus::Registry;
use tokio::sync::oneshot;

pub use super::types::ProposeError;
use super::{
    command::{Command, CommandError},
    directory::{Identity, group_home},
    groups::{Groups, Home},
    line::{Line, Proposal},
    log_store::LogStore,
    lookout::Lookout,
    machine::{self, Machine},
    metrics::RaftMetrics,
    network::{Alone, Links, ReadError, Route},
    runtime::Runs,
    sessions::Sessions,
    settings::{GroupSettings, OpenError},
    state::StateStore,
    types::{Answer, Types},
    view::View,
};

/// How long a shutdown waits for what was committed to be applied.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(30);

/// How long a node by itself may take to lead its group: an election, on a
/// machine that has stood still.
const LEAD_PATIENCE: Duration = Duration::from_secs(60);

/// An open Raft group. Clones are handles to the same one.
#[derive(Clone)]
pub struct Group(Arc<Shared>);

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("node", &self.0.identity.node)
            .finish_non_exhaustive()
    }
}

struct Shared {
    raft: Raft<Types, Machine>,
    identity: Identity,
    line: Line,
    /// To the leader elsewhere, in a cluster.
    route: Option<Route>,
    /// Whether somebody leads, in a cluster.
    lookout: Option<Lookout>,
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

    /// Opens one of a node's groups. Outside a cluster, returns when it leads and
    /// has applied everything that its log had before.
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
            lookout,
            state,
            machine_gone,
        } = launched
            .await
            .map_err(|error| settings.raft_error(&error))??;
        let peers = settings.peers.clone();
        Ok(Self(Arc::new(Shared {
            route: peers.map(|peers| Route::new(peers, raft.clone(), number)),
            raft,
            identity: settings.identity.clone(),
            line,
            lookout,
            state,
            home,
            closing: Mutex::new(Some(Closing { machine_gone, runs })),
        })))
    }

    /// Proposes a command that carries `entries` callers' entries: here, or at
    /// the node that leads the group.
    ///
    /// The command is on its way now, not when the future is polled first;
    /// dropping the future does not take it back.
    pub fn propose(
        &self,
        command: Command,
        entries: u32,
    ) -> impl Future<Output = Answer> + Send + 'static + use<> {
        let elsewhere = self.0.route.as_ref().filter(|route| !route.leads_here());
        let answered = match elsewhere {
            None => self.enter(command, entries),
            Some(route) => {
                let (answer, answered) = oneshot::channel();
                let (group, route) = (self.clone(), route.clone());
                tokio::spawn(async move {
                    let here = |command| group.propose_here(command, entries);
                    // A caller that left after the proposal disturbs nobody.
                    answer
                        .send(route.propose(command, entries, here).await)
                        .ok();
                });
                answered
            }
        };
        wait_for(answered)
    }

    /// Proposes at this node, whether it leads or not.
    pub(super) fn propose_here(
        &self,
        command: Command,
        entries: u32,
    ) -> impl Future<Output = Answer> + Send + 'static + use<> {
        wait_for(self.enter(command, entries))
    }

    fn enter(&self, command: Command, entries: u32) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        // Once in the log it would stop every replica for good.
        match command.kind() {
            Err(foreign @ CommandError::Foreign { .. }) => {
                let why = foreign.to_string().into();
                answer.send(Err(ProposeError::Refused(why))).ok();
            }
            _ => self.0.line.enter(Proposal {
                command,
                entries,
                answer,
            }),
        }
        answered
    }

    /// Waits until this node has applied every write that was acknowledged
    /// before now, by any node: what is read after that is not stale.
    ///
    /// # Errors
    /// If nobody is known to lead the group, or the leader cannot prove within
    /// two elections that it still does.
    pub async fn linearize(&self) -> Result<(), ReadError> {
        match &self.0.route {
            // It leads whenever it is open, and answers after it has applied.
            None => Ok(()),
            Some(route) => route.linearize().await,
        }
    }

    pub(super) fn raft(&self) -> &Raft<Types, Machine> {
        &self.0.raft
    }

    pub(super) fn network_route(&self) -> Option<&Route> {
        self.0.route.as_ref()
    }

    /// Whose group it is.
    pub(super) fn identity(&self) -> &Identity {
        &self.0.identity
    }

    pub(super) fn state(&self) -> &StateStore {
        &self.0.state
    }

    /// What this node has applied.
    #[must_use]
    pub fn view(&self) -> View {
        View::new(Arc::clone(&self.0.state))
    }

    /// The applied sessions.
    #[must_use]
    pub fn sessions(&self) -> Sessions {
        self.view().sessions()
    }

    pub(super) fn lookout(&self) -> Option<&Lookout> {
        self.0.lookout.as_ref()
    }

    /// Whether the group takes writes: it runs, and this node leads it or, in a
    /// cluster, hears who does.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.obstacle().is_none()
    }

    /// Why the group takes no writes at this node, as what is said of it; `None`
    /// while it takes them.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        if let (Some(lookout), Some(route)) = (&self.0.lookout, &self.0.route) {
            return match lookout.leader() {
                Err(unled) => Some(unled.to_string()),
                Ok(_) if route.has_recovered() => None,
                Ok(_) => Some("has not applied yet what its log had at the start".to_owned()),
            };
        }
        let metrics = self.0.raft.metrics();
        let now = metrics.borrow_watched();
        match &now.running_state {
            Err(fault) => Some(format!("has stopped: {fault}")),
            Ok(()) if now.current_leader == Some(self.0.identity.node) => None,
            Ok(()) => Some("has no leader".to_owned()),
        }
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

    /// Where the applied state is kept.
    #[cfg(test)]
    pub(super) fn store(&self) -> Arc<StateStore> {
        Arc::clone(&self.0.state)
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
        // One of a large state takes minutes, and is as good the next time.
        self.0.state.is_closing.store(true, Ordering::Relaxed);
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
    lookout: Option<Lookout>,
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
    let config = settings.clock.config(settings.log_bytes_max).validate();
    let config = Arc::new(config.map_err(|error| settings.raft_error(&error))?);
    let node = settings.identity.node;
    let raft = match &settings.peers {
        None => Raft::new(node, config, Alone, log_store, machine).await,
        Some(peers) => {
            let links = Links::new(peers.clone(), number);
            Raft::new(node, config, links, log_store, machine).await
        }
    };
    let raft = raft.map_err(|error| settings.raft_error(&error))?;
    let lookout = settings.peers.as_ref().map(|_| {
        let (raft, metrics) = (raft.clone(), Arc::clone(&metrics));
        Lookout::start(raft, settings.clock, number, metrics)
    });
    if settings.peers.is_none() {
        // In a cluster that may take as long as a majority takes to come up,
        // and without this node it would not.
        if let Err(reason) = lead_alone(&raft, node).await {
            raft.shutdown().await.ok();
            return Err(settings.raft_error(&reason));
        }
        metrics.has_leader.set(1);
    }
    let line = Line::start(raft.clone(), metrics, settings.pipeline);
    Ok(Started {
        raft,
        line,
        lookout,
        state,
        machine_gone,
    })
}

/// Makes a node the one member of its group, and waits until it leads and has
/// applied what its log had before.
async fn lead_alone(raft: &Raft<Types, Machine>, node: u64) -> Result<(), String> {
    let members = BTreeMap::from([(node, BasicNode::default())]);
    match raft.initialize(members).await {
        // Not allowed means that it was done before.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
        Err(error) => return Err(error.to_string()),
    }
    let wait = raft.wait(Some(LEAD_PATIENCE));
    let led = wait.metrics(|now| now.current_leader == Some(node), "leads its group");
    led.await.map_err(|error| {
        format!(
            "{error}; a node by itself leads at once: if others are among its members, start it \
             with --config and its node's file"
        )
    })?;
    let recovered = raft.wait_for_recovery(None).await;
    recovered.map(|_| ()).map_err(|error| error.to_string())
}

async fn wait_for(answered: oneshot::Receiver<Answer>) -> Answer {
    answered.await.unwrap_or_else(|_| {
        Err(ProposeError::Unknown(
            "the Raft group stopped before it answered".into(),
        ))
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
