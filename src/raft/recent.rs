//! The end of one group's log, in memory.
//!
//! Apply and replication read back what was appended a moment ago, so the last
//! entries stay here, bounded in bytes. An entry leaves only once it is in the
//! database: until then this is the only place that has it.

use std::collections::VecDeque;

use openraft::EntryPayload;

use super::types::Entry;

/// What an entry weighs beside its payload.
const ENTRY_OVERHEAD: usize = 96;

/// The last entries of a log, contiguous.
#[derive(Debug)]
pub(crate) struct Recent {
    entries: VecDeque<Entry>,
    bytes: usize,
    max_bytes: usize,
    /// The index up to which entries are in the database.
    written: Option<u64>,
}

impl Recent {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            max_bytes,
            written: None,
        }
    }

    /// Index of the oldest entry held.
    pub(crate) fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.log_id.index)
    }

    /// Adds the entry that follows all others.
    pub(crate) fn push(&mut self, entry: Entry) {
        let follows = self
            .entries
            .back()
            .is_none_or(|last| last.log_id.index.checked_add(1) == Some(entry.log_id.index));
        if !follows {
            // Only after a snapshot took the place of the log up to here.
            self.entries.clear();
            self.bytes = 0;
        }
        self.bytes += weight(&entry);
        self.entries.push_back(entry);
        self.evict();
    }

    /// The entries from index `start`, while they are before `end` and weigh at
    /// most `max_bytes` together; at least one. `start` must not be before
    /// [`Recent::first`].
    pub(crate) fn copy(&self, start: u64, end: u64, max_bytes: usize, into: &mut Vec<Entry>) {
        let Some(first) = self.first() else { return };
        let skipped = usize::try_from(start.saturating_sub(first)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        for entry in self.entries.iter().skip(skipped) {
            bytes += weight(entry);
            if entry.log_id.index >= end || (bytes > max_bytes && !into.is_empty()) {
                break;
            }
            into.push(entry.clone());
        }
    }

    /// Entries up to `index` are in the database now.
    pub(crate) fn written(&mut self, index: u64) {
        self.written = self.written.max(Some(index));
        self.evict();
    }

    /// Forgets the entries behind `index`; with `None`, all of them. What is
    /// appended in their place is not in the database either.
    pub(crate) fn truncate_after(&mut self, index: Option<u64>) {
        while self
            .entries
            .back()
            .is_some_and(|last| Some(last.log_id.index) > index)
        {
            self.bytes -= self.entries.pop_back().as_ref().map_or(0, weight);
        }
        self.written = self.written.min(index);
    }

    /// Forgets the entries up to `index`.
    pub(crate) fn purge(&mut self, index: u64) {
        while self.first().is_some_and(|first| first <= index) {
            self.bytes -= self.entries.pop_front().as_ref().map_or(0, weight);
        }
    }

    fn evict(&mut self) {
        while self.bytes > self.max_bytes && self.first().is_some_and(|at| Some(at) <= self.written)
        {
            self.bytes -= self.entries.pop_front().as_ref().map_or(0, weight);
        }
    }
}

/// What an entry takes up in memory, in bytes, roughly.
pub(crate) fn weight(entry: &Entry) -> usize {
    ENTRY_OVERHEAD
        + match &entry.payload {
            EntryPayload::Normal(command) => command.encoded().len(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::tests::log_id;

    const ROOM: usize = 3 * ENTRY_OVERHEAD;

    fn blank(index: u64) -> Entry {
        Entry {
            log_id: log_id(index),
            payload: EntryPayload::Blank,
        }
    }

    fn filled(indexes: std::ops::Range<u64>) -> Recent {
        let mut recent = Recent::new(ROOM);
        indexes.for_each(|index| recent.push(blank(index)));
        recent
    }

    fn copied(recent: &Recent, start: u64, end: u64, max_bytes: usize) -> Vec<u64> {
        let mut entries = Vec::new();
        recent.copy(start, end, max_bytes, &mut entries);
        entries.iter().map(|entry| entry.log_id.index).collect()
    }

    #[test]
    fn an_entry_that_is_not_in_the_database_is_never_forgotten() {
        let mut recent = filled(0..10);
        assert_eq!(recent.first(), Some(0));
        recent.written(4);
        assert_eq!(recent.first(), Some(5), "over the bound, but not written");
        recent.written(9);
        assert_eq!(recent.first(), Some(7), "what fits stays, written or not");
    }

    #[test]
    fn what_takes_the_place_of_a_truncated_entry_is_not_written_yet() {
        let mut recent = filled(0..3);
        recent.written(2);
        recent.truncate_after(Some(0));
        (1..9).for_each(|index| recent.push(blank(index)));
        assert_eq!(
            recent.first(),
            Some(1),
            "entry 1 is the new one: not in the database"
        );
        recent.truncate_after(None);
        assert_eq!(recent.first(), None);
        assert_eq!(recent.bytes, 0);
    }

    #[test]
    fn a_copy_is_bounded_in_entries_and_bytes_and_never_empty() {
        let recent = filled(5..10);
        assert_eq!(copied(&recent, 6, 8, usize::MAX), [6, 7]);
        assert_eq!(copied(&recent, 6, 100, usize::MAX), [6, 7, 8, 9]);
        assert_eq!(copied(&recent, 6, 100, 2 * ENTRY_OVERHEAD), [6, 7]);
        assert_eq!(copied(&recent, 6, 100, 0), [6]);
        assert_eq!(copied(&recent, 10, 100, usize::MAX), [] as [u64; 0]);
    }

    #[test]
    fn purging_forgets_the_front_and_a_gap_forgets_all() {
        let mut recent = filled(0..4);
        recent.purge(1);
        assert_eq!(recent.first(), Some(2));
        recent.push(blank(10));
        assert_eq!(copied(&recent, 10, 11, 0), [10]);
        assert_eq!(recent.first(), Some(10));
        recent.purge(20);
        assert_eq!((recent.first(), recent.bytes), (None, 0));
    }
}
