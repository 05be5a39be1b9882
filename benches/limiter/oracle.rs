//! What a run amounts to, and the oracle: the best fixed limit, swept.
//!
//! Under a closed load it is, for each segment, the smallest fixed limit that
//! carries 99 % of what the best one carries; in an open load, the one whose
//! callers' p99 is lowest. It knows the plant and the seed; no rule does.

use super::trace::{Answered, BIN, Trace};

/// A fixed limit carries as much as the best one from this part on.
const AS_GOOD: f64 = 0.99;
/// The first limits to try; the sweep then closes in between two of them.
const COARSE: [u32; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 256];

/// One segment of one run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    /// Entries a second.
    pub(crate) throughput: f64,
    /// Median rtt of a batch, seconds.
    pub(crate) latency: f64,
    /// The callers' 99th percentile, seconds.
    pub(crate) p99: f64,
    pub(crate) mean_limit: f64,
    /// Entries a second in each bin.
    pub(crate) bins: Vec<f64>,
}

/// A fixed limit, and what it did in a segment.
pub(crate) type Best = (u32, Part);

/// Cuts a run into its segments.
pub(crate) fn parts(trace: &Trace, segments: &[(f64, f64)]) -> Vec<Part> {
    segments
        .iter()
        .map(|segment| part(trace, *segment))
        .collect()
}

fn part(trace: &Trace, (from, to): (f64, f64)) -> Part {
    let from_index = trace.answered.partition_point(|a| a.at < from);
    let to_index = trace.answered.partition_point(|a| a.at < to);
    let answered = &trace.answered[from_index..to_index];
    let callers_from = trace.callers.partition_point(|c| c.0 < from);
    let callers_to = trace.callers.partition_point(|c| c.0 < to);
    let mut rtts: Vec<(f64, u32)> = answered.iter().map(|a| (a.rtt, 1)).collect();
    let callers = &trace.callers[callers_from..callers_to];
    let mut callers: Vec<(f64, u32)> = callers.iter().map(|c| (c.1, c.2)).collect();
    let limits: f64 = answered.iter().map(|a| f64::from(a.limit)).sum();
    Part {
        throughput: entries(answered) / (to - from),
        latency: quantile(&mut rtts, 0.5),
        p99: quantile(&mut callers, 0.99),
        mean_limit: limits / (answered.len().max(1) as f64),
        bins: bins(answered, from, to),
    }
}

fn entries(answered: &[Answered]) -> f64 {
    answered.iter().map(|a| f64::from(a.entries)).sum()
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn bins(answered: &[Answered], from: f64, to: f64) -> Vec<f64> {
    let mut bins = vec![0.0; ((to - from) / BIN) as usize];
    for a in answered {
        if let Some(bin) = bins.get_mut(((a.at - from) / BIN) as usize) {
            *bin += f64::from(a.entries) / BIN;
        }
    }
    bins
}

/// The weighted quantile; 0 of nothing.
fn quantile(values: &mut [(f64, u32)], part: f64) -> f64 {
    values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let total: f64 = values.iter().map(|value| f64::from(value.1)).sum();
    let mut below = 0.0;
    for (value, weight) in values {
        below += f64::from(*weight);
        if below >= part * total {
            return *value;
        }
    }
    0.0
}

/// For each segment the best fixed limit, and what it did there. Limits up to
/// `too_low` are known to be no good.
pub(crate) fn sweep(
    closed: bool,
    too_low: u32,
    mut run: impl FnMut(u32) -> Vec<Part>,
) -> Vec<Best> {
    let mut tried: Vec<(u32, Vec<Part>)> = Vec::new();
    let most = COARSE[COARSE.len() - 1];
    for limit in COARSE.into_iter().filter(|l| *l > too_low || *l == most) {
        tried.push((limit, run(limit)));
        // Far past every segment's knee nothing better comes.
        if is_past(&tried, closed) {
            break;
        }
    }
    let segments = tried[0].1.len();
    let mut best = Vec::with_capacity(segments);
    for segment in 0..segments {
        let limit = loop {
            tried.sort_by_key(|(limit, _)| *limit);
            let at = choose(&tried, segment, closed);
            match between(&tried, at, closed) {
                Some(limit) => tried.push((limit, run(limit))),
                None => break at,
            }
        };
        best.push((tried[limit].0, tried[limit].1[segment].clone()));
    }
    best
}

fn is_past(tried: &[(u32, Vec<Part>)], closed: bool) -> bool {
    let segments = tried[0].1.len();
    (0..segments).all(|segment| choose(tried, segment, closed) + 2 < tried.len())
}

fn choose(tried: &[(u32, Vec<Part>)], segment: usize, closed: bool) -> usize {
    let figure = |at: usize| &tried[at].1[segment];
    let all = 0..tried.len();
    let best = all.clone().map(|at| figure(at).throughput);
    let best = best.fold(0.0, f64::max);
    // A limit that chokes an open load may answer the few it takes at once.
    let mut good = all.filter(|at| figure(*at).throughput >= AS_GOOD * best);
    let chosen = match closed {
        true => good.next(),
        false => good.min_by(|a, b| figure(*a).p99.total_cmp(&figure(*b).p99)),
    };
    chosen.unwrap_or_default()
}

/// A limit beside the chosen one that is worth a try: below it for a closed
/// load, on either side for an open one, as long as they are far apart.
fn between(tried: &[(u32, Vec<Part>)], at: usize, closed: bool) -> Option<u32> {
    let limit = tried[at].0;
    let middle = |low: u32, high: u32| {
        let apart = high - low > if closed { 1 } else { (low / 4).max(1) };
        apart.then(|| u32::midpoint(low, high))
    };
    let below = at
        .checked_sub(1)
        .and_then(|below| middle(tried[below].0, limit));
    let above = tried.get(at + 1).filter(|_| !closed);
    below.or_else(|| above.and_then(|above| middle(limit, above.0)))
}
