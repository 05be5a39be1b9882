//! `ferry bench`: a load that old and new clients would bring, measured.
//!
//! The generator must never be the limit on a machine that it shares with the
//! server: one thread, one task a connection that polls its callers inline,
//! heads prepared once, one write for all that a wake-up brought about. Where
//! it is the limit all the same, the report says so.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    net::{SocketAddr, ToSocketAddrs},
    num::NonZeroU32,
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result};

mod acknowledged;
mod alarm;
mod answer;
mod caller;
mod connection;
mod cpu;
mod frame;
mod hpack;
mod http2;
mod lateness;
mod load;
mod message;
mod pace;
mod plan;
mod report;
mod running;
mod tally;
#[cfg(test)]
mod tests;
mod upload;

pub use acknowledged::Acknowledged;
pub use load::{Load, LoadError};
pub use message::{Messages, Sessions};
pub use pace::{Arrivals, Rate};
pub use plan::{AfterTimeout, Deadline, Form, LoadPlan, PlanError};
pub use report::{LatencyMs, Report, milliseconds};
pub use running::Running;
pub use tally::Progress;

use super::{INTERRUPTED, Output, Usage, print_json, signals::interrupted};

/// Callers that share one connection unless `--connections` says otherwise.
const CALLERS_A_CONNECTION: u32 = 500;
/// Connections unless the callers are fewer.
const FEWEST_CONNECTIONS: u32 = 4;
/// Callers in a closed loop unless given.
const CALLERS: NonZeroU32 = NonZeroU32::new(100).expect("100 is not zero");
/// Callers in an open loop unless given: as many as a second's stall would hold
/// up at 10,000 calls a second.
const OPEN_CALLERS: NonZeroU32 = NonZeroU32::new(10_000).expect("10,000 is not zero");
/// Sessions a call in the batch form, as in the article.
const DEFAULT_BATCH: NonZeroU32 = NonZeroU32::new(100).expect("100 is not zero");

/// What to load.
#[derive(Debug, clap::Subcommand)]
pub enum BenchCommand {
    /// Create sessions, and report throughput and latency.
    ///
    /// Values are arbitrary bytes: a server that decodes its sessions (RobustMQ
    /// does, and does not recover from one that it cannot) must not be the target.
    CreateSession(CreateSession),
}

/// The flags of `ferry bench create-session`.
#[derive(Debug, clap::Args)]
pub struct CreateSession {
    /// Where the server listens
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The port it listens on
    #[arg(long, default_value_t = 1229)]
    port: u16,
    /// End after this many sessions
    #[arg(long, value_parser = at_least_one::<u64>)]
    count: Option<u64>,
    /// Start no call after this long, such as 30s (units: ms, s, m, h)
    #[arg(long, value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Callers, each with at most one call in flight; 100 unless given, or 10000 with --rate
    #[arg(long, value_parser = at_least_one::<NonZeroU32>)]
    concurrency: Option<NonZeroU32>,
    /// Send so many sessions a second, whether or not the last ones were answered;
    /// latency counts from the time at which a call was to leave. Unless given, each
    /// caller sends its next call when the last is answered
    #[arg(long, value_parser = at_least_one::<NonZeroU32>)]
    rate: Option<NonZeroU32>,
    /// How the calls of --rate are spread over time
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson, requires = "rate")]
    arrivals: Arrivals,
    /// Sessions a call; 100 in the batch form unless given
    #[arg(long, value_parser = at_least_one::<NonZeroU32>)]
    batch_size: Option<NonZeroU32>,
    /// Which generation of client to imitate
    #[arg(long, value_enum, default_value_t = Form::Legacy)]
    form: Form,
    /// How long a caller waits for an answer before it resets the call
    #[arg(long, default_value = "60000", value_parser = at_least_one::<u64>)]
    timeout_ms: u64,
    /// After a timeout, send the same session again (needs --duration)
    #[arg(long)]
    retry: bool,
    /// Tell the server the timeout in grpc-timeout, which old clients do not
    #[arg(long)]
    grpc_timeout: bool,
    /// TCP connections; unless given, one for each 500 callers, at least 4
    #[arg(long, value_parser = at_least_one::<NonZeroU32>)]
    connections: Option<NonZeroU32>,
    /// Bytes of each session's value
    #[arg(long, default_value = "256", value_parser = at_least_one::<usize>)]
    value_bytes: usize,
    /// What each client id begins with; unless given, new in each run
    #[arg(long)]
    client_id_prefix: Option<String>,
    /// How to print the report
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl CreateSession {
    /// The load that the flags ask for.
    ///
    /// # Errors
    /// A [`Usage`] error if they make no sense.
    pub fn plan(&self) -> Result<LoadPlan> {
        let batch_size = self.batch_size.unwrap_or(match self.form {
            Form::Legacy | Form::Put => NonZeroU32::MIN,
            Form::Batch | Form::Txn => DEFAULT_BATCH,
        });
        let callers = self.rate.map_or(CALLERS, |_| OPEN_CALLERS);
        let concurrency = self.concurrency.unwrap_or(callers);
        let plan = LoadPlan {
            target: resolve(&self.host, self.port).map_err(Usage::from)?,
            form: self.form,
            batch_size,
            connections: self
                .connections
                .unwrap_or_else(|| connections_for(concurrency)),
            concurrency,
            rate: self.rate.map(|sessions_per_sec| Rate {
                sessions_per_sec,
                arrivals: self.arrivals,
            }),
            count: self.count,
            duration: self.duration,
            timeout: Duration::from_millis(self.timeout_ms),
            after_timeout: match self.retry {
                true => AfterTimeout::SameSession,
                false => AfterTimeout::NextSession,
            },
            deadline: match self.grpc_timeout {
                true => Deadline::Announced,
                false => Deadline::Kept,
            },
            value_bytes: self.value_bytes,
            client_id_prefix: self.client_id_prefix.clone().unwrap_or_else(fresh_prefix),
        };
        Ok(plan.checked().map_err(Usage::from)?)
    }
}

/// Runs `ferry bench`.
///
/// # Errors
/// If the flags make no sense or the load cannot begin.
pub fn run(command: BenchCommand) -> Result<ExitCode> {
    let BenchCommand::CreateSession(flags) = command;
    let plan = flags.plan()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the command's runtime does not start")?;
    let (report, interrupted) = runtime.block_on(until_interrupted(plan))?;
    match flags.output {
        Output::Json => print_json(&report)?,
        Output::Table => println!("{}", report.table()),
    }
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(match interrupted {
        true => ExitCode::from(INTERRUPTED),
        false if report.success == 0 || report.cut_short => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// The report, and whether an interruption cut it short.
async fn until_interrupted(plan: LoadPlan) -> Result<(Report, bool)> {
    let mut running = Running::start(plan, "create-session")?;
    let cut_short = tokio::select! {
        finished = running.report() => return Ok((finished?, false)),
        signal = interrupted() => signal,
    };
    cut_short?;
    running.stop();
    Ok((running.report().await?, true))
}

fn connections_for(concurrency: NonZeroU32) -> NonZeroU32 {
    let wanted = concurrency
        .get()
        .div_ceil(CALLERS_A_CONNECTION)
        .max(FEWEST_CONNECTIONS);
    NonZeroU32::new(wanted).map_or(concurrency, |wanted| wanted.min(concurrency))
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, PlanError> {
    let remedy = "give a host that resolves, such as 127.0.0.1";
    let refused = |told: String| PlanError::new("--host", host, told, remedy);
    (host, port)
        .to_socket_addrs()
        .map_err(|error| refused(format!("does not resolve ({error})")))?
        .next()
        .ok_or_else(|| refused("has no address".into()))
}

/// A prefix that no earlier run used, so that every session is a new one.
fn fresh_prefix() -> String {
    format!("bench-{:x}-", RandomState::new().hash_one(0) >> 16)
}

/// A whole number above 0 that fits its flag.
///
/// # Errors
/// Names what is allowed.
pub fn at_least_one<T: FromStr>(text: &str) -> Result<T, String> {
    let told = || "must be a whole number from 1 up, without a sign, unit or separator".to_owned();
    if text == "0" {
        Err(told())
    } else {
        text.parse().map_err(|_| told())
    }
}

/// A duration with its unit, as in the policy file.
///
/// # Errors
/// Names what is allowed.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err("must be a number with a unit: 500ms, 30s, 5m or 1h".into()),
    };
    number
        .parse::<f64>()
        .ok()
        .and_then(|number| Duration::try_from_secs_f64(number * seconds).ok())
        .filter(|duration| *duration <= Duration::from_secs(7 * 86_400))
        .ok_or_else(|| "must be a number with a unit, at most a week: 30s".into())
}
