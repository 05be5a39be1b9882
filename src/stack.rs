//! THE assembly: which layer stands in front of which, outermost first.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tonic::{Code, Status, service::Routes};
use tower::{ServiceBuilder, util::BoxCloneSyncService};

use crate::{
    accept::{
        CallRules, ConnectionSettings, Door, DoorMethod, MethodRules, Server, ServerError, Submit,
        route::Router, status::ShedAnswer,
    },
    batch::{Batch, BatchLayer},
    forward::{Forward, Forwarder},
    limit::{LimitLayer, LimitView},
    meta::MetaService,
    policy::{self, Listen, Method, Mode, Policy, ShedStatus, Upstream},
    proto::mqtt::mqtt_service_server::MqttServiceServer,
    raft::{Group, GroupSettings, OpenError, Pipeline, RaftMetrics, command::Kind},
    telemetry::{Admin, AdminView, LimitMetrics, MethodMetrics, Metrics},
    upstream::{BatchReply, ByStatus, Call, Direct, Embedded, Remote, RemoteClient, Target},
};

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ServerError),
    /// The embedded group cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A metric stands twice in one registry.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The embedded group has no such write.
    #[error(
        "method {path}: the embedded group batches only {}; name endpoints in the policy's upstream",
        CREATE_SESSION
    )]
    NotEmbedded {
        /// The method's path.
        path: String,
    },
}

/// The write that the embedded group takes in batches.
const CREATE_SESSION: &str = "/meta.service.mqtt.MqttService/CreateSession";

/// Any upstream that takes batches.
pub type Batches = BoxCloneSyncService<Batch<Call>, BatchReply, Status>;

/// Something that listens and serves: a sidecar, or a node's own face.
#[derive(Debug)]
pub struct Stack {
    servers: Vec<Server>,
    admin: Option<Admin>,
    draining: Arc<AtomicBool>,
    limit: Option<LimitView>,
    methods: Vec<Arc<MethodMetrics>>,
    metrics: Metrics,
}

/// Opens the embedded group that a policy asks for; `None` if it names
/// endpoints elsewhere.
///
/// # Errors
/// If the group's directory cannot be used.
pub async fn open_group(policy: &Policy, metrics: &Metrics) -> Result<Option<Group>, StackError> {
    let Upstream::Embedded {
        data_dir, pipeline, ..
    } = &policy.upstream
    else {
        return Ok(None);
    };
    let pipeline = match pipeline {
        policy::Pipeline::Full => Pipeline::Full,
        policy::Pipeline::Serial => Pipeline::Serial,
    };
    open_node(data_dir, pipeline, metrics).await.map(Some)
}

/// Opens a group in a directory.
///
/// # Errors
/// If the directory cannot be used.
pub async fn open_node(
    data_dir: &Path,
    pipeline: Pipeline,
    metrics: &Metrics,
) -> Result<Group, StackError> {
    let mut settings = GroupSettings::new(data_dir);
    settings.pipeline = pipeline;
    let metrics = RaftMetrics::register(metrics.registry(), 0)?;
    Ok(Group::open(settings, metrics).await?)
}

impl Stack {
    /// The sidecar that a policy describes. `group` is the embedded group;
    /// it stays the caller's to shut down, after [`Stack::drain`].
    ///
    /// # Errors
    /// If an address cannot be listened on, or the embedded group has no
    /// write for one of the methods.
    pub async fn proxy(
        policy: &Policy,
        group: Option<Group>,
        metrics: Metrics,
    ) -> Result<Self, StackError> {
        let methods = enforced(policy);
        let (upstream, forward) = match (&group, &policy.upstream) {
            (Some(group), _) => embedded(group, &methods, policy.batch_timeout)?,
            (None, Upstream::Remote { endpoints }) => {
                remote(endpoints, &methods, policy.batch_timeout)
            }
            (None, Upstream::Embedded { .. }) => {
                let group = open_group(policy, &metrics).await?;
                let group = group.expect("the policy's upstream is embedded");
                embedded(&group, &methods, policy.batch_timeout)?
            }
        };
        Self::assemble(policy, upstream, forward, group, metrics).await
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
        Self::assemble(policy, upstream, forward, None, metrics).await
    }

    /// `group` is what `/ready` waits for, if anything.
    async fn assemble(
        policy: &Policy,
        upstream: Batches,
        forward: Forward,
        group: Option<Group>,
        metrics: Metrics,
    ) -> Result<Self, StackError> {
        let methods = enforced(policy);
        let counted = count_methods(&methods, &metrics)?;
        let limit = LimitLayer::classified(policy.limit, ByStatus);
        let view = limit.view();
        // Outermost first.
        let batched = ServiceBuilder::new()
            // Always ready; gathers calls into windows and sheds what cannot
            // be served in its time.
            .layer(BatchLayer::new(Arc::new(call_rules(&methods, &counted))))
            // Ready when a permit is free: that is when a window is sealed.
            .layer(limit)
            // Merges and sends; the permit comes back with its answer.
            .service(upstream);
        let gauges = metrics.limiter(view.clone(), Arc::clone(batched.queue()))?;
        let door = Door {
            router: Router::new(
                methods
                    .iter()
                    .enumerate()
                    .map(|(index, method)| (&*method.path, index)),
            ),
            methods: door_methods(&methods, &counted),
            metadata: policy.metadata.clone(),
            shed: shed_answer(policy.shed),
            batched,
            forward: Forwarder::new(forward, metrics.forwarded()?),
        };
        let listen = policy.listen.iter().map(|Listen::Tcp(address)| *address);
        let mut stack = Self::serve(listen, door, metrics).await?;
        stack.limit = Some(view);
        stack.methods = counted;
        if let Some(address) = policy.admin {
            stack.admin = Some(stack.serve_admin(address, group, Some(gauges)).await?);
        }
        Ok(stack)
    }

    /// A node's own face: every call its own proposal, no window, no limit.
    ///
    /// # Errors
    /// If an address cannot be listened on.
    pub async fn node(
        group: Group,
        address: SocketAddr,
        admin: Option<SocketAddr>,
        metrics: Metrics,
    ) -> Result<Self, StackError> {
        let policy = Policy::embedded();
        let methods: Vec<_> = policy.methods.iter().collect();
        let counted = count_methods(&methods, &metrics)?;
        let (upstream, forward) = embedded(&group, &methods, policy.batch_timeout)?;
        let door = Door {
            router: Router::new(
                methods
                    .iter()
                    .enumerate()
                    .map(|(index, method)| (&*method.path, index)),
            ),
            methods: door_methods(&methods, &counted),
            // No two calls share a proposal here, so metadata separates nobody.
            metadata: policy::MetadataRules::new(&[], &["*"], policy::OtherMetadata::Alone),
            shed: shed_answer(policy.shed),
            batched: Direct(upstream),
            forward: Forwarder::new(forward, metrics.forwarded()?),
        };
        let mut stack = Self::serve([address], door, metrics).await?;
        if let Some(address) = admin {
            stack.admin = Some(stack.serve_admin(address, Some(group), None).await?);
        }
        Ok(stack)
    }

    async fn serve<S>(
        addresses: impl IntoIterator<Item = SocketAddr>,
        door: Door<S>,
        metrics: Metrics,
    ) -> Result<Self, StackError>
    where
        S: Submit,
    {
        let door = Arc::new(door);
        let mut servers = Vec::new();
        for address in addresses {
            let door = Arc::clone(&door);
            let answer = move |request| door.answer(request);
            servers.push(Server::listen(address, ConnectionSettings::default(), answer).await?);
        }
        Ok(Self {
            servers,
            admin: None,
            draining: Arc::default(),
            limit: None,
            methods: Vec::new(),
            metrics,
        })
    }

    async fn serve_admin(
        &self,
        address: SocketAddr,
        group: Option<Group>,
        gauges: Option<LimitMetrics>,
    ) -> Result<Admin, ServerError> {
        let draining = Arc::clone(&self.draining);
        let view = AdminView {
            registry: self.metrics.registry().clone(),
            refresh: Box::new(move || {
                if let Some(gauges) = &gauges {
                    gauges.refresh();
                }
            }),
            not_ready: Box::new(move || {
                if draining.load(Ordering::Relaxed) {
                    return Some("draining".to_owned());
                }
                let group = group.as_ref()?;
                (!group.is_ready()).then(|| "the Raft group has no leader".to_owned())
            }),
        };
        Admin::listen(address, view).await
    }

    /// The first address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.servers[0].local_addr()
    }

    /// The admin address, if there is one.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::local_addr)
    }

    /// The adaptive limit now, in batches in flight; 0 for a node.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.as_ref().map_or(0, LimitView::limit)
    }

    /// Entries sent upstream although their caller had left before.
    #[must_use]
    pub fn ghosts(&self) -> u64 {
        self.methods.iter().map(|method| method.ghosts()).sum()
    }

    /// Stops intake (new connections are refused, open ones get GOAWAY),
    /// answers what was accepted, and after `patience` closes what is left.
    /// Returns how many connections had to be closed.
    pub async fn drain(self, patience: Duration) -> usize {
        self.draining.store(true, Ordering::Relaxed);
        let drains = self
            .servers
            .into_iter()
            .map(|server| server.drain(patience));
        futures_util::future::join_all(drains).await.iter().sum()
    }
}

/// The methods that batch, in the policy's order.
fn enforced(policy: &Policy) -> Vec<&Method> {
    let methods = policy.methods.iter();
    methods
        .filter(|method| method.mode == Mode::Enforce)
        .collect()
}

fn count_methods(
    methods: &[&Method],
    metrics: &Metrics,
) -> Result<Vec<Arc<MethodMetrics>>, StackError> {
    methods
        .iter()
        .map(|method| Ok(Arc::new(metrics.method(&method.path)?)))
        .collect()
}

fn call_rules(methods: &[&Method], counted: &[Arc<MethodMetrics>]) -> CallRules {
    let rules = methods
        .iter()
        .zip(counted)
        .map(|(method, metrics)| MethodRules {
            window: method.window,
            queue: method.queue,
            metrics: Arc::clone(metrics),
        });
    CallRules(rules.collect())
}

fn door_methods(methods: &[&Method], counted: &[Arc<MethodMetrics>]) -> Vec<DoorMethod> {
    let doors = methods
        .iter()
        .zip(counted)
        .map(|(method, metrics)| DoorMethod {
            plan: Arc::clone(&method.plan),
            max_message_bytes: method.max_message_bytes,
            metrics: Arc::clone(metrics),
        });
    doors.collect()
}

fn target(method: &Method) -> Target {
    Target {
        path: method.path.clone(),
        plan: Arc::clone(&method.plan),
    }
}

fn embedded(
    group: &Group,
    methods: &[&Method],
    timeout: Duration,
) -> Result<(Batches, Forward), StackError> {
    let targets = methods.iter().map(|method| match &*method.path {
        CREATE_SESSION => Ok((Kind::CreateSession, target(method))),
        path => Err(StackError::NotEmbedded {
            path: path.to_owned(),
        }),
    });
    let upstream = Embedded::new(group.clone(), targets.collect::<Result<_, _>>()?, timeout);
    let service = MqttServiceServer::new(MetaService::new(group.clone()));
    Ok((
        BoxCloneSyncService::new(upstream),
        Forward::Local(Box::new(Routes::new(service).prepare())),
    ))
}

fn remote(endpoints: &[http::Uri], methods: &[&Method], timeout: Duration) -> (Batches, Forward) {
    let client = RemoteClient::new(endpoints.to_vec());
    let targets = methods.iter().map(|method| target(method)).collect();
    let upstream = Remote::new(client.clone(), targets, timeout);
    (BoxCloneSyncService::new(upstream), Forward::Remote(client))
}

const fn shed_answer(shed: policy::Shed) -> ShedAnswer {
    ShedAnswer {
        code: match shed.status {
            ShedStatus::ResourceExhausted => Code::ResourceExhausted,
            ShedStatus::Unavailable => Code::Unavailable,
        },
        pushback: shed.pushback,
    }
}
