//! The article's table: what one proposal carries, how many are in flight, how
//! many groups there are, and whether they share their threads.

use std::sync::Arc;

use anyhow::Result;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use ferry::raft::Runtime;
use serde::Serialize;

use super::{
    Bench,
    figures::Medians,
    load::{Load, Sessions, Until, VALUE_BYTES, Which},
    stand::Stand,
};

/// Groups and their threads, in the table's order.
const SIDES: [(u32, Runtime); 4] = [
    (1, Runtime::Shared),
    (1, Runtime::Dedicated),
    (4, Runtime::Shared),
    (4, Runtime::Dedicated),
];
/// Below this, four groups are slower than one and it is not the noise.
const NOISE: f64 = 0.9;

/// All cells.
#[derive(Serialize)]
pub(crate) struct Article {
    rows: Vec<Row>,
}

/// One batch size with so many proposals in flight.
#[derive(Serialize)]
struct Row {
    batch: u32,
    in_flight: u32,
    one_shared: Medians,
    one_dedicated: Medians,
    four_shared: Medians,
    four_dedicated: Medians,
    /// Sessions a second of four groups against one's.
    shared_ratio: f64,
    dedicated_ratio: f64,
}

pub(crate) fn run(bench: &Bench<'_>, batches: &[u32], in_flights: &[u32]) -> Result<Article> {
    let mut rows = Vec::new();
    for batch in batches {
        for in_flight in in_flights {
            rows.push(row(bench, *batch, *in_flight)?);
        }
    }
    Ok(Article { rows })
}

fn row(bench: &Bench<'_>, batch: u32, in_flight: u32) -> Result<Row> {
    let name = |(groups, runtime)| {
        format!("batch {batch}, {in_flight} in flight, {groups} groups, {runtime:?}")
    };
    let figures = bench.by_turns(&SIDES, name, |(groups, runtime), _| {
        let sessions = Arc::new(Sessions::new(VALUE_BYTES));
        let stand = Stand::open(bench.folder, groups, runtime)?;
        let load = Load {
            batch,
            in_flight,
            which: Which::New,
        };
        load.run(&stand, &sessions, Until::Elapsed(bench.duration / 4))?;
        let figures = load.run(&stand, &sessions, Until::Elapsed(bench.duration))?;
        stand.close()?;
        Ok(figures)
    })?;
    let mut medians = figures.into_iter().map(Medians::of);
    let mut next = || medians.next().expect("four sides were measured");
    let (one_shared, one_dedicated, four_shared, four_dedicated) = (next(), next(), next(), next());
    Ok(Row {
        batch,
        in_flight,
        shared_ratio: four_shared.ratio_to(&one_shared),
        dedicated_ratio: four_dedicated.ratio_to(&one_dedicated),
        one_shared,
        one_dedicated,
        four_shared,
        four_dedicated,
    })
}

impl Article {
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header([
            "batch × in flight",
            "groups, runtime",
            "sessions/s",
            "slowest–fastest",
            "proposals/s",
            "p50 ms",
            "p99 ms",
            "CPU µs a session",
            "proposals a sync",
            "of one group",
        ]);
        let mut slower = Vec::new();
        for row in &self.rows {
            let cell = format!("{} × {}", row.batch, row.in_flight);
            let sides = [
                ("one, shared", &row.one_shared, None),
                ("one, dedicated", &row.one_dedicated, None),
                ("four, shared", &row.four_shared, Some(row.shared_ratio)),
                (
                    "four, dedicated",
                    &row.four_dedicated,
                    Some(row.dedicated_ratio),
                ),
            ];
            for (at, (name, medians, ratio)) in sides.into_iter().enumerate() {
                let figures = medians.figures;
                if ratio.is_some_and(|ratio| ratio < NOISE) {
                    slower.push(format!("{cell} {name}"));
                }
                table.add_row([
                    if at == 0 { cell.clone() } else { String::new() },
                    name.to_owned(),
                    format!("{:.0}", figures.sessions_per_second),
                    medians.range(),
                    format!("{:.0}", figures.sessions_per_second / f64::from(row.batch)),
                    format!("{:.2}", figures.p50_ms),
                    format!("{:.2}", figures.p99_ms),
                    format!("{:.2}", figures.cpu_us_per_session),
                    format!("{:.1}", figures.proposals_per_sync),
                    ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                ]);
            }
        }
        let verdict = match &slower[..] {
            [] => "met: four groups are in no cell more than 10 % slower than one".to_owned(),
            slower => format!(
                "MISSED: four groups are more than 10 % slower than one in {}",
                slower.join("; ")
            ),
        };
        format!("{table}\n{verdict}")
    }
}
