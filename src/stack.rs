//! What listens and serves: the sidecar, and a node's own face. What a policy
//! becomes is put together in `assembly`.

mod assembly;
mod controls;
mod error;
mod readiness;
mod saving;
mod upstreams;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tonic::Status;
use tower::util::BoxCloneSyncService;

pub use self::error::StackError;
use self::{
    assembly::{Assembly, Counted, Upstreams},
    controls::Face,
    readiness::Readiness,
    upstreams::Lines,
};
use crate::{
    accept::{Door, Guards, Server, ServerError, Spread, Submit},
    batch::Batch,
    forward::{Forward, Forwarder},
    policy::{self, Cause, Listen, Live, Policy, Reload, Source, Upstream},
    raft::{GroupSettings, Groups, Pipeline, Runtime},
    telemetry::{Admin, AdminView, Controls, LimitMetrics, Metrics, Notes, Refusals, Saves},
    transport::{Listening, Place, ServerTls},
    upstream::{BatchReply, Call, Direct},
};

/// Any upstream that takes batches.
pub type Batches = BoxCloneSyncService<Batch<Call>, BatchReply, Status>;

/// Something that listens and serves: a sidecar, or a node's own face.
pub struct Stack {
    servers: Vec<Server>,
    admin: Option<Admin>,
    readiness: Arc<Readiness>,
    drain_asked: Arc<Notify>,
    sidecar: Option<Sidecar>,
    metrics: Metrics,
    refusals: Arc<Refusals>,
}

/// What a drain had to cut at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Connections that were still open.
    pub connections: usize,
    /// Batches and waiting entries of calls that were not answered.
    pub unanswered: u64,
}

/// What a sidecar has and a node has not: a policy that may change.
struct Sidecar {
    assembly: Arc<Assembly>,
    live: Arc<Live>,
    watch: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack")
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Sidecar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sidecar")
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// Opens the embedded groups that a policy asks for; `None` if it names
/// endpoints elsewhere.
///
/// # Errors
/// If the groups' directory cannot be used.
pub async fn open_groups(policy: &Policy, metrics: &Metrics) -> Result<Option<Groups>, StackError> {
    let Upstream::Embedded {
        data_dir,
        pipeline,
        groups,
        runtime,
        log_max,
    } = &policy.upstream
    else {
        return Ok(None);
    };
    let mut settings = GroupSettings::new(data_dir);
    settings.pipeline = match pipeline {
        policy::Pipeline::Full => Pipeline::Full,
        policy::Pipeline::Serial => Pipeline::Serial,
    };
    settings.runtime = match runtime {
        policy::Runtime::Shared => Runtime::Shared,
        policy::Runtime::Dedicated => Runtime::Dedicated,
    };
    settings.identity.groups = groups.get();
    settings.log_bytes_max = *log_max;
    open_node(settings, metrics).await.map(Some)
}

/// Opens the groups of a node.
///
/// # Errors
/// If their directory cannot be used.
pub async fn open_node(settings: GroupSettings, metrics: &Metrics) -> Result<Groups, StackError> {
    Ok(Groups::open(settings, metrics.registry()).await?)
}

/// Looks whether these places could be listened on, before a directory is made
/// for what would serve there. Whoever was handed sockets has those instead.
///
/// # Errors
/// If one of them is taken, forbidden, or not of this machine.
pub fn are_free(places: impl IntoIterator<Item = Place>) -> Result<(), StackError> {
    if Listening::may_be_handed() {
        return Ok(());
    }
    for place in places {
        Listening::is_free(&place).map_err(ServerError::Bind)?;
    }
    Ok(())
}

impl Stack {
    /// The sidecar that a policy describes. `groups` are the embedded ones;
    /// they stay the caller's to shut down, after [`Stack::drain`].
    ///
    /// # Errors
    /// If an address cannot be listened on, or the embedded groups have no
    /// write for one of the methods.
    pub async fn proxy(
        policy: &Policy,
        groups: Option<Groups>,
        metrics: Metrics,
    ) -> Result<Self, StackError> {
        Self::of_source(policy, None, groups, metrics).await
    }

    /// The same with a policy that was read from `source`, and is read from
    /// there again when its files change or when it is asked for.
    ///
    /// # Errors
    /// As [`Stack::proxy`].
    pub async fn of_source(
        policy: &Policy,
        source: Option<Source>,
        groups: Option<Groups>,
        metrics: Metrics,
    ) -> Result<Self, StackError> {
        let groups = match (groups, &policy.upstream) {
            (None, Upstream::Embedded { .. }) => open_groups(policy, &metrics).await?,
            (groups, _) => groups,
        };
        let (embedded, kept) = (groups.clone(), Mutex::new(None));
        let upstreams = move |policy: &Policy| {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            let made = upstreams::of(policy, embedded.as_ref(), kept.as_ref())?;
            // Connections outlive a policy that names the same endpoints.
            if let Forward::Remote(client, led) = &made.1 {
                *kept = Some((client.clone(), led.clone()));
            }
            Ok(made)
        };
        Self::assemble(policy, source, Box::new(upstreams), groups, metrics).await
    }

    /// The sidecar that a policy describes, over an upstream of the caller's
    /// own in the place of the policy's: to embed ferry, or to measure it.
    /// What does not batch goes to `forward`. A batch's calls name their
    /// method by its index among the policy's enforced ones.
    ///
    /// # Errors
    /// If an address cannot be listened on.
    pub async fn over(
        policy: &Policy,
        upstream: Batches,
        forward: Forward,
        metrics: Metrics,
    ) -> Result<Self, StackError> {
        let upstreams = move |_: &Policy| Ok((Lines::lone(upstream.clone()), forward.clone()));
        Self::assemble(policy, None, Box::new(upstreams), None, metrics).await
    }

    /// `groups` are what `/ready` waits for, if anything.
    async fn assemble(
        policy: &Policy,
        source: Option<Source>,
        upstreams: Upstreams,
        groups: Option<Groups>,
        metrics: Metrics,
    ) -> Result<Self, StackError> {
        let count = groups.as_ref().map(Groups::count);
        let readiness = Readiness::of(groups);
        let assembly = Assembly::new(policy, count, upstreams, &readiness, &metrics)?;
        let assembly = Arc::new(assembly);
        let door = Arc::new(ArcSwap::from_pointee(assembly.door(policy)?));
        let looked_at = Arc::clone(&door);
        readiness.asks(move || looked_at.load().forward.unreachable());
        let gauges = assembly.gauges(&metrics)?;
        let listen = policy.listen.iter().cloned();
        let guards = Arc::new(ArcSwap::from_pointee(policy.guards.clone()));
        let mut stack = Self::serve(listen, Arc::clone(&door), &guards, readiness, metrics).await?;
        let tls = stack.servers.iter().map(|server| server.tls().cloned());
        let face = Face {
            door,
            guards,
            tls: tls.collect(),
        };
        let sidecar = Sidecar::new(policy, source, assembly, face, &stack.metrics)?;
        if let Some(address) = policy.admin {
            let controls = stack.controls(&sidecar);
            let admin = stack.serve_admin(address, gauges, Some(controls));
            stack.admin = Some(admin.await?);
        }
        stack.sidecar = Some(sidecar);
        Ok(stack)
    }

    /// A node's own face: every call its own proposal, no window, no limit.
    ///
    /// # Errors
    /// If an address cannot be listened on.
    pub async fn node(
        groups: Groups,
        address: SocketAddr,
        admin: Option<SocketAddr>,
        metrics: Metrics,
    ) -> Result<Self, StackError> {
        let policy = Policy::embedded();
        let (readiness, forwarded) = (Readiness::of(Some(groups.clone())), metrics.forwarded()?);
        let methods: Vec<_> = policy.methods.iter().collect();
        let counted = Counted::new(metrics.clone()).methods(&methods)?;
        let (lines, forward) = upstreams::embedded(&groups, &methods, policy.batch_timeout)?;
        let direct = lines.services.into_iter().map(|upstream| Direct {
            upstream,
            timeout: policy.batch_timeout,
        });
        let door = Door {
            router: assembly::router(&methods),
            methods: assembly::door_methods(&methods, &counted),
            // No two calls share a proposal here, so metadata separates nobody.
            metadata: policy::MetadataRules::new(&[], &["*"], policy::OtherMetadata::Alone),
            shed: assembly::shed_answer(policy.shed),
            explain: policy.telemetry.explain,
            traced: false,
            notes: Notes::default(),
            access: None,
            observer: None,
            batched: Spread::new(direct.collect(), lines.keys),
            health: Some(Forwarder::new(
                assembly::own_health(&readiness, &methods),
                forwarded.clone(),
            )),
            forward: Forwarder::new(forward, forwarded),
        };
        let door = Arc::new(ArcSwap::from_pointee(door));
        let guards = Arc::default();
        let mut stack =
            Self::serve([Listen::from(address)], door, &guards, readiness, metrics).await?;
        if let Some(address) = admin {
            let admin = stack.serve_admin(address, Vec::new(), None);
            stack.admin = Some(admin.await?);
        }
        Ok(stack)
    }

    async fn serve<S>(
        listen: impl IntoIterator<Item = Listen>,
        door: Arc<ArcSwap<Door<S>>>,
        guards: &Arc<ArcSwap<Guards>>,
        readiness: Arc<Readiness>,
        metrics: Metrics,
    ) -> Result<Self, StackError>
    where
        S: Submit,
    {
        let mut servers = Vec::new();
        let refusals = Arc::new(metrics.refusals()?);
        let mut handed = Listening::handed_over().map_err(StackError::HandedOver)?;
        for (i, Listen { place, tls }) in listen.into_iter().enumerate() {
            let given = handed.iter().position(|socket| *socket.place() == place);
            let listening = match given {
                Some(given) => handed.swap_remove(given),
                None => Listening::bind(&place).await.map_err(ServerError::Bind)?,
            };
            let door = Arc::clone(&door);
            // One look a call: whatever is swapped later, it passes this door.
            let answer = move |request| door.load_full().answer(request);
            let (guards, refusals) = (Arc::clone(guards), Arc::clone(&refusals));
            let tls = tls.map(ServerTls::new).transpose();
            let tls = tls.map_err(|error| StackError::ServerTls { i, error })?;
            servers.push(Server::on(listening, tls, guards, refusals, answer));
        }
        if !handed.is_empty() {
            let places = handed.iter().map(|socket| socket.place().to_string());
            return Err(StackError::Unlisted(places.collect::<Vec<_>>().join(", ")));
        }
        Ok(Self {
            servers,
            admin: None,
            readiness,
            drain_asked: Arc::default(),
            sidecar: None,
            metrics,
            refusals,
        })
    }

    async fn serve_admin(
        &self,
        address: SocketAddr,
        gauges: Vec<LimitMetrics>,
        controls: Option<Arc<dyn Controls>>,
    ) -> Result<Admin, ServerError> {
        let readiness = Arc::clone(&self.readiness);
        let saves = readiness.groups().cloned();
        let saves = saves.map(|groups| Arc::new(groups) as Arc<dyn Saves>);
        let view = AdminView {
            registry: self.metrics.registry().clone(),
            recent: Arc::clone(self.metrics.recent()),
            refresh: Box::new(move || gauges.iter().for_each(LimitMetrics::refresh)),
            not_ready: Box::new(move || readiness.why_not()),
            controls,
            refusals: Arc::clone(&self.refusals),
            saves,
        };
        Admin::listen(address, view).await
    }

    /// The first TCP address it listens on.
    ///
    /// # Panics
    /// If it listens on Unix sockets only.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        let mut places = self.servers.iter().map(Server::place);
        let address = places.find_map(|place| match place {
            Place::Tcp(address) => Some(*address),
            Place::Unix(_) => None,
        });
        address.expect("whoever asks for an address listens on one")
    }

    /// Everywhere it listens.
    #[must_use]
    pub fn places(&self) -> Vec<String> {
        let places = self.servers.iter().map(Server::place);
        places.map(ToString::to_string).collect()
    }

    /// The admin address, if there is one.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::local_addr)
    }

    /// The adaptive limit now, in batches in flight, of all groups together; 0
    /// for a node.
    #[must_use]
    pub fn limit(&self) -> u32 {
        let sidecar = self.sidecar.as_ref();
        sidecar.map_or(0, |sidecar| sidecar.assembly.limit())
    }

    /// Entries sent upstream although their caller had left before.
    #[must_use]
    pub fn ghosts(&self) -> u64 {
        let sidecar = self.sidecar.as_ref();
        sidecar.map_or(0, |sidecar| sidecar.assembly.ghosts())
    }

    /// Reads a sidecar's policy again; `None` for a node, which has none.
    pub async fn reload(&self, cause: Cause) -> Option<Reload> {
        Some(self.sidecar.as_ref()?.live.reload(cause).await)
    }

    /// Resolves when the admin address is asked to drain.
    pub async fn drain_asked(&self) {
        self.drain_asked.notified().await;
    }

    /// Stops intake (new connections are refused, open ones get GOAWAY),
    /// answers what was accepted, and after `patience` closes what is left.
    /// Returns how many connections had to be closed.
    pub async fn drain(self, patience: Duration) -> usize {
        self.finish(patience).await.connections
    }

    /// The same, and what was on those connections.
    pub async fn finish(self, patience: Duration) -> Cut {
        self.readiness.drain();
        let drains = self
            .servers
            .into_iter()
            .map(|server| server.drain(patience));
        let connections = futures_util::future::join_all(drains).await.iter().sum();
        let mut cut = Cut {
            connections,
            unanswered: 0,
        };
        if let Some(sidecar) = &self.sidecar {
            // What waits for nobody any more was left before the end.
            if connections > 0 {
                cut.unanswered = sidecar.assembly.unanswered();
            }
            sidecar.assembly.finish_traces().await;
        }
        cut
    }
}
