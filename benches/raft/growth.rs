//! What a session costs as things grow, one at a time: its value, the batch it
//! comes in, how many are stored already, how many groups there are.
//!
//! What is stored already is overwritten at random, so that it stays as much
//! while it is measured; the first so many are written before, and kept from
//! one step to the next.

use std::sync::Arc;

use anyhow::{Result, ensure};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use ferry::raft::Runtime;
use serde::Serialize;

use super::{
    Bench,
    figures::{Figures, Medians},
    load::{Load, Sessions, Until, VALUE_BYTES, Which},
    stand::Stand,
};

const BATCH: u32 = 100;
const IN_FLIGHT: u32 = 20;
const VALUES: [usize; 4] = [64, 256, 1_024, 4_096];
const BATCHES: [u32; 4] = [1, 10, 100, 1_000];
const GROUPS: [u32; 4] = [1, 2, 4, 8];
const STORED_LEAST: u64 = 1_000;

/// Every curve.
#[derive(Serialize)]
pub(crate) struct Growth {
    value_bytes: Vec<Step>,
    batch: Vec<Step>,
    stored: Vec<Step>,
    groups: Vec<Step>,
}

/// One point of a curve.
#[derive(Serialize)]
struct Step {
    at: u64,
    #[serde(flatten)]
    medians: Medians,
}

/// What is measured at one point.
#[derive(Clone, Copy, Debug)]
struct Point {
    value_bytes: usize,
    batch: u32,
    groups: u32,
}

const USUAL: Point = Point {
    value_bytes: VALUE_BYTES,
    batch: BATCH,
    groups: 1,
};

pub(crate) fn run(bench: &Bench<'_>, stored_max: u64) -> Result<Growth> {
    ensure!(
        stored_max >= STORED_LEAST,
        "--stored-max {stored_max}: must be at least {STORED_LEAST}"
    );
    let values = VALUES.map(|value_bytes| Point {
        value_bytes,
        ..USUAL
    });
    let batches = BATCHES.map(|batch| Point { batch, ..USUAL });
    let groups = GROUPS.map(|groups| Point { groups, ..USUAL });
    Ok(Growth {
        value_bytes: curve(bench, &values, |point| point.value_bytes as u64)?,
        batch: curve(bench, &batches, |point| point.batch.into())?,
        stored: stored(bench, stored_max)?,
        groups: curve(bench, &groups, |point| point.groups.into())?,
    })
}

fn curve(bench: &Bench<'_>, points: &[Point], at: fn(&Point) -> u64) -> Result<Vec<Step>> {
    let figures = bench.by_turns(
        points,
        |point| format!("{point:?}"),
        |point, _| {
            let sessions = Arc::new(Sessions::new(point.value_bytes));
            let stand = Stand::open(bench.folder, point.groups, Runtime::Shared)?;
            let load = load(point.batch, Which::New);
            load.run(&stand, &sessions, Until::Elapsed(bench.duration / 4))?;
            let figures = load.run(&stand, &sessions, Until::Elapsed(bench.duration))?;
            stand.close()?;
            Ok(figures)
        },
    )?;
    let steps = points.iter().zip(figures).map(|(point, rounds)| Step {
        at: at(point),
        medians: Medians::of(rounds),
    });
    Ok(steps.collect())
}

const fn load(batch: u32, which: Which) -> Load {
    Load {
        batch,
        in_flight: IN_FLIGHT,
        which,
    }
}

fn stored(bench: &Bench<'_>, most: u64) -> Result<Vec<Step>> {
    let steps: Vec<u64> =
        std::iter::successors(Some(STORED_LEAST), |stored| stored.checked_mul(10))
            .take_while(|stored| *stored <= most)
            .collect();
    let mut figures: Vec<Vec<Figures>> = steps.iter().map(|_| Vec::new()).collect();
    for round in 0..bench.rounds {
        let sessions = Arc::new(Sessions::new(VALUE_BYTES));
        let stand = Stand::open(bench.folder, 1, Runtime::Shared)?;
        for (stored, figures) in steps.iter().zip(&mut figures) {
            eprintln!(
                "round {} of {}: {stored} sessions stored",
                round + 1,
                bench.rounds
            );
            load(BATCH, Which::New).run(&stand, &sessions, Until::Written(*stored))?;
            let over = load(BATCH, Which::Among(*stored));
            figures.push(over.run(&stand, &sessions, Until::Elapsed(bench.duration))?);
        }
        stand.close()?;
    }
    let steps = steps.into_iter().zip(figures).map(|(at, rounds)| Step {
        at,
        medians: Medians::of(rounds),
    });
    Ok(steps.collect())
}

impl Growth {
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header([
            "what grows",
            "to",
            "sessions/s",
            "slowest–fastest",
            "CPU µs a session",
            "p50 ms",
            "p99 ms",
            "of the first",
        ]);
        let curves = [
            ("bytes of a value", &self.value_bytes),
            ("sessions of a batch", &self.batch),
            ("sessions stored", &self.stored),
            ("groups", &self.groups),
        ];
        for (name, steps) in curves {
            for (place, step) in steps.iter().enumerate() {
                let figures = step.medians.figures;
                table.add_row([
                    if place == 0 { name } else { "" }.to_owned(),
                    step.at.to_string(),
                    format!("{:.0}", figures.sessions_per_second),
                    step.medians.range(),
                    format!("{:.2}", figures.cpu_us_per_session),
                    format!("{:.2}", figures.p50_ms),
                    format!("{:.2}", figures.p99_ms),
                    format!("{:.2}", step.medians.ratio_to(&steps[0].medians)),
                ]);
            }
        }
        format!(
            "{table}\nvalues of {VALUE_BYTES} bytes, batches of {BATCH}, {IN_FLIGHT} in flight, one \
             group, unless it is what grows; what is stored is overwritten at random"
        )
    }
}
