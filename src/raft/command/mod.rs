//! What a log entry asks of the state machine, as the bytes that arrived.
//!
//! A command is two bytes of header, then the protobuf message of the call
//! *unchanged*: what the sidecar merged is what the log stores and what apply
//! slices keys and values out of. Nothing is decoded into structs and nothing
//! is copied on the way, which is most of what a small write costs.
//!
//! A message that does not parse is not an error of the group: every replica
//! finds the same fault in the same bytes, answers it the same way and applies
//! nothing of it. A header that this version does not know is: to pass over a
//! write that a newer version applies would part the replicas for good.

mod change;
mod field;
mod kind;

#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use change::{Change, OffsetRecord};
pub use kind::Kind;

/// The format of the header; raised when its meaning changes.
const VERSION: u8 = 1;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 2;

/// The longest client id, path, name or key that is accepted, in bytes: MQTT's
/// own bound, whose strings carry a 16-bit length.
pub const NAME_MAX: usize = 65_535;

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
    /// An offset that it expected was another; nothing of it took effect.
    Conflict,
}

/// Why a command cannot be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Its message does not parse.
    #[error("the command does not parse: its message is not one of its kind")]
    Malformed,
    /// Its header is none that this version knows.
    #[error(
        "a command of version {version} and kind {kind}: this version of ferry knows version \
         {VERSION}, kinds 1 to {kinds}; start the newer one that wrote it", kinds = Kind::ALL.len()
    )]
    Foreign {
        /// The version in its header.
        version: u8,
        /// The kind in its header.
        kind: u8,
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

    /// What the command does.
    ///
    /// # Errors
    /// If its header is none that this version knows.
    pub fn kind(&self) -> Result<Kind, CommandError> {
        Ok(kind::parse(&self.0)?.0)
    }

    /// Calls `visit` for each change in the order in which the message has
    /// them.
    ///
    /// # Errors
    /// If the bytes do not parse, or their header is not known. Changes before
    /// the fault have been visited then; the caller must discard them.
    pub fn changes<'a>(&'a self, visit: impl FnMut(Change<'a>)) -> Result<(), CommandError> {
        let (kind, message) = kind::parse(&self.0)?;
        change::visit(kind, message, visit)
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
