//! What is wrong with a caller's request, or with a plan, in words.
//!
//! A [`ScanError`] is its caller's alone: it is found before the request could
//! join a batch. All of this is the cold path, so it may allocate.

use std::str::Utf8Error;

use super::{
    record::{Malformed, Wire},
    shape::{Field, Require},
};

/// Boxed, so that the answer to every check fits in registers.
pub(super) type Refusal = Box<ScanError>;

/// Why a request is refused at the door.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The bytes are not a protobuf message.
    #[error("failed to decode Protobuf message: {message}: {why}; send a whole encoded message")]
    Malformed {
        /// The type that the bytes should be, or the field that holds them.
        message: String,
        /// Where it goes wrong.
        why: Malformed,
    },
    /// A known field has another wire type than its definition.
    #[error(
        "{field}: wire type {found}: must be {expected}; compare the client's .proto with the server's"
    )]
    WireType {
        /// Path of the field, such as `sessions[2].client_id`.
        field: String,
        /// What the bytes say.
        found: Wire,
        /// What the definition says.
        expected: Wire,
    },
    /// A string is not UTF-8.
    #[error(
        "{field}: not valid UTF-8 after {valid} bytes: a string must be all of it; send the text as UTF-8"
    )]
    NotUtf8 {
        /// Path of the field.
        field: String,
        /// How many bytes at its beginning are valid.
        valid: usize,
    },
    /// A required field is absent or empty.
    #[error("{field}: is empty: must have at least 1 byte; fill it in")]
    Empty {
        /// Path of the field.
        field: String,
    },
    /// A field is absent without which the message is none.
    #[error("{field}: is missing: its .proto says required; send it")]
    Missing {
        /// Path of the field.
        field: String,
    },
    /// A value is longer than its bound.
    #[error("{field}: {len} bytes: must be at most {max}; shorten it")]
    TooLong {
        /// Path of the field.
        field: String,
        /// How long it is, in bytes.
        len: usize,
        /// The bound, in bytes.
        max: usize,
    },
    /// Neither form holds an entry.
    #[error("{message}.{field}: must have at least 1 items; add one{single}")]
    NoEntries {
        /// The request's full name.
        message: String,
        /// The batched field.
        field: String,
        /// The other way to say it, where there is one.
        single: String,
    },
    /// Entries of both forms in one message.
    #[error(
        "{message}: {batched} and {single} in one message: must be one form or the other; send two calls"
    )]
    BothForms {
        /// The request's full name.
        message: String,
        /// The batched field.
        batched: String,
        /// The single form's field.
        single: String,
    },
    /// Longer than any gRPC message can be.
    #[error(
        "{len} bytes: must be at most {max}, the most that one gRPC frame holds; send less in one call"
    )]
    TooLarge {
        /// Its length in bytes.
        len: usize,
        /// The bound in bytes.
        max: usize,
    },
}

impl ScanError {
    /// Whether the bytes are not the message that they should be, as opposed
    /// to a message whose values are not acceptable.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        match self {
            Self::Malformed { .. }
            | Self::WireType { .. }
            | Self::NotUtf8 { .. }
            | Self::Missing { .. } => true,
            Self::Empty { .. }
            | Self::TooLong { .. }
            | Self::NoEntries { .. }
            | Self::BothForms { .. }
            | Self::TooLarge { .. } => false,
        }
    }

    /// The same error, seen from the message that holds `parent`.
    #[cold]
    pub(super) fn under(mut self, parent: &str, index: Option<u32>) -> Self {
        if let Self::WireType { field, .. }
        | Self::NotUtf8 { field, .. }
        | Self::Empty { field }
        | Self::Missing { field }
        | Self::TooLong { field, .. } = &mut self
        {
            *field = match index {
                Some(index) => format!("{parent}[{index}].{field}"),
                None => format!("{parent}.{field}"),
            };
        }
        self
    }
}

#[cold]
pub(super) fn wire_type(field: &str, found: Wire, expected: Wire) -> Refusal {
    Box::new(ScanError::WireType {
        field: field.to_owned(),
        found,
        expected,
    })
}

#[cold]
pub(super) fn too_long(field: &str, len: usize, max: usize) -> Refusal {
    Box::new(ScanError::TooLong {
        field: field.to_owned(),
        len,
        max,
    })
}

#[cold]
pub(super) fn not_utf8(field: &str, error: Utf8Error) -> Refusal {
    Box::new(ScanError::NotUtf8 {
        field: field.to_owned(),
        valid: error.valid_up_to(),
    })
}

/// What is told of `lacking`, which its caller calls `field`.
#[cold]
pub(super) fn missing(lacking: &Field, field: &str) -> Refusal {
    let field = field.to_owned();
    Box::new(match lacking.require {
        Require::Present => ScanError::Missing { field },
        Require::Nothing | Require::Filled => ScanError::Empty { field },
    })
}

/// Why a reply does not fall into one part for each entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// The bytes are not a protobuf message.
    #[error("the upstream's reply is no {message}: {why}; compare its .proto with the policy's")]
    Malformed {
        /// The type that the bytes should be.
        message: String,
        /// Where it goes wrong.
        why: Malformed,
    },
    /// A field that should be a message is none.
    #[error("the upstream's reply: {field} is no message; compare its .proto with the policy's")]
    NotAMessage {
        /// The field.
        field: String,
    },
    /// There are more or fewer sub-responses than entries.
    #[error("the upstream's reply has {parts} {field}: must have {entries}, one an entry")]
    Count {
        /// The field that holds them.
        field: String,
        /// Entries that were sent.
        entries: u32,
        /// Sub-responses that came.
        parts: usize,
    },
    /// A sub-response does not hold what its caller waits for.
    #[error("the upstream's reply: {field}[{index}] has no {unwrap}: it answers something else")]
    NotWrapped {
        /// The field that holds the sub-responses.
        field: String,
        /// Which of them.
        index: usize,
        /// What it should hold.
        unwrap: String,
    },
    /// A field does not have the value that says that the batch took effect.
    #[error("the upstream's reply: {field} is {is}: must be {must} for its batch to stand")]
    NotHeld {
        /// The field.
        field: String,
        /// What it is.
        is: &'static str,
        /// What it must be.
        must: &'static str,
        /// The gRPC code that the policy gives.
        code: i32,
    },
}

/// Why a [`Shape`](super::Shape) is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// An index points past the message types.
    #[error("message type {index}: there are {len}; add it to the shape")]
    NoMessage {
        /// The index used.
        index: usize,
        /// How many types there are.
        len: usize,
    },
    /// A message type has two fields of one number.
    #[error("{message}: field number {number} stands twice; numbers are unique")]
    TwiceTheNumber {
        /// The type's name.
        message: String,
        /// The number.
        number: u32,
    },
    /// A field that is named is not there.
    #[error("{message}: there is no field number {number}")]
    NoField {
        /// The type's name.
        message: String,
        /// The number.
        number: u32,
    },
    /// The batched field is not a list of messages.
    #[error("{message}.{field}: must be a repeated message, since entries are appended to it")]
    NotBatchable {
        /// The request's name.
        message: String,
        /// The field's name.
        field: String,
    },
    /// The single form uses a number that the request uses too.
    #[error(
        "{from}.{field} and {request} share field number {number}: \
         the two forms must not, else they cannot be told apart"
    )]
    Ambiguous {
        /// The single form's name.
        from: String,
        /// The field's name there.
        field: String,
        /// The request's name.
        request: String,
        /// The number.
        number: u32,
    },
    /// More required fields than a scan keeps account of.
    #[error("{message}: {count} required fields: must be at most 64; require fewer")]
    ManyRequired {
        /// The type's name.
        message: String,
        /// How many there are.
        count: usize,
    },
    /// A request cannot be lifted into one method and wrapped for another.
    #[error("lift from {from} and a call of {request}: must be one or the other")]
    LiftAndWrap {
        /// The single form's name.
        from: String,
        /// The other method's request.
        request: String,
    },
    /// A path goes on below a field that holds no message.
    #[error("{message}.{field}: is no message, so there is no field in it")]
    NotAMessage {
        /// The type's name.
        message: String,
        /// The field's name.
        field: String,
    },
    /// What should tell entries apart may have many values in one of them.
    #[error("{message}.{field}: must be a single value that is no message")]
    NotOneValue {
        /// The type's name.
        message: String,
        /// The field's name.
        field: String,
    },
    /// Emptiness is looked at in an entry's own fields.
    #[error("{field}: only an entry's own field can keep a call alone by being empty")]
    EmptyElsewhere {
        /// The field's path.
        field: String,
    },
    /// More keys and discriminators than a scan remembers.
    #[error("keys and discriminators: must be at most {bound} fields together; name fewer")]
    ManyRemembered {
        /// The bound.
        bound: usize,
    },
}
