//! One measurement: a fresh upstream, a fresh proxy, a call by a real gRPC
//! client, a warm-up, a counted load, the checks.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ferry::proto::mqtt::{
    CreateSessionRaw, CreateSessionRequest, mqtt_service_client::MqttServiceClient,
};
use serde::Serialize;

use super::{
    cell::Cell,
    flags::median,
    h2load::{H2load, Loaded},
    proxy::{Place, Proxy, Side},
    upstream::{Counted, Kind, Upstream},
};

/// Of the first load, by the calls under way: to find how many fill a second.
const FIRST_ROUNDS: u64 = 4;
/// A call that moves more than this tells that the first time.
const LARGE_CALL: u64 = 1 << 16;
/// Of the second, which makes memory and connections what they will be.
const WARM_UP: Duration = Duration::from_millis(300);
/// The longest that a call by a real client may take to come through.
const PROBE: Duration = Duration::from_secs(10);

/// What one measurement came to.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) calls: u64,
    pub(crate) calls_per_second: f64,
    /// In microseconds a call.
    pub(crate) proxy_cpu_us: f64,
    pub(crate) upstream_cpu_us: f64,
    /// Only of one call at a time.
    pub(crate) p50_us: Option<f64>,
    pub(crate) peak_mib: f64,
    /// Calls in one batch, on average; 1 where nobody batches.
    pub(crate) calls_per_batch: f64,
    /// Shares of their cores.
    pub(crate) proxy_busy: f64,
    pub(crate) load_busy: f64,
}

/// Takes measurements.
pub(crate) struct Bench {
    pub(crate) duration: Duration,
    pub(crate) proxy_core: usize,
    pub(crate) load_core: usize,
    pub(crate) folder: PathBuf,
}

impl Bench {
    /// Measures a side, the proxy on its core, upstream and load on the other.
    pub(crate) fn pinned(&self, cell: Cell, side: Side) -> Result<Figures> {
        self.measure(cell, side, Place::Core(self.proxy_core))
    }

    pub(crate) fn measure(&self, cell: Cell, side: Side, place: Place) -> Result<Figures> {
        let home = tempfile::tempdir_in(&self.folder)?;
        let load_core = match place {
            Place::Core(_) => Some(self.load_core),
            Place::Workers(_) => None,
        };
        let mut upstream = Upstream::start(cell.upstream, cell.bytes, load_core)?;
        let proxy = Proxy::start(side, upstream.address, place, home.path())?;
        let address = proxy
            .as_ref()
            .map_or(upstream.address, |proxy| proxy.address);
        probe(address).with_context(|| format!("{}, one call by tonic", side.name()))?;
        let h2load = H2load::new(&cell.body(), load_core, home.path())?;
        let crowd = u64::from(cell.crowd.0 * cell.crowd.1);
        let first = match cell.message_bytes() > LARGE_CALL {
            true => crowd,
            false => crowd * FIRST_ROUNDS,
        };
        let run = |upstream: &mut Upstream, calls, log: Option<&Path>| {
            let before = upstream.counted()?;
            let loaded = h2load.run(address, cell.h2load(), calls, log)?;
            ensure!(
                loaded.reply_bytes == calls * cell.reply_bytes(),
                "{calls} calls were answered with {} bytes instead of {} each: some were errors",
                loaded.reply_bytes,
                cell.reply_bytes()
            );
            let after = upstream.counted_when(|now| all_came(cell, side, calls, before, *now))?;
            anyhow::Ok((loaded, before, after))
        };
        let filling = |loaded: Loaded, time: Duration| {
            let calls = loaded.requests_per_second * time.as_secs_f64();
            (calls as u64).max(crowd)
        };
        let (loaded, ..) = run(&mut upstream, first, None)?;
        let (loaded, ..) = run(&mut upstream, filling(loaded, WARM_UP), None)?;
        let used = |upstream: &Upstream| -> Result<(Duration, Duration)> {
            let proxy = proxy.as_ref().map_or(Ok(Duration::ZERO), Proxy::cpu)?;
            Ok((proxy, upstream.cpu()?))
        };
        let calls = filling(loaded, self.duration);
        let log = cell.alone().then(|| home.path().join("calls.log"));
        let before = used(&upstream)?;
        let (loaded, was, is) = run(&mut upstream, calls, log.as_deref())?;
        let after = used(&upstream)?;
        let seconds = calls as f64 / loaded.requests_per_second;
        let proxy_cpu = after.0.saturating_sub(before.0).as_secs_f64();
        let upstream_cpu = after.1.saturating_sub(before.1).as_secs_f64();
        let figures = Figures {
            calls,
            calls_per_second: loaded.requests_per_second,
            proxy_cpu_us: proxy_cpu * 1e6 / calls as f64,
            upstream_cpu_us: upstream_cpu * 1e6 / calls as f64,
            p50_us: log.as_deref().map(p50_us).transpose()?,
            peak_mib: proxy.as_ref().map_or(Ok(0.0), Proxy::peak_mib)?,
            calls_per_batch: calls as f64 / (is.calls - was.calls) as f64,
            proxy_busy: proxy_cpu / seconds,
            load_busy: loaded.generator_busy + upstream_cpu / seconds,
        };
        drop(proxy);
        upstream.end()?;
        Ok(figures)
    }
}

/// Whether the upstream has got each call once and whole.
fn all_came(cell: Cell, side: Side, calls: u64, before: Counted, now: Counted) -> bool {
    let came = now.calls - before.calls;
    let bytes = now.message_bytes - before.message_bytes;
    let entries = now
        .entries
        .zip(before.entries)
        .map(|(now, before)| now - before);
    match (side, cell.upstream) {
        (Side::Coalescing, Kind::Lean) => {
            // A batch of one is the batch form too.
            came > 0 && bytes == calls * cell.entry_bytes()
        }
        (Side::Coalescing, Kind::Usual) => came > 0 && entries == Some(calls),
        (_, Kind::Lean) => {
            let messages = now.messages - before.messages;
            came == calls
                && messages == calls * cell.messages
                && bytes == calls * cell.message_bytes()
        }
        (_, Kind::Usual) => came == calls && entries == Some(calls),
    }
}

/// One call by tonic's client, which looks at the status.
fn probe(address: std::net::SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut client = MqttServiceClient::connect(format!("http://{address}")).await?;
        let session = CreateSessionRaw {
            client_id: "probe".into(),
            session: vec![b's'].into(),
        };
        let request = CreateSessionRequest {
            sessions: vec![session],
        };
        tokio::time::timeout(PROBE, client.create_session(request)).await??;
        Ok(())
    })
}

/// The middle of the log's third column, microseconds a call.
fn p50_us(log: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(log)?;
    let took = text.lines().filter_map(|line| line.split('\t').nth(2));
    let took: Vec<f64> = took.map(str::parse).collect::<Result<_, _>>()?;
    ensure!(!took.is_empty(), "h2load logged no call");
    Ok(median(took))
}
