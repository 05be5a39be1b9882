//! What attacks cost a real process, and the other callers of it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use ferry::telemetry::names;

use crate::{
    process::Sidecar,
    support::{
        admin,
        client::Line,
        hostile::{ATTACKS, Hostile},
        served::{ANY, policy_file},
        upstream::Upstream,
    },
};

/// What an attack may add: the bounds that the policy below sets, and what
/// sockets and machines hold beside.
const GROWTH_KIB: u64 = 96 << 10;
const GUARDS: &str = "max_unfinished_bytes: 16MiB, max_streams_total: 5000, frame_timeout: 2s";

async fn sidecar(upstream: &Upstream, guards: &str) -> Sidecar {
    let endpoint = format!("  endpoints: [http://{}]", upstream.address);
    let policy = policy_file(ANY, ANY, &endpoint);
    let with = format!("version: 1\nguards: {{{guards}}}\n");
    Sidecar::with_policy(&policy.replacen("version: 1\n", &with, 1)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_each_attack_memory_stays_bounded_and_callers_are_served() {
    let upstream = Upstream::answering().await;
    let sidecar = sidecar(&upstream, GUARDS).await;
    let line = Line::open(sidecar.address).await;
    for call in 0..200 {
        line.create(&format!("first-{call}"), b"s").await;
    }
    let before = sidecar.resident_kib();
    for attack in ATTACKS {
        let hostile = Hostile::begin(attack, sidecar.address);
        for call in 0..200 {
            line.create(&format!("x-{call}"), b"s").await;
        }
        drop(hostile);
        let now = sidecar.resident_kib();
        let grown = now.saturating_sub(before);
        assert!(grown <= GROWTH_KIB, "{}: {grown} KiB more", attack.name);
    }
}

/// Of one leg: how its callers fared.
struct Leg {
    p99: Duration,
    calls: usize,
}

const CALLERS: usize = 8;
const LEG: Duration = Duration::from_secs(1);
const ROUNDS: usize = 3;

/// Callers that call one after the other, each on a connection of its own.
async fn leg(address: SocketAddr) -> Leg {
    let mut callers = Vec::new();
    for caller in 0..CALLERS {
        callers.push(tokio::spawn(async move {
            let line = Line::open(address).await;
            let (begun, mut took) = (Instant::now(), Vec::new());
            while begun.elapsed() < LEG {
                let call = Instant::now();
                line.create(&format!("{caller}-{}", took.len()), b"s").await;
                took.push(call.elapsed());
            }
            took
        }));
    }
    let mut took = Vec::new();
    for caller in callers {
        took.extend(caller.await.expect("a caller does not panic"));
    }
    took.sort_unstable();
    Leg {
        p99: took[took.len() * 99 / 100],
        calls: took.len(),
    }
}

fn median<T: Ord + Copy>(mut of: Vec<T>) -> T {
    of.sort_unstable();
    of[of.len() / 2]
}

/// `make bench-guards`: a table for `docs/security.md`.
#[ignore = "a measurement, for a quiet machine"]
#[allow(clippy::print_stdout)] // its result
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_each_attack_costs_other_callers() {
    println!(
        "| attack | p99 without | p99 during | factor | calls/s without | during | refused | memory, MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for attack in ATTACKS {
        // A process for each, with the guards as they are by default, and an
        // upstream, which keeps all that it is sent.
        let upstream = Upstream::answering().await;
        let sidecar = sidecar(&upstream, "").await;
        leg(sidecar.address).await;
        let (mut without, mut during) = (Vec::new(), Vec::new());
        let mut resident = 0;
        for _ in 0..ROUNDS {
            without.push(leg(sidecar.address).await);
            let hostile = Hostile::begin(attack, sidecar.address);
            during.push(leg(sidecar.address).await);
            resident = resident.max(sidecar.resident_kib());
            drop(hostile);
        }
        let p99 = |legs: &[Leg]| median(legs.iter().map(|leg| leg.p99).collect());
        let calls = |legs: &[Leg]| median(legs.iter().map(|leg| leg.calls).collect());
        let (quiet, attacked) = (p99(&without), p99(&during));
        println!(
            "| {} | {:.2} ms | {:.2} ms | {:.1} | {} | {} | {} | {} |",
            attack.name,
            quiet.as_secs_f64() * 1e3,
            attacked.as_secs_f64() * 1e3,
            attacked.as_secs_f64() / quiet.as_secs_f64(),
            calls(&without),
            calls(&during),
            admin::metric(sidecar.admin, names::GUARD_REFUSALS, "").await,
            resident >> 10,
        );
        drop(sidecar.kill().await);
    }
}
