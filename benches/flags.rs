//! The flags that every bench takes, so that `make bench BENCH_ARGS='…'` can
//! give the same ones to each of them.

use std::time::Duration;

use clap::Args;
use ferry::cli::{Output, bench::parse_duration};

/// How long, how often, and printed how.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Rounds; every figure is the median of them
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(3..=99))]
    pub(crate) rounds: u32,
    /// Length of one measurement; of the bytes alone, a tenth (units: ms, s, m)
    #[arg(long, default_value = "3s", value_parser = measurement)]
    pub(crate) duration: Measurement,
    /// How to print the report
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// The length of one measurement: neither too short to mean something nor
/// longer than anyone waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measurement(pub(crate) Duration);

pub(crate) fn measurement(text: &str) -> Result<Measurement, String> {
    let duration = parse_duration(text)?;
    match (Duration::from_millis(500)..=Duration::from_secs(60)).contains(&duration) {
        true => Ok(Measurement(duration)),
        false => Err("must be 500ms to 60s: 3s".into()),
    }
}

/// The middle of `values`, the mean of the two in the middle if their number
/// is even.
///
/// # Panics
/// If there is none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty(), "a median is of something");
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}
