//! What observed methods would have done, had their policy been in force: as
//! metrics, and read back for the log and for `/plan`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
};

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts,
    core::{Collector as _, Metric as _},
};
use serde::Serialize;

use super::{
    metrics::{Metrics, closed_by_name, sizes},
    names,
};
use crate::batch::ShadowBatch;

/// Most characters of a refusal that are kept.
const REFUSAL: usize = 200;

/// Everything that is counted of one observed method.
#[derive(Debug)]
pub struct ObservedMetrics {
    path: String,
    calls: IntCounterVec,
    alone: IntCounterVec,
    batches: IntCounterVec,
    batch_entries: Histogram,
    saved: IntCounter,
    refusal: Mutex<Option<String>>,
}

/// What was counted so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ObservedCounts {
    /// Calls by what would have become of them.
    pub calls: BTreeMap<String, u64>,
    /// Entries that would have gone alone, by reason.
    pub alone: BTreeMap<String, u64>,
    /// Batches that would have left, by what would have closed their windows.
    pub batches: BTreeMap<String, u64>,
    /// Calls that the upstream would not have got.
    pub calls_saved: u64,
    /// Entries of those batches.
    pub entries: u64,
    /// Batches by their size, each size the most entries of its row.
    pub sizes: Vec<(u64, u64)>,
    /// What the last call would have been told that the door would have
    /// refused.
    pub last_refusal: Option<String>,
}

impl Metrics {
    /// The handles of an observed method; `path` is its label.
    ///
    /// # Errors
    /// If this registry already has the method.
    pub fn observed(&self, path: &str) -> prometheus::Result<ObservedMetrics> {
        let opts = |name, help: &str| Opts::new(name, help).const_label("method", path);
        let vec = |name, help: &str, label: &str| {
            self.keep(IntCounterVec::new(opts(name, help), &[label])?)
        };
        let calls = vec(
            names::OBSERVED_CALLS,
            "Calls of observed methods, by what would have become of them.",
            "verdict",
        )?;
        // Series that are there from the start, so that their first rise shows.
        for verdict in [BATCHED, ALONE, REFUSED, EXPIRED, UNSEEN] {
            calls.with_label_values(&[verdict]);
        }
        let sized = HistogramOpts::new(
            names::OBSERVED_BATCH_ENTRIES,
            "Entries a batch that would have left.",
        );
        let sized = sized.const_label("method", path).buckets(sizes(1.0)?);
        Ok(ObservedMetrics {
            path: path.to_owned(),
            calls,
            alone: vec(
                names::OBSERVED_ALONE,
                "Entries of observed methods that would have gone alone, by reason.",
                "reason",
            )?,
            batches: vec(
                names::OBSERVED_BATCHES,
                "Batches that would have left, by what would have closed their window.",
                "closed_by",
            )?,
            batch_entries: self.keep(Histogram::with_opts(sized)?)?,
            saved: self.keep(IntCounter::with_opts(opts(
                names::OBSERVED_CALLS_SAVED,
                "Calls that the upstream would not have got, since they would have been batched.",
            ))?)?,
            refusal: Mutex::default(),
        })
    }
}

const BATCHED: &str = "batched";
const ALONE: &str = "alone";
const REFUSED: &str = "refused";
const EXPIRED: &str = "expired";
const UNSEEN: &str = "unseen";

impl ObservedMetrics {
    /// The method's path.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    fn on_calls(&self, verdict: &str, calls: usize) {
        let counted = self.calls.with_label_values(&[verdict]);
        counted.inc_by(calls as u64);
    }

    /// A call would have gone alone, for a reason.
    pub fn on_alone(&self, reason: &str, entries: u32) {
        self.on_calls(ALONE, 1);
        self.on_entries_alone(reason, entries);
    }

    /// A call would have found no room for its partition: it would have
    /// been a batch by itself.
    pub fn on_crowded(&self, entries: u32) {
        self.on_entries_alone("partitions", entries);
    }

    fn on_entries_alone(&self, reason: &str, entries: u32) {
        let alone = self.alone.with_label_values(&[reason]);
        alone.inc_by(u64::from(entries));
    }

    /// A call would have been refused at the door, in these words.
    pub fn on_refused(&self, why: &str) {
        self.on_calls(REFUSED, 1);
        let why = why.chars().take(REFUSAL).collect();
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// A call was not looked at to its end.
    pub fn on_unseen(&self) {
        self.on_calls(UNSEEN, 1);
    }

    /// A batch would have left.
    pub fn on_batch(&self, batch: &ShadowBatch) {
        self.on_calls(EXPIRED, batch.expired);
        if batch.calls == 0 {
            return;
        }
        self.on_calls(BATCHED, batch.calls);
        let closed_by = closed_by_name(batch.closed_by);
        self.batches.with_label_values(&[closed_by]).inc();
        self.batch_entries.observe(f64::from(batch.entries));
        self.saved.inc_by(batch.calls as u64 - 1);
    }

    /// All of it, read back.
    #[must_use]
    pub fn counts(&self) -> ObservedCounts {
        let sized = self.batch_entries.metric();
        let sized = sized.get_histogram();
        let mut below = 0;
        let mut sizes = Vec::new();
        for bucket in sized.get_bucket() {
            let so_far = bucket.cumulative_count();
            if so_far > below {
                sizes.push((bucket.upper_bound() as u64, so_far - below));
            }
            below = so_far;
        }
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        ObservedCounts {
            calls: by_label(&self.calls),
            alone: by_label(&self.alone),
            batches: by_label(&self.batches),
            calls_saved: self.saved.get(),
            entries: sized.get_sample_sum() as u64,
            sizes,
            last_refusal: refusal.clone(),
        }
    }
}

/// A vector's counters by the value of the label that it is a vector of.
pub(super) fn by_label(counted: &IntCounterVec) -> BTreeMap<String, u64> {
    let families = counted.collect();
    let metrics = families.iter().flat_map(|family| family.get_metric());
    let counts = metrics.filter_map(|metric| {
        let label = metric.get_label().iter().find(|l| l.name() != "method")?;
        let count = counted.with_label_values(&[label.value()]).get();
        Some((label.value().to_owned(), count))
    });
    counts.filter(|(_, count)| *count > 0).collect()
}

impl ObservedCounts {
    /// In a line, what was seen since `before`; `None` where nothing was.
    #[must_use]
    pub fn since(&self, before: &Self) -> Option<String> {
        let less = |now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            let rest = now.iter().map(|(label, count)| {
                let before = before.get(label).copied().unwrap_or_default();
                (label.clone(), count.saturating_sub(before))
            });
            rest.filter(|(_, count)| *count > 0).collect()
        };
        let seen = Self {
            calls: less(&self.calls, &before.calls),
            alone: less(&self.alone, &before.alone),
            batches: less(&self.batches, &before.batches),
            calls_saved: self.calls_saved - before.calls_saved,
            entries: self.entries - before.entries,
            ..Self::default()
        };
        (!seen.calls.is_empty()).then(|| seen.line())
    }

    /// All of it in a line.
    #[must_use]
    pub fn line(&self) -> String {
        let calls: u64 = self.calls.values().sum();
        let of = |verdict: &str| self.calls.get(verdict).copied().unwrap_or_default();
        let batches: u64 = self.batches.values().sum();
        let mut line = format!("{calls} calls");
        let mut add = |what: std::fmt::Arguments<'_>| {
            line.write_fmt(what)
                .expect("a String takes all that is written");
        };
        if batches > 0 {
            add(format_args!(
                ": {} would have left as {batches} batches of {:.1} entries in the mean, {} \
                 upstream calls saved",
                of(BATCHED),
                self.entries as f64 / batches as f64,
                self.calls_saved
            ));
        }
        if of(ALONE) > 0 {
            add(format_args!("; {} would have gone alone", of(ALONE)));
        }
        if !self.alone.is_empty() {
            let reasons = self.alone.iter();
            let reasons: Vec<_> = reasons.map(|(why, n)| format!("{why} {n}")).collect();
            add(format_args!(" (entries: {})", reasons.join(", ")));
        }
        for (verdict, what) in [
            (REFUSED, "would have been refused at the door"),
            (EXPIRED, "would have run out of time"),
            (UNSEEN, "were not looked at to their end"),
        ] {
            if of(verdict) > 0 {
                add(format_args!("; {} {what}", of(verdict)));
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::ClosedBy;

    fn batch(calls: usize, closed_by: ClosedBy) -> ShadowBatch {
        ShadowBatch {
            calls,
            entries: u32::try_from(calls).expect("a handful"),
            closed_by,
            expired: 0,
        }
    }

    #[test]
    fn what_was_observed_is_said_in_a_line_and_once() {
        let observed = Metrics::default().observed("/s.S/M").expect("it is new");
        let before = observed.counts();
        assert_eq!(before.since(&before), None, "nothing was seen");
        observed.on_batch(&batch(1, ClosedBy::Ready));
        observed.on_batch(&batch(9, ClosedBy::Linger));
        observed.on_alone("metadata", 3);
        observed.on_crowded(1);
        observed.on_refused("session: is empty");
        observed.on_unseen();
        let counts = observed.counts();
        let line = counts.since(&before).expect("calls were seen");
        assert_eq!(
            line,
            "13 calls: 10 would have left as 2 batches of 5.0 entries in the mean, 8 upstream \
             calls saved; 1 would have gone alone (entries: metadata 3, partitions 1); 1 would \
             have been refused at the door; 1 were not looked at to their end"
        );
        assert_eq!(counts.line(), line);
        assert_eq!(counts.sizes, [(1, 1), (16, 1)]);
        assert_eq!(counts.last_refusal.as_deref(), Some("session: is empty"));
        observed.on_batch(&batch(2, ClosedBy::Full));
        let later = observed.counts().since(&counts).expect("more was seen");
        assert!(
            later.starts_with("2 calls: 2 would have left as 1 batches"),
            "{later}"
        );
        assert_eq!(observed.counts().since(&observed.counts()), None);
    }
}
