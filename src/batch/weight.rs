//! What entries weigh: in a batch, in memory, and in batches. PURE.
//!
//! Methods with windows of different sizes wait in front of one upstream, so
//! how long it takes to let them all go is no matter of their number. Each
//! entry is counted as the part that it fills of a batch of its own window.

use std::ops::{AddAssign, Sub, SubAssign};

use super::WindowSettings;

/// What a request adds to a batch. A request that already is a batch counts
/// as the entries it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Entries, at least 1.
    pub entries: u32,
    /// Bytes beside the payload that it keeps in memory while it waits.
    pub overhead: u32,
    /// Payload bytes.
    pub bytes: usize,
}

/// A full batch, in the unit in which parts of one are added up. Parts are
/// rounded up, so that a window's entries are a whole one.
pub(super) const FULL: u64 = 1 << 32;

/// What one entry and one byte fill of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    entry: u64,
    byte: u64,
}

impl Scale {
    pub(super) fn of(window: &WindowSettings) -> Self {
        Self {
            entry: FULL.div_ceil(u64::from(window.max_entries.get())),
            byte: FULL.div_ceil(window.max_bytes.max(1) as u64),
        }
    }

    /// Whether entries like this one fill a window by bytes before they fill
    /// it by count.
    pub(super) const fn is_large(self, weight: Weight) -> bool {
        self.by_bytes(weight) > self.by_count(weight)
    }

    pub(super) fn amount(self, weight: Weight) -> Amount {
        let part = self.by_count(weight).max(self.by_bytes(weight));
        Amount {
            entries: u64::from(weight.entries),
            bytes: weight.bytes as u64 + u64::from(weight.overhead),
            // What is larger than a batch leaves as one.
            batches: part.min(FULL),
        }
    }

    // Both factors have 32 bits: no message is larger than 4 GiB.
    const fn by_count(self, weight: Weight) -> u64 {
        self.entry.wrapping_mul(weight.entries as u64)
    }

    const fn by_bytes(self, weight: Weight) -> u64 {
        self.byte.wrapping_mul(weight.bytes as u64)
    }
}

/// What waits, of a window or of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) entries: u64,
    /// In memory.
    pub(super) bytes: u64,
    /// In parts of [`FULL`].
    pub(super) batches: u64,
}

impl AddAssign for Amount {
    fn add_assign(&mut self, more: Self) {
        self.entries += more.entries;
        self.bytes += more.bytes;
        self.batches += more.batches;
    }
}

impl SubAssign for Amount {
    fn sub_assign(&mut self, less: Self) {
        *self = *self - less;
    }
}

impl Sub for Amount {
    type Output = Self;

    fn sub(self, less: Self) -> Self {
        Self {
            entries: self.entries - less.entries,
            bytes: self.bytes - less.bytes,
            batches: self.batches - less.batches,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn batches(max_entries: u32, max_bytes: usize, entries: u32, bytes: usize) -> u64 {
        let scale = Scale::of(&WindowSettings {
            max_entries: NonZeroU32::new(max_entries).expect("a test's bound is positive"),
            max_bytes,
            ..WindowSettings::default()
        });
        let weight = Weight {
            entries,
            overhead: 7,
            bytes,
        };
        let amount = scale.amount(weight);
        assert_eq!(amount.bytes, bytes as u64 + 7);
        amount.batches
    }

    #[test]
    fn entries_that_fill_a_window_are_one_batch() {
        assert_eq!(batches(1, 1 << 20, 1, 10), FULL);
        for max in [3, 10, 500, 999_983] {
            let all = batches(max, 1 << 28, 1, 1) * u64::from(max);
            assert_eq!(all / FULL, 1, "of {max}");
        }
        assert_eq!(batches(500, 1 << 20, 1, 1 << 18), FULL / 4, "by bytes");
    }

    #[test]
    fn what_is_larger_than_a_batch_leaves_as_one() {
        assert_eq!(batches(1, 1, u32::MAX, u32::MAX as usize), FULL);
    }
}
