//! Hostile bytes through the scanner, the merger and the splitter.
//!
//! Nothing may panic, and more: what a scan lets through must be found again,
//! entry for entry, in the merged message, and a reply must fall into exactly
//! as many parts as there were pieces, or into none.

#![no_main]

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use ferry::wire::{
    Condition, Field, Fill, Form, Held, HeldIs, Is, KeyUse, Kind, Lift, LiftedField, Message,
    Parts, Piece, Plan, ReplyShape, Require, Scan, Shape, SplitShape, StatusShape, Wrap,
};
use libfuzzer_sys::fuzz_target;

static PLANS: LazyLock<[Plan; 3]> =
    LazyLock::new(|| [sessions(), puts(), offsets()].map(|shape| Plan::new(shape).expect("sound")));

fuzz_target!(|input: &[u8]| {
    let Some((&choice, input)) = input.split_first() else {
        return;
    };
    let plan = &PLANS[usize::from(choice) % PLANS.len()];
    let mut messages = pieces_of(input);
    let reply = messages.pop().unwrap_or_default();
    let scans = messages.iter().map(|message| plan.scan(message));
    let merging = |scan| match scan {
        Ok(Scan::Merge(piece)) => Some(piece),
        _ => None,
    };
    let pieces: Vec<Piece> = scans.filter_map(merging).collect();
    // Only pieces of one partition are merged.
    let Some(first) = pieces.first() else { return };
    let alike = pieces
        .iter()
        .filter(|piece| piece.partition() == first.partition());
    let alike: Vec<&Piece> = alike.collect();
    let mut merged = BytesMut::new();
    plan.merge(alike.iter().copied(), &mut merged);
    assert_eq!(merged.len(), plan.merged_len(alike.iter().copied()));
    let entries: u32 = alike.iter().map(|piece| piece.entries()).sum();
    found_again(plan, &alike, merged.freeze(), entries);
    if let Ok(Parts::Each(parts)) = plan.split(&reply, alike.iter().copied()) {
        assert_eq!(parts.len(), alike.len());
    }
});

/// The merged message holds every entry, and every byte that a piece counted.
fn found_again(plan: &Plan, pieces: &[&Piece], merged: Bytes, entries: u32) {
    if pieces.iter().any(|piece| piece.form() == Form::Whole) {
        let records = ferry::wire::records(&merged).map(|record| record.expect("it was written"));
        let numbers: Vec<u32> = records.map(|record| record.number).collect();
        assert_eq!(numbers, vec![plan.batched_field(); entries as usize]);
        return;
    }
    match plan.scan(&merged) {
        Ok(Scan::Merge(whole)) => {
            assert_eq!(whole.entries(), entries);
            assert_eq!(whole.partition(), pieces[0].partition());
        }
        // Together they may have one key twice; a window sees to that.
        Ok(Scan::Alone(reason, _)) => assert_eq!(reason.as_str(), "duplicate_key"),
        Err(error) => panic!("what was valid alone is not together: {error}"),
    }
}

/// Cuts the input into messages: a length byte each, the rest is the last.
fn pieces_of(mut input: &[u8]) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while let Some((&len, rest)) = input.split_first() {
        let (message, after) = rest.split_at(usize::from(len).min(rest.len()));
        messages.push(Bytes::copy_from_slice(message));
        input = after;
    }
    messages
}

fn field(number: u32, name: &str, kind: Kind) -> Field {
    Field {
        number,
        name: name.into(),
        kind,
        repeated: false,
        require: Require::Nothing,
        choice: None,
        max_len: None,
    }
}

fn list(field: Field) -> Field {
    Field {
        repeated: true,
        ..field
    }
}

/// Both generations on one path; keys once; a reply of the same type.
fn sessions() -> Shape {
    let mut client_id = field(1, "client_id", Kind::Text);
    (client_id.require, client_id.max_len) = (Require::Filled, Some(64));
    let entry = vec![
        client_id,
        field(2, "session", Kind::Bytes),
        field(3, "next", Kind::Message(1)),
        list(field(400, "grants", Kind::Varint)),
        list(field(5, "parts", Kind::Fixed32)),
    ];
    let request = vec![
        list(field(1, "sessions", Kind::Message(1))),
        field(7, "tenant", Kind::Text),
        field(8, "at", Kind::Fixed64),
    ];
    let lifted = |from, name: &str, to| LiftedField {
        from,
        name: name.into(),
        to,
    };
    Shape {
        messages: vec![message("Request", request), message("Entry", entry)],
        batched_field: 1,
        lift: Some(Lift {
            from: "Old".into(),
            fields: vec![lifted(2, "client_id", 1), lifted(3, "session", 2)],
        }),
        entry_key: vec![1],
        keys: KeyUse::Distinct,
        discriminators: vec![vec![1, 2]],
        reply: ReplyShape {
            split: Some(SplitShape {
                subresponse: 1,
                status: Some(status()),
                ..SplitShape::default()
            }),
            ..ReplyShape::default()
        },
        ..Shape::default()
    }
}

/// Whole requests in another method's, and a reply that is unwrapped and filled.
fn puts() -> Shape {
    let put = vec![
        field(1, "key", Kind::Bytes),
        field(2, "value", Kind::Bytes),
        field(3, "lease", Kind::Varint),
    ];
    let fill = |from, to, message| Fill {
        from,
        to,
        message,
        ..Fill::default()
    };
    Shape {
        messages: vec![message("Put", put)],
        batched_field: 2,
        wrap: Some(Wrap {
            field: Some((2, "request_put".into())),
            ..Wrap::default()
        }),
        entry_key: vec![1, 3],
        keys: KeyUse::Note,
        alone_if: vec![Condition {
            path: vec![1],
            is: Is::Empty,
        }],
        reply: ReplyShape {
            require: vec![Held {
                number: 2,
                name: "succeeded".into(),
                is: HeldIs::Flag(true),
                code: 13,
            }],
            split: Some(SplitShape {
                subresponse: 3,
                unwrap: Some((2, "response_put".into())),
                fill: vec![fill(1, 1, true), fill(4, 6, false)],
                status: Some(status()),
                ..SplitShape::default()
            }),
            ..ReplyShape::default()
        },
        ..Shape::default()
    }
}

/// Lists within entries, apart by tenant, alone by a field at the bottom.
fn offsets() -> Shape {
    let offset = vec![
        field(3, "offset", Kind::Varint),
        field(6, "expected", Kind::Varint),
        field(9, "group", Kind::Group),
    ];
    let entry = vec![
        field(1, "group", Kind::Text),
        list(field(2, "offsets", Kind::Message(2))),
        field(3, "tenant", Kind::Text),
    ];
    let request = vec![
        list(field(2, "offsets", Kind::Message(1))),
        field(9, "sample", Kind::Message(1)),
    ];
    Shape {
        messages: vec![
            message("Save", request),
            message("Entry", entry),
            message("Offset", offset),
        ],
        batched_field: 2,
        discriminators: vec![vec![2, 3]],
        alone_if: vec![Condition {
            path: vec![2, 2, 6],
            is: Is::Present,
        }],
        ..Shape::default()
    }
}

fn message(name: &str, fields: Vec<Field>) -> Message {
    Message {
        name: name.into(),
        fields,
    }
}

fn status() -> StatusShape {
    StatusShape {
        field: 9,
        code: 1,
        message: 2,
        details: Some(3),
    }
}
