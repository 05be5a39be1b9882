//! One measurement: a fresh server, a warm-up, a counted load, the checks.

use std::{fmt, path::Path, path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use clap::ValueEnum;
use ferry::{accept::frame::framed, cli::bench::Form};
use serde::Serialize;

use super::{
    calls::Calls,
    h2load::{Crowd, H2load},
    serve::{Counted, Side},
    server::{Place, Served},
};

/// Bytes of a session's value.
const VALUE_BYTES: usize = 250;
/// An empty message in its frame.
const EMPTY_REPLY_BYTES: u64 = 5;
/// Calls before those that are counted: they make the connections' memory,
/// and tell how many calls fill a measurement.
const WARM_UP_CALLS: u64 = 20_000;
const WARM_UP: Duration = Duration::from_millis(300);

/// One comparison: how many calls are under way, and who shares which core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Case {
    /// One core each, 16 connections of 10 streams.
    ManyConnections,
    /// One core each, 4 connections of 100 streams.
    ManyStreams,
    /// Both cores shared, 160 calls under way.
    Shared160,
    /// Both cores shared, 2,000 calls under way.
    Shared2000,
}

impl Case {
    pub(crate) const ALL: [Self; 4] = [
        Self::ManyConnections,
        Self::ManyStreams,
        Self::Shared160,
        Self::Shared2000,
    ];

    pub(crate) const fn crowd(self) -> Crowd {
        let (connections, streams) = match self {
            Self::ManyConnections | Self::Shared160 => (16, 10),
            Self::ManyStreams => (4, 100),
            Self::Shared2000 => (8, 250),
        };
        Crowd {
            connections,
            streams,
        }
    }

    pub(crate) const fn one_core_each(self) -> bool {
        matches!(self, Self::ManyConnections | Self::ManyStreams)
    }

    /// The ceiling first, then what is held against it.
    pub(crate) const fn sides(self) -> [Side; 2] {
        [Side::Echo, self.ferry()]
    }

    pub(crate) const fn ferry(self) -> Side {
        match self.one_core_each() {
            true => Side::Coalescing,
            false => Side::Embedded,
        }
    }

    /// The share of the echo's requests a second that ferry is to reach.
    pub(crate) const fn aim(self) -> f64 {
        match self.one_core_each() {
            true => 0.7,
            false => 0.5,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Crowd {
            connections,
            streams,
        } = self.crowd();
        let cores = match self.one_core_each() {
            true => "one core each",
            false => "cores shared",
        };
        write!(f, "{cores}, {connections} × {streams}")
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no side is left out");
        f.write_str(value.get_name())
    }
}

/// What one measurement came to.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figures {
    /// Calls, each answered OK and counted by the server.
    pub(crate) calls: u64,
    /// Calls a second.
    pub(crate) requests_per_second: f64,
    /// What the server's process used of its cores, in microseconds a call.
    pub(crate) cpu_us_per_call: f64,
    /// Calls in one batch, on average; 0 for the echo.
    pub(crate) calls_per_batch: f64,
    /// How many cores the server used.
    pub(crate) server_busy: f64,
    /// How many cores the server was ready to use besides, while others ran.
    pub(crate) server_waited: f64,
    /// How many cores the load generator used; `None` where it did not say.
    pub(crate) generator_busy: Option<f64>,
}

/// One measurement and where it stands.
#[derive(Debug, Serialize)]
pub(crate) struct Bout {
    pub(crate) case: Case,
    pub(crate) side: Side,
    pub(crate) round: u32,
    #[serde(flatten)]
    pub(crate) figures: Figures,
}

/// Takes measurements.
#[derive(Debug)]
pub(crate) struct Bench {
    duration: Duration,
    server_core: usize,
    h2load: H2load,
    folder: PathBuf,
}

impl Bench {
    /// Measurements of this length; the cores are the server's and the load's.
    pub(crate) fn new(
        duration: Duration,
        (server_core, load_core): (usize, usize),
        folder: &Path,
    ) -> Result<Self> {
        Ok(Self {
            duration,
            server_core,
            h2load: H2load::new(&framed(&call()), Some(load_core), folder)?,
            folder: folder.to_owned(),
        })
    }

    /// Measures one side of a comparison.
    pub(crate) fn measure(&self, case: Case, side: Side) -> Result<Figures> {
        let data = tempfile::tempdir_in(&self.folder)?;
        let place = match case.one_core_each() {
            true => Place::Core(self.server_core),
            false => Place::Anywhere,
        };
        let mut server = Served::start(side, place, data.path())?;
        let figures = match case.one_core_each() {
            true => self.by_h2load(&mut server, case.crowd()),
            false => self.by_ferry(&mut server, case.crowd()),
        }?;
        server.end()?;
        ensure!(
            (side == Side::Echo) == (figures.calls_per_batch == 0.0),
            "{side}: {} calls a batch: it is not the server that it should be",
            figures.calls_per_batch
        );
        Ok(figures)
    }

    fn by_h2load(&self, server: &mut Served, crowd: Crowd) -> Result<Figures> {
        let start = server.counted()?;
        let warm_up = self
            .h2load
            .run(server.address, crowd, WARM_UP_CALLS, None)?;
        let before = server.counted_after(start, WARM_UP_CALLS)?;
        let calls = (warm_up.requests_per_second * self.duration.as_secs_f64()) as u64;
        let calls = calls.max(WARM_UP_CALLS);
        let loaded = self.h2load.run(server.address, crowd, calls, None)?;
        let after = server.counted_after(before, calls)?;
        ensure!(
            loaded.reply_bytes == calls * EMPTY_REPLY_BYTES,
            "{calls} calls were answered with {} bytes: some with an error",
            loaded.reply_bytes
        );
        Ok(Figures {
            generator_busy: Some(loaded.generator_busy),
            ..figures(calls, loaded.requests_per_second, before, after)
        })
    }

    fn by_ferry(&self, server: &mut Served, crowd: Crowd) -> Result<Figures> {
        let start = server.counted()?;
        let address = server.address;
        let calls = Calls {
            form: Form::Legacy,
            batch_size: 1,
            connections: crowd.connections,
            callers: crowd.connections * crowd.streams,
            value_bytes: VALUE_BYTES,
        };
        let warm_up = calls.run(address, "warm-up-", WARM_UP)?;
        let before = server.counted_after(start, warm_up.success)?;
        let report = calls.run(address, "bench-", self.duration)?;
        let after = server.counted_after(before, report.success)?;
        Ok(figures(
            report.success,
            report.avg_ops_per_sec,
            before,
            after,
        ))
    }
}

fn figures(calls: u64, requests_per_second: f64, before: Counted, after: Counted) -> Figures {
    let seconds = calls as f64 / requests_per_second;
    let cpu = after.cpu.since(before.cpu);
    let batches = after.batches - before.batches;
    Figures {
        calls,
        requests_per_second,
        cpu_us_per_call: cpu.running.as_secs_f64() * 1e6 / calls as f64,
        calls_per_batch: match batches {
            0 => 0.0,
            _ => calls as f64 / batches as f64,
        },
        server_busy: cpu.running.as_secs_f64() / seconds,
        server_waited: cpu.waiting.as_secs_f64() / seconds,
        generator_busy: None,
    }
}

/// A session in the older form: `client_id = 2`, `session = 3`.
fn call() -> Vec<u8> {
    let client_id = b"bench-client-0001";
    let mut message = vec![0x12, client_id.len() as u8];
    message.extend_from_slice(client_id);
    // 250 as a varint takes two bytes.
    message.extend_from_slice(&[
        0x1a,
        (VALUE_BYTES & 0x7f) as u8 | 0x80,
        (VALUE_BYTES >> 7) as u8,
    ]);
    message.resize(message.len() + VALUE_BYTES, b's');
    message
}
