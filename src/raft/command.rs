//! What a log entry asks of the state machine, as the bytes that arrived.
//!
//! A command is two bytes of header, then the protobuf message of the call
//! *unchanged*: what the sidecar merged is what the log stores and what apply
//! slices keys and values out of. Nothing is decoded into structs and nothing
//! is copied on the way, which is most of what a small write costs.
//!
//! A command that does not parse is not an error of the group: every replica
//! finds the same fault in the same bytes, answers it the same way and applies
//! nothing of it.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The format of the header; raised when its meaning changes.
const VERSION: u8 = 1;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 2;

/// The longest client id that is accepted, in bytes: MQTT's own bound, whose
/// strings carry a 16-bit length.
pub const CLIENT_ID_MAX: usize = 65_535;

/// What a command does; the second byte of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `CreateSessionRequest` in its batch form.
    CreateSession = 1,
    /// `DeleteSessionRequest`.
    DeleteSession = 2,
}

/// One encoded command: header, then the message's bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Command(Bytes);

/// What applying a command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// It took effect.
    Done,
    /// It does not parse; nothing of it took effect, here or on any replica.
    Malformed,
}

/// The command's bytes break the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the command does not parse: it is no message of a kind this version knows")]
pub struct Malformed;

/// One change to the table of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// Store this session, in place of any earlier one.
    Put {
        /// The session's key.
        client_id: &'a [u8],
        /// The session, opaque here.
        session: &'a [u8],
    },
    /// Forget the session, if there is one.
    Delete {
        /// The session's key.
        client_id: &'a [u8],
    },
}

impl Command {
    /// The bytes to write in front of the message, so that a batch can be
    /// merged behind them in one buffer and never moved again.
    #[must_use]
    pub const fn header(kind: Kind) -> [u8; HEADER_LEN] {
        [VERSION, kind as u8]
    }

    /// Wraps bytes that begin with [`Command::header`]. They are not checked
    /// here: apply answers what does not parse.
    #[must_use]
    pub const fn from_encoded(encoded: Bytes) -> Self {
        Self(encoded)
    }

    /// The header and the message.
    #[must_use]
    pub const fn encoded(&self) -> &Bytes {
        &self.0
    }

    /// Calls `visit` for each change in the order in which the message has
    /// them.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes do not parse. Changes before the fault have
    /// been visited then; the caller must discard them.
    pub fn changes<'a>(&'a self, mut visit: impl FnMut(Change<'a>)) -> Result<(), Malformed> {
        let [VERSION, kind, message @ ..] = self.0.as_ref() else {
            return Err(Malformed);
        };
        if *kind == Kind::CreateSession as u8 {
            let mut rest = message;
            while let Some((number, value)) = next_field(&mut rest)? {
                if number == 1 {
                    let (client_id, session) = two_fields(value.bytes()?, 1, 2)?;
                    visit(Change::Put { client_id, session });
                }
            }
            Ok(())
        } else if *kind == Kind::DeleteSession as u8 {
            let (_tenant, client_id) = two_fields(message, 1, 2)?;
            visit(Change::Delete { client_id });
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({} bytes)", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Vec::<u8>::deserialize(deserializer)?.into()))
    }
}

/// A field's content; only length-delimited ones matter here.
enum Value<'a> {
    Bytes(&'a [u8]),
    Scalar,
}

impl<'a> Value<'a> {
    const fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Scalar => Err(Malformed),
        }
    }
}

/// The last value of each of two length-delimited fields, empty where absent,
/// as proto3 reads them. Other fields are skipped.
fn two_fields(message: &[u8], first: u32, second: u32) -> Result<(&[u8], &[u8]), Malformed> {
    let (mut a, mut b): (&[u8], &[u8]) = (&[], &[]);
    let mut rest = message;
    while let Some((number, value)) = next_field(&mut rest)? {
        if number == first {
            a = value.bytes()?;
        } else if number == second {
            b = value.bytes()?;
        }
    }
    Ok((a, b))
}

/// Takes one field off the front of `rest`; `None` at the end.
///
/// Groups are refused: proto3 never writes them, and skipping one would need a
/// stack that hostile bytes could deepen.
fn next_field<'a>(rest: &mut &'a [u8]) -> Result<Option<(u32, Value<'a>)>, Malformed> {
    if rest.is_empty() {
        return Ok(None);
    }
    let tag = u32::try_from(varint(rest)?).map_err(|_| Malformed)?;
    let number = tag >> 3;
    if number == 0 {
        return Err(Malformed);
    }
    let value = match tag & 7 {
        0 => {
            varint(rest)?;
            Value::Scalar
        }
        1 => {
            take(rest, 8)?;
            Value::Scalar
        }
        2 => {
            let len = usize::try_from(varint(rest)?).map_err(|_| Malformed)?;
            Value::Bytes(take(rest, len)?)
        }
        5 => {
            take(rest, 4)?;
            Value::Scalar
        }
        _ => return Err(Malformed),
    };
    Ok(Some((number, value)))
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Malformed> {
    let (taken, left) = rest.split_at_checked(len).ok_or(Malformed)?;
    *rest = left;
    Ok(taken)
}

fn varint(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0u64;
    for (place, &byte) in rest.iter().enumerate().take(10) {
        // The tenth byte has room for one bit of the 64.
        if place == 9 && byte > 1 {
            return Err(Malformed);
        }
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            *rest = &rest[place + 1..];
            return Ok(value);
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::mqtt::{CreateSessionRaw, CreateSessionRequest, DeleteSessionRequest};

    fn command(kind: Kind, message: &[u8]) -> Command {
        Command::from_encoded([&Command::header(kind)[..], message].concat().into())
    }

    fn visited(command: &Command) -> Result<Vec<Change<'_>>, Malformed> {
        let mut changes = Vec::new();
        command.changes(|change| changes.push(change))?;
        Ok(changes)
    }

    fn put<'a>(client_id: &'a str, session: &'a str) -> Change<'a> {
        Change::Put {
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
            let Change::Put { session, .. } = change else {
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
        };
        let command = command(Kind::DeleteSession, &message.encode_to_vec());
        assert_eq!(
            visited(&command),
            Ok(vec![Change::Delete { client_id: b"c" }])
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
            b"\x02\x01",         // a version from the future
            b"\x01\x09",         // a kind from the future
            b"\x01\x01\x08\x01", // sessions is not a varint
            b"\x01\x01\x0b\x0c", // a group
            b"\x01\x01\x02\x00", // field number 0
            b"\x01\x01\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // a length past the end
            b"\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // a varint of 11 bytes
            b"\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", // a varint of 65 bits
        ] {
            let command = Command::from_encoded(Bytes::copy_from_slice(encoded));
            assert_eq!(visited(&command), Err(Malformed), "{encoded:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_scan_agrees_with_prost_on_whatever_prost_reads(
            message in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
        ) {
            if let Ok(decoded) = CreateSessionRequest::decode(&message[..]) {
                let command = command(Kind::CreateSession, &message);
                if let Ok(changes) = visited(&command) {
                    let expected: Vec<_> = decoded
                        .sessions
                        .iter()
                        .map(|raw| Change::Put {
                            client_id: raw.client_id.as_bytes(),
                            session: &raw.session,
                        })
                        .collect();
                    proptest::prop_assert_eq!(changes, expected);
                } else {
                    // Only groups part the two.
                    proptest::prop_assert!(message.iter().any(|byte| byte & 7 == 3));
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
}
