//! HTTP/2's frames as bytes (RFC 9113, section 4): headers, kinds, flags, the
//! names of errors. Pure.

use bytes::{BufMut, BytesMut};

/// A frame's header: three bytes of length, type, flags, four of stream id.
pub(super) const FRAME_HEADER: usize = 9;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

/// Of DATA and HEADERS.
pub(super) const END_STREAM: u8 = 0x1;
/// Of SETTINGS and PING.
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const PRIORITY: u8 = 0x20;

pub(super) const CANCEL: u32 = 8;
/// The error codes by number.
const ERROR_NAMES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// The connection is of no use any more, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) String);

pub(super) fn put_header(to: &mut BytesMut, length: usize, kind: u8, flags: u8, stream: u32) {
    to.put_uint(length as u64, 3);
    to.put_u8(kind);
    to.put_u8(flags);
    to.put_u32(stream);
}

/// A frame whose payload is one number.
pub(super) fn put_word(to: &mut BytesMut, kind: u8, stream: u32, word: u32) {
    put_header(to, 4, kind, 0, stream);
    to.put_u32(word);
}

pub(super) fn word(payload: &[u8]) -> Result<u32, Broken> {
    let bytes = payload
        .first_chunk()
        .ok_or_else(|| malformed("a frame was cut"))?;
    Ok(u32::from_be_bytes(*bytes))
}

pub(super) fn unpadded(flags: u8, payload: &[u8]) -> Result<&[u8], Broken> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let (&padding, rest) = payload
        .split_first()
        .ok_or_else(|| malformed("padding was cut"))?;
    let length = rest.len().checked_sub(padding.into());
    length
        .map(|length| &rest[..length])
        .ok_or_else(|| malformed("padding exceeds its frame"))
}

pub(super) fn malformed(what: &str) -> Broken {
    Broken(format!(
        "connection lost: the server broke HTTP/2's rules ({what})"
    ))
}

pub(super) fn named(code: u32) -> String {
    ERROR_NAMES
        .get(code as usize)
        .map_or_else(|| format!("error {code}"), |&name| name.into())
}
