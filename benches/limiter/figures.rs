//! The figures of a run against its oracle.

use serde::Serialize;

use super::{
    oracle::{Best, Part},
    trace::{BIN, Trace},
};

/// The figures that a scenario's `hold` may name.
pub(crate) const FIGURES: [&str; 10] = [
    "throughput_ratio",
    "latency_ratio",
    "p99_ratio",
    "mean_limit",
    "oracle_limit",
    "seconds_below_95",
    "start_rtts",
    "jain",
    "ghosts",
    "probing_cost",
];

/// A bin below this part of the oracle's is lost.
const LOST: f64 = 0.95;
/// Batches in a row over which the start's throughput is taken.
const START_BATCHES: usize = 40;

/// One algorithm under one load with one seed; the mean over seeds likewise.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// Entries answered in time, over the oracle's.
    pub(crate) throughput_ratio: f64,
    /// Median time from sending a batch to its answer, over the oracle's.
    pub(crate) latency_ratio: f64,
    /// The callers' 99th percentile, over the oracle's.
    pub(crate) p99_ratio: f64,
    pub(crate) mean_limit: f64,
    pub(crate) oracle_limit: f64,
    /// Of the worst segment after a step, or of the whole if there is none.
    pub(crate) seconds_below_95: f64,
    /// From the beginning until 40 batches in a row came at 95 % of the
    /// oracle's pace, in medians of the oracle's latency.
    pub(crate) start_rtts: f64,
    /// The callers' 99th percentile under the oracle, milliseconds.
    pub(crate) oracle_p99_ms: f64,
    /// Jain's index over the sidecars: 1 is even.
    pub(crate) jain: f64,
    /// Entries sent although their caller had left.
    pub(crate) ghosts: f64,
    /// The part of the throughput that moving the limit costs, against not
    /// moving it from its mean (`probing.rs`); where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) probing_cost: Option<f64>,
}

impl Figures {
    /// Of one run, cut into `parts`, against the oracle's.
    pub(crate) fn new(
        trace: &Trace,
        parts: &[Part],
        oracle: &[Best],
        segments: &[(f64, f64)],
    ) -> Self {
        let total: f64 = segments.iter().map(|(from, to)| to - from).sum();
        let mut figures = Self {
            start_rtts: start_rtts(trace, &oracle[0].1),
            jain: jain(&trace.by_sidecar),
            ghosts: trace.ghosts as f64,
            ..Self::default()
        };
        let (mut done, mut best) = (0.0, 0.0);
        for (index, ((part, (limit, fixed)), (from, to))) in
            parts.iter().zip(oracle).zip(segments).enumerate()
        {
            let share = (to - from) / total;
            done += share * part.throughput;
            best += share * fixed.throughput;
            figures.latency_ratio += share * ratio(part.latency, fixed.latency);
            figures.p99_ratio += share * ratio(part.p99, fixed.p99);
            figures.oracle_p99_ms += share * fixed.p99 * 1e3;
            figures.mean_limit += share * part.mean_limit;
            figures.oracle_limit += share * f64::from(*limit);
            if index > 0 || segments.len() == 1 {
                let below = seconds_below(part, fixed);
                figures.seconds_below_95 = figures.seconds_below_95.max(below);
            }
        }
        figures.throughput_ratio = ratio(done, best);
        figures
    }

    pub(crate) fn mean(all: &[Self]) -> Self {
        let mean = |figure: fn(&Self) -> f64| {
            all.iter().map(figure).sum::<f64>() / all.len().max(1) as f64
        };
        Self {
            throughput_ratio: mean(|f| f.throughput_ratio),
            latency_ratio: mean(|f| f.latency_ratio),
            p99_ratio: mean(|f| f.p99_ratio),
            mean_limit: mean(|f| f.mean_limit),
            oracle_limit: mean(|f| f.oracle_limit),
            seconds_below_95: mean(|f| f.seconds_below_95),
            start_rtts: mean(|f| f.start_rtts),
            oracle_p99_ms: mean(|f| f.oracle_p99_ms),
            jain: mean(|f| f.jain),
            ghosts: mean(|f| f.ghosts),
            probing_cost: mean_known(all, |f| f.probing_cost),
        }
    }

    pub(crate) fn named(&self, name: &str) -> f64 {
        match name {
            "throughput_ratio" => self.throughput_ratio,
            "latency_ratio" => self.latency_ratio,
            "p99_ratio" => self.p99_ratio,
            "mean_limit" => self.mean_limit,
            "oracle_limit" => self.oracle_limit,
            "seconds_below_95" => self.seconds_below_95,
            "start_rtts" => self.start_rtts,
            "jain" => self.jain,
            "probing_cost" => self.probing_cost.unwrap_or_default(),
            _ => self.ghosts,
        }
    }
}

fn mean_known(all: &[Figures], figure: fn(&Figures) -> Option<f64>) -> Option<f64> {
    let known: Vec<f64> = all.iter().filter_map(figure).collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

fn ratio(value: f64, best: f64) -> f64 {
    if best > 0.0 { value / best } else { 0.0 }
}

/// A bin is lost if it is below both what the oracle did in it and what the
/// oracle does on the mean: neither one's luck counts against the rule.
fn seconds_below(part: &Part, oracle: &Part) -> f64 {
    let lost = part.bins.iter().zip(&oracle.bins);
    let lost = lost.filter(|(bin, best)| **bin < LOST * best.min(oracle.throughput));
    lost.count() as f64 * BIN
}

fn start_rtts(trace: &Trace, oracle: &Part) -> f64 {
    let answered = &trace.answered;
    let reached = answered.windows(START_BATCHES + 1).find(|row| {
        let (first, last) = (row[0].at, row[START_BATCHES].at);
        let entries: f64 = row[1..].iter().map(|a| f64::from(a.entries)).sum();
        entries >= LOST * oracle.throughput * (last - first)
    });
    let end = answered.last().map_or(0.0, |last| last.at);
    ratio(reached.map_or(end, |row| row[0].at), oracle.latency)
}

fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|x| x * x).sum();
    ratio(sum * sum, squares * shares.len() as f64)
}
