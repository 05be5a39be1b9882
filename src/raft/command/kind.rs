//! The writes that a group can apply: the one table of their paths and numbers.

use super::{CommandError, VERSION};

/// What a command does; the second byte of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `CreateSessionRequest` in its batch form.
    CreateSession = 1,
    /// `DeleteSessionRequest`; the only kind whose single form is in logs too.
    DeleteSession = 2,
    /// `SetSubscribeRequest` in its batch form.
    SetSubscribe = 3,
    /// `DeleteSubscribeRequest` in its batch form.
    DeleteSubscribe = 4,
    /// `SaveOffsetDataRequest`.
    SaveOffsetData = 5,
    /// `SetRequest` in its batch form.
    Set = 6,
    /// `DeleteRequest` in its batch form.
    Delete = 7,
}

/// The reply of a write that says nothing but that it was done.
const EMPTY: &[u8] = b"";
/// `SaveOffsetDataReply` with `committed` (field 1) true.
const COMMITTED: &[u8] = b"\x08\x01";

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::CreateSession,
        Self::DeleteSession,
        Self::SetSubscribe,
        Self::DeleteSubscribe,
        Self::SaveOffsetData,
        Self::Set,
        Self::Delete,
    ];

    /// The method whose request this kind is: `package.Service/Method`.
    #[must_use]
    pub const fn selector(self) -> &'static str {
        match self {
            Self::CreateSession => "meta.service.mqtt.MqttService/CreateSession",
            Self::DeleteSession => "meta.service.mqtt.MqttService/DeleteSession",
            Self::SetSubscribe => "meta.service.mqtt.MqttService/SetSubscribe",
            Self::DeleteSubscribe => "meta.service.mqtt.MqttService/DeleteSubscribe",
            Self::SaveOffsetData => "meta.service.common.MetaServiceService/SaveOffsetData",
            Self::Set => "meta.service.common.MetaServiceService/Set",
            Self::Delete => "meta.service.common.MetaServiceService/Delete",
        }
    }

    /// The kind of the method that `selector` names, if a group has that write.
    #[must_use]
    pub fn of_selector(selector: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.selector() == selector)
    }

    /// Number of the request's field that holds its entries.
    #[must_use]
    pub const fn batched_field(self) -> u32 {
        match self {
            Self::CreateSession => 1,
            Self::SaveOffsetData => 2,
            Self::DeleteSession
            | Self::SetSubscribe
            | Self::DeleteSubscribe
            | Self::Set
            | Self::Delete => 1_000,
        }
    }

    /// Numbers of the entry's fields that decide its Raft group, in the order in
    /// which they are hashed. They are the node's, not a policy's: whoever reads
    /// or deletes must find the same group.
    #[must_use]
    pub const fn group_key(self) -> &'static [u32] {
        match self {
            // A client's sessions and subscriptions lie together.
            Self::CreateSession
            | Self::SetSubscribe
            | Self::DeleteSubscribe
            | Self::Set
            | Self::Delete => &[1],
            Self::DeleteSession => &[2],
            // Tenant, then consumer group.
            Self::SaveOffsetData => &[3, 1],
        }
    }

    /// The field, by numbers from the request down, whose presence makes a
    /// write conditional: it is judged as a whole, so it shares a command with
    /// no other call.
    #[must_use]
    pub const fn condition(self) -> Option<[u32; 3]> {
        match self {
            Self::SaveOffsetData => Some([2, 2, 6]),
            _ => None,
        }
    }

    /// The message that answers a command of this kind that was applied, the
    /// same for each of its callers.
    #[must_use]
    pub const fn reply(self) -> &'static [u8] {
        match self {
            Self::SaveOffsetData => COMMITTED,
            _ => EMPTY,
        }
    }
}

/// The kind that a command's header names, and the message behind it.
pub(super) fn parse(encoded: &[u8]) -> Result<(Kind, &[u8]), CommandError> {
    let [version, kind, message @ ..] = encoded else {
        return Err(CommandError::Malformed);
    };
    let known = Kind::ALL.into_iter().find(|known| *known as u8 == *kind);
    match known {
        Some(known) if *version == VERSION => Ok((known, message)),
        _ => Err(CommandError::Foreign {
            version: *version,
            kind: *kind,
        }),
    }
}
