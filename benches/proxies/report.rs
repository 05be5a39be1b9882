//! The figures of a run: medians of its rounds, the sides beside each other,
//! and each goal with where it was missed.

use std::{collections::BTreeMap, fmt::Write as _};

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use super::{
    cell::{Cell, Part},
    flags::median,
    measure::Figures,
    proxy::Side,
};

/// What ferry is to reach of the others' requests a second.
const FORWARDING: [(Side, f64); 3] = [(Side::Haproxy, 1.0), (Side::Envoy, 3.0), (Side::Nginx, 3.0)];
const COALESCING: [(Side, f64); 3] = [(Side::Haproxy, 1.8), (Side::Envoy, 5.0), (Side::Nginx, 5.0)];
/// Of Envoy's memory, at most.
const MEMORY: f64 = 0.5;
/// A core that is this busy is the limit.
const BUSY: f64 = 0.95;

/// The result of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: BTreeMap<&'static str, String>,
    pub(crate) rounds: u32,
    /// Of one measurement.
    pub(crate) seconds: f64,
    pub(crate) cells: Vec<Compared>,
    pub(crate) workers: Vec<Workers>,
}

/// All sides of a cell.
#[derive(Debug, Serialize)]
pub(crate) struct Compared {
    pub(crate) cell: Cell,
    pub(crate) sides: Vec<Rounds>,
}

/// One side's rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Rounds {
    pub(crate) side: Side,
    pub(crate) rounds: Vec<Figures>,
}

/// ferry with one worker and with two, a round each.
#[derive(Debug, Serialize)]
pub(crate) struct Workers {
    pub(crate) side: Side,
    pub(crate) one: Vec<Figures>,
    pub(crate) two: Vec<Figures>,
}

type Figure = fn(&Figures) -> f64;

const RATE: Figure = |figures| figures.calls_per_second;
const CPU: Figure = |figures| figures.proxy_cpu_us;
const CPU_OF_BOTH: Figure = |figures| figures.proxy_cpu_us + figures.upstream_cpu_us;
const PEAK: Figure = |figures| figures.peak_mib;
const P50: Figure = |figures| figures.p50_us.unwrap_or_default();

fn of(rounds: &[Figures], figure: Figure) -> f64 {
    median(rounds.iter().map(figure).collect())
}

/// The median of the rounds' ratios: a round's sides were measured one after
/// the other.
fn ratio(rounds: &[Figures], others: &[Figures], figure: Figure) -> f64 {
    let pairs = rounds.iter().zip(others);
    median(
        pairs
            .map(|(own, other)| figure(own) / figure(other))
            .collect(),
    )
}

impl Compared {
    fn of(&self, side: Side) -> Option<&[Figures]> {
        let found = self.sides.iter().find(|rounds| rounds.side == side);
        found.map(|rounds| &rounds.rounds[..])
    }

    /// A side's figure against another's; `None` where one was not measured.
    fn ratio(&self, side: Side, other: Side, figure: Figure) -> Option<f64> {
        Some(ratio(self.of(side)?, self.of(other)?, figure))
    }
}

impl Report {
    pub(crate) fn table(&self) -> String {
        let mut told = String::new();
        if !self.cells.is_empty() {
            let _ = writeln!(told, "{}", self.rows());
        }
        for line in self.verdicts() {
            let _ = writeln!(told, "{line}");
        }
        for workers in &self.workers {
            let _ = writeln!(told, "{}", workers.told());
        }
        let machine = self.machine.iter();
        let machine: Vec<_> = machine.map(|(name, is)| format!("{name}: {is}")).collect();
        let _ = write!(
            told,
            "medians of {} rounds of {} s, the sides alternating; *: the load's core was busy and \
             the proxy's was not\n{}",
            self.rounds,
            self.seconds,
            machine.join("\n")
        );
        told
    }

    fn rows(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header([
            "calls",
            "through",
            "calls/s",
            "slowest–fastest",
            "CPU µs a call",
            "with upstream",
            "p50 µs",
            "added",
            "peak MiB",
            "calls a batch",
        ]);
        for compared in &self.cells {
            let direct = compared.of(Side::None).map(|rounds| of(rounds, P50));
            for (place, Rounds { side, rounds }) in compared.sides.iter().enumerate() {
                let rates = || rounds.iter().map(RATE);
                let limited = rounds
                    .iter()
                    .any(|round| round.load_busy > BUSY && round.proxy_busy < BUSY);
                let alone = |figure: f64| match compared.cell.alone() {
                    true => format!("{figure:.0}"),
                    false => String::new(),
                };
                table.add_row([
                    if place == 0 {
                        compared.cell.to_string()
                    } else {
                        String::new()
                    },
                    side.name().to_owned(),
                    format!("{:.0}{}", of(rounds, RATE), if limited { "*" } else { "" }),
                    format!(
                        "{:.0}–{:.0}",
                        rates().fold(f64::INFINITY, f64::min),
                        rates().fold(0.0, f64::max)
                    ),
                    format!("{:.1}", of(rounds, CPU)),
                    format!("{:.1}", of(rounds, CPU_OF_BOTH)),
                    alone(of(rounds, P50)),
                    alone(of(rounds, P50) - direct.unwrap_or_default()),
                    format!("{:.0}", of(rounds, PEAK)),
                    format!("{:.1}", of(rounds, |figures| figures.calls_per_batch)),
                ]);
            }
        }
        table
    }

    /// A line for each goal that this run has figures for.
    fn verdicts(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (side, goals) in [
            (Side::Forwarding, FORWARDING),
            (Side::Coalescing, COALESCING),
        ] {
            for (other, goal) in goals {
                let what = format!(
                    "{}: at least {goal} times the calls/s of {}",
                    side.name(),
                    other.name()
                );
                lines.extend(self.judged(&what, |compared| {
                    let crowd = !compared.cell.alone() && compared.cell.part != Part::Usual;
                    let ratio = compared.ratio(side, other, RATE).filter(|_| crowd)?;
                    Some((ratio >= goal, format!("{ratio:.2}")))
                }));
            }
        }
        let what = format!("ferry, forwarding: at most {MEMORY} of Envoy's memory");
        lines.extend(self.judged(&what, |compared| {
            let ratio = compared.ratio(Side::Forwarding, Side::Envoy, PEAK)?;
            Some((ratio <= MEMORY, format!("{ratio:.2}")))
        }));
        let what = "ferry, forwarding: adds no more to the p50 of one call than the best of them";
        lines.extend(self.judged(what, |compared| {
            let p50 = |side| Some(of(compared.of(side)?, P50));
            let others = [Side::Haproxy, Side::Nginx, Side::Envoy]
                .into_iter()
                .filter_map(p50);
            let best = others.fold(f64::INFINITY, f64::min);
            let own = p50(Side::Forwarding).filter(|_| compared.cell.alone())?;
            Some((own <= best, format!("{own:.0} µs against {best:.0}")))
        }));
        let what = "ferry, coalescing: less CPU, proxy and upstream, than no proxy";
        lines.extend(self.judged(what, |compared| {
            let usual = compared.cell.part == Part::Usual;
            let ratio = compared
                .ratio(Side::Coalescing, Side::None, CPU_OF_BOTH)
                .filter(|_| usual)?;
            Some((ratio < 1.0, format!("{ratio:.2} of it")))
        }));
        lines
    }

    /// Whether a goal was met in every cell that it is judged in.
    fn judged(
        &self,
        what: &str,
        judge: impl Fn(&Compared) -> Option<(bool, String)>,
    ) -> Option<String> {
        let mut word = "met";
        let mut cells = Vec::new();
        for compared in &self.cells {
            if let Some((met, told)) = judge(compared) {
                if !met {
                    word = "MISSED";
                }
                let mark = if met { "" } else { " (missed)" };
                cells.push(format!("{}: {told}{mark}", compared.cell));
            }
        }
        (!cells.is_empty()).then(|| format!("{word}: {what}: {}", cells.join("; ")))
    }
}

impl Workers {
    /// Of two workers' CPU a call against one's, at most.
    const GOAL: f64 = 1.15;

    fn told(&self) -> String {
        let ratio = ratio(&self.two, &self.one, CPU);
        format!(
            "{}: {}: {:.2} µs of CPU a call with two workers, {:.2} with one: {ratio:.2} (goal at \
             most {}); {:.0} and {:.0} calls/s",
            if ratio <= Self::GOAL { "met" } else { "MISSED" },
            self.side.name(),
            of(&self.two, CPU),
            of(&self.one, CPU),
            Self::GOAL,
            of(&self.two, RATE),
            of(&self.one, RATE),
        )
    }
}
