//! The rules of scan and merge, one promise a test, on hand-encoded bytes.

mod forms;
mod hazards;
mod merging;
#[cfg(feature = "full")]
mod reference;
#[cfg(feature = "full")]
mod reference_forms;
mod sharding;
mod splitting;

use bytes::{Bytes, BytesMut};

use super::*;

/// Encodes `value` as a varint of at least `width` bytes.
fn varint(mut value: u64, width: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let more = value >= 0x80 || bytes.len() + 1 < width;
        bytes.push(value as u8 & 0x7f | if more { 0x80 } else { 0 });
        value >>= 7;
        if !more {
            return bytes;
        }
    }
}

/// A length-delimited record.
fn len(number: u32, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [
        varint(u64::from(number) << 3 | 2, 1),
        varint(value.len() as u64, 1),
        value.to_vec(),
    ]
    .concat()
}

/// A varint record.
fn num(number: u32, value: u64) -> Vec<u8> {
    [varint(u64::from(number) << 3, 1), varint(value, 1)].concat()
}

/// An entry in the batch form.
fn entry(client_id: impl AsRef<[u8]>, session: impl AsRef<[u8]>) -> Vec<u8> {
    len(1, [len(1, client_id), len(2, session)].concat())
}

/// An entry in the single form.
fn single(client_id: impl AsRef<[u8]>, session: impl AsRef<[u8]>) -> Vec<u8> {
    [len(2, client_id), len(3, session)].concat()
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

/// CreateSession, with two made-up top-level fields besides the entries.
fn shape() -> Shape {
    let entry = Message {
        name: "test.Entry".into(),
        fields: vec![
            Field {
                require: Require::Filled,
                max_len: Some(64),
                ..field(1, "client_id", Kind::Text)
            },
            Field {
                require: Require::Filled,
                ..field(2, "session", Kind::Bytes)
            },
            field(3, "will", Kind::Message(2)),
            Field {
                repeated: true,
                ..field(400, "grants", Kind::Varint)
            },
        ],
    };
    let will = Message {
        name: "test.Will".into(),
        fields: vec![
            field(1, "topic", Kind::Text),
            field(2, "next", Kind::Message(2)),
        ],
    };
    let request = Message {
        name: "test.Request".into(),
        fields: vec![
            Field {
                repeated: true,
                ..field(1, "sessions", Kind::Message(1))
            },
            field(7, "tenant", Kind::Text),
            Field {
                repeated: true,
                ..field(8, "labels", Kind::Text)
            },
        ],
    };
    let lifted = |from, name: &str, to| LiftedField {
        from,
        name: name.into(),
        to,
    };
    Shape {
        messages: vec![request, entry, will],
        request: 0,
        batched_field: 1,
        lift: Some(Lift {
            from: "test.Old".into(),
            fields: vec![lifted(2, "client_id", 1), lifted(3, "session", 2)],
        }),
        entry_key: vec![1],
        ..Shape::default()
    }
}

fn plan() -> Plan {
    Plan::new(shape()).expect("the shape is sound")
}

fn scan(message: &[u8]) -> Result<Scan, ScanError> {
    plan().scan(&Bytes::copy_from_slice(message))
}

fn piece(message: impl AsRef<[u8]>) -> Piece {
    match scan(message.as_ref()) {
        Ok(Scan::Merge(piece)) => piece,
        other => panic!("must merge: {other:?}"),
    }
}

fn alone(message: &[u8]) -> Reason {
    match scan(message) {
        Ok(Scan::Alone(reason, _)) => reason,
        other => panic!("must go alone: {other:?}"),
    }
}

fn refusal(message: impl AsRef<[u8]>) -> String {
    scan(message.as_ref())
        .expect_err("must be refused")
        .to_string()
}

fn merge(pieces: &[Piece]) -> Vec<u8> {
    let mut out = BytesMut::new();
    plan().merge(pieces, &mut out);
    assert_eq!(
        out.len(),
        plan().merged_len(pieces),
        "the length is known before"
    );
    out.to_vec()
}
