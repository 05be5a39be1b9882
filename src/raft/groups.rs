//! All Raft groups of a node: opened together, closed together, chosen by key.
//!
//! They share the data directory, the log database and its writer thread, so
//! that one sync serves all of them; each has a core, a state database and an
//! apply thread of its own. A key's group is a stable hash of it
//! ([`crate::wire::group_of`]) over a number of groups that never changes.

use std::{
    io,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use futures_util::future::join_all;
use prometheus::Registry;

use super::{
    directory::{Directory, DirectoryError, Identity},
    group::Group,
    log_store::LogDatabase,
    machine,
    metrics::{LogMetrics, RaftMetrics},
    network::Badge,
    settings::{GroupSettings, OpenError},
};
use crate::wire;

/// The most groups that a node opens: each has memory and threads of its own.
pub const GROUPS_MAX: u32 = 64;

/// The open groups of a node. Clones are handles to the same ones.
#[derive(Clone, Debug)]
pub struct Groups(Arc<[Group]>);

impl Groups {
    /// Opens every group in the settings' directory, or begins them there.
    /// Returns when each leads and has applied everything that its log had
    /// before.
    ///
    /// # Errors
    /// One clear line: the directory is in use, unusable, somebody else's, or
    /// what is in it is damaged.
    pub async fn open(settings: GroupSettings, registry: &Registry) -> Result<Self, OpenError> {
        let groups = settings.identity.groups;
        if groups == 0 || groups > GROUPS_MAX {
            return Err(OpenError::Groups { groups });
        }
        let log_metrics = LogMetrics::register(registry)?;
        let metrics = (0..groups)
            .map(|group| RaftMetrics::register(registry, group))
            .collect::<prometheus::Result<Vec<_>>>()?;
        let settings = Arc::new(settings);
        let opening = Arc::clone(&settings);
        let home = machine::blocking(move || Ok(Home::open(&opening, log_metrics)))
            .await
            .map_err(|source| settings.store_error(source))??;
        let launches = (0..).zip(metrics).map(|(group, metrics)| {
            let (settings, home) = (Arc::clone(&settings), Arc::clone(&home));
            Group::launch(group, settings, home, metrics)
        });
        let (mut open, mut fault) = (Vec::new(), None);
        for launched in join_all(launches).await {
            match launched {
                Ok(group) => open.push(group),
                Err(error) => fault = fault.or(Some(error)),
            }
        }
        let groups = Self(open.into());
        if fault.is_none() {
            // Before anything is acknowledged, which nobody can ask for yet.
            let laid_out = machine::blocking(move || Ok(home.settle())).await;
            let laid_out = laid_out.map_err(|source| settings.store_error(source));
            fault = laid_out.and_then(|done| Ok(done?)).err();
        }
        if let Some(fault) = fault {
            // The fault is what is told; a group that does not close either
            // would only hide it.
            groups.shutdown().await.ok();
            return Err(fault);
        }
        Ok(groups)
    }

    #[cfg(test)]
    pub(super) fn of_one(group: Group) -> Self {
        Self([group].into())
    }

    /// How many there are.
    ///
    /// # Panics
    /// Never: without a group there are no `Groups`.
    #[must_use]
    pub fn count(&self) -> NonZeroU32 {
        let count = u32::try_from(self.0.len()).ok().and_then(NonZeroU32::new);
        count.expect("1..=GROUPS_MAX were opened")
    }

    /// All of them, in order.
    #[must_use]
    pub fn all(&self) -> &[Group] {
        &self.0
    }

    /// The group at `number`, from 0.
    ///
    /// # Panics
    /// If there are not so many.
    #[must_use]
    pub fn at(&self, number: u32) -> &Group {
        &self.0[number as usize]
    }

    /// The group that holds what has this key: the fields that decide, in their
    /// order.
    #[must_use]
    pub fn of(&self, key: &[&[u8]]) -> &Group {
        self.at(self.number_of(key))
    }

    /// The number of the group that holds what has this key.
    #[must_use]
    pub fn number_of(&self, key: &[&[u8]]) -> u32 {
        wire::group_of(key.iter().copied(), self.count())
    }

    /// Whether every group takes writes.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.iter().all(Group::is_ready)
    }

    /// Proposals handed to the cores since the groups were opened.
    #[must_use]
    pub fn proposals(&self) -> u64 {
        self.0.iter().map(Group::proposals).sum()
    }

    /// Entries that were proposed although their caller had left, since the
    /// groups were opened.
    #[must_use]
    pub fn ghosts(&self) -> u64 {
        self.0.iter().map(Group::ghosts).sum()
    }

    /// Stops the groups, makes their state durable and closes their directory,
    /// so that it can be opened again at once. A second call does nothing.
    ///
    /// # Errors
    /// If a state cannot be flushed or a database stays in use; nothing that
    /// was acknowledged is lost even then, since the log has it.
    pub async fn shutdown(&self) -> io::Result<()> {
        let closed = join_all(self.0.iter().map(Group::shutdown)).await;
        closed.into_iter().collect()
    }
}

/// Refuses the directory of a cluster's node to whoever has no peers: it would
/// wait for a leadership that only the others can give.
fn is_alone(settings: &GroupSettings) -> Result<(), OpenError> {
    let Identity { cluster, node, .. } = &settings.identity;
    let badge = Badge::open(&settings.data_dir, cluster, *node);
    let badge = badge.map_err(|source| settings.store_error(source))?;
    badge.id().map_or(Ok(()), |_| {
        Err(OpenError::Member {
            path: settings.data_dir.clone(),
            node: *node,
            cluster: cluster.clone(),
        })
    })
}

/// What the groups of a node share on disk.
pub(super) struct Home {
    pub(super) log: Arc<LogDatabase>,
    /// Groups that have not been shut down.
    left: AtomicU32,
    directory: Mutex<Option<Directory>>,
}

impl Home {
    /// Blocks.
    fn open(settings: &GroupSettings, metrics: LogMetrics) -> Result<Arc<Self>, OpenError> {
        let directory = Directory::open(&settings.data_dir, &settings.identity)?;
        if settings.peers.is_none() {
            is_alone(settings)?;
        }
        let log = LogDatabase::open(&directory.log(), settings.log_buffer_bytes(), metrics)
            .map_err(|source| settings.store_error(source))?;
        if let Err(fault) = directory.settle_log() {
            log.close().map_err(|source| settings.store_error(source))?;
            return Err(fault.into());
        }
        Ok(Arc::new(Self {
            log,
            left: AtomicU32::new(settings.identity.groups),
            directory: Mutex::new(Some(directory)),
        }))
    }

    /// All groups are open, and what they lie in is whole. Blocks.
    fn settle(&self) -> Result<(), DirectoryError> {
        let mut directory = self
            .directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        directory.as_mut().map_or(Ok(()), Directory::settle)
    }

    /// A group is shut down; the last one closes the log. Blocks.
    pub(super) fn leave(&self) -> io::Result<()> {
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(());
        }
        let closed = self.log.close();
        let mut directory = self
            .directory
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        drop(directory.take());
        closed
    }
}
