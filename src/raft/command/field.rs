//! Protobuf fields, sliced out of a message without decoding it.

use super::CommandError;

const MALFORMED: CommandError = CommandError::Malformed;

/// A field's content.
pub(super) enum Value<'a> {
    Bytes(&'a [u8]),
    Varint(u64),
    /// Four or eight bytes, of which no command has any use.
    Fixed,
}

impl<'a> Value<'a> {
    pub(super) const fn bytes(self) -> Result<&'a [u8], CommandError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) | Self::Fixed => Err(MALFORMED),
        }
    }

    pub(super) const fn varint(self) -> Result<u64, CommandError> {
        match self {
            Self::Varint(value) => Ok(value),
            Self::Bytes(_) | Self::Fixed => Err(MALFORMED),
        }
    }
}

/// The last value of each length-delimited field that `numbers` name, empty
/// where absent, as proto3 reads them. Other fields are skipped.
pub(super) fn last_of<const N: usize>(
    message: &[u8],
    numbers: [u32; N],
) -> Result<[&[u8]; N], CommandError> {
    let mut values: [&[u8]; N] = [&[]; N];
    let mut rest = message;
    while let Some((number, value)) = next(&mut rest)? {
        if let Some(place) = numbers.iter().position(|wanted| *wanted == number) {
            values[place] = value.bytes()?;
        }
    }
    Ok(values)
}

/// Shows each length-delimited field `number` of `message` to `visit`, in order.
pub(super) fn each<'a>(
    message: &'a [u8],
    number: u32,
    mut visit: impl FnMut(&'a [u8]) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let mut rest = message;
    while let Some((found, value)) = next(&mut rest)? {
        if found == number {
            visit(value.bytes()?)?;
        }
    }
    Ok(())
}

/// Takes one field off the front of `rest`; `None` at the end.
///
/// Groups are refused: proto3 never writes them, and skipping one would need a
/// stack that hostile bytes could deepen.
pub(super) fn next<'a>(rest: &mut &'a [u8]) -> Result<Option<(u32, Value<'a>)>, CommandError> {
    if rest.is_empty() {
        return Ok(None);
    }
    let tag = u32::try_from(varint(rest)?).map_err(|_| MALFORMED)?;
    let number = tag >> 3;
    if number == 0 {
        return Err(MALFORMED);
    }
    let value = match tag & 7 {
        0 => Value::Varint(varint(rest)?),
        1 => {
            take(rest, 8)?;
            Value::Fixed
        }
        2 => {
            let len = usize::try_from(varint(rest)?).map_err(|_| MALFORMED)?;
            Value::Bytes(take(rest, len)?)
        }
        5 => {
            take(rest, 4)?;
            Value::Fixed
        }
        _ => return Err(MALFORMED),
    };
    Ok(Some((number, value)))
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], CommandError> {
    let (taken, left) = rest.split_at_checked(len).ok_or(MALFORMED)?;
    *rest = left;
    Ok(taken)
}

fn varint(rest: &mut &[u8]) -> Result<u64, CommandError> {
    let mut value = 0u64;
    for (place, &byte) in rest.iter().enumerate().take(10) {
        // The tenth byte has room for one bit of the 64.
        if place == 9 && byte > 1 {
            return Err(MALFORMED);
        }
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            *rest = &rest[place + 1..];
            return Ok(value);
        }
    }
    Err(MALFORMED)
}
