//! Every kind of fault, with its place and its words.

use super::*;

/// What is changed, and the line that must be said of it.
const CASES: &[(&str, &str, &str)] = &[
    (
        "batch_timeout: 10s",
        "leader_hint: 'rpc_addr'",
        "line 8, column 16: upstream.leader_hint: must have a group in parentheses, which is the leader's HOST:PORT; add one",
    ),
    (
        "reply: replicate",
        "on_error: {bisect: [INVALID_ARGUMENT]}",
        "line 24, column 25: methods[0].on_error.bisect: INVALID_ARGUMENT: must have atomic: true beside it, which says that nothing of a rejected batch was applied; add it, or take the status off the list",
    ),
    (
        "reply: replicate",
        "on_error: {retry: {attempts: 3}}",
        "line 24, column 23: methods[0].on_error.retry: must have idempotent: true, which says that twice does no harm; add it, or leave retry out",
    ),
    (
        "reply: replicate",
        "on_error: {retry: {on: [UNAVAILABLE], idempotent: true, attempt_timeout: 1ms}}",
        "line 24, column 78: methods[0].on_error.retry.attempt_timeout: 1ms: must be at least 10ms; leave the key out for the default",
    ),
    // Keys.
    (
        "linger: 2ms",
        "lingr: 2ms",
        "line 25, column 49: methods[0].window.lingr: unknown key; did you mean linger?",
    ),
    (
        "shed:",
        "shred:",
        "line 9, column 1: shred: unknown key; did you mean shed?",
    ),
    (
        "other: alone",
        "everything: alone",
        "line 13, column 3: metadata.everything: unknown key",
    ),
    (
        "version: 1\n",
        "",
        "line 1, column 1: version: is missing; write version: 1",
    ),
    (
        "version: 1",
        "version: 2",
        "line 1, column 10: version: 2: must be 1; this ferry knows no other",
    ),
    (
        "version: 1",
        "version: one",
        "line 1, column 10: version: \"one\": must be a whole number, such as 500",
    ),
    (
        "    batched_field: sessions\n",
        "",
        "line 15, column 5: methods[0].batched_field: is missing; name the repeated field of entries",
    ),
    (
        "selector: meta.service.mqtt.MqttService/CreateSession\n    ",
        "",
        "line 15, column 5: methods[0].selector: is missing; write selector: package.Service/Method",
    ),
    // Types and units.
    (
        "max_entries: 500",
        "max_entries: many",
        "line 25, column 27: methods[0].window.max_entries: \"many\": must be a whole number, such as 500",
    ),
    (
        "linger: 2ms",
        "linger: 2",
        "line 25, column 57: methods[0].window.linger: 2: must be a duration with its unit, such as 500us, 2ms or 10s",
    ),
    (
        "max_bytes: 1MiB",
        "max_bytes: 1mb",
        "line 25, column 43: methods[0].window.max_bytes: \"1mb\": must be a size with its unit, such as 64KiB or 1MiB",
    ),
    (
        "pushback: true",
        "pushback: 1",
        "line 9, column 39: shed.pushback: 1: must be true or false",
    ),
    (
        "identity: [authorization]",
        "identity: authorization",
        "line 11, column 13: metadata.identity: \"authorization\": must be a list, such as [a, b]",
    ),
    (
        "identity: [authorization]",
        "identity: [5]",
        "line 11, column 14: metadata.identity[0]: 5: must be text",
    ),
    (
        "fields: {client_id: client_id, session: session}",
        "fields: [client_id]",
        "line 20, column 15: methods[0].lift.fields: a list: must be a map of names",
    ),
    (
        "window: {max_entries: 500, max_bytes: 1MiB, linger: 2ms, close: adaptive}",
        "window: 5",
        "line 25, column 13: methods[0].window: 5: must be a map with the keys max_entries, max_bytes, linger, close",
    ),
    // Bounds.
    (
        "linger: 2ms",
        "linger: 0ms",
        "line 25, column 57: methods[0].window.linger: 0s: must be at least 50us; leave the key out, and with close: adaptive a call waits for nobody while the upstream is idle",
    ),
    (
        "linger: 2ms",
        "linger: 1h",
        "line 25, column 57: methods[0].window.linger: 1h: must be at most 10s; shorten it",
    ),
    (
        "max_entries: 500",
        "max_entries: 0",
        "line 25, column 27: methods[0].window.max_entries: 0: must be at least 1; leave the key out for the default",
    ),
    (
        "max_entries: 500",
        "max_entries: 100001",
        "line 25, column 27: methods[0].window.max_entries: 100001: must be at most 100000; lower it",
    ),
    (
        "max_bytes: 1MiB",
        "max_bytes: 1B",
        "line 25, column 43: methods[0].window.max_bytes: 1B: must be at least 1KiB; leave the key out for 1MiB",
    ),
    (
        "max_bytes: 64MiB",
        "max_bytes: 64KiB",
        "line 25, column 43: methods[0].window.max_bytes: 1MiB: must be at most queue.max_bytes, which is 64KiB",
    ),
    (
        "max_wait: 1s",
        "max_wait: 2ms",
        "line 25, column 57: methods[0].window.linger: 2ms: must be shorter than queue.max_wait, which is 2ms",
    ),
    (
        "batch_timeout: 10s",
        "batch_timeout: 1ms",
        "line 8, column 18: upstream.batch_timeout: 1ms: must be at least 10ms; leave the key out for the default",
    ),
    (
        "min: 1, max: 256",
        "min: 9, max: 3",
        "line 7, column 43: upstream.limit: min 9: must be at most max, which is 3; swap them",
    ),
    (
        "little, min: 1",
        "fixed, min: 1",
        "line 7, column 42: upstream.limit: min 1, max 256: must be equal; a fixed limit never moves",
    ),
    (
        "{algorithm: little, min: 1, max: 256}",
        "{algorithm: fixed}",
        "line 7, column 22: upstream.limit: fixed: must have a value; write max: 20 or so",
    ),
    (
        "min: 1, max: 256",
        "max: 65537",
        "line 7, column 35: upstream.limit.max: 65537: must be at most 65536; lower it",
    ),
    (
        "reply: replicate",
        "max_message_bytes: 1GiB",
        "line 24, column 24: methods[0].max_message_bytes: 1GiB: must be at most 256MiB; lower it",
    ),
    (
        "reply: replicate",
        "max_message_bytes: 128MiB",
        "line 24, column 24: methods[0].max_message_bytes: 128MiB: must be at most queue.max_bytes, which is 64MiB; raise that, or lower this",
    ),
    (
        "reply: replicate",
        "reply: {max_bytes: 65MiB}",
        "line 24, column 24: methods[0].reply.max_bytes: 65MiB: must be at most 64MiB; lower it",
    ),
    // Addresses.
    (
        "- address: 127.0.0.1:0",
        "- address: localhost:1",
        "line 3, column 14: listen[0].address: localhost:1: must be IP:port, such as 127.0.0.1:1229 or [::1]:1229",
    ),
    (
        "- address: 127.0.0.1:0",
        "- {address: 127.0.0.1:5, unix: /run/ferry.sock}",
        "line 3, column 34: listen[0].unix: stands beside listen[0].address; keep one of them",
    ),
    (
        "batch_timeout: 10s",
        "tls: {cert: a}",
        "line 8, column 8: upstream.tls.key: is missing; a certificate and its key are named together",
    ),
    (
        "- address: 127.0.0.1:0",
        "- {address: 127.0.0.1:5}\n  - {address: 127.0.0.1:5}",
        "line 4, column 15: listen[1].address: 127.0.0.1:5: stands twice; keep one of them",
    ),
    (
        "- address: 127.0.0.1:0",
        "- {address: 127.0.0.1:5}\n  - {address: 0.0.0.0:5}",
        "line 4, column 15: listen[1].address: 0.0.0.0:5: overlaps 127.0.0.1:5; keep one of them, or choose another port",
    ),
    (
        "- address: 127.0.0.1:0",
        "- {address: 127.0.0.1:5}\n  - {address: '[::]:5'}",
        "line 4, column 15: listen[1].address: [::]:5: overlaps 127.0.0.1:5; keep one of them, or choose another port",
    ),
    (
        "127.0.0.1:0\nadmin: {address: 127.0.0.1:0}",
        "0.0.0.0:5\nadmin: {address: 127.0.0.1:5}",
        "line 4, column 18: admin.address: 127.0.0.1:5: calls arrive there; choose another port",
    ),
    (
        "- address: 127.0.0.1:0",
        "- address: 127.0.0.1:1228",
        "line 6, column 15: upstream.endpoints[0]: http://127.0.0.1:1228: is where ferry itself listens: calls would go round for ever",
    ),
    (
        "- address: 127.0.0.1:0",
        "- address: 0.0.0.0:1228",
        "line 6, column 15: upstream.endpoints[0]: http://127.0.0.1:1228: is where ferry itself listens: calls would go round for ever",
    ),
    (
        "batch_timeout: 10s",
        "tls: {ca: ca.pem}",
        "line 8, column 8: upstream.tls: has no place where no endpoint begins with https://: calls would go in the clear; write https://, or leave it out",
    ),
    (
        "reply: replicate",
        "on_error: {retry: {true: [UNAVAILABLE], idempotent: true}}",
        "line 24, column 24: methods[0].on_error.retry.true: unknown key; did you mean \"on\"? keep it in quotes",
    ),
    (
        "listen:\n  - address: 127.0.0.1:0",
        "listen: []",
        "line 2, column 9: listen: is empty: must have at least 1 address; leave the key out for the default",
    ),
    (
        "http://127.0.0.1:1228",
        "127.0.0.1",
        "line 6, column 15: upstream.endpoints[0]: 127.0.0.1: must begin with http://, https:// or unix:",
    ),
    (
        "http://127.0.0.1:1228",
        "http://127.0.0.1",
        "line 6, column 15: upstream.endpoints[0]: http://127.0.0.1: must name a port from 1 to 65535, such as :1228",
    ),
    (
        "http://127.0.0.1:1228",
        "http://127.0.0.1:1228/a",
        "line 6, column 15: upstream.endpoints[0]: http://127.0.0.1:1228/a: must have nothing but host and port",
    ),
    (
        "http://127.0.0.1:1228",
        "'unix:'",
        "line 6, column 15: upstream.endpoints[0]: unix:: must name a socket, such as unix:/run/service.sock",
    ),
    (
        "[http://127.0.0.1:1228]",
        "[]",
        "line 6, column 14: upstream.endpoints: is empty: must have at least 1 address; name one",
    ),
    (
        "  endpoints: [http://127.0.0.1:1228]\n",
        "",
        "line 6, column 3: upstream: has neither embedded nor endpoints; name where batches go",
    ),
    (
        "endpoints: [http://127.0.0.1:1228]",
        "embedded: {}\n  endpoints: [http://127.0.0.1:1228]",
        "line 7, column 14: upstream.endpoints: stands beside upstream.embedded; keep one of them",
    ),
    (
        "endpoints: [http://127.0.0.1:1228]",
        "embedded: {data_dir: \"\"}",
        "line 6, column 24: upstream.embedded.data_dir: is empty; name a directory, or leave the key out for ferry-data",
    ),
    // Choices.
    (
        "UNAVAILABLE",
        "UNAVAILABEL",
        "line 9, column 16: shed.status: \"UNAVAILABEL\": must be RESOURCE_EXHAUSTED or UNAVAILABLE; did you mean UNAVAILABLE?",
    ),
    (
        "close: adaptive",
        "close: soon",
        "line 25, column 69: methods[0].window.close: \"soon\": must be adaptive or fixed",
    ),
    // Metadata.
    (
        "ignore: [x-request-id]",
        "ignore: [Authorization]",
        "line 12, column 12: metadata.ignore: authorization: is identity too, which separates calls by it; keep it in one list",
    ),
    (
        "identity: [authorization]",
        "identity: [\"a b\"]",
        "line 11, column 14: metadata.identity[0]: \"a b\": must be a metadata key: letters, digits, - _ .",
    ),
    // Names.
    (
        "mqtt.MqttService/",
        "mqtt.MqttServices/",
        "line 15, column 15: methods[0].selector: meta.service.mqtt.MqttServices/CreateSession: no descriptor has the service meta.service.mqtt.MqttServices; did you mean meta.service.mqtt.MqttService?; list its .proto file under descriptors",
    ),
    (
        "MqttService/CreateSession",
        "MqttService/CreateSesion",
        "line 15, column 15: methods[0].selector: meta.service.mqtt.MqttService/CreateSesion: meta.service.mqtt.MqttService has no method CreateSesion; did you mean CreateSession?; it has CreateSession, DeleteSession, ListSession, SetSubscribe, DeleteSubscribe, ListSubscribe",
    ),
    (
        "selector: meta",
        "selector: /meta",
        "line 15, column 15: methods[0].selector: /meta.service.mqtt.MqttService/CreateSession: must be package.Service/Method, with no slash in front",
    ),
    (
        "batched_field: sessions",
        "batched_field: session",
        "line 17, column 20: methods[0].batched_field: session: meta.service.mqtt.CreateSessionRequest has no such field; did you mean sessions?; it has sessions",
    ),
    (
        "mqtt.MqttService/CreateSession",
        "common.MetaServiceService/Exists",
        "line 17, column 20: methods[0].batched_field: sessions: meta.service.common.ExistsRequest has no such field; it has key",
    ),
    (
        "entry_key: [client_id]",
        "entry_key: [clientid]",
        "line 21, column 17: methods[0].entry_key[0]: clientid: meta.service.mqtt.CreateSessionRaw has no such field; did you mean client_id?; it has client_id, session",
    ),
    (
        "require: [client_id, session]",
        "require: [session, session]",
        "line 23, column 24: methods[0].require[1]: session: stands twice; keep one of them",
    ),
    (
        "from: OldCreateSession",
        "from: OldCreateSesion",
        "line 19, column 13: methods[0].lift.from: OldCreateSesion: no descriptor has this message; did you mean OldCreateSession?",
    ),
    (
        "{client_id: client_id, session: session}",
        "{client: client_id, session: session}",
        "line 20, column 16: methods[0].lift.fields.client: meta.service.mqtt.OldCreateSession has no such field; did you mean client_id?; it has client_id, session",
    ),
    (
        "{client_id: client_id, session: session}",
        "{client_id: session, session: client_id}",
        "line 20, column 27: methods[0].lift.fields.client_id: is string, session is bytes; both must be the same",
    ),
    (
        "{client_id: client_id, session: session}",
        "{session: session}",
        "line 19, column 13: methods[0].lift.fields: must fill client_id, which is a key or required; add it",
    ),
];

/// Keys and values of the format that this version does not have.
const LATER: &[(&str, &str, &str)] = &[
    (
        "endpoints: [http://127.0.0.1:1228]",
        "embedded: {groups: 65}",
        "line 6, column 22: upstream.embedded.groups: 65: must be at most 64; lower it",
    ),
    (
        "endpoints: [http://127.0.0.1:1228]",
        "embedded: {runtime: own}",
        "line 6, column 23: upstream.embedded.runtime: \"own\": must be shared or dedicated",
    ),
    (
        "algorithm: little",
        "algorithm: vegan",
        "line 7, column 22: upstream.limit.algorithm: \"vegan\": must be little or aimd or vegas or gradient2 or fixed; did you mean vegas?",
    ),
    (
        "mode: enforce",
        "mode: obsrve",
        "line 16, column 11: methods[0].mode: \"obsrve\": must be enforce or observe or off; did you mean observe?",
    ),
];

#[test]
fn the_sound_policy_is_sound() {
    load(SOUND).expect("every case changes it in one place");
}

#[test]
fn every_fault_names_its_place_the_value_the_bound_and_the_remedy() {
    let mut wrong = Vec::new();
    for (from, to, expected) in CASES {
        let faults = faults(&with(from, to));
        if !faults.contains(&format!("test.yaml: {expected}")) {
            wrong.push((expected, faults));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_not_built_yet_is_refused_and_not_ignored() {
    for (from, to, expected) in LATER {
        assert_eq!(
            faults(&with(from, to)),
            [format!("test.yaml: {expected}")],
            "{to:?}"
        );
    }
}

#[test]
fn a_method_that_stands_twice_is_refused() {
    let methods = SOUND.find("  - selector").expect("it has a method");
    let twice = format!("{SOUND}{}", &SOUND[methods..]);
    let expected = "test.yaml: line 27, column 15: methods[1].selector: \
                    meta.service.mqtt.MqttService/CreateSession: stands twice; keep one of them";
    assert_eq!(faults(&twice), [expected]);
}

#[test]
fn the_embedded_group_refuses_methods_that_it_cannot_apply() {
    let yaml = with("endpoints: [http://127.0.0.1:1228]", "embedded: {}");
    let yaml = yaml.replace(
        "mqtt.MqttService/CreateSession",
        "common.MetaServiceService/Heartbeat",
    );
    assert!(
        faults(&yaml)[0]
            .contains("the embedded group takes meta.service.mqtt.MqttService/CreateSession, ")
    );
}

#[test]
fn all_faults_are_found_at_once_in_the_order_of_the_file() {
    let yaml = with("version: 1", "version: 7")
        .replace("pushback: true", "pushback: maybe")
        .replace("linger: 2ms", "linger: 0ms")
        .replace("[client_id, session]", "[client_id, sesion]")
        .replace("max_wait: 1s", "max_wiat: 1s");
    let lines: Vec<_> = faults(&yaml)
        .iter()
        .map(|fault| fault.split(',').next().unwrap_or_default().to_owned())
        .collect();
    let expected = ["line 1", "line 9", "line 23", "line 25", "line 26"];
    assert_eq!(lines, expected.map(|line| format!("test.yaml: {line}")));
}

#[test]
fn broken_yaml_is_refused_with_its_place() {
    let twice = faults(&with("shed:", "version: 1\nshed:"));
    assert!(
        twice[0].starts_with("test.yaml: line 9, column 1: not a policy in YAML: "),
        "{twice:?}"
    );
    let open = faults("version: 1\nmethods: [a\n");
    assert!(open[0].starts_with("test.yaml: line "), "{open:?}");
    assert_eq!(faults("- a\n").len(), 1);
    assert!(faults("")[0].starts_with("test.yaml: "));
}

#[test]
fn a_policy_that_cannot_be_read_is_refused_by_its_path() {
    let missing = Policy::read(Path::new("/nonexistent/ferry.yaml")).expect_err("there is none");
    assert!(
        missing
            .to_string()
            .starts_with("/nonexistent/ferry.yaml: cannot be read: ")
    );
}

#[test]
fn what_the_yaml_library_says_is_told_in_words_that_an_operator_can_act_upon() {
    let twice = faults(&with("shed:", "version: 1\nshed:"));
    assert!(
        twice[0].ends_with("version: stands twice; keep one of them"),
        "{twice:?}"
    );
    let two = faults(&format!("{SOUND}---\nversion: 1\n"));
    assert!(
        two[0].contains("more than one document: must be one; take the line ---"),
        "{two:?}"
    );
}

#[test]
fn a_nodes_file_is_told_as_one_and_not_key_by_key() {
    let node = "version: 1\ncluster: c\nnode: 1\ndata_dir: d\npeer: {address: 127.0.0.1:1}\n";
    let told = faults(node);
    assert_eq!(
        told,
        [
            "test.yaml: line 1, column 1: looks like a node's file, which `ferry node` reads; name a policy file"
        ]
    );
}
