//! Which Raft group an entry belongs to: the number of its key, modulo how many
//! groups there are.
//!
//! Data lies where this puts it, so it never changes. Which fields are the key
//! is the group's owner's business, not the policy's: what one method writes
//! another must find. So it is found by a second walk over the message, and
//! only where there are several groups: a lone group costs nothing.

use std::num::NonZeroU32;

use bytes::{Bytes, BytesMut};

use super::{
    key::{Keys, key_hash},
    piece::{Form, Piece},
    plan::{Plan, Role},
    record::{Record, records},
};

/// The group, from 0, that entries with this key belong to.
#[must_use]
pub fn group_of<'a>(key: impl IntoIterator<Item = &'a [u8]>, groups: NonZeroU32) -> u32 {
    // The remainder of a division by a u32 is one.
    (key_hash(key) % u64::from(groups.get())) as u32
}

/// Where the entries of a piece belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placing {
    /// All to this group.
    One(u32),
    /// Not all to one: see [`Plan::by_group`].
    Several,
}

impl Plan {
    /// Where the entries of `piece` belong; `key` names the entry's fields that
    /// decide it, strings or bytes all of them.
    #[must_use]
    pub fn place(&self, piece: &Piece, key: &[u32], groups: NonZeroU32) -> Placing {
        if groups == NonZeroU32::MIN {
            return Placing::One(0);
        }
        if piece.form != Form::Batch {
            return Placing::One(self.place_lone(piece, key, groups));
        }
        let mut placed = self.placed(&piece.message, key, groups);
        let first = placed.next().map_or(0, |(_, group)| group);
        match placed.all(|(_, group)| group == first) {
            true => Placing::One(first),
            false => Placing::Several,
        }
    }

    /// The entries of a piece of the batch form, a piece for each group that
    /// any belongs to, in the order of the groups. Their order within a group
    /// stays.
    #[must_use]
    pub fn by_group(&self, piece: &Piece, key: &[u32], groups: NonZeroU32) -> Vec<(u32, Piece)> {
        let mut parts = vec![(0_u32, BytesMut::new(), Keys::default()); groups.get() as usize];
        let noted = piece.keys.as_slice().iter().map(Some);
        let noted = noted.chain(std::iter::repeat(None));
        for ((record, group), noted) in self.placed(&piece.message, key, groups).zip(noted) {
            let (entries, bytes, keys) = &mut parts[group as usize];
            *entries += 1;
            bytes.extend_from_slice(&piece.message[record.start..record.end]);
            if let Some(noted) = noted {
                keys.push(*noted);
            }
        }
        let parts = (0..).zip(parts).filter(|(_, part)| part.0 > 0);
        parts
            .map(|(group, (entries, bytes, keys))| {
                let part = Piece {
                    partition: piece.partition.clone(),
                    shared_at: piece.shared_at,
                    merged_len: bytes.len(),
                    message: bytes.freeze(),
                    lifted_len: 0,
                    entries,
                    form: Form::Batch,
                    keys,
                };
                (group, part)
            })
            .collect()
    }

    /// Each entry of the batch form with its group.
    fn placed(
        &self,
        message: &Bytes,
        key: &[u32],
        groups: NonZeroU32,
    ) -> impl Iterator<Item = (Record, u32)> {
        let entries = records(message).flatten();
        entries
            .filter(|record| record.number == self.batched)
            .map(move |record| {
                let entry = record.payload(message);
                let fields = key.iter().map(|&number| {
                    // Of a field that stands twice the last counts, as for any decoder.
                    let found = records(entry).flatten().filter(|r| r.number == number);
                    found.last().map_or(&[][..], |found| found.payload(entry))
                });
                (record, group_of(fields, groups))
            })
    }

    /// The group of a message that is one entry.
    fn place_lone(&self, piece: &Piece, key: &[u32], groups: NonZeroU32) -> u32 {
        let message = &piece.message[..];
        let becomes = |record: &Record| match (piece.form, self.top.at(record.number)) {
            (Form::Single, Some(Role::Lifted { number, .. })) => Some(*number),
            (Form::Single, _) => None,
            _ => Some(record.number),
        };
        let fields = key.iter().map(|&number| {
            let found = records(message).flatten();
            let found = found.filter(|record| becomes(record) == Some(number));
            found.last().map_or(&[][..], |found| found.payload(message))
        });
        group_of(fields, groups)
    }
}
