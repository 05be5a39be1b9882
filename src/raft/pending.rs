//! What a run of log entries changes, before it is written.
//!
//! Its keys are sorted, since the skip list takes neighbours faster than
//! strangers, and stably, so that of two equal keys the later wins. A command
//! that expects offsets is judged against a state that has everything before
//! it: where something that waits might matter, that is written first.

use std::{io, ops::Range};

use rocksdb::{DB, WriteBatch};

use super::{
    command::{Applied, Change, Command, CommandError},
    database,
    keys::{self, Shard},
    state::StateStore,
    view,
};

/// Memory that is used again for the next load.
#[derive(Default)]
pub(super) struct Scratch {
    keys: Vec<u8>,
}

/// One change, its key in the scratch memory.
struct Slot<'a> {
    key: Range<usize>,
    value: Value<'a>,
}

#[derive(Clone, Copy)]
enum Value<'a> {
    Bytes(&'a [u8]),
    Offset(u64),
    Deleted,
}

/// An offset that a command expects to find, by its key.
struct Expected {
    key: Range<usize>,
    offset: u64,
}

/// The changes that wait to be written together.
pub(super) struct Pending<'a> {
    keys: &'a mut Vec<u8>,
    slots: Vec<Slot<'a>>,
    /// Whether any of them is an offset.
    offsets: bool,
}

/// A command's changes, collected but not yet allowed.
pub(super) struct Collected {
    expected: Vec<Expected>,
    keys_before: usize,
    slots_before: usize,
    offsets_before: bool,
}

impl<'a> Pending<'a> {
    pub(super) fn new(scratch: &'a mut Scratch) -> Self {
        scratch.keys.clear();
        Self {
            keys: &mut scratch.keys,
            slots: Vec::new(),
            offsets: false,
        }
    }

    /// Adds a command's changes; of one whose message does not parse, none.
    /// Where [`Collected::is_conditional`], they stand to be judged.
    pub(super) fn collect(
        &mut self,
        command: &'a Command,
    ) -> Result<Result<Collected, Applied>, CommandError> {
        let mut collected = Collected {
            expected: Vec::new(),
            keys_before: self.keys.len(),
            slots_before: self.slots.len(),
            offsets_before: self.offsets,
        };
        match command.changes(|change| self.add(change, &mut collected.expected)) {
            Ok(()) => Ok(Ok(collected)),
            Err(CommandError::Malformed) => {
                self.take_back(&collected);
                Ok(Err(Applied::Malformed))
            }
            Err(foreign @ CommandError::Foreign { .. }) => Err(foreign),
        }
    }

    fn add(&mut self, change: Change<'a>, expected: &mut Vec<Expected>) {
        let start = self.keys.len();
        let value = match change {
            Change::PutSession { client_id, session } => {
                keys::session(self.keys, client_id);
                Value::Bytes(session)
            }
            Change::DeleteSession { client_id } => {
                keys::session(self.keys, client_id);
                Value::Deleted
            }
            Change::PutSubscription {
                client_id,
                path,
                subscribe,
            } => {
                keys::subscription(self.keys, client_id, path);
                Value::Bytes(subscribe)
            }
            Change::DeleteSubscription { client_id, path } => {
                keys::subscription(self.keys, client_id, path);
                Value::Deleted
            }
            Change::SaveOffset {
                tenant,
                group,
                record,
            } => {
                let shard = Shard {
                    name: record.shard_name,
                    topic: record.topic,
                    partition: record.partition,
                };
                keys::offset(self.keys, tenant, group, shard);
                self.offsets = true;
                let key = start..self.keys.len();
                expected.extend(record.expected.map(|offset| Expected { key, offset }));
                Value::Offset(record.offset)
            }
            Change::PutValue { key, value } => {
                keys::value(self.keys, key);
                Value::Bytes(value)
            }
            Change::DeleteValue { key } => {
                keys::value(self.keys, key);
                Value::Deleted
            }
        };
        let key = start..self.keys.len();
        self.slots.push(Slot { key, value });
    }

    /// Forgets what `collected` added.
    fn take_back(&mut self, collected: &Collected) {
        self.keys.truncate(collected.keys_before);
        self.slots.truncate(collected.slots_before);
        self.offsets = collected.offsets_before;
    }

    /// Keeps a command's changes if what it expects is so; else none of them.
    /// No offset that came before may still wait.
    pub(super) fn judge(
        &mut self,
        db: &DB,
        store: &StateStore,
        collected: &Collected,
    ) -> io::Result<Applied> {
        for Expected { key, offset } in &collected.expected {
            let key = &self.keys[key.clone()];
            let stored = db
                .get_pinned(key)
                .map_err(|error| database::named(db.path(), &error))?;
            let found = match &stored {
                Some(stored) => view::parse_offset(stored).ok_or_else(|| store.damaged(key))?,
                // What was never saved is as what was saved as 0: else nobody
                // could expect to be the first.
                None => 0,
            };
            if found != *offset {
                self.take_back(collected);
                return Ok(Applied::Conflict);
            }
        }
        Ok(Applied::Done)
    }

    /// The changes before `collected`, which then no longer wait.
    pub(super) fn batch_before(&mut self, collected: &mut Collected) -> WriteBatch {
        let rest = self.slots.split_off(collected.slots_before);
        let before = std::mem::replace(&mut self.slots, rest);
        collected.slots_before = 0;
        collected.offsets_before = false;
        sorted(self.keys, before)
    }

    /// All of them.
    pub(super) fn into_batch(self) -> WriteBatch {
        sorted(self.keys, self.slots)
    }
}

impl Collected {
    /// Whether it depends on what the state holds.
    pub(super) fn is_conditional(&self) -> bool {
        !self.expected.is_empty()
    }

    /// Whether offsets wait that came before it.
    pub(super) const fn has_offsets_before(&self) -> bool {
        self.offsets_before
    }
}

/// The changes as a write batch in key order; of equal keys, only the last.
fn sorted(keys: &[u8], mut slots: Vec<Slot<'_>>) -> WriteBatch {
    slots.sort_by(|a, b| keys[a.key.clone()].cmp(&keys[b.key.clone()]));
    let mut batch = WriteBatch::default();
    let mut slots = slots.into_iter().peekable();
    while let Some(slot) = slots.next() {
        let key = &keys[slot.key];
        if slots
            .peek()
            .is_some_and(|later| keys[later.key.clone()] == *key)
        {
            continue;
        }
        match slot.value {
            Value::Bytes(value) => batch.put(key, value),
            Value::Offset(offset) => batch.put(key, view::stored_offset(offset)),
            Value::Deleted => batch.delete(key),
        }
    }
    batch
}
