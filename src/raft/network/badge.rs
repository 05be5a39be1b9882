//! Who is who: the metadata that every call between nodes carries, and the
//! check that it meets.
//!
//! A cluster has a name, which an operator chooses, and an id, which is drawn
//! once when it is founded. Names may be equal by accident; ids are not. A node
//! without an id is a blank sheet: it takes part in nothing until a founder or
//! a leader gives it the id, and keeps it for good. So a node that lost its
//! directory cannot vote as if it still knew what it had promised, and a second
//! founder finds no node that would follow it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
};

use crate::raft::database;

const CLUSTER: &str = "ferry-cluster";
const CLUSTER_ID: &str = "ferry-cluster-id";
const FROM: &str = "ferry-from";
const TO: &str = "ferry-to";

/// The file that keeps the cluster id: `FORMAT ID CHECKSUM`.
const FILE: &str = "CLUSTER";
const FORMAT: &str = "1";

/// Whom a call may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admit {
    /// Nodes that have this node's cluster id.
    Members,
    /// Also nodes of the same cluster name whose id is another, or none yet.
    Namesakes,
}

/// This node's own badge.
#[derive(Debug)]
pub(crate) struct Badge {
    cluster: String,
    node: u64,
    file: PathBuf,
    id: Mutex<Option<String>>,
}

impl Badge {
    /// The badge that lies in a data directory, or a blank one. Blocks.
    pub(crate) fn open(directory: &Path, cluster: &str, node: u64) -> io::Result<Self> {
        let file = directory.join(FILE);
        let id = match fs::read_to_string(&file) {
            Ok(text) => Some(parse(&text).ok_or_else(|| damaged(&file))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            cluster: cluster.to_owned(),
            node,
            file,
            id: Mutex::new(id),
        })
    }

    pub(crate) fn cluster(&self) -> &str {
        &self.cluster
    }

    pub(crate) const fn node(&self) -> u64 {
        self.node
    }

    /// The cluster id; `None` until the node belongs to a cluster.
    pub(crate) fn id(&self) -> Option<String> {
        self.id
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes a cluster id for good, unless there is one. Returns the one that
    /// counts from now on. Blocks until it is durable.
    pub(crate) fn adopt(&self, id: &str) -> io::Result<String> {
        let mut own = self.id.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = &*own {
            return Ok(own.clone());
        }
        let line = format!("{FORMAT} {id} {:08x}\n", checksum(id));
        database::write_atomically(&self.file, line.as_bytes())?;
        *own = Some(id.to_owned());
        Ok(id.to_owned())
    }

    /// `message` with this badge on it, for node `to` if that is known.
    pub(crate) fn stamp<T>(&self, message: T, to: Option<u64>) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        let mut put = |key: &'static str, value: &str| {
            if let Ok(value) = value.parse::<MetadataValue<Ascii>>() {
                metadata.insert(key, value);
            }
        };
        put(CLUSTER, &self.cluster);
        put(FROM, &self.node.to_string());
        if let Some(id) = self.id() {
            put(CLUSTER_ID, &id);
        }
        if let Some(to) = to {
            put(TO, &to.to_string());
        }
        request
    }

    /// The message of a call from somebody who may send it.
    pub(crate) fn admit<T>(&self, request: Request<T>, admit: Admit) -> Result<T, Status> {
        self.check(request.metadata(), admit)
            .map_err(Status::failed_precondition)?;
        Ok(request.into_inner())
    }

    fn check(&self, metadata: &MetadataMap, admit: Admit) -> Result<(), String> {
        let told = |key: &str| metadata.get(key).and_then(|value| value.to_str().ok());
        let (node, own) = (self.node, &self.cluster);
        let cluster = told(CLUSTER).unwrap_or("");
        if cluster != own {
            return Err(format!(
                "cluster {cluster:?}: node {node} here belongs to cluster {own:?}; correct \
                 `cluster` or the address in the caller's configuration"
            ));
        }
        if let Some(to) = told(TO).filter(|to| *to != node.to_string()) {
            return Err(format!(
                "node {to}: the node at this address is {node}; correct the address under `members`"
            ));
        }
        if admit == Admit::Namesakes {
            return Ok(());
        }
        match (self.id(), told(CLUSTER_ID)) {
            (Some(own), Some(id)) if own == id => Ok(()),
            (Some(own), id) => Err(format!(
                "cluster id {}: node {node} here belongs to cluster {own}; two clusters share the \
                 name {cluster:?}: give one of them another",
                id.unwrap_or("none")
            )),
            (None, _) => Err(format!(
                "node {node} here has an empty data directory and belongs to no cluster; if it \
                 lost what it had, remove it with `ferry cluster remove {node}` and add it again \
                 with `ferry cluster add`"
            )),
        }
    }
}

/// An id for a cluster that is being founded.
pub(crate) fn draw_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn parse(text: &str) -> Option<String> {
    let mut words = text.split_ascii_whitespace();
    let (format, id, sum) = (words.next()?, words.next()?, words.next()?);
    let whole = format == FORMAT && sum == format!("{:08x}", checksum(id));
    whole.then(|| id.to_owned())
}

fn checksum(id: &str) -> u32 {
    crc32fast::hash(id.as_bytes())
}

fn damaged(file: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "{}: it is damaged; restore it from a backup, or empty the directory, remove the node \
             from its cluster and add it again",
            file.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn badge(home: &Path, cluster: &str, node: u64) -> Badge {
        Badge::open(home, cluster, node).unwrap()
    }

    #[test]
    fn an_id_is_taken_once_and_kept_over_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let own = badge(home.path(), "ferry", 1);
        assert_eq!(own.id(), None);
        assert_eq!(own.adopt("a").unwrap(), "a");
        assert_eq!(own.adopt("b").unwrap(), "a", "the first stays");
        assert_eq!(badge(home.path(), "ferry", 1).id().as_deref(), Some("a"));
    }

    #[test]
    fn a_damaged_id_is_an_error_that_names_the_file() {
        let home = tempfile::tempdir().unwrap();
        badge(home.path(), "ferry", 1).adopt("abc").unwrap();
        let file = home.path().join(FILE);
        let bent = fs::read_to_string(&file).unwrap().replace("abc", "abd");
        fs::write(&file, bent).unwrap();
        let error = Badge::open(home.path(), "ferry", 1).unwrap_err();
        assert!(error.to_string().contains("CLUSTER"), "{error}");
    }

    #[test]
    fn a_stranger_is_refused_with_what_differs_and_what_to_do() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let own = badge(one.path(), "ferry", 1);
        let peer = badge(two.path(), "ferry", 2);
        let sent = |admit| own.admit(peer.stamp((), Some(1)), admit);
        let refused = |admit| sent(admit).unwrap_err().message().to_owned();
        sent(Admit::Namesakes).unwrap();
        assert!(refused(Admit::Members).contains("ferry cluster remove 1"));

        own.adopt("a").unwrap();
        assert!(refused(Admit::Members).contains("cluster id none"));
        peer.adopt("b").unwrap();
        assert!(refused(Admit::Members).contains("cluster id b"));
        let peer = badge(tempfile::tempdir().unwrap().path(), "other", 2);
        let stranger = own.admit(peer.stamp((), Some(1)), Admit::Namesakes);
        assert!(stranger.unwrap_err().message().contains("\"other\""));
    }

    #[test]
    fn a_call_for_another_node_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let own = badge(home.path(), "ferry", 1);
        own.adopt("a").unwrap();
        own.admit(own.stamp((), Some(1)), Admit::Members).unwrap();
        let astray = own.admit(own.stamp((), Some(3)), Admit::Members);
        assert!(astray.unwrap_err().message().contains("node 3"));
    }
}
