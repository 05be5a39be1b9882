//! gRPC's message framing: a flag, a length, the bytes. PURE.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes before a message: the compressed flag and the big-endian length.
pub const HEADER: usize = 5;

/// What a unary call's body holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unary {
    /// Exactly one message, as it was encoded.
    Message(Bytes),
    /// Exactly one message, compressed in the way that the call's head says.
    Compressed(Bytes),
}

/// Why a body is not one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The body is empty.
    #[error("a unary call carries exactly one message: this one has none")]
    NoMessage,
    /// Something follows the first message.
    #[error("a unary call carries exactly one message: {0} bytes follow the first one")]
    MoreThanOne(usize),
    /// The body ends within a frame.
    #[error(
        "the call ended within a message: {have} of {want} bytes came; \
         send a gRPC frame (flag, length, message) whole"
    )]
    Truncated {
        /// Bytes that came.
        have: usize,
        /// Bytes that the frame needs.
        want: usize,
    },
    /// The flag is neither 0 nor 1.
    #[error("compressed flag {0}: must be 0 or 1; is this gRPC?")]
    Flag(u8),
}

/// Takes the one message out of a unary call's body, without a copy.
///
/// # Errors
/// Where the body is anything but one whole frame.
pub fn unary(body: &Bytes) -> Result<Unary, FrameError> {
    let [flag, a, b, c, d, ..] = body[..] else {
        return Err(match body.len() {
            0 => FrameError::NoMessage,
            have => FrameError::Truncated { have, want: HEADER },
        });
    };
    if flag > 1 {
        return Err(FrameError::Flag(flag));
    }
    let want = HEADER + u32::from_be_bytes([a, b, c, d]) as usize;
    match body.len() {
        have if have < want => Err(FrameError::Truncated { have, want }),
        have if have > want => Err(FrameError::MoreThanOne(have - want)),
        _ if flag == 1 => Ok(Unary::Compressed(body.slice(HEADER..))),
        _ => Ok(Unary::Message(body.slice(HEADER..))),
    }
}

/// An empty message in its frame: the reply of many a write.
const EMPTY: Bytes = Bytes::from_static(&[0; HEADER]);

/// Puts a message into its frame.
///
/// # Panics
/// If the message is 4 GiB or longer, which gRPC cannot express.
#[must_use]
pub fn framed(message: &[u8]) -> Bytes {
    if message.is_empty() {
        return EMPTY;
    }
    let mut frame = BytesMut::with_capacity(HEADER + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a gRPC message is below 4 GiB"));
    frame.put_slice(message);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_framed_message_is_read_back() {
        for message in [&b""[..], b"x", b"a longer message"] {
            let frame = framed(message);
            assert_eq!(
                unary(&frame),
                Ok(Unary::Message(Bytes::copy_from_slice(message)))
            );
        }
    }

    #[test]
    fn a_body_that_is_not_one_whole_message_is_refused() {
        let read = |body: &[u8]| unary(&Bytes::copy_from_slice(body));
        assert_eq!(read(b""), Err(FrameError::NoMessage));
        assert_eq!(
            read(&[0, 0]),
            Err(FrameError::Truncated { have: 2, want: 5 })
        );
        assert_eq!(
            read(&[0, 0, 0, 0, 3, 1]),
            Err(FrameError::Truncated { have: 6, want: 8 })
        );
        assert_eq!(
            read(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            Err(FrameError::MoreThanOne(5))
        );
        assert_eq!(read(&[7, 0, 0, 0, 0]), Err(FrameError::Flag(7)));
        assert_eq!(
            read(&[1, 0, 0, 0, 1, 7]),
            Ok(Unary::Compressed(Bytes::from_static(&[7])))
        );
    }
}
