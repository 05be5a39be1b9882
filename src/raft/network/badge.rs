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

use http::HeaderMap;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
};

use crate::raft::database;

const CLUSTER: &str = "ferry-cluster";
const CLUSTER_ID: &str = "ferry-cluster-id";
const FROM: &str = "ferry-from";
const TO: &str = "ferry-to";

/// The file that keeps the cluster id: `FORMAT ID CHECKSUM`, and behind them
/// `founder` at the node that drew the id.
const FILE: &str = "CLUSTER";
const FORMAT: &str = "1";
const FOUNDER: &str = "founder";

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
    taken: Mutex<Option<Taken>>,
}

/// A cluster id that a node has for good.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Taken {
    id: String,
    /// Whether this node drew it.
    founder: bool,
}

impl Badge {
    /// The badge that lies in a data directory, or a blank one. Blocks.
    pub(crate) fn open(directory: &Path, cluster: &str, node: u64) -> io::Result<Self> {
        let file = directory.join(FILE);
        let taken = match fs::read_to_string(&file) {
            Ok(text) => Some(parse(&text).ok_or_else(|| damaged(&file))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self {
            cluster: cluster.to_owned(),
            node,
            file,
            taken: Mutex::new(taken),
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
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.as_ref().map(|taken| taken.id.clone())
    }

    /// Takes a cluster id for good, unless there is one. Returns the one that
    /// counts from now on. Blocks until it is durable.
    pub(crate) fn adopt(&self, id: &str) -> io::Result<String> {
        let id = id.to_owned();
        let founder = false;
        Ok(self.take(Taken { id, founder })?.id)
    }

    /// Draws an id for a cluster to found, or finds the one that was drawn here
    /// before; `None` if another founder has taken this node in meanwhile.
    /// Blocks until it is durable.
    pub(crate) fn draw(&self) -> io::Result<Option<String>> {
        let id = format!("{:032x}", fastrand::u128(..));
        let founder = true;
        let taken = self.take(Taken { id, founder })?;
        Ok(taken.founder.then_some(taken.id))
    }

    /// Takes what is offered unless there is something; returns what counts.
    fn take(&self, offered: Taken) -> io::Result<Taken> {
        let mut own = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = &*own {
            return Ok(own.clone());
        }
        database::write_atomically(&self.file, line(&offered).as_bytes())?;
        Ok(own.insert(offered).clone())
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

    /// Whether a call with these headers comes from somebody who may make it.
    pub(crate) fn admit(&self, headers: &HeaderMap, admit: Admit) -> Result<(), Status> {
        self.check(headers, admit)
            .map_err(Status::failed_precondition)
    }

    fn check(&self, headers: &HeaderMap, admit: Admit) -> Result<(), String> {
        let told = |key: &str| headers.get(key).and_then(|value| value.to_str().ok());
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

fn line(Taken { id, founder }: &Taken) -> String {
    let (told, covered) = match founder {
        true => (format!(" {FOUNDER}"), format!("{id} {FOUNDER}")),
        false => (String::new(), id.clone()),
    };
    let sum = crc32fast::hash(covered.as_bytes());
    format!("{FORMAT} {id} {sum:08x}{told}\n")
}

fn parse(text: &str) -> Option<Taken> {
    let mut words = text.split_ascii_whitespace();
    let taken = Taken {
        id: words.nth(1)?.to_owned(),
        founder: words.nth(1) == Some(FOUNDER),
    };
    (text.trim_end() == line(&taken).trim_end()).then_some(taken)
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

    fn admitted(own: &Badge, call: &Request<()>, admit: Admit) -> Result<(), Status> {
        own.admit(call.metadata().as_ref(), admit)
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
    fn an_id_is_drawn_once_and_only_by_a_node_that_no_other_founder_has_taken() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let founder = badge(one.path(), "ferry", 1);
        let drawn = founder.draw().unwrap().expect("nobody was before it");
        assert_eq!(founder.draw().unwrap().as_ref(), Some(&drawn));
        let again = badge(one.path(), "ferry", 1);
        assert_eq!(
            again.draw().unwrap(),
            Some(drawn.clone()),
            "after a restart"
        );

        let taken = badge(two.path(), "ferry", 2);
        taken.adopt(&drawn).unwrap();
        assert_eq!(taken.draw().unwrap(), None);
        assert_eq!(badge(two.path(), "ferry", 2).draw().unwrap(), None);
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
        let sent = |admit| admitted(&own, &peer.stamp((), Some(1)), admit);
        let refused = |admit| sent(admit).unwrap_err().message().to_owned();
        sent(Admit::Namesakes).unwrap();
        assert!(refused(Admit::Members).contains("ferry cluster remove 1"));

        own.adopt("a").unwrap();
        assert!(refused(Admit::Members).contains("cluster id none"));
        peer.adopt("b").unwrap();
        assert!(refused(Admit::Members).contains("cluster id b"));
        let peer = badge(tempfile::tempdir().unwrap().path(), "other", 2);
        let stranger = admitted(&own, &peer.stamp((), Some(1)), Admit::Namesakes);
        assert!(stranger.unwrap_err().message().contains("\"other\""));
    }

    #[test]
    fn a_call_for_another_node_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let own = badge(home.path(), "ferry", 1);
        own.adopt("a").unwrap();
        admitted(&own, &own.stamp((), Some(1)), Admit::Members).unwrap();
        let astray = admitted(&own, &own.stamp((), Some(3)), Admit::Members);
        assert!(astray.unwrap_err().message().contains("node 3"));
    }
}
