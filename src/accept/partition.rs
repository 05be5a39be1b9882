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
    /// Its path: what waits of it is counted by that.
    pub path: String,
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

    fn kinds(&self) -> Vec<String> {
        self.0.iter().map(|method| method.path.clone()).collect()
    }

    fn kind(&self, partition: &Partition) -> usize {
        partition.method
    }

    fn weight(&self, call: &Call) -> Weight {
        // The message stays as it came until its batch is written.
        let kept = call.piece.message().len();
        let bytes = call.piece.merged_len();
        Weight {
            entries: call.piece.entries(),
            overhead: u32::try_from(kept.saturating_sub(bytes)).unwrap_or(u32::MAX),
            bytes,
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
        let mut window = self.0[partition.method].window;
        // Every batch has them, whatever its entries; what sets its calls apart
        // and is not written counts too, which is little.
        let other = partition.other.as_ref().map_or(0, Bytes::len);
        window.max_bytes = window.max_bytes.saturating_sub(other).max(1);
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

#[cfg(test)]
pub(super) mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::{
        batch::{Caller, Held, Window},
        telemetry::Metrics,
        wire::{Field, KeyUse, Kind, Message, Plan, Require, Scan, Shape},
    };

    const KIB: usize = 1 << 10;

    /// Entries of bytes, which are their key, in field 1, and a field 2 that all
    /// of them share.
    pub(in crate::accept) fn plan() -> Plan {
        let field = |kind, repeated| Field {
            number: if repeated { 1 } else { 2 },
            name: "field".into(),
            kind,
            repeated,
            require: Require::Nothing,
            choice: None,
            max_len: None,
        };
        let message = |fields| Message {
            name: "test.Message".into(),
            fields,
        };
        let plan = Plan::new(Shape {
            messages: vec![
                message(vec![
                    field(Kind::Message(1), true),
                    field(Kind::Bytes, false),
                ]),
                message(vec![field(Kind::Bytes, false)]),
            ],
            batched_field: 1,
            entry_key: vec![2],
            keys: KeyUse::Note,
            ..Shape::default()
        });
        plan.expect("a plan of this test")
    }

    /// A call with one entry and so many other bytes.
    pub(in crate::accept) fn call(plan: &Plan, entry: usize, other: usize) -> Call {
        let record = |number: u8, value: Vec<u8>| {
            let length = u32::try_from(value.len()).expect("a test's message is small");
            // Four bytes of it, whatever its value.
            let length = [0, 7, 14, 21].map(|shift| (length >> shift & 0x7f) as u8 | 0x80);
            let [a, b, c, d] = length;
            [vec![number << 3 | 2, a, b, c, d & 0x7f], value].concat()
        };
        let entry = record(1, record(2, vec![7; entry]));
        let message = [entry, record(2, vec![9; other])].concat();
        let Ok(Scan::Merge(piece)) = plan.scan(&message.into()) else {
            panic!("it merges");
        };
        Call {
            method: 0,
            group: 0,
            piece,
            identity: None,
            authority: None,
            deadline: None,
            note: None,
            turn: None,
        }
    }

    pub(in crate::accept) fn rules(max_bytes: usize) -> CallRules {
        let metrics = Metrics::default().method("/test.Service/Call");
        CallRules(vec![MethodRules {
            path: "/test.Service/Call".to_owned(),
            window: WindowSettings {
                max_bytes,
                ..WindowSettings::default()
            },
            queue: QueueSettings::default(),
            distinct: false,
            timeout: Duration::from_secs(1),
            max_partitions: 10,
            metrics: Arc::new(metrics.expect("they are registered once")),
        }])
    }

    /// Bytes of the batches that so many calls leave in.
    fn sent(
        rules: &CallRules,
        plan: &Plan,
        calls: usize,
        entry: usize,
        other: usize,
    ) -> Vec<usize> {
        let calls: Vec<_> = (0..calls).map(|_| call(plan, entry, other)).collect();
        let now = Instant::now();
        let mut window = Window::new(rules.window(&rules.partition(&calls[0])));
        for call in calls {
            window.push(Held {
                weight: rules.weight(&call),
                entry: call,
                arrived: now,
                deadline: None,
            });
        }
        let mut sent = Vec::new();
        while !window.is_empty() {
            let sealed = window.seal(now, |_| Caller::Waiting);
            let mut bytes = BytesMut::new();
            plan.merge(
                sealed.entries.iter().map(|held| &held.entry.piece),
                &mut bytes,
            );
            sent.push(bytes.len());
        }
        sent
    }

    #[test]
    fn a_batch_has_no_more_bytes_than_its_window_with_what_its_calls_share() {
        let (rules, plan) = (rules(64 * KIB), plan());
        let sent = sent(&rules, &plan, 100, 2 * KIB, 48 * KIB);
        assert!(sent.iter().all(|bytes| *bytes <= 64 * KIB), "{sent:?}");
        assert!(sent.len() < 20, "{sent:?}: several a batch");
    }

    #[test]
    fn calls_that_share_more_than_a_window_may_hold_go_one_by_one() {
        let (rules, plan) = (rules(64 * KIB), plan());
        assert_eq!(sent(&rules, &plan, 5, KIB, 80 * KIB).len(), 5);
    }

    #[test]
    fn a_call_weighs_all_that_it_keeps_in_memory() {
        let (rules, plan) = (rules(64 * KIB), plan());
        let call = call(&plan, KIB, 48 * KIB);
        let weight = rules.weight(&call);
        let kept = weight.bytes + weight.overhead as usize;
        assert_eq!(kept, call.piece.message().len());
        assert!(weight.bytes < 2 * KIB, "of which its entry is sent");
    }
}
