//! What the bytes themselves cost: nanoseconds an entry to scan a call's
//! message, and to merge 100 of them into one.

// What a bench prints is its result, and its clock is the wall's.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use bytes::{BufMut, Bytes, BytesMut};
use clap::Parser;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use ferry::{
    cli::Output,
    policy::Policy,
    wire::{Piece, Plan, Scan},
};
use serde::Serialize;

mod flags;

use flags::{Flags, median};

/// Entries a batch, as in the article.
const ENTRIES: usize = 100;
/// Bytes of a session's value.
const VALUE_BYTES: usize = 250;
/// The arguments of `cargo bench --bench wire -- …`.
#[derive(Debug, Parser)]
#[command(name = "wire")]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
}

/// The median over the rounds, and their extremes, in nanoseconds an entry.
#[derive(Debug, Serialize)]
struct Figure {
    name: &'static str,
    ns_per_entry: f64,
    fastest: f64,
    slowest: f64,
}

fn main() -> Result<()> {
    let Arguments { flags } = Arguments::parse();
    let policy = Policy::embedded();
    let plan = &*policy.methods[0].plan;
    let single: Vec<Bytes> = (0..ENTRIES).map(single_form).collect();
    let batch = batch_form();
    let pieces = single
        .iter()
        .map(|message| scan(plan, message))
        .collect::<Result<Vec<_>>>()?;
    check(plan, &pieces, &batch)?;

    let (rounds, length) = (flags.rounds, flags.duration.0 / 10);
    let mut merged = BytesMut::with_capacity(2 * batch.len());
    let figures = [
        figure("scan, single form", (rounds, length), || {
            for message in &single {
                black_box(plan.scan(black_box(message)).is_ok());
            }
        }),
        figure("scan, batch form of 100", (rounds, length), || {
            black_box(plan.scan(black_box(&batch)).is_ok());
        }),
        figure("merge of 100 single forms", (rounds, length), || {
            merged.clear();
            plan.merge(black_box(&pieces), &mut merged);
            black_box(&merged);
        }),
    ];
    match flags.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&figures)?),
        Output::Table => println!("{}", table(&figures, (rounds, length))),
    }
    Ok(())
}

/// Runs `hundred`, which sees to [`ENTRIES`] entries, over and over.
fn figure(
    name: &'static str,
    (rounds, length): (u32, Duration),
    mut hundred: impl FnMut(),
) -> Figure {
    let mut round = || {
        let (start, mut runs) = (Instant::now(), 0_u32);
        loop {
            // The clock is looked at seldom enough to cost nothing.
            for _ in 0..100 {
                hundred();
            }
            runs += 100;
            let elapsed = start.elapsed();
            if elapsed >= length {
                return elapsed.as_secs_f64() * 1e9 / (f64::from(runs) * ENTRIES as f64);
            }
        }
    };
    round(); // warms the caches and the branch predictor
    let times: Vec<f64> = (0..rounds).map(|_| round()).collect();
    Figure {
        name,
        fastest: times.iter().copied().fold(f64::INFINITY, f64::min),
        slowest: times.iter().copied().fold(0.0, f64::max),
        ns_per_entry: median(times),
    }
}

fn scan(plan: &Plan, message: &Bytes) -> Result<Piece> {
    match plan.scan(message)? {
        Scan::Merge(piece) => Ok(piece),
        other => bail!("a session is to merge, and is {other:?}"),
    }
}

/// What is timed does what it should: the merged single forms are the batch.
fn check(plan: &Plan, pieces: &[Piece], batch: &Bytes) -> Result<()> {
    let mut merged = BytesMut::new();
    plan.merge(pieces, &mut merged);
    if merged != *batch {
        bail!("the merged single forms are not the batch form of the same sessions");
    }
    let entries = scan(plan, batch)?.entries();
    if entries as usize != ENTRIES {
        bail!("the batch form has {entries} entries and not {ENTRIES}");
    }
    Ok(())
}

/// `client_id = 2`, `session = 3`, as clients up to v0.3.2 send it.
fn single_form(number: usize) -> Bytes {
    entry(number, 0x12, 0x1a)
}

/// `sessions = 1`, each with `client_id = 1` and `session = 2`.
fn batch_form() -> Bytes {
    let mut message = BytesMut::new();
    for number in 0..ENTRIES {
        let entry = entry(number, 0x0a, 0x12);
        message.put_u8(0x0a);
        put_length(&mut message, entry.len());
        message.extend_from_slice(&entry);
    }
    message.freeze()
}

fn entry(number: usize, id_tag: u8, value_tag: u8) -> Bytes {
    let client_id = format!("bench-client-{number:04}");
    let mut entry = BytesMut::new();
    entry.put_u8(id_tag);
    put_length(&mut entry, client_id.len());
    entry.extend_from_slice(client_id.as_bytes());
    entry.put_u8(value_tag);
    put_length(&mut entry, VALUE_BYTES);
    entry.resize(entry.len() + VALUE_BYTES, b's');
    entry.freeze()
}

/// A varint below 16,384.
fn put_length(out: &mut BytesMut, length: usize) {
    if length >= 0x80 {
        out.put_u8(length as u8 | 0x80);
        out.put_u8((length >> 7) as u8);
    } else {
        out.put_u8(length as u8);
    }
}

fn table(figures: &[Figure], (rounds, length): (u32, Duration)) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "an entry of 250 bytes",
        "ns",
        "fastest–slowest",
    ]);
    for figure in figures {
        table.add_row([
            figure.name.to_owned(),
            format!("{:.1}", figure.ns_per_entry),
            format!("{:.1}–{:.1}", figure.fastest, figure.slowest),
        ]);
    }
    format!(
        "{table}\nmedians of {rounds} rounds of {} ms",
        length.as_millis()
    )
}
