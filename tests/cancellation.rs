//! A caller that leaves costs nothing: while it waits, it is never sent; once
//! it was sent, nobody else notices. Over real sockets, with an upstream that
//! holds its answers back, so that what waits waits for as long as the test
//! wants; what became of each is read from `/metrics`.

use tonic::{Code, Status};

use crate::support::{
    admin,
    client::{CREATE, Call, Line, batch_form, grpc, old_form, with},
    served::Served,
    until,
    upstream::Upstream,
};

/// A sidecar whose one permit is taken by the batch of `first`.
struct Stage {
    upstream: Upstream,
    served: Served,
    line: Line,
    first: Call,
}

impl Stage {
    async fn set() -> Self {
        let upstream = Upstream::holding().await;
        let served = Served::before(upstream.address).await;
        let line = served.line().await;
        let first = waiting(&line, "first").await;
        upstream.until_batches(1).await;
        served.until_queued(0).await;
        Self {
            upstream,
            served,
            line,
            first,
        }
    }

    /// Answers everything; returns the client ids of each batch that was sent.
    async fn play(self) -> Vec<Vec<String>> {
        self.upstream.answer_all();
        acknowledged(self.first).await;
        // One more round trip, so that what was due before it has been sent.
        acknowledged(waiting(&self.line, "last").await).await;
        self.upstream
            .batches()
            .into_iter()
            .map(|batch| batch.clients)
            .collect()
    }
}

/// Sends an old-form call that will have to wait.
async fn waiting(line: &Line, client_id: &str) -> Call {
    line.send(grpc(CREATE), old_form(client_id, b"session"))
        .await
}

async fn acknowledged(call: Call) {
    let answer = call.answer().await.expect("an answer, not a reset");
    assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
}

/// What the counters say, by name and label.
async fn counted(served: &Served, name: &str, label: &str) -> f64 {
    admin::metric(served.admin(), name, label).await
}

#[tokio::test]
async fn a_caller_that_resets_its_stream_while_it_waits_is_never_sent() {
    let stage = Stage::set().await;
    let leaver = waiting(&stage.line, "leaver").await;
    let stayer = waiting(&stage.line, "stayer").await;
    stage.served.until_queued(2).await;
    leaver.reset();
    // Behind the reset on the same connection: when it waits, the reset is known.
    let marker = waiting(&stage.line, "marker").await;
    stage.served.until_queued(3).await;
    stage.upstream.answer_all();
    acknowledged(stayer).await;
    acknowledged(marker).await;
    let cancelled = counted(&stage.served, "ferry_entries_cancelled_total", "left");
    assert_eq!(cancelled.await, 1.0);
    assert_eq!(counted(&stage.served, "ferry_ghosts_total", "").await, 0.0);
    let sent = stage.play().await;
    assert_eq!(
        sent,
        [vec!["first"], vec!["stayer", "marker"], vec!["last"]]
    );
}

#[tokio::test]
async fn a_caller_that_disconnects_while_it_waits_is_never_sent() {
    let stage = Stage::set().await;
    let leaving = stage.served.line().await;
    let _one = waiting(&leaving, "leaver-1").await;
    let _two = waiting(&leaving, "leaver-2").await;
    stage.served.until_queued(2).await;
    let stayer = waiting(&stage.line, "stayer").await;
    stage.served.until_queued(3).await;
    leaving.hang_up().await;
    stage.upstream.answer_all();
    acknowledged(stayer).await;
    let cancelled = counted(&stage.served, "ferry_entries_cancelled_total", "left");
    assert_eq!(cancelled.await, 2.0);
    assert_eq!(counted(&stage.served, "ferry_ghosts_total", "").await, 0.0);
    let sent = stage.play().await;
    assert_eq!(sent, [["first"], ["stayer"], ["last"]]);
}

#[tokio::test]
async fn a_caller_whose_grpc_timeout_passes_while_it_waits_is_told_so_and_never_sent() {
    let stage = Stage::set().await;
    let request = with(CREATE, &[("grpc-timeout", "50m")]);
    let body = old_form("hasty", b"session");
    let hasty = stage.line.send(request, body).await;
    let patient = waiting(&stage.line, "patient").await;
    stage.served.until_queued(2).await;
    let answer = hasty.answer().await.expect("an answer, not a reset");
    assert_eq!(answer.status().code(), Code::DeadlineExceeded);
    assert!(answer.status().message().contains("deadline"));
    stage.upstream.answer_all();
    acknowledged(patient).await;
    let expired = counted(&stage.served, "ferry_entries_cancelled_total", "expired");
    assert_eq!(expired.await, 1.0);
    let sent = stage.play().await;
    assert_eq!(sent, [["first"], ["patient"], ["last"]]);
}

#[tokio::test]
async fn a_grpc_timeout_that_has_passed_on_arrival_is_never_sent() {
    let stage = Stage::set().await;
    let request = with(CREATE, &[("grpc-timeout", "0n")]);
    let answer = stage.line.ask(request, old_form("late", b"session")).await;
    assert_eq!(answer.status().code(), Code::DeadlineExceeded);
    let sent = stage.play().await;
    assert_eq!(sent, [["first"], ["last"]]);
}

#[tokio::test]
async fn when_every_caller_that_waits_has_left_nothing_is_sent_and_the_permit_is_free() {
    let stage = Stage::set().await;
    let leaving = stage.served.line().await;
    let _call = waiting(&leaving, "leaver").await;
    stage.served.until_queued(1).await;
    leaving.hang_up().await;
    stage.upstream.answer_all();
    stage.served.until_queued(0).await;
    let sent = stage.play().await;
    assert_eq!(sent, [["first"], ["last"]]);
}

/// Two callers in one batch that the upstream has and holds back.
async fn two_in_one_batch(stage: &Stage) -> (Call, Call) {
    let one = waiting(&stage.line, "one").await;
    let two = waiting(&stage.line, "two").await;
    stage.served.until_queued(2).await;
    stage.upstream.answer();
    stage.upstream.until_batches(2).await;
    assert_eq!(stage.upstream.batches()[1].clients, ["one", "two"]);
    (one, two)
}

#[tokio::test]
async fn a_caller_that_leaves_after_its_batch_was_sent_is_abandoned_and_the_others_answered() {
    let stage = Stage::set().await;
    let (one, two) = two_in_one_batch(&stage).await;
    one.reset();
    // Behind the reset on the same connection: when it waits, the reset is known.
    let marker = waiting(&stage.line, "marker").await;
    stage.served.until_queued(1).await;
    assert_eq!(stage.upstream.left(), 0, "the batch goes on");
    stage.upstream.answer();
    acknowledged(two).await;
    let served = &stage.served;
    until("the leaver is counted", async || {
        counted(served, "ferry_entries_abandoned_total", "").await == 1.0
    })
    .await;
    assert_eq!(counted(served, "ferry_ghosts_total", "").await, 0.0);
    let cancelled = counted(served, "ferry_entries_cancelled_total", "");
    assert_eq!(cancelled.await, 0.0, "it had been sent");
    stage.upstream.answer_all();
    acknowledged(marker).await;
    assert_eq!(stage.upstream.left(), 0);
}

#[tokio::test]
async fn a_connection_lost_after_its_batch_was_sent_cancels_nobody_elses() {
    let stage = Stage::set().await;
    let leaving = stage.served.line().await;
    let _one = waiting(&leaving, "one").await;
    stage.served.until_queued(1).await;
    let two = waiting(&stage.line, "two").await;
    stage.served.until_queued(2).await;
    stage.upstream.answer();
    stage.upstream.until_batches(2).await;
    leaving.hang_up().await;
    stage.upstream.answer();
    acknowledged(two).await;
    let served = &stage.served;
    until("the leaver is counted", async || {
        counted(served, "ferry_entries_abandoned_total", "").await == 1.0
    })
    .await;
    assert_eq!(stage.upstream.left(), 0, "the batch was not cancelled");
}

#[tokio::test]
async fn a_caller_whose_time_is_up_after_its_batch_was_sent_hears_so_and_the_batch_goes_on() {
    let stage = Stage::set().await;
    let request = with(CREATE, &[("grpc-timeout", "3S")]);
    let hasty = stage.line.send(request, old_form("hasty", b"session"));
    let (hasty, patient) = (hasty.await, waiting(&stage.line, "patient").await);
    stage.served.until_queued(2).await;
    stage.upstream.answer();
    stage.upstream.until_batches(2).await;
    assert_eq!(stage.upstream.batches()[1].clients, ["hasty", "patient"]);
    let answer = hasty.answer().await.expect("an answer, not a reset");
    assert_eq!(answer.status().code(), Code::DeadlineExceeded);
    assert_eq!(stage.upstream.left(), 0, "the batch goes on");
    stage.upstream.answer();
    acknowledged(patient).await;
}

#[tokio::test]
async fn a_batch_ends_with_the_last_of_its_callers_and_not_with_the_first() {
    let stage = Stage::set().await;
    let timeouts = [("3S", "short"), ("6S", "long")];
    let mut calls = Vec::new();
    for (timeout, client_id) in timeouts {
        let request = with(CREATE, &[("grpc-timeout", timeout)]);
        calls.push(stage.line.send(request, old_form(client_id, b"s")).await);
    }
    stage.served.until_queued(2).await;
    stage.upstream.answer();
    stage.upstream.until_batches(2).await;
    let batch = &stage.upstream.batches()[1];
    assert_eq!(batch.clients, ["short", "long"]);
    let remains = ferry::accept::deadline(&batch.headers).expect("the batch has a deadline");
    assert!(remains.as_secs() >= 3, "{remains:?} is the shorter's");
    assert!(remains.as_secs() < 6, "{remains:?} is nobody's");
    for call in calls {
        let answer = call.answer().await.expect("an answer, not a reset");
        assert_eq!(answer.status().code(), Code::DeadlineExceeded);
    }
    // It was told when it may stop; as long as it does not, its place is taken.
    assert_eq!(stage.upstream.left(), 0);
}

#[tokio::test]
async fn a_failed_batch_tells_each_caller_what_the_upstream_said_and_frees_its_permit() {
    let stage = Stage::set().await;
    let one = waiting(&stage.line, "one").await;
    let many = batch_form(&[("two", b"s"), ("three", b"s")]);
    let many = stage.line.send(grpc(CREATE), many).await;
    stage.served.until_queued(3).await;
    stage.upstream.answer();
    acknowledged(stage.first).await;
    stage.upstream.until_batches(2).await;
    let details = bytes::Bytes::from_static(b"\x08\x09");
    let refusal = Status::with_details(Code::Aborted, "no room for 3", details.clone());
    stage.upstream.refuse(refusal);
    stage.upstream.answer_all();
    for call in [one, many] {
        let answer = call.answer().await.expect("an answer, not a reset");
        let status = answer.status();
        assert_eq!(status.code(), Code::Aborted);
        assert_eq!(status.message(), "no room for 3");
        assert_eq!(status.details(), details);
    }
    acknowledged(waiting(&stage.line, "later").await).await;
}

#[tokio::test]
async fn a_caller_that_leaves_while_its_batch_waits_to_be_sent_again_does_not_ride_along() {
    let upstream = Upstream::holding().await;
    let require = "    require: [client_id, session]\n";
    let retry = "on_error: {retry: {attempts: 3, on: [UNAVAILABLE], idempotent: true}}";
    let retried = format!("{require}    {retry}\n");
    let served = Served::before_with(upstream.address, require, &retried).await;
    let line = served.line().await;
    let first = waiting(&line, "first").await;
    upstream.until_batches(1).await;
    let leaver = waiting(&line, "leaver").await;
    let stayer = waiting(&line, "stayer").await;
    served.until_queued(2).await;
    upstream.answer();
    acknowledged(first).await;
    upstream.until_batches(2).await;
    // Takes the one permit as soon as the refusal gives it back, and keeps it:
    // whatever is sent again has to wait behind it.
    let blocker = waiting(&line, "blocker").await;
    served.until_queued(1).await;
    upstream.refuse(Status::unavailable("not now"));
    upstream.answer();
    upstream.until_batches(3).await;
    leaver.reset();
    // Behind the reset on the same connection: when it waits, the reset is known.
    let marker = waiting(&line, "marker").await;
    served.until_queued(1).await;
    upstream.answer_all();
    for call in [blocker, stayer, marker] {
        acknowledged(call).await;
    }
    let mut sent: Vec<_> = upstream
        .batches()
        .into_iter()
        .map(|seen| seen.clients)
        .collect();
    let again = sent.split_off(3);
    assert_eq!(
        sent,
        [vec!["first"], vec!["leaver", "stayer"], vec!["blocker"]]
    );
    let again: std::collections::BTreeSet<_> = again.concat().into_iter().collect();
    assert_eq!(again, ["marker", "stayer"].map(String::from).into());
}
