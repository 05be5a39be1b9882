//! Single puts through ferry against the same puts straight at etcd, and
//! against clients rewritten to send transactions: what etcd itself can carry.
//!
//! One etcd, one run, the sides in turn, so that whatever the machine does
//! meanwhile it does to both. Every acknowledged put is read back from etcd
//! itself, byte for byte; a figure without that would say nothing.
//!
//! The callers are those of `ferry bench`, whose cost is small: they share the
//! machine with etcd, and what they use of it neither side has.

// What a bench prints is its result, and its clock is the wall's.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    num::NonZeroU32,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use ferry::{
    accept::frame::framed,
    cli::{
        Output,
        bench::{Acknowledged, AfterTimeout, Deadline, Form, Load, LoadPlan, Progress, Sessions},
    },
};
use h2::client::SendRequest;
use prost::Message;
use serde::Serialize;
use tokio::{net::TcpStream, task::spawn_blocking};

mod child;
mod flags;

use flags::{Flags, median};

const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/etcd.yaml");
const VALUE_BYTES: usize = 250;
/// Puts of one transaction, at most what etcd takes, and callers that send them.
const HAND_BATCH: NonZeroU32 = NonZeroU32::new(128).expect("128 is not zero");
const BY_HAND: NonZeroU32 = NonZeroU32::new(8).expect("8 is not zero");
/// Longer than either process takes to come up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Keys that one range of the reading back asks for.
const PAGE: i64 = 2_000;

/// The arguments of `cargo bench --bench etcd -- …`.
#[derive(Debug, Parser)]
#[command(name = "etcd")]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Callers, each with one put under way
    #[arg(long, default_value = "512")]
    callers: NonZeroU32,
    /// Connections that they share
    #[arg(long, default_value = "8")]
    connections: NonZeroU32,
}

/// One round of one side.
#[derive(Debug, Serialize)]
struct Round {
    keys_per_second: f64,
    p99_ms: f64,
    /// What etcd and ferry used of the cores, in microseconds a key.
    etcd_cpu_us: f64,
    ferry_cpu_us: f64,
}

/// All sides, and what was read back.
#[derive(Debug, Serialize)]
struct Report {
    straight: Vec<Round>,
    through_ferry: Vec<Round>,
    by_hand: Vec<Round>,
    keys_read_back: u64,
}

/// A process that ends with the bench.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let home = tempfile::tempdir()?;
    let (address, etcd) = etcd(home.path()).await?;
    let (sidecar, ferry) = ferry(home.path(), address).await?;
    let mut report = Report {
        straight: Vec::new(),
        through_ferry: Vec::new(),
        by_hand: Vec::new(),
        keys_read_back: 0,
    };
    for round in 0..arguments.flags.rounds {
        let mut sides = [
            ("straight", address, Form::Put),
            ("hand", address, Form::Txn),
            ("ferry", sidecar, Form::Put),
        ];
        if round % 2 == 1 {
            sides.reverse();
        }
        for (side, at, form) in sides {
            let prefix = format!("{side}-{round}-");
            let before = [child::cpu_of(etcd.0.id())?, child::cpu_of(ferry.0.id())?];
            let (mut measured, keys) = run(&arguments, at, form, &prefix).await?;
            let after = [child::cpu_of(etcd.0.id())?, child::cpu_of(ferry.0.id())?];
            let a_key = |side: usize| {
                let used = after[side].saturating_sub(before[side]);
                used.as_secs_f64() * 1e6 / keys.total() as f64
            };
            (measured.etcd_cpu_us, measured.ferry_cpu_us) = (a_key(0), a_key(1));
            report.keys_read_back += read_back(address, &prefix, &keys).await?;
            match side {
                "ferry" => report.through_ferry.push(measured),
                "hand" => report.by_hand.push(measured),
                _ => report.straight.push(measured),
            }
        }
    }
    match arguments.flags.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => println!("{}", table(&report, &arguments)),
    }
    Ok(())
}

/// Puts from all callers until the time is up: the round, and each key that
/// was acknowledged.
async fn run(
    arguments: &Arguments,
    at: SocketAddr,
    form: Form,
    prefix: &str,
) -> Result<(Round, Acknowledged)> {
    let (callers, batch_size) = match form {
        Form::Txn => (BY_HAND, HAND_BATCH),
        _ => (arguments.callers, NonZeroU32::MIN),
    };
    let plan = LoadPlan {
        target: at,
        form,
        batch_size,
        connections: arguments.connections.min(callers),
        concurrency: callers,
        count: None,
        duration: Some(arguments.flags.duration.0),
        timeout: PATIENCE,
        after_timeout: AfterTimeout::NextSession,
        deadline: Deadline::Kept,
        value_bytes: VALUE_BYTES,
        client_id_prefix: prefix.to_owned(),
    };
    let plan = plan.checked()?;
    // It has a runtime of its own.
    let load = spawn_blocking(move || Load::run(&plan, &Progress::default()));
    let report = load.await??;
    ensure!(
        report.failed + report.timeout == 0,
        "{} of {} puts failed or timed out: {:?}; no figure is taken from this run",
        report.failed + report.timeout,
        report.total,
        report.errors
    );
    let round = Round {
        keys_per_second: report.avg_ops_per_sec,
        p99_ms: report.latency_ms.p99,
        etcd_cpu_us: 0.0,
        ferry_cpu_us: 0.0,
    };
    Ok((round, report.acknowledged))
}

/// Looks every acknowledged key of a round up in etcd itself.
async fn read_back(etcd: SocketAddr, prefix: &str, keys: &Acknowledged) -> Result<u64> {
    let line = connect(etcd).await?;
    let mut found = HashMap::new();
    let mut next = prefix.as_bytes().to_vec();
    let mut end = next.clone();
    *end.last_mut().expect("a prefix has bytes") += 1;
    loop {
        let range = Range {
            key: next.clone().into(),
            range_end: end.clone().into(),
            limit: PAGE,
        };
        let reply = RangeReply::decode(call(&line, "Range", &range).await?)?;
        let Some(last) = reply.kvs.last() else { break };
        next = [&last.key[..], b"\0"].concat();
        found.extend(reply.kvs.into_iter().map(|kv| (kv.key, kv.value)));
    }
    let sent = Sessions::new(prefix, VALUE_BYTES);
    for number in keys.iter() {
        let key = sent.client_id(number);
        let kept = found.get(key.as_bytes());
        ensure!(
            kept.is_some_and(|kept| *kept == sent.value(number)),
            "{key} was acknowledged and is not there"
        );
    }
    Ok(keys.total())
}

async fn connect(at: SocketAddr) -> Result<SendRequest<Bytes>> {
    let socket = TcpStream::connect(at).await?;
    socket.set_nodelay(true)?;
    let (calls, connection) = h2::client::Builder::new()
        .initial_window_size(4 << 20)
        .initial_connection_window_size(64 << 20)
        .handshake(socket)
        .await?;
    // How a connection ends is for its calls to say.
    tokio::spawn(async move { drop(connection.await) });
    Ok(calls)
}

/// One unary call of etcd's KV service, which must end well.
async fn call(line: &SendRequest<Bytes>, method: &str, message: &impl Message) -> Result<Bytes> {
    let request = http::Request::post(format!("http://etcd/etcdserverpb.KV/{method}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(())?;
    let mut line = line.clone().ready().await?;
    let (answer, mut body) = line.send_request(request, false)?;
    body.send_data(framed(&message.encode_to_vec()), true)?;
    let (head, mut stream) = answer.await?.into_parts();
    let mut reply = Vec::new();
    while let Some(bytes) = stream.data().await {
        let bytes = bytes?;
        stream.flow_control().release_capacity(bytes.len())?;
        reply.extend_from_slice(&bytes);
    }
    let trailers = stream.trailers().await?.unwrap_or(head.headers);
    let status = tonic::Status::from_header_map(&trailers).context("a reply without a status")?;
    ensure!(status.code() == tonic::Code::Ok, "{method}: {status}");
    ensure!(reply.len() >= 5, "{method}: a reply without a message");
    Ok(Bytes::from(reply).slice(5..))
}

async fn etcd(home: &Path) -> Result<(SocketAddr, Process)> {
    let (client, peer) = (free_port()?, free_port()?);
    let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
    let process = Command::new("etcd")
        .args(["--name", "bench", "--log-level", "error"])
        .args(["--listen-client-urls", &client_url])
        .args(["--advertise-client-urls", &client_url])
        .args(["--listen-peer-urls", &peer_url])
        .args(["--initial-advertise-peer-urls", &peer_url])
        .args(["--initial-cluster", &format!("bench={peer_url}")])
        .arg("--data-dir")
        .arg(home.join("etcd"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("etcd does not start; scripts/setup bench installs it")?;
    let process = Process(process);
    answers(client).await?;
    Ok((client, process))
}

async fn ferry(home: &Path, etcd: SocketAddr) -> Result<(SocketAddr, Process)> {
    let policy = std::fs::read_to_string(POLICY)?;
    let own = policy.replace("http://127.0.0.1:2379", &format!("http://{etcd}"));
    ensure!(own != policy, "the policy names etcd's usual port");
    let path = home.join("policy.yaml");
    std::fs::write(&path, own)?;
    let (listen, admin) = (free_port()?, free_port()?);
    let process = Command::new(env!("CARGO_BIN_EXE_ferry"))
        .args(["proxy", "--listen", &listen.to_string()])
        .args(["--admin", &admin.to_string()])
        .arg("--policy")
        .arg(&path)
        .current_dir(home)
        .env("FERRY_LOG", "warn")
        .spawn()
        .context("ferry does not start")?;
    let process = Process(process);
    answers(listen).await?;
    Ok((listen, process))
}

/// Waits until a put is taken.
async fn answers(at: SocketAddr) -> Result<()> {
    let start = Instant::now();
    loop {
        let probe = Put {
            key: Bytes::from_static(b"ready"),
            value: Bytes::new(),
        };
        let tried = async { call(&connect(at).await?, "Put", &probe).await }.await;
        match tried {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() > PATIENCE => return Err(error.context("not ready")),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn table(report: &Report, arguments: &Arguments) -> String {
    let of =
        |rounds: &[Round], value: fn(&Round) -> f64| median(rounds.iter().map(value).collect());
    let rate: fn(&Round) -> f64 = |round| round.keys_per_second;
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header([
        "single puts",
        "keys/s",
        "p99, ms",
        "etcd, CPU µs a key",
        "ferry, CPU µs a key",
    ]);
    let sides = [
        ("straight at etcd", &report.straight),
        ("through ferry", &report.through_ferry),
        ("transactions by hand", &report.by_hand),
    ];
    for (name, rounds) in sides {
        table.add_row([
            name.to_owned(),
            format!("{:.0}", of(rounds, rate)),
            format!("{:.1}", of(rounds, |round| round.p99_ms)),
            format!("{:.1}", of(rounds, |round| round.etcd_cpu_us)),
            format!("{:.1}", of(rounds, |round| round.ferry_cpu_us)),
        ]);
    }
    format!(
        "{table}\n{:.2} times the keys/s, {:.2} of those by hand; {} callers over {} connections, medians of {} rounds of \
         {:?} in turn; all {} acknowledged keys read back, byte for byte",
        of(&report.through_ferry, rate) / of(&report.straight, rate),
        of(&report.through_ferry, rate) / of(&report.by_hand, rate),
        arguments.callers,
        arguments.connections,
        arguments.flags.rounds,
        arguments.flags.duration.0,
        report.keys_read_back
    )
}

#[derive(Clone, PartialEq, Message)]
struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Range {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    range_end: Bytes,
    #[prost(int64, tag = "3")]
    limit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct RangeReply {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}
