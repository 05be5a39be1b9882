//! What never joins a batch, and the words in which its sender is told.

use super::*;

#[test]
fn an_empty_required_field_is_refused_by_its_path() {
    let third = [entry("a", "1"), entry("b", "2"), entry("", "3")].concat();
    assert_eq!(
        refusal(third),
        "sessions[2].client_id: is empty: must have at least 1 byte; fill it in"
    );
    assert!(refusal(entry("a", "")).starts_with("sessions[0].session: is empty"));
    assert!(refusal(len(1, "")).starts_with("sessions[0].client_id: is empty"));
    assert!(refusal(single("", "1")).starts_with("client_id: is empty"));
    assert!(refusal(len(2, "a")).starts_with("session: is empty"));
}

#[test]
fn a_required_field_that_is_emptied_again_is_refused() {
    assert!(refusal([single("a", "1"), len(2, "")].concat()).starts_with("client_id: is empty"));
}

#[test]
fn an_over_long_key_is_refused_with_its_bound() {
    let long = "x".repeat(65);
    assert_eq!(
        refusal(entry(&long, "1")),
        "sessions[0].client_id: 65 bytes: must be at most 64; shorten it"
    );
    assert!(refusal(single(&long, "1")).starts_with("client_id: 65 bytes"));
    assert_eq!(piece(entry("x".repeat(64), "1")).entries(), 1);
}

#[test]
fn a_string_that_is_not_utf8_is_refused() {
    assert!(
        refusal(entry([b'a', 0xff], "1"))
            .starts_with("sessions[0].client_id: not valid UTF-8 after 1")
    );
    assert!(refusal(single([0xff], "1")).starts_with("client_id: not valid UTF-8"));
    let will = len(3, len(1, [0xc0]));
    let nested = len(1, [len(1, "a"), len(2, "1"), will].concat());
    assert!(refusal(nested).starts_with("sessions[0].will.topic: not valid UTF-8"));
    let tenant = [len(7, [0xff]), entry("a", "1")].concat();
    assert!(refusal(tenant).starts_with("tenant: not valid UTF-8"));
}

#[test]
fn a_message_with_neither_form_is_refused() {
    assert_eq!(
        refusal([]),
        "test.Request.sessions: must have at least 1 items; add one, or send test.Old"
    );
    assert!(refusal(len(7, "t")).contains("must have at least 1 items"));
}

#[test]
fn a_message_with_both_forms_is_refused() {
    let both = [entry("a", "1"), single("b", "2")].concat();
    assert!(refusal(both).contains("sessions and test.Old in one message"));
}

#[test]
fn a_wrong_wire_type_is_refused() {
    assert!(refusal([num(1, 5)].concat()).starts_with("sessions: wire type 0 (varint): must be 2"));
    assert!(refusal([num(2, 5), len(3, "s")].concat()).starts_with("client_id: wire type 0"));
    let inside = len(1, [len(1, "a"), num(2, 1)].concat());
    assert!(refusal(inside).starts_with("sessions[0].session: wire type 0"));
    assert!(refusal([num(7, 1), entry("a", "1")].concat()).starts_with("tenant: wire type 0"));
    let group = [varint(2 << 3 | 3, 1), varint(2 << 3 | 4, 1)].concat();
    assert!(refusal(group).starts_with("client_id: wire type 3 (group)"));
}

#[test]
fn every_truncation_is_refused() {
    let whole = [entry("abc", [7; 200]), len(7, "tenant")].concat();
    let boundary = whole.len() - len(7, "tenant").len();
    for end in (1..whole.len()).filter(|&end| end != boundary) {
        let error = scan(&whole[..end]).expect_err("a part is not the whole");
        assert!(error.is_malformed(), "{end}: {error}");
    }
}

#[test]
fn a_truncation_inside_an_entry_is_refused() {
    let inside = len(1, &[len(1, "a"), len(2, "12345")].concat()[..7]);
    assert!(
        refusal(inside)
            .starts_with("failed to decode Protobuf message: test.Entry: it ends inside")
    );
    // The same, where the record's bytes would be found behind the entry's end.
    let beyond = [len(1, [0x0a, 0x05]), entry("a", "1")].concat();
    assert!(
        scan(&beyond)
            .expect_err("an entry ends where it says")
            .is_malformed()
    );
}

#[test]
fn bytes_that_are_no_protobuf_are_refused() {
    let tag_zero = [0x00, 0x01];
    let number_zero = [0x02, 0x00];
    let wire_seven = [0x0f, 0x00];
    let number_beyond = [0xff; 9].iter().copied().chain([0x01]).collect::<Vec<_>>();
    let varint_beyond = [&[0x48][..], &[0xff; 9], &[0x02]].concat();
    let end_of_no_group = [0x0c];
    let other_end = [varint(9 << 3 | 3, 1), varint(8 << 3 | 4, 1)].concat();
    let open_group = varint(9 << 3 | 3, 1);
    for bytes in [
        &tag_zero[..],
        &number_zero,
        &wire_seven,
        &number_beyond,
        &varint_beyond,
        &end_of_no_group,
        &other_end,
        &open_group,
    ] {
        assert!(
            scan(bytes).expect_err("must be refused").is_malformed(),
            "{bytes:?}"
        );
    }
}

#[test]
fn a_tag_or_length_that_some_decoders_do_not_take_is_refused() {
    // All of them take five bytes, and ten of a value.
    let padded = |tag, prefix| {
        let inner = len(2, "1");
        let key = [varint(1 << 3 | 2, tag), varint(1, prefix), b"a".to_vec()];
        let will = [varint(3 << 3 | 2, tag), varint(0, prefix)];
        [key.concat(), inner, will.concat()].concat()
    };
    let at_the_top = |tag, prefix| {
        let entry = padded(1, 1);
        let head = [varint(1 << 3 | 2, tag), varint(entry.len() as u64, prefix)];
        [head.concat(), entry].concat()
    };
    for sound in [(1, 1), (5, 1), (1, 5), (5, 5)] {
        assert_eq!(piece(len(1, padded(sound.0, sound.1))).entries(), 1);
        assert_eq!(piece(at_the_top(sound.0, sound.1)).entries(), 1);
    }
    for long in [(6, 1), (1, 6), (10, 1), (1, 10)] {
        for message in [len(1, padded(long.0, long.1)), at_the_top(long.0, long.1)] {
            assert!(
                refusal(&message).contains("is longer than 5 bytes"),
                "{long:?}"
            );
        }
    }
    let grants = |width| [varint(400 << 3, 1), varint(7, width)].concat();
    let entry = |width| len(1, [len(1, "a"), len(2, "1"), grants(width)].concat());
    assert_eq!(piece(entry(10)).entries(), 1);
    let packed = len(
        1,
        [len(1, "a"), len(2, "1"), len(400, varint(7, 10))].concat(),
    );
    assert_eq!(piece(packed).entries(), 1);
}

#[test]
fn a_malformed_packed_list_is_refused() {
    let entry = |grants: &[u8]| len(1, [len(1, "a"), len(2, "1"), len(400, grants)].concat());
    assert_eq!(piece(entry(&[1, 0x80, 0x01, 2])).entries(), 1);
    assert!(
        scan(&entry(&[1, 0x80]))
            .expect_err("ends in a number")
            .is_malformed()
    );
}

#[test]
fn nesting_past_what_decoders_accept_is_refused() {
    let nested = |depth: usize| {
        let will = (1..depth).fold(Vec::new(), |within, _| len(2, within));
        len(1, [len(1, "a"), len(2, "1"), len(3, will)].concat())
    };
    assert_eq!(piece(nested(99)).entries(), 1);
    assert!(refusal(nested(100)).contains("nests deeper than 100"));
    assert!(refusal(nested(5000)).contains("nests deeper than 100"));
    let groups = [varint(9 << 3 | 3, 1)].concat().repeat(200_000);
    assert!(refusal(groups).contains("nests deeper than 100"));
}

#[test]
fn an_unknown_field_goes_alone() {
    assert_eq!(
        alone(&[entry("a", "1"), len(9, "?")].concat()),
        Reason::UnknownField
    );
    assert_eq!(
        alone(&[single("a", "1"), num(9, 1)].concat()),
        Reason::UnknownField
    );
    let inside = len(1, [len(1, "a"), len(2, "1"), num(5, 1)].concat());
    assert_eq!(alone(&inside), Reason::UnknownField);
}

#[test]
fn a_group_goes_alone() {
    let group = [
        varint(9 << 3 | 3, 1),
        len(1, "x"),
        num(2, 3),
        varint(9 << 3 | 4, 1),
    ]
    .concat();
    assert_eq!(
        alone(&[entry("a", "1"), group.clone()].concat()),
        Reason::Group
    );
    let inside = len(1, [len(1, "a"), len(2, "1"), group].concat());
    assert_eq!(alone(&inside), Reason::Group);
}

#[test]
fn what_goes_alone_is_validated_all_the_same() {
    assert!(
        refusal([len(9, "?"), entry("", "1")].concat())
            .starts_with("sessions[0].client_id: is empty")
    );
    assert!(refusal(len(9, "?")).contains("must have at least 1 items"));
}

#[test]
fn a_message_with_very_many_other_fields_goes_alone() {
    let labels = |count| [len(8, "l").repeat(count), entry("a", "1")].concat();
    assert_eq!(piece(labels(64)).partition().len(), 3 * 64);
    assert_eq!(alone(&labels(65)), Reason::ManyFields);
}

#[test]
fn a_single_form_that_goes_alone_becomes_an_entry_and_keeps_all_else_behind_it() {
    let (tenant, unknown) = (len(7, "t"), num(9, 1));
    let message = [
        unknown.clone(),
        len(3, [9; 300]),
        tenant.clone(),
        len(2, "a"),
    ]
    .concat();
    let Ok(Scan::Alone(Reason::UnknownField, Form::Single)) = scan(&message) else {
        panic!("must go alone, as the single form")
    };
    let entry = len(1, [len(2, [9; 300]), len(1, "a")].concat());
    assert_eq!(plan().lifted(&message), [entry, unknown, tenant].concat());
    let Ok(Scan::Alone(_, form)) = scan(&[super::entry("a", "1"), num(9, 1)].concat()) else {
        panic!("must go alone")
    };
    assert_eq!(form, Form::Batch);
}
