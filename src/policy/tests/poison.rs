//! What one call could do to a batch of others, by descriptors of any kind:
//! found at the door, or refused when the policy loads.

use std::fs;

use bytes::{Bytes, BytesMut};
use prost_reflect::{DescriptorPool, DynamicMessage};

use super::*;
use crate::wire::{Piece, Reason, Scan};

const STORE: &str = r#"
service Store {
  rpc Set(Sets) returns (Done);
  rpc Put(Set) returns (Done);
  rpc PutAll(Puts) returns (Dones);
  rpc Lift(Sets) returns (Done);
}
"#;

/// Requests with a oneof at the top and in their entries.
const CHOICES: &str = r#"
message Sets { repeated Set sets = 1; oneof who { string user = 3; string team = 2; } oneof how { bool fast = 5; } optional string note = 6; }
message Set { string key = 1; oneof value { string text = 3; bytes raw = 4; Place place = 5; } optional string by = 6; }
message Place { string town = 1; }
message Puts { repeated Set sets = 1; }
message Done {}
message Dones { repeated Done done = 1; }
message Old { string key = 11; oneof value { string text = 12; string by = 13; } }
"#;

/// Requests with fields that must be there.
const REQUIRED: &str = r#"
message Sets { repeated Set sets = 1; required string shop = 2; optional Set like = 3; }
message Set { required string key = 1; optional Place place = 2; optional string by = 3; }
message Place { required string town = 1; repeated Place near = 2; }
message Puts { repeated Set sets = 1; required string shop = 2; }
message Done {}
message Dones { repeated Done done = 1; }
message Old { optional string by = 11; }
"#;

/// The policy of a method of these messages, and their descriptors.
fn store(
    (syntax, messages): (&str, &str),
    method: &str,
    keys: &str,
) -> (Result<Policy, String>, DescriptorPool) {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    let proto = format!("syntax = \"{syntax}\"; package store;{STORE}{messages}");
    fs::write(folder.path().join("store.proto"), proto).expect("it is writable");
    let yaml = format!(
        "version: 1\nupstream: {{endpoints: [http://127.0.0.1:1]}}\ndescriptors: [store.proto]\n\
         methods:\n- {{selector: store.Store/{method}, {keys}}}\n"
    );
    let policy = Policy::load(&yaml, &folder.path().join("policy.yaml"));
    let set = protox::compile(["store.proto"], [folder.path()]).expect("it compiles");
    let pool = DescriptorPool::from_file_descriptor_set(set).expect("it is whole");
    (policy.map_err(|faults| faults.to_string()), pool)
}

fn len(number: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [&[number << 3 | 2, value.len() as u8], value].concat()
}

fn scan(policy: &Policy, message: &[u8]) -> Result<Scan, String> {
    let scan = policy.methods[0]
        .plan
        .scan(&Bytes::copy_from_slice(message));
    scan.map_err(|error| error.to_string())
}

fn piece(policy: &Policy, message: &[u8]) -> Piece {
    match scan(policy, message) {
        Ok(Scan::Merge(piece)) => piece,
        other => panic!("must merge: {other:?}"),
    }
}

#[test]
fn what_a_oneof_outside_the_entries_says_to_its_caller_it_says_to_the_upstream() {
    let (policy, pool) = store(("proto3", CHOICES), "Set", "batched_field: sets");
    let policy = policy.expect("it is sound");
    assert!(describe(&policy).contains("two of one oneof stand outside its entries"));
    let kind = pool.get_message_by_name("store.Sets").expect("it is there");
    let who = |bytes: &[u8]| {
        let message = DynamicMessage::decode(kind.clone(), bytes).expect("it decodes");
        ["user", "team"].map(|name| message.has_field_by_name(name))
    };
    let set = len(1, len(1, "k"));
    let (user, team) = (len(3, "u"), len(2, "t"));
    let one = [&set[..], &user, &team].concat();
    let other = [&team[..], &set, &user].concat();
    assert_eq!((who(&one), who(&other)), ([false, true], [true, false]));
    for both in [&one, &other] {
        let scan = scan(&policy, both);
        assert!(
            matches!(scan, Ok(Scan::Alone(Reason::Oneof, _))),
            "{scan:?}"
        );
    }
    // One of them as often as it likes, one of each oneof, and no choice at all.
    let (fast, note) = (&[5 << 3, 1][..], &len(6, "n"));
    let sound = [
        [&user[..], &set, &user].concat(),
        [&team[..], &set, fast, note].concat(),
    ];
    for message in sound {
        let mut merged = BytesMut::new();
        let piece = piece(&policy, &message);
        policy.methods[0].plan.merge([&piece, &piece], &mut merged);
        assert_eq!(who(&merged), who(&message));
    }
}

#[test]
fn a_value_that_another_of_its_oneof_takes_away_is_nothing_to_demand_or_to_part_calls_by() {
    let own = |rest: &str| format!("batched_field: sets, {rest}");
    for (method, keys, told) in [
        (
            "Set",
            own("require: [text]"),
            "require: text: is one of the oneof value",
        ),
        (
            "Set",
            own("unbatchable_if: [{field: sets.text, is: empty}]"),
            "unbatchable_if[0].field: sets.text: is one of the oneof value",
        ),
        (
            "Set",
            own("discriminator_fields: [sets.place.town]"),
            "discriminator_fields[0]: sets.place.town: is one of the oneof value",
        ),
        (
            "Lift",
            own("lift: {from: Old, fields: {key: key, by: by}}"),
            "lift.fields.by: store.Old.by is a member of a oneof and store.Set.by is of none",
        ),
    ] {
        let faults = store(("proto3", CHOICES), method, &keys).0.expect_err(told);
        assert!(faults.contains(told), "{told:?} is missing in:\n{faults}");
    }
    let keys = own("require: [key, by], unbatchable_if: [{field: sets.text, is: present}]");
    let sound = store(("proto3", CHOICES), "Set", &keys).0;
    sound.expect("what is there is there, and optional is no choice");
}

#[test]
fn a_message_without_what_its_proto_requires_poisons_no_batch() {
    let (policy, _) = store(("proto2", REQUIRED), "Set", "batched_field: sets");
    let policy = policy.expect("it is sound");
    let shop = len(2, "");
    let set = |rest: &[u8]| [len(1, [&len(1, "")[..], rest].concat()), shop.clone()].concat();
    let place = |place: Vec<u8>| set(&len(2, place));
    // There is enough: it may be empty.
    for sound in [
        set(b""),
        place(len(1, "")),
        place([len(1, ""), len(2, len(1, ""))].concat()),
    ] {
        assert_eq!(piece(&policy, &sound).entries(), 1);
    }
    for (message, field) in [
        ([len(1, ""), shop.clone()].concat(), "sets[0].key"),
        (len(1, len(1, "k")), "shop"),
        (place(vec![]), "sets[0].place.town"),
        (
            place([len(1, ""), len(2, "")].concat()),
            "sets[0].place.near.town",
        ),
        ([set(b""), len(3, "")].concat(), "like.key"),
    ] {
        let told = scan(&policy, &message).expect_err(field);
        assert!(told.starts_with(&format!("{field}: is missing")), "{told}");
    }
    // One that must stand there and whose emptiness keeps a call alone.
    let keys = "batched_field: sets, unbatchable_if: [{field: sets.key, is: empty}]";
    let policy = store(("proto2", REQUIRED), "Set", keys)
        .0
        .expect("it is sound");
    let empty = scan(&policy, &set(b""));
    assert!(
        matches!(empty, Ok(Scan::Alone(Reason::Condition, _))),
        "{empty:?}"
    );
    assert!(scan(&policy, &[len(1, ""), shop.clone()].concat()).is_err());

    for (method, keys, told) in [
        (
            "Put",
            "call: store.Store/PutAll, batched_field: sets, reply: {subresponse_field: done}",
            "call: store.Store/PutAll: requires store.Puts.shop, which no call says",
        ),
        (
            "Lift",
            "batched_field: sets, lift: {from: Old, fields: {by: by}}",
            "lift.fields: must fill key, which is a key or required",
        ),
    ] {
        let faults = store(("proto2", REQUIRED), method, keys).0.expect_err(told);
        assert!(faults.contains(told), "{told:?} is missing in:\n{faults}");
    }
}
