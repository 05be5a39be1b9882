//! τ(n): how long a batch of n entries takes when nothing else is in flight.
//! PURE.
//!
//! `τ(n) = α + β·n`, least squares with forgetting. A sample is admitted only
//! if the upstream had (almost) nothing else to do, so τ is a mean of clean
//! latencies and no minimum: one lucky sample cannot poison it.

/// What one sample leaves of the memory: about fifty are remembered.
const KEEP: f64 = 0.98;

/// A batch this much larger than any remembered is not known.
const KNOWN: f64 = 2.0;

/// Remembered samples below which nothing is known.
const ENOUGH: f64 = 2.5;

/// Room for the squared variation of the latency: K of `1 + K·c²`.
const SCATTER_ROOM: f64 = 5.0;

/// The fitted line, in seconds over entries.
#[derive(Debug, Default)]
pub(super) struct Unloaded {
    weight: f64,
    n: f64,
    rtt: f64,
    n_n: f64,
    n_rtt: f64,
    /// Squared distances of a latency from τ(n), as parts of τ(n).
    scatter: f64,
    /// The largest batch remembered, fading with the memory.
    largest: f64,
}

impl Unloaded {
    pub(super) fn learn(&mut self, entries: f64, rtt: f64) {
        let expected = self.latency(entries).unwrap_or(rtt);
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
        let distance = (rtt / expected - 1.0).clamp(-1.0, 1.0);
        self.scatter += distance * distance;
        self.n += entries;
        self.rtt += rtt;
        self.n_n += entries * entries;
        self.n_rtt += entries * rtt;
        self.largest = self.largest.max(entries);
    }

    /// Whether it has hardly seen anything yet.
    pub(super) fn is_new(&self) -> bool {
        self.weight < ENOUGH
    }

    /// Whether a batch of this size lies where the line was seen.
    pub(super) fn knows(&self, entries: f64) -> bool {
        !self.is_new() && entries <= self.largest * KNOWN
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
