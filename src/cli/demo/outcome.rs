//! What the legs came to, side by side: the JSON, the table in the article's
//! rows, the ratios and the sentence that says what happened. Pure. Nothing
//! here decides how the comparison should come out: each word follows from a
//! figure.

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{
    legs::{IMPATIENCE, Leg},
    verify::Verified,
};
use crate::cli::bench::{Report, milliseconds};

/// What one leg came to.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LegOutcome {
    /// Which leg.
    #[serde(skip)]
    pub(super) leg: Leg,
    /// What the clients saw.
    #[serde(flatten)]
    pub(super) report: Report,
    /// Proposals handed to the group's core.
    pub(super) proposals: u64,
    /// Entries proposed although their caller had already left.
    pub(super) ghosts: u64,
    /// Batches that ferry keeps in flight, as found by the end of the leg;
    /// `null` without ferry.
    pub(super) limit: Option<f64>,
    /// Whether what was acknowledged is there.
    #[serde(skip)]
    pub(super) verified: Verified,
}

impl LegOutcome {
    fn sessions_per_proposal(&self) -> f64 {
        self.report.success as f64 / self.proposals as f64
    }
}

/// One leg against another. Not a number (JSON: null) where one came to nothing.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Ratios {
    /// Sessions/s.
    pub(super) ferry_over_before: f64,
    /// Sessions/s.
    pub(super) ferry_over_by_hand: f64,
    /// 99th percentile of latency.
    pub before_p99_over_ferry_p99: f64,
    /// Sessions/s.
    pub(super) pipelined_over_ferry: f64,
    /// Sessions/s of single calls, with ferry in front of the pipelined group
    /// over without.
    pub(super) pipelined_over_direct_pipelined: f64,
}

/// What the whole demonstration came to.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Outcome {
    /// Each leg by its key, in the order in which they ran.
    #[serde(serialize_with = "by_key")]
    pub(super) legs: Vec<LegOutcome>,
    /// How they compare.
    pub(super) ratios: Ratios,
    /// Whether what was acknowledged is there, over all legs.
    pub(super) verified: Verified,
}

impl Outcome {
    /// Compares finished legs.
    pub(super) fn of(legs: Vec<LegOutcome>) -> Self {
        let rate = |key| find(&legs, key).map_or(f64::NAN, |leg| leg.report.avg_ops_per_sec);
        let p99 = |key| find(&legs, key).map_or(f64::NAN, |leg| leg.report.latency_ms.p99);
        let ratios = Ratios {
            ferry_over_before: rate("ferry") / rate("before"),
            ferry_over_by_hand: rate("ferry") / rate("by_hand"),
            before_p99_over_ferry_p99: p99("before") / p99("ferry"),
            pipelined_over_ferry: rate("pipelined") / rate("ferry"),
            pipelined_over_direct_pipelined: rate("pipelined") / rate("direct_pipelined"),
        };
        let verified = legs
            .iter()
            .map(|leg| leg.verified)
            .fold(Verified::default(), Verified::and);
        Self {
            legs,
            ratios,
            verified,
        }
    }

    /// One column a leg, in the article's rows.
    pub(super) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(std::iter::once("").chain(self.legs.iter().map(|leg| leg.leg.heading)));
        let mut row = |name: &str, cell: &dyn Fn(&LegOutcome) -> String| {
            table.add_row(std::iter::once(name.to_owned()).chain(self.legs.iter().map(cell)));
        };
        row("total", &|leg| grouped(leg.report.total as f64));
        row("seconds", &|leg| format!("{:.1}", leg.report.seconds));
        row("sessions/s, mean", &|leg| {
            grouped(leg.report.avg_ops_per_sec)
        });
        row("sessions/s, peak", &|leg| {
            grouped(leg.report.peak_ops_per_sec)
        });
        row("success", &|leg| {
            format!("{:.2} %", leg.report.success_rate)
        });
        row("timeouts", &|leg| grouped(leg.report.timeout as f64));
        row("p50", &|leg| milliseconds(leg.report.latency_ms.p50));
        row("p95", &|leg| milliseconds(leg.report.latency_ms.p95));
        row("p99", &|leg| milliseconds(leg.report.latency_ms.p99));
        row("min", &|leg| milliseconds(leg.report.latency_ms.min));
        row("proposals", &|leg| grouped(leg.proposals as f64));
        row("sessions/proposal", &|leg| {
            decimal(leg.sessions_per_proposal())
        });
        row("ghosts", &|leg| grouped(leg.ghosts as f64));
        row("limit found", &|leg| leg.limit.map_or("-".into(), decimal));
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    /// The ratios, one a line.
    pub(super) fn ratio_lines(&self) -> Vec<String> {
        let ratios = &self.ratios;
        [
            ("with ferry / before, sessions/s", ratios.ferry_over_before),
            (
                "with ferry / by hand, sessions/s",
                ratios.ferry_over_by_hand,
            ),
            ("before / with ferry, p99", ratios.before_p99_over_ferry_p99),
            (
                "ferry today / with ferry, sessions/s",
                ratios.pipelined_over_ferry,
            ),
            (
                "ferry today / no ferry, pipelined",
                ratios.pipelined_over_direct_pipelined,
            ),
        ]
        .map(|(name, ratio)| format!("{name:<38}{:>8}", times(ratio)))
        .to_vec()
    }

    /// What happened.
    pub(super) fn sentence(&self) -> String {
        let rate = |key| {
            find(&self.legs, key).map_or("-".into(), |leg| grouped(leg.report.avg_ops_per_sec))
        };
        let p99 = |key| {
            find(&self.legs, key).map_or("-".into(), |leg| milliseconds(leg.report.latency_ms.p99))
        };
        let impatient = |key| match find(&self.legs, key) {
            Some(leg) => format!(
                "{} sessions/s with {} timeouts and {} ghosts",
                grouped(leg.report.avg_ops_per_sec),
                grouped(leg.report.timeout as f64),
                grouped(leg.ghosts as f64),
            ),
            None => "-".into(),
        };
        format!(
            "The same single calls that came to {} sessions/s at a p99 of {} came to {} at {} \
             through ferry ({}), where clients rewritten to batch by hand came to {}; to the \
             pipelined group they came to {} through ferry and {} without. Clients that give up \
             after {} ms got {} before, and {} through ferry.",
            rate("before"),
            p99("before"),
            rate("ferry"),
            p99("ferry"),
            times(self.ratios.ferry_over_before),
            rate("by_hand"),
            rate("pipelined"),
            rate("direct_pipelined"),
            IMPATIENCE.as_millis(),
            impatient("before_impatient"),
            impatient("ferry_impatient"),
        )
    }
}

fn find<'a>(legs: &'a [LegOutcome], key: &str) -> Option<&'a LegOutcome> {
    legs.iter().find(|leg| leg.leg.key == key)
}

fn by_key<S: Serializer>(legs: &[LegOutcome], to: S) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(legs.len()))?;
    for leg in legs {
        map.serialize_entry(leg.leg.key, leg)?;
    }
    map.end()
}

fn times(ratio: f64) -> String {
    if ratio.is_finite() {
        format!("{ratio:.2}x")
    } else {
        "-".into()
    }
}

fn decimal(number: f64) -> String {
    if number.is_finite() {
        format!("{number:.1}")
    } else {
        "-".into()
    }
}

/// A whole number with its thousands apart.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut apart = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::{super::legs::LEGS, *};
    use crate::cli::bench::LatencyMs;

    fn leg(key: &str, rate: f64, p99: f64, limit: Option<f64>) -> LegOutcome {
        let leg = *LEGS.iter().find(|leg| leg.key == key).unwrap();
        let success = (rate * 8.0) as u64;
        LegOutcome {
            leg,
            report: Report {
                config: leg.load(([127, 0, 0, 1], 1).into(), None, Duration::from_secs(8)),
                total: success,
                success,
                failed: 0,
                timeout: 0,
                seconds: 8.0,
                avg_ops_per_sec: rate,
                peak_ops_per_sec: rate,
                success_rate: 100.0,
                latency_ms: LatencyMs {
                    min: 1.0,
                    avg: 1.0,
                    p50: 1.0,
                    p95: 1.0,
                    p99,
                    p999: p99,
                    max: p99,
                },
                errors: BTreeMap::new(),
                warnings: Vec::new(),
                cut_short: false,
                acknowledged: Default::default(),
            },
            proposals: success / 4,
            ghosts: 0,
            limit,
            verified: Verified {
                acknowledged: success,
                sampled: 100,
                missing: 1,
            },
        }
    }

    fn outcome() -> Outcome {
        Outcome::of(vec![
            leg("before", 5_000.0, 480.0, None),
            leg("ferry", 60_000.0, 40.0, Some(3.25)),
            leg("by_hand", 75_000.0, 50.0, None),
        ])
    }

    #[test]
    fn the_ratios_follow_from_the_legs() {
        let ratios = outcome().ratios;
        assert_eq!(ratios.ferry_over_before, 12.0);
        assert_eq!(ratios.ferry_over_by_hand, 0.8);
        assert_eq!(ratios.before_p99_over_ferry_p99, 12.0);
        assert!(ratios.pipelined_over_ferry.is_nan(), "that leg did not run");
    }

    #[test]
    fn the_json_has_the_promised_shape() {
        let json = serde_json::to_value(outcome()).unwrap();
        assert_eq!(json["legs"]["ferry"]["avg_ops_per_sec"], 60_000.0);
        assert_eq!(json["legs"]["ferry"]["limit"], 3.25);
        assert!(json["legs"]["before"]["limit"].is_null());
        assert_eq!(json["legs"]["before"]["proposals"], 10_000);
        assert_eq!(json["legs"]["before"]["ghosts"], 0);
        assert_eq!(json["legs"]["by_hand"]["config"]["batch_size"], 100);
        assert!(json["ratios"]["pipelined_over_ferry"].is_null());
        assert_eq!(json["verified"]["sampled"], 300);
        assert_eq!(json["verified"]["missing"], 3);
    }

    #[test]
    fn the_table_and_the_sentence_show_the_figures() {
        let outcome = outcome();
        let table = outcome.table().to_string();
        for shown in ["60,000", "480,000", "3.2", "4.0", "480 ms", "limit found"] {
            assert!(table.contains(shown), "{shown} in\n{table}");
        }
        let sentence = outcome.sentence();
        for shown in [
            "5,000 sessions/s at a p99 of 480 ms",
            "60,000 at 40.0 ms",
            "12.00x",
        ] {
            assert!(sentence.contains(shown), "{shown} in {sentence}");
        }
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!(grouped(0.0), "0");
        assert_eq!(grouped(999.4), "999");
        assert_eq!(grouped(1_000.0), "1,000");
        assert_eq!(grouped(12_345_678.0), "12,345,678");
    }
}
