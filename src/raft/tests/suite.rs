//! openraft's own suite, over the stores as they run in production.

use std::sync::Arc;

use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;

use super::{log_metrics, metrics};
use crate::raft::{
    log_disk::BUFFER_BYTES,
    log_store::{LogDatabase, LogStore},
    machine::Machine,
    state::StateStore,
    types::Types,
};

struct Stores;

/// Keeps a store's directory until its databases are closed.
struct Home {
    log: Arc<LogDatabase>,
    state: Arc<StateStore>,
    _directory: TempDir,
}

impl Drop for Home {
    fn drop(&mut self) {
        // The suite has dropped its handles; a test that has not would hang.
        self.log.close().unwrap();
        self.state.database.close().unwrap();
    }
}

impl StoreBuilder<Types, LogStore, Machine, Home> for Stores {
    async fn build(&self) -> Result<(Home, LogStore, Machine), StorageError<Types>> {
        let directory = tempfile::tempdir().unwrap();
        let metrics = Arc::new(metrics());
        let log =
            LogDatabase::open(&directory.path().join("log"), BUFFER_BYTES, log_metrics()).unwrap();
        let state = Arc::new(StateStore::open(&directory.path().join("group-0")).unwrap());
        let store = log.group(0, Arc::clone(&metrics)).unwrap();
        let (machine, _gone) = Machine::start(Arc::clone(&state), metrics, u64::MAX).unwrap();
        Ok((
            Home {
                log,
                state,
                _directory: directory,
            },
            store,
            machine,
        ))
    }
}

#[tokio::test]
async fn the_stores_pass_openrafts_own_suite() {
    Suite::test_all(Stores).await.unwrap();
}
