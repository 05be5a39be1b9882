//! Many messages written as one.
//!
//! Batch-form pieces are copied: concatenated protobuf messages append their
//! repeated fields. A single-form piece becomes one entry: a tag, a length,
//! and its records under their new numbers, in the order in which they came,
//! since for a decoder the last of two equals wins. Everything else at the top
//! level is the partition, equal in all, and written once: a second copy would
//! double a list in it. A whole request is copied behind the tags and lengths
//! of the other method's entry.

use bytes::{Bytes, BytesMut};

use super::{
    piece::{Form, Piece},
    plan::{Plan, Role},
    record::{Wire, records, varint_len},
    split::{put_len, put_tag},
};

/// Most bytes of a tag and a length.
const HEAD: usize = 10;

impl Plan {
    /// Bytes that [`Plan::merge`] appends for these pieces.
    pub fn merged_len<'a>(&self, pieces: impl IntoIterator<Item = &'a Piece>) -> usize {
        let mut pieces = pieces.into_iter().peekable();
        let partition = pieces.peek().map_or(0, |piece| piece.shared().len());
        pieces.fold(partition, |len, piece| len + piece.merged_len)
    }

    /// Appends one message with all entries of `pieces`, in order, to `out`.
    ///
    /// The pieces are this plan's and of one partition. The space is made
    /// once; nothing but the copy is left to do.
    ///
    /// # Panics
    /// Where the pieces are of different partitions.
    pub fn merge<'a, I>(&self, pieces: I, out: &mut BytesMut)
    where
        I: IntoIterator<Item = &'a Piece>,
        I::IntoIter: Clone,
    {
        let pieces = pieces.into_iter();
        let start = out.len();
        // Written through a slice: appending would ask for room at every field.
        out.resize(start + self.merged_len(pieces.clone()), 0);
        let mut rest = &mut out[start..];
        let mut partition: Option<&Bytes> = None;
        for piece in pieces {
            let first = *partition.get_or_insert_with(|| {
                put(&mut rest, piece.shared());
                &piece.partition
            });
            // One comparison an entry, against one caller's fields leaking to another.
            assert!(
                same(&piece.partition, first),
                "pieces of one batch are of one partition"
            );
            match piece.form {
                Form::Whole => self.merge_whole(&piece.message, &mut rest),
                Form::Batch if piece.shared().is_empty() => put(&mut rest, &piece.message),
                Form::Batch => self.merge_scattered(&piece.message, &mut rest),
                Form::Single => self.merge_single(piece, &mut rest),
            }
        }
        debug_assert!(rest.is_empty(), "the scans counted these bytes");
    }

    /// A message of the single form that shares no batch, as one of the batch
    /// form: its entry, then all else that stands in it. What nobody here knows
    /// is left to the upstream, which finds it where the caller wrote it.
    #[must_use]
    pub fn lifted(&self, message: &[u8]) -> Bytes {
        let (mut entry, mut rest) = (BytesMut::new(), BytesMut::new());
        for record in records(message).flatten() {
            match self.top.at(record.number) {
                Some(Role::Lifted { number, .. }) => {
                    put_tag(&mut entry, *number, record.wire);
                    entry.extend_from_slice(&message[record.value..record.end]);
                }
                _ => rest.extend_from_slice(&message[record.start..record.end]),
            }
        }
        let mut lifted = BytesMut::with_capacity(message.len() + HEAD);
        put_tag(&mut lifted, self.batched, Wire::Len);
        put_len(&mut lifted, entry.len());
        lifted.extend_from_slice(&entry);
        lifted.extend_from_slice(&rest);
        lifted.freeze()
    }

    /// Copies the batched field out of a message that holds other fields too.
    fn merge_scattered(&self, message: &[u8], rest: &mut &mut [u8]) {
        for record in records(message).flatten() {
            if record.number == self.batched {
                put(rest, &message[record.start..record.end]);
            }
        }
    }

    /// Writes a whole request as one entry of the other method.
    #[inline]
    fn merge_whole(&self, message: &[u8], rest: &mut &mut [u8]) {
        put_varint(rest, u64::from(self.batched) << 3 | 2);
        put_varint(rest, self.wrapped_entry_len(message.len()) as u64);
        if let Some(field) = self.wrapped_in() {
            put_varint(rest, u64::from(field) << 3 | 2);
            put_varint(rest, message.len() as u64);
        }
        put(rest, message);
    }

    /// Length of the other method's entry around a request of `len` bytes.
    #[inline]
    pub(super) fn wrapped_entry_len(&self, len: usize) -> usize {
        self.wrapped_in().map_or(len, |field| {
            varint_len(u64::from(field) << 3) + varint_len(len as u64) + len
        })
    }

    /// Number of the entry's field that holds the request, if one does.
    #[inline]
    fn wrapped_in(&self) -> Option<u32> {
        let field = self.wrap.as_ref()?.field.as_ref();
        field.map(|&(number, _)| number)
    }

    /// Writes a single form as one entry.
    #[inline]
    fn merge_single(&self, piece: &Piece, rest: &mut &mut [u8]) {
        let message = &piece.message[..];
        put_varint(rest, u64::from(self.batched) << 3 | 2);
        put_varint(rest, piece.lifted_len as u64);
        for record in records(message).flatten() {
            if let Some(Role::Lifted { number, .. }) = self.top.at(record.number) {
                put_varint(
                    rest,
                    u64::from(*number) << 3 | u64::from(record.wire.bits()),
                );
                put(rest, &message[record.value..record.end]);
            }
        }
    }
}

/// Whether both are the same bytes. Of nearly all calls they are none, which are
/// not compared: with AVX-512 that is a load of nothing from no address, and costs
/// more than all else that is done with an entry.
#[inline]
fn same(one: &Bytes, other: &Bytes) -> bool {
    one.len() == other.len() && (one.is_empty() || one == other)
}

/// Writes `bytes` at the beginning of `rest`, which then begins after them.
#[inline]
fn put(rest: &mut &mut [u8], bytes: &[u8]) {
    let (here, after) = std::mem::take(rest).split_at_mut(bytes.len());
    here.copy_from_slice(bytes);
    *rest = after;
}

/// Writes `value` as a varint at the beginning of `rest`.
#[inline]
fn put_varint(rest: &mut &mut [u8], mut value: u64) {
    let mut len = 0;
    while value >= 0x80 {
        rest[len] = value as u8 | 0x80;
        value >>= 7;
        len += 1;
    }
    rest[len] = value as u8;
    *rest = &mut std::mem::take(rest)[len + 1..];
}
