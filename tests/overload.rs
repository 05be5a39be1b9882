//! More load than the upstream can carry, over real sockets: who is served is
//! served in time, nobody else costs the upstream anything, and patient callers
//! are all served, however many there are. How much of the capacity that makes
//! is for a benchmark to say (docs/benchmarks.md), since here a hundred other
//! tests run; what the upstream does in vain is counted, not timed.

use std::{collections::HashSet, net::SocketAddr};

use tonic::Code;

use crate::{
    process::Sidecar,
    support::{
        admin,
        client::{CREATE, Call, Line, grpc, old_form, with},
        served::{ANY, Served, one_at_a_time, policy_file},
        soon, until,
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

/// Calls of a round that wait as long as it takes: as many as the upstream takes
/// in a batch, of which it has one a round.
const PATIENT: u32 = 100;
/// And those beside them whose time is over before it is free.
const HASTY: u32 = 200;
const ROUNDS: u32 = 30;
/// Rounds before memory is first looked at. What would be kept of the hasty
/// calls of those after them is twice what it may grow by.
const SETTLED: u32 = 10;
const SESSION: usize = 8 << 10;

/// A policy whose upstream takes a batch of the patient calls at a time.
fn in_front_of(upstream: SocketAddr) -> String {
    let policy = policy_file(ANY, ANY, &one_at_a_time(upstream));
    let window = format!("window: {{max_entries: {PATIENT}, max_bytes: 4MiB}}");
    policy.replace(
        "queue: {max_wait",
        &format!("{window}\n    queue: {{max_wait"),
    )
}

async fn is_answered(call: Call, expected: &[Code]) {
    let answer = soon("an answer", call.answer()).await;
    let status = answer.expect("an answer, not a reset").status();
    assert!(expected.contains(&status.code()), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_three_times_the_capacity_the_upstream_does_nothing_in_vain_and_memory_stays_flat() {
    let upstream = Upstream::holding().await;
    let sidecar = Sidecar::with_policy(&in_front_of(upstream.address)).await;
    let line = Line::open(sidecar.address).await;
    let session = vec![b's'; SESSION];
    let mut held = vec![line.send(grpc(CREATE), old_form("first", &session)).await];
    let (mut batches, mut settled) = (1, 0);
    for round in 0..ROUNDS {
        upstream.until_batches(batches).await;
        let mut patient = Vec::new();
        for number in 0..PATIENT {
            let body = old_form(&format!("patient-{round}-{number}"), &session);
            patient.push(line.send(grpc(CREATE), body).await);
        }
        until("they wait behind the batch that is held", async || {
            let queued = admin::metric(sidecar.admin, "ferry_queued_entries", "").await;
            queued == f64::from(PATIENT)
        })
        .await;
        let mut hasty = Vec::new();
        for number in 0..HASTY {
            let body = old_form(&format!("hasty-{round}-{number}"), &session);
            let request = with(CREATE, &[("grpc-timeout", "50m")]);
            hasty.push(line.send(request, body).await);
        }
        // Each has been told that its time is over before the next batch leaves.
        for call in hasty {
            is_answered(call, &[Code::DeadlineExceeded, Code::ResourceExhausted]).await;
        }
        upstream.answer();
        batches += 1;
        for call in std::mem::replace(&mut held, patient) {
            is_answered(call, &[Code::Ok]).await;
        }
        if round == SETTLED {
            settled = sidecar.resident_kib();
        }
    }
    upstream.until_batches(batches).await;
    let loaded = sidecar.resident_kib();
    upstream.answer();
    for call in held {
        is_answered(call, &[Code::Ok]).await;
    }
    let sent = upstream
        .batches()
        .into_iter()
        .flat_map(|batch| batch.clients);
    let sent: Vec<String> = sent.collect();
    let hasty = sent.iter().filter(|client| client.starts_with("hasty"));
    assert_eq!(hasty.count(), 0, "nobody waited for what the upstream did");
    assert_eq!(sent.len(), (1 + PATIENT * ROUNDS) as usize);
    let once: HashSet<&String> = sent.iter().collect();
    assert_eq!(once.len(), sent.len(), "nothing is sent twice");
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
