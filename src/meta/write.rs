//! What the writes of all families have in common: two forms, checks that name
//! the field at fault, and a command that holds the batch form.

use bytes::{BufMut as _, BytesMut};
use prost::Message;
use tonic::Status;

use crate::raft::command::{Command, HEADER_LEN, Kind, NAME_MAX};

/// A write's request.
pub(super) trait Write: Message + Sized {
    /// One entry.
    type Raw: Send;
    /// What it is in the log.
    const KIND: Kind;
    /// The name of the field that holds entries.
    const BATCHED: &'static str;

    /// The single form's entry if there is any of it, and the batch form's.
    fn forms(self) -> (Option<Self::Raw>, Vec<Self::Raw>);

    /// The batch form.
    fn of(raws: Vec<Self::Raw>) -> Self;

    /// What is wrong with an entry, with the field in front.
    fn check(raw: &Self::Raw) -> Result<(), String>;

    /// The fields that decide the entry's group, in the order in which
    /// [`Kind::group_key`] has them.
    fn key(raw: &Self::Raw) -> Vec<&[u8]>;

    /// Whether the entry takes effect only if all of its call's do.
    fn is_conditional(_raw: &Self::Raw) -> bool {
        false
    }
}

/// The entries of a request, each of which may be proposed.
pub(super) fn checked<W: Write>(request: W) -> Result<Vec<W::Raw>, Status> {
    let batched = W::BATCHED;
    match request.forms() {
        (None, raws) if raws.is_empty() => Err(Status::invalid_argument(format!(
            "{batched}: 0 are given; at least 1 must be"
        ))),
        (None, raws) => {
            for (place, raw) in raws.iter().enumerate() {
                W::check(raw).map_err(|fault| {
                    Status::invalid_argument(format!("{batched}[{place}].{fault}"))
                })?;
            }
            Ok(raws)
        }
        (Some(raw), raws) if raws.is_empty() => {
            W::check(&raw).map_err(Status::invalid_argument)?;
            Ok(vec![raw])
        }
        (Some(_), _) => Err(Status::invalid_argument(format!(
            "{batched}: stands beside the single form; a request has one of them"
        ))),
    }
}

/// The command that asks for `message`, which is written once, behind its header.
pub(super) fn command(kind: Kind, message: &impl Message) -> Result<Command, Status> {
    let mut encoded = BytesMut::with_capacity(HEADER_LEN + message.encoded_len());
    encoded.put_slice(&Command::header(kind));
    message
        .encode(&mut encoded)
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok(Command::from_encoded(encoded.freeze()))
}

/// A name that must be there.
pub(super) fn named(field: &str, name: &str, what: &str) -> Result<(), String> {
    match name.len() {
        0 => Err(format!("{field}: it is empty; it must name the {what}")),
        _ => bounded(field, name),
    }
}

/// A name that may be empty.
pub(super) fn bounded(field: &str, name: &str) -> Result<(), String> {
    match name.len() {
        len if len > NAME_MAX => Err(format!(
            "{field}: it is {len} bytes; it must be at most {NAME_MAX}"
        )),
        _ => Ok(()),
    }
}

/// Content that must be there.
pub(super) fn filled(field: &str, content: &[u8], what: &str) -> Result<(), String> {
    match content.is_empty() {
        true => Err(format!(
            "{field}: it is empty; it must hold the encoded {what}"
        )),
        false => Ok(()),
    }
}
