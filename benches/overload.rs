//! What is left of an upstream's capacity when three times as much is asked of it.
//!
//! Over real sockets: callers that neither wait for each other nor longer than a
//! second, the sidecar, and an upstream that is known to carry so much and no
//! more. What counts is what was answered in time, of what the upstream could have
//! done; and how much it did for callers who no longer waited.
//! `cargo bench --bench overload -- --help`.

// What a bench prints is its result. Counts of a run are far below 2^52.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::cast_precision_loss
)]

use std::{num::NonZeroU32, path::Path, time::Duration};

use anyhow::{Result, ensure};
use clap::Parser;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use ferry::{
    cli::bench::{AfterTimeout, Arrivals, Deadline, Form, Load, LoadPlan, Progress, Rate, Report},
    policy::Policy,
    stack::Stack,
    telemetry::Metrics,
};

mod flags;
mod slow;

use flags::{Flags, median};
use slow::{Slow, Work};

/// The arguments of `cargo bench --bench overload -- …`.
#[derive(Debug, Parser)]
#[command(name = "overload")]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
}

/// What the upstream takes for an entry: it carries 5,000 a second.
const AN_ENTRY: Duration = Duration::from_micros(200);
/// What is asked of it, of what it carries.
const LOADS: [f64; 3] = [0.8, 1.5, 3.0];
/// How long a caller waits, and says so.
const PATIENCE: Duration = Duration::from_secs(1);
/// Callers: enough for every call to have one, and their connections.
const CROWD: (u32, u32) = (20_000, 8);
/// What is to be left of the capacity at the last of the loads.
const GOODPUT: f64 = 0.95;
/// How long callers that are still connected may take to leave.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// A round at one load.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// Answered in time, of what the upstream could have done in that time.
    goodput: f64,
    p99: f64,
    /// Refused or given up, of all.
    unserved: f64,
    /// Worked on although nobody waited any more, of what was worked on.
    in_vain: f64,
}

fn main() -> Result<()> {
    let flags = Arguments::parse().flags;
    let mut rounds = vec![Vec::new(); LOADS.len()];
    for round in 0..flags.rounds {
        for (at, load) in LOADS.into_iter().enumerate() {
            eprintln!(
                "round {} of {}: {load} of the capacity",
                round + 1,
                flags.rounds
            );
            rounds[at].push(measure(load, flags.duration.0.max(PATIENCE * 5))?);
        }
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "load / capacity",
        "goodput / capacity",
        "p99 ms",
        "unserved",
        "in vain",
    ]);
    let of =
        |rounds: &[Round], figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
    for (load, rounds) in LOADS.iter().zip(&rounds) {
        table.add_row([
            format!("{load}"),
            format!("{:.3}", of(rounds, |round| round.goodput)),
            format!("{:.0}", of(rounds, |round| round.p99)),
            format!("{:.3}", of(rounds, |round| round.unserved)),
            format!("{:.4}", of(rounds, |round| round.in_vain)),
        ]);
    }
    println!("{table}");
    let worst = rounds.last().expect("there are loads");
    let (goodput, p99) = (
        of(worst, |round| round.goodput),
        of(worst, |round| round.p99),
    );
    let patience = PATIENCE.as_secs_f64() * 1e3;
    let verdict = match goodput >= GOODPUT && p99 < patience {
        true => "met",
        false => "MISSED",
    };
    println!(
        "{verdict}: at {} of the capacity {goodput:.3} of it is answered in time (goal {GOODPUT}), \
         with a p99 of {p99:.0} ms (goal below {patience:.0})",
        LOADS[LOADS.len() - 1]
    );
    Ok(())
}

/// One load, with an upstream and a sidecar of its own.
fn measure(load: f64, duration: Duration) -> Result<Round> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (upstream, sidecar) = runtime.block_on(async {
        let upstream = Slow::start(AN_ENTRY).await;
        let policy = Policy::load(&policy(&upstream), Path::new("bench.yaml"))?;
        let sidecar = Stack::proxy(&policy, None, Metrics::default()).await?;
        anyhow::Ok((upstream, sidecar))
    })?;
    let report = call(&sidecar, load, duration)?;
    let work = upstream.work();
    runtime.block_on(sidecar.drain(DRAIN_PATIENCE));
    // A generator that fell behind would have asked for less.
    let asked = report.total as f64 / duration.as_secs_f64() * AN_ENTRY.as_secs_f64();
    ensure!(
        (asked / load - 1.0).abs() < 0.05,
        "{asked:.2} of the capacity was asked for and not {load}; no figure is taken from this run"
    );
    Ok(round(&report, &work))
}

fn round(report: &Report, work: &Work) -> Round {
    let (served, total) = (report.success as f64, report.total as f64);
    Round {
        goodput: served * AN_ENTRY.as_secs_f64() / report.seconds,
        p99: report.latency_ms.p99,
        unserved: 1.0 - served / total,
        in_vain: 1.0 - served / work.entries as f64,
    }
}

fn call(sidecar: &Stack, load: f64, duration: Duration) -> Result<Report> {
    let some = |n| NonZeroU32::new(n).expect("somebody calls");
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let per_second = (load / AN_ENTRY.as_secs_f64()).round() as u32;
    let plan = LoadPlan {
        target: sidecar.local_addr(),
        form: Form::Legacy,
        batch_size: some(1),
        connections: some(CROWD.1),
        concurrency: some(CROWD.0),
        rate: Some(Rate {
            sessions_per_sec: some(per_second),
            arrivals: Arrivals::Poisson,
        }),
        count: None,
        duration: Some(duration),
        timeout: PATIENCE,
        after_timeout: AfterTimeout::NextSession,
        deadline: Deadline::Announced,
        value_bytes: 250,
        client_id_prefix: "bench-".to_owned(),
    };
    Ok(Load::run(&plan.checked()?, &Progress::default())?)
}

/// Full batches take the upstream 20 ms, a fiftieth of what callers wait.
fn policy(upstream: &Slow) -> String {
    format!(
        "version: 1\nlisten: [{{address: 127.0.0.1:0}}]\nadmin: off\n\
         upstream: {{endpoints: [http://{}]}}\nmethods:\n  \
         - selector: meta.service.mqtt.MqttService/CreateSession\n    \
         batched_field: sessions\n    lift:\n      from: OldCreateSession\n      \
         fields: {{client_id: client_id, session: session}}\n    \
         entry_key: [client_id]\n    require: [client_id, session]\n    \
         window: {{max_entries: 100}}\n",
        upstream.address
    )
}
