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

use std::{collections::HashMap, net::SocketAddr, num::NonZeroU32, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use ferry::cli::{
    Output,
    bench::{Acknowledged, Form, Sessions},
};
use prost::Message;
use serde::Serialize;
use tokio::task::spawn_blocking;

mod calls;
mod child;
mod etcd_server;
mod flags;
mod running;

use calls::Calls;
use etcd_server::{answers, call, connect, etcd};
use flags::{Flags, median};
use running::{Process, free_port};

const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/etcd.yaml");
const VALUE_BYTES: usize = 250;
/// Puts of one transaction, at most what etcd takes, and callers that send them.
const HAND_BATCH: u32 = 128;
const BY_HAND: u32 = 8;
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
        _ => (arguments.callers.get(), 1),
    };
    let calls = Calls {
        form,
        batch_size,
        connections: arguments.connections.get(),
        callers,
        value_bytes: VALUE_BYTES,
    };
    let (prefix, duration) = (prefix.to_owned(), arguments.flags.duration.0);
    // It has a runtime of its own.
    let report = spawn_blocking(move || calls.run(at, &prefix, duration)).await??;
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
