//! What a scan finds out about a message.

use bytes::Bytes;

use super::key::Keys;

/// What a scan says of a valid message.
#[derive(Clone, Debug)]
pub enum Scan {
    /// It may share a batch with others of its partition.
    Merge(Piece),
    /// It must be sent by itself: as it is, or where it has the single form,
    /// lifted by [`Plan::lifted`](super::Plan::lifted).
    Alone(Reason, Form),
}

/// Why a valid message is not merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It has a field that the descriptors do not know.
    UnknownField,
    /// It has a proto2 group.
    Group,
    /// It has more other top-level fields than a partition may consist of.
    ManyFields,
    /// It has two members of one oneof outside its entries, of which the later
    /// counts; a partition does not say which that is.
    Oneof,
    /// A condition of the policy holds.
    Condition,
    /// Two of its entries have one key, and a batch takes a key once.
    DuplicateKey,
    /// Its entries differ in a field that must be equal in a batch.
    MixedDiscriminator,
}

impl Reason {
    /// The reason as a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownField => "unknown_field",
            Self::Group => "group",
            Self::ManyFields => "many_fields",
            Self::Oneof => "oneof",
            Self::Condition => "unbatchable_if",
            Self::DuplicateKey => "duplicate_key",
            Self::MixedDiscriminator => "mixed_discriminator",
        }
    }
}

/// The form in which a message holds its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Any number of entries in the batched field.
    Batch,
    /// One entry, its fields at the top of the message.
    Single,
    /// One entry, the message as a whole.
    Whole,
}

/// A scanned message that may be merged; only [`Plan::scan`](super::Plan::scan) makes one.
#[derive(Clone, Debug)]
pub struct Piece {
    pub(super) message: Bytes,
    pub(super) partition: Bytes,
    /// Where in the partition the fields begin that are written.
    pub(super) shared_at: usize,
    pub(super) merged_len: usize,
    /// Length of the entry that a single form becomes; 0 for the batch form.
    pub(super) lifted_len: usize,
    pub(super) entries: u32,
    pub(super) form: Form,
    pub(super) keys: Keys,
}

impl Piece {
    /// The message as it came.
    #[must_use]
    pub fn message(&self) -> &Bytes {
        &self.message
    }

    /// The values that the plan's discriminators have, then the top-level
    /// fields other than entries, in the order of their numbers, presence
    /// included. Only pieces whose partitions are equal may be merged.
    #[must_use]
    pub fn partition(&self) -> &Bytes {
        &self.partition
    }

    /// How many bytes this piece adds to a merged message (which has the
    /// partition's bytes once, besides).
    #[must_use]
    pub fn merged_len(&self) -> usize {
        self.merged_len
    }

    /// The top-level fields other than entries, which are written once.
    pub(super) fn shared(&self) -> &[u8] {
        &self.partition[self.shared_at..]
    }

    /// The hashes of its entries' keys, in order (see
    /// [`key_hash`](super::key_hash)); none where the plan notes none.
    #[must_use]
    pub fn key_hashes(&self) -> &[u64] {
        self.keys.as_slice()
    }

    /// How many entries it holds; at least one.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// The form in which it came.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }
}
