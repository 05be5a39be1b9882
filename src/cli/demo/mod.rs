//! `ferry demo`: the article's experiment, live, on this machine: real clients
//! over loopback sockets, a real Raft group on a real disk, with and without
//! ferry between them. It ends with a table, and with success only if every
//! session that was ever acknowledged is there.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::runtime::Runtime;

mod legs;
mod outcome;
mod stand;
mod verify;

use super::{
    INTERRUPTED, Output, Usage,
    bench::{PlanError, Report, Running, Sessions, at_least_one, milliseconds},
    print_json,
    signals::interrupted,
};
use legs::{Clients, LEGS, Leg};
use outcome::{LegOutcome, Outcome};
use stand::Stand;
use verify::read_back;

/// Longest leg, in seconds.
const MAX_SECONDS: u64 = 3_600;
/// How long servers may take to stop after an interruption.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// The flags of `ferry demo`.
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// End each leg after this many sessions
    #[arg(long, value_parser = at_least_one::<u64>)]
    count: Option<u64>,
    /// Seconds a leg; the legs of impatient clients take half of it
    #[arg(long, default_value = "8", value_parser = at_least_one::<u64>)]
    seconds: u64,
    /// How to print the outcome
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Runs `ferry demo`.
///
/// # Errors
/// If the flags make no sense, a server does not start, or an acknowledged
/// session is missing.
pub fn run(flags: Demo) -> Result<ExitCode> {
    flags.check().map_err(Usage::from)?;
    // Dropped last: the servers must have let go of it.
    let directory = tempfile::Builder::new()
        .prefix("ferry-demo-")
        .tempdir()
        .context("no temporary directory for the groups; set TMPDIR to one with room")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("ferry-server")
        .enable_all()
        .build()
        .context("the servers' runtime does not start")?;
    let outcome = runtime.block_on(until_interrupted(&flags, directory.path()));
    stop(runtime);
    let path = directory.path().to_owned();
    directory
        .close()
        .with_context(|| format!("{} cannot be removed", path.display()))?;
    match outcome? {
        Some(outcome) => flags.print(&outcome),
        None => {
            eprintln!("interrupted: nothing was compared; the temporary directory is removed");
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

impl Demo {
    fn check(&self) -> Result<(), PlanError> {
        if self.seconds > MAX_SECONDS {
            return Err(PlanError::new(
                "--seconds",
                self.seconds,
                format!("must be 1 to {MAX_SECONDS}"),
                "8 shows the effect in a minute",
            ));
        }
        Ok(())
    }

    fn print(&self, outcome: &Outcome) -> Result<ExitCode> {
        let verified = &outcome.verified;
        match self.output {
            Output::Json => print_json(outcome)?,
            Output::Table => {
                println!("{}\n", outcome.table());
                outcome
                    .ratio_lines()
                    .iter()
                    .for_each(|line| println!("{line}"));
                println!("\n{}\n", outcome.sentence());
                println!(
                    "{} acknowledged sessions looked up, {} of them read back over the socket: \
                     {} missing",
                    verified.acknowledged, verified.sampled, verified.missing
                );
            }
        }
        if verified.missing > 0 {
            bail!("{} acknowledged sessions are missing", verified.missing);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Every leg's outcome; `None` if the process was asked to end before.
async fn until_interrupted(flags: &Demo, directory: &Path) -> Result<Option<Outcome>> {
    let mut stand = None;
    let ended = tokio::select! {
        outcome = demonstrate(flags, directory, &mut stand) => outcome.map(Some),
        signal = interrupted() => signal.map(|()| None),
    };
    // A leg that did not end leaves its servers standing.
    if let Some(stand) = stand.take() {
        tokio::time::timeout(STOP_PATIENCE, stand.close())
            .await
            .ok();
    }
    ended
}

async fn demonstrate(
    flags: &Demo,
    directory: &Path,
    standing: &mut Option<Stand>,
) -> Result<Outcome> {
    let mut outcomes = Vec::new();
    for (at, leg) in LEGS.iter().enumerate() {
        eprintln!("{}/{} {}: {}", at + 1, LEGS.len(), leg.key, leg.story);
        // Its own group, from nothing: no leg finds the log of another.
        let data_dir = directory.join(leg.key);
        let stand = standing.insert(Stand::open(leg, &data_dir).await?);
        let outcome = run_leg(leg, stand, flags).await.with_context(|| leg.key)?;
        if let Some(stand) = standing.take() {
            stand.close().await.with_context(|| leg.key)?;
        }
        tokio::fs::remove_dir_all(&data_dir)
            .await
            .with_context(|| format!("{} cannot be removed", data_dir.display()))?;
        outcome.tell();
        outcomes.push(outcome);
    }
    Ok(Outcome::of(outcomes))
}

async fn run_leg(leg: &Leg, stand: &Stand, flags: &Demo) -> Result<LegOutcome> {
    let duration = Duration::from_secs(flags.seconds);
    let plan = leg.load(stand.address(), flags.count, duration).checked()?;
    let sessions = Sessions::new(&plan.client_id_prefix, plan.value_bytes);
    let report = Running::start(plan, leg.key)?.report().await?;
    let (proposals, ghosts, limit) = (stand.proposals(), stand.ghosts(), stand.limit());
    if report.success == 0 && leg.clients != Clients::Impatient {
        bail!("no session was acknowledged: {:?}", report.errors);
    }
    let read_back = read_back(stand.address(), &sessions, &report.acknowledged).await?;
    let verified = stand
        .look_up(sessions, report.acknowledged.clone())
        .await?
        .and(read_back);
    Ok(LegOutcome {
        leg: *leg,
        report,
        proposals,
        ghosts,
        limit,
        verified,
    })
}

impl LegOutcome {
    /// One line on stderr as the leg ends, for those who see no bar.
    fn tell(&self) {
        let Report {
            avg_ops_per_sec,
            latency_ms,
            timeout,
            ..
        } = &self.report;
        eprintln!(
            "    {avg_ops_per_sec:.0} sessions/s, p99 {}, {timeout} timeouts, {} ghosts",
            milliseconds(latency_ms.p99),
            self.ghosts,
        );
        for (error, count) in &self.report.errors {
            eprintln!("    error: {error}: {count}");
        }
        for warning in &self.report.warnings {
            eprintln!("    warning: {warning}");
        }
    }
}

/// Ends the servers' threads, so that nothing writes to the directory any more.
fn stop(runtime: Runtime) {
    runtime.shutdown_timeout(STOP_PATIENCE);
}
