//! What a node's groups need to know to open, and why they do not.

use std::{io, path::PathBuf};

use super::{
    clock::Clock,
    directory::{DirectoryError, Identity},
    groups::GROUPS_MAX,
    line::Pipeline,
    log_disk::BUFFER_BYTES,
    network::Peers,
    runtime::Runtime,
};

/// The smallest write buffer of the log.
const LOG_BUFFER_LEAST: usize = 1 << 20;

/// What the groups of a node need to know to open.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// Where log, state and snapshots lie.
    pub data_dir: PathBuf,
    /// How many proposals of a group may be under way at once.
    pub pipeline: Pipeline,
    /// Which threads the groups' cores run on.
    pub runtime: Runtime,
    /// Whom the directory belongs to, and how many groups it holds.
    pub identity: Identity,
    /// A group's snapshot is due when the log since the last one weighs this many
    /// bytes, or as much as the state if that is more.
    pub log_bytes_max: u64,
    /// How fast a lost leader is noticed.
    pub clock: Clock,
    /// The other nodes of the cluster; `None` for a node that is one by itself.
    pub peers: Option<Peers>,
}

impl GroupSettings {
    /// Settings of a lone node with one group: pipelined, on the caller's
    /// runtime, node 1 of the cluster `ferry`, a snapshot at every GiB of log.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            pipeline: Pipeline::default(),
            runtime: Runtime::default(),
            identity: Identity::alone(),
            log_bytes_max: 1 << 30,
            clock: Clock::default(),
            peers: None,
        }
    }

    /// Write buffers that hold no more log than is kept anyway.
    pub(super) fn log_buffer_bytes(&self) -> usize {
        let kept = usize::try_from(self.log_bytes_max).unwrap_or(usize::MAX);
        kept.clamp(LOG_BUFFER_LEAST, BUFFER_BYTES)
    }

    pub(super) fn store_error(&self, source: io::Error) -> OpenError {
        OpenError::Store {
            path: self.data_dir.clone(),
            source,
        }
    }

    pub(super) fn raft_error(&self, reason: &dyn ToString) -> OpenError {
        OpenError::Raft {
            path: self.data_dir.clone(),
            reason: reason.to_string(),
        }
    }
}

/// Why a group does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Its settings ask for no group, or for too many.
    #[error("{groups} Raft groups: must be 1 to {GROUPS_MAX}; set groups to one of them")]
    Groups {
        /// How many were asked for.
        groups: u32,
    },
    /// Its metrics are registered already.
    #[error("metrics: {0}; open each node's groups with a registry of their own")]
    Metrics(#[from] prometheus::Error),
    /// It belongs to a node of a cluster, and was to be opened alone.
    #[error(
        "data directory {path}: it belongs to node {node} of cluster {cluster:?}, which takes \
         writes only together with the others; start it with --config and its node's file, or \
         choose another directory"
    )]
    Member {
        /// The directory.
        path: PathBuf,
        /// The node's number.
        node: u64,
        /// The cluster's name.
        cluster: String,
    },
    /// What is in the directory cannot be used.
    #[error("data directory {path}: {source}")]
    Store {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The state is behind what the log has let go of.
    #[error(
        "data directory {path}: the log begins behind entry {purged} and the state ends at \
         {applied}; restore log and state from the same backup"
    )]
    Parted {
        /// The directory.
        path: PathBuf,
        /// The last purged log entry.
        purged: u64,
        /// The last applied log entry, or `nothing`.
        applied: String,
    },
    /// openraft does not start.
    #[error("data directory {path}: the Raft group does not start: {reason}")]
    Raft {
        /// The directory.
        path: PathBuf,
        /// What openraft says.
        reason: String,
    },
}
