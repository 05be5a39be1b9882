//! One protobuf record (tag and value) at a time.
//!
//! Owns the bounds of the encoding: what is read here lies inside the buffer,
//! has a legal tag, and a group that opens also closes. It knows nothing of
//! field names or meanings; [`super::scan`] adds those. It answers with
//! offsets, not slices, so that a merge can copy a record whole.

use std::fmt;

/// How deep messages and groups may nest: the bound that decoders share.
pub(super) const MAX_DEPTH: u32 = 100;
/// Most bytes of a tag or a length: some decoders take no more, though the
/// bytes past what the number needs be padding.
const MAX_PREFIX: usize = 5;
/// Most bytes of a value.
const MAX_VALUE: usize = 10;

/// How a record's value is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Seven bits a byte, little end first.
    Varint,
    /// Eight bytes.
    Fixed64,
    /// A length, then that many bytes: strings, bytes, messages, packed lists.
    Len,
    /// Everything up to the matching end tag (proto2 groups).
    Group,
    /// Four bytes.
    Fixed32,
}

impl Wire {
    /// The wire type as a tag's low three bits.
    #[inline]
    pub(super) fn bits(self) -> u8 {
        match self {
            Self::Varint => 0,
            Self::Fixed64 => 1,
            Self::Len => 2,
            Self::Group => 3,
            Self::Fixed32 => 5,
        }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Varint => "0 (varint)",
            Self::Fixed64 => "1 (8 bytes)",
            Self::Len => "2 (length-delimited)",
            Self::Group => "3 (group)",
            Self::Fixed32 => "5 (4 bytes)",
        })
    }
}

/// Why bytes are not a protobuf message; offsets count from the message's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The message ends inside a record.
    #[error("it ends inside the field that begins at byte {at}")]
    Truncated {
        /// Where the record begins.
        at: usize,
    },
    /// A varint of more than 64 bits.
    #[error("the number at byte {at} is longer than 64 bits")]
    Varint {
        /// Where the number begins.
        at: usize,
    },
    /// A tag or a length of more bytes than every decoder takes.
    #[error("the tag or length at byte {at} is longer than {MAX_PREFIX} bytes")]
    Prefix {
        /// Where it begins.
        at: usize,
    },
    /// Field number zero, or one beyond 2^29 - 1, or a wire type that does not exist.
    #[error("there is no field tag at byte {at}")]
    Tag {
        /// Where the tag should be.
        at: usize,
    },
    /// A group that ends without having begun, or ends another one.
    #[error("the group end at byte {at} matches no beginning")]
    GroupEnd {
        /// Where the end tag is.
        at: usize,
    },
    /// Nested deeper than decoders accept.
    #[error("at byte {at} it nests deeper than {MAX_DEPTH} messages")]
    Depth {
        /// Where the bound is passed.
        at: usize,
    },
}

/// Where one record lies in its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The field's number.
    pub number: u32,
    /// How the value is encoded.
    pub wire: Wire,
    /// Offset of the tag.
    pub start: usize,
    /// Offset just after the tag.
    pub value: usize,
    /// Offset of the value without its length prefix.
    pub payload: usize,
    /// Offset just after the record (for a group: after its end tag).
    pub end: usize,
}

impl Record {
    /// The value without tag and length prefix; `message` is what was read.
    #[must_use]
    pub fn payload<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        &message[self.payload..self.end]
    }

    /// The value of a varint; 0 where it is none.
    pub(super) fn varint(&self, message: &[u8]) -> u64 {
        varint(message, self.value, self.start).map_or(0, |(value, _)| value)
    }

    /// Whether the value is its type's default: zero, or no bytes.
    pub(super) fn is_default(&self, message: &[u8]) -> bool {
        let payload = self.payload(message);
        match self.wire {
            Wire::Varint => payload.iter().all(|byte| byte & 0x7f == 0),
            Wire::Fixed32 | Wire::Fixed64 => payload.iter().all(|&byte| byte == 0),
            Wire::Len | Wire::Group => payload.is_empty(),
        }
    }
}

/// The records of `message`, in order; ends after the first that is malformed.
#[must_use]
pub fn records(message: &[u8]) -> Records<'_> {
    Records { message, at: 0 }
}

/// Iterator over a message's records: see [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    message: &'a [u8],
    at: usize,
}

impl Iterator for Records<'_> {
    type Item = Result<Record, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.message.len() {
            return None;
        }
        let read = read(self.message, self.at);
        self.at = read.map_or(self.message.len(), |record| record.end);
        Some(read)
    }
}

/// Reads the record at `at`, which lies before the end of `buf`.
// Always inlined: handed back through memory, the record costs more to store
// and load again than to read.
#[inline(always)]
pub(super) fn read(buf: &[u8], at: usize) -> Result<Record, Malformed> {
    let (number, kind, value) = tag(buf, at)?;
    let (wire, payload, end) = match kind {
        0 => (Wire::Varint, value, varint(buf, value, at)?.1),
        1 => (Wire::Fixed64, value, advance(buf, value, 8, at)?),
        2 => {
            let (len, payload) = bounded::<MAX_PREFIX>(buf, value, at)?;
            (Wire::Len, payload, advance(buf, payload, len, at)?)
        }
        3 => (Wire::Group, value, group_end(buf, value, number, at)?),
        4 => return Err(Malformed::GroupEnd { at }),
        5 => (Wire::Fixed32, value, advance(buf, value, 4, at)?),
        _ => return Err(Malformed::Tag { at }),
    };
    Ok(Record {
        number,
        wire,
        start: at,
        value,
        payload,
        end,
    })
}

/// The varint at `at` and the offset after it; `start` is where blame lies.
#[inline(always)]
pub(super) fn varint(buf: &[u8], at: usize, start: usize) -> Result<(u64, usize), Malformed> {
    bounded::<MAX_VALUE>(buf, at, start)
}

/// The same of at most so many bytes, which only a long one is asked.
#[inline(always)]
fn bounded<const MOST: usize>(
    buf: &[u8],
    at: usize,
    start: usize,
) -> Result<(u64, usize), Malformed> {
    match *buf.get(at..).unwrap_or_default() {
        [one, ..] if one < 0x80 => Ok((u64::from(one), at + 1)),
        // Two bytes are the length of most values, and worth their own line.
        [one, two, ..] if two < 0x80 => Ok((u64::from(one & 0x7f) | u64::from(two) << 7, at + 2)),
        [_, ..] => long_varint::<MOST>(buf, at, start),
        [] => Err(Malformed::Truncated { at: start }),
    }
}

#[inline(never)]
fn long_varint<const MOST: usize>(
    buf: &[u8],
    at: usize,
    start: usize,
) -> Result<(u64, usize), Malformed> {
    let mut value = 0;
    for (i, &byte) in buf[at..].iter().take(MOST).enumerate() {
        if MOST == MAX_PREFIX && i + 1 == MOST && byte >= 0x80 {
            return Err(Malformed::Prefix { at });
        }
        // The tenth byte holds the 64th bit and nothing more.
        if i == 9 && byte > 1 {
            return Err(Malformed::Varint { at });
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Ok((value, at + i + 1));
        }
    }
    Err(Malformed::Truncated { at: start })
}

/// Field number, wire type bits, and the offset after the tag.
#[inline(always)]
fn tag(buf: &[u8], at: usize) -> Result<(u32, u8, usize), Malformed> {
    let (key, value) = bounded::<MAX_PREFIX>(buf, at, at)?;
    let number = u32::try_from(key >> 3).map_err(|_| Malformed::Tag { at })?;
    if number == 0 || key > u64::from(u32::MAX) {
        return Err(Malformed::Tag { at });
    }
    Ok((number, (key & 7) as u8, value))
}

#[inline(always)]
fn advance(buf: &[u8], from: usize, len: u64, start: usize) -> Result<usize, Malformed> {
    // Compared in u64, so that no length wraps on any platform.
    if len > (buf.len() - from) as u64 {
        return Err(Malformed::Truncated { at: start });
    }
    Ok(from + len as usize)
}

/// The offset after the end tag of group `number`, whose content begins at `at`.
#[cold]
fn group_end(buf: &[u8], mut at: usize, number: u32, start: usize) -> Result<usize, Malformed> {
    let mut open = vec![number];
    while let Some(&innermost) = open.last() {
        if at >= buf.len() {
            return Err(Malformed::Truncated { at: start });
        }
        let (number, kind, value) = tag(buf, at)?;
        match kind {
            3 if open.len() >= MAX_DEPTH as usize => return Err(Malformed::Depth { at }),
            3 => {
                open.push(number);
                at = value;
            }
            4 if number == innermost => {
                open.pop();
                at = value;
            }
            4 => return Err(Malformed::GroupEnd { at }),
            _ => at = read(buf, at)?.end,
        }
    }
    Ok(at)
}

/// How many bytes `value` takes as a varint.
#[inline]
pub(super) fn varint_len(value: u64) -> usize {
    // 9/64 rounds bits / 7 up for every width from 1 to 64.
    ((63 - (value | 1).leading_zeros() as usize) * 9 + 73) / 64
}
