//! The read side: what one group has applied.
//!
//! A view never passes through Raft; it shows what this node has applied. What
//! reads more than one record reads a RocksDB snapshot, so it shows one moment
//! however long it takes, and holds one record at a time however many there are.

use std::{io, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use rocksdb::{PrefixRange, ReadOptions};

use super::{
    database,
    keys::{self, Shard},
    sessions::Sessions,
    state::StateStore,
};

/// How many records pass between two looks at whether the state still counts.
const CLOSE_CHECK: u64 = 256;

/// What one group has applied.
#[derive(Clone)]
pub struct View(Arc<StateStore>);

impl View {
    pub(crate) const fn new(store: Arc<StateStore>) -> Self {
        Self(store)
    }

    /// Its sessions.
    #[must_use]
    pub fn sessions(&self) -> Sessions {
        Sessions(self.clone())
    }

    /// Shows every subscription of one moment to `visit` until it breaks.
    /// Returns how many it was shown. Blocks: call it from a thread that may.
    ///
    /// # Errors
    /// If the database cannot be read, or the group is shut down or the state
    /// replaced by a snapshot meanwhile.
    pub fn subscriptions(
        &self,
        mut visit: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<u64> {
        self.each(&[keys::SUBSCRIPTIONS], |_, subscribe| visit(subscribe))
    }

    /// Shows every shard of one consumer group and how far the group has come
    /// in it to `visit`, as [`View::subscriptions`] does.
    ///
    /// # Errors
    /// As [`View::subscriptions`], or if a record is damaged.
    pub fn offsets(
        &self,
        tenant: &[u8],
        group: &[u8],
        mut visit: impl FnMut(Shard<'_>, u64) -> ControlFlow<()>,
    ) -> io::Result<u64> {
        let mut prefix = Vec::new();
        keys::offsets_of(&mut prefix, tenant, group);
        let mut damaged = None;
        let shown = self.each(&prefix, |key, value| {
            match keys::parse_offset(key).zip(parse_offset(value)) {
                Some((shard, offset)) => visit(shard, offset),
                None => {
                    damaged = Some(self.0.damaged(key));
                    ControlFlow::Break(())
                }
            }
        })?;
        damaged.map_or(Ok(shown), Err)
    }

    /// The value of one key. May block on the disk.
    ///
    /// # Errors
    /// If the database cannot be read, or the group was shut down.
    pub fn value(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        let mut stored = Vec::with_capacity(1 + key.len());
        keys::value(&mut stored, key);
        self.read(&stored)
    }

    /// Shows every value whose key begins with `prefix` and its key to
    /// `visit`, in the order of the keys, as [`View::subscriptions`] does.
    ///
    /// # Errors
    /// As [`View::subscriptions`].
    pub fn values(
        &self,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> io::Result<u64> {
        let mut stored = Vec::with_capacity(1 + prefix.len());
        keys::value(&mut stored, prefix);
        self.each(&stored, |key, value| visit(&key[1..], value))
    }

    /// The record under `key`.
    pub(super) fn read(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        let db = self.0.database.get()?;
        let value = db
            .get(key)
            .map_err(|error| database::named(db.path(), &error))?;
        Ok(value.map(Bytes::from))
    }

    /// Shows every record whose key begins with `prefix` to `visit`.
    pub(super) fn each(
        &self,
        prefix: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> io::Result<u64> {
        let db = self.0.database.get()?;
        let moment = db.snapshot();
        let mut options = ReadOptions::default();
        options.set_iterate_range(PrefixRange(prefix));
        options.fill_cache(false);
        let mut records = moment.raw_iterator_opt(options);
        records.seek_to_first();
        let mut shown = 0;
        while let Some((key, value)) = records.item() {
            if shown % CLOSE_CHECK == 0 && self.0.database.is_closed() {
                return Err(io::Error::other("the Raft group is shutting down"));
            }
            if shown % CLOSE_CHECK == 0 && db.is_replaced() {
                return Err(io::Error::other(
                    "a snapshot from the leader has replaced the state meanwhile; ask again",
                ));
            }
            shown += 1;
            if visit(key, value).is_break() {
                return Ok(shown);
            }
            records.next();
        }
        records
            .status()
            .map_err(|error| database::named(db.path(), &error))?;
        Ok(shown)
    }
}

/// How an offset is stored.
pub(super) const fn stored_offset(offset: u64) -> [u8; 8] {
    offset.to_be_bytes()
}

/// The offset that [`stored_offset`] stored.
pub(super) fn parse_offset(stored: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(stored.try_into().ok()?))
}
