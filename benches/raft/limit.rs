//! The groups against RocksDB written by hand, long enough that flushes and
//! compaction count.

use std::sync::Arc;

use anyhow::Result;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use ferry::raft::Runtime;
use serde::Serialize;

use super::{
    Bench,
    figures::{Medians, verdict},
    load::{Load, Sessions, Until, VALUE_BYTES, Which},
    raw,
    stand::Stand,
};

const BATCH: u32 = 100;
const IN_FLIGHT: u32 = 20;
/// Of RocksDB by hand: what one group is to reach, and what four are.
const GOALS: [f64; 2] = [0.8, 1.0];

/// All sides.
#[derive(Serialize)]
pub(crate) struct Limit {
    raw: Medians,
    one_group: Medians,
    four_groups: Medians,
    /// Of RocksDB's sessions a second.
    one_group_ratio: f64,
    four_groups_ratio: f64,
}

pub(crate) fn run(bench: &Bench<'_>) -> Result<Limit> {
    let name = |groups| match groups {
        0 => "RocksDB by hand".to_owned(),
        groups => format!("{groups} groups of a hundred in a batch"),
    };
    let figures = bench.by_turns(&[0, 1, 4], name, |groups, _| {
        let sessions = Arc::new(Sessions::new(VALUE_BYTES));
        if groups == 0 {
            return raw::run(bench.folder, BATCH, &sessions, bench.sustained);
        }
        let stand = Stand::open(bench.folder, groups, Runtime::Shared)?;
        let load = Load {
            batch: BATCH,
            in_flight: IN_FLIGHT,
            which: Which::New,
        };
        let figures = load.run(&stand, &sessions, Until::Elapsed(bench.sustained))?;
        stand.close()?;
        Ok(figures)
    })?;
    let mut medians = figures.into_iter().map(Medians::of);
    let mut next = || medians.next().expect("three sides were measured");
    let (raw, one_group, four_groups) = (next(), next(), next());
    Ok(Limit {
        one_group_ratio: one_group.ratio_to(&raw),
        four_groups_ratio: four_groups.ratio_to(&raw),
        raw,
        one_group,
        four_groups,
    })
}

impl Limit {
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header([
            "synced batches of 100",
            "sessions/s",
            "slowest–fastest",
            "p50 ms",
            "p99 ms",
            "CPU µs a session",
            "proposals a sync",
            "sync ms",
            "of RocksDB",
        ]);
        let sides = [
            (
                format!("RocksDB by hand, {} threads", raw::THREADS),
                &self.raw,
                None,
            ),
            (
                format!("one group, {IN_FLIGHT} in flight"),
                &self.one_group,
                Some(self.one_group_ratio),
            ),
            (
                format!("four groups, {IN_FLIGHT} in flight"),
                &self.four_groups,
                Some(self.four_groups_ratio),
            ),
        ];
        for (name, medians, ratio) in sides {
            let figures = medians.figures;
            let counted = |figure: f64, digits: usize| match ratio {
                None => String::new(),
                Some(_) => format!("{figure:.digits$}"),
            };
            table.add_row([
                name,
                format!("{:.0}", figures.sessions_per_second),
                medians.range(),
                format!("{:.2}", figures.p50_ms),
                format!("{:.2}", figures.p99_ms),
                format!("{:.2}", figures.cpu_us_per_session),
                counted(figures.proposals_per_sync, 1),
                counted(figures.sync_ms, 2),
                ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            ]);
        }
        format!(
            "{table}\n{}\n{}",
            verdict(
                "one group, of RocksDB by hand:",
                self.one_group_ratio,
                GOALS[0]
            ),
            verdict(
                "four groups, of RocksDB by hand:",
                self.four_groups_ratio,
                GOALS[1]
            ),
        )
    }
}
