//! What a command is read as, held against what prost makes of the same bytes.

use prost::Message as _;

use super::*;
use crate::proto::{
    meta::{
        DeleteRaw, DeleteRequest, SaveOffsetData, SaveOffsetDataRequest,
        SaveOffsetDataRequestOffset, SetRaw, SetRequest,
    },
    mqtt::{
        CreateSessionRaw, CreateSessionRequest, DeleteSessionRaw, DeleteSessionRequest,
        DeleteSubscribeRaw, DeleteSubscribeRequest, SetSubscribeRaw, SetSubscribeRequest,
    },
};

fn command(kind: Kind, message: &[u8]) -> Command {
    Command::from_encoded([&Command::header(kind)[..], message].concat().into())
}

fn visited(command: &Command) -> Result<Vec<Change<'_>>, CommandError> {
    let mut changes = Vec::new();
    command.changes(|change| changes.push(change))?;
    Ok(changes)
}

fn put<'a>(client_id: &'a str, session: &'a str) -> Change<'a> {
    Change::PutSession {
        client_id: client_id.as_bytes(),
        session: session.as_bytes(),
    }
}

fn create(sessions: &[(&str, &str)]) -> Vec<u8> {
    CreateSessionRequest {
        sessions: sessions
            .iter()
            .map(|&(client_id, session)| CreateSessionRaw {
                client_id: client_id.into(),
                session: Bytes::copy_from_slice(session.as_bytes()),
            })
            .collect(),
    }
    .encode_to_vec()
}

#[test]
fn a_batch_yields_its_sessions_in_order_and_in_place() {
    let command = command(
        Kind::CreateSession,
        &create(&[("a", "1"), ("b", "2"), ("a", "3")]),
    );
    let changes = visited(&command).unwrap();
    assert_eq!(changes, [put("a", "1"), put("b", "2"), put("a", "3")]);
    let whole = command.encoded().as_ptr_range();
    for change in changes {
        let Change::PutSession { session, .. } = change else {
            unreachable!()
        };
        assert!(whole.contains(&session.as_ptr()), "the session was copied");
    }
}

#[test]
fn a_delete_names_its_client_whatever_its_tenant() {
    let message = DeleteSessionRequest {
        tenant: "t".into(),
        client_id: "c".into(),
        sessions: Vec::new(),
    };
    let command = command(Kind::DeleteSession, &message.encode_to_vec());
    assert_eq!(
        visited(&command),
        Ok(vec![Change::DeleteSession { client_id: b"c" }])
    );
}

#[test]
fn the_last_of_a_duplicated_field_wins_and_unknown_fields_are_skipped() {
    // client_id twice, session once, then unknown varint, fixed64, fixed32
    // and bytes fields.
    let raw = [
        &b"\x0a\x01x\x12\x01s\x0a\x01y"[..],
        b"\x18\x96\x01",
        b"\x21\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x2d\x00\x00\x00\x00",
        b"\x32\x02zz",
    ]
    .concat();
    let message = [&[0x0a, raw.len() as u8][..], &raw, b"\x10\x07"].concat();
    assert_eq!(
        visited(&command(Kind::CreateSession, &message)),
        Ok(vec![put("y", "s")])
    );
}

#[test]
fn every_truncation_is_malformed_or_a_whole_prefix_and_none_panics() {
    let message = create(&[("first", "one"), ("second", "two")]);
    let boundary = create(&[("first", "one")]).len();
    for len in 0..message.len() {
        let command = command(Kind::CreateSession, &message[..len]);
        let whole = len == 0 || len == boundary;
        assert_eq!(visited(&command).is_ok(), whole, "cut at {len}");
    }
}

#[test]
fn what_is_no_command_is_malformed() {
    for encoded in [
        &b""[..],
        b"\x01",
        b"\x01\x01\x08\x01", // sessions is not a varint
        b"\x01\x01\x0b\x0c", // a group
        b"\x01\x01\x02\x00", // field number 0
        b"\x01\x01\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // a length past the end
        b"\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // a varint of 11 bytes
        b"\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", // a varint of 65 bits
    ] {
        let command = Command::from_encoded(Bytes::copy_from_slice(encoded));
        assert_eq!(
            visited(&command),
            Err(CommandError::Malformed),
            "{encoded:?}"
        );
    }
}

#[test]
fn a_header_from_the_future_is_told_apart_from_a_message_that_does_not_parse() {
    for (encoded, version, kind) in [(&b"\x02\x01"[..], 2, 1), (b"\x01\x08\x0a", 1, 8)] {
        let command = Command::from_encoded(Bytes::copy_from_slice(encoded));
        let foreign = CommandError::Foreign { version, kind };
        assert_eq!(visited(&command), Err(foreign));
        assert!(foreign.to_string().contains("start the newer one"));
    }
}

#[test]
fn every_kind_has_a_number_and_a_method_of_its_own() {
    for kind in Kind::ALL {
        assert_eq!(command(kind, b"").kind(), Ok(kind));
        assert_eq!(Kind::of_selector(kind.selector()), Some(kind));
    }
    assert_eq!(
        Kind::of_selector("meta.service.mqtt.MqttService/ListSession"),
        None
    );
}

#[test]
fn what_logs_hold_from_before_the_batch_form_is_read_as_ever() {
    let delete = Command::from_encoded(Bytes::from_static(b"\x01\x02\x0a\x01t\x12\x01c"));
    assert_eq!(
        visited(&delete),
        Ok(vec![Change::DeleteSession { client_id: b"c" }])
    );
    let create = Command::from_encoded(Bytes::from_static(b"\x01\x01\x0a\x06\x0a\x01x\x12\x01y"));
    assert_eq!(visited(&create), Ok(vec![put("x", "y")]));
}

#[test]
fn a_group_s_name_counts_wherever_it_stands_among_its_offsets() {
    // offsets, then tenant, then group; and inside, the number before the name.
    let record = b"\x18\x07\x12\x01s";
    let entry = [
        &[0x12, record.len() as u8][..],
        record,
        b"\x1a\x01t\x0a\x01g",
    ]
    .concat();
    let message = [&[0x12, entry.len() as u8][..], &entry].concat();
    let record = OffsetRecord {
        shard_name: b"s",
        offset: 7,
        ..OffsetRecord::default()
    };
    let (tenant, group) = (&b"t"[..], &b"g"[..]);
    assert_eq!(
        visited(&command(Kind::SaveOffsetData, &message)),
        Ok(vec![Change::SaveOffset {
            tenant,
            group,
            record
        }])
    );
}

/// What prost makes of a message of `kind`, as the changes that it asks for;
/// `None` where it does not read it.
fn reference(kind: Kind, message: &[u8]) -> Option<Vec<Owned>> {
    Some(match kind {
        Kind::CreateSession => CreateSessionRequest::decode(message)
            .ok()?
            .sessions
            .into_iter()
            .map(|CreateSessionRaw { client_id, session }| {
                Owned::of([client_id.as_bytes(), &session])
            })
            .collect(),
        Kind::DeleteSession => {
            let DeleteSessionRequest {
                client_id,
                sessions,
                ..
            } = DeleteSessionRequest::decode(message).ok()?;
            let single = (!client_id.is_empty()).then_some(client_id);
            let batch = sessions
                .into_iter()
                .map(|DeleteSessionRaw { client_id, .. }| client_id);
            let all = single.into_iter().chain(batch);
            all.map(|client_id| Owned::of([client_id.as_bytes()]))
                .collect()
        }
        Kind::SetSubscribe => SetSubscribeRequest::decode(message)
            .ok()?
            .subscriptions
            .iter()
            .map(|raw: &SetSubscribeRaw| {
                Owned::of([
                    raw.client_id.as_bytes(),
                    raw.path.as_bytes(),
                    &raw.subscribe,
                ])
            })
            .collect(),
        Kind::DeleteSubscribe => DeleteSubscribeRequest::decode(message)
            .ok()?
            .subscriptions
            .iter()
            .map(|raw: &DeleteSubscribeRaw| {
                Owned::of([raw.client_id.as_bytes(), raw.path.as_bytes()])
            })
            .collect(),
        Kind::SaveOffsetData => SaveOffsetDataRequest::decode(message)
            .ok()?
            .offsets
            .iter()
            .flat_map(|of: &SaveOffsetData| {
                of.offsets
                    .iter()
                    .map(|record: &SaveOffsetDataRequestOffset| Owned {
                        texts: [&of.tenant, &of.group, &record.shard_name, &record.topic]
                            .map(|text| text.as_bytes().to_vec())
                            .to_vec(),
                        numbers: Some((record.partition, record.offset, record.expected_offset)),
                    })
            })
            .collect(),
        Kind::Set => SetRequest::decode(message)
            .ok()?
            .entries
            .iter()
            .map(|SetRaw { key, value }| Owned::of([key.as_bytes(), value.as_bytes()]))
            .collect(),
        Kind::Delete => DeleteRequest::decode(message)
            .ok()?
            .entries
            .iter()
            .map(|DeleteRaw { key }| Owned::of([key.as_bytes()]))
            .collect(),
    })
}

/// A change's own copy of what it says.
#[derive(Debug, PartialEq)]
struct Owned {
    texts: Vec<Vec<u8>>,
    numbers: Option<(u32, u64, Option<u64>)>,
}

impl Owned {
    fn of<const N: usize>(texts: [&[u8]; N]) -> Self {
        Self {
            texts: texts.map(<[u8]>::to_vec).to_vec(),
            numbers: None,
        }
    }

    fn from_change(change: &Change<'_>) -> Self {
        match *change {
            Change::PutSession { client_id, session } => Self::of([client_id, session]),
            Change::DeleteSession { client_id } => Self::of([client_id]),
            Change::PutSubscription {
                client_id,
                path,
                subscribe,
            } => Self::of([client_id, path, subscribe]),
            Change::DeleteSubscription { client_id, path } => Self::of([client_id, path]),
            Change::SaveOffset {
                tenant,
                group,
                record: r,
            } => Self {
                numbers: Some((r.partition, r.offset, r.expected)),
                ..Self::of([tenant, group, r.shard_name, r.topic])
            },
            Change::PutValue { key, value } => Self::of([key, value]),
            Change::DeleteValue { key } => Self::of([key]),
        }
    }
}

/// Bytes that are protobuf more often than noise is: small fields of small
/// numbers, some in others, the batch form's among them.
fn hostile() -> impl proptest::strategy::Strategy<Value = Vec<u8>> {
    use proptest::prelude::*;
    let noise = prop::collection::vec(any::<u8>(), 0..24);
    let tag = prop_oneof![
        Just(vec![0xc2, 0x3e]), // number 1000, length-delimited
        (
            1u8..7,
            prop_oneof![Just(0u8), Just(2), Just(2), Just(5), Just(1), Just(3)]
        )
            .prop_map(|(number, wire)| vec![number << 3 | wire]),
    ];
    noise.prop_recursive(3, 32, 4, move |inside| {
        let field = (tag.clone(), inside).prop_map(|(tag, content)| {
            let mut field = tag;
            if field.last().is_some_and(|tag| tag & 7 == 2) {
                field.push(content.len() as u8 & 0x7f);
            }
            field.extend_from_slice(&content);
            field
        });
        prop::collection::vec(field, 0..4).prop_map(|fields| fields.concat())
    })
}

proptest::proptest! {
    #[test]
    fn the_slices_agree_with_prost_on_whatever_prost_reads(
        kind in proptest::sample::select(&Kind::ALL[..]),
        message in hostile(),
    ) {
        let command = command(kind, &message);
        let sliced = visited(&command);
        if let Some(expected) = reference(kind, &message) {
            match sliced {
                Ok(changes) => {
                    let changes: Vec<_> = changes.iter().map(Owned::from_change).collect();
                    proptest::prop_assert_eq!(changes, expected);
                }
                // Only groups part the two.
                Err(_) => proptest::prop_assert!(message.iter().any(|byte| byte & 7 == 3)),
            }
        }
    }

    #[test]
    fn what_prost_writes_is_read_back(
        sessions in proptest::collection::vec((".{0,20}", ".{0,200}"), 0..20),
    ) {
        let pairs: Vec<_> = sessions.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let command = command(Kind::CreateSession, &create(&pairs));
        let expected: Vec<_> = pairs.iter().map(|(a, b)| put(a, b)).collect();
        proptest::prop_assert_eq!(visited(&command), Ok(expected));
    }
}
