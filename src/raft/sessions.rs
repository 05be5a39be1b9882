//! The sessions that one group has applied.

use std::{io, ops::ControlFlow};

use bytes::Bytes;

use super::{keys, view::View};

/// The applied sessions of one group.
#[derive(Clone)]
pub struct Sessions(pub(super) View);

impl Sessions {
    /// The session of one client. May block on the disk.
    ///
    /// # Errors
    /// If the database cannot be read, or the group was shut down.
    pub fn get(&self, client_id: &[u8]) -> io::Result<Option<Bytes>> {
        let mut key = Vec::with_capacity(1 + client_id.len());
        keys::session(&mut key, client_id);
        self.0.read(&key)
    }

    /// Shows every session of one moment to `visit`, in the order of their
    /// client ids, until it breaks. Returns how many it was shown. Blocks: call
    /// it from a thread that may.
    ///
    /// # Errors
    /// As [`View::subscriptions`].
    pub fn for_each(
        &self,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> io::Result<u64> {
        // Behind the table's byte, a key is the client id.
        self.0
            .each(&[keys::SESSIONS], |key, session| visit(&key[1..], session))
    }

    /// The exact number of sessions. Reads them all; blocks.
    ///
    /// # Errors
    /// As [`Sessions::for_each`].
    pub fn count(&self) -> io::Result<u64> {
        self.for_each(|_, _| ControlFlow::Continue(()))
    }
}
