//! What a policy describes, put together: which layer stands in front of
//! which, outermost first.
//!
//! An [`Assembly`] is what outlives a policy: counters, a limiter for each
//! group, the groups, the connections upstream. Each policy gets a door of its
//! own, with its own windows; they share the limiters and the counts of what
//! waits, so no bound is exceeded while the windows of an old policy drain.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use prometheus::IntCounterVec;
use tonic::{Code, Status};
use tower::ServiceBuilder;

use super::{StackError, readiness::Readiness, upstreams::Lines};
use crate::{
    accept::{
        Barred, CallRules, Door, DoorMethod, MethodRules, ObservedMethod, Observer, Spread,
        route::Router, status::ShedAnswer,
    },
    batch::{BatchLayer, Batcher, Queue},
    forward::{Forward, Forwarder},
    health,
    limit::{Algorithm, LimitLayer, LimitView},
    policy::{self, Health, Method, Mode, Policy, ShedStatus, TracesTo},
    telemetry::{
        AccessLog, LimitMetrics, MethodMetrics, Metrics, Notes, ObservedCounts, ObservedMetrics,
        Recent, Traces,
    },
    upstream::{AgainLayer, BarrierRule, Barriers, ByStatus, Call, NotedLayer},
    wire::KeyUse,
};

/// Takes the calls of a sidecar's door.
pub(super) type Batched = Barred<Spread<Batcher<Call, CallRules, Bytes, Status>>>;

/// The upstream that a policy names, for batches and for all else.
pub(super) type Upstreams =
    Box<dyn Fn(&Policy) -> Result<(Lines, Forward), StackError> + Send + Sync>;

/// What every policy of one sidecar has in common.
pub(super) struct Assembly {
    upstreams: Upstreams,
    lines: Vec<Line>,
    counted: Counted,
    forwarded: IntCounterVec,
    again: IntCounterVec,
    readiness: Arc<Readiness>,
    notes: Notes,
    barriers: Arc<Barriers>,
    recent: Arc<Recent>,
    traces: Mutex<Option<(TracesTo, Arc<Traces>)>>,
}

/// The longest period of a drain (`src/limit/slots.rs`).
const COMMON: Duration = Duration::from_secs(64);

/// A moment that every ferry agrees on whose clock is right: the last whole
/// multiple of 64 s of the time of day. All that hangs on it is whether several
/// that share an upstream look for its unloaded latency together.
// It is the one place that looks at the wall clock, once, and nothing is wrong
// where that is.
#[allow(clippy::disallowed_methods)]
fn common_origin() -> Option<Instant> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let past = Duration::from_nanos((since.as_nanos() % COMMON.as_nanos()).try_into().ok()?);
    tokio::time::Instant::now().into_std().checked_sub(past)
}

/// What every policy's windows of one group share.
struct Line {
    /// The group's number, if it is one.
    group: Option<u32>,
    limit: LimitLayer<ByStatus>,
    queue: Mutex<Option<Arc<Queue>>>,
}

impl Assembly {
    /// What `policy` and its successors share, over so many groups if any.
    /// `upstreams` is asked again for each of them.
    pub(super) fn new(
        policy: &Policy,
        groups: Option<NonZeroU32>,
        upstreams: Upstreams,
        readiness: &Arc<Readiness>,
        metrics: &Metrics,
    ) -> Result<Self, StackError> {
        let origin = common_origin();
        let limit = || match origin {
            Some(origin) => LimitLayer::classified(policy.limit, ByStatus).aligned(origin),
            None => LimitLayer::classified(policy.limit, ByStatus),
        };
        let line = |group| Line {
            group,
            limit: limit(),
            queue: Mutex::default(),
        };
        Ok(Self {
            upstreams,
            lines: match groups {
                None => vec![line(None)],
                Some(groups) => (0..groups.get()).map(|group| line(Some(group))).collect(),
            },
            counted: Counted::new(metrics.clone()),
            forwarded: metrics.forwarded()?,
            again: metrics.again()?,
            readiness: Arc::clone(readiness),
            notes: Notes::default(),
            barriers: Arc::default(),
            recent: Arc::clone(metrics.recent()),
            traces: Mutex::default(),
        })
    }

    /// The door of `policy`. Nothing changes for anyone until calls are
    /// answered by it, but for the limit, which all doors share.
    pub(super) fn door(&self, policy: &Policy) -> Result<Door<Batched>, StackError> {
        let methods = in_mode(policy, Mode::Enforce);
        let observed = in_mode(policy, Mode::Observe);
        let counted = self.counted.methods(&methods)?;
        let (Lines { services, keys }, forward) = (self.upstreams)(policy)?;
        let on_error = methods.iter().map(|method| method.on_error.clone());
        let again = AgainLayer::new(on_error.collect(), policy.batch_timeout, self.again.clone());
        let rules = Arc::new(call_rules(policy, &methods, &counted));
        let traces = self.traces(policy)?;
        let traced = traces.is_some();
        let paths: Arc<[String]> = methods.iter().map(|method| method.path.clone()).collect();
        let batched = self.lines.iter().zip(services).map(|(line, upstream)| {
            let mut queue = lock(&line.queue);
            let mut batch = BatchLayer::new(Arc::clone(&rules));
            if let Some(queue) = &*queue {
                batch = batch.beside(queue);
            }
            let noted = NotedLayer::new(self.notes.clone(), line.limit.view());
            // Outermost first; one of each for each group.
            let batched = ServiceBuilder::new()
                // Always ready; gathers calls into windows and sheds what cannot
                // be served in its time.
                .layer(batch)
                // Tells who asks what became of a call; a traced batch's span.
                .layer(noted.traced(traces.clone(), Arc::clone(&paths)))
                // What may be sent again after a failure is, each time with a
                // permit of its own.
                .layer(again.clone())
                // Ready when a permit is free: that is when a window is sealed.
                .layer(line.limit.clone())
                // Merges and sends; the permit comes back with its answer.
                .service(upstream);
            line.limit.retune(policy.limit);
            queue.get_or_insert_with(|| Arc::clone(batched.queue()));
            batched
        });
        self.recent.slower_than(policy.telemetry.slow_batch);
        // In front of all: finds each call's group, splits a call of several.
        let batched = Spread::new(batched.collect(), keys);
        // And before that, waits where the policy has barriers.
        let rules = barrier_rules(&methods);
        let batched = Barred::new(batched, rules, Arc::clone(&self.barriers));
        let looked_at = observed.iter().map(|method| &*method.path);
        Ok(Door {
            router: router(&methods).observing(looked_at),
            methods: door_methods(&methods, &counted),
            metadata: policy.metadata.clone(),
            shed: shed_answer(policy.shed),
            explain: policy.telemetry.explain,
            traced,
            notes: self.notes.clone(),
            access: policy.telemetry.access_log.map(AccessLog::one_in),
            observer: self.observer(policy, &observed)?,
            batched,
            forward: Forwarder::new(forward, self.forwarded.clone()),
            health: (policy.health == Health::Own).then(|| {
                let own = own_health(&self.readiness, &methods);
                Forwarder::new(own, self.forwarded.clone())
            }),
        })
    }

    /// What looks at the calls of `methods`, if there are any.
    fn observer(
        &self,
        policy: &Policy,
        methods: &[&Method],
    ) -> Result<Option<Arc<Observer>>, StackError> {
        if methods.is_empty() {
            return Ok(None);
        }
        let counted = self.counted.observed(methods)?;
        let observed = methods.iter().zip(counted);
        let observed = observed.map(|(method, metrics)| ObservedMethod {
            plan: Arc::clone(&method.plan),
            max_message_bytes: method.max_message_bytes,
            metrics,
        });
        let rules = call_rules(policy, methods, &self.counted.methods(methods)?);
        let fixed = policy.limit.algorithm == Algorithm::Fixed;
        Ok(Some(Observer::start(
            observed.collect(),
            rules,
            policy.metadata.clone(),
            fixed.then_some(policy.limit.max as usize),
        )))
    }

    /// What was counted of the calls of `path`.
    pub(super) fn seen(&self, path: &str) -> Seen {
        self.counted.seen(path)
    }

    /// What sends the spans that `policy` asks for: the same as before, where
    /// it asks for the same.
    fn traces(&self, policy: &Policy) -> Result<Option<Arc<Traces>>, StackError> {
        let mut kept = lock(&self.traces);
        let asked = policy.telemetry.traces.as_ref();
        if kept.as_ref().map(|(to, _)| to) != asked {
            *kept = match asked {
                None => None,
                Some(to) => {
                    let traces = Traces::to(to)?;
                    Some((to.clone(), Arc::new(traces)))
                }
            };
        }
        Ok(kept.as_ref().map(|(_, traces)| Arc::clone(traces)))
    }

    /// Sends the spans that have ended; none will follow.
    pub(super) async fn finish_traces(&self) {
        let traces = lock(&self.traces).take();
        if let Some((_, traces)) = traces {
            // It waits for a connection that needs this runtime's threads.
            let finished = tokio::task::spawn_blocking(move || traces.finish());
            if let Err(error) = finished.await {
                tracing::warn!(%error, "the last spans were not sent");
            }
        }
    }

    /// The limits now, of all groups together.
    pub(super) fn limit(&self) -> u32 {
        let views = self.lines.iter().map(|line| line.limit.view());
        views.map(|view| LimitView::limit(&view)).sum()
    }

    /// The gauges of each limiter and of what waits for it.
    ///
    /// # Panics
    /// Before the first door.
    pub(super) fn gauges(&self, metrics: &Metrics) -> Result<Vec<LimitMetrics>, StackError> {
        let lines = self.lines.iter().map(|line| {
            let queue = lock(&line.queue).clone();
            let queue = queue.expect("gauges are asked for once there is a door");
            Ok(metrics.limiter(line.group, line.limit.view(), queue)?)
        });
        lines.collect()
    }

    /// Entries that wait, and batches that are out.
    pub(super) fn unanswered(&self) -> u64 {
        let lines = self.lines.iter().map(|line| {
            let waiting = lock(&line.queue)
                .as_ref()
                .map_or(0, |queue| queue.entries());
            waiting + u64::from(line.limit.view().in_flight())
        });
        lines.sum()
    }

    /// Entries sent upstream although their caller had left before.
    pub(super) fn ghosts(&self) -> u64 {
        self.counted.ghosts()
    }
}

/// The counters of every method that any policy named: registered once, kept.
pub(super) struct Counted {
    metrics: Metrics,
    methods: Mutex<HashMap<String, Arc<MethodMetrics>>>,
    observed: Mutex<HashMap<String, Arc<ObservedMetrics>>>,
}

/// What was counted of a method's calls that `/plan` shows.
pub(super) struct Seen {
    /// Entries that went alone, by reason.
    pub(super) alone: BTreeMap<String, u64>,
    /// What would have become of its calls, where it was ever observed.
    pub(super) observed: Option<ObservedCounts>,
}

impl Counted {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            methods: Mutex::default(),
            observed: Mutex::default(),
        }
    }

    /// The counters of `methods`, in their order.
    pub(super) fn methods(
        &self,
        methods: &[&Method],
    ) -> Result<Vec<Arc<MethodMetrics>>, StackError> {
        kept(&self.methods, methods, |path| self.metrics.method(path))
    }

    /// The counters of `methods` as observed ones, in their order.
    fn observed(&self, methods: &[&Method]) -> Result<Vec<Arc<ObservedMetrics>>, StackError> {
        kept(&self.observed, methods, |path| self.metrics.observed(path))
    }

    fn seen(&self, path: &str) -> Seen {
        let counted = lock(&self.methods).get(path).cloned();
        let observed = lock(&self.observed).get(path).cloned();
        Seen {
            alone: counted.map(|counted| counted.alone()).unwrap_or_default(),
            observed: observed.map(|observed| observed.counts()),
        }
    }

    fn ghosts(&self) -> u64 {
        let methods = lock(&self.methods);
        methods.values().map(|method| method.ghosts()).sum()
    }
}

/// Tells the health of the process, and of the services of `methods`.
pub(super) fn own_health(readiness: &Arc<Readiness>, methods: &[&Method]) -> Forward {
    let readiness = Arc::clone(readiness);
    let services = methods.iter().filter_map(|method| {
        let (service, _) = method.path.strip_prefix('/')?.split_once('/')?;
        Some(service.to_owned())
    });
    let standing = Arc::new(move || readiness.standing());
    let routes = health::routes(standing, services.collect());
    Forward::Local(Box::new(routes))
}

/// The counters of `methods`, of which each is registered once.
fn kept<C>(
    known: &Mutex<HashMap<String, Arc<C>>>,
    methods: &[&Method],
    register: impl Fn(&str) -> prometheus::Result<C>,
) -> Result<Vec<Arc<C>>, StackError> {
    let mut known = lock(known);
    let mut counted = Vec::with_capacity(methods.len());
    for method in methods {
        if !known.contains_key(&method.path) {
            let registered = Arc::new(register(&method.path)?);
            known.insert(method.path.clone(), registered);
        }
        counted.push(Arc::clone(&known[&method.path]));
    }
    Ok(counted)
}

/// The methods of one mode, in the policy's order.
pub(super) fn in_mode(policy: &Policy, mode: Mode) -> Vec<&Method> {
    let methods = policy.methods.iter();
    methods.filter(|method| method.mode == mode).collect()
}

/// What barriers ask of the calls of `methods`.
fn barrier_rules(methods: &[&Method]) -> Vec<Option<BarrierRule>> {
    let rule = |method: &&Method| {
        let mut others = methods.iter();
        let awaited = others.any(|other| other.barrier.contains(&method.path));
        let awaits = method.barrier.iter().map(String::as_str);
        (awaited || !method.barrier.is_empty())
            .then(|| BarrierRule::new(&method.path, awaited, awaits))
    };
    methods.iter().map(rule).collect()
}

pub(super) fn router(methods: &[&Method]) -> Router {
    let methods = methods.iter().enumerate();
    Router::new(methods.map(|(index, method)| (&*method.path, index)))
}

pub(super) fn call_rules(
    policy: &Policy,
    methods: &[&Method],
    counted: &[Arc<MethodMetrics>],
) -> CallRules {
    let rules = methods
        .iter()
        .zip(counted)
        .map(|(method, metrics)| MethodRules {
            path: method.path.clone(),
            window: method.window,
            queue: method.queue,
            distinct: method.plan.keys() == KeyUse::Distinct,
            timeout: policy.batch_timeout,
            max_partitions: method.max_partitions,
            metrics: Arc::clone(metrics),
        });
    CallRules(rules.collect())
}

pub(super) fn door_methods(methods: &[&Method], counted: &[Arc<MethodMetrics>]) -> Vec<DoorMethod> {
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

pub(super) const fn shed_answer(shed: policy::Shed) -> ShedAnswer {
    ShedAnswer {
        code: match shed.status {
            ShedStatus::ResourceExhausted => Code::ResourceExhausted,
            ShedStatus::Unavailable => Code::Unavailable,
        },
        pushback: shed.pushback,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Insertions only, so a panic leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
