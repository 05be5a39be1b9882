//! A caller that asks hears what became of its call, in the answer's metadata;
//! and what an operator asks: where the time of a slow batch went, and a line
//! for each call.

use std::{
    io,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tonic::Code;
use tracing_subscriber::fmt::MakeWriter;

use crate::support::{
    admin,
    client::{Answer, CREATE, LIST, frame, grpc, old_form, with},
    served::{ANY, Served, one_at_a_time, policy_file},
    until,
    upstream::{Upstream, refusal},
};

const ASKS: &[(&str, &str)] = &[("ferry-explain", "1")];

fn told(answer: &Answer) -> &str {
    let told = answer.headers.get("ferry-explain");
    let told = told.unwrap_or_else(|| panic!("nothing was told: {answer:?}"));
    told.to_str().expect("visible ASCII")
}

#[tokio::test]
async fn a_caller_that_asks_hears_of_its_batch_and_who_does_not_hears_nothing() {
    let upstream = Upstream::holding().await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    let first = line.send(grpc(CREATE), old_form("first", b"s")).await;
    upstream.until_batches(1).await;
    let asks = line.send(with(CREATE, ASKS), old_form("asks", b"s")).await;
    let silent = line.send(grpc(CREATE), old_form("silent", b"s")).await;
    served.until_queued(2).await;
    upstream.answer_all();
    let asks = asks.answer().await.expect("an answer, not a reset");
    assert_eq!(asks.status().code(), Code::Ok);
    let what = told(&asks);
    assert!(what.starts_with("outcome=committed, entries=2, closed-by="));
    assert!(what.contains(", limit=1, in-flight=1, upstream-ms="));
    for call in [first, silent] {
        let answer = call.answer().await.expect("an answer, not a reset");
        assert!(!answer.headers.contains_key("ferry-explain"), "{answer:?}");
    }
    // It shared its batch: the header separates nobody.
    assert_eq!(upstream.batches()[1].clients, ["asks", "silent"]);
    assert!(!upstream.batches()[1].headers.contains_key("ferry-explain"));
}

#[tokio::test]
async fn a_call_that_shared_no_batch_or_failed_is_told_why() {
    let upstream = Upstream::answering().await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    let body = || old_form("one", b"s");
    let asks = [ASKS[0], ("x-tenant", "a")];
    let alone = line.ask(with(CREATE, &asks), body()).await;
    assert_eq!(told(&alone), "outcome=alone, reason=metadata");
    let other = line.ask(with(LIST, ASKS), frame(&String::new())).await;
    assert_eq!(told(&other), "outcome=forwarded");
    let invalid = line.ask(with(CREATE, ASKS), old_form("", b"s")).await;
    assert_eq!(invalid.status().code(), Code::InvalidArgument);
    assert_eq!(told(&invalid), "outcome=invalid");
    upstream.refuse(refusal());
    let refused = line.ask(with(CREATE, ASKS), body()).await;
    assert_ne!(refused.status().code(), Code::Ok);
    assert!(told(&refused).contains(", entries=1, "), "{refused:?}");
    assert!(!told(&refused).contains("committed"), "{refused:?}");
}

#[tokio::test]
async fn where_the_policy_forbids_it_nothing_is_told_and_the_header_harms_nobody() {
    let upstream = Upstream::answering().await;
    let forbidden = "telemetry: {explain: false}\nmetadata:";
    let served = Served::before_with(upstream.address, "metadata:", forbidden).await;
    let line = served.line().await;
    let answer = line.ask(with(CREATE, ASKS), old_form("one", b"s")).await;
    assert_eq!(answer.status().code(), Code::Ok);
    assert!(!answer.headers.contains_key("ferry-explain"), "{answer:?}");
    let batches = admin::metric(served.admin(), "ferry_batches_total", "").await;
    assert_eq!(batches, 1.0, "it was batched all the same");
}

#[tokio::test]
async fn a_batch_slower_than_the_policys_bound_is_listed_with_its_five_stages() {
    let upstream = Upstream::holding().await;
    let slow = "telemetry: {slow_batch: 1ms}\nmetadata:";
    let served = Served::before_with(upstream.address, "metadata:", slow).await;
    let line = served.line().await;
    let call = line.send(grpc(CREATE), old_form("one", b"s")).await;
    upstream.until_batches(1).await;
    // Held back for longer than that, by any clock.
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    upstream.answer_all();
    call.answer().await.expect("an answer, not a reset");
    let mut seconds = Value::Null;
    until("the batch is listed", async || {
        let (_, listed) = admin::fetch(served.admin(), "/debug/recent").await.unwrap();
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        seconds = listed["batches"][0]["seconds"].clone();
        !seconds.is_null()
    })
    .await;
    for stage in ["queue", "permit", "wire", "upstream", "reply"] {
        assert!(seconds[stage].is_number(), "{stage}: {seconds}");
    }
    let upstream = seconds["upstream"].as_f64().expect("a number");
    assert!(upstream >= 0.005, "that is where it was held: {seconds}");
}

/// The log of this test's thread, a JSON object a line.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn keep(&self) -> tracing::subscriber::DefaultGuard {
        let log = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_writer(self.clone())
            .finish();
        tracing::subscriber::set_default(log)
    }

    /// The lines of the access log.
    fn access(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).expect("UTF-8");
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .filter(|line: &Value| line["target"] == "ferry::access")
            .collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

// On one thread, whose log it keeps.
#[tokio::test(flavor = "current_thread")]
async fn every_call_has_its_line_in_the_access_log_whatever_became_of_it() {
    let log = Log::default();
    let _kept = log.keep();
    let upstream = Upstream::holding().await;
    let yaml = policy_file(ANY, ANY, &one_at_a_time(upstream.address));
    let served = Served::by(&format!("{yaml}telemetry: {{access_log: 1}}\n")).await;
    let line = served.line().await;
    let first = line.send(grpc(CREATE), old_form("first", b"s")).await;
    upstream.until_batches(1).await;
    let leaver = line.send(grpc(CREATE), old_form("leaver", b"s")).await;
    served.until_queued(1).await;
    leaver.reset();
    until("the leaver has its line", async || log.access().len() == 1).await;
    upstream.answer_all();
    first.answer().await.expect("an answer, not a reset");
    line.ask(grpc(CREATE), old_form("", b"s")).await;
    line.ask(grpc(LIST), frame(&String::new())).await;
    until("each call has a line", async || log.access().len() == 4).await;
    let lines = log.access();
    let message = |line: &Value| line["message"].as_str().map(str::to_owned);
    assert_eq!(message(&lines[0]).as_deref(), Some("the caller left"));
    assert!(lines[0]["grpc_status"].is_null(), "{}", lines[0]);
    assert_eq!(lines[1]["path"], CREATE);
    assert_eq!(lines[1]["grpc_status"], 0);
    assert_eq!(lines[1]["batch_entries"], 1);
    assert!(lines[1]["upstream_ms"].is_number(), "{}", lines[1]);
    assert_eq!(lines[2]["grpc_status"], Code::InvalidArgument as u32);
    assert_eq!(lines[3]["path"], LIST);
    // This upstream has no such method, and says so itself.
    assert_eq!(lines[3]["grpc_status"], Code::Unimplemented as u32);
    assert!(lines[3]["batch_entries"].is_null(), "it was in none");
}
