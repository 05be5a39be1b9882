//! Requests wrapped for another method, and the rules that keep entries apart.

use super::*;

/// Put, wrapped into Txn as etcd has it: `success[].request_put`.
fn put_shape() -> Shape {
    let put = Message {
        name: "test.Put".into(),
        fields: vec![
            field(1, "key", Kind::Bytes),
            field(2, "value", Kind::Bytes),
            field(3, "lease", Kind::Varint),
        ],
    };
    Shape {
        messages: vec![put],
        batched_field: 2,
        wrap: Some(Wrap {
            request: "test.Txn".into(),
            batched: "success".into(),
            field: Some((2, "request_put".into())),
        }),
        entry_key: vec![1],
        keys: KeyUse::Distinct,
        alone_if: vec![condition(&[3], Is::Present), condition(&[1], Is::Empty)],
        ..Shape::default()
    }
}

fn condition(path: &[u32], is: Is) -> Condition {
    Condition {
        path: path.to_vec(),
        is,
    }
}

/// Offsets as RobustMQ has them: entries of a tenant, each with a list.
fn offsets_shape() -> Shape {
    let list = |field| Field {
        repeated: true,
        ..field
    };
    let messages = vec![
        Message {
            name: "test.Save".into(),
            fields: vec![
                list(field(2, "offsets", Kind::Message(1))),
                field(9, "sample", Kind::Message(1)),
            ],
        },
        Message {
            name: "test.Group".into(),
            fields: vec![
                field(1, "group", Kind::Text),
                list(field(2, "offsets", Kind::Message(2))),
                field(3, "tenant", Kind::Text),
            ],
        },
        Message {
            name: "test.Offset".into(),
            fields: vec![
                field(3, "offset", Kind::Varint),
                field(6, "expected_offset", Kind::Varint),
            ],
        },
    ];
    Shape {
        messages,
        batched_field: 2,
        discriminators: vec![vec![2, 3]],
        alone_if: vec![condition(&[2, 2, 6], Is::Present)],
        ..Shape::default()
    }
}

fn planned(shape: Shape) -> Plan {
    Plan::new(shape).expect("the shape is sound")
}

fn scanned(plan: &Plan, message: impl AsRef<[u8]>) -> Scan {
    plan.scan(&Bytes::copy_from_slice(message.as_ref()))
        .expect("it is valid")
}

fn merging(plan: &Plan, message: impl AsRef<[u8]>) -> Piece {
    match scanned(plan, message) {
        Scan::Merge(piece) => piece,
        other => panic!("must merge: {other:?}"),
    }
}

fn parted(plan: &Plan, message: impl AsRef<[u8]>) -> Reason {
    match scanned(plan, message) {
        Scan::Alone(reason, _) => reason,
        other => panic!("must go alone: {other:?}"),
    }
}

fn put(key: &str, value: &str) -> Vec<u8> {
    [len(1, key), len(2, value)].concat()
}

#[test]
fn whole_requests_are_wrapped_as_entries_of_another_method() {
    let plan = planned(put_shape());
    let pieces = [
        merging(&plan, put("a", "1")),
        merging(&plan, put("b", &"2".repeat(300))),
    ];
    assert_eq!(pieces[0].form(), Form::Whole);
    let mut out = BytesMut::new();
    plan.merge(&pieces, &mut out);
    let entry = |put: Vec<u8>| len(2, len(2, put));
    assert_eq!(
        out,
        [entry(put("a", "1")), entry(put("b", &"2".repeat(300)))].concat()
    );
    assert_eq!(out.len(), plan.merged_len(&pieces));
}

#[test]
fn a_request_that_is_itself_the_entry_is_not_wrapped_twice() {
    let mut shape = put_shape();
    shape.wrap.as_mut().expect("it wraps").field = None;
    let plan = planned(shape);
    let mut out = BytesMut::new();
    plan.merge([&merging(&plan, put("a", "1"))], &mut out);
    assert_eq!(out, len(2, put("a", "1")));
}

#[test]
fn a_request_with_a_field_that_the_policy_names_goes_alone() {
    let plan = planned(put_shape());
    assert_eq!(
        parted(&plan, [put("a", "1"), num(3, 7)].concat()),
        Reason::Condition
    );
    // Present with its default is present: nobody can tell why it was written.
    assert_eq!(
        parted(&plan, [put("a", "1"), num(3, 0)].concat()),
        Reason::Condition
    );
    assert_eq!(parted(&plan, put("", "1")), Reason::Condition);
    assert_eq!(parted(&plan, len(2, "1")), Reason::Condition);
}

#[test]
fn a_condition_deep_in_a_list_is_met_there_and_nowhere_else() {
    let plan = planned(offsets_shape());
    let group = |offset: Vec<u8>| [len(1, "g"), len(2, offset), len(3, "t")].concat();
    let free = len(2, group(num(3, 5)));
    let bound = len(2, group([num(3, 5), num(6, 4)].concat()));
    assert_eq!(
        merging(&plan, [free.clone(), free.clone()].concat()).entries(),
        2
    );
    assert_eq!(
        parted(&plan, [free.clone(), bound].concat()),
        Reason::Condition
    );
    let sample = len(9, group(num(6, 4)));
    assert_eq!(merging(&plan, [free, sample].concat()).entries(), 1);
}

#[test]
fn entries_that_differ_in_a_discriminator_are_in_different_partitions() {
    let plan = planned(offsets_shape());
    let of = |tenant: &[u8]| len(2, [len(1, "g"), tenant.to_vec()].concat());
    let piece = |message: Vec<u8>| merging(&plan, message);
    let (a, b) = (len(3, "a"), len(3, "b"));
    let two_of_a = piece([of(&a), of(&a)].concat());
    assert_eq!(piece(of(&a)).partition(), two_of_a.partition());
    assert_ne!(piece(of(&a)).partition(), piece(of(&b)).partition());
    assert_ne!(
        piece(of(&[])).partition(),
        piece(of(&len(3, ""))).partition()
    );
    // The last of two is the value.
    let rewritten = [b.clone(), a.clone()].concat();
    assert_eq!(piece(of(&a)).partition(), piece(of(&rewritten)).partition());
    let mixed = [of(&a), of(&b)].concat();
    assert_eq!(parted(&plan, mixed), Reason::MixedDiscriminator);
}

#[test]
fn a_discriminator_is_compared_and_never_written() {
    let plan = planned(offsets_shape());
    let entry = len(2, [len(1, "g"), len(3, "t")].concat());
    let sample = len(9, len(1, "s"));
    let pieces = [
        merging(&plan, [sample.clone(), entry.clone()].concat()),
        merging(&plan, [entry.clone(), sample.clone()].concat()),
    ];
    let mut out = BytesMut::new();
    plan.merge(&pieces, &mut out);
    assert_eq!(out, [sample, entry.clone(), entry].concat());
    assert_eq!(out.len(), plan.merged_len(&pieces));
}

#[test]
fn a_discriminator_of_the_single_form_is_that_of_its_entry() {
    let mut shape = shape();
    shape.discriminators = vec![vec![1, 1]];
    let plan = planned(shape);
    let piece = |message: Vec<u8>| merging(&plan, message);
    assert_eq!(
        piece(single("a", "1")).partition(),
        piece(entry("a", "2")).partition()
    );
    assert_ne!(
        piece(single("a", "1")).partition(),
        piece(entry("b", "1")).partition()
    );
}

#[test]
fn equal_keys_have_equal_hashes_in_every_form() {
    let mut shape = shape();
    shape.keys = KeyUse::Note;
    let plan = planned(shape);
    let two = merging(&plan, [entry("a", "1"), entry("b", "2")].concat());
    let one = merging(&plan, single("b", "3"));
    assert_eq!(two.key_hashes().len(), 2);
    assert_eq!(one.key_hashes(), &two.key_hashes()[1..]);
    assert_eq!(one.key_hashes(), [key_hash([&b"b"[..]])]);
    assert_eq!(piece(entry("a", "1")).key_hashes(), [0_u64; 0]);
}

#[test]
fn a_padded_number_is_the_same_key() {
    let mut shape = put_shape();
    shape.alone_if.clear();
    shape.entry_key = vec![3, 1];
    let plan = planned(shape);
    let key = |lease: Vec<u8>| {
        merging(&plan, [len(1, "k"), lease].concat())
            .key_hashes()
            .to_vec()
    };
    let padded = [varint(3 << 3, 1), varint(5, 3)].concat();
    assert_eq!(key(num(3, 5)), key(padded));
    assert_eq!(key(num(3, 0)), key(Vec::new()));
    assert_ne!(key(num(3, 5)), key(num(3, 6)));
}

#[test]
fn a_number_is_the_same_key_in_every_encoding_that_decodes_to_it() {
    let key = |kind: Kind, value: &[u8]| {
        let mut shape = put_shape();
        shape.alone_if.clear();
        shape.messages[0].fields[2].kind = kind;
        shape.entry_key = vec![3];
        let plan = planned(shape);
        let piece = merging(&plan, [len(1, "k"), value.to_vec()].concat());
        piece.key_hashes()[0]
    };
    let fixed = |wire: u64, bytes: &[u8]| [varint(3 << 3 | wire, 1), bytes.to_vec()].concat();
    let minus = u64::MAX - 4; // -5, as an int32 is written
    for (kind, one, other) in [
        (Kind::Fixed64, vec![], fixed(1, &[0; 8])),
        (Kind::Fixed32, vec![], fixed(5, &[0; 4])),
        (Kind::Varint32, num(3, minus), num(3, minus & 0xffff_ffff)),
        (Kind::Varint32, num(3, 1 << 32), vec![]),
        (Kind::Flag, num(3, 1), num(3, 1 << 40)),
        (Kind::Flag, num(3, 0), vec![]),
    ] {
        assert_eq!(key(kind, &one), key(kind, &other), "{kind:?}");
    }
    for (kind, one, other) in [
        (
            Kind::Fixed64,
            fixed(1, &[1, 0, 0, 0, 0, 0, 0, 0]),
            fixed(1, &[0, 0, 0, 0, 0, 0, 0, 1]),
        ),
        (Kind::Fixed32, vec![], fixed(5, &[0, 0, 0, 1])),
        (Kind::Varint, num(3, minus), num(3, minus & 0xffff_ffff)),
        (Kind::Varint, num(3, 1 << 32), vec![]),
        (Kind::Flag, num(3, 1), vec![]),
    ] {
        assert_ne!(key(kind, &one), key(kind, &other), "{kind:?}");
    }
}

#[test]
fn a_number_that_is_cut_to_nothing_is_empty() {
    let mut shape = put_shape();
    shape.alone_if.clear();
    let lease = &mut shape.messages[0].fields[2];
    (lease.kind, lease.require) = (Kind::Varint32, Require::Filled);
    let plan = planned(shape);
    let with = |lease| plan.scan(&Bytes::from([len(1, "k"), num(3, lease)].concat()));
    assert!(with(1 << 31).is_ok());
    assert!(with(1 << 32).is_err());
}

#[test]
fn a_call_with_one_key_twice_goes_alone_where_keys_stand_once() {
    let mut shape = shape();
    shape.keys = KeyUse::Distinct;
    let plan = planned(shape);
    let twice = [entry("a", "1"), entry("b", "2"), entry("a", "3")].concat();
    assert_eq!(parted(&plan, &twice), Reason::DuplicateKey);
    assert_eq!(piece(&twice).entries(), 3, "elsewhere it may");
}

#[test]
fn a_rule_for_a_field_that_cannot_bear_it_is_no_plan() {
    let broken = |change: fn(&mut Shape)| {
        let mut shape = offsets_shape();
        change(&mut shape);
        Plan::new(shape).expect_err("must be refused")
    };
    assert!(matches!(
        broken(|s| s.discriminators = vec![vec![2, 2, 3]]),
        PlanError::NotOneValue { field, .. } if field == "offset"
    ));
    assert!(matches!(
        broken(|s| s.discriminators = vec![vec![2, 2]]),
        PlanError::NotOneValue { field, .. } if field == "offsets"
    ));
    assert!(matches!(
        broken(|s| s.discriminators = vec![vec![2, 3, 1]]),
        PlanError::NotAMessage { field, .. } if field == "tenant"
    ));
    assert!(matches!(
        broken(|s| s.alone_if[0].is = Is::Empty),
        PlanError::EmptyElsewhere { field } if field == "offsets.offsets.expected_offset"
    ));
    assert!(matches!(
        broken(|s| s.alone_if[0].path = vec![2, 5]),
        PlanError::NoField { number: 5, .. }
    ));
    let mut both = put_shape();
    both.lift = Some(Lift::default());
    assert!(matches!(
        Plan::new(both),
        Err(PlanError::LiftAndWrap { .. })
    ));
}
