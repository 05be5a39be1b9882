//! How long the next batch will take, and how surely. PURE.
//!
//! A smoothed mean R of the latency from send to answer and a smoothed mean
//! distance D from it, both in seconds, as TCP keeps them for its
//! retransmission timer (Jacobson, 1988): an answer later than `R + 4·D` is
//! rare, and so is one sooner than `R − 2·D`. They are measured, and so have
//! in them the batch size and the queueing upstream that the limit in force
//! leads to: under load, when they are asked for, batches are full.

use std::time::{Duration, Instant};

/// Weights of the newest latency in the mean and in the distance.
const MEAN_GAIN: f64 = 0.125;
const DISTANCE_GAIN: f64 = 0.25;
/// Distances from the mean past which hardly any answer lies, either way. A
/// latency cannot be as far below its mean as above it.
const LATE: f64 = 4.0;
const SOON: f64 = 2.0;

/// Smoothed latency of one kind of batches.
#[derive(Debug, Default)]
pub struct Latency {
    mean: Option<f64>,
    distance: f64,
}

impl Latency {
    /// A batch was answered so long after it was sent.
    pub fn learn(&mut self, rtt: Duration) {
        let rtt = rtt.as_secs_f64();
        let Some(mean) = self.mean else {
            (self.mean, self.distance) = (Some(rtt), rtt / 2.0);
            return;
        };
        self.distance += DISTANCE_GAIN * ((rtt - mean).abs() - self.distance);
        self.mean = Some(mean + MEAN_GAIN * (rtt - mean));
    }

    /// The smoothed latency; zero before the first.
    #[must_use]
    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.mean.unwrap_or_default())
    }

    /// Nearly every answer is there by then; zero before the first.
    #[must_use]
    pub fn latest(&self) -> Duration {
        let mean = self.mean.unwrap_or_default();
        Duration::from_secs_f64(mean + LATE * self.distance)
    }

    /// Hardly any answer is there before; zero before the first.
    #[must_use]
    pub fn soonest(&self) -> Duration {
        let mean = self.mean.unwrap_or_default();
        Duration::from_secs_f64((mean - SOON * self.distance).max(0.0))
    }
}

/// What a sealing has to know of the upstream, to tell who cannot be served.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outlook {
    /// An answer sooner than this is rare.
    pub soonest: Duration,
    /// An answer later than this is rare.
    pub latest: Duration,
    /// Nothing is in flight: whoever is sent takes no other's place.
    pub idle: bool,
}

impl Outlook {
    /// The moment before which an entry's deadline makes it not worth sending.
    /// In a `crowd` it takes the place of one who would be served, so it must
    /// be likely to be; otherwise a chance is enough.
    pub(super) fn horizon(&self, now: Instant, crowd: bool) -> Instant {
        now + if crowd { self.latest } else { self.soonest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_steady_latency_leaves_no_doubt_and_a_scattered_one_leaves_room() {
        let (mut steady, mut scattered) = (Latency::default(), Latency::default());
        for n in 0..100 {
            steady.learn(10 * MS);
            scattered.learn(if n % 2 == 0 { 5 * MS } else { 15 * MS });
        }
        let close = |latency: Duration, to: Duration| latency.abs_diff(to) < MS;
        assert!(close(steady.soonest(), 10 * MS) && close(steady.latest(), 10 * MS));
        assert!(scattered.soonest() < 2 * MS, "{:?}", scattered.soonest());
        assert!(scattered.latest() > 25 * MS, "{:?}", scattered.latest());
    }

    #[test]
    fn before_the_first_answer_nobody_is_too_late() {
        let now = Instant::now();
        let latency = Latency::default();
        let outlook = Outlook {
            soonest: latency.soonest(),
            latest: latency.latest(),
            idle: true,
        };
        assert_eq!(outlook.horizon(now, true), now);
    }
}
