//! Calls that are passed on untouched and looked at on the way: what the
//! policy would have made of each, had its method batched.
//!
//! The caller's frames go on as they come; what is kept of them are
//! references, up to the method's bound, until the last has come. Then the
//! message is judged as the door judges one, and what it would have been is
//! sent to the shadow's task, which models the windows. Where that task is
//! behind, a call goes unseen and is counted as such: nothing here waits.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::{
    arriving::Arriving,
    caller::{self, Caller, Lone},
    frame::HEADER,
    inflate::Encoding,
    judge::{self, Finding},
    partition::{CallRules, Partition},
};
use crate::{
    batch::{Coalesce as _, Shadow, ShadowBatch, ShadowRules, Shadowed, Weight},
    policy::MetadataRules,
    telemetry::ObservedMetrics,
    wire::{KeyUse, Plan},
};

/// Calls that the shadow's task may be behind.
const BEHIND: usize = 4_096;
/// Calls that it takes at once.
const AT_ONCE: usize = 256;
/// How often time passes for the shadow although nobody calls.
const CATCH_UP: Duration = Duration::from_secs(1);
/// How often the log says what was seen.
const REPORT: Duration = Duration::from_secs(60);

/// What is known of an observed method.
#[derive(Clone, Debug)]
pub struct ObservedMethod {
    /// How its messages would be scanned.
    pub plan: Arc<Plan>,
    /// Most bytes a message might have.
    pub max_message_bytes: usize,
    /// Where it is counted what would have become of its calls.
    pub metrics: Arc<ObservedMetrics>,
}

/// Looks at calls of observed methods.
#[derive(Debug)]
pub struct Observer {
    methods: Vec<ObservedMethod>,
    metadata: MetadataRules,
    shadow: mpsc::Sender<Seen>,
}

/// What the shadow is told.
#[derive(Debug)]
enum Seen {
    /// A call that would have stood in a window.
    Call(Instant, Partition, Shadowed),
    /// The upstream's head was there so long after the call was passed on.
    Answer(Duration),
}

impl Observer {
    /// Looks at calls of `methods`, whose windows would be as `rules` say, in
    /// the same order; `limit` is how many batches might be in flight, where
    /// that is fixed. A task models the windows until the observer is gone.
    #[must_use]
    pub fn start(
        methods: Vec<ObservedMethod>,
        rules: CallRules,
        metadata: MetadataRules,
        limit: Option<usize>,
    ) -> Arc<Self> {
        let (shadow, seen) = mpsc::channel(BEHIND);
        let metrics = methods.iter().map(|method| Arc::clone(&method.metrics));
        let metrics = metrics.collect();
        let (window, crowd) = (rules.clone(), rules);
        let rules = ShadowRules {
            window: Box::new(move |partition| window.window(partition)),
            crowd: Box::new(move |partition| crowd.crowd(partition)),
            limit,
        };
        tokio::spawn(watch(Shadow::new(rules, now()), seen, metrics));
        Arc::new(Self {
            methods,
            metadata,
            shadow,
        })
    }

    /// The call as it came, with an eye on its body.
    pub(super) fn look(
        self: &Arc<Self>,
        method: usize,
        request: Request<Arriving>,
    ) -> Request<Watched> {
        let grpc = caller::not_grpc(&request).is_none();
        let (head, body) = request.into_parts();
        let look = Look {
            observer: Arc::clone(self),
            method,
            grpc,
            protobuf: caller::is_protobuf(&head.headers),
            caller: caller::caller(&self.metadata, &head),
            deadline: caller::deadline(&head.headers),
            encoding: Encoding::of(&head.headers),
            kept: Kept::default(),
        };
        let look = Some(look);
        Request::from_parts(head, Watched { body, look })
    }

    /// A call was answered so long after it was passed on.
    pub(super) fn answered(&self, latency: Duration) {
        // One of many: the next will do.
        let _ = self.shadow.try_send(Seen::Answer(latency));
    }
}

/// What is known of a call on its way.
struct Look {
    observer: Arc<Observer>,
    method: usize,
    grpc: bool,
    protobuf: bool,
    /// Who it is, unless its metadata would have kept it alone.
    caller: Result<Caller, Lone>,
    deadline: Option<Instant>,
    encoding: Encoding,
    kept: Kept,
}

/// The bytes of a body, as far as they are of interest.
#[derive(Default)]
struct Kept {
    first: Bytes,
    joined: BytesMut,
}

impl Kept {
    fn len(&self) -> usize {
        self.first.len().max(self.joined.len())
    }

    fn keep(&mut self, bytes: &Bytes) {
        if self.first.is_empty() {
            self.first = bytes.clone();
            return;
        }
        if self.joined.is_empty() {
            self.joined.extend_from_slice(&self.first);
        }
        self.joined.extend_from_slice(bytes);
    }

    fn whole(self) -> Bytes {
        match self.joined.is_empty() {
            true => self.first,
            false => self.joined.freeze(),
        }
    }
}

impl Look {
    fn rules(&self) -> &ObservedMethod {
        &self.observer.methods[self.method]
    }

    /// Whether more than the method takes has come.
    fn is_too_large(&self) -> bool {
        self.kept.len() > HEADER + self.rules().max_message_bytes
    }

    fn came(&mut self, bytes: &Bytes) {
        if !self.is_too_large() {
            self.kept.keep(bytes);
        }
    }

    /// All of it has come.
    fn ended(mut self) {
        let kept = mem::take(&mut self.kept);
        let (rules, bytes) = (self.rules(), kept.len());
        let bound = rules.max_message_bytes;
        if !self.grpc {
            return rules.metrics.on_refused("not a gRPC call");
        }
        if !self.protobuf {
            return rules.metrics.on_alone(caller::ENCODING, 1);
        }
        if bytes > HEADER + bound {
            let status = super::status::too_large(bytes - HEADER, bound);
            return rules.metrics.on_refused(status.message());
        }
        let piece = match judge::judge(&rules.plan, bound, self.encoding, &kept.whole()) {
            Finding::Merge(piece) => piece,
            Finding::Alone(reason, _) => return rules.metrics.on_alone(reason, 1),
            Finding::Refused(status) => return rules.metrics.on_refused(status.message()),
        };
        let Ok(caller) = &self.caller else {
            return rules.metrics.on_alone("metadata", piece.entries());
        };
        let keys = match rules.plan.keys() {
            KeyUse::Distinct => piece.key_hashes().into(),
            KeyUse::Ignore | KeyUse::Note => Box::default(),
        };
        let call = Shadowed {
            weight: Weight {
                entries: piece.entries(),
                overhead: 0,
                bytes: piece.merged_len(),
            },
            deadline: self.deadline,
            keys,
        };
        // A copy, which does not hold the message.
        let other = Bytes::copy_from_slice(piece.partition());
        let (identity, host) = (caller.identity.as_deref(), caller.authority.clone());
        let partition = Partition::of(self.method, 0, identity, host, other);
        let seen = Seen::Call(now(), partition, call);
        if self.observer.shadow.try_send(seen).is_err() {
            rules.metrics.on_unseen();
        }
    }
}

/// A body on its way through, looked at.
pub(super) struct Watched {
    body: Arriving,
    look: Option<Look>,
}

impl Watched {
    fn at_the_end(&mut self) {
        if let Some(look) = self.look.take() {
            look.ended();
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Whoever passes it on need not ask again after its last frame.
        if self.body.is_end_stream() {
            self.at_the_end();
        } else if let Some(look) = &self.look {
            look.rules().metrics.on_unseen();
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(bytes), Some(look)) = (frame.data_ref(), &mut self.look) {
                    look.came(bytes);
                }
                if self.body.is_end_stream() {
                    self.at_the_end();
                }
            }
            Poll::Ready(None) => self.at_the_end(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Models the windows of what is seen, until nobody looks any more.
async fn watch(
    mut shadow: Shadow<Partition>,
    mut seen: mpsc::Receiver<Seen>,
    metrics: Vec<Arc<ObservedMetrics>>,
) {
    let mut left = |partition: &Partition, batch: ShadowBatch| {
        metrics[partition.method()].on_batch(&batch);
    };
    let mut reported: Vec<_> = metrics.iter().map(|method| method.counts()).collect();
    let mut report_at = tokio::time::Instant::now() + REPORT;
    let mut calls = Vec::with_capacity(AT_ONCE);
    loop {
        let taken = seen.recv_many(&mut calls, AT_ONCE);
        let taken = tokio::time::timeout(CATCH_UP, taken).await;
        for seen in calls.drain(..) {
            match seen {
                Seen::Answer(latency) => shadow.answered(latency),
                Seen::Call(at, partition, call) => {
                    let (method, entries) = (partition.method(), call.weight.entries);
                    if shadow.arrived(at, partition, call, &mut left) {
                        metrics[method].on_crowded(entries);
                    }
                }
            }
        }
        // Else calls that still wait to be seen would come too late.
        if taken.is_err() {
            shadow.advance(now(), &mut left);
        }
        let over = taken == Ok(0);
        if over {
            shadow.drain(now(), &mut left);
        }
        if over || report_at <= tokio::time::Instant::now() {
            report_at = tokio::time::Instant::now() + REPORT;
            for (method, reported) in metrics.iter().zip(&mut reported) {
                let counts = method.counts();
                if let Some(line) = counts.since(reported) {
                    tracing::info!("{}: observed: {line}", method.path());
                }
                *reported = counts;
            }
        }
        if over {
            return;
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
