//! Which calls may share a batch, and what is counted of them.

use std::{
    hash::{Hash, Hasher},
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::uri::Authority;

use crate::{
    batch::{
        Answering, Coalesce, Crowd, QueueSettings, Sealing, ShedReason, Weight, WindowSettings,
    },
    telemetry::MethodMetrics,
    upstream::{Call, Identity},
};

/// Calls of one method, one Raft group, one caller's credentials and equal
/// other fields.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Partition {
    method: usize,
    group: u32,
    /// The canonical bytes of the identity, if there is one.
    identity: Option<Bytes>,
    /// To whom its calls are addressed, where the upstream is told.
    host: Option<Host>,
    /// The message's top-level fields other than its entries; `None` for no
    /// bytes, since to compare those costs more than to compare many.
    other: Option<Bytes>,
    /// Stands for all partitions past the bound, whose entries go alone.
    beyond: bool,
}

impl Partition {
    /// The partition of a call of `method`, of this caller, with these other
    /// fields.
    pub(super) fn of(
        method: usize,
        group: u32,
        identity: Option<&Identity>,
        host: Option<Authority>,
        other: Bytes,
    ) -> Self {
        Self {
            method,
            group,
            identity: identity.map(|identity| identity.key.clone()),
            host: host.map(Host),
            other: (!other.is_empty()).then_some(other),
            beyond: false,
        }
    }

    /// The index of its method.
    pub(super) const fn method(&self) -> usize {
        self.method
    }
}

/// A host as it was written: to compare it byte by byte costs less, and who
/// writes it in another way is in another partition, which does no harm.
#[derive(Clone, Debug)]
struct Host(Authority);

impl PartialEq for Host {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Host {}

impl Hash for Host {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_str().hash(state);
    }
}

/// What the windows know of a batched method.
#[derive(Clone, Debug)]
pub struct MethodRules {
    /// Bounds of its windows.
    pub window: WindowSettings,
    /// Bounds of what waits for them.
    pub queue: QueueSettings,
    /// Whether the upstream refuses a batch that has a key twice.
    pub distinct: bool,
    /// How long its batches may take.
    pub timeout: Duration,
    /// Most partitions that may wait at once.
    pub max_partitions: usize,
    /// Where its entries are counted.
    pub metrics: Arc<MethodMetrics>,
}

/// The rules of a policy's methods, in its order.
#[derive(Clone, Debug)]
pub struct CallRules(pub Vec<MethodRules>);

impl Coalesce<Call> for CallRules {
    type Partition = Partition;

    fn partition(&self, call: &Call) -> Partition {
        let other = call.piece.partition().clone();
        let (identity, host) = (call.identity.as_deref(), call.authority.clone());
        Partition::of(call.method, call.group, identity, host, other)
    }

    fn weight(&self, call: &Call) -> Weight {
        Weight {
            entries: call.piece.entries(),
            bytes: call.piece.merged_len(),
        }
    }

    fn keys<'a>(&self, call: &'a Call) -> &'a [u64] {
        match self.0[call.method].distinct {
            true => call.piece.key_hashes(),
            false => &[],
        }
    }

    fn deadline(&self, call: &Call) -> Option<Instant> {
        call.deadline
    }

    fn window(&self, partition: &Partition) -> WindowSettings {
        let window = self.0[partition.method].window;
        match partition.beyond {
            true => WindowSettings {
                max_entries: NonZeroU32::MIN,
                ..window
            },
            false => window,
        }
    }

    fn crowd(&self, partition: &Partition) -> Option<Crowd<Partition>> {
        Some(Crowd {
            kind: partition.method,
            most: self.0[partition.method].max_partitions,
            beyond: Partition {
                method: partition.method,
                group: partition.group,
                identity: None,
                host: None,
                other: None,
                beyond: true,
            },
        })
    }

    fn crowded(&self, partition: &Partition, entries: u32) {
        let metrics = &self.0[partition.method].metrics;
        metrics.on_alone("partitions", entries);
    }

    fn queue(&self, partition: &Partition) -> QueueSettings {
        self.0[partition.method].queue
    }

    fn timeout(&self, partition: &Partition) -> Option<Duration> {
        Some(self.0[partition.method].timeout)
    }

    fn shed(&self, partition: &Partition, entries: u32, reason: ShedReason) {
        self.0[partition.method].metrics.on_shed(entries, reason);
    }

    fn sealed(&self, partition: &Partition, sealing: &Sealing<'_>) {
        self.0[partition.method].metrics.on_sealed(sealing);
    }

    fn answered(&self, partition: &Partition, answering: &Answering<'_>) {
        self.0[partition.method].metrics.on_answered(answering);
    }
}
