//! Keys that may stand once in a batch: whoever comes second waits for the
//! next one. PURE.
//!
//! An upstream that refuses a batch with one key twice would refuse all of it
//! for two callers who know nothing of each other. Only hashes are kept: two
//! keys of one hash part for one batch, which costs a moment and no promise.

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, Hasher},
};

/// The keys of the batch that is being sealed.
#[derive(Debug, Default)]
pub(super) struct Distinct {
    taken: HashSet<u64, BuildHasherDefault<AsIs>>,
}

impl Distinct {
    /// Whether none of `keys` is taken; they are taken from now on, also where
    /// one of them was: its owner waits, and nobody behind it may pass it.
    pub(super) fn admits(&mut self, keys: &[u64]) -> bool {
        let mut free = true;
        for key in keys {
            free &= self.taken.insert(*key);
        }
        free
    }

    /// Forgets every key; the memory stays for the next batch.
    pub(super) fn clear(&mut self) {
        self.taken.clear();
    }
}

/// The keys are hashes already.
#[derive(Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}
