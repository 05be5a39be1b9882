//! The command line: flags in, exit code out. Results go to stdout and all
//! else to stderr, so that a script may read the one and a person the other.
//!
//! Exit codes: 0 done; 1 failed; 2 the flags make no sense; 130 interrupted.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::{
    env::{self, VarError},
    io::{self, IsTerminal},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, error::ErrorKind};
use serde::Serialize;
use tracing_subscriber::{
    EnvFilter, Layer as _, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use crate::telemetry::log;

pub mod bench;
mod check;
mod cluster;
pub mod demo;
mod descriptors;
mod generate;
mod node;
mod proxy;
mod settings;
mod signals;
mod snapshot;

/// The flags make no sense.
const USAGE: u8 = 2;
/// Ended by SIGINT or SIGTERM, as shells report it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Single calls go in, batches go to Raft, each caller gets its own answer.
#[derive(Debug, Parser)]
#[command(name = "ferry", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run the sidecar
    Proxy(proxy::Proxy),
    /// Run the Raft group alone, to be called directly
    Node(node::Node),
    /// Look at a cluster, or change who belongs to it
    Cluster(cluster::Cluster),
    /// Save what a node holds to a file, or begin anew with one
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// Validate policy files and print each method's plan
    Check(check::Check),
    /// Measure a server with a load of old or new clients
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// The article live: before and after, on this machine, in a minute
    Demo(demo::Demo),
    /// Print a shell's completions
    Completions(generate::Completions),
    /// Print the manual page of ferry, or of one command
    Man(generate::Man),
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

/// An error in what was asked for, rather than in doing it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Usage(#[from] bench::PlanError);

/// Parses the process's arguments, runs the command, answers with its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::of_process() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", with_causes(&error));
            match error.is::<Usage>() {
                true => ExitCode::from(USAGE),
                false => ExitCode::FAILURE,
            }
        }
    }
}

/// The flags, each with its variable.
fn command() -> clap::Command {
    settings::with_variables(Cli::command())
}

impl Cli {
    /// The process's arguments, and its environment where they say nothing.
    fn of_process() -> Result<Self, clap::Error> {
        let mut command = command();
        let matches = command.clone().try_get_matches()?;
        let cli = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        Ok(cli.remembering(&command, &matches))
    }

    /// Lets a command that shows its settings know where they are from.
    fn remembering(mut self, command: &clap::Command, matches: &ArgMatches) -> Self {
        let kept = match &mut self.command {
            Command::Proxy(proxy) => &mut proxy.settings,
            Command::Node(node) => &mut node.settings,
            _ => return self,
        };
        if let Some((name, matches)) = matches.subcommand()
            && let Some(command) = command.find_subcommand(name)
        {
            *kept = settings::settings(command, matches);
        }
        self
    }

    /// Runs the command.
    ///
    /// # Errors
    /// Whatever ended it, fit to be shown in one line.
    pub fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Proxy(proxy) => serve(proxy.run()),
            Command::Node(node) => serve(node.run()),
            Command::Cluster(cluster) => serve(cluster.run()),
            Command::Snapshot(snapshot) => serve(snapshot.run()),
            Command::Check(check) => check.run(),
            Command::Bench(command) => bench::run(command),
            Command::Demo(flags) => demo::run(flags),
            Command::Completions(completions) => completions.run(),
            Command::Man(man) => man.run(),
        }
    }
}

/// What is logged unless FERRY_LOG says otherwise: ferry's own doings, and of
/// the Raft core's only its errors. It warns at every first start, and the one
/// line that says why ferry ends would drown.
const LOG: &str = "info,openraft=error";

/// How long threads may take that still wait for a file when all else is done:
/// one on a disk that is gone never comes back.
const LAST_THREADS: Duration = Duration::from_secs(1);

/// Runs a server on every core, with its log on stderr.
fn serve(run: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let filter = match env::var("FERRY_LOG") {
        Err(VarError::NotPresent) => LOG.into(),
        Err(error) => bail!("FERRY_LOG: {error}; write info, or warn,ferry=debug"),
        Ok(told) => logged(&told).map_err(|why| anyhow!("FERRY_LOG {why}"))?,
    };
    let (filtered, filter) = reload::Layer::new(filter);
    let log = fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    let remedy = "must be text or json; leave it out for text";
    let log = match env::var("FERRY_LOG_FORMAT").as_deref() {
        Ok("json") => log.json().flatten_event(true).boxed(),
        Ok("text") | Err(VarError::NotPresent) => log.boxed(),
        Ok(told) => bail!("FERRY_LOG_FORMAT {told}: {remedy}"),
        Err(error) => bail!("FERRY_LOG_FORMAT: {error}; {remedy}"),
    };
    tracing_subscriber::registry()
        .with(filtered)
        .with(log)
        .init();
    log::changed_by(move |told| {
        let new = logged(told)?;
        // Before it is, since it may be the last that is logged.
        tracing::warn!(
            filter = told,
            "what is logged changes, as the admin address was asked"
        );
        filter.reload(new).map_err(|error| error.to_string())
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.context("the runtime cannot start")?;
    let ended = runtime.block_on(run);
    runtime.shutdown_timeout(LAST_THREADS);
    ended
}

/// What a word by itself may be in a filter.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What `told` asks to be logged. A word by itself is a level: a mistaken one
/// would be taken for a target, and all others would be silent.
fn logged(told: &str) -> Result<EnvFilter, String> {
    let remedy = "write info, or warn,ferry=debug";
    let parts = || {
        told.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
    };
    if parts().next().is_none() {
        return Err(format!("is empty; {remedy}"));
    }
    let is_level = |word: &str| LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level));
    let names_target = |part: &str| part.contains(['=', '[']) || part.contains("::");
    if let Some(word) = parts().find(|part| !is_level(part) && !names_target(part)) {
        let levels = LEVELS.join(", ");
        return Err(format!("{told}: {word} is none of {levels}; {remedy}"));
    }
    let filter = EnvFilter::builder().parse(told);
    filter.map_err(|error| format!("{told}: {error}; {remedy}"))
}

/// An error and its causes, each once: some errors say theirs in a sentence of
/// their own.
fn with_causes(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.contains(&cause) {
            continue;
        }
        let between = if told.is_empty() { "" } else { ": " };
        told.extend([between, &cause]);
    }
    told
}

/// Help and version as clap prints them; a refusal in one line, without the
/// usage text that would bury it.
fn refuse(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed stdout is no reason to fail.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(USAGE)
        }
        _ => {
            eprintln!("{}", one_line(&error.to_string()));
            ExitCode::from(USAGE)
        }
    }
}

/// What a refusal says before it comes to the usage text.
fn one_line(refusal: &str) -> String {
    let lines = refusal.lines().map(str::trim);
    let told: Vec<_> = lines
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    told.join(" ")
}

/// A result for scripts, on stdout.
pub(crate) fn print_json(result: &impl Serialize) -> Result<()> {
    serde_json::to_writer_pretty(io::stdout().lock(), result).context("stdout")?;
    println!();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_cause_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("the file: {0}; choose another")]
        struct Said(#[source] io::Error);

        let gone = || io::Error::other("gone");
        let said = anyhow::Error::from(Said(gone())).context("opening");
        let once = "opening: the file: gone; choose another";
        assert_eq!(with_causes(&said), once);
        let plain = anyhow::Error::from(gone()).context("opening");
        assert_eq!(with_causes(&plain), "opening: gone");
    }

    #[test]
    fn a_filter_that_would_silence_the_log_by_mistake_is_refused_with_the_levels() {
        for mistaken in ["", " ", ",", "debgu", "warn,debgu", "inof,ferry=debug"] {
            let why = logged(mistaken).expect_err(mistaken);
            assert!(why.contains("write info"), "{why}");
        }
        assert!(logged("debgu").unwrap_err().contains("warn, info, debug"));
        for meant in [
            LOG,
            "off",
            "WARN",
            "warn,ferry::access=info",
            "ferry::batch",
            "info,[batch{entries=1}]=trace",
        ] {
            assert!(logged(meant).is_ok(), "{meant}");
        }
    }

    #[test]
    fn a_refused_flag_is_told_in_one_line_with_value_and_bound() {
        for (flags, value) in [
            (vec!["--concurrency", "0"], "'0'"),
            (vec!["--port", "70000"], "70000"),
            (vec!["--form", "newest"], "legacy, batch"),
            (vec!["--duration", "12"], "500ms, 30s, 5m or 1h"),
            (vec!["--rate", "0"], "from 1 up"),
            (vec!["--arrivals", "even"], "--rate"),
            (vec!["--speed", "5"], "--speed"),
        ] {
            let line = ["ferry", "bench", "create-session"]
                .into_iter()
                .chain(flags);
            let told = one_line(&Cli::try_parse_from(line).unwrap_err().to_string());
            assert!(told.contains(value), "{told}");
            assert!(!told.contains('\n') && !told.contains("Usage"), "{told}");
        }
    }
}
