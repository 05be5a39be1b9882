//! Which batches calls would have made that were not batched. PURE: it keeps
//! a clock of its own, which its arguments move, and answers with data.
//!
//! The windows are those that batches leave by, bounds, keys, deadlines and
//! partitions included. What is modelled is the upstream: a batch is in flight
//! for as long as one call takes lately (one Raft proposal costs a round trip,
//! whatever its size), and at once there may be as many as a fixed limit says,
//! or any number where the limit would be found while running. Then a window
//! never waits for a permit, so under a load at which a real one would, real
//! batches are larger. Callers are taken to wait for their answers.
//!
//! Time is caught up with when something arrives, moment by moment, so it
//! needs no timer and costs the calls that it looks at nothing.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fmt,
    hash::Hash,
    time::{Duration, Instant},
};

use super::{
    Weight,
    latency::{Latency, Outlook},
    pace::Pace,
    partitions::{Crowd, Partitions},
    window::{Caller, ClosedBy, Due, Flow, Held, Sealed, Window, WindowSettings, earlier},
};

/// One call as the shadow holds it: nothing of its bytes.
#[derive(Clone, Debug)]
pub struct Shadowed {
    /// What it would add to a batch.
    pub weight: Weight,
    /// When its caller stops waiting.
    pub deadline: Option<Instant>,
    /// The hashes of its keys, where a batch takes each once.
    pub keys: Box<[u64]>,
}

/// A batch that would have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShadowBatch {
    /// Calls that it would have had; may be none, where all had expired.
    pub calls: usize,
    /// Their entries.
    pub entries: u32,
    /// What would have closed its window.
    pub closed_by: ClosedBy,
    /// Calls that would have run out of time in the window.
    pub expired: usize,
}

/// What bounds the number of partitions, for one of them.
pub type CrowdOf<K> = Box<dyn Fn(&K) -> Option<Crowd<K>> + Send>;

/// What bounds the windows of a shadow, by partition.
pub struct ShadowRules<K> {
    /// The bounds of a partition's window.
    pub window: Box<dyn Fn(&K) -> WindowSettings + Send>,
    /// What bounds the number of partitions.
    pub crowd: CrowdOf<K>,
    /// Batches in flight at once, where that is fixed.
    pub limit: Option<usize>,
}

impl<K> fmt::Debug for ShadowRules<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShadowRules")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// The windows in which calls would have stood.
#[derive(Debug)]
pub struct Shadow<K> {
    rules: ShadowRules<K>,
    partitions: Partitions<K, Shadowed>,
    /// When each batch in flight ends, and its entries; the next one first.
    in_flight: BinaryHeap<Reverse<(Instant, u32)>>,
    latency: Latency,
    pace: Pace,
    last_sent: Option<Instant>,
    now: Instant,
    /// Nothing is due before.
    wake: Option<Instant>,
}

impl<K: Clone + Eq + Hash> Shadow<K> {
    /// Nothing has come yet, at `now`.
    #[must_use]
    pub fn new(rules: ShadowRules<K>, now: Instant) -> Self {
        Self {
            rules,
            partitions: Partitions::default(),
            in_flight: BinaryHeap::new(),
            latency: Latency::default(),
            pace: Pace::default(),
            last_sent: None,
            now,
            wake: None,
        }
    }

    /// A call was passed on that would have been an entry. Batches that would
    /// have left by `now` go to `left`; the answer is whether this call would
    /// have found no room for its partition and gone alone.
    pub fn arrived(
        &mut self,
        now: Instant,
        partition: K,
        call: Shadowed,
        left: &mut impl FnMut(&K, ShadowBatch),
    ) -> bool {
        self.advance(now, left);
        let owner = match self.partitions.window_mut(&partition) {
            Some(_) => (partition, false),
            None => {
                let rules = &self.rules;
                self.partitions.open(partition, &rules.crowd, &rules.window)
            }
        };
        let (owner, beyond) = owner;
        let flow = self.flow();
        let window = self.partitions.window_mut(&owner);
        let window = window.expect("it was found, or opened");
        window.push(Held {
            weight: call.weight,
            arrived: self.now,
            deadline: call.deadline,
            entry: call,
        });
        // Of the others nothing has changed.
        match window.due(self.now, &flow) {
            Due::Never => {}
            Due::At(at) => self.wake = earlier(self.wake, Some(at)),
            Due::Now(_) => self.settle(left),
        }
        beyond
    }

    /// A call that was passed on was answered so long after it was.
    pub fn answered(&mut self, latency: Duration) {
        self.latency.learn(latency);
    }

    /// Lets time pass until `now`.
    pub fn advance(&mut self, now: Instant, left: &mut impl FnMut(&K, ShadowBatch)) {
        while let Some(wake) = self.wake.filter(|wake| *wake <= now) {
            self.now = self.now.max(wake);
            while let Some(&Reverse((ends, entries))) = self.in_flight.peek() {
                if ends > self.now {
                    break;
                }
                self.in_flight.pop();
                let busy = !self.in_flight.is_empty();
                self.pace.finished(ends, entries, busy);
            }
            self.settle(left);
        }
        self.now = self.now.max(now);
    }

    /// Lets all leave that still waits.
    pub fn drain(&mut self, now: Instant, left: &mut impl FnMut(&K, ShadowBatch)) {
        self.advance(now, left);
        let now = self.now;
        for (owner, window) in self.partitions.iter_mut() {
            while !window.is_empty() {
                left(owner, seal(window, now, ClosedBy::Drain).0);
            }
        }
    }

    fn flow(&self) -> Flow {
        Flow {
            in_flight: u32::try_from(self.in_flight.len()).unwrap_or(u32::MAX),
            last_sent: self.last_sent,
            spacing: self.pace.spacing(),
            draining: false,
        }
    }

    /// Sends whatever is due, oldest first, and finds when the next look is.
    fn settle(&mut self, left: &mut impl FnMut(&K, ShadowBatch)) {
        loop {
            let flow = self.flow();
            let may = (self.rules.limit).is_none_or(|limit| self.in_flight.len() < limit);
            let mut wake = self.in_flight.peek().map(|Reverse((ends, _))| *ends);
            let mut due: Option<(Instant, &K, &mut Window<Shadowed>, ClosedBy)> = None;
            for (owner, window) in self.partitions.iter_mut() {
                let oldest = window.oldest();
                match (window.due(self.now, &flow), oldest) {
                    (Due::At(at), _) => wake = earlier(wake, Some(at)),
                    (Due::Now(why), Some(oldest))
                        if may && due.as_ref().is_none_or(|(first, ..)| oldest < *first) =>
                    {
                        due = Some((oldest, owner, window, why));
                    }
                    // It waits for the end of a batch, which wakes it.
                    _ => {}
                }
            }
            let Some((_, owner, window, why)) = due else {
                self.wake = wake;
                return;
            };
            let (batch, taken) = seal(window, self.now, why);
            left(owner, batch);
            if taken {
                self.partitions.taken();
            }
            if batch.calls > 0 {
                if self.in_flight.is_empty() {
                    self.pace.started(self.now);
                }
                let ends = self.now + self.latency.mean();
                self.in_flight.push(Reverse((ends, batch.entries)));
                self.last_sent = Some(self.now);
            }
        }
    }
}

/// What leaves `window` now, and whether that is anything at all.
fn seal(window: &mut Window<Shadowed>, now: Instant, closed_by: ClosedBy) -> (ShadowBatch, bool) {
    let waits = |_: &Shadowed| Caller::Waiting;
    let Sealed {
        entries,
        count,
        expired,
        doomed,
        ..
    } = window.seal_for(now, &Outlook::default(), waits, |call| &call.keys);
    let expired = expired.len() + doomed.len();
    let batch = ShadowBatch {
        calls: entries.len(),
        entries: count,
        closed_by,
        expired,
    };
    (batch, batch.calls + expired > 0)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::batch::Close;

    const MS: Duration = Duration::from_millis(1);
    const BEYOND: u32 = u32::MAX;

    fn shadow(start: Instant, limit: Option<usize>) -> Shadow<u32> {
        let window = |partition: &u32| WindowSettings {
            max_entries: NonZeroU32::new(if *partition == BEYOND { 1 } else { 4 }).unwrap(),
            max_bytes: 1 << 20,
            linger: 2 * MS,
            close: Close::Adaptive,
        };
        let crowd = |_: &u32| {
            Some(Crowd {
                kind: 0,
                most: 2,
                beyond: BEYOND,
            })
        };
        let rules = ShadowRules {
            window: Box::new(window),
            crowd: Box::new(crowd),
            limit,
        };
        Shadow::new(rules, start)
    }

    fn one(keys: &[u64]) -> Shadowed {
        Shadowed {
            weight: Weight {
                entries: 1,
                overhead: 0,
                bytes: 10,
            },
            deadline: None,
            keys: keys.into(),
        }
    }

    /// The batches that calls at these times (µs) and of these partitions
    /// would have made, each as its calls and what closed its window.
    fn batches(limit: Option<usize>, latency: Duration, calls: &[(u64, u32)]) -> Vec<(u32, usize)> {
        let start = Instant::now();
        let mut shadow = shadow(start, limit);
        shadow.answered(latency);
        let mut sent = Vec::new();
        let mut left = |partition: &u32, batch: ShadowBatch| sent.push((*partition, batch.calls));
        for (micros, partition) in calls {
            let at = start + Duration::from_micros(*micros);
            shadow.arrived(at, *partition, one(&[]), &mut left);
        }
        shadow.advance(start + Duration::from_secs(3_600), &mut left);
        sent
    }

    #[test]
    fn calls_that_come_one_after_the_other_would_share_no_batch() {
        let calls: Vec<_> = (0..10).map(|n| (n * 20_000, 7)).collect();
        let sent = batches(None, 3 * MS, &calls);
        assert_eq!(sent, [(7, 1); 10]);
    }

    #[test]
    fn calls_that_come_while_one_is_in_flight_would_share_the_next_batch() {
        // The first finds an idle upstream; three gather for the linger.
        let sent = batches(None, 5 * MS, &[(0, 7), (100, 7), (200, 7), (2_000, 7)]);
        assert_eq!(sent, [(7, 1), (7, 3)]);
        // Of five, four fill a window at once.
        let calls = [(0, 7), (10, 7), (20, 7), (30, 7), (40, 7), (50, 7)];
        assert_eq!(batches(None, 5 * MS, &calls), [(7, 1), (7, 4), (7, 1)]);
    }

    #[test]
    fn calls_of_different_partitions_would_never_share_a_batch() {
        let calls = [(0, 7), (10, 8), (20, 7), (30, 8)];
        let sent = batches(None, 5 * MS, &calls);
        assert_eq!(sent, [(7, 1), (8, 2), (7, 1)]);
    }

    #[test]
    fn under_a_fixed_limit_what_is_due_waits_for_the_batch_before_it() {
        let calls: Vec<_> = (0..9).map(|n| (n * 1_000, 7)).collect();
        // In flight until 20 ms: all the others wait, four a batch.
        let sent = batches(Some(1), 20 * MS, &calls);
        assert_eq!(sent, [(7, 1), (7, 4), (7, 4)]);
    }

    #[test]
    fn two_calls_of_one_key_would_never_share_a_batch() {
        let start = Instant::now();
        let mut shadow = shadow(start, None);
        shadow.answered(5 * MS);
        let mut sent = Vec::new();
        let mut left = |_: &u32, batch: ShadowBatch| sent.push(batch.calls);
        for key in [1, 2, 2, 3] {
            shadow.arrived(start, 7, one(&[key]), &mut left);
        }
        shadow.drain(start, &mut left);
        assert_eq!(sent, [1, 2, 1], "the second of key 2 comes by itself");
    }

    #[test]
    fn past_the_bound_of_partitions_a_call_would_have_gone_alone() {
        let start = Instant::now();
        let mut shadow = shadow(start, None);
        shadow.answered(5 * MS);
        let mut sent = Vec::new();
        let mut left = |of: &u32, batch: ShadowBatch| sent.push((*of, batch.calls));
        let beyond: Vec<_> = (0..4)
            .map(|partition| shadow.arrived(start, partition, one(&[]), &mut left))
            .collect();
        // The window of 0 is empty by then, and makes room for 2.
        assert_eq!(beyond, [false, false, false, true]);
        shadow.drain(start, &mut left);
        assert_eq!(sent, [(0, 1), (BEYOND, 1), (1, 1), (2, 1)]);
    }

    #[test]
    fn a_call_leaves_well_before_its_deadline() {
        let start = Instant::now();
        let mut shadow = shadow(start, None);
        shadow.answered(500 * MS);
        let mut sent = Vec::new();
        let mut left = |_: &u32, batch: ShadowBatch| sent.push(batch.closed_by);
        shadow.arrived(start, 7, one(&[]), &mut left);
        let hasty = Shadowed {
            deadline: Some(start + 4 * MS),
            ..one(&[])
        };
        shadow.arrived(start, 7, hasty, &mut left);
        shadow.advance(start + MS, &mut left);
        assert_eq!(sent, [ClosedBy::Ready, ClosedBy::Deadline]);
    }

    #[test]
    fn every_call_would_have_left_exactly_once() {
        let start = Instant::now();
        for seed in 0..50_u64 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut shadow = shadow(start, (seed % 3 == 0).then_some(1));
            let (mut at, mut gone) = (start, 0);
            let mut left = |_: &u32, batch: ShadowBatch| {
                assert!(batch.calls <= 4, "seed {seed}: {batch:?}");
                gone += batch.calls + batch.expired;
            };
            for _ in 0..500 {
                at += Duration::from_micros(random.u64(0..1_500));
                shadow.answered(Duration::from_micros(random.u64(0..9_000)));
                let call = Shadowed {
                    deadline: random.bool().then(|| at + random.u32(0..5) * MS),
                    ..one(&[random.u64(0..4)])
                };
                shadow.arrived(at, random.u32(0..4), call, &mut left);
            }
            shadow.drain(at, &mut left);
            assert_eq!(gone, 500, "seed {seed}");
        }
    }
}
