//! τ(n): how long a batch of n entries takes when nothing else is in flight.
//! PURE.
//!
//! `τ(n) = α + β·n`, least squares with forgetting. A sample is admitted only
//! if the upstream had (almost) nothing else to do, so τ is a mean of clean
//! latencies and no minimum: one lucky sample cannot poison it. But it rises
//! no further than a little above the lowest line it has had, and that only
//! leaks: others who share the upstream fill it while we drain, and a τ that
//! took their queue for its own would ask for more, and so would theirs.

/// What one sample leaves of the memory: about fifty are remembered.
const KEEP: f64 = 0.98;

/// A batch this much larger than any remembered is not known.
const KNOWN: f64 = 2.0;

/// Remembered samples below which nothing is known.
const ENOUGH: f64 = 2.5;

/// Room for the squared variation of the latency: K of `1 + K·c²`.
const SCATTER_ROOM: f64 = 5.0;

/// Remembered samples from which on a line may become the lowest.
const SETTLED: f64 = 8.0;
/// How far τ may rise above the lowest line it has had.
const RISE: f64 = 1.25;
/// A line this much lower becomes the lowest: less is scatter, and the least
/// of many scattered means is below all of them.
const DEADBAND: f64 = 1.1;
/// What a drain leaves of the lowest line: a plant may become slower.
const RELAX: f64 = 1.01;
/// Doublings of the batch size, each with its lowest line.
const BUCKETS: usize = 24;

/// The fitted line, in seconds over entries.
#[derive(Debug, Default)]
pub(super) struct Unloaded {
    weight: f64,
    n: f64,
    rtt: f64,
    n_n: f64,
    n_rtt: f64,
    /// Squared distances of one `ln(rtt/τ(n))` from the one before, halved.
    /// A queue that others keep up lifts both, and is no scatter.
    scatter: f64,
    level: Option<f64>,
    /// The largest batch remembered, fading with the memory.
    largest: f64,
    /// The lowest that τ(n) has been at some n, for each doubling of n.
    lowest: [Option<Lowest>; BUCKETS],
}

/// The lowest that τ was, at one batch size.
#[derive(Clone, Copy, Debug)]
struct Lowest {
    entries: f64,
    rtt: f64,
}

impl Lowest {
    /// What it allows for n entries: τ(n)/τ(m) is at most n/m, for α ≥ 0.
    fn at(self, entries: f64) -> f64 {
        self.rtt * (entries / self.entries).max(1.0)
    }
}

fn bucket(entries: f64) -> usize {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let bucket = entries.max(1.0).log2() as usize;
    bucket.min(BUCKETS - 1)
}

impl Unloaded {
    pub(super) fn learn(&mut self, entries: f64, rtt: f64) {
        // Its own line, not the capped one: the scatter is around that.
        let expected = self.fitted(entries).unwrap_or(rtt);
        for sum in [
            &mut self.weight,
            &mut self.n,
            &mut self.rtt,
            &mut self.n_n,
            &mut self.n_rtt,
            &mut self.scatter,
            &mut self.largest,
        ] {
            *sum *= KEEP;
        }
        self.weight += 1.0;
        // One outlier is not a spread.
        let level = (rtt / expected).ln();
        let distance = (level - self.level.replace(level).unwrap_or(level)).clamp(-1.0, 1.0);
        self.scatter += distance * distance / 2.0;
        self.n += entries;
        self.rtt += rtt;
        self.n_n += entries * entries;
        self.n_rtt += entries * rtt;
        self.largest = self.largest.max(entries);
        if self.weight >= SETTLED {
            self.keep_lowest(entries);
        }
    }

    fn keep_lowest(&mut self, entries: f64) {
        let Some(rtt) = self.fitted(entries) else {
            return;
        };
        let lowest = &mut self.lowest[bucket(entries)];
        if lowest.is_none_or(|lowest| rtt * DEADBAND < lowest.at(entries)) {
            *lowest = Some(Lowest { entries, rtt });
        }
    }

    /// The upstream was seen unloaded, and this is what it takes now: more than
    /// before where what was believed to be a queue was a longer way.
    pub(super) fn becomes(&mut self, entries: f64, rtt: f64) {
        let factor = self.fitted(entries).map_or(1.0, |fitted| rtt / fitted);
        self.rtt *= factor;
        self.n_rtt *= factor;
        self.lowest = [None; BUCKETS];
    }

    /// Time has passed: what was the least may have become more.
    pub(super) fn relax(&mut self) {
        for lowest in self.lowest.iter_mut().flatten() {
            lowest.rtt *= RELAX;
        }
    }

    /// Whether it has hardly seen anything yet.
    pub(super) fn is_new(&self) -> bool {
        self.weight < ENOUGH
    }

    /// Whether a batch of this size lies where the line was seen.
    pub(super) fn knows(&self, entries: f64) -> bool {
        !self.is_new() && entries <= self.largest * KNOWN
    }

    /// The coefficient of variation of one clean latency.
    pub(super) fn deviation(&self) -> f64 {
        match self.weight > 0.0 {
            true => (self.scatter / self.weight).sqrt(),
            false => 0.0,
        }
    }

    /// How much more than the BDP must be in flight because latencies
    /// scatter: `S = 1 + K·c²`, with c the coefficient of variation. The form
    /// is Kingman's (what waits grows with the squared variation), the factor
    /// fitted by simulation.
    pub(super) fn spread(&self) -> f64 {
        if self.is_new() {
            return 1.0;
        }
        1.0 + SCATTER_ROOM * self.scatter / self.weight
    }

    /// τ(n) in seconds; `None` before the first clean sample.
    pub(super) fn latency(&self, entries: f64) -> Option<f64> {
        let fitted = self.fitted(entries)?;
        let lowest = self.lowest[bucket(entries)].map(|lowest| lowest.at(entries));
        Some(lowest.map_or(fitted, |lowest| fitted.min(RISE * lowest)))
    }

    fn fitted(&self, entries: f64) -> Option<f64> {
        if self.weight == 0.0 {
            return None;
        }
        let (mean_n, mean_rtt) = (self.n / self.weight, self.rtt / self.weight);
        let variance = self.n_n / self.weight - mean_n * mean_n;
        // Sizes that hardly differ say nothing of a slope.
        let slope = if variance > 0.01 * mean_n * mean_n {
            let covariance = self.n_rtt / self.weight - mean_n * mean_rtt;
            // Neither part of a latency is negative: 0 ≤ β, and α = τ(0) ≥ 0.
            (covariance / variance).clamp(0.0, mean_rtt / mean_n)
        } else {
            0.0
        };
        Some(mean_rtt + slope * (entries - mean_n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_of_the_unloaded_latency_are_found() {
        let mut unloaded = Unloaded::default();
        for n in [1.0, 100.0, 20.0, 500.0, 3.0, 250.0] {
            unloaded.learn(n, 0.003 + 20e-6 * n);
        }
        let tau = unloaded.latency(400.0).expect("it has learnt");
        assert!((tau - 0.011).abs() < 1e-6, "{tau}");
    }

    #[test]
    fn batches_of_one_size_leave_the_mean() {
        let mut unloaded = Unloaded::default();
        for rtt in [0.002, 0.004] {
            unloaded.learn(100.0, rtt);
        }
        let tau = unloaded.latency(100.0).expect("it has learnt");
        assert!((tau - 0.003).abs() < 3e-5, "{tau}");
    }
}
