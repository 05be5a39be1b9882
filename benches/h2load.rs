//! `h2load`, a load generator that knows nothing of ferry: always the same
//! call, as fast as it is answered.

use std::{
    fs,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::child;

/// The one call that is measured.
const METHOD: &str = "meta.service.mqtt.MqttService/CreateSession";

/// A connection on which nothing moves for so long never will.
const SILENCE: &str = "20s";

/// How many calls are under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    pub(crate) connections: u32,
    /// A connection.
    pub(crate) streams: u32,
}

/// The generator, with the call that it sends.
#[derive(Debug)]
pub(crate) struct H2load {
    call: PathBuf,
    core: Option<usize>,
}

/// What it says of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loaded {
    pub(crate) requests_per_second: f64,
    /// Of the generator's core, 1 for all of it.
    pub(crate) generator_busy: f64,
    /// Bytes of all replies' messages, framed: an error has none.
    pub(crate) reply_bytes: u64,
}

impl H2load {
    /// Sends `body`, one framed message or several, from `core` or wherever the
    /// system puts it; keeps its file in `folder`.
    pub(crate) fn new(body: &[u8], core: Option<usize>, folder: &Path) -> Result<Self> {
        let call = folder.join("call.bin");
        fs::write(&call, body)?;
        Ok(Self { call, core })
    }

    /// Sends `calls` of them; into `log`, if there is one, a line for each.
    pub(crate) fn run(
        &self,
        server: SocketAddr,
        crowd: Crowd,
        calls: u64,
        log: Option<&Path>,
    ) -> Result<Loaded> {
        let mut command = match self.core {
            Some(core) => on_core(core, "h2load"),
            None => Command::new("h2load"),
        };
        if let Some(log) = log {
            command.arg("--log-file").arg(log);
        }
        let mut process = command
            .args(["--connection-inactivity-timeout", SILENCE])
            .arg("--requests")
            .arg(calls.to_string())
            .arg("--clients")
            .arg(crowd.connections.to_string())
            .arg("--max-concurrent-streams")
            .arg(crowd.streams.to_string())
            .args(["--header", "content-type: application/grpc"])
            .args(["--header", "te: trailers"])
            .arg("--data")
            .arg(&self.call)
            .arg(format!("http://{server}/{METHOD}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("taskset and h2load are needed: scripts/setup bench installs them")?;
        let mut told = String::new();
        let mut output = process.stdout.take().expect("its output is piped");
        output.read_to_string(&mut told)?;
        let used = child::cpu_of(process.id());
        let status = process.wait()?;
        ensure!(status.success(), "h2load ended with {status}: {told}");
        let Told {
            seconds,
            rate,
            ok,
            data,
        } = parse(&told).with_context(|| format!("h2load's report is not understood: {told}"))?;
        if ok != calls {
            bail!("h2load: {ok} of {calls} calls were answered: {told}");
        }
        Ok(Loaded {
            requests_per_second: rate,
            generator_busy: used?.as_secs_f64() / seconds.as_secs_f64(),
            reply_bytes: data,
        })
    }
}

struct Told {
    seconds: Duration,
    rate: f64,
    /// Answers with an HTTP status of 200 and the like; gRPC's is not seen.
    ok: u64,
    /// Bytes of DATA frames' content.
    data: u64,
}

/// `program` on one core.
pub(crate) fn on_core(core: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.arg("--cpu-list").arg(core.to_string()).arg(program);
    command
}

/// Reads `finished in 2.50s, 50000.00 req/s, …`, `status codes: 99 2xx, …` and
/// `traffic: 1.5MB (1500000) total, … headers …, 500KB (500000) data`.
fn parse(told: &str) -> Option<Told> {
    let line = |start| told.lines().find_map(|line| line.strip_prefix(start));
    let mut finished = line("finished in ")?.split(", ");
    let took = finished.next()?;
    let seconds = match took.strip_suffix("us") {
        Some(micros) => Duration::from_micros(micros.parse().ok()?),
        None => ferry::cli::bench::parse_duration(took).ok()?,
    };
    let rate = finished.next()?.strip_suffix(" req/s")?.parse().ok()?;
    let ok = line("status codes: ")?.split(" 2xx").next()?.parse().ok()?;
    let data = line("traffic: ")?.rsplit_once('(')?.1;
    let data = data.strip_suffix(") data")?.parse().ok()?;
    Some(Told {
        seconds,
        rate,
        ok,
        data,
    })
}
