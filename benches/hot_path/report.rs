//! The figures of a run: medians of its rounds, ferry beside the echo.

use std::collections::BTreeMap;

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use super::{
    flags::{Flags, median},
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
    pub(crate) fn new(
        flags: &Flags,
        machine: BTreeMap<&'static str, String>,
        measurements: Vec<Bout>,
    ) -> Self {
        Self {
            rounds: flags.rounds,
            seconds: flags.duration.0.as_secs_f64(),
            comparisons: Case::ALL
                .map(|case| Comparison::new(case, &measurements))
                .into(),
            warnings: warnings(&measurements, &machine),
            machine,
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

/// What the reader of the figures should know. Only where each has a core of
/// its own: who shares one waits for it, and that is what is measured there.
fn warnings(measurements: &[Bout], machine: &BTreeMap<&'static str, String>) -> Vec<String> {
    let apart = || {
        let bouts = measurements.iter();
        bouts.filter(|bout| bout.case.one_core_each())
    };
    let mut warnings = Vec::new();
    let disturbed = || apart().filter(|bout| bout.figures.server_waited > WAITED);
    if disturbed().next().is_some() {
        let most = disturbed().map(|bout| bout.figures.server_waited);
        warnings.push(format!(
            "in {} of {} measurements something else ran on the server's core, for up to {:.0} % \
             of the time; run it again on a quieter machine",
            disturbed().count(),
            apart().count(),
            100.0 * most.fold(0.0, f64::max)
        ));
    }
    let limited = apart().filter(|bout| {
        let generator = bout.figures.generator_busy.unwrap_or_default();
        generator > BUSY && bout.figures.server_busy < BUSY
    });
    let limited = limited.count();
    if limited > 0 {
        warnings.push(format!(
            "in {limited} of {} measurements the load generator was the limit: \
             its core was busy and the server's was not",
            apart().count()
        ));
    }
    if machine["file system"] == "tmpfs" {
        warnings.push(
            "the embedded group's directory is in memory, where a sync costs nothing; \
             set TMPDIR to one on a disk"
                .to_owned(),
        );
    }
    warnings
}
