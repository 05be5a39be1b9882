//! Throughput, slowdown and boundness over one round of samples. PURE.

use std::time::Instant;

use super::rule::Sample;

/// One round. Only batches *sent* in it count: an answer to a batch of the
/// round before was made under that round's limit.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    since: Option<Instant>,
    /// Seconds between first and last answer, summed over merged rounds.
    elapsed: f64,
    last: Option<Instant>,
    /// Times between answers: how many, and their squares in s².
    gaps: f64,
    gaps_squared: f64,
    samples: u32,
    waited: u32,
    pressed: u32,
    entries: f64,
    /// Latencies that count: how many, their sum in s, their squares in s².
    latencies: f64,
    latency: f64,
    latency_squared: f64,
    /// Entries and unloaded work that finished after the first answer.
    entries_timed: f64,
    work_timed: f64,
    work: f64,
    rtt: f64,
}

impl Meter {
    pub(super) fn since(start: Instant) -> Self {
        Self {
            since: Some(start),
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, sample: &Sample, unloaded: Option<f64>) {
        if self.since.is_some_and(|since| sample.sent < since) {
            return;
        }
        let (entries, work) = (f64::from(sample.entries), unloaded.unwrap_or(0.0));
        if let Some(last) = self.last {
            let gap = sample.now.saturating_duration_since(last).as_secs_f64();
            self.elapsed += gap;
            self.gaps += 1.0;
            self.gaps_squared += gap * gap;
            self.entries_timed += entries;
            self.work_timed += work;
        }
        self.last = Some(sample.now);
        self.samples += 1;
        self.waited += u32::from(sample.waited);
        self.pressed += u32::from(sample.is_pressed());
        self.entries += entries;
        self.work += work;
        let rtt = sample.rtt().as_secs_f64();
        self.rtt += rtt;
        self.latencies += 1.0;
        self.latency += rtt;
        self.latency_squared += rtt * rtt;
    }

    /// Adds a finished round of the same kind.
    pub(super) fn merge(&mut self, other: &Self) {
        self.elapsed += other.elapsed;
        self.latencies += other.latencies;
        self.latency += other.latency;
        self.latency_squared += other.latency_squared;
        self.gaps += other.gaps;
        self.gaps_squared += other.gaps_squared;
        self.samples += other.samples;
        self.waited += other.waited;
        self.pressed += other.pressed;
        self.entries += other.entries;
        self.entries_timed += other.entries_timed;
        self.work_timed += other.work_timed;
        self.work += other.work;
        self.rtt += other.rtt;
    }

    /// Forgets a part of what it timed: `keep` of it stays. A rate stays as
    /// it is, and weighs less in the next merge.
    pub(super) fn fade(&mut self, keep: f64) {
        self.elapsed *= keep;
        self.latencies *= keep;
        self.latency *= keep;
        self.latency_squared *= keep;
        self.gaps *= keep;
        self.gaps_squared *= keep;
        self.entries_timed *= keep;
        self.work_timed *= keep;
    }

    pub(super) fn samples(&self) -> u32 {
        self.samples
    }

    pub(super) fn mean_entries(&self) -> f64 {
        self.entries / f64::from(self.samples.max(1))
    }

    /// The part of the batches that had to wait for their permit.
    pub(super) fn bound(&self) -> f64 {
        f64::from(self.waited) / f64::from(self.samples.max(1))
    }

    /// The part of the batches that left entries behind.
    pub(super) fn pressed(&self) -> f64 {
        f64::from(self.pressed) / f64::from(self.samples.max(1))
    }

    /// X, entries a second; 0 if no time has passed.
    pub(super) fn throughput(&self) -> f64 {
        rate(self.entries_timed, self.elapsed)
    }

    /// R, the mean latency in seconds; 0 of nothing.
    pub(super) fn latency(&self) -> f64 {
        rate(self.latency, self.latencies)
    }

    /// The variance of lnX, as if the gaps were independent.
    pub(super) fn throughput_variance(&self) -> f64 {
        variance_of_log(self.gaps, self.elapsed, self.gaps_squared)
    }

    /// The variance of lnR, as if the latencies were independent.
    pub(super) fn latency_variance(&self) -> f64 {
        variance_of_log(self.latencies, self.latency, self.latency_squared)
    }

    /// Unloaded work finished a second of time: batches kept busy at once.
    pub(super) fn work_rate(&self) -> f64 {
        rate(self.work_timed, self.elapsed)
    }

    /// W = Σrtt / Στ(n); `None` while τ is unknown.
    pub(super) fn slowdown(&self) -> Option<f64> {
        (self.work > 0.0).then(|| self.rtt / self.work)
    }
}

fn rate(amount: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { amount / seconds } else { 0.0 }
}

/// `c²/m`: of the mean of m values with the coefficient of variation c.
fn variance_of_log(count: f64, sum: f64, squares: f64) -> f64 {
    if sum <= 0.0 {
        return 0.0;
    }
    let squared_variation = count * squares / (sum * sum) - 1.0;
    squared_variation.max(0.0) / count
}
