//! The directory in which a node keeps its groups, and its header.
//!
//! The header says what the directory holds and for whom, so that a directory
//! of another node, another cluster, another number of groups or another
//! version is refused with its reason before anything in it is touched. So is
//! one that was whole and is not any more: what begins anew where a log or a
//! state was missing has lost what it acknowledged, and may vote twice. A lock
//! beside it keeps a second process out, with a clearer word than RocksDB's.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    database,
    header::{self, FORMAT, Header, Layout},
};

const HEADER: &str = "HEADER";
const LOCK: &str = "LOCK";
const LOG: &str = "log";
/// The file without which RocksDB begins a database, and a group its state.
const CURRENT: &str = "CURRENT";

/// Whom a directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster's name; nodes of different clusters must never meet.
    pub cluster: String,
    /// This node's number in the cluster.
    pub node: u64,
    /// How many Raft groups the directory holds.
    pub groups: u32,
}

impl Identity {
    /// A node that is one by itself, with one group.
    #[must_use]
    pub fn alone() -> Self {
        Self {
            cluster: "ferry".into(),
            node: 1,
            groups: 1,
        }
    }

    /// Whom the directory at `path` belongs to; `None` if nobody has begun one.
    pub(crate) fn of(path: &Path) -> Result<Option<Self>, DirectoryError> {
        Ok(read_header(path)?.map(|header| header.identity))
    }
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process, or another group in this one, has it open.
    #[error(
        "data directory {path}: it is in use by another process; stop that one, or choose another \
         directory"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The file system refuses.
    #[error(
        "data directory {path}: cannot {action}: {source}; choose a directory that this user may \
         write"
    )]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the file system said.
        source: io::Error,
    },
    /// It has groups in it and no header.
    #[error(
        "data directory {path}: it holds groups but no {HEADER} file; restore the file from a \
         backup, or choose an empty directory"
    )]
    NoHeader {
        /// The directory.
        path: PathBuf,
    },
    /// It was laid out, and part of that is gone.
    #[error(
        "data directory {path}: {missing} is missing, and what was acknowledged is in it; put it \
         back, or restore a backup into an empty directory (a node of a cluster: remove it from \
         the cluster, empty the directory and add it again)"
    )]
    Lost {
        /// The directory.
        path: PathBuf,
        /// What should be in it.
        missing: String,
    },
    /// It was to be restored into, and is not empty.
    #[error(
        "data directory {path}: it is not empty, {found} is in it; a backup is restored into an \
         empty directory: choose another, or move what is there away"
    )]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// Something that is in it.
        found: String,
    },
    /// Its header does not parse.
    #[error(
        "data directory {path}: its {HEADER} file is damaged ({fault}); restore the file from a \
         backup, or choose an empty directory"
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// A version wrote it that this one does not know.
    #[error(
        "data directory {path}: its format is {found}, and this version reads format {FORMAT}; use \
         the version of ferry that wrote it, or choose an empty directory"
    )]
    Format {
        /// The directory.
        path: PathBuf,
        /// The format that its header names.
        found: u32,
    },
    /// It was laid out for another number of groups.
    #[error(
        "data directory {path}: it was laid out for groups: {found}, and groups: {expected} is \
         configured; a key's group is fixed by that number, so it cannot change: set groups to \
         {found}, or start with an empty directory and write the data again"
    )]
    Groups {
        /// The directory.
        path: PathBuf,
        /// How many groups it holds.
        found: u32,
        /// How many the settings ask for.
        expected: u32,
    },
    /// It belongs to somebody else.
    #[error(
        "data directory {path}: it belongs to {what} {found}, and this node is configured as \
         {what} {expected}; correct the setting, or choose another directory"
    )]
    Stranger {
        /// The directory.
        path: PathBuf,
        /// Which part of the identity differs.
        what: &'static str,
        /// What the header says.
        found: String,
        /// What the settings say.
        expected: String,
    },
}

/// A data directory that this process alone has open.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    header: Header,
    _lock: File,
}

impl Directory {
    /// Opens the directory, or lays one out where there is none.
    pub(crate) fn open(path: &Path, identity: &Identity) -> Result<Self, DirectoryError> {
        let lock = lock(path)?;
        let header = match read_header(path)? {
            Some(header) => {
                check(path, &header.identity, identity)?;
                check_layout(path, &header)?;
                header
            }
            None => {
                // A group without a header is what a restore left that did not end.
                if path.join(LOG).exists() || group_home(path, 0).exists() {
                    return Err(DirectoryError::NoHeader {
                        path: path.to_owned(),
                    });
                }
                let header = Header::new(identity, Layout::Begun);
                write_header(path, &header)?;
                header
            }
        };
        Ok(Self {
            path: path.to_owned(),
            header,
            _lock: lock,
        })
    }

    /// The log is there: its name is made durable before that of a group is.
    pub(crate) fn settle_log(&self) -> Result<(), DirectoryError> {
        match self.header.layout {
            Layout::Whole => Ok(()),
            Layout::Begun | Layout::Restored => self.sync(),
        }
    }

    /// The log and every group are there, and have to be from now on.
    pub(crate) fn settle(&mut self) -> Result<(), DirectoryError> {
        if self.header.layout == Layout::Whole {
            return Ok(());
        }
        self.sync()?;
        self.header.layout = Layout::Whole;
        write_header(&self.path, &self.header)
    }

    fn sync(&self) -> Result<(), DirectoryError> {
        database::sync_directory(&self.path)
            .map_err(|source| unusable(&self.path, "sync it", source))
    }

    /// Takes a directory that is empty, or makes it.
    pub(crate) fn vacant(path: &Path) -> Result<Vacant, DirectoryError> {
        let lock = lock(path)?;
        let found = fs::read_dir(path).map_err(|source| unusable(path, "read it", source))?;
        for entry in found {
            let entry = entry.map_err(|source| unusable(path, "read it", source))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // The second is a file system's own, at its root.
            if name != LOCK && name != "lost+found" {
                return Err(DirectoryError::Occupied {
                    path: path.to_owned(),
                    found: name,
                });
            }
        }
        Ok(Vacant {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Where the log database of all groups lies.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }
}

/// A directory that this process has for itself, and that counts for nothing
/// until it has a header.
#[derive(Debug)]
pub(crate) struct Vacant {
    path: PathBuf,
    _lock: File,
}

impl Vacant {
    /// Lets what was laid out in it count, for `identity`.
    pub(crate) fn settle(self, identity: &Identity) -> Result<(), DirectoryError> {
        write_header(&self.path, &Header::new(identity, Layout::Restored))
    }
}

fn read_header(path: &Path) -> Result<Option<Header>, DirectoryError> {
    match fs::read(path.join(HEADER)) {
        Ok(text) => header::parse(path, &text).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(unusable(path, "read its header", source)),
    }
}

fn write_header(path: &Path, header: &Header) -> Result<(), DirectoryError> {
    database::write_atomically(&path.join(HEADER), &header.text())
        .map_err(|source| unusable(path, "write its header", source))
}

/// Refuses a directory that lacks what its header says that it has.
fn check_layout(path: &Path, header: &Header) -> Result<(), DirectoryError> {
    let log = path.join(LOG).join(CURRENT);
    let groups = (0..header.identity.groups).map(|group| group_home(path, group).join(CURRENT));
    let groups: Vec<_> = groups.collect();
    let missing = match header.layout {
        Layout::Whole => [log].into_iter().chain(groups).find(|file| !file.exists()),
        Layout::Restored => groups.into_iter().find(|file| !file.exists()),
        // The log is first. Also where an earlier version wrote the header,
        // which did not say when it was done.
        Layout::Begun => {
            let has_group = groups.iter().any(|file| file.exists());
            Some(log).filter(|log| has_group && !log.exists())
        }
    };
    missing.map_or(Ok(()), |file| {
        let missing = file.strip_prefix(path).unwrap_or(&file);
        Err(DirectoryError::Lost {
            path: path.to_owned(),
            missing: missing.display().to_string(),
        })
    })
}

fn lock(path: &Path) -> Result<File, DirectoryError> {
    fs::create_dir_all(path).map_err(|source| unusable(path, "create it", source))?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join(LOCK))
        .map_err(|source| unusable(path, "write in it", source))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(DirectoryError::InUse {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(unusable(path, "lock it", source)),
    }
}

fn unusable(path: &Path, action: &'static str, source: io::Error) -> DirectoryError {
    DirectoryError::Unusable {
        path: path.to_owned(),
        action,
        source,
    }
}

/// Where the state machine and the snapshots of one group lie.
pub(crate) fn group_home(path: &Path, group: u32) -> PathBuf {
    path.join(format!("group-{group}"))
}

fn check(path: &Path, found: &Identity, expected: &Identity) -> Result<(), DirectoryError> {
    let path = || path.to_owned();
    let differs = |what, found: &dyn ToString, expected: &dyn ToString| {
        let (found, expected) = (found.to_string(), expected.to_string());
        if found == expected {
            Ok(())
        } else {
            Err(DirectoryError::Stranger {
                path: path(),
                what,
                found,
                expected,
            })
        }
    };
    differs("cluster", &found.cluster, &expected.cluster)?;
    differs("node", &found.node, &expected.node)?;
    if found.groups == expected.groups {
        Ok(())
    } else {
        Err(DirectoryError::Groups {
            path: path(),
            found: found.groups,
            expected: expected.groups,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: "ferry".into(),
            node: 1,
            groups: 1,
        }
    }

    fn refused(path: &Path, identity: &Identity) -> String {
        let message = Directory::open(path, identity).unwrap_err().to_string();
        assert!(
            message.contains(&path.display().to_string()),
            "no path in: {message}"
        );
        assert!(!message.contains('\n'), "more than one line: {message}");
        message
    }

    #[test]
    fn a_directory_is_open_once_and_again_after_it_was_left() {
        let home = tempfile::tempdir().unwrap();
        let first = Directory::open(home.path(), &identity()).unwrap();
        assert!(refused(home.path(), &identity()).contains("in use by another process"));
        drop(first);
        Directory::open(home.path(), &identity()).unwrap();
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused_with_the_difference() {
        let home = tempfile::tempdir().unwrap();
        drop(Directory::open(home.path(), &identity()).unwrap());
        let other = Identity {
            cluster: "other".into(),
            ..identity()
        };
        assert!(refused(home.path(), &other).contains("cluster ferry"));
        let other = Identity {
            node: 2,
            ..identity()
        };
        assert!(refused(home.path(), &other).contains("node 1"));
        let other = Identity {
            groups: 4,
            ..identity()
        };
        let refused = refused(home.path(), &other);
        assert!(refused.contains("laid out for groups: 1"), "{refused}");
        assert!(refused.contains("set groups to 1"), "{refused}");
    }

    #[test]
    fn a_header_from_the_future_or_a_damaged_one_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(HEADER);
        fs::write(&path, r#"{"format": 2, "planets": []}"#).unwrap();
        assert!(refused(home.path(), &identity()).contains("format is 2"));
        fs::write(&path, "junk").unwrap();
        assert!(refused(home.path(), &identity()).contains("damaged"));
        let header = Header::new(&identity(), Layout::Begun);
        let bent = String::from_utf8(header.text())
            .unwrap()
            .replace("ferry", "f3rry");
        fs::write(&path, bent).unwrap();
        assert!(refused(home.path(), &identity()).contains("checksum"));
    }

    #[test]
    fn groups_without_a_header_are_never_adopted() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(LOG)).unwrap();
        assert!(refused(home.path(), &identity()).contains("no HEADER"));
    }

    #[test]
    fn a_path_that_cannot_be_a_directory_is_refused_with_the_reason() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, b"").unwrap();
        let message = refused(&file.join("below"), &identity());
        assert!(message.contains("cannot create it"), "{message}");
    }
}
