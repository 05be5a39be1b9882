//! Methods that the policy says conflict: a call waits for earlier calls of the
//! other method on its key, queued or in flight, and for nothing else.

use std::fs;

use tempfile::TempDir;
use tonic::Code;

use crate::support::{
    client::{CREATE, Call, batch_form, grpc, old_form, with},
    served::{ANY, Served, policy_file},
    upstream::{REMOVE, Upstream},
};

/// A method of another service with the same entries.
const PROTO: &str = r#"syntax = "proto3";
package test;
service Sessions { rpc Remove(Many) returns (Done); }
message Many { repeated One sessions = 1; }
message One { string client_id = 1; bytes session = 2; }
message Done {}
"#;

/// Four batches at once, so that nobody waits for a permit.
async fn served(upstream: &Upstream) -> (Served, TempDir) {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let proto = home.path().join("sessions.proto");
    fs::write(&proto, PROTO).expect("it is writable");
    let endpoint = format!(
        "  endpoints: [http://{}]\n  limit: {{algorithm: fixed, max: 4}}\n  batch_timeout: 100s",
        upstream.address
    );
    let policy = policy_file(ANY, ANY, &endpoint);
    let policy = policy.replace(
        "\nmethods:",
        &format!("\ndescriptors: [{}]\nmethods:", proto.display()),
    );
    let policy = format!(
        "{policy}    barrier: [test.Sessions/Remove]\n  \
         - selector: test.Sessions/Remove\n    batched_field: sessions\n    \
         entry_key: [client_id]\n    barrier: [meta.service.mqtt.MqttService/CreateSession]\n"
    );
    (Served::by(&policy).await, home)
}

fn seen(upstream: &Upstream) -> Vec<String> {
    let batches = upstream.batches().into_iter();
    let named = batches.map(|batch| {
        let method = batch.path.rsplit('/').next().expect("a path").to_owned();
        format!("{method} {}", batch.clients.join(" "))
    });
    named.collect()
}

async fn acknowledged(call: Call) {
    let answer = call.answer().await.expect("an answer, not a reset");
    assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
}

#[tokio::test]
async fn a_call_waits_for_an_earlier_one_of_a_conflicting_method_on_its_key_alone() {
    let upstream = Upstream::holding().await;
    let (served, _home) = served(&upstream).await;
    let line = served.line().await;
    let remove = line.send(grpc(REMOVE), batch_form(&[("a", b"s")])).await;
    upstream.until_batches(1).await;
    let behind = line.send(grpc(CREATE), old_form("a", b"s")).await;
    // Its caller gives up; who stands behind it waits for the first alone.
    let leaves = line.send(grpc(REMOVE), batch_form(&[("a", b"s")])).await;
    let other = line.send(grpc(CREATE), old_form("b", b"s")).await;
    upstream.until_batches(2).await;
    assert_eq!(seen(&upstream), ["Remove a", "CreateSession b"]);
    leaves.reset();
    let hasty = with(REMOVE, &[("grpc-timeout", "50m")]);
    let hasty = line.ask(hasty, batch_form(&[("a", b"s")])).await;
    assert_eq!(hasty.status().code(), Code::DeadlineExceeded);
    assert_eq!(seen(&upstream).len(), 2, "neither was sent");

    upstream.answer();
    acknowledged(remove).await;
    upstream.until_batches(3).await;
    assert_eq!(seen(&upstream)[2..], ["CreateSession a"]);
    // And the other way round.
    let last = line
        .send(grpc(REMOVE), batch_form(&[("b", b"s"), ("a", b"s")]))
        .await;
    upstream.answer();
    acknowledged(other).await;
    assert_eq!(seen(&upstream).len(), 3, "one of its keys is not free yet");
    upstream.answer();
    acknowledged(behind).await;
    upstream.until_batches(4).await;
    assert_eq!(seen(&upstream)[3..], ["Remove b a"]);
    upstream.answer();
    acknowledged(last).await;
}
