//! What a call's body says of it, wherever the call then goes: unframed,
//! decoded where it is compressed, and scanned by its method's plan.

use bytes::Bytes;
use tonic::Status;

use super::{
    frame::{self, Unary},
    inflate::Encoding,
    status,
};
use crate::wire::{Form, Piece, Plan, Scan};

/// What is found in a body.
pub(super) enum Finding {
    /// It may share a batch, as far as its message goes.
    Merge(Piece),
    /// It cannot, for this reason, and goes by itself. The message is that of
    /// the single form, which is lifted all the same.
    Alone(&'static str, Option<Bytes>),
    /// It can be no call of the method; its caller alone is told.
    Refused(Status),
}

/// Why a compressed message goes alone: whether the upstream can read it is
/// for the upstream to say.
const COMPRESSED: &str = "compressed";

/// Reads the body of a unary call of a method whose messages `plan` scans and
/// which have at most `bound` bytes.
pub(super) fn judge(plan: &Plan, bound: usize, encoding: Encoding, body: &Bytes) -> Finding {
    let message = match frame::unary(body) {
        Ok(Unary::Message(message)) => message,
        Ok(Unary::Compressed(bytes)) => match encoding.inflate(&bytes, bound) {
            None => return Finding::Alone(COMPRESSED, None),
            Some(Ok(message)) => message,
            Some(Err(error)) => return Finding::Refused(status::of_inflate(&error)),
        },
        Err(error) => return Finding::Refused(status::of_frame(error)),
    };
    match plan.scan(&message) {
        Ok(Scan::Merge(piece)) => Finding::Merge(piece),
        Ok(Scan::Alone(reason, form)) => {
            let single = (form == Form::Single).then_some(message);
            Finding::Alone(reason.as_str(), single)
        }
        Err(error) => Finding::Refused(status::of_scan(&error)),
    }
}

/// One call of the single form, as a batch of one in its frame.
pub(super) fn lifted(plan: &Plan, message: &[u8]) -> Bytes {
    frame::framed(&plan.lifted(message))
}
