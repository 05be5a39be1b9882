//! Requests wrapped for another method and replies that split: what loads,
//! what is refused, and the words in which a plan is told.

use std::fs;

use bytes::{Bytes, BytesMut};

use super::*;
use crate::wire::{Parts, Reason, Scan};

const ETCD: &str = include_str!("../../../policies/etcd.yaml");

#[test]
fn a_barrier_that_makes_no_sense_is_refused_by_its_place() {
    let with = |barrier: &str, more: &str| {
        let methods = SOUND.find("  - selector").expect("it has a method");
        let second = SOUND[methods..].replace("OldCreateSession", "DeleteSessionRequest");
        let second = second.replace("CreateSession", "DeleteSession");
        let second = second
            .replace(", session: session", "")
            .replace(", session]", "]");
        let second = second.replace("entry_key: [client_id]", more);
        format!("{SOUND}    barrier: [{barrier}]\n{second}")
    };
    let other = "meta.service.mqtt.MqttService/DeleteSession";
    let policy = load(&with(other, "entry_key: [client_id]"));
    let policy = policy.unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(policy.methods[0].barrier, [format!("/{other}")]);
    assert!(describe(&policy).contains(&format!("earlier calls of {other} on its key")));
    // What is forwarded has no place in the order, and waits for nobody.
    let other_off = with(other, "entry_key: [client_id]").replacen(
        "Session\n    mode: enforce",
        "Session\n    mode: observe",
        2,
    );
    let own_off = other_off.replacen("mode: observe", "mode: off", 1);
    let other_off = other_off.replacen("mode: observe", "mode: enforce", 1);
    for (policy, told) in [
        (
            other_off,
            format!("waited for; not for {other} while its mode is observe"),
        ),
        (
            own_off,
            "waits for  nothing while its mode is off".to_owned(),
        ),
    ] {
        let text = describe(&load(&policy).expect("it is sound"));
        assert!(text.contains(&told), "{told:?} is missing in:\n{text}");
    }
    for (barrier, more, told) in [
        (
            "meta.service.mqtt.MqttService/DeletSession",
            "entry_key: [client_id]",
            "methods[0].barrier[0]: meta.service.mqtt.MqttService/DeletSession: must be a method \
             of this policy; did you mean meta.service.mqtt.MqttService/DeleteSession?",
        ),
        (other, "entry_key: []", "must have the same entry_key"),
    ] {
        let faults = faults(&with(barrier, more));
        assert!(faults[0].contains(told), "{faults:?}");
    }
}

#[test]
fn the_etcd_policy_sends_puts_as_one_transaction_and_splits_its_reply() {
    let policy = load(ETCD).expect("the shipped policy is sound");
    let method = &policy.methods[0];
    assert_eq!(method.path, "/etcdserverpb.KV/Put");
    assert_eq!(method.target, "/etcdserverpb.KV/Txn");
    assert_eq!(method.window.max_entries.get(), 128);
    let put = Bytes::from_static(b"\x0a\x01k\x12\x01v");
    let piece = match method.plan.scan(&put) {
        Ok(Scan::Merge(piece)) => piece,
        other => panic!("must merge: {other:?}"),
    };
    let mut txn = BytesMut::new();
    method.plan.merge([&piece, &piece], &mut txn);
    assert_eq!(&txn[..], b"\x12\x08\x12\x06\x0a\x01k\x12\x01v".repeat(2));
    // header {cluster 7, revision 9}, succeeded, two response_put {header {revision 9}}.
    let reply = b"\x0a\x04\x08\x07\x18\x09\x10\x01\x1a\x06\x12\x04\x0a\x02\x18\x09\x1a\x06\x12\x04\x0a\x02\x18\x09";
    let parts = method
        .plan
        .split(&Bytes::from_static(reply), [&piece, &piece]);
    let part = Ok(Bytes::from_static(b"\x0a\x04\x08\x07\x18\x09"));
    assert_eq!(parts, Ok(Parts::Each(vec![part.clone(), part])));
    for lone in [
        &b"\x12\x01v"[..],
        b"\x0a\x01k\x18\x01",
        b"\x0a\x01k\x20\x01",
        b"\x0a\x01k\x28\x01",
    ] {
        let scan = method.plan.scan(&Bytes::from_static(lone));
        assert!(
            matches!(scan, Ok(Scan::Alone(Reason::Condition, _))),
            "{scan:?}"
        );
    }
}

#[test]
fn the_description_tells_how_puts_become_a_transaction() {
    let text = describe(&load(ETCD).expect("the shipped policy is sound"));
    for sentence in [
        "calls      etcdserverpb.KV/Txn with each batch",
        "wrapped    each etcdserverpb.PutRequest as a whole -> success[].request_put (field 2, in it 2) of etcdserverpb.TxnRequest",
        "key        key; the second of two equal ones waits for the next batch",
        "alone if   key is empty; lease is there; ignore_value is there; ignore_lease is there; prev_kv is there; it has a field",
        "reply      etcdserverpb.TxnResponse: responses[].response_put to each caller, by position; what its header lacks is filled from the reply's header",
        "demands    succeeded must be true, else every caller gets: Internal error",
    ] {
        assert!(
            text.contains(sentence),
            "{sentence:?} is missing in:\n{text}"
        );
    }
}

const PROTO: &str = r#"syntax = "proto3"; package shop;
service Orders {
  rpc Place(Order) returns (Receipt);
  rpc PlaceAll(Basket) returns (Receipts);
  rpc Move(Moves) returns (Moved);
  rpc Watch(Order) returns (stream Receipt);
}
message Order { string id = 1; Address to = 2; repeated string notes = 3; oneof by { string name = 4; string number = 5; } }
message Address { string town = 1; Address next = 2; }
message Basket { repeated Line lines = 1; repeated Order orders = 2; repeated string notes = 3; }
message Line { Order order = 1; Address to = 2; repeated Order many = 3; }
message Receipt { string id = 1; Stamp stamp = 2; int32 shelf = 3; repeated string notes = 4; }
message Receipts { repeated Result results = 1; Stamp stamp = 2; bool done = 3; repeated Receipt receipts = 4; int32 shelf = 5; string text = 6; }
message Result { Receipt receipt = 1; Status status = 2; Stamp stamp = 3; repeated Receipt many = 4; }
message Status { int32 code = 1; string message = 2; }
message Stamp { int64 at = 1; string by = 2; }
message Moves { repeated Order orders = 1; string shop = 2; }
message Moved { repeated Result results = 1; }
"#;

/// The policy of a method of `PROTO` with these keys.
fn shop(method: &str, keys: &str) -> Result<Policy, String> {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    fs::write(folder.path().join("shop.proto"), PROTO).expect("it is writable");
    let yaml = format!(
        "version: 1\nupstream: {{endpoints: [http://127.0.0.1:1]}}\ndescriptors: [shop.proto]\n\
         methods:\n- {{selector: shop.Orders/{method}, {keys}}}\n"
    );
    Policy::load(&yaml, &folder.path().join("policy.yaml")).map_err(|faults| faults.to_string())
}

const PLACE: &str = "call: shop.Orders/PlaceAll, batched_field: lines, wrap: order, \
                     reply: {subresponse_field: results, unwrap: receipt";

#[test]
fn a_method_of_its_own_batch_method_loads_in_every_form() {
    let wrapped = format!(
        "{PLACE}, fill: {{stamp: stamp, shelf: shelf}}, status_field: status, require: [{{field: done, is: true, else: ABORTED}}, {{field: stamp, is: present}}]}}"
    );
    shop("Place", &wrapped).expect("it is sound");
    let plain =
        "call: shop.Orders/PlaceAll, batched_field: orders, reply: {subresponse_field: receipts}";
    let policy = shop("Place", plain).expect("a request may be the entry itself");
    assert!(
        policy.methods[0]
            .plan
            .wrap()
            .is_some_and(|wrap| wrap.field.is_none())
    );
    let same = "batched_field: orders, reply: {subresponse_field: results, status_field: status}, \
                discriminator_fields: [orders.to.town, shop], \
                unbatchable_if: [{field: orders.to.next.town, is: present}, {field: orders.id, is: empty}], \
                entry_key: [id], on_duplicate_key: next_batch, max_field_bytes: {id: 1KiB}";
    let policy = shop("Move", same).expect("it is sound");
    let text = describe(&policy);
    for sentence in [
        "orders.to.town, shop must be equal within a batch",
        "id; the second of two equal ones waits for the next batch",
        "orders.to.next.town is there; orders.id is empty; its entries differ in orders.to.town; one key stands in it twice",
        "shop.Moved: to each caller with its own results, by position; a failed one is a status to a caller of the single form; at most 64MiB a batch",
        "id over 1024 bytes",
    ] {
        assert!(
            text.contains(sentence),
            "{sentence:?} is missing in:\n{text}"
        );
    }
}

#[test]
fn forms_that_do_not_fit_are_faults_in_words() {
    let reply = |rest: &str| format!("{PLACE}{rest}}}");
    let own = |rest: &str| format!("batched_field: orders, {rest}");
    let cases = [
        ("Place", "batched_field: lines, wrap: order".into(), "wrap: order: wraps a request for another method: name that with call"),
        ("Place", "call: shop.Orders/PlaceAl, batched_field: lines".into(), "call: shop.Orders/PlaceAl: shop.Orders has no method PlaceAl; did you mean PlaceAll?"),
        ("Place", "call: shop.Orders/Watch, batched_field: lines".into(), "call: shop.Orders/Watch: streams"),
        ("Place", "call: shop.Orders/PlaceAll, batched_field: lines, lift: {from: Old, fields: {}}".into(), "stands beside lift"),
        ("Place", "call: shop.Orders/PlaceAll, batched_field: notes".into(), "batched_field: notes: must be a repeated message"),
        ("Place", "call: shop.Orders/PlaceAll, batched_field: lines".into(), "lines: holds shop.Line, and Place takes shop.Order: name the field between them with wrap"),
        ("Place", "call: shop.Orders/PlaceAll, batched_field: lines, wrap: ordr".into(), "wrap: ordr: shop.Line has no such field; did you mean order?"),
        ("Place", "call: shop.Orders/PlaceAll, batched_field: lines, wrap: to".into(), "wrap: to: must be one shop.Order"),
        ("Place", "call: shop.Orders/PlaceAll, batched_field: lines, wrap: many".into(), "wrap: many: must be one shop.Order"),
        ("Place", "call: shop.Orders/PlaceAll, batched_field: lines, wrap: order".into(), "PlaceAll answers shop.Receipts, and callers of Place get shop.Receipt: name the field of its parts with subresponse_field"),
        ("Place", "call: shop.Orders/PlaceAll, batched_field: lines, wrap: order, reply: {subresponse_field: result}".into(), "reply.subresponse_field: result: shop.Receipts has no such field; did you mean results?"),
        ("Place", "call: shop.Orders/PlaceAll, batched_field: lines, wrap: order, reply: {subresponse_field: stamp}".into(), "subresponse_field: stamp: must be a repeated message"),
        ("Place", "call: shop.Orders/PlaceAll, batched_field: lines, wrap: order, reply: {subresponse_field: results}".into(), "a part is shop.Result, and callers of Place get shop.Receipt: name the field that holds it with unwrap"),
        ("Place", "call: shop.Orders/PlaceAll, batched_field: lines, wrap: order, reply: {subresponse_field: results, unwrap: many}".into(), "unwrap: many: must be a message that stands once"),
        ("Place", reply(", fill: {done: shelf}"), "reply.fill.done: is bool, shelf is int32: both must be one value of one type"),
        ("Place", reply(", fill: {stamps: stamp}"), "reply.fill.stamps: stamps: shop.Receipts has no such field; did you mean stamp?"),
        ("Place", reply(", status_field: stamp"), "status_field: stamp: must be a message like google.rpc.Status"),
        ("Place", reply(", require: [{field: text, is: true}]"), "require[0].field: text: is string: must be bool to be true or false"),
        ("Place", reply(", require: [{field: done, is: yes}]"), "require[0].is: \"yes\": must be true, false or present"),
        ("Place", reply(", require: [{field: done, is: true, else: ABORT}]"), "did you mean ABORTED?"),
        ("Move", own("reply: {unwrap: receipt}"), "reply.unwrap: speaks of sub-responses: name their field with subresponse_field"),
        ("Move", own("reply: {subresponse_field: results, unwrap: receipt}"), "reply.unwrap: is for replies of another method"),
        ("Move", own("reply: copied"), "reply: \"copied\": must be replicate"),
        ("Move", own("discriminator_fields: [orders.too]"), "discriminator_fields[0]: orders.too: shop.Order has no such field; did you mean to?"),
        ("Move", own("discriminator_fields: [orders.id.x]"), "orders.id.x: shop.Order.id is no message, so it has no x"),
        ("Move", own("discriminator_fields: [orders.notes]"), "shop.Order.notes: must be a single value that is no message"),
        ("Move", own("discriminator_fields: [orders.name]"), "orders.name: is one of the oneof by: must stand for itself"),
        ("Move", own("entry_key: [number]"), "entry_key: number: is one of the oneof by"),
        ("Move", own("unbatchable_if: [{field: orders.to.town, is: empty}]"), "orders.to.town: only an entry's own field"),
        ("Move", own("unbatchable_if: [{field: orders.id, is: set}]"), "unbatchable_if[0].is: \"set\": must be present or empty"),
        ("Move", own("unbatchable_if: [orders.id]"), "unbatchable_if[0]: \"orders.id\": must be a map with the keys field, is"),
        ("Move", own("on_duplicate_key: next_batch"), "on_duplicate_key: next_batch: needs entry_key"),
        ("Move", own("max_field_bytes: {id: 5}"), "max_field_bytes"),
        ("Move", own("max_field_bytes: {idd: 5B}"), "max_field_bytes.idd: shop.Order has no such field; did you mean id?"),
    ];
    for (method, keys, words) in cases {
        let faults = shop(method, &keys).expect_err(words);
        assert!(faults.contains(words), "{words:?} is missing in:\n{faults}");
        assert!(faults.contains(": line 5, column "), "{faults}");
    }
}

#[test]
fn what_parts_calls_is_no_field_that_is_lifted_from_them() {
    let delete = "\
version: 1
upstream: {endpoints: [http://127.0.0.1:1228]}
methods:
  - selector: meta.service.mqtt.MqttService/DeleteSession
    batched_field: sessions
    lift:
      from: DeleteSessionRequest
      fields: {tenant: tenant, client_id: client_id}
";
    let discriminator = format!("{delete}    discriminator_fields: [tenant]\n");
    assert_eq!(
        faults(&discriminator),
        [
            "test.yaml: line 9, column 28: methods[0].discriminator_fields[0]: tenant: is lifted to \
             sessions.tenant, where each entry has its own; leave it out"
        ]
    );
    let condition = format!("{delete}    unbatchable_if: [{{field: client_id, is: present}}]\n");
    assert_eq!(
        faults(&condition),
        [
            "test.yaml: line 9, column 30: methods[0].unbatchable_if[0].field: client_id: is lifted \
             to sessions.client_id, where each entry has its own; leave it out"
        ]
    );
}
