//! What a call costs on its way through ferry, beside what it cannot cost less.
//!
//! Three questions, one run, the sides alternating so that a machine that
//! slows down slows all of them:
//!
//! - an **echo** on the same HTTP/2 stack: the ceiling;
//! - **coalescing**: the whole sidecar, from socket to merged batch, over an
//!   upstream that answers at once;
//! - the **embedded** group: the same sidecar over a real Raft group that
//!   syncs what it acknowledges.
//!
//! Each server is a process of its own (this binary again, with a hidden
//! subcommand), fresh for each measurement. A figure is taken only from a run
//! in which every call was answered OK, and as many were counted by the server
//! itself: a load generator that takes an error for an answer is not believed.

// What a bench prints is its result, and its clock is the wall's.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use ferry::cli::Output;

#[allow(dead_code, reason = "another benchmark asks who it is")]
#[path = "../asked.rs"]
mod asked;
#[path = "../calls.rs"]
mod calls;
#[path = "../child.rs"]
mod child;
#[path = "../flags.rs"]
mod flags;
#[path = "../h2load.rs"]
mod h2load;
#[path = "../machine.rs"]
mod machine;
mod measure;
mod report;
mod serve;
mod server;
#[path = "../telling.rs"]
mod telling;

use flags::Flags;
use measure::{Bench, Bout, Case};
use report::Report;

/// The arguments of `cargo bench --bench hot_path -- …`.
#[derive(Debug, Parser)]
#[command(name = "hot_path")]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// Be one of the servers that are measured
    #[command(hide = true)]
    Serve(serve::Serve),
}

fn main() -> Result<ExitCode> {
    let Arguments { flags, role } = Arguments::parse();
    if let Some(Role::Serve(serve)) = role {
        return serve.run();
    }
    let report = run(&flags)?;
    match flags.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => println!("{}", report.table()),
    }
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(ExitCode::SUCCESS)
}

fn run(flags: &Flags) -> Result<Report> {
    let cores = machine::allowed_cores()?;
    ensure!(
        cores.len() >= 2,
        "this process may use {} core: the server and its load need one each; \
         run it where two are allowed",
        cores.len()
    );
    let folder = tempfile::Builder::new().prefix("ferry-bench-").tempdir()?;
    let bench = Bench::new(flags.duration.0, (cores[0], cores[1]), folder.path())?;
    let mut bouts = Vec::new();
    for round in 0..flags.rounds {
        for case in Case::ALL {
            // Whoever goes second finds the machine warmer: they take turns.
            let mut sides = case.sides();
            if round % 2 == 1 {
                sides.reverse();
            }
            for side in sides {
                eprintln!("round {} of {}: {case}, {side}", round + 1, flags.rounds);
                let figures = bench.measure(case, side)?;
                bouts.push(Bout {
                    case,
                    side,
                    round,
                    figures,
                });
            }
        }
    }
    Ok(Report::new(
        flags,
        machine::description(folder.path())?,
        bouts,
    ))
}
