//! The figures of a run against its oracle, and how they are printed.

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    load::{Kind, LoadShape},
    oracle::{Best, Part},
    scenario::Scenario,
    trace::{BIN, Trace},
};

/// The figures that a scenario's `hold` may name.
pub(crate) const FIGURES: [&str; 9] = [
    "throughput_ratio",
    "latency_ratio",
    "p99_ratio",
    "mean_limit",
    "oracle_limit",
    "seconds_below_95",
    "start_rtts",
    "jain",
    "ghosts",
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
            _ => self.ghosts,
        }
    }
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

/// One algorithm's answer to one load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) scenario: String,
    pub(crate) load: String,
    pub(crate) algorithm: &'static str,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    pub(crate) seeds: Vec<u64>,
    pub(crate) replay: String,
    #[serde(skip)]
    pub(crate) role: Role,
}

/// Which goals a load speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Saturated { steps: bool, fleet: bool },
    Open,
    Swing,
    Overload,
}

impl Role {
    pub(crate) fn of(scenario: &Scenario, load: &LoadShape) -> Self {
        match &load.kind {
            Kind::Closed(_) => Self::Saturated {
                steps: !scenario.plant.steps.is_empty(),
                fleet: scenario.sidecars > 1,
            },
            Kind::Open(open) if open.share > 1.0 => Self::Overload,
            Kind::Open(_) => Self::Open,
            Kind::Swing(_) => Self::Swing,
        }
    }
}

/// One line of JSON.
pub(crate) fn json(line: &Line) -> String {
    serde_json::to_string(line).expect("plain figures")
}

pub(crate) fn heading() -> String {
    format!(
        "{:<12} {:<10} {:<10} {:>7} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>6}",
        "plant",
        "load",
        "rule",
        "X/best",
        "rtt/best",
        "p99/bst",
        "p99 ms",
        "limit",
        "oracle",
        "s<95%",
        "start",
        "jain"
    )
}

pub(crate) fn row(line: &Line) -> String {
    let f = &line.figures;
    format!(
        "{:<12} {:<10} {:<10} {:>7.3} {:>8.2} {:>7.2} {:>7.1} {:>7.1} {:>7.1} {:>7.2} {:>7.0} {:>6.3}",
        line.scenario,
        line.load,
        line.algorithm,
        f.throughput_ratio,
        f.latency_ratio,
        f.p99_ratio,
        f.p99_ratio * f.oracle_p99_ms,
        f.mean_limit,
        f.oracle_limit,
        f.seconds_below_95,
        f.start_rtts,
        f.jain
    )
}

/// A row of the goals: what counts, and whether more of it is better.
struct Goal {
    name: &'static str,
    bound: f64,
    more: bool,
    figure: fn(&Figures) -> f64,
    counts: fn(Role) -> bool,
}

const GOALS: [Goal; 8] = [
    Goal {
        name: "throughput / oracle",
        bound: 0.98,
        more: true,
        figure: |f| f.throughput_ratio,
        counts: |role| matches!(role, Role::Saturated { .. } | Role::Overload),
    },
    Goal {
        name: "median plant latency / oracle",
        bound: 1.2,
        more: false,
        figure: |f| f.latency_ratio,
        counts: |role| matches!(role, Role::Saturated { .. }),
    },
    Goal {
        name: "open-loop p99 / oracle",
        bound: 1.2,
        more: false,
        figure: |f| f.p99_ratio,
        counts: |role| role == Role::Open,
    },
    Goal {
        name: "size-swing p99 / oracle",
        bound: 1.1,
        more: false,
        figure: |f| f.p99_ratio,
        counts: |role| role == Role::Swing,
    },
    Goal {
        name: "seconds below 95 % after a step",
        bound: 1.0,
        more: false,
        figure: |f| f.seconds_below_95,
        counts: |role| matches!(role, Role::Saturated { steps: true, .. }),
    },
    Goal {
        name: "start to 95 %, RTT",
        bound: 20.0,
        more: false,
        figure: |f| f.start_rtts,
        counts: |role| matches!(role, Role::Saturated { .. }),
    },
    Goal {
        name: "Jain fairness",
        bound: 0.98,
        more: true,
        figure: |f| f.jain,
        counts: |role| matches!(role, Role::Saturated { fleet: true, .. }),
    },
    Goal {
        name: "ghosts at 300 % load",
        bound: 0.0,
        more: false,
        figure: |f| f.ghosts,
        counts: |role| role == Role::Overload,
    },
];

/// The goals as a Markdown table: each rule's worst plant.
pub(crate) fn goals(lines: &[Line], algorithms: &[&'static str]) -> String {
    let mut table = String::from("| worst plant | goal |");
    for name in algorithms {
        let _ = write!(table, " {name} |");
    }
    table.push_str("\n|---|---|");
    table.push_str(&"---|".repeat(algorithms.len()));
    for goal in &GOALS {
        let sign = if goal.more { "≥" } else { "≤" };
        let _ = write!(table, "\n| {} | {sign} {} |", goal.name, goal.bound);
        for name in algorithms {
            let own = lines.iter().filter(|line| line.algorithm == *name);
            let counted = own.filter(|line| (goal.counts)(line.role));
            let worst = counted.max_by(|a, b| badness(goal, a).total_cmp(&badness(goal, b)));
            let Some(worst) = worst else {
                table.push_str(" not run |");
                continue;
            };
            let value = (goal.figure)(&worst.figures);
            let missed = match goal.more {
                true => value < goal.bound,
                false => value > goal.bound,
            };
            let mark = if missed { "" } else { " ✓" };
            let _ = write!(
                table,
                " {value:.3}{mark} ({} {}) |",
                worst.scenario, worst.load
            );
        }
    }
    table
}

fn badness(goal: &Goal, line: &Line) -> f64 {
    let value = (goal.figure)(&line.figures);
    if goal.more { -value } else { value }
}
