//! Services that nobody here has seen, by the descriptors of their own.

use std::fs;

use bytes::Bytes;

use super::*;
use crate::wire::Scan;

const PROTO: &str = r#"syntax = "proto3"; package shop; import "shop/common.proto";
service Orders { rpc Place(PlaceRequest) returns (PlaceReply); rpc Watch(PlaceRequest) returns (stream PlaceReply); }
message PlaceRequest { repeated Order orders = 4; string shop = 1; repeated string notes = 2; }
message PlaceReply {}
message Old { string id = 5; Address to = 6; int32 count = 7; }"#;
const COMMON: &str = r#"syntax = "proto3"; package shop;
message Order { string id = 1; Address to = 2; sint32 count = 3; repeated fixed32 parts = 4; map<string, Order> gifts = 5; }
message Address { string town = 1; }"#;
const SHOP: &str = "version: 1\nupstream: {endpoints: [http://127.0.0.1:1]}\ndescriptors: [DESCRIPTORS]\nmethods:\n\
    - {selector: shop.Orders/METHOD, batched_field: orders, entry_key: [id], require: [id, to], LIFT}\n";

/// A folder with a policy's .proto files, one of which imports the other from the folder's root.
fn shop() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    fs::create_dir(folder.path().join("shop")).expect("it is empty");
    fs::write(folder.path().join("shop/orders.proto"), PROTO).expect("it is writable");
    fs::write(folder.path().join("shop/common.proto"), COMMON).expect("it is writable");
    folder
}

fn load_shop(folder: &Path, descriptors: &str, method: &str, lift: &str) -> Result<Policy, Faults> {
    let yaml = SHOP
        .replace("DESCRIPTORS", descriptors)
        .replace("METHOD", method)
        .replace("LIFT", lift);
    Policy::load(&yaml, &folder.join("policy.yaml"))
}

#[test]
fn a_service_that_nobody_here_has_seen_is_described_by_its_proto_file() {
    let folder = shop();
    let lift = "lift: {from: Old, fields: {id: id, to: to}}";
    let policy = load_shop(folder.path(), "shop/orders.proto", "Place", lift).expect("it is sound");
    let plan = &policy.methods[0].plan;
    assert_eq!((plan.batched_field(), plan.entry_key()), (4, &[1][..]));
    let others: Vec<_> = plan
        .other_fields()
        .map(|field| field.name.as_str())
        .collect();
    assert_eq!(others, ["shop", "notes"]);
    // id and to.town, lifted; the town is not UTF-8 in the second.
    let scan = |message: &'static [u8]| plan.scan(&Bytes::from_static(message));
    assert!(matches!(
        scan(b"\x2a\x01i\x32\x03\x0a\x01t"),
        Ok(Scan::Merge(_))
    ));
    let error = scan(b"\x2a\x01i\x32\x03\x0a\x01\xff").expect_err("a string is UTF-8 at any depth");
    assert!(
        error.to_string().starts_with("to.town: not valid UTF-8"),
        "{error}"
    );
    // A gift holds an order, whose type holds gifts; only the entry's own id is required.
    let gift = b"\x22\x0f\x0a\x01i\x12\x00\x2a\x08\x0a\x01g\x12\x03\x0a\x01j";
    assert!(
        matches!(scan(&gift[..17]), Ok(Scan::Merge(_))),
        "{:?}",
        scan(&gift[..17])
    );
}

#[test]
fn a_compiled_descriptor_set_serves_as_well() {
    let folder = shop();
    let set = protox::compile(["shop/orders.proto"], [folder.path()]).expect("it compiles");
    let bytes = prost::Message::encode_to_vec(&set);
    fs::write(folder.path().join("shop.bin"), bytes).expect("it is writable");
    load_shop(folder.path(), "shop.bin", "Place", "mode: enforce").expect("it is sound");
}

#[test]
fn descriptors_and_names_that_do_not_fit_are_faults_with_their_line() {
    let folder = shop();
    fs::write(folder.path().join("broken.proto"), "message {").expect("it is writable");
    let fault = |descriptors: &str, method: &str, lift: &str| {
        load_shop(folder.path(), descriptors, method, lift)
            .expect_err("must be refused")
            .to_string()
    };
    let plain = "mode: enforce";
    assert!(
        fault("missing.proto", "Place", plain)
            .contains("line 3, column 15: descriptors[0]: missing.proto: cannot be read")
    );
    assert!(
        fault("broken.proto", "Place", plain)
            .contains("line 3, column 15: descriptors[0]: broken.proto:")
    );
    assert!(
        fault("policy.bin", "Place", plain).contains("shop.Orders"),
        "the service is then unknown too"
    );
    assert!(
        fault("shop/orders.proto", "Watch", plain)
            .contains("line 5, column 14: methods[0].selector: shop.Orders/Watch: streams")
    );
    let kinds = fault(
        "shop/orders.proto",
        "Place",
        "lift: {from: Old, fields: {id: id, to: to, count: count}}",
    );
    assert!(
        kinds.contains("lift.fields.count: is int32, count is sint32; both must be the same"),
        "{kinds}"
    );
    let unfilled = fault(
        "shop/orders.proto",
        "Place",
        "lift: {from: Old, fields: {id: id}}",
    );
    assert!(unfilled.contains("lift.fields: must fill to"), "{unfilled}");
    let ambiguous = fault(
        "shop/orders.proto",
        "Place",
        "lift: {from: Order, fields: {id: id, to: to}}",
    );
    assert!(ambiguous.contains("share field number"), "{ambiguous}");
}

#[test]
fn what_a_proto_file_imports_is_watched_too() {
    let folder = shop();
    let policy = load_shop(folder.path(), "shop/orders.proto", "Place", "").expect("it is sound");
    let place = fs::canonicalize(folder.path()).expect("it is there");
    let imported = Stamp::of(&place.join("shop/common.proto"));
    assert!(policy.files.contains(&imported), "{:?}", policy.files);
    assert_eq!(policy.files.len(), 2);
}
