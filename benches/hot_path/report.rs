//! The figures of a run: medians of its rounds, ferry beside the echo.

use std::collections::BTreeMap;

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use super::{
    flags::{Flags, median},
    machine,
    measure::{Bout, Case, Figures},
    serve::Side,
};

/// A generator or a neighbour that used more than this much of a core may have
/// been what was measured.
const BUSY: f64 = 0.95;
const WAITED: f64 = 0.05;

/// The result of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: BTreeMap<&'static str, String>,
    rounds: u32,
    /// Of one measurement.
    seconds: f64,
    comparisons: Vec<Comparison>,
    pub(crate) warnings: Vec<String>,
    /// Every measurement, in the order in which it was taken.
    measurements: Vec<Bout>,
}

/// ferry against the echo: medians over the rounds.
#[derive(Debug, Serialize)]
struct Comparison {
    case: Case,
    #[serde(skip)]
    name: String,
    echo: Medians,
    ferry: Medians,
    /// ferry's requests a second over the echo's: the median of the rounds'
    /// ratios, since a round's two sides were measured one after the other.
    ratio: f64,
    aim: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Medians {
    side: Side,
    requests_per_second: f64,
    /// The slowest and the fastest round.
    requests_per_second_range: (f64, f64),
    cpu_us_per_call: f64,
    calls_per_batch: f64,
    server_busy: f64,
}

impl Report {
    pub(crate) fn new(flags: &Flags, measurements: Vec<Bout>) -> Self {
        Self {
            machine: machine::description(),
            rounds: flags.rounds,
            seconds: flags.duration.0.as_secs_f64(),
            comparisons: Case::ALL
                .map(|case| Comparison::new(case, &measurements))
                .into(),
            warnings: measurements.iter().flat_map(warnings).collect(),
            measurements,
        }
    }

    /// What people read.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header([
            "connections × streams",
            "server",
            "requests/s",
            "slowest–fastest",
            "CPU µs a call",
            "calls a batch",
            "cores used",
            "of the echo",
            "aim",
        ]);
        for comparison in &self.comparisons {
            table.add_row(row(&comparison.name, comparison.echo, None));
            table.add_row(row("", comparison.ferry, Some(comparison)));
        }
        let machine: Vec<_> = self
            .machine
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        format!(
            "{table}\nmedians of {} rounds of {} s, the sides alternating\n{}",
            self.rounds,
            self.seconds,
            machine.join("\n")
        )
    }
}

fn row(name: &str, medians: Medians, against: Option<&Comparison>) -> Vec<String> {
    let (slowest, fastest) = medians.requests_per_second_range;
    let per_cent = |share: f64| format!("{:.0} %", 100.0 * share);
    vec![
        name.to_owned(),
        medians.side.to_string(),
        format!("{:.0}", medians.requests_per_second),
        format!("{slowest:.0}–{fastest:.0}"),
        format!("{:.2}", medians.cpu_us_per_call),
        match medians.side {
            Side::Echo => String::new(),
            _ => format!("{:.1}", medians.calls_per_batch),
        },
        format!("{:.2}", medians.server_busy),
        against.map_or_else(String::new, |comparison| per_cent(comparison.ratio)),
        against.map_or_else(String::new, |comparison| per_cent(comparison.aim)),
    ]
}

impl Comparison {
    fn new(case: Case, measurements: &[Bout]) -> Self {
        let of = |side| -> Vec<Figures> {
            let bouts = measurements.iter();
            bouts
                .filter(|bout| (bout.case, bout.side) == (case, side))
                .map(|bout| bout.figures)
                .collect()
        };
        // In the order of their rounds, so they pair.
        let (echo, ferry) = (of(Side::Echo), of(case.ferry()));
        let ratios = echo
            .iter()
            .zip(&ferry)
            .map(|(echo, ferry)| ferry.requests_per_second / echo.requests_per_second);
        Self {
            case,
            name: case.to_string(),
            ratio: median(ratios.collect()),
            aim: case.aim(),
            echo: Medians::new(Side::Echo, &echo),
            ferry: Medians::new(case.ferry(), &ferry),
        }
    }
}

impl Medians {
    fn new(side: Side, rounds: &[Figures]) -> Self {
        let median_of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure).collect());
        let rates = || rounds.iter().map(|figures| figures.requests_per_second);
        Self {
            side,
            requests_per_second: median_of(|figures| figures.requests_per_second),
            requests_per_second_range: (
                rates().fold(f64::INFINITY, f64::min),
                rates().fold(0.0, f64::max),
            ),
            cpu_us_per_call: median_of(|figures| figures.cpu_us_per_call),
            calls_per_batch: median_of(|figures| figures.calls_per_batch),
            server_busy: median_of(|figures| figures.server_busy),
        }
    }
}

/// What the reader of a measurement should know.
fn warnings(bout: &Bout) -> Vec<String> {
    let Bout {
        case,
        side,
        round,
        figures,
    } = bout;
    let mut warnings = Vec::new();
    if !case.one_core_each() {
        // Who shares a core waits for it: that is what is measured.
        return warnings;
    }
    let mut warn = |told: String| warnings.push(format!("{case}, {side}, round {round}: {told}"));
    if figures.server_waited > WAITED {
        warn(format!(
            "something else ran on the server's core for {:.0} % of the time; \
             run it again on a quieter machine",
            100.0 * figures.server_waited
        ));
    }
    let generator = figures.generator_busy.unwrap_or_default();
    if generator > BUSY && figures.server_busy < BUSY {
        warn(format!(
            "the load generator was the limit: it used {:.0} % of its core and the server {:.0} %",
            100.0 * generator,
            100.0 * figures.server_busy
        ));
    }
    warnings
}
