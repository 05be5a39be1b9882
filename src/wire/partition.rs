//! What sets a call apart from those it may share a batch with, as bytes.

use bytes::{BufMut, Bytes, BytesMut};

use super::plan::Plan;

/// Where a value lies in the message; both 0 where there is none.
pub(super) type Span = (u32, u32);
/// A top-level record that is no entry: its number, where it begins and ends.
pub(super) type Other = (u32, usize, usize);

impl Plan {
    /// What sets a call apart from others: the values that the plan names,
    /// then its other top-level fields, which are also written. The second
    /// part of the answer is where those begin.
    #[inline]
    pub(super) fn partition(
        &self,
        message: &Bytes,
        others: Vec<Other>,
        first: &[Span],
    ) -> (Bytes, usize) {
        let others = ordered(message, others);
        if self.discriminators.is_empty() {
            return (others, 0);
        }
        let mut bytes = BytesMut::new();
        for &slot in &self.discriminators {
            match value_at(message, first[usize::from(slot)]) {
                None => bytes.put_u8(0),
                Some(value) => {
                    bytes.put_u8(1);
                    bytes.put_u32(value.len() as u32); // as a frame's own length
                    bytes.extend_from_slice(value);
                }
            }
        }
        let shared_at = bytes.len();
        bytes.extend_from_slice(&others);
        (bytes.freeze(), shared_at)
    }
}

/// The value at `span`; a payload never begins at 0, where the first tag is.
#[inline]
pub(super) fn value_at(buf: &[u8], span: Span) -> Option<&[u8]> {
    (span.0 > 0).then(|| &buf[span.0 as usize..span.1 as usize])
}

/// The bytes of `others` in the order of their numbers; the order of equal
/// numbers is theirs, since it is the order of a repeated field's elements.
#[inline]
fn ordered(message: &Bytes, mut others: Vec<Other>) -> Bytes {
    if others.is_empty() {
        return Bytes::new();
    }
    others.sort_by_key(|&(number, ..)| number);
    let contiguous = others.windows(2).all(|pair| pair[0].2 == pair[1].1);
    match (contiguous, others.first(), others.last()) {
        (true, Some(&(_, start, _)), Some(&(_, _, end))) => message.slice(start..end),
        _ => {
            let mut bytes = BytesMut::new();
            others
                .iter()
                .for_each(|&(_, start, end)| bytes.extend_from_slice(&message[start..end]));
            bytes.freeze()
        }
    }
}
