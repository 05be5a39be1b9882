//! Many messages written as one.
//!
//! Batch-form pieces are copied: concatenated protobuf messages append their
//! repeated fields. A single-form piece becomes one entry: a tag, a length,
//! and its records under their new numbers, in the order in which they came,
//! since for a decoder the last of two equals wins. Everything else at the top
//! level is the partition, equal in all, and written once: a second copy would
//! double a list in it.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    plan::{Plan, Role},
    record::records,
    scan::{Form, Piece},
};

impl Plan {
    /// Bytes that [`Plan::merge`] appends for these pieces.
    pub fn merged_len<'a>(&self, pieces: impl IntoIterator<Item = &'a Piece>) -> usize {
        let mut pieces = pieces.into_iter().peekable();
        let partition = pieces.peek().map_or(0, |piece| piece.partition.len());
        pieces.fold(partition, |len, piece| len + piece.merged_len)
    }

    /// Appends one message with all entries of `pieces`, in order, to `out`.
    ///
    /// The pieces are this plan's and of one partition. The space is reserved
    /// once; nothing but the copy is left to do.
    pub fn merge<'a, I>(&self, pieces: I, out: &mut BytesMut)
    where
        I: IntoIterator<Item = &'a Piece>,
        I::IntoIter: Clone,
    {
        let pieces = pieces.into_iter();
        out.reserve(self.merged_len(pieces.clone()));
        let mut partition: Option<&Bytes> = None;
        for piece in pieces {
            let first = *partition.get_or_insert_with(|| {
                out.extend_from_slice(&piece.partition);
                &piece.partition
            });
            // One comparison an entry, against one caller's fields leaking to another.
            assert!(
                piece.partition == first,
                "pieces of one batch are of one partition"
            );
            let start = out.len();
            match piece.form {
                Form::Batch if piece.partition.is_empty() => out.extend_from_slice(&piece.message),
                Form::Batch => self.merge_scattered(&piece.message, out),
                Form::Single => self.merge_single(piece, out),
            }
            debug_assert_eq!(
                out.len() - start,
                piece.merged_len,
                "the scan counted these bytes"
            );
        }
    }

    /// Copies the batched field out of a message that holds other fields too.
    fn merge_scattered(&self, message: &[u8], out: &mut BytesMut) {
        for record in records(message)
            .flatten()
            .filter(|record| record.number == self.batched)
        {
            out.extend_from_slice(&message[record.start..record.end]);
        }
    }

    /// Writes a single form as one entry.
    #[inline]
    fn merge_single(&self, piece: &Piece, out: &mut BytesMut) {
        let message = &piece.message[..];
        let tag = u64::from(self.batched) << 3 | 2;
        put_varint(out, tag);
        put_varint(out, piece.lifted_len as u64);
        for record in records(message).flatten() {
            if let Some(Role::Lifted { number, .. }) = self.top.at(record.number) {
                put_varint(out, u64::from(*number) << 3 | u64::from(record.wire.bits()));
                out.extend_from_slice(&message[record.value..record.end]);
            }
        }
    }
}

#[inline]
fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}
