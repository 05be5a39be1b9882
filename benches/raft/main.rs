//! How much of the disk and the cores the Raft groups turn into writes.
//!
//! Five questions, each a part that can be run alone (`--only`):
//!
//! - **limit**: against RocksDB itself, written by hand with synced batches;
//! - **article**: the article's table, one proposal or a hundred entries, few in
//!   flight or many, one group or four, on one runtime or one each;
//! - **nodes**: three nodes on this machine against one, as real processes;
//! - **growth**: what a session costs as values, batches, the number of stored
//!   sessions and the number of groups grow;
//! - **etcd**: against etcd on the same disk, both over their sockets.
//!
//! Within a part the sides alternate, each measurement with a directory of its
//! own, and every figure is the median of the rounds; a ratio is the median of
//! the rounds' ratios, since a round's sides were measured one after the other.
//! No figure is taken from a load in which a write failed.

// What a bench prints is its result, and its clock is the wall's.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

use std::{collections::BTreeMap, path::Path};

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};
use ferry::cli::{Output, bench::at_least_one};
use serde::Serialize;

mod article;
#[path = "../calls.rs"]
mod calls;
#[path = "../child.rs"]
mod child;
mod etcd;
#[path = "../etcd_server.rs"]
mod etcd_server;
mod figures;
#[path = "../flags.rs"]
mod flags;
mod growth;
mod limit;
mod load;
#[allow(dead_code, reason = "another benchmark asks more of the machine")]
#[path = "../machine.rs"]
mod machine;
mod nodes;
mod raw;
#[path = "../running.rs"]
mod running;
mod stand;
#[path = "../turns.rs"]
mod turns;

use flags::{Flags, Measurement, measurement};

/// Rounds and the length of one measurement, unless told otherwise: so that all
/// parts end within a quarter of an hour.
const ROUNDS: &str = "3";
const DURATION: &str = "1500ms";

/// The arguments of `cargo bench --bench raft -- …`.
#[derive(Debug, Parser)]
#[command(name = "raft")]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Length of one measurement where flushes and compaction must count: of
    /// the limit's and of etcd's
    #[arg(long, default_value = "30s", value_parser = measurement)]
    sustained: Measurement,
    /// The article's table: entries of one proposal
    #[arg(long, value_delimiter = ',', default_value = "1,100", value_parser = at_least_one::<u32>)]
    batch: Vec<u32>,
    /// The article's table: proposals in flight
    #[arg(long, value_delimiter = ',', default_value = "1,20,100,1024", value_parser = at_least_one::<u32>)]
    in_flight: Vec<u32>,
    /// Growth: the most sessions stored, a power of ten such as 10000000
    #[arg(long, default_value = "1000000", value_parser = at_least_one::<u64>)]
    stored_max: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Limit,
    Article,
    Nodes,
    Growth,
    Etcd,
}

/// What all parts go by.
struct Bench<'a> {
    rounds: u32,
    duration: std::time::Duration,
    sustained: std::time::Duration,
    /// Where each measurement's directory is made.
    folder: &'a Path,
}

/// The result of a run; what was not asked for is not there.
#[derive(Serialize)]
struct Report {
    machine: BTreeMap<&'static str, String>,
    rounds: u32,
    /// Of one measurement, and of a sustained one.
    seconds: f64,
    sustained_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<limit::Limit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    article: Option<article::Article>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<nodes::Compared>,
    #[serde(skip_serializing_if = "Option::is_none")]
    growth: Option<growth::Growth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd: Option<etcd::Beside>,
}

fn main() -> Result<()> {
    let command = Arguments::command()
        .mut_arg("rounds", |rounds| rounds.default_value(ROUNDS))
        .mut_arg("duration", |duration| duration.default_value(DURATION));
    let arguments = Arguments::from_arg_matches(&command.get_matches())?;
    let folder = tempfile::Builder::new().prefix("ferry-bench-").tempdir()?;
    let bench = Bench {
        rounds: arguments.flags.rounds,
        duration: arguments.flags.duration.0,
        sustained: arguments.sustained.0,
        folder: folder.path(),
    };
    let asked = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let limit = asked(Part::Limit).then(|| limit::run(&bench)).transpose()?;
    let article = asked(Part::Article)
        .then(|| article::run(&bench, &arguments.batch, &arguments.in_flight))
        .transpose()?;
    let nodes = asked(Part::Nodes).then(|| nodes::run(&bench)).transpose()?;
    let growth = asked(Part::Growth)
        .then(|| growth::run(&bench, arguments.stored_max))
        .transpose()?;
    let etcd = asked(Part::Etcd).then(|| etcd::run(&bench)).transpose()?;
    let report = Report {
        machine: machine::description(folder.path())?,
        rounds: bench.rounds,
        seconds: bench.duration.as_secs_f64(),
        sustained_seconds: bench.sustained.as_secs_f64(),
        limit,
        article,
        nodes,
        growth,
        etcd,
    };
    match arguments.flags.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => println!("{}", report.tables()),
    }
    Ok(())
}

impl Report {
    fn tables(&self) -> String {
        let parts = [
            self.limit.as_ref().map(limit::Limit::table),
            self.article.as_ref().map(article::Article::table),
            self.nodes.as_ref().map(nodes::Compared::table),
            self.growth.as_ref().map(growth::Growth::table),
            self.etcd.as_ref().map(etcd::Beside::table),
        ];
        let mut told: Vec<_> = parts.into_iter().flatten().collect();
        let machine = self.machine.iter();
        let machine: Vec<_> = machine.map(|(name, is)| format!("{name}: {is}")).collect();
        told.push(format!(
            "medians of {} rounds of {} s, and of {} s for the limit and etcd, the sides \
             alternating\n{}",
            self.rounds,
            self.seconds,
            self.sustained_seconds,
            machine.join("\n")
        ));
        told.join("\n\n")
    }
}

impl Bench<'_> {
    fn by_turns<S: Copy, F>(
        &self,
        sides: &[S],
        name: impl Fn(S) -> String,
        measure: impl FnMut(S, u32) -> Result<F>,
    ) -> Result<Vec<Vec<F>>> {
        turns::by_turns(self.rounds, sides, name, measure)
    }
}
