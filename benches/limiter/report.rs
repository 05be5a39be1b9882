//! How results are printed: a line of JSON, or a row of a table.

use serde::Serialize;

use super::{figures::Figures, goals::Case};

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
    pub(crate) case: Case,
}

/// One line of JSON.
pub(crate) fn json(line: &Line) -> String {
    serde_json::to_string(line).expect("plain figures")
}

pub(crate) fn heading() -> String {
    format!(
        "{:<14} {:<10} {:<10} {:>7} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>6} {:>7}",
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
        "jain",
        "probing"
    )
}

pub(crate) fn row(line: &Line) -> String {
    let f = &line.figures;
    let probing = f.probing_cost;
    let probing = probing.map_or(String::new(), |cost| format!("{:.2}%", cost * 100.0));
    format!(
        "{:<14} {:<10} {:<10} {:>7.3} {:>8.2} {:>7.2} {:>7.1} {:>7.1} {:>7.1} {:>7.2} {:>7.0} {:>6.3} {probing:>7}",
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
