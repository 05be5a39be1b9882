//! What a load came to: the figures, the JSON that scripts read and the table
//! that people read. The keys are an interface (the same as RobustMQ's bench
//! uses, so that runs can be laid side by side). Pure.

use std::collections::BTreeMap;

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use super::{acknowledged::Acknowledged, plan::LoadPlan, tally::Tally};

/// What one load came to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was asked for.
    pub config: LoadPlan,
    /// Sessions sent whose end is known: success + failed + timeout. One that
    /// is sent again after a timeout counts again.
    pub total: u64,
    /// Sessions acknowledged.
    pub success: u64,
    /// Sessions answered with an error, or lost with their connection.
    pub failed: u64,
    /// Sessions whose caller gave up waiting.
    pub timeout: u64,
    /// From the first call to the last answer.
    pub seconds: f64,
    /// Sessions acknowledged a second, over all of it.
    pub avg_ops_per_sec: f64,
    /// Sessions acknowledged in the best second.
    pub peak_ops_per_sec: f64,
    /// Success out of total, in per cent.
    pub success_rate: f64,
    /// Of the calls that succeeded.
    pub latency_ms: LatencyMs,
    /// Sessions failed, by status and message.
    pub errors: BTreeMap<String, u64>,
    /// What the reader of the figures should know.
    pub warnings: Vec<String>,
    /// Whether callers ended before the load did, since there was no server any
    /// more; a warning says so.
    #[serde(skip)]
    pub cut_short: bool,
    /// Which sessions the server said it has.
    #[serde(skip)]
    pub acknowledged: Acknowledged,
}

/// Latency of a call in milliseconds. Not a number (JSON: null) if no call
/// succeeded, since 0 ms would read as good news.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LatencyMs {
    /// The fastest call.
    pub min: f64,
    /// The mean.
    pub avg: f64,
    /// Half of the calls were at most this slow.
    pub p50: f64,
    /// 95 % were.
    pub p95: f64,
    /// 99 % were.
    pub p99: f64,
    /// 99.9 % were.
    pub p999: f64,
    /// The slowest call.
    pub max: f64,
}

impl Report {
    /// The figures of a finished load.
    pub(super) fn new(config: LoadPlan, tally: Tally) -> Self {
        let total = tally.success + tally.failed + tally.timeout;
        Self {
            config,
            total,
            success: tally.success,
            failed: tally.failed,
            timeout: tally.timeout,
            seconds: tally.elapsed().as_secs_f64(),
            avg_ops_per_sec: tally.mean_per_second(),
            peak_ops_per_sec: tally.peak_per_second(),
            success_rate: if total == 0 {
                0.0
            } else {
                100.0 * tally.success as f64 / total as f64
            },
            latency_ms: LatencyMs::of(&tally.latency),
            errors: tally.errors,
            warnings: tally.warnings,
            cut_short: tally.cut_short,
            acknowledged: tally.acknowledged,
        }
    }

    /// The figures as a table, one row each.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table
            .load_style(UTF8_FULL_CONDENSED)
            .set_header(["create-session", ""]);
        let latency = &self.latency_ms;
        for (name, value) in [
            ("total", self.total.to_string()),
            ("success", self.success.to_string()),
            ("failed", self.failed.to_string()),
            ("timeout", self.timeout.to_string()),
            ("seconds", format!("{:.2}", self.seconds)),
            ("mean sessions/s", format!("{:.0}", self.avg_ops_per_sec)),
            ("peak sessions/s", format!("{:.0}", self.peak_ops_per_sec)),
            ("success", format!("{:.3} %", self.success_rate)),
            ("latency min", milliseconds(latency.min)),
            ("latency avg", milliseconds(latency.avg)),
            ("latency p50", milliseconds(latency.p50)),
            ("latency p95", milliseconds(latency.p95)),
            ("latency p99", milliseconds(latency.p99)),
            ("latency p99.9", milliseconds(latency.p999)),
            ("latency max", milliseconds(latency.max)),
        ] {
            table.add_row([name.to_owned(), value]);
        }
        for (error, count) in &self.errors {
            table.add_row([format!("error: {error}"), count.to_string()]);
        }
        table
    }
}

impl LatencyMs {
    fn of(micros: &hdrhistogram::Histogram<u64>) -> Self {
        let ms = |micros: u64| micros as f64 / 1_000.0;
        if micros.is_empty() {
            let none = f64::NAN;
            return Self {
                min: none,
                avg: none,
                p50: none,
                p95: none,
                p99: none,
                p999: none,
                max: none,
            };
        }
        Self {
            min: ms(micros.min()),
            avg: micros.mean() / 1_000.0,
            p50: ms(micros.value_at_quantile(0.5)),
            p95: ms(micros.value_at_quantile(0.95)),
            p99: ms(micros.value_at_quantile(0.99)),
            p999: ms(micros.value_at_quantile(0.999)),
            max: ms(micros.max()),
        }
    }
}

/// A latency as people read it; a dash where there was none.
pub fn milliseconds(value: f64) -> String {
    match value {
        none if none.is_nan() => "-".into(),
        small if small < 10.0 => format!("{small:.2} ms"),
        large if large < 100.0 => format!("{large:.1} ms"),
        huge => format!("{huge:.0} ms"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{super::plan::tests::plan, *};

    fn report(fill: impl FnOnce(&mut Tally, Instant)) -> Report {
        let start = Instant::now();
        let mut tally = Tally::new(start);
        fill(&mut tally, start);
        Report::new(plan(([127, 0, 0, 1], 1).into()), tally)
    }

    #[test]
    fn the_json_has_exactly_the_promised_keys() {
        let report = report(|tally, start| {
            tally.acknowledge(
                0..1,
                Duration::from_millis(2),
                start + Duration::from_secs(1),
            );
        });
        let json = serde_json::to_value(&report).unwrap();
        let keys = |value: &serde_json::Value| {
            let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys.join(" ")
        };
        assert_eq!(
            keys(&json),
            "avg_ops_per_sec config errors failed latency_ms peak_ops_per_sec seconds success \
             success_rate timeout total warnings"
        );
        assert_eq!(keys(&json["latency_ms"]), "avg max min p50 p95 p99 p999");
    }

    #[test]
    fn the_figures_follow_from_what_was_counted() {
        let report = report(|tally, start| {
            for number in 0..98_u64 {
                let latency = Duration::from_millis(number + 1);
                tally.acknowledge(number..number + 1, latency, start);
            }
            tally.fail(1, "UNAVAILABLE: draining", start);
            tally.give_up(1, start + Duration::from_secs(4));
        });
        assert_eq!((report.total, report.success), (100, 98));
        assert_eq!(report.success_rate, 98.0);
        assert_eq!(report.avg_ops_per_sec, 98.0 / 4.0);
        let near = |value: f64, meant: f64| assert!((value / meant - 1.0).abs() < 0.01, "{value}");
        near(report.latency_ms.min, 1.0);
        near(report.latency_ms.p50, 49.0);
        near(report.latency_ms.p99, 98.0);
        near(report.latency_ms.max, 98.0);
        near(report.latency_ms.avg, 49.5);
    }

    #[test]
    fn a_load_without_success_has_no_latency_rather_than_a_good_one() {
        let report = report(|tally, start| tally.give_up(5, start + Duration::from_secs(1)));
        let json = serde_json::to_value(&report).unwrap();
        assert!(json["latency_ms"]["p99"].is_null());
        assert_eq!(json["success_rate"], 0.0);
        assert!(report.table().to_string().contains(" - "));
    }
}
