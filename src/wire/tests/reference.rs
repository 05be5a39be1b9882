//! Scan and merge held against prost, which decodes and encodes for real.

use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::proto::mqtt::{CreateSessionRaw, CreateSessionRequest, OldCreateSession};

/// CreateSession with nothing required, so that prost and the plan agree on
/// what is acceptable: whatever decodes.
fn create_session() -> Plan {
    let mut shape = shape();
    shape.messages.truncate(2);
    shape.messages[0].fields.truncate(1);
    shape.messages[1].fields.truncate(2);
    for field in &mut shape.messages[1].fields {
        field.require = Require::Nothing;
        field.max_len = None;
    }
    Plan::new(shape).expect("the shape is sound")
}

/// A record encoded in any way that is legal: padded tags and lengths too.
pub(super) fn record(number: u32, value: &[u8], widths: (usize, usize)) -> Vec<u8> {
    let tag = varint(u64::from(number) << 3 | 2, widths.0);
    [tag, varint(value.len() as u64, widths.1), value.to_vec()].concat()
}

pub(super) fn widths() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![4 => Just((1, 1)), 1 => (1..=5_usize, 1..=5_usize)]
}

/// Some records of a client id (`id`) and a session (`id + 1`), in any order
/// and number, at least one.
fn session(id: u32) -> impl Strategy<Value = Vec<u8>> {
    let client_id = ("\\PC{0,40}", widths()).prop_map(move |(v, w)| record(id, v.as_bytes(), w));
    let state = (prop::collection::vec(any::<u8>(), 0..300), widths())
        .prop_map(move |(v, w)| record(id + 1, &v, w));
    prop::collection::vec(prop_oneof![client_id, state], 1..4).prop_map(|records| records.concat())
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let entries = prop::collection::vec((session(1), widths()), 1..6);
    prop_oneof![
        session(2),
        entries.prop_map(|entries| {
            entries
                .iter()
                .flat_map(|(entry, widths)| record(1, entry, *widths))
                .collect()
        }),
    ]
}

/// Valid requests with a few bytes changed, cut off or put in, and pure noise.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    hostile_edits(request())
}

/// The same for messages of any kind.
pub(super) fn hostile_edits(
    valid: impl Strategy<Value = Vec<u8>>,
) -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..4);
    let mutated = (valid, edits).prop_map(|(mut bytes, edits)| {
        for (at, byte, how) in edits {
            match how {
                _ if bytes.is_empty() => bytes.push(byte),
                0 => {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
                1 => bytes.truncate(at.index(bytes.len())),
                _ => bytes.insert(at.index(bytes.len()), byte),
            }
        }
        bytes
    });
    let tags = prop::collection::vec(prop_oneof![0..0x30_u8, any::<u8>()], 0..60);
    prop_oneof![3 => mutated, 1 => prop::collection::vec(any::<u8>(), 0..80), 1 => tags]
}

/// Whether a number in these bytes is so long that as a tag or a length some
/// decoders do not take it: prost does.
pub(super) fn has_long_number(bytes: &[u8]) -> bool {
    let goes_on = |byte: &u8| *byte >= 0x80;
    bytes.windows(5).any(|number| number.iter().all(goes_on))
}

/// Whether a message was refused for such a number.
pub(super) fn is_long(error: &ScanError) -> bool {
    let why = match error {
        ScanError::Malformed { why, .. } => Some(why),
        _ => None,
    };
    matches!(why, Some(Malformed::Prefix { .. }))
}

/// What a server that knows both forms would take these bytes for.
fn decoded(bytes: &[u8]) -> Option<Vec<CreateSessionRaw>> {
    let batch = CreateSessionRequest::decode(bytes).ok()?;
    let old = OldCreateSession::decode(bytes).ok()?;
    if batch.sessions.is_empty() {
        let OldCreateSession { client_id, session } = old;
        return Some(vec![CreateSessionRaw { client_id, session }]);
    }
    Some(batch.sessions)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_merged_message_decodes_to_all_entries_in_order(
        requests in prop::collection::vec(request(), 1..12),
    ) {
        let plan = create_session();
        let mut expected = Vec::new();
        let mut pieces = Vec::new();
        for request in requests {
            let entries = decoded(&request).expect("what the strategy makes is valid");
            match plan.scan(&Bytes::from(request)) {
                Ok(Scan::Merge(piece)) => {
                    prop_assert_eq!(piece.entries() as usize, entries.len());
                    pieces.push(piece);
                }
                other => prop_assert!(false, "must merge: {:?}", other),
            }
            expected.extend(entries);
        }
        let mut out = BytesMut::new();
        plan.merge(&pieces, &mut out);
        prop_assert_eq!(out.len(), plan.merged_len(&pieces));
        let merged = CreateSessionRequest::decode(out.freeze()).expect("merged bytes decode");
        prop_assert_eq!(merged.sessions, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn hostile_bytes_are_judged_as_prost_judges_them(bytes in hostile()) {
        let plan = create_session();
        let (truth, long) = (decoded(&bytes), has_long_number(&bytes));
        match plan.scan(&Bytes::from(bytes)) {
            Ok(Scan::Merge(piece)) => {
                let mut out = BytesMut::new();
                plan.merge([&piece], &mut out);
                let merged = CreateSessionRequest::decode(out.freeze()).ok().map(|m| m.sessions);
                prop_assert_eq!(merged, truth);
            }
            Ok(Scan::Alone(..)) => prop_assert!(truth.is_some()),
            Err(error) if is_long(&error) => prop_assert!(long, "{}", error),
            Err(error) => prop_assert_eq!(error.is_malformed(), truth.is_none(), "{}", error),
        }
    }
}
