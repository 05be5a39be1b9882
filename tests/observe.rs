//! A method that is observed: its calls are passed on as they come, and what
//! batches they would have made is told; and modes that change at run time.

use bytes::Bytes;
use serde_json::Value;
use tonic::Code;

use crate::support::{
    admin,
    client::{Answer, CREATE, Line, batch_form, grpc, old_form, with},
    etcd::{Etcd, Put, put},
    served::Served,
    until,
    upstream::Upstream,
};

/// Windows that close by their size alone while a test lasts.
const BY_SIZE: &str = "max_entries: 50, linger: 9s, close: fixed}\n    queue: {max_wait: 10s";

/// The shipped policy in front of `upstream`, with such windows.
async fn observing(upstream: &Upstream, window: &str) -> Served {
    let path = crate::support::root().join("policies/observe.yaml");
    let shipped = std::fs::read_to_string(path).expect("the policy is shipped");
    let mut own = shipped.clone();
    for (from, to) in [
        ("127.0.0.1:1229", "127.0.0.1:0".to_owned()),
        ("127.0.0.1:9901}", "127.0.0.1:0}".to_owned()),
        ("127.0.0.1:1228", upstream.address.to_string()),
        (
            "max_entries: 500, max_bytes: 1MiB, linger: 2ms, close: adaptive",
            window.to_owned(),
        ),
    ] {
        assert_eq!(own.matches(from).count(), 1, "{from} in the policy");
        own = own.replace(from, &to);
    }
    Served::by(&own).await
}

async fn counted(served: &Served, name: &str, label: &str) -> f64 {
    admin::metric(served.admin(), &format!("ferry_observed_{name}"), label).await
}

async fn until_calls(served: &Served, verdict: &str, calls: u32) {
    until("so many calls were judged", async || {
        counted(served, "calls_total", verdict).await == f64::from(calls)
    })
    .await;
}

async fn plan(served: &Served) -> Value {
    let (code, page) = admin::fetch(served.admin(), "/plan")
        .await
        .expect("it answers");
    assert_eq!(code, 200, "{page}");
    let mut page: Value = serde_json::from_str(&page).expect("JSON");
    page["methods"][0].take()
}

#[tokio::test]
async fn an_observed_call_is_passed_on_byte_for_byte_and_answered_as_the_upstream_does() {
    let upstream = Upstream::answering().await;
    let served = observing(&upstream, BY_SIZE).await;
    let (through, straight) = (served.line().await, Line::open(upstream.address).await);
    let odd: [(&str, &str); 4] = [
        ("x-tenant", "t"),
        ("user-agent", "grpc-java/1.2"),
        ("grpc-encoding", "snappy"),
        ("te", "trailers"),
    ];
    let mut lying = batch_form(&[("x", b"s")]).to_vec();
    lying[0] = 1;
    for (metadata, body) in [
        (&[][..], batch_form(&[("a", b"s"), ("b", b"s")])),
        (&[], batch_form(&[])),
        (&[], old_form("old", b"s")),
        (&odd[..], lying.into()),
    ] {
        let mut answers: Vec<Answer> = Vec::new();
        for line in [&straight, &through] {
            upstream.refuse(tonic::Status::aborted("in the upstream's own words"));
            let mut answer = line.ask(with(CREATE, metadata), body.clone()).await;
            // Between the two a second may begin.
            answer.headers.remove("date");
            answers.push(answer);
        }
        let [one, other] = &answers[..] else {
            panic!("two were asked")
        };
        assert_eq!(one.status().code(), Code::Aborted);
        assert_eq!(one.status().message(), other.status().message());
        assert_eq!((&one.headers, &one.body), (&other.headers, &other.body));
        let seen = upstream.batches();
        let [.., direct, passed] = &seen[..] else {
            panic!("two came")
        };
        assert_eq!(direct.body, body);
        assert_eq!(passed.body, body, "as it was sent");
        assert_eq!(direct.headers, passed.headers);
    }
}

#[tokio::test]
async fn what_would_share_a_batch_is_counted_and_what_would_not_with_its_reason() {
    let upstream = Upstream::answering().await;
    let served = observing(&upstream, BY_SIZE).await;
    let line = served.line().await;
    // In pieces, as a slow client sends it: the first two entries.
    let mut pieces = line.begin(grpc(CREATE)).await;
    let body = batch_form(&[("p", b"s"), ("q", b"s")]);
    pieces.write(body.slice(..4), false);
    pieces.write(body.slice(4..9), false);
    pieces.write(body.slice(9..), true);
    let mut calls = vec![pieces];
    upstream.until_batches(1).await;
    for n in 0..98 {
        let body = old_form(&format!("client-{n}"), b"s");
        calls.push(line.send(grpc(CREATE), body).await);
    }
    // Another's, who would share none of theirs.
    let others: Vec<_> = (0..50).map(|n| format!("other-{n}")).collect();
    let others: Vec<_> = others.iter().map(|id| (&**id, &b"s"[..])).collect();
    let token = with(CREATE, &[("token", "other")]);
    calls.push(line.send(token, batch_form(&others)).await);
    for (metadata, body) in [
        (
            &[("x-tenant", "t")][..],
            batch_form(&[("a", b"s"), ("b", b"s")]),
        ),
        (&[("grpc-encoding", "snappy")], compressed_they_say()),
        (&[], batch_form(&[("no session", b"")])),
        (&[], batch_form(&[])),
    ] {
        calls.push(line.send(with(CREATE, metadata), body).await);
    }
    let sent = calls.len();
    for call in calls {
        let answer = call.answer().await.expect("an answer, not a reset");
        assert_eq!(answer.status().code(), Code::Ok);
    }
    assert_eq!(upstream.batches().len(), sent, "one by one");
    until_calls(&served, "batched", 100).await;
    until_calls(&served, "alone", 2).await;
    until_calls(&served, "refused", 2).await;
    assert_eq!(counted(&served, "batches_total", "full").await, 3.0);
    assert_eq!(counted(&served, "calls_saved_total", "").await, 97.0);
    assert_eq!(counted(&served, "alone_total", "metadata").await, 2.0);
    assert_eq!(counted(&served, "alone_total", "compressed").await, 1.0);
    assert_eq!(counted(&served, "batch_entries_sum", "").await, 150.0);
    assert_eq!(
        admin::metric(served.admin(), "ferry_batches_total", "").await,
        0.0
    );

    let plan = plan(&served).await;
    assert_eq!(plan["method"], CREATE[1..]);
    assert_eq!(plan["mode"], "observe");
    let observed = &plan["observed"];
    assert_eq!(observed["calls"]["batched"], 100);
    assert_eq!(observed["alone"]["metadata"], 2);
    assert_eq!(observed["calls_saved"], 97);
    assert_eq!(observed["sizes"], serde_json::json!([[64, 3]]));
    let refused = admin::fetch(served.admin(), "/plan?format=xml").await;
    let (code, why) = refused.expect("it answers");
    assert!(code == 400 && why.contains("format=text"), "{why}");
    let told = admin::fetch(served.admin(), "/plan?format=text").await;
    let (_, told) = told.expect("it answers");
    for sentence in [
        "  mode       observe: forwarded as they come",
        "both forms share a batch",
        "100 would have left as 3 batches of 50.0 entries in the mean, 97 upstream calls saved",
        "2 would have gone alone (entries: compressed 1, metadata 2)",
        "2 would have been refused at the door",
    ] {
        assert!(
            told.contains(sentence),
            "{sentence:?} is missing in:\n{told}"
        );
    }
}

/// A message that is not what its flag says: nobody is to look into it.
fn compressed_they_say() -> Bytes {
    let mut body = batch_form(&[("x", b"s")]).to_vec();
    body[0] = 1;
    body.into()
}

#[tokio::test]
async fn a_method_changes_its_mode_while_ferry_runs_until_the_policy_is_read_again() {
    let upstream = Upstream::answering().await;
    let served = observing(&upstream, "max_entries: 50").await;
    let line = served.line().await;
    let switch = async |mode: &str| {
        let told = format!("{} {mode}", &CREATE[1..]);
        admin::post(served.admin(), "/mode", &told).await
    };
    let create = async |client_id: &str| {
        let answer = line.ask(grpc(CREATE), old_form(client_id, b"s")).await;
        assert_eq!(answer.status().code(), Code::Ok);
    };
    create("observed").await;
    assert_eq!(switch("enforce").await.0, 200);
    create("batched").await;
    let batches = admin::metric(served.admin(), "ferry_batches_total", "").await;
    assert_eq!(batches, 1.0);
    let (code, told) = switch("off").await;
    assert_eq!(code, 200, "{told}");
    assert!(told.contains("until the policy is read again"), "{told}");
    create("forwarded").await;
    assert_eq!(plan(&served).await["mode"], "off");
    let batches = admin::metric(served.admin(), "ferry_batches_total", "").await;
    assert_eq!(batches, 1.0, "none since");
    assert_eq!(upstream.batches().len(), 3);

    for (told, why) in [
        ("nonsense", "must be a method and its mode"),
        (
            "shop.Orders/Place off",
            "must be one of the policy's: meta.service",
        ),
        (
            &format!("{} on", &CREATE[1..]),
            "must be one of enforce, observe, off",
        ),
    ] {
        let (code, answer) = admin::post(served.admin(), "/mode", told).await;
        assert_eq!(code, 422, "{told}");
        assert!(answer.contains(why), "{answer}");
    }
    assert_eq!(
        plan(&served).await["mode"],
        "off",
        "nothing of it took effect"
    );
}

#[tokio::test]
async fn an_observed_etcd_gets_every_put_as_it_came_with_a_revision_of_its_own() {
    let etcd = Etcd::start().await;
    let sidecar = etcd
        .sidecar_with(&[("mode: enforce", "mode: observe")])
        .await;
    let line = Line::open(sidecar.address).await;
    let mut revisions = Vec::new();
    for n in 0..20 {
        let reply = put(&line, &Put::of(&format!("key-{n}"), "value")).await;
        let header = reply.expect("etcd takes it").header;
        revisions.push(header.expect("every reply has one").revision);
    }
    let first = revisions[0];
    let each: Vec<_> = (first..first + 20).collect();
    assert_eq!(revisions, each, "no two share one");
    let leased = Put {
        lease: 7,
        ..Put::of("leased", "value")
    };
    assert!(put(&line, &leased).await.is_err(), "there is no such lease");
    until("what would go alone is counted", async || {
        let name = "ferry_observed_alone_total";
        admin::metric(sidecar.admin, name, "unbatchable_if").await == 1.0
    })
    .await;
    until("what would be batched is counted", async || {
        let name = "ferry_observed_calls_total";
        admin::metric(sidecar.admin, name, "batched").await == 20.0
    })
    .await;
    assert_eq!(
        admin::metric(sidecar.admin, "ferry_batches_total", "").await,
        0.0
    );
}
