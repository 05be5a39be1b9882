//! The loader's promises: what loads, what is refused, where and in which words.

mod faults;
mod forms;
mod hostile;
mod loads;
mod poison;
mod services;

use std::path::Path;

use super::*;

/// A sound policy, whose lines the tests replace.
const SOUND: &str = "\
version: 1
listen:
  - address: 127.0.0.1:0
admin: {address: 127.0.0.1:0}
upstream:
  endpoints: [http://127.0.0.1:1228]
  limit: {algorithm: little, min: 1, max: 256}
  batch_timeout: 10s
shed: {status: UNAVAILABLE, pushback: true}
metadata:
  identity: [authorization]
  ignore: [x-request-id]
  other: alone
methods:
  - selector: meta.service.mqtt.MqttService/CreateSession
    mode: enforce
    batched_field: sessions
    lift:
      from: OldCreateSession
      fields: {client_id: client_id, session: session}
    entry_key: [client_id]
    on_duplicate_key: keep
    require: [client_id, session]
    reply: replicate
    window: {max_entries: 500, max_bytes: 1MiB, linger: 2ms, close: adaptive}
    queue: {max_wait: 1s, max_bytes: 64MiB}
";

fn load(yaml: &str) -> Result<Policy, Faults> {
    Policy::load(yaml, Path::new("test.yaml"))
}

/// `SOUND` with `from`, which it must have once, replaced by `to`.
fn with(from: &str, to: &str) -> String {
    assert_eq!(
        SOUND.matches(from).count(),
        1,
        "{from:?} must stand once in the sound policy"
    );
    SOUND.replace(from, to)
}

/// The faults of `yaml`, as they are shown.
fn faults(yaml: &str) -> Vec<String> {
    let faults = load(yaml).expect_err("must be refused");
    faults.to_string().lines().map(str::to_owned).collect()
}
