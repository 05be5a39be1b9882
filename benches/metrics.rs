//! What recording metrics costs a call.
//!
//! Two sidecars, each a process of its own on the same core, over an upstream
//! that answers at once: one records every metric, the other none, and both are
//! the same in all else. They are loaded by turns, in slices so short that a
//! machine which slows down slows both, and the figure is the median of the
//! pairs' differences: what a call costs is itself far less steady than that.
//!
//! Where the difference drowns in what a machine's neighbours do, the recording
//! itself says more: the same calls of it, in a loop, on batches of a crowd's
//! size. The second table has that.
//!
//! Not in it: a scrape, which costs the same however many calls there are, and
//! the clock's readings, which the windows need anyway.

// What a bench prints is its result, and its clock is the wall's.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

use std::{
    fs,
    future::{Ready, ready},
    hint::black_box,
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use ferry::{
    batch::{Answering, Batch, ClosedBy, Sealing},
    cli::{
        Output,
        bench::{AfterTimeout, Deadline, Form, Load, LoadPlan, Progress, parse_duration},
    },
    forward::Forward,
    policy::{Listen, Policy},
    stack::{Batches, Stack},
    telemetry::Metrics,
    upstream::{BatchReply, Call},
};
use serde::Serialize;
use tokio::{runtime::Builder, sync::oneshot};
use tonic::{Status, service::Routes};
use tower::Service;

/// Callers: connections, and calls under way on each. Small batches pay for
/// what is recorded a batch among few.
const CROWDS: [(u32, u32); 3] = [(1, 1), (16, 10), (4, 100)];
/// One that does not answer is a fault.
const PATIENCE: Duration = Duration::from_secs(60);
const VALUE_BYTES: usize = 250;
/// Batches whose recording is measured by itself: a lone caller's, and larger.
const SIZES: [u32; 4] = [1, 10, 100, 500];
/// Calls in one run of that, and runs.
const RECORDED_CALLS: u32 = 1_000_000;
const RUNS: u32 = 15;
/// What recording may cost of a call's CPU.
const AIM: f64 = 0.03;

/// The arguments of `cargo bench --bench metrics -- …`.
#[derive(Debug, Parser)]
#[command(name = "metrics")]
struct Arguments {
    /// Pairs of slices, a crowd
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(3..=999))]
    rounds: u32,
    /// Length of one slice (units: ms, s)
    #[arg(long, default_value = "500ms", value_parser = parse_duration)]
    duration: Duration,
    /// How to print the report
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// Be one of the servers that are measured
    #[command(hide = true)]
    Serve {
        /// Record metrics
        #[arg(long)]
        recording: bool,
    },
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(Role::Serve { recording }) = arguments.role {
        return serve(recording);
    }
    let report = Report {
        sidecars: compare(&arguments)?,
        recording: SIZES.map(Recording::of).into(),
    };
    match arguments.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => println!("{}", table(&report, &arguments)),
    }
    Ok(ExitCode::SUCCESS)
}

/// All of it.
#[derive(Debug, Serialize)]
struct Report {
    sidecars: Vec<Costs>,
    recording: Vec<Recording>,
}

/// What the recording of a batch takes by itself.
#[derive(Debug, Serialize)]
struct Recording {
    calls_a_batch: u32,
    ns_a_batch: f64,
    ns_a_call: f64,
}

impl Recording {
    /// The median over runs of a loop long enough for the clock.
    fn of(calls: u32) -> Self {
        let metrics = Metrics::default();
        let method = metrics
            .method("/bench.Metrics/Record")
            .expect("it is the first");
        let now = Instant::now();
        let micros = |n: u32| now + Duration::from_micros(u64::from(n));
        let arrivals: Vec<_> = (0..calls).map(micros).collect();
        let (sent, answered) = (micros(2_000), micros(5_000));
        let record = || {
            method.on_sealed(&Sealing {
                now: sent,
                entries: calls,
                bytes: calls as usize * VALUE_BYTES,
                closed_by: ClosedBy::Ready,
                arrivals: black_box(&arrivals),
                cancelled: 0,
                expired: 0,
            });
            method.on_answered(&Answering {
                now: answered,
                asked: sent,
                sent,
                handed_over: Some(sent),
                answered,
                arrivals: black_box(&arrivals),
                entries: calls,
                abandoned: 0,
                ghosts: 0,
                committed: calls,
            });
        };
        let batches = (RECORDED_CALLS / calls).max(1);
        let run = |_| {
            let start = Instant::now();
            (0..batches).for_each(|_| record());
            start.elapsed().as_secs_f64() * 1e9 / f64::from(batches)
        };
        let ns_a_batch = median((0..RUNS).map(run).collect());
        Self {
            calls_a_batch: calls,
            ns_a_batch,
            ns_a_call: ns_a_batch / f64::from(calls),
        }
    }
}

/// What recording costs one crowd's calls: medians, and the quartiles of the
/// pairs' differences.
#[derive(Debug, Serialize)]
struct Costs {
    connections: u32,
    streams: u32,
    cpu_us_unrecorded: f64,
    cpu_us_recorded: f64,
    cost_us: f64,
    cost_us_quartiles: (f64, f64),
    /// Of what a call costs without recording.
    cost_ratio: f64,
}

fn compare(arguments: &Arguments) -> Result<Vec<Costs>> {
    let (mut without, mut with) = (Served::start(false)?, Served::start(true)?);
    let mut costs = Vec::new();
    for (connections, streams) in CROWDS {
        let slice =
            |served: &mut Served| served.cpu_us_a_call(connections, streams, arguments.duration);
        // Caches and connections' buffers fill, and are not counted.
        slice(&mut without)?;
        slice(&mut with)?;
        let mut pairs = Vec::new();
        for round in 0..arguments.rounds {
            // Whoever goes second finds the machine warmer: they take turns.
            pairs.push(match round % 2 {
                0 => {
                    let first = slice(&mut without)?;
                    (first, slice(&mut with)?)
                }
                _ => {
                    let first = slice(&mut with)?;
                    (slice(&mut without)?, first)
                }
            });
        }
        eprintln!("{connections} × {streams}: {} pairs", pairs.len());
        costs.push(Costs::of(connections, streams, &pairs));
    }
    without.end()?;
    with.end()?;
    Ok(costs)
}

impl Costs {
    fn of(connections: u32, streams: u32, pairs: &[(f64, f64)]) -> Self {
        let mut differences: Vec<_> = pairs.iter().map(|(off, on)| on - off).collect();
        differences.sort_by(f64::total_cmp);
        let quarter = differences.len() / 4;
        let off = median(pairs.iter().map(|(off, _)| *off).collect());
        let cost = median(differences.clone());
        Self {
            connections,
            streams,
            cpu_us_unrecorded: off,
            cpu_us_recorded: median(pairs.iter().map(|(_, on)| *on).collect()),
            cost_us: cost,
            cost_us_quartiles: (
                differences[quarter],
                differences[differences.len() - 1 - quarter],
            ),
            cost_ratio: cost / off,
        }
    }
}

/// The middle of `values`, the upper one of two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn table(report: &Report, arguments: &Arguments) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "connections × streams",
        "CPU µs a call, unrecorded",
        "recorded",
        "the difference",
        "its quartiles",
        "of a call",
        "aim",
    ]);
    for one in &report.sidecars {
        let (low, high) = one.cost_us_quartiles;
        table.add_row([
            format!("{} × {}", one.connections, one.streams),
            format!("{:.2}", one.cpu_us_unrecorded),
            format!("{:.2}", one.cpu_us_recorded),
            format!("{:.2}", one.cost_us),
            format!("{low:.2} to {high:.2}"),
            format!("{:.1} %", 100.0 * one.cost_ratio),
            format!("{:.0} %", 100.0 * AIM),
        ]);
    }
    let slices = arguments.duration.as_secs_f64();
    let pairs = arguments.rounds;
    let mut recording = Table::new();
    recording.load_style(UTF8_FULL_CONDENSED).set_header([
        "calls a batch",
        "recording, ns a batch",
        "ns a call",
    ]);
    for one in &report.recording {
        recording.add_row([
            one.calls_a_batch.to_string(),
            format!("{:.0}", one.ns_a_batch),
            format!("{:.1}", one.ns_a_call),
        ]);
    }
    format!(
        "{table}\nmedians of {pairs} pairs of slices of {slices} s, the sides alternating\n\
         {recording}\nmedians of {RUNS} runs"
    )
}

/// A running server; dropped, it is killed.
struct Served {
    process: Child,
    /// Until it is to end.
    input: Option<ChildStdin>,
    address: SocketAddr,
    slices: u32,
}

impl Served {
    fn start(recording: bool) -> Result<Self> {
        let mut process = Command::new("taskset");
        process.args(["--cpu-list", "0"]);
        process.arg(std::env::current_exe()?).arg("serve");
        if recording {
            process.arg("--recording");
        }
        let mut process = process
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("taskset is needed: scripts/setup bench installs it")?;
        let mut line = String::new();
        let output = process.stdout.take().expect("its output is piped");
        BufReader::new(output).read_line(&mut line)?;
        Ok(Self {
            input: process.stdin.take(),
            process,
            address: line.trim().parse().context("it says where it listens")?,
            slices: 0,
        })
    }

    /// What a call cost of CPU while `streams` on each of `connections` were
    /// under way for `duration`.
    fn cpu_us_a_call(&mut self, connections: u32, streams: u32, duration: Duration) -> Result<f64> {
        self.slices += 1;
        let some = |n| NonZeroU32::new(n).expect("a crowd has somebody in it");
        let plan = LoadPlan {
            target: self.address,
            form: Form::Legacy,
            batch_size: NonZeroU32::MIN,
            connections: some(connections),
            concurrency: some(connections * streams),
            rate: None,
            count: None,
            duration: Some(duration),
            timeout: PATIENCE,
            after_timeout: AfterTimeout::NextSession,
            deadline: Deadline::Kept,
            value_bytes: VALUE_BYTES,
            client_id_prefix: format!("slice-{}-", self.slices),
        };
        let before = self.cpu()?;
        let report = Load::run(&plan.checked()?, &Progress::default())?;
        let used = self.cpu()?.saturating_sub(before);
        ensure!(
            report.failed + report.timeout == 0 && report.success > 0,
            "{} of {} calls failed or timed out; no figure is taken from this run",
            report.failed + report.timeout,
            report.total
        );
        Ok(used.as_secs_f64() * 1e6 / report.success as f64)
    }

    /// What its threads have used of their core.
    fn cpu(&self) -> Result<Duration> {
        let mut nanos = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let told = fs::read_to_string(thread?.path().join("schedstat"))?;
            let running = told.split_ascii_whitespace().next().unwrap_or_default();
            nanos += running.parse::<u64>().context("schedstat counts")?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    fn end(mut self) -> Result<()> {
        drop(self.input.take());
        let status = self.process.wait()?;
        ensure!(status.success(), "a server ended with {status}");
        Ok(())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It has ended, mostly: then there is nobody to kill.
        let _ = self.process.kill();
    }
}

/// Serves until its input ends.
fn serve(recording: bool) -> Result<ExitCode> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut policy = Policy::embedded();
        policy.listen = vec![Listen::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))];
        policy.admin = None;
        let metrics = match recording {
            true => Metrics::default(),
            false => Metrics::unrecorded(),
        };
        let forward = Forward::Local(Box::new(Routes::default().prepare()));
        let stack = Stack::over(&policy, Batches::new(AtOnce), forward, metrics).await?;
        let mut output = io::stdout();
        writeln!(output, "{}", stack.local_addr())?;
        output.flush()?;
        let (ended, end) = oneshot::channel();
        thread::spawn(move || {
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            let _ = ended.send(());
        });
        end.await.context("its input ends")?;
        stack.drain(Duration::from_secs(2)).await;
        Ok(ExitCode::SUCCESS)
    })
}

/// An upstream that costs nothing, so that what is left is ferry's own.
#[derive(Clone, Debug)]
struct AtOnce;

impl Service<Batch<Call>> for AtOnce {
    type Response = BatchReply;
    type Error = Status;
    type Future = Ready<Result<BatchReply, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Batch<Call>) -> Self::Future {
        ready(Ok(BatchReply::Same(Bytes::new())))
    }
}
