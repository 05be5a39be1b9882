//! A backup: what all groups of a node hold, as one file.
//!
//! ```text
//! "FERRYBK1"   format
//! block        the head: whose it is, and how many groups, as JSON
//! …            each group: its position and its records, as `blocks` has them
//! ```
//! A group is saved from a checkpoint, which is hard links to the files of its
//! state database: writes go on, nothing of the running database is held, and
//! whoever reads slowly costs disk space alone. All checkpoints are made before
//! the first is read, and each group is asked to catch up before its own: so
//! every write that was acknowledged before the save is in it.
//!
//! A backup is restored as the beginning of something new. Its records are
//! those that were saved; its log begins anew, and whoever restores it is its
//! only member. The nodes of the old cluster could otherwise go on with a log
//! that the restored one does not know.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use openraft::{BasicNode, Membership, impls::leader_id_adv::LeaderId};
use prometheus::Registry;
use rocksdb::{DB, checkpoint::Checkpoint};
use serde::{Deserialize, Serialize};

use super::{
    blocks::{self, BLOCK_BYTES, Blocks, Named},
    database,
    directory::{Directory, DirectoryError, Identity, group_home},
    groups::{GROUPS_MAX, Groups},
    machine,
    network::{Badge, ReadError},
    settings::{GroupSettings, OpenError},
    state::{self, Position, StateStore},
    types::{LogId, StoredMembership},
};

const MAGIC: [u8; 8] = *b"FERRYBK1";

/// Whose backup it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The version of ferry that saved it.
    pub ferry: String,
    /// The node that it was saved from, and its groups.
    #[serde(flatten)]
    pub identity: Identity,
}

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// Whose it is.
    pub origin: Origin,
    /// Records of each group: sessions, subscriptions, offsets, values.
    pub records: Vec<u64>,
}

/// Which moment a save is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// After every write that was acknowledged before now, by any node.
    Now,
    /// What this node has applied, whatever the others have: for what is left
    /// where no majority runs any more.
    Stale,
}

/// Why nothing was saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The writes before now could not be waited for.
    #[error(
        "group {group}: its writes before now cannot be known: {source}; for what this node has \
         applied, ask for a stale backup"
    )]
    Unordered {
        /// The group.
        group: u32,
        /// Why.
        source: ReadError,
    },
    /// There is nothing to save.
    #[error("data directory {path}: nothing was ever kept in it; name the one that ferry uses")]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// It is one of several, which may know of writes that it does not.
    #[error(
        "data directory {path}: it belongs to node {node} of cluster {cluster:?}, and only \
         together do its nodes know what was acknowledged; save from a node that runs, by its \
         admin address (where no majority runs any more: start this node alone, and ask for a \
         stale backup)"
    )]
    Member {
        /// The directory.
        path: PathBuf,
        /// The node's number.
        node: u64,
        /// The cluster's name.
        cluster: String,
    },
    /// Its groups do not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The disk refuses.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The directory is not one to restore into.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The backup is of another number of groups.
    #[error(
        "backup {path}: it has {found} groups, and groups: {expected} is configured; a key's group \
         is fixed by that number: set groups to {found}"
    )]
    Groups {
        /// The backup.
        path: PathBuf,
        /// How many it has.
        found: u32,
        /// How many were asked for.
        expected: u32,
    },
    /// The backup is damaged, or the disk refuses.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// Who a restored directory will belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heir {
    /// Its cluster, its number, and its groups.
    pub identity: Identity,
    /// Where its peers will call it; `None` for a node that is one by itself.
    pub peer: Option<String>,
}

impl Groups {
    /// Saves what all groups hold to `out`, while they go on.
    ///
    /// # Errors
    /// If the moment cannot be reached, or if a disk or `out` refuses.
    pub async fn save(
        &self,
        moment: Moment,
        out: impl Write + Send + 'static,
    ) -> Result<Contents, SaveError> {
        if moment == Moment::Now {
            for (group, open) in (0..).zip(self.all()) {
                let level = open.linearize().await;
                level.map_err(|source| SaveError::Unordered { group, source })?;
            }
        }
        let groups = self.clone();
        Ok(machine::blocking(move || write(&groups, out)).await?)
    }
}

fn write(groups: &Groups, out: impl Write) -> io::Result<Contents> {
    let origin = Origin {
        ferry: env!("CARGO_PKG_VERSION").to_owned(),
        identity: groups.at(0).identity().clone(),
    };
    let copies = groups.all().iter().map(|group| group.state().copy());
    let copies = copies.collect::<io::Result<Vec<_>>>()?;
    let mut out = BufWriter::with_capacity(BLOCK_BYTES, out);
    out.write_all(&MAGIC)?;
    blocks::write_head(&mut out, &origin)?;
    let mut records = Vec::new();
    for copy in &copies {
        let db = state::open_copy(&copy.0)?;
        let moment = db.snapshot();
        blocks::write_position(&mut out, &Position::read(&db, &moment)?)?;
        let count = blocks::write_records(&mut out, &db, &moment)?;
        blocks::write_end(&mut out, count)?;
        records.push(count);
    }
    out.flush()?;
    Ok(Contents { origin, records })
}

/// Saves what a node by itself keeps in `data_dir` while it does not run: its
/// groups are opened, as it would open them, and closed again.
///
/// # Errors
/// If there is nothing, somebody uses it, it is a node of a cluster, or a disk
/// refuses.
pub async fn save_stopped(
    data_dir: &Path,
    out: impl Write + Send + 'static,
) -> Result<Contents, SaveError> {
    let path = || data_dir.to_owned();
    let identity = Identity::of(data_dir).map_err(OpenError::from)?;
    let identity = identity.ok_or_else(|| SaveError::Empty { path: path() })?;
    let Identity { cluster, node, .. } = &identity;
    if Badge::open(data_dir, cluster, *node)?.id().is_some() {
        return Err(SaveError::Member {
            path: path(),
            node: *node,
            cluster: cluster.clone(),
        });
    }
    let mut settings = GroupSettings::new(data_dir);
    settings.identity = identity;
    let groups = Groups::open(settings, &Registry::new()).await?;
    let saved = groups.save(Moment::Now, out).await;
    groups.shutdown().await?;
    saved
}

/// A checkpoint of a state database, removed when it is dropped.
pub(super) struct Copy(PathBuf);

impl Copy {
    /// Makes one at `path`. Blocks for a flush.
    pub(super) fn of(db: &DB, path: PathBuf) -> io::Result<Self> {
        let made = Checkpoint::new(db).and_then(|copy| copy.create_checkpoint(&path));
        made.map_err(|error| database::named(&path, &error))?;
        Ok(Self(path))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            let path = self.0.display();
            tracing::warn!(%error, "{path} stays until the next start: it cannot be removed");
        }
    }
}

/// Reads a backup from its begin to its end, and tells what it holds. Blocks.
///
/// # Errors
/// If it cannot be read, or anything in it is not as it was saved.
pub fn read(path: &Path) -> io::Result<Contents> {
    let (mut blocks, origin) = open(path)?;
    let mut records = Vec::new();
    for _ in 0..origin.identity.groups {
        blocks.position()?;
        records.push(blocks.records(|_| Ok(()))?);
    }
    blocks.end()?;
    Ok(Contents { origin, records })
}

/// Lays out a data directory at `into` with what a backup holds, for `heir`:
/// the only member of its groups, whose log begins anew. The backup is read to
/// its end before anything is made, and the directory counts only when it is
/// whole. Blocks.
///
/// # Errors
/// One clear line: the backup is damaged or of other groups, or the directory
/// has something in it.
pub fn restore(from: &Path, into: &Path, heir: &Heir) -> Result<Contents, RestoreError> {
    let contents = read(from)?;
    let (found, expected) = (contents.origin.identity.groups, heir.identity.groups);
    if found != expected {
        return Err(RestoreError::Groups {
            path: from.to_owned(),
            found,
            expected,
        });
    }
    let vacant = Directory::vacant(into)?;
    let (mut blocks, _) = open(from)?;
    for group in 0..found {
        blocks.position()?;
        let home = group_home(into, group);
        let state = StateStore::open(&home)?;
        state.begin(&first_position(heir), |db| blocks.load(db))?;
        state.database.close()?;
        database::sync_directory(&home)?;
    }
    if heir.peer.is_some() {
        let Identity { cluster, node, .. } = &heir.identity;
        Badge::open(into, cluster, *node)?.draw()?;
    }
    vacant.settle(&heir.identity)?;
    Ok(contents)
}

/// Where the log of a restored group begins: as if its one member had founded
/// it, and had applied nothing but that.
fn first_position(heir: &Heir) -> Position {
    let node = heir.identity.node;
    let leader = LeaderId {
        term: 0,
        node_id: node,
    };
    let begin = LogId::new(leader, 0);
    let address = heir.peer.clone().unwrap_or_default();
    let nodes = BTreeMap::from([(node, BasicNode::new(address))]);
    let members = Membership::new(vec![BTreeSet::from([node])], nodes);
    let members = members.expect("its one voter is among its nodes");
    Position {
        applied: Some(begin),
        membership: StoredMembership::new(Some(begin), members),
    }
}

fn open(path: &Path) -> io::Result<(Blocks<'_, BufReader<File>>, Origin)> {
    let file = File::open(path);
    let file = file.map_err(|error| {
        let told = format!("backup {}: it cannot be opened: {error}", path.display());
        io::Error::new(error.kind(), told)
    })?;
    let named = Named {
        what: "backup",
        path,
        remedy: "restore another one",
    };
    let file = BufReader::with_capacity(BLOCK_BYTES, file);
    let mut blocks = Blocks::begin(named, file, MAGIC)?;
    let origin: Origin = blocks.head()?;
    match origin.identity.groups {
        1..=GROUPS_MAX => Ok((blocks, origin)),
        groups => Err(named.corrupt(&format!(
            "it has {groups} groups: must be 1 to {GROUPS_MAX}"
        ))),
    }
}
