//! ferry beside the proxies that one would take otherwise: nginx, HAProxy and
//! Envoy, as sidecars of one core.
//!
//! The proxy has one core; the upstream and the load (`h2load`, which knows
//! nothing of any of them) have the other. Two upstreams: one that costs next
//! to nothing, so that the proxy is the limit, and tonic as it comes, since what
//! coalescing saves is the upstream's work. All sides of a cell are measured in
//! turn, in an order that turns from round to round, each with a fresh proxy and
//! a fresh upstream.
//!
//! A load generator that takes a gRPC error for an answer is not believed: a
//! real client's call must have gone through before, the replies must have
//! exactly the bytes that the upstream's have (an error has none), and the
//! upstream must have counted each call once, with all its bytes.

// What a bench prints is its result, and its clock is the wall's.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{CommandFactory, FromArgMatches, Parser};
use ferry::cli::Output;

#[path = "../asked.rs"]
mod asked;
mod cell;
#[path = "../child.rs"]
mod child;
#[path = "../flags.rs"]
mod flags;
#[path = "../h2load.rs"]
mod h2load;
mod lean;
#[allow(dead_code, reason = "another benchmark asks more of the machine")]
#[path = "../machine.rs"]
mod machine;
mod measure;
mod proxy;
mod report;
#[path = "../running.rs"]
mod running;
#[path = "../telling.rs"]
mod telling;
#[path = "../turns.rs"]
mod turns;
mod upstream;
mod usual;

use cell::{Cell, Part};
use flags::Flags;
use measure::Bench;
use proxy::{Place, Side};
use report::{Compared, Report, Rounds, Workers};
use turns::by_turns;

/// Unless told otherwise: so that all parts end within a quarter of an hour.
const ROUNDS: &str = "3";
const DURATION: &str = "2s";

/// The arguments of `cargo bench --bench proxies -- …`.
#[derive(Debug, Parser)]
#[command(name = "proxies")]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// Be the upstream
    #[command(hide = true)]
    Serve(upstream::Serve),
}

fn main() -> Result<ExitCode> {
    let command = Arguments::command()
        .mut_arg("rounds", |rounds| rounds.default_value(ROUNDS))
        .mut_arg("duration", |duration| duration.default_value(DURATION));
    let Arguments { flags, only, role } = Arguments::from_arg_matches(&command.get_matches())?;
    if let Some(Role::Serve(serve)) = role {
        return serve.run();
    }
    let report = run(&flags, |part| only.is_empty() || only.contains(&part))?;
    match flags.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => println!("{}", report.table()),
    }
    Ok(ExitCode::SUCCESS)
}

fn run(flags: &Flags, asked: impl Fn(Part) -> bool) -> Result<Report> {
    let cores = machine::allowed_cores()?;
    ensure!(
        cores.len() >= 2,
        "this process may use {} core: a proxy and its load need one each; run it where two are \
         allowed",
        cores.len()
    );
    let folder = tempfile::Builder::new().prefix("ferry-bench-").tempdir()?;
    let bench = Bench {
        duration: flags.duration.0,
        proxy_core: cores[0],
        load_core: cores[1],
        folder: folder.path().to_owned(),
    };
    let parts = [Part::Small, Part::Large, Part::Streams, Part::Usual];
    let mut cells = Vec::new();
    for cell in parts
        .into_iter()
        .filter(|part| asked(*part))
        .flat_map(Cell::of)
    {
        let sides = cell.sides();
        let figures = by_turns(
            flags.rounds,
            &sides,
            |side| format!("{cell}, {}", side.name()),
            |side, _| bench.pinned(cell, side),
        )?;
        let sides = sides.into_iter().zip(figures);
        let sides = sides
            .map(|(side, rounds)| Rounds { side, rounds })
            .collect();
        cells.push(Compared { cell, sides });
    }
    let mut workers = Vec::new();
    if asked(Part::Workers) {
        let cell = Cell::of(Part::Workers)[0];
        for side in [Side::Forwarding, Side::Coalescing] {
            let mut figures = by_turns(
                flags.rounds,
                &[1, 2],
                |workers| format!("{}, {workers} workers", side.name()),
                |workers, _| bench.measure(cell, side, Place::Workers(workers)),
            )?;
            let two = figures.pop().expect("two sides were measured");
            let one = figures.pop().expect("two sides were measured");
            workers.push(Workers { side, one, two });
        }
    }
    Ok(Report {
        machine: machine::description(folder.path())?,
        rounds: flags.rounds,
        seconds: flags.duration.0.as_secs_f64(),
        cells,
        workers,
    })
}
