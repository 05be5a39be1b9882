//! `h2load`, a load generator that knows nothing of ferry: always the same
//! call, as fast as it is answered.

use std::{
    fs,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::{child, server::on_core};

/// The one call that is measured.
const METHOD: &str = "meta.service.mqtt.MqttService/CreateSession";

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
    core: usize,
}

/// What it says of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loaded {
    pub(crate) requests_per_second: f64,
    /// Of the generator's core, 1 for all of it.
    pub(crate) generator_busy: f64,
}

impl H2load {
    /// Sends `message`, framed, from `core`; keeps its file in `folder`.
    pub(crate) fn new(message: &[u8], core: usize, folder: &Path) -> Result<Self> {
        let call = folder.join("call.bin");
        fs::write(&call, ferry::accept::frame::framed(message))?;
        Ok(Self { call, core })
    }

    /// Sends `calls` of them.
    pub(crate) fn run(&self, server: SocketAddr, crowd: Crowd, calls: u64) -> Result<Loaded> {
        let mut process = on_core(self.core, "h2load")
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
        let Told { seconds, rate, ok } =
            parse(&told).with_context(|| format!("h2load's report is not understood: {told}"))?;
        if ok != calls {
            bail!("h2load: {ok} of {calls} calls were answered: {told}");
        }
        Ok(Loaded {
            requests_per_second: rate,
            generator_busy: used?.as_secs_f64() / seconds.as_secs_f64(),
        })
    }
}

struct Told {
    seconds: Duration,
    rate: f64,
    /// Answers with an HTTP status of 200 and the like; gRPC's is not seen.
    ok: u64,
}

/// Reads `finished in 2.50s, 50000.00 req/s, …` and `status codes: 99 2xx, …`.
fn parse(told: &str) -> Option<Told> {
    let line = |start| told.lines().find_map(|line| line.strip_prefix(start));
    let mut finished = line("finished in ")?.split(", ");
    let seconds = ferry::cli::bench::parse_duration(finished.next()?).ok()?;
    let rate = finished.next()?.strip_suffix(" req/s")?.parse().ok()?;
    let ok = line("status codes: ")?.split(" 2xx").next()?.parse().ok()?;
    Some(Told { seconds, rate, ok })
}
