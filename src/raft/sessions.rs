//! The read side: the sessions that have been applied.
//!
//! Reads never pass through Raft; they see what this node has applied. Listing
//! reads a RocksDB snapshot, so it shows one moment however long it takes, and
//! holds one record at a time however many there are.

use std::{io, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use rocksdb::ReadOptions;

use super::{database, keys, state::StateStore};

/// How many records pass between two looks at whether the group is shut down.
const CLOSE_CHECK: u64 = 256;

/// The applied sessions of one group.
#[derive(Clone)]
pub struct Sessions(Arc<StateStore>);

impl Sessions {
    pub(crate) const fn new(store: Arc<StateStore>) -> Self {
        Self(store)
    }

    /// The session of one client. May block on the disk.
    ///
    /// # Errors
    /// If the database cannot be read, or the group was shut down.
    pub fn get(&self, client_id: &[u8]) -> io::Result<Option<Bytes>> {
        let key = [&[keys::SESSIONS], client_id].concat();
        let db = self.0.database.get()?;
        let value = db
            .get(key)
            .map_err(|error| database::named(db.path(), &error))?;
        Ok(value.map(Bytes::from))
    }

    /// Shows every session of one moment to `visit`, in the order of their
    /// client ids, until it breaks. Returns how many it was shown. Blocks: call
    /// it from a thread that may.
    ///
    /// # Errors
    /// If the database cannot be read, or the group is shut down meanwhile.
    pub fn for_each(
        &self,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> io::Result<u64> {
        let db = self.0.database.get()?;
        let moment = db.snapshot();
        let mut options = ReadOptions::default();
        options.set_iterate_range(&[keys::SESSIONS][..]..&keys::SESSIONS_END[..]);
        options.fill_cache(false);
        let mut records = moment.raw_iterator_opt(options);
        records.seek_to_first();
        let mut shown = 0;
        while let Some((key, session)) = records.item() {
            if shown % CLOSE_CHECK == 0 && self.0.database.is_closed() {
                return Err(io::Error::other("the Raft group is shutting down"));
            }
            let Some(client_id) = keys::parse_session(key) else {
                break;
            };
            shown += 1;
            if visit(client_id, session).is_break() {
                return Ok(shown);
            }
            records.next();
        }
        records
            .status()
            .map_err(|error| database::named(db.path(), &error))?;
        Ok(shown)
    }

    /// The exact number of sessions. Reads them all; blocks.
    ///
    /// # Errors
    /// As [`Sessions::for_each`].
    pub fn count(&self) -> io::Result<u64> {
        self.for_each(|_, _| ControlFlow::Continue(()))
    }
}
