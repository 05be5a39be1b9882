//! A run over time, as it is drawn: limit, throughput and latency in bins.

use super::{
    anchors,
    oracle::Best,
    sim::{self, Setup},
    trace::{Answered, BIN, Trace},
};

/// One rule's run. A bin in which nothing was answered has no latency.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Timeline {
    /// Batches, the mean over the time of a bin.
    pub(crate) limit: Vec<Option<f64>>,
    /// Entries a second.
    pub(crate) throughput: Vec<Option<f64>>,
    /// The median time from sending a batch to its answer, seconds.
    pub(crate) latency: Vec<Option<f64>>,
}

/// Of a rule by its name.
pub(crate) fn of_rule(setup: &Setup<'_>, rule: &str) -> Timeline {
    of(&sim::run(setup, || anchors::limiter(rule)), setup.seconds)
}

/// Of the oracle: in each segment, the run under the best limit for it; what
/// comes before the first one belongs to it.
pub(crate) fn of_oracle(setup: &Setup<'_>, segments: &[(f64, f64)], best: &[Best]) -> Timeline {
    let mut whole = Timeline::default();
    for ((_, to), (limit, _)) in segments.iter().zip(best) {
        let own = of(&sim::run(setup, || anchors::fixed(*limit)), setup.seconds);
        let (from, to) = (whole.limit.len(), bin(*to).min(own.limit.len()));
        whole.limit.extend_from_slice(&own.limit[from..to]);
        whole
            .throughput
            .extend_from_slice(&own.throughput[from..to]);
        whole.latency.extend_from_slice(&own.latency[from..to]);
    }
    whole
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn bin(at: f64) -> usize {
    (at / BIN) as usize
}

fn of(trace: &Trace, seconds: f64) -> Timeline {
    let mut timeline = Timeline::default();
    let mut rest = trace.answered.as_slice();
    let mut held = None;
    for number in 1..=bin(seconds) {
        let end = number as f64 * BIN;
        let (own, later) = rest.split_at(rest.partition_point(|a| a.at < end));
        rest = later;
        timeline.limit.push(mean_limit(own, end, &mut held));
        let entries: f64 = own.iter().map(|a| f64::from(a.entries)).sum();
        timeline.throughput.push(Some(entries / BIN));
        timeline.latency.push(median(own));
    }
    timeline
}

/// The mean over the time of a bin that ends at `end`; `held` is the limit
/// that was in force when it began, and then when it ends.
fn mean_limit(own: &[Answered], end: f64, held: &mut Option<u32>) -> Option<f64> {
    let mut at = end - BIN;
    let mut area = 0.0;
    for answered in own {
        let limit = held.replace(answered.limit).unwrap_or(answered.limit);
        area += (answered.at - at) * f64::from(limit);
        at = answered.at;
    }
    Some((end - at).mul_add(f64::from((*held)?), area) / BIN)
}

fn median(own: &[Answered]) -> Option<f64> {
    let mut rtts: Vec<f64> = own.iter().map(|a| a.rtt).collect();
    rtts.sort_unstable_by(f64::total_cmp);
    rtts.get(rtts.len() / 2).copied()
}

#[cfg(test)]
#[allow(dead_code, unused_imports)] // of no use to the bench, which has no harness
mod tests {
    use super::*;

    #[test]
    fn a_bin_holds_the_time_of_each_limit_and_a_silent_one_has_no_latency() {
        let answered = |at, rtt, limit| Answered {
            at,
            rtt,
            entries: 100,
            limit,
        };
        let trace = Trace {
            answered: vec![
                answered(0.05, 0.01, 2),
                answered(0.20, 0.03, 6),
                answered(0.60, 0.02, 4),
            ],
            ..Trace::default()
        };
        let timeline = of(&trace, 0.75);
        assert_eq!(timeline.throughput, [Some(800.0), Some(0.0), Some(400.0)]);
        assert_eq!(timeline.latency, [Some(0.03), None, Some(0.02)]);
        let limits: Vec<f64> = timeline.limit.into_iter().flatten().collect();
        // 2 for 0.2 s, then 6 until 0.6 s, then 4.
        for (limit, expected) in limits.iter().zip([2.8, 6.0, 4.8]) {
            assert!((limit - expected).abs() < 1e-9, "{limits:?}");
        }
    }
}
