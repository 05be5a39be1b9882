//! What probing itself costs: the throughput that a rule loses because it
//! moves its limit, whatever it is worth to have moved it.
//!
//! The counterfactual is the same plant, load and seed under a limit that does
//! not move, held where the rule's limit is on the mean over time:
//!
//! ```text
//! cost = 1 − X_rule / X_fixed(mean limit)      dimensionless, after the warm-up
//! ```
//!
//! Where the mean lies between two whole limits, X_fixed lies as far between
//! what the two of them carry. A limit that is too low or too high on the mean
//! is another fault, and shows in the throughput or the latency. The cost can
//! be told only where nothing else makes a rule move: under a closed load of
//! one sidecar, on plants without steps, stalls and outages.

use super::{memory::Fixed, oracle::Part, scenario::Scenario, sim::Setup, trace::Trace};

/// Whether the cost can be told.
pub(crate) fn is_told(scenario: &Scenario, setup: &Setup<'_>) -> bool {
    let plant = &scenario.plant;
    let still = plant.steps.is_empty() && plant.stall.is_none() && plant.outage.is_none();
    setup.load.is_closed() && still && scenario.sidecars == 1
}

/// The cost of a run, whose only segment `own` is.
pub(crate) fn cost(
    trace: &Trace,
    segment: (f64, f64),
    own: &Part,
    fixed: &mut Fixed<'_>,
    run: impl Fn(u32) -> Vec<Part>,
) -> f64 {
    let mean = mean_limit(trace, segment).max(1.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let (below, above) = (mean.floor() as u32, mean.ceil() as u32);
    let mut carried = |limit| fixed.parts(limit, || run(limit))[0].throughput;
    let (low, high) = (carried(below), carried(above));
    let held = (mean - mean.floor()).mul_add(high - low, low);
    match held > 0.0 {
        true => 1.0 - own.throughput / held,
        false => 0.0,
    }
}

/// Over time, not over batches: a low limit answers fewer of them.
fn mean_limit(trace: &Trace, (from, to): (f64, f64)) -> f64 {
    let first = trace.answered.partition_point(|a| a.at < from);
    let last = trace.answered.partition_point(|a| a.at < to);
    let (mut area, mut time) = (0.0, 0.0);
    for pair in trace.answered[first..last].windows(2) {
        let gap = pair[1].at - pair[0].at;
        area += gap * f64::from(pair[0].limit);
        time += gap;
    }
    if time > 0.0 { area / time } else { 0.0 }
}
