//! Policies that load, and what comes of them.

use std::{fs, time::Duration};

use bytes::{Bytes, BytesMut};

use super::*;
use crate::{
    batch::{Close, QueueSettings, WindowSettings},
    limit::{Algorithm, LimitSettings},
    raft::command::{Kind, NAME_MAX},
    wire::{Form, Scan},
};

const ROBUSTMQ: &str = include_str!("../../../policies/robustmq.yaml");
const CLUSTER: &str = include_str!("../../../policies/cluster.yaml");

#[test]
fn the_built_in_policy_loads() {
    let policy = Policy::embedded();
    let Upstream::Embedded {
        data_dir,
        pipeline: Pipeline::Full,
        groups,
        runtime: Runtime::Shared,
        log_max: 0x4000_0000,
    } = &policy.upstream
    else {
        panic!("must be embedded and pipelined: {:?}", policy.upstream);
    };
    assert_eq!(
        (data_dir.as_path(), groups.get()),
        (Path::new("ferry-data"), 1)
    );
    assert_eq!(policy.shed.status, ShedStatus::ResourceExhausted);
    assert_eq!(
        policy.methods[0].path,
        "/meta.service.mqtt.MqttService/CreateSession"
    );
}

#[test]
fn the_robustmq_policy_loads() {
    let policy = load(ROBUSTMQ).expect("the shipped policy is sound");
    let Upstream::Remote { endpoints, .. } = &policy.upstream else {
        panic!("must be remote")
    };
    assert_eq!(
        endpoints
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["http://127.0.0.1:1228"]
    );
    assert_eq!(policy.shed.status, ShedStatus::Unavailable);
}

#[test]
fn every_write_that_a_node_takes_batches_before_it_and_is_held_to_its_bounds() {
    for policy in [Policy::embedded(), load(CLUSTER).expect("it is shipped")] {
        assert_eq!(policy.methods.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            let own = |method: &&Method| method.path[1..] == *kind.selector();
            let method = policy.methods.iter().find(own);
            let plan = &method.unwrap_or_else(|| panic!("{kind:?} is missing")).plan;
            assert_eq!(plan.batched_field(), kind.batched_field());
            assert_eq!(
                plan.alone_if().len(),
                usize::from(kind.condition().is_some())
            );
            let mut keys = plan.entry_key().iter();
            let bounded = |number| {
                let mut fields = plan.entry_fields();
                fields.any(|field| field.number == number && field.max_len == Some(NAME_MAX))
            };
            assert!(keys.all(|key| bounded(*key)), "{kind:?}");
            assert!(plan.lift().is_some() || kind == Kind::SaveOffsetData);
        }
    }
}

#[test]
fn the_shipped_policies_say_what_the_defaults_are() {
    let least = "version: 1\nupstream: {endpoints: [http://127.0.0.1:1228]}\nmethods:\n  \
                 - {selector: meta.service.mqtt.MqttService/CreateSession, batched_field: sessions}\n";
    let default = load(least).expect("everything else has a default");
    let remote = load(ROBUSTMQ).expect("the shipped policy is sound");
    for written in [Policy::embedded(), remote] {
        assert_eq!(written.listen, default.listen);
        assert_eq!(written.admin, default.admin);
        assert_eq!(written.limit, default.limit);
        assert_eq!(written.batch_timeout, default.batch_timeout);
        assert_eq!(written.shed.pushback, default.shed.pushback);
        assert_eq!(written.metadata.identity(), default.metadata.identity());
        let (written, default) = (&written.methods[0], &default.methods[0]);
        assert_eq!(written.window, default.window);
        assert_eq!(written.queue, default.queue);
        assert_eq!(written.max_message_bytes, default.max_message_bytes);
    }
}

#[test]
fn a_message_that_is_taken_finds_room_among_what_waits() {
    let small = "window: {max_bytes: 64KiB}\n    queue: {max_wait: 1s, max_bytes: 128KiB}";
    let policy = with("queue: {max_wait: 1s, max_bytes: 64MiB}", small);
    let policy = policy.replacen("    window: {max_entries", "    #", 1);
    let policy = load(&policy).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(policy.methods[0].max_message_bytes, 128 << 10);
}

#[test]
fn by_every_ready_policy_calls_still_batch_behind_a_mesh_and_only_with_their_own() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let mut policies = 0;
    for file in fs::read_dir(folder).expect("it is shipped") {
        let path = file.expect("it can be read").path();
        if path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        policies += 1;
        let rules = Policy::read(&path).expect("it is sound").metadata;
        // Istio's proxy (Envoy) and its tracers, Linkerd's, gRPC's own.
        for name in [
            "x-request-id",
            "x-envoy-attempt-count",
            "x-envoy-expected-rq-timeout-ms",
            "x-envoy-internal",
            "x-envoy-decorator-operation",
            "x-envoy-peer-metadata",
            "x-envoy-peer-metadata-id",
            "x-forwarded-proto",
            "x-b3-traceid",
            "x-b3-spanid",
            "x-b3-parentspanid",
            "x-b3-sampled",
            "b3",
            "traceparent",
            "tracestate",
            "baggage",
            "grpc-trace-bin",
            "user-agent",
            "te",
        ] {
            assert_eq!(rules.classify(name), Classify::Ignore, "{name}, {path:?}");
        }
        for name in ["authorization", "x-forwarded-client-cert", "l5d-client-id"] {
            assert_eq!(rules.classify(name), Classify::Identity, "{name}, {path:?}");
        }
        // Whose address it is may be what an upstream goes by.
        for name in ["x-forwarded-for", "x-tenant"] {
            assert_eq!(rules.classify(name), Classify::Alone, "{name}, {path:?}");
        }
    }
    assert!(policies >= 5, "{policies}");
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let policy = Policy::embedded();
    assert_eq!(
        policy.listen,
        [Listen::from(std::net::SocketAddr::from((
            [127, 0, 0, 1],
            1229
        )))]
    );
    assert_eq!(policy.admin, Some(([127, 0, 0, 1], 9901).into()));
    assert_eq!(
        policy.limit,
        LimitSettings {
            algorithm: Algorithm::Little,
            min: 1,
            max: 256
        }
    );
    assert_eq!(policy.batch_timeout, Duration::from_secs(10));
    let max_entries = 500.try_into().expect("not zero");
    let linger = Duration::from_millis(2);
    let window = WindowSettings {
        max_entries,
        max_bytes: 1 << 20,
        linger,
        close: Close::Adaptive,
    };
    assert_eq!(policy.methods[0].window, window);
    let queue = QueueSettings {
        max_wait: Duration::from_secs(1),
        max_bytes: 64 << 20,
    };
    assert_eq!(policy.methods[0].queue, queue);
}

#[test]
fn values_are_taken_over_as_written() {
    let policy = load(&with(
        "{algorithm: little, min: 1, max: 256}",
        "{algorithm: fixed, max: 20}",
    ));
    let limit = policy.expect("a fixed limit needs one number").limit;
    assert_eq!(
        limit,
        LimitSettings {
            algorithm: Algorithm::Fixed,
            min: 20,
            max: 20
        }
    );
    let policy = load(&with("{address: 127.0.0.1:0}\nup", "off\nup")).expect("admin may be off");
    assert_eq!(policy.admin, None);
    let policy = load(&with("mode: enforce", "mode: off")).expect("off is no boolean");
    assert_eq!(policy.methods[0].mode, Mode::Off);
    let policy = load(&with(
        "linger: 2ms, close: adaptive",
        "linger: 50us, close: fixed",
    ));
    let window = policy.expect("50us is the least").methods[0].window;
    assert_eq!(
        (window.linger, window.close),
        (Duration::from_micros(50), Close::Fixed)
    );
    let serial = "endpoints: [http://127.0.0.1:1228]";
    let policy = load(&with(
        serial,
        "embedded: {data_dir: /var/lib/ferry, pipeline: serial, groups: 4, runtime: dedicated, log_max: 64MiB}",
    ));
    let upstream = policy.expect("an embedded group may be serial").upstream;
    let expected = Upstream::Embedded {
        data_dir: "/var/lib/ferry".into(),
        pipeline: Pipeline::Serial,
        groups: 4.try_into().unwrap(),
        runtime: Runtime::Dedicated,
        log_max: 64 << 20,
    };
    assert_eq!(upstream, expected);
}

#[test]
fn the_plan_merges_both_generations_of_create_session() {
    let plan = Policy::embedded().methods.remove(0).plan;
    let old = Bytes::from_static(b"\x12\x01a\x1a\x01x");
    let new = Bytes::from_static(b"\x0a\x06\x0a\x01b\x12\x01y");
    let piece = |message| match plan.scan(message) {
        Ok(Scan::Merge(piece)) => piece,
        other => panic!("must merge: {other:?}"),
    };
    let pieces = [piece(&old), piece(&new)];
    assert_eq!(pieces[0].form(), Form::Single);
    let mut out = BytesMut::new();
    plan.merge(&pieces, &mut out);
    assert_eq!(
        &out[..],
        b"\x0a\x06\x0a\x01a\x12\x01x\x0a\x06\x0a\x01b\x12\x01y"
    );
}

#[test]
fn the_plan_refuses_what_would_poison_a_batch() {
    let plan = Policy::embedded().methods.remove(0).plan;
    let refusal = |message: &[u8]| {
        plan.scan(&Bytes::copy_from_slice(message))
            .expect_err("must be refused")
            .to_string()
    };
    assert!(refusal(b"\x12\x01a").starts_with("session: is empty"));
    assert!(refusal(b"\x0a\x03\x12\x01y").starts_with("sessions[0].client_id: is empty"));
    assert!(refusal(b"").starts_with("meta.service.mqtt.CreateSessionRequest.sessions: must have"));
    let long = [&b"\x12\x80\x80\x04"[..], &[b'a'; 65_536], b"\x1a\x01x"].concat();
    assert!(refusal(&long).starts_with("client_id: 65536 bytes: must be at most 65535"));
}

#[test]
fn the_file_of_the_admins_token_is_watched_so_that_another_token_is_taken() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let token = folder.path().join("token");
    fs::write(&token, "a token that nobody guesses").expect("it is writable");
    let yaml = with("127.0.0.1:0}", "127.0.0.1:0, token_file: token}");
    let read = || {
        let policy = Policy::load(&yaml, &folder.path().join("ferry.yaml"));
        policy.expect("it is sound")
    };
    let policy = read();
    let [stamp] = &policy.files[..] else {
        panic!("one file is watched: {:?}", policy.files);
    };
    assert_eq!(*stamp, Stamp::of(&token));
    fs::write(&token, "another token, which is longer").expect("it is writable");
    assert_ne!(*stamp, Stamp::of(&token));
    let told = read().admin_token.expect("it has one");
    assert!(told.is(b"another token, which is longer"));
}

#[test]
fn an_endpoint_of_the_same_port_elsewhere_is_no_loop() {
    for listen in ["127.0.0.2:1228", "'[::1]:1228'", "10.0.0.1:1228"] {
        load(&with(
            "address: 127.0.0.1:0\nadmin",
            &format!("address: {listen}\nadmin"),
        ))
        .unwrap_or_else(|faults| panic!("{faults}"));
    }
}

#[test]
fn what_is_identity_is_not_told_to_be_ignored() {
    let policy = load(&with("identity: [authorization]", "identity: [user-agent]"));
    let text = describe(&policy.expect("it is sound"));
    assert_eq!(text.matches("user-agent").count(), 1, "{text}");
}

#[test]
fn files_with_which_no_tls_can_be_spoken_are_told_by_their_keys() {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let write = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).expect("it is writable");
    };
    for name in ["one", "other"] {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let pair = pair.expect("a certificate can be made");
        write(&format!("{name}.pem"), &pair.cert.pem());
        write(&format!("{name}.key"), &pair.signing_key.serialize_pem());
    }
    write("empty", "");
    write("junk", "-----BEGIN");
    let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----";
    write("locked.key", locked);
    let of = |listen: &str, upstream: &str| {
        let yaml = with(
            "address: 127.0.0.1:0\nadmin",
            &format!("{{address: 127.0.0.1:0, tls: {{{listen}}}}}\nadmin"),
        );
        let yaml = yaml.replace(
            "[http://127.0.0.1:1228]",
            &format!("[https://127.0.0.1:1228]\n  tls: {{{upstream}}}"),
        );
        let policy = Policy::load(&yaml, &folder.path().join("ferry.yaml"));
        let policy = policy.unwrap_or_else(|faults| panic!("{faults}"));
        let faults = policy.tls_faults().into_iter().map(|fault| fault.what);
        faults.collect::<Vec<_>>()
    };
    let sound = (
        "cert: one.pem, key: one.key, client_ca: other.pem",
        "ca: one.pem",
    );
    assert_eq!(of(sound.0, sound.1), [""; 0]);
    for (listen, key, told) in [
        ("cert: gone.pem, key: one.key", "cert", "gone.pem"),
        ("cert: empty, key: one.key", "cert", "holds none"),
        ("cert: one.key, key: one.pem", "cert", "holds none"),
        (
            "cert: one.pem, key: junk",
            "key",
            "name a PEM file with a private key",
        ),
        ("cert: one.pem, key: locked.key", "key", "is encrypted"),
        (
            "cert: one.pem, key: other.key",
            "cert",
            "the key that it is for",
        ),
        (
            "cert: one.pem, key: one.key, client_ca: empty",
            "client_ca",
            "holds none",
        ),
    ] {
        let faults = of(listen, sound.1);
        let [fault] = &faults[..] else {
            panic!("{listen}: {faults:?}");
        };
        assert!(
            fault.starts_with(&format!("listen[0].tls.{key}: ")),
            "{fault}"
        );
        assert!(fault.contains(told), "{fault}");
    }
    for (upstream, key) in [
        ("ca: gone.pem", "ca"),
        ("ca: one.pem, cert: one.pem, key: locked.key", "key"),
        ("cert: other.pem, key: one.key", "cert"),
    ] {
        let faults = of(sound.0, upstream);
        assert!(
            faults[0].starts_with(&format!("upstream.tls.{key}: ")),
            "{faults:?}"
        );
    }
}

#[test]
fn the_description_says_what_the_plan_does() {
    let text = describe(&Policy::embedded());
    for sentence in [
        "listen       127.0.0.1:1229\n",
        "embedded Raft in ferry-data (1 group, pipelined, a snapshot at 1GiB of log)",
        "1 to 256 batches in flight",
        "authorization, l5d-client-id, token, x-forwarded-client-cert must be equal within a batch",
        "\nmeta.service.mqtt.MqttService/CreateSession\n",
        "meta.service.mqtt.CreateSessionRequest: field 1 (sessions)",
        "meta.service.mqtt.OldCreateSession: field 2 (client_id) -> sessions[].client_id (1), field 3 (session) -> sessions[].session (2); both forms share a batch",
        "client_id empty; client_id over 65535 bytes; session empty",
        "at most 500 entries or 1MiB; linger 2ms",
        "at most 64MiB and 1024 partitions, past which calls go alone; an entry waits 1s at most",
    ] {
        assert!(
            text.contains(sentence),
            "{sentence:?} is missing in:\n{text}"
        );
    }
}

#[test]
fn every_algorithm_is_accepted_by_its_name_and_described() {
    for &algorithm in Algorithm::ALL {
        let limit = format!("{{algorithm: {}, max: 20}}", algorithm.name());
        let policy = load(&with("{algorithm: little, min: 1, max: 256}", &limit));
        let policy = policy.expect("one number is enough for each of them");
        assert_eq!(policy.limit.algorithm, algorithm);
        let text = describe(&policy);
        let sentence = match algorithm {
            Algorithm::Fixed => "20 batches in flight, always".to_owned(),
            adaptive => format!(
                "1 to 20 batches in flight ({}: {})",
                adaptive.name(),
                adaptive.does()
            ),
        };
        assert!(
            text.contains(&sentence),
            "{sentence:?} is missing in:\n{text}"
        );
    }
}
