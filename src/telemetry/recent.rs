//! The batches that an operator asks about: those that failed and those that
//! took long, with where the time went. Bounded in number, kept in memory, and
//! untouched by a batch that was neither: only such a one takes the lock.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::batch::{self, Answering};

/// A batch that took longer is slow, until a policy says otherwise.
const SLOW: Duration = Duration::from_millis(500);
/// How many are kept; the oldest go first.
const KEEP: usize = 128;
/// At most one line a second is logged, or a slow disk would fill itself.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// One slow or failed batch.
#[derive(Clone, Debug, Serialize)]
pub struct RecentBatch {
    /// When its answers went out, in seconds before it was asked for.
    pub seconds_ago: f64,
    /// Its method's path.
    pub method: String,
    /// Entries it held.
    pub entries: u32,
    /// `committed`, or `failed` where any of its callers was told an error.
    pub outcome: &'static str,
    /// Where its time went.
    pub seconds: Stages,
}

/// Where a batch's time went, in seconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Stages {
    /// From its first entry's arrival until its window was due.
    pub queue: f64,
    /// From then to its sealing.
    pub permit: f64,
    /// From its sealing until its bytes were merged and handed over.
    pub wire: f64,
    /// From then to the answer.
    pub upstream: f64,
    /// From the answer until every caller had its own.
    pub reply: f64,
}

impl From<batch::Stages> for Stages {
    fn from(stages: batch::Stages) -> Self {
        Self {
            queue: stages.queue.as_secs_f64(),
            permit: stages.permit.as_secs_f64(),
            wire: stages.wire.as_secs_f64(),
            upstream: stages.upstream.as_secs_f64(),
            reply: stages.reply.as_secs_f64(),
        }
    }
}

/// The ring of them, common to all methods.
#[derive(Debug)]
pub struct Recent {
    started: Instant,
    ring: Mutex<VecDeque<(Instant, RecentBatch)>>,
    /// When the last line was logged, in milliseconds after `started`, plus 1.
    logged: AtomicU64,
    /// Nanoseconds after which a batch is slow.
    slow: AtomicU64,
}

impl Recent {
    /// An empty ring; `now` is any instant before the first batch.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            ring: Mutex::default(),
            logged: AtomicU64::new(0),
            slow: AtomicU64::new(nanoseconds(SLOW)),
        }
    }

    /// From now on a batch is slow that takes longer than `bound`.
    pub fn slower_than(&self, bound: Duration) {
        self.slow.store(nanoseconds(bound), Ordering::Relaxed);
    }

    /// Keeps the batch if it failed or was slow.
    pub fn on_answered(&self, method: &str, answering: &Answering<'_>) {
        let oldest = answering.arrivals.iter().min().copied();
        let oldest = oldest.unwrap_or(answering.sent);
        let took = answering.now.saturating_duration_since(oldest);
        let succeeded = answering.committed == answering.entries;
        if succeeded && nanoseconds(took) < self.slow.load(Ordering::Relaxed) {
            return;
        }
        let batch = RecentBatch {
            seconds_ago: 0.0,
            method: method.to_owned(),
            entries: answering.entries,
            outcome: if succeeded { "committed" } else { "failed" },
            seconds: answering.stages().into(),
        };
        if self.may_log(answering.now) {
            tracing::warn!(
                method,
                entries = batch.entries,
                outcome = batch.outcome,
                queue_seconds = batch.seconds.queue,
                permit_seconds = batch.seconds.permit,
                wire_seconds = batch.seconds.wire,
                upstream_seconds = batch.seconds.upstream,
                reply_seconds = batch.seconds.reply,
                "a batch failed or was slow; GET /debug/recent lists the others"
            );
        }
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.len() == KEEP {
            ring.pop_front();
        }
        ring.push_back((answering.now, batch));
    }

    /// What is kept, the newest first.
    #[must_use]
    pub fn batches(&self, now: Instant) -> Vec<RecentBatch> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let aged = ring.iter().rev().map(|(at, batch)| RecentBatch {
            seconds_ago: now.saturating_duration_since(*at).as_secs_f64(),
            ..batch.clone()
        });
        aged.collect()
    }

    fn may_log(&self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.started).as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX - 1) + 1;
        let last = self.logged.load(Ordering::Relaxed);
        let due = last == 0 || since.saturating_sub(last) >= LOG_EVERY.as_millis() as u64;
        due && self
            .logged
            .compare_exchange(last, since, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(recent: &Recent, start: Instant, took: Duration, succeeded: bool) {
        recent.on_answered(
            "/a.B/C",
            &Answering {
                now: start + took,
                asked: start + took / 8,
                sent: start + took / 4,
                handed_over: Some(start + took / 2),
                answered: start + took * 3 / 4,
                arrivals: &[start],
                entries: 3,
                abandoned: 0,
                ghosts: 0,
                committed: if succeeded { 3 } else { 0 },
            },
        );
    }

    #[test]
    fn a_batch_that_was_neither_slow_nor_failed_leaves_no_trace() {
        let start = Instant::now();
        let recent = Recent::new(start);
        answered(&recent, start, Duration::from_millis(499), true);
        assert!(recent.batches(start).is_empty());
    }

    #[test]
    fn a_slow_or_failed_batch_tells_where_its_time_went_the_newest_first() {
        let start = Instant::now();
        let recent = Recent::new(start);
        answered(&recent, start, Duration::from_secs(4), true);
        answered(&recent, start, Duration::from_millis(8), false);
        let told = recent.batches(start + Duration::from_secs(5));
        let outcomes: Vec<_> = told.iter().map(|batch| batch.outcome).collect();
        assert_eq!(outcomes, ["failed", "committed"]);
        assert_eq!(told[1].seconds_ago, 1.0);
        let slow = told[1].seconds;
        assert_eq!((slow.queue, slow.permit, slow.wire), (0.5, 0.5, 1.0));
        assert_eq!((slow.upstream, slow.reply), (1.0, 1.0));
    }

    #[test]
    fn what_is_slow_is_for_the_policy_to_say() {
        let start = Instant::now();
        let recent = Recent::new(start);
        recent.slower_than(Duration::from_millis(20));
        answered(&recent, start, Duration::from_millis(19), true);
        answered(&recent, start, Duration::from_millis(21), true);
        assert_eq!(recent.batches(start).len(), 1);
    }

    #[test]
    fn however_many_fail_the_list_stays_bounded_and_so_does_the_log() {
        let start = Instant::now();
        let recent = Recent::new(start);
        for _ in 0..10 * KEEP {
            answered(&recent, start, Duration::from_millis(1), false);
        }
        assert_eq!(recent.batches(start).len(), KEEP);
        assert!(!recent.may_log(start + Duration::from_millis(900)));
        assert!(recent.may_log(start + Duration::from_millis(1001)));
        assert!(!recent.may_log(start + Duration::from_millis(1500)));
    }
}
