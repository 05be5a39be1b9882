//! What a policy describes, put together: which layer stands in front of
//! which, outermost first.
//!
//! An [`Assembly`] is what outlives a policy: counters, the limiter, the
//! group, the connections upstream. Each policy gets a door of its own, with
//! its own windows; they share the limiter and the count of what waits, so no
//! bound is exceeded while the windows of an old policy drain.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use prometheus::IntCounterVec;
use tonic::{Code, Status};
use tower::ServiceBuilder;

use super::{Batches, StackError};
use crate::{
    accept::{CallRules, Door, DoorMethod, MethodRules, route::Router, status::ShedAnswer},
    batch::{BatchLayer, Batcher, Queue},
    forward::{Forward, Forwarder},
    limit::{LimitLayer, LimitView},
    policy::{self, Method, Mode, Policy, ShedStatus},
    telemetry::{LimitMetrics, MethodMetrics, Metrics},
    upstream::{ByStatus, Call},
};

/// Takes the calls of a sidecar's door.
pub(super) type Batched = Batcher<Call, CallRules, Bytes, Status>;

/// The upstream that a policy names, for batches and for all else.
pub(super) type Upstreams =
    Box<dyn Fn(&Policy) -> Result<(Batches, Forward), StackError> + Send + Sync>;

/// What every policy of one sidecar has in common.
pub(super) struct Assembly {
    upstreams: Upstreams,
    limit: LimitLayer<ByStatus>,
    queue: Mutex<Option<Arc<Queue>>>,
    counted: Counted,
    forwarded: IntCounterVec,
}

impl Assembly {
    /// What `policy` and its successors share. `upstreams` is asked again for
    /// each of them.
    pub(super) fn new(
        policy: &Policy,
        upstreams: Upstreams,
        metrics: &Metrics,
    ) -> Result<Self, StackError> {
        Ok(Self {
            upstreams,
            limit: LimitLayer::classified(policy.limit, ByStatus),
            queue: Mutex::default(),
            counted: Counted::new(metrics.clone()),
            forwarded: metrics.forwarded()?,
        })
    }

    /// The door of `policy`. Nothing changes for anyone until calls are
    /// answered by it, but for the limit, which all doors share.
    pub(super) fn door(&self, policy: &Policy) -> Result<Door<Batched>, StackError> {
        let methods = enforced(policy);
        let counted = self.counted.methods(&methods)?;
        let (upstream, forward) = (self.upstreams)(policy)?;
        let mut queue = lock(&self.queue);
        let mut batch = BatchLayer::new(Arc::new(call_rules(policy, &counted)));
        if let Some(queue) = &*queue {
            batch = batch.beside(queue);
        }
        // Outermost first.
        let batched = ServiceBuilder::new()
            // Always ready; gathers calls into windows and sheds what cannot
            // be served in its time.
            .layer(batch)
            // Ready when a permit is free: that is when a window is sealed.
            .layer(self.limit.clone())
            // Merges and sends; the permit comes back with its answer.
            .service(upstream);
        self.limit.retune(policy.limit);
        queue.get_or_insert_with(|| Arc::clone(batched.queue()));
        Ok(Door {
            router: router(&methods),
            methods: door_methods(&methods, &counted),
            metadata: policy.metadata.clone(),
            shed: shed_answer(policy.shed),
            batched,
            forward: Forwarder::new(forward, self.forwarded.clone()),
        })
    }

    /// A look at the limiter.
    pub(super) fn limit(&self) -> LimitView {
        self.limit.view()
    }

    /// The gauges of the limiter and of what waits for it.
    ///
    /// # Panics
    /// Before the first door.
    pub(super) fn gauges(&self, metrics: &Metrics) -> Result<LimitMetrics, StackError> {
        let queue = lock(&self.queue).clone();
        let queue = queue.expect("gauges are asked for once there is a door");
        Ok(metrics.limiter(self.limit(), queue)?)
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
}

impl Counted {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            methods: Mutex::default(),
        }
    }

    /// The counters of `methods`, in their order.
    pub(super) fn methods(
        &self,
        methods: &[&Method],
    ) -> Result<Vec<Arc<MethodMetrics>>, StackError> {
        let mut known = lock(&self.methods);
        let mut counted = Vec::with_capacity(methods.len());
        for method in methods {
            if !known.contains_key(&method.path) {
                let registered = Arc::new(self.metrics.method(&method.path)?);
                known.insert(method.path.clone(), registered);
            }
            counted.push(Arc::clone(&known[&method.path]));
        }
        Ok(counted)
    }

    fn ghosts(&self) -> u64 {
        let methods = lock(&self.methods);
        methods.values().map(|method| method.ghosts()).sum()
    }
}

/// The methods that batch, in the policy's order.
pub(super) fn enforced(policy: &Policy) -> Vec<&Method> {
    let methods = policy.methods.iter();
    methods
        .filter(|method| method.mode == Mode::Enforce)
        .collect()
}

pub(super) fn router(methods: &[&Method]) -> Router {
    let methods = methods.iter().enumerate();
    Router::new(methods.map(|(index, method)| (&*method.path, index)))
}

pub(super) fn call_rules(policy: &Policy, counted: &[Arc<MethodMetrics>]) -> CallRules {
    let rules = enforced(policy)
        .into_iter()
        .zip(counted)
        .map(|(method, metrics)| MethodRules {
            window: method.window,
            queue: method.queue,
            timeout: policy.batch_timeout,
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
