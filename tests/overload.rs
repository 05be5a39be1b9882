//! More load than the upstream can carry, over real sockets: who is served is
//! served in time, nobody else costs the upstream anything, and patient callers
//! are all served, however many there are. How much of the capacity that makes
//! is for a benchmark to say (docs/benchmarks.md), since here a hundred other
//! tests run; what the upstream does in vain is counted, not timed.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{MissedTickBehavior, interval};
use tonic::Code;

use crate::{
    process::Sidecar,
    support::{
        admin,
        client::{CREATE, Line, grpc, old_form, with},
        served::{Served, one_at_a_time, policy_file},
        slow::Slow,
        soon,
        upstream::Upstream,
    },
};

#[tokio::test]
async fn a_batch_whose_time_is_up_is_not_dropped_and_keeps_its_place_until_the_late_reply() {
    let upstream = Upstream::holding().await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    let request = with(CREATE, &[("grpc-timeout", "50m")]);
    let hasty = line.ask(request, old_form("hasty", b"session")).await;
    assert_eq!(hasty.status().code(), Code::DeadlineExceeded);
    let next = line.send(grpc(CREATE), old_form("next", b"session")).await;
    served.until_queued(1).await;
    assert_eq!(upstream.left(), 0, "the upstream's call goes on");
    assert_eq!(upstream.batches().len(), 1);
    assert_eq!(
        admin::metric(served.admin(), "ferry_in_flight", "").await,
        1.0
    );
    upstream.answer();
    upstream.until_batches(2).await;
    upstream.answer();
    let answer = soon("the next caller's answer", next.answer()).await;
    let answer = answer.expect("an answer, not a reset");
    assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
}

#[tokio::test]
async fn who_is_shed_gets_the_policys_status_and_a_hint_when_to_come_again() {
    let upstream = Upstream::holding().await;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let shed = format!(
        "{}\nshed: {{status: UNAVAILABLE, pushback: true}}",
        one_at_a_time(upstream.address)
    );
    let small = "window: {max_bytes: 32KiB}\n    queue: {max_wait: 50s, max_bytes: 64KiB}";
    let policy = policy_file(any, any, &shed);
    let policy = policy.replace("queue: {max_wait: 50s, max_bytes: 64MiB}", small);
    let served = Served::by(&policy).await;
    let line = served.line().await;
    let first = line.send(grpc(CREATE), old_form("first", b"s")).await;
    upstream.until_batches(1).await;
    let large = vec![b's'; 40 << 10];
    let waits = line.send(grpc(CREATE), old_form("waits", &large)).await;
    served.until_queued(1).await;
    let shed = line.ask(grpc(CREATE), old_form("shed", &large)).await;
    let status = shed.status();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    let pushback = pushback.expect("a hint").to_str().expect("a number");
    assert!(pushback.parse::<u64>().expect("a number") >= 1);
    let reasons = [("queue_bytes", 1.0), ("queue_wait", 0.0), ("deadline", 0.0)];
    for (reason, expected) in reasons {
        let counted = admin::metric(served.admin(), "ferry_entries_shed_total", reason);
        assert_eq!(counted.await, expected, "{reason}");
    }
    upstream.answer_all();
    for call in [first, waits] {
        let answer = soon("an answer", call.answer()).await;
        let answer = answer.expect("an answer, not a reset");
        assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
    }
}

/// What the upstream needs for an entry: it carries 100 a second, few enough
/// that a machine which compiles beside this carries three times as many.
const AN_ENTRY: Duration = Duration::from_millis(10);
/// Calls a tick, and the tick.
const CALLS: u32 = 3;
const TICK: Duration = Duration::from_millis(10);
/// Ticks of the whole load, and those before memory is first looked at: by
/// then the queue is as long as the deadline lets it become.
const TICKS: u32 = 500;
const SETTLED: u32 = 200;

/// A policy whose batches take the slow upstream 50 ms.
fn in_front_of(upstream: SocketAddr) -> String {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let policy = policy_file(any, any, &format!("  endpoints: [http://{upstream}]"));
    policy.replace(
        "queue: {max_wait: 50s",
        "window: {max_entries: 5}\n    queue: {max_wait: 50s",
    )
}

/// One call with a deadline of a second: whether it was served.
async fn served_in_time(line: Arc<Line>, number: u32) -> bool {
    let request = with(CREATE, &[("grpc-timeout", "1S")]);
    let call = line.send(request, old_form(&format!("client-{number}"), b"session"));
    let answer = call.await.answer().await.expect("an answer, not a reset");
    let code = answer.status().code();
    let told = [Code::Ok, Code::ResourceExhausted, Code::DeadlineExceeded];
    assert!(told.contains(&code), "{:?}", answer.status());
    code == Code::Ok
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_three_times_the_capacity_the_upstream_does_nothing_in_vain_and_memory_stays_flat() {
    let upstream = Slow::start(AN_ENTRY).await;
    let sidecar = Sidecar::with_policy(&in_front_of(upstream.address)).await;
    let line = Arc::new(Line::open(sidecar.address).await);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut calls, mut settled) = (Vec::new(), 0);
    for tick in 0..TICKS {
        ticks.tick().await;
        let new = (0..CALLS).map(|call| served_in_time(Arc::clone(&line), tick * CALLS + call));
        calls.extend(new.map(tokio::spawn));
        if tick == SETTLED {
            settled = sidecar.resident_kib();
        }
    }
    let loaded = sidecar.resident_kib();
    let served = join_all(calls).await;
    let served = served
        .into_iter()
        .filter(|served| *served.as_ref().expect("no caller panics"))
        .count();
    let work = upstream.work();
    let taken = work.entries;
    // Else it was no overload, and the rest says nothing.
    assert!(taken < u64::from(CALLS * TICKS) / 2, "{taken} were taken");
    assert!(
        served as f64 >= 0.9 * taken as f64,
        "of {taken} that the upstream worked on {served} were served in time"
    );
    assert!(work.busy > work.idle * 2, "{work:?}");
    assert_eq!(work.again, 0, "nothing is sent twice");
    let ghosts = admin::metric(sidecar.admin, "ferry_ghosts_total", "").await;
    assert_eq!(ghosts, 0.0);
    assert!(
        loaded < settled + (16 << 10),
        "from {settled} KiB to {loaded} KiB under a load that stays"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_patient_callers_are_all_served_and_each_once() {
    const LINES: u32 = 4;
    const EACH: u32 = 5_000;
    let upstream = Upstream::holding().await;
    let served = Served::before(upstream.address).await;
    let mut waiting = Vec::new();
    for line in 0..LINES {
        let line_of = served.line().await;
        for number in line * EACH..(line + 1) * EACH {
            let body = old_form(&format!("client-{number}"), b"session");
            waiting.push(line_of.send(grpc(CREATE), body).await);
        }
    }
    upstream.until_batches(1).await;
    let first = upstream.batches()[0].clients.len();
    let rest = LINES * EACH - u32::try_from(first).expect("a batch is bounded");
    served.until_queued(rest).await;
    upstream.answer_all();
    for call in waiting {
        let answer = soon("an answer", call.answer()).await;
        let answer = answer.expect("an answer, not a reset");
        assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
    }
    let mut sent: Vec<String> = upstream
        .batches()
        .into_iter()
        .flat_map(|batch| batch.clients)
        .collect();
    assert_eq!(sent.len(), (LINES * EACH) as usize);
    sent.sort_unstable();
    sent.dedup();
    assert_eq!(sent.len(), (LINES * EACH) as usize, "each was sent once");
    let shed = admin::metric(served.admin(), "ferry_entries_shed_total", "").await;
    assert_eq!(shed, 0.0);
}
