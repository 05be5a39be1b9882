//! One caller's request inside a batch, the batch, and the rules a user gives.

use std::{
    hash::Hash,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tower::Service;

use super::{
    Callers, ClosedBy, Crowd, QueueSettings, ShedReason, Split, TraceContext, Weight,
    WindowSettings,
};
use crate::{limit::Load, reply::Reply};

/// A request and the way back to its caller.
#[derive(Debug)]
pub struct Entry<Req, K, P, E> {
    /// What the caller asked.
    pub request: Req,
    /// Whom it may share a batch with.
    pub partition: K,
    /// Its way back.
    pub reply: Reply<P, E>,
}

/// A closed window: what the service below gets.
///
/// A clone shares the requests, so that a batch can be sent again without
/// copying any of them.
#[derive(Debug)]
pub struct Batch<Req> {
    /// The requests, oldest first; never empty.
    pub requests: Arc<Vec<Req>>,
    /// Entries by weight (a request may hold several).
    pub entries: u32,
    /// Payload bytes.
    pub bytes: usize,
    /// Why it left.
    pub closed_by: ClosedBy,
    /// When the last of its callers stops waiting, or when it is given up;
    /// `None` if neither ever comes.
    pub deadline: Option<Instant>,
    /// Entries that still waited when this batch was sealed.
    pub backlog: u64,
    /// When its bytes were ready to go, for the upstream to say.
    pub handed_over: HandedOver,
    /// Its span, where it has one that is recorded.
    pub trace: Option<TraceContext>,
    /// Who of its callers still waits.
    pub callers: Callers,
}

/// When a batch's requests had been merged and handed over, if the service
/// that did so says it. Its clones share the answer.
#[derive(Clone, Debug, Default)]
pub struct HandedOver(Arc<Handed>);

#[derive(Debug, Default)]
struct Handed {
    first: OnceLock<Instant>,
    again: AtomicBool,
}

impl HandedOver {
    /// It was now, `at`; of several times the first counts.
    pub fn on(&self, at: Instant) {
        if self.0.first.set(at).is_err() {
            self.0.again.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was more than once: then the time to the answer is that of
    /// several sendings.
    pub(super) fn again(&self) -> bool {
        self.0.again.load(Ordering::Relaxed)
    }

    /// When it was.
    #[must_use]
    pub fn at(&self) -> Option<Instant> {
        self.0.first.get().copied()
    }
}

impl<Req> Clone for Batch<Req> {
    fn clone(&self) -> Self {
        Self {
            requests: Arc::clone(&self.requests),
            handed_over: self.handed_over.clone(),
            callers: self.callers.clone(),
            ..*self
        }
    }
}

impl<Req> Load for Batch<Req> {
    fn entries(&self) -> u32 {
        self.entries
    }

    fn backlog(&self) -> u64 {
        self.backlog
    }
}

/// Which requests may share a batch, and what they weigh: the rules a user of
/// [`BatchLayer`](super::BatchLayer) gives.
pub trait Coalesce<Req>: Send + Sync + 'static {
    /// Requests of one partition may share a batch; others never do.
    type Partition: Clone + Eq + Hash + Send + Sync + 'static;

    /// The partition of a request.
    fn partition(&self, request: &Req) -> Self::Partition;

    /// How many kinds of partitions there may be, each by a name. What waits is
    /// bounded by kind, over all whose kinds have that name: see
    /// [`BatchLayer::beside`](super::BatchLayer::beside).
    fn kinds(&self) -> Vec<String> {
        vec![String::new()]
    }

    /// The kind of a partition: its place in [`Coalesce::kinds`].
    fn kind(&self, _partition: &Self::Partition) -> usize {
        0
    }

    /// What a request adds to a batch.
    fn weight(&self, _request: &Req) -> Weight {
        Weight {
            entries: 1,
            overhead: 0,
            bytes: size_of::<Req>(),
        }
    }

    /// Hashes of the keys that may stand once in a batch; none where any may.
    /// A request one of whose keys the batch has waits for the next.
    fn keys<'a>(&self, _request: &'a Req) -> &'a [u64] {
        &[]
    }

    /// When the request's caller stops waiting.
    fn deadline(&self, _request: &Req) -> Option<Instant> {
        None
    }

    /// The bounds of a partition's window.
    fn window(&self, _partition: &Self::Partition) -> WindowSettings {
        WindowSettings::default()
    }

    /// The bounds of what partitions of this one's kind may leave waiting.
    fn queue(&self, _partition: &Self::Partition) -> QueueSettings {
        QueueSettings::default()
    }

    /// How long a batch may take, from sending it: then those of its callers
    /// that still wait are answered. `None` is for ever.
    fn timeout(&self, _partition: &Self::Partition) -> Option<Duration> {
        None
    }

    /// What bounds the number of partitions like this one; `None` where their
    /// number is bounded by itself.
    fn crowd(&self, _partition: &Self::Partition) -> Option<Crowd<Self::Partition>> {
        None
    }

    /// Told when an entry goes alone because there are too many partitions.
    fn crowded(&self, _partition: &Self::Partition, _entries: u32) {}

    /// Told when an entry is refused for load.
    fn shed(&self, _partition: &Self::Partition, _entries: u32, _reason: ShedReason) {}

    /// Told when a window is sealed, also where nothing was left to send.
    fn sealed(&self, _partition: &Self::Partition, _sealing: &Sealing<'_>) {}

    /// Told when a batch has been answered.
    fn answered(&self, _partition: &Self::Partition, _answering: &Answering<'_>) {}
}

/// What a sealing did.
#[derive(Debug)]
pub struct Sealing<'a> {
    /// When.
    pub now: Instant,
    /// Entries that leave.
    pub entries: u32,
    /// Their payload bytes.
    pub bytes: usize,
    /// Why the window was closed.
    pub closed_by: ClosedBy,
    /// When each request that leaves had arrived.
    pub arrivals: &'a [Instant],
    /// Requests that fell out because their caller had left.
    pub cancelled: usize,
    /// Requests that fell out because their deadline had passed.
    pub expired: usize,
}

/// What became of a batch.
#[derive(Debug)]
pub struct Answering<'a> {
    /// When its answers went out.
    pub now: Instant,
    /// When its window began to wait for the service below to be ready.
    pub asked: Instant,
    /// When it was sent.
    pub sent: Instant,
    /// When its bytes had been handed over, if the service below said so.
    pub handed_over: Option<Instant>,
    /// When the answer came, or was given up.
    pub answered: Instant,
    /// When each of its requests had arrived.
    pub arrivals: &'a [Instant],
    /// Entries it held.
    pub entries: u32,
    /// Requests whose caller had left by the time the answer came.
    pub abandoned: usize,
    /// Requests whose caller had left before the batch was handed over.
    pub ghosts: usize,
    /// Entries, by weight, that the upstream took.
    pub committed: u32,
}

/// Where the time of a batch went, one stage after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stages {
    /// From its first request's arrival until its window was due: for company.
    pub queue: Duration,
    /// From then to its sealing: for a permit.
    pub permit: Duration,
    /// From its sealing until its bytes were handed over: merging them.
    pub wire: Duration,
    /// From then until the answer came.
    pub upstream: Duration,
    /// From the answer until every caller had its own.
    pub reply: Duration,
}

impl Answering<'_> {
    /// Where its time went. What the service below did not say counts as its
    /// own.
    #[must_use]
    pub fn stages(&self) -> Stages {
        let oldest = self.arrivals.iter().min().copied().unwrap_or(self.asked);
        let handed_over = self.handed_over.unwrap_or(self.sent);
        // An answer that was given up may have been so before that.
        let handed_over = handed_over.min(self.answered);
        Stages {
            queue: self.asked.saturating_duration_since(oldest),
            permit: self.sent.saturating_duration_since(self.asked.max(oldest)),
            wire: handed_over.saturating_duration_since(self.sent),
            upstream: self.answered.saturating_duration_since(handed_over),
            reply: self.now.saturating_duration_since(self.answered),
        }
    }
}

/// What one caller gets of a service's answer.
pub type PartOf<S, Req> =
    <<S as Service<Batch<Req>>>::Response as Split<<S as Service<Batch<Req>>>::Error>>::Part;
