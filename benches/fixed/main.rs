//! Does any fixed limit beat the one that finds itself? And what does a caller
//! pay who is alone?
//!
//! Both over real sockets and real embedded groups that sync what they
//! acknowledge, each measurement with a group and a sidecar of its own, all in
//! one run whose order turns from round to round, so that a machine that slows
//! down slows everybody. A figure is taken only from a load in which every call
//! was answered OK. `cargo bench --bench fixed -- --help`.

// What a bench prints is its result, and its clock is the wall's.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

use anyhow::Result;
use clap::Parser;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use ferry::{
    cli::bench::{Form, Report},
    limit::{Algorithm, LimitSettings},
    raft::Pipeline,
};

#[path = "../calls.rs"]
mod calls;
#[path = "../flags.rs"]
mod flags;
mod stand;

use calls::Calls;
use flags::{Flags, median};
use stand::{Face, Stand};

/// The arguments of `cargo bench --bench fixed -- …`.
#[derive(Debug, Parser)]
#[command(name = "fixed")]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Only the single caller
    #[arg(long, conflicts_with = "only_fixed")]
    only_alone: bool,
    /// Only little against the fixed limits
    #[arg(long)]
    only_fixed: bool,
}

/// The fixed limits that are tried.
const FIXED: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Callers and their connections, as in the demo.
const CROWD: (u32, u32) = (2_000, 8);
/// Bytes of a session's value.
const VALUE_BYTES: usize = 250;
/// By how much a fixed limit may carry more, at a p99 of at most so much more
/// than little's.
const BEATS: f64 = 1.05;
const AT_P99: f64 = 1.2;
/// What ferry may add to the p50 of a caller that is alone, in milliseconds.
const ADDED_MS: f64 = 0.150;

/// Sessions a second and a latency in milliseconds, a round each.
#[derive(Clone, Debug, Default)]
struct Figures {
    rates: Vec<f64>,
    latencies: Vec<f64>,
}

impl Figures {
    fn medians(&self) -> (f64, f64) {
        (median(self.rates.clone()), median(self.latencies.clone()))
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if !arguments.only_alone {
        for pipeline in [Pipeline::Serial, Pipeline::Full] {
            against_fixed(&arguments.flags, pipeline)?;
        }
    }
    if !arguments.only_fixed {
        alone(&arguments.flags)?;
    }
    Ok(())
}

/// little and every fixed limit in front of a group of this kind.
fn against_fixed(flags: &Flags, pipeline: Pipeline) -> Result<()> {
    let little = std::iter::once(LimitSettings::default());
    let fixed = FIXED.map(|max| LimitSettings {
        algorithm: Algorithm::Fixed,
        min: max,
        max,
    });
    let limits: Vec<LimitSettings> = little.chain(fixed).collect();
    let faces: Vec<Face> = limits
        .iter()
        .map(|limit| Face::Ferry(pipeline, *limit))
        .collect();
    let figures = measure(flags, &faces, CROWD, |report| report.latency_ms.p99)?;
    let (rate, p99) = figures[0].medians();
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["limit", "sessions/s", "p99 ms", "of little's", "p99 of its"]);
    let mut better = Vec::new();
    for (limit, figures) in limits.iter().zip(&figures) {
        let (of_rate, of_p99) = (figures.medians().0 / rate, figures.medians().1 / p99);
        let name = match limit.algorithm {
            Algorithm::Fixed => limit.max.to_string(),
            adaptive => adaptive.name().to_owned(),
        };
        if of_rate > BEATS && of_p99 <= AT_P99 {
            better.push(name.clone());
        }
        table.add_row([
            name,
            format!("{:.0}", figures.medians().0),
            format!("{:.1}", figures.medians().1),
            format!("{of_rate:.2}"),
            format!("{of_p99:.2}"),
        ]);
    }
    println!(
        "{pipeline:?}: {} callers, medians of {} rounds",
        CROWD.0, flags.rounds
    );
    println!("{table}");
    println!(
        "{}\n",
        match &better[..] {
            [] => format!(
                "met: no fixed limit carries more than {BEATS} times what little does \
             at a p99 of at most {AT_P99} times its own"
            ),
            better => format!("MISSED: little is beaten by {}", better.join(", ")),
        }
    );
    Ok(())
}

/// One caller at a time: what stands between it and the group costs so much.
fn alone(flags: &Flags) -> Result<()> {
    let faces = [
        Face::Node,
        Face::BeforeNode,
        Face::Forwarding,
        Face::little(),
    ];
    let figures = measure(flags, &faces, (1, 1), |report| report.latency_ms.p50)?;
    let p50: Vec<f64> = figures.iter().map(|figures| figures.medians().1).collect();
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["one caller at a time", "p50 ms", "added ms"]);
    let names = [
        "ferry node, directly",
        "ferry in front of it, batching",
        "ferry in front of it, forwarding",
        "ferry over its embedded group",
    ];
    for (name, p50_of) in names.into_iter().zip(&p50) {
        let added = p50_of - p50[0];
        table.add_row([
            name.to_owned(),
            format!("{p50_of:.3}"),
            format!("{added:+.3}"),
        ]);
    }
    println!("{table}");
    let (added, verdict) = (
        p50[1] - p50[0],
        if p50[1] - p50[0] <= ADDED_MS {
            "met"
        } else {
            "MISSED"
        },
    );
    println!(
        "{verdict}: batching adds {added:.3} ms (goal {ADDED_MS:.3}), {:+.3} ms to forwarding",
        p50[1] - p50[2]
    );
    Ok(())
}

/// Measures each face once a round, the order turning.
fn measure(
    flags: &Flags,
    faces: &[Face],
    (callers, connections): (u32, u32),
    latency: impl Fn(&Report) -> f64,
) -> Result<Vec<Figures>> {
    let mut figures = vec![Figures::default(); faces.len()];
    for round in 0..flags.rounds {
        for turn in 0..faces.len() {
            // Whoever goes first finds the machine colder: they take turns.
            let at = (turn + round as usize) % faces.len();
            eprintln!("round {} of {}: {:?}", round + 1, flags.rounds, faces[at]);
            let stand = Stand::open(faces[at])?;
            let calls = Calls {
                form: Form::Legacy,
                batch_size: 1,
                connections,
                callers,
                value_bytes: VALUE_BYTES,
            };
            calls.run(stand.address(), "warm-up-", flags.duration.0 / 4)?;
            let report = calls.run(stand.address(), "bench-", flags.duration.0)?;
            stand.close()?;
            figures[at].rates.push(report.avg_ops_per_sec);
            figures[at].latencies.push(latency(&report));
        }
    }
    Ok(figures)
}
