//! What one measurement came to, and the medians of several.

use std::time::Duration;

use ferry::cli::bench::Report;
use serde::Serialize;

use super::flags::median;

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) sessions_per_second: f64,
    /// Of one write of a batch.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Of every process that serves, and of the callers where they share it.
    pub(crate) cpu_us_per_session: f64,
    /// 0 where nobody counts them.
    pub(crate) proposals_per_sync: f64,
    /// A synced write of the log, on average; 0 where nobody measures it.
    pub(crate) sync_ms: f64,
}

impl Figures {
    /// Of `sessions` written in so much time, one latency a write.
    pub(crate) fn of(
        sessions: u64,
        elapsed: Duration,
        cpu: Duration,
        mut latencies_us: Vec<u32>,
    ) -> Self {
        latencies_us.sort_unstable();
        let at = |share: f64| {
            let place = (latencies_us.len() as f64 * share) as usize;
            let last = latencies_us.len().saturating_sub(1);
            let found = latencies_us.get(place.min(last)).copied();
            f64::from(found.unwrap_or_default()) / 1e3
        };
        Self {
            sessions_per_second: sessions as f64 / elapsed.as_secs_f64(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            cpu_us_per_session: cpu.as_secs_f64() * 1e6 / sessions.max(1) as f64,
            proposals_per_sync: 0.0,
            sync_ms: 0.0,
        }
    }

    /// What callers over a socket told, and what the servers used meanwhile.
    pub(crate) fn told(report: &Report, cpu: Duration) -> Self {
        Self {
            sessions_per_second: report.avg_ops_per_sec,
            p50_ms: report.latency_ms.p50,
            p99_ms: report.latency_ms.p99,
            cpu_us_per_session: cpu.as_secs_f64() * 1e6 / report.success as f64,
            proposals_per_sync: 0.0,
            sync_ms: 0.0,
        }
    }
}

/// The medians of one side's rounds, and the rounds themselves.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Medians {
    #[serde(flatten)]
    pub(crate) figures: Figures,
    pub(crate) rounds: Vec<Figures>,
}

impl Medians {
    pub(crate) fn of(rounds: Vec<Figures>) -> Self {
        let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure).collect());
        Self {
            figures: Figures {
                sessions_per_second: of(|round| round.sessions_per_second),
                p50_ms: of(|round| round.p50_ms),
                p99_ms: of(|round| round.p99_ms),
                cpu_us_per_session: of(|round| round.cpu_us_per_session),
                proposals_per_sync: of(|round| round.proposals_per_sync),
                sync_ms: of(|round| round.sync_ms),
            },
            rounds,
        }
    }

    /// Sessions a second against `other`'s, round by round.
    pub(crate) fn ratio_to(&self, other: &Self) -> f64 {
        let pairs = self.rounds.iter().zip(&other.rounds);
        median(
            pairs
                .map(|(own, other)| own.sessions_per_second / other.sessions_per_second)
                .collect(),
        )
    }

    /// The slowest and the fastest round, in sessions a second.
    pub(crate) fn range(&self) -> String {
        let rates = || self.rounds.iter().map(|round| round.sessions_per_second);
        let (slowest, fastest) = (
            rates().fold(f64::INFINITY, f64::min),
            rates().fold(0.0, f64::max),
        );
        format!("{slowest:.0}–{fastest:.0}")
    }
}

/// Whether a ratio reached its goal, in words.
pub(crate) fn verdict(what: &str, ratio: f64, goal: f64) -> String {
    let word = if ratio >= goal { "met" } else { "MISSED" };
    format!("{word}: {what} {ratio:.2} (goal {goal:.2})")
}
