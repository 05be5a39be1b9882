//! What `ferry proxy` is for: calls of both generations are kept, and only
//! those share a batch that may.

use std::{io::Write as _, net::SocketAddr};

use bytes::Bytes;
use ferry::accept::frame::{HEADER, framed};
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, Request};
use tonic::Code;

use crate::support::{
    admin,
    client::{CREATE, Call, LIST, Line, batch_form, grpc, old_form, with},
    served::Served,
    upstream::{Seen, Upstream},
};

#[tokio::test]
async fn both_generations_on_one_path_are_kept_listed_and_deleted() {
    let served = Served::embedded().await;
    let (old, new) = (served.line().await, served.line().await);
    let mut calls = Vec::new();
    for n in 0..50 {
        let client_id = format!("old-{n}");
        let body = old_form(&client_id, client_id.as_bytes());
        calls.push(old.send(grpc(CREATE), body).await);
        let pair = [format!("new-{n}-a"), format!("new-{n}-b")];
        let pair = pair.each_ref().map(|id| (&**id, id.as_bytes()));
        calls.push(new.send(grpc(CREATE), batch_form(&pair)).await);
    }
    for call in calls {
        acknowledged(call).await;
    }
    for client_id in ["old-0", "old-49", "new-7-a", "new-49-b"] {
        assert_eq!(old.list(client_id).await, [client_id]);
    }
    assert_eq!(new.list("nobody").await.len(), 0);
    assert_eq!(new.list("").await.len(), 150);

    assert_eq!(old.delete("old-0").await.code(), Code::Ok);
    assert_eq!(new.list("old-0").await.len(), 0);
    assert_eq!(new.list("").await.len(), 149);

    old.create("new-7-a", b"newer").await;
    assert_eq!(new.list("new-7-a").await, ["newer"]);
}

#[tokio::test]
async fn of_two_sessions_of_one_client_the_later_stays() {
    let served = Served::embedded().await;
    let line = served.line().await;
    let twice = batch_form(&[("x", b"earlier"), ("y", b"other"), ("x", b"later")]);
    let answer = line.ask(grpc(CREATE), twice).await;
    assert_eq!(answer.status().code(), Code::Ok);
    assert_eq!(line.list("x").await, ["later"]);
    assert_eq!(line.list("").await.len(), 2);
}

async fn acknowledged(call: Call) {
    let answer = call.answer().await.expect("an answer, not a reset");
    assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
}

/// Sends these calls while the upstream is busy, so that those which may
/// share a batch do; returns the batches that followed.
async fn gathered(calls: &[(&str, &[(&str, &str)])]) -> Vec<Seen> {
    let heads = calls
        .iter()
        .map(|(client, held)| (*client, with(CREATE, held)));
    let upstream = Upstream::holding().await;
    let served = Served::before(upstream.address).await;
    gathered_before(&upstream, &served, heads.collect()).await
}

/// The same of calls with these heads.
async fn gathered_before(
    upstream: &Upstream,
    served: &Served,
    calls: Vec<(&str, Request<()>)>,
) -> Vec<Seen> {
    let line = served.line().await;
    let first = line.send(grpc(CREATE), old_form("first", b"s")).await;
    upstream.until_batches(1).await;
    let waits = u32::try_from(calls.len()).expect("a handful");
    let mut waiting = Vec::new();
    for (client_id, head) in calls {
        let body = old_form(client_id, b"s");
        waiting.push(line.send(head, body).await);
    }
    served.until_queued(waits).await;
    upstream.answer_all();
    acknowledged(first).await;
    for call in waiting {
        acknowledged(call).await;
    }
    upstream.batches().split_off(1)
}

fn value<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name).map(|value| value.to_str());
    value.transpose().expect("text").unwrap_or_default()
}

#[tokio::test]
async fn calls_with_different_credentials_never_share_a_batch_and_each_batch_carries_its_own() {
    let credentials: [&[(&str, &str)]; 6] = [
        &[],
        &[("authorization", "Bearer a")],
        &[("authorization", "Bearer b")],
        &[("token", "a")],
        &[("authorization", "Bearer a"), ("token", "a")],
        &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
    ];
    let names: Vec<String> = (0..30).map(|n| format!("{}-{n}", n % 6)).collect();
    let calls = names.iter().zip(credentials.iter().cycle());
    let calls: Vec<_> = calls.map(|(name, held)| (&**name, *held)).collect();
    let batches = gathered(&calls).await;
    for batch in &batches {
        let kind = &batch.clients[0][..1];
        let own = batch.clients.iter().all(|client| client.starts_with(kind));
        assert!(own, "{:?} share a batch", batch.clients);
        let held = credentials[kind.parse::<usize>().expect("a digit")];
        for name in ["authorization", "token"] {
            let meant = held.iter().filter(|pair| pair.0 == name);
            let meant: Vec<_> = meant.map(|pair| pair.1).collect();
            let came: Vec<_> = batch.headers.get_all(name).iter().collect();
            assert_eq!(came, meant, "{name} of {:?}", batch.clients);
        }
    }
    // And those who may do share.
    assert_eq!(batches.len(), 6);
    assert!(batches.iter().all(|batch| batch.clients.len() == 5));
}

/// Two calls, addressed to two hosts; the batches that they came in.
async fn addressed(served: impl AsyncFn(SocketAddr) -> Served) -> Vec<Seen> {
    let to = |host: &str| {
        let mut head = grpc(CREATE);
        let uri = format!("http://{host}{CREATE}");
        *head.uri_mut() = uri.parse().expect("a well-formed URI");
        head
    };
    let calls = vec![
        ("a", to("a.example")),
        ("b", to("b.example")),
        ("c", to("a.example")),
    ];
    let upstream = Upstream::holding().await;
    let served = served(upstream.address).await;
    gathered_before(&upstream, &served, calls).await
}

#[tokio::test]
async fn calls_to_different_hosts_never_share_a_batch_and_each_batch_names_its_own() {
    let batches = addressed(Served::before).await;
    let told = batches.iter().map(|batch| {
        let clients: Vec<_> = batch.clients.iter().map(String::as_str).collect();
        (&*batch.authority, clients)
    });
    let told: Vec<_> = told.collect();
    assert_eq!(
        told,
        [("a.example", vec!["a", "c"]), ("b.example", vec!["b"])]
    );
}

#[tokio::test]
async fn hosts_part_nobody_where_the_policy_ignores_them() {
    let ignoring = async |upstream: SocketAddr| {
        let (from, to) = ("ignore: [", "ignore: [\":authority\", ");
        Served::before_with(upstream, from, to).await
    };
    let batches = addressed(ignoring).await;
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].clients, ["a", "b", "c"]);
}

#[tokio::test]
async fn metadata_of_every_day_does_not_part_calls_and_is_not_passed_on() {
    let batches = gathered(&[
        (
            "a",
            &[("user-agent", "grpc-java/1.2"), ("grpc-trace-bin", "AA")],
        ),
        ("b", &[("traceparent", "00-1-2-01"), ("x-request-id", "7")]),
        ("c", &[("baggage", "k=v"), ("grpc-accept-encoding", "gzip")]),
    ])
    .await;
    let [batch] = &batches[..] else {
        panic!("one batch was to come: {batches:?}");
    };
    assert_eq!(batch.clients, ["a", "b", "c"]);
    for name in ["traceparent", "x-request-id", "baggage"] {
        assert_eq!(value(&batch.headers, name), "", "{name} is one caller's");
    }
    assert_eq!(value(&batch.headers, "te"), "trailers");
    assert_eq!(value(&batch.headers, "content-type"), "application/grpc");
}

#[tokio::test]
async fn what_a_mesh_adds_parts_nobody_but_who_it_says_the_caller_is_does() {
    let upstream = Upstream::holding().await;
    let (from, to) = (
        "metadata: {ignore: [x-request-id]}",
        "metadata: {ignore: [x-request-id, x-envoy-*, x-forwarded-proto, x-b3-*, b3]}",
    );
    let served = Served::before_with(upstream.address, from, to).await;
    let line = served.line().await;
    let mut calls = vec![line.send(grpc(CREATE), old_form("first", b"s")).await];
    upstream.until_batches(1).await;
    for (n, who) in ["a", "b", "a", "b"].into_iter().enumerate() {
        let attempt = n.to_string();
        let metadata = [
            ("x-request-id", &*attempt),
            ("x-envoy-attempt-count", &*attempt),
            ("x-forwarded-proto", "http"),
            ("x-b3-traceid", &*attempt),
            ("b3", &*attempt),
            ("x-forwarded-client-cert", who),
        ];
        let body = old_form(&format!("{who}{n}"), b"s");
        calls.push(line.send(with(CREATE, &metadata), body).await);
    }
    served.until_queued(4).await;
    upstream.answer_all();
    for call in calls {
        acknowledged(call).await;
    }
    let batches = upstream.batches().split_off(1);
    let clients: Vec<_> = batches.iter().map(|batch| &batch.clients[..]).collect();
    assert_eq!(clients, [["a0", "a2"], ["b1", "b3"]]);
    for (batch, who) in batches.iter().zip(["a", "b"]) {
        assert_eq!(value(&batch.headers, "x-forwarded-client-cert"), who);
        assert_eq!(value(&batch.headers, "x-envoy-attempt-count"), "");
    }
}

#[tokio::test]
async fn a_call_with_unknown_metadata_goes_alone_and_keeps_it() {
    let upstream = Upstream::answering().await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    let odd: [(&str, &str); 3] = [("x-tenant", "t"), ("x-tenant", "u"), ("x-raw-bin", "AAE")];
    let body = old_form("odd", b"s");
    let length = body.len().to_string();
    let metadata = [&odd[..], &[("content-length", &length)]].concat();
    // The older form is lifted all the same: this upstream knows only the newer.
    acknowledged(line.send(with(CREATE, &metadata), body).await).await;
    let body = batch_form(&[("odd-a", b"s"), ("odd-b", b"s")]);
    acknowledged(line.send(with(CREATE, &odd), body).await).await;
    let batches = upstream.batches();
    let clients: Vec<_> = batches.iter().map(|batch| &batch.clients[..]).collect();
    assert_eq!(clients, [&["odd"][..], &["odd-a", "odd-b"]]);
    for batch in &batches {
        let tenants: Vec<_> = batch.headers.get_all("x-tenant").iter().collect();
        assert_eq!(tenants, ["t", "u"]);
        assert_eq!(value(&batch.headers, "x-raw-bin"), "AAE");
    }
}

#[tokio::test]
async fn a_call_of_an_encoding_that_ferry_does_not_know_goes_alone_and_as_it_came() {
    let upstream = Upstream::answering().await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    // The flag alone: the upstream of the tests reads on all the same.
    let mut body = batch_form(&[("x", b"s")]).to_vec();
    body[0] = 1;
    for encoding in ["snappy", "identity"] {
        let request = with(CREATE, &[("grpc-encoding", encoding)]);
        acknowledged(line.send(request, body.clone().into()).await).await;
        let batch = upstream.batches().pop().expect("one call was to come");
        assert_eq!(value(&batch.headers, "grpc-encoding"), encoding);
        assert_eq!(batch.body, body);
    }
    let alone = admin::metric(served.admin(), "ferry_entries_alone_total", "compressed").await;
    assert_eq!(alone, 2.0);
}

#[tokio::test]
async fn a_call_whose_message_is_not_protobuf_goes_alone_and_as_it_came() {
    let upstream = Upstream::answering().await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    let of_type = |kind: &str| {
        let mut request = grpc(CREATE);
        let headers = request.headers_mut();
        headers.insert("content-type", kind.parse().expect("a content type"));
        request
    };
    // Would be read as the single form, of which the upstream knows nothing.
    let body = old_form("is no JSON either", b"s");
    for kind in [
        "application/grpc+json",
        "application/grpc+json;charset=utf-8",
    ] {
        let call = line.send(of_type(kind), body.clone()).await;
        call.answer().await.expect("an answer, not a reset");
        let came = upstream.batches().pop().expect("one call was to come");
        assert_eq!(value(&came.headers, "content-type"), kind);
        assert_eq!(came.body, body);
    }
    let alone = admin::metric(served.admin(), "ferry_entries_alone_total", "encoding").await;
    assert_eq!(alone, 2.0);
    for kind in [
        "application/grpc+proto",
        "application/grpc;x=y",
        "application/grpc+proto;x",
    ] {
        acknowledged(line.send(of_type(kind), body.clone()).await).await;
        let came = upstream.batches().pop().expect("a batch was to come");
        assert_eq!(came.clients, ["is no JSON either"], "{kind} is lifted");
    }
}

#[tokio::test]
async fn a_single_form_that_goes_alone_is_lifted_whatever_the_reason() {
    let upstream = Upstream::answering().await;
    let (served, embedded) = (
        Served::before(upstream.address).await,
        Served::embedded().await,
    );
    // A field that nobody here knows: number 9, a byte.
    let unknown = [9 << 3, 7];
    let message = old_form("old", b"s").split_off(HEADER);
    let body = framed(&[&unknown[..], &message, &unknown].concat());
    for line in [served.line().await, embedded.line().await] {
        acknowledged(line.send(grpc(CREATE), body.clone()).await).await;
        acknowledged(
            line.send(with(CREATE, &[("grpc-encoding", "gzip")]), gzipped(&body))
                .await,
        )
        .await;
    }
    for came in upstream.batches() {
        assert_eq!(came.clients, ["old"]);
        let entry = batch_form(&[("old", b"s")]).split_off(HEADER);
        assert_eq!(
            came.body,
            framed(&[&entry[..], &unknown, &unknown].concat())
        );
    }
    let alone = admin::metric(served.admin(), "ferry_entries_alone_total", "unknown_field").await;
    assert_eq!(alone, 2.0);
    assert_eq!(embedded.line().await.list("old").await.len(), 1);
}

/// The frame of `body`, which holds one message, with that message compressed.
fn gzipped(body: &[u8]) -> Bytes {
    let mut into = GzEncoder::new(Vec::new(), Compression::best());
    into.write_all(&body[HEADER..]).expect("a Vec takes all");
    let message = into.finish().expect("a Vec takes all");
    let mut frame = framed(&message).to_vec();
    frame[0] = 1;
    frame.into()
}

#[tokio::test]
async fn compressed_calls_and_plain_ones_share_a_batch() {
    let upstream = Upstream::holding().await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    let gzip = || {
        with(
            CREATE,
            &[("grpc-encoding", "gzip"), ("grpc-accept-encoding", "gzip")],
        )
    };
    let first = line.send(grpc(CREATE), old_form("first", b"s")).await;
    upstream.until_batches(1).await;
    let mut calls = vec![first];
    calls.push(
        line.send(gzip(), gzipped(&old_form("old", &[7; 9_000])))
            .await,
    );
    calls.push(line.send(grpc(CREATE), old_form("plain", b"s")).await);
    let pair = batch_form(&[("a", b"s"), ("b", b"s")]);
    calls.push(line.send(gzip(), gzipped(&pair)).await);
    // Who may compress need not.
    calls.push(line.send(gzip(), old_form("need not", b"s")).await);
    served.until_queued(5).await;
    upstream.answer_all();
    for call in calls {
        let answer = call.answer().await.expect("an answer, not a reset");
        assert_eq!(answer.status().code(), Code::Ok);
        // Whatever a caller accepts, it accepts what is not compressed.
        assert_eq!(answer.headers.get("grpc-encoding"), None);
        assert_eq!(answer.body.first(), Some(&0));
    }
    let batches = upstream.batches();
    assert_eq!(batches.len(), 2);
    assert_eq!(batches[1].clients, ["old", "plain", "a", "b", "need not"]);
    assert_eq!(batches[1].headers.get("grpc-encoding"), None);
    let alone = admin::metric(served.admin(), "ferry_entries_alone_total", "").await;
    assert_eq!(alone, 0.0);
}

#[tokio::test]
async fn what_goes_alone_keeps_its_encoding_unless_it_is_lifted() {
    let upstream = Upstream::answering().await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    // A message that is plain in spite of its head, so that this upstream, which
    // decodes nothing, can read it; and one that is not.
    let metadata = [("grpc-encoding", "gzip"), ("x-tenant", "t")];
    let plain = batch_form(&[("plain", b"s")]);
    let old = gzipped(&old_form("old", b"s"));
    for (body, client) in [(plain.clone(), "plain"), (old, "old")] {
        acknowledged(line.send(with(CREATE, &metadata), body).await).await;
        let batch = upstream.batches().pop().expect("one call was to come");
        assert_eq!(batch.clients, [client]);
        assert_eq!(value(&batch.headers, "grpc-encoding"), "gzip");
        // The older form is lifted all the same, and is plain then.
        assert_eq!(batch.body[0], 0);
    }
    assert_eq!(upstream.batches()[0].body, plain);
}

#[tokio::test]
async fn a_client_that_compresses_may_call_all_of_the_embedded_group() {
    let served = Served::embedded().await;
    let line = served.line().await;
    let gzip = [("grpc-encoding", "gzip")];
    let alone = [gzip[0], ("x-tenant", "t")];
    // What batches, what goes alone as it came, what is lifted, what is large.
    let pair = batch_form(&[("a", b"s"), ("b", b"s")]);
    for (metadata, body) in [
        (&gzip[..], gzipped(&old_form("batched", b"s"))),
        (&alone[..], gzipped(&pair)),
        (&alone[..], gzipped(&old_form("lifted", b"s"))),
        (&alone[..], gzipped(&old_form("large", &vec![7; 4_190_000]))),
    ] {
        acknowledged(line.send(with(CREATE, metadata), body).await).await;
    }
    let all = framed(&[]);
    let answer = line.ask(with(LIST, &gzip), gzipped(&all)).await;
    assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
    assert_eq!(line.list("").await.len(), 5);
}

#[tokio::test]
async fn a_decompression_bomb_is_refused_within_its_bound_and_disturbs_nobody() {
    let upstream = Upstream::answering().await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    let bomb = gzipped(&old_form("bomb", &vec![0; 64 << 20]));
    assert!(bomb.len() < 100 << 10, "{} bytes", bomb.len());
    let gzip = || with(CREATE, &[("grpc-encoding", "gzip")]);
    let answer = line.ask(gzip(), bomb.clone()).await;
    let status = answer.status();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let told = format!("message of {} compressed bytes", bomb.len() - HEADER);
    for part in [
        &*told,
        "decodes to more than 4194304",
        "raise max_message_bytes",
    ] {
        assert!(status.message().contains(part), "{status}");
    }
    let mut broken = gzipped(&old_form("broken", b"s")).to_vec();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    let answer = line.ask(gzip(), broken.into()).await;
    assert_eq!(
        answer.status().code(),
        Code::Internal,
        "{}",
        answer.status()
    );
    line.create("well", b"s").await;
    let clients: Vec<_> = upstream
        .batches()
        .into_iter()
        .flat_map(|b| b.clients)
        .collect();
    assert_eq!(clients, ["well"], "the upstream heard of nothing else");
}

#[tokio::test]
async fn a_batch_whose_connection_is_lost_is_unknown_to_all_and_never_sent_again() {
    let upstream = Upstream::holding().await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    let body = batch_form(&[("a", b"s"), ("b", b"s")]);
    let lost = line.send(grpc(CREATE), body).await;
    upstream.until_batches(1).await;
    let waits = line.send(grpc(CREATE), old_form("waits", b"s")).await;
    served.until_queued(1).await;
    upstream.lose_connections();
    let answer = lost.answer().await.expect("an answer, not a reset");
    let status = answer.status();
    assert_eq!(status.code(), Code::Unknown, "{status}");
    assert!(
        status.message().contains("may have taken effect"),
        "{status}"
    );
    // What had not been sent is, over a new connection.
    upstream.answer_all();
    acknowledged(waits).await;
    let sent: Vec<_> = upstream.batches().into_iter().map(|b| b.clients).collect();
    assert_eq!(sent, [vec!["a", "b"], vec!["waits"]]);
}

#[tokio::test]
async fn a_bad_call_with_unknown_metadata_is_refused_at_the_door_too() {
    let upstream = Upstream::answering().await;
    let served = Served::before(upstream.address).await;
    let line: Line = served.line().await;
    let request = with(CREATE, &[("x-tenant", "t")]);
    let answer = line.ask(request, old_form("", b"s")).await;
    assert_eq!(answer.status().code(), Code::InvalidArgument);
    assert_eq!(upstream.batches().len(), 0);
}

#[tokio::test]
async fn a_batch_is_bounded_in_entries_and_bytes_and_what_is_larger_goes_alone() {
    let upstream = Upstream::holding().await;
    let served = Served::before(upstream.address).await;
    let line = served.line().await;
    let first = line.send(grpc(CREATE), old_form("first", b"s")).await;
    upstream.until_batches(1).await;
    let mut waiting = vec![first];
    for n in 0..1_100 {
        let body = old_form(&format!("small-{n}"), b"s");
        waiting.push(line.send(grpc(CREATE), body).await);
    }
    for n in 0..3 {
        let body = old_form(&format!("large-{n}"), &vec![7; 700 << 10]);
        waiting.push(line.send(grpc(CREATE), body).await);
    }
    let larger = old_form("larger", &vec![7; 3 << 20]);
    waiting.push(line.send(grpc(CREATE), larger).await);
    served.until_queued(1_104).await;
    upstream.answer_all();
    for call in waiting {
        acknowledged(call).await;
    }
    let sizes: Vec<_> = upstream.batches().iter().map(|b| b.clients.len()).collect();
    assert_eq!(sizes, [1, 500, 500, 101, 1, 1, 1]);
}

#[tokio::test]
async fn partitions_are_bounded_in_number_and_past_the_bound_an_entry_goes_alone() {
    let upstream = Upstream::holding().await;
    let (from, to) = ("queue: {", "queue: {max_partitions: 2, ");
    let served = Served::before_with(upstream.address, from, to).await;
    let line = served.line().await;
    let mut calls = vec![line.send(grpc(CREATE), old_form("first", b"s")).await];
    upstream.until_batches(1).await;
    for (n, token) in ["a", "b", "c", "c", "d", "a", "b"].into_iter().enumerate() {
        let body = old_form(&format!("{token}-{n}"), b"s");
        calls.push(line.send(with(CREATE, &[("token", token)]), body).await);
    }
    served.until_queued(7).await;
    upstream.answer_all();
    for call in calls {
        acknowledged(call).await;
    }
    let batches = upstream.batches();
    let mut clients: Vec<_> = batches.iter().map(|batch| &batch.clients[1..]).collect();
    clients.sort();
    // The window of `first` is one of the two until another one needs its place.
    let lone: [&[String]; 4] = [&[], &[], &[], &[]];
    assert_eq!(clients[..4], lone, "{batches:?}");
    assert_eq!(batches.len(), 6);
    for batch in &batches[1..] {
        assert_eq!(value(&batch.headers, "token"), &batch.clients[0][..1]);
    }
    let alone = admin::metric(served.admin(), "ferry_entries_alone_total", "partitions").await;
    assert_eq!(alone, 3.0);

    // They have all left: there is room for new ones.
    let together = gathered_by(&served, &["c", "c"]).await;
    assert_eq!(together, 0.0, "entries that went alone");
}

/// How many more entries went alone when these tokens were used.
async fn gathered_by(served: &Served, tokens: &[&str]) -> f64 {
    let counted =
        async || admin::metric(served.admin(), "ferry_entries_alone_total", "partitions").await;
    let before = counted().await;
    let line = served.line().await;
    for token in tokens {
        let request = with(CREATE, &[("token", *token)]);
        acknowledged(line.send(request, old_form("x", b"s")).await).await;
    }
    counted().await - before
}
