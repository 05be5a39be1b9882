//! The file that `ferry node --config` reads: one node of a cluster.
//!
//! It is read like a policy, with every fault at once and each with its place.
//! Paths in it are relative to the file. Where it listens is literal; members
//! may be named, since a pod's address does not outlive it. A name that leads to
//! strangers gains them nothing: every call says whom it is meant for, and with
//! `tls` the certificate has to be of that name.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use http::uri::Authority;

use super::{
    bounds::{bytes, count, span},
    fault::{Fault, Faults, Found},
    keys::Keys,
    keys_node::{ADDRESS, ELECTION, PEER, TLS, TOP},
    regular,
    rules::{Pipeline, Runtime},
    section::{At, Section},
    tree::{self, Node},
};

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1228);
const PEERS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1328);
const HEARTBEAT: Duration = Duration::from_millis(100);
const ELECTION_MIN: Duration = Duration::from_millis(1_000);
const ELECTION_MAX: Duration = Duration::from_millis(2_000);
const SPANS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(600));
/// A heartbeat may be lost now and then without an election.
const HEARTBEATS_AN_ELECTION: u32 = 3;
const LOG_BYTES: u64 = 1 << 30;
const LOG_BYTES_BOUNDS: (u64, u64) = (1 << 20, 1 << 40);
const GROUPS_BOUND: u64 = 64;
const NAME_MAX: usize = 64;

/// A checked node file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFile {
    /// The cluster's name.
    pub cluster: String,
    /// This node's number in it.
    pub node: u64,
    /// Where log, state and snapshots lie.
    pub data_dir: PathBuf,
    /// Where calls arrive.
    pub listen: SocketAddr,
    /// Where metrics and probes are answered, if anywhere.
    pub admin: Option<SocketAddr>,
    /// Where peers and operators call.
    pub peer: SocketAddr,
    /// Certificates for the peers' connections.
    pub tls: Option<NodeTls>,
    /// The first members and where they listen for peers; empty for a node that
    /// is to be added.
    pub members: BTreeMap<u64, String>,
    /// How often a leader says that it is there.
    pub heartbeat: Duration,
    /// The shortest silence that starts an election.
    pub election_min: Duration,
    /// The longest.
    pub election_max: Duration,
    /// How many Raft groups share the keys.
    pub groups: NonZeroU32,
    /// Which threads the groups run on.
    pub runtime: Runtime,
    /// How a group proposes.
    pub pipeline: Pipeline,
    /// A snapshot is due when the log weighs this many bytes.
    pub log_bytes_max: u64,
}

/// Where a node's certificate lies and whom it trusts. PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTls {
    /// The certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority of all nodes' certificates.
    pub ca: PathBuf,
    /// Whether callers have to show a certificate too.
    pub verify_clients: bool,
}

impl NodeFile {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// Every fault of the file at once, or the one that it cannot be read.
    pub fn read(path: &Path) -> Result<Self, Faults> {
        let one = |what| Faults {
            origin: path.display().to_string(),
            faults: vec![Fault { at: None, what }],
        };
        let unread = |error| one(format!("cannot be read: {error}"));
        let size = regular::size(path).map_err(unread)?;
        if size > tree::MAX_BYTES as u64 {
            return Err(one(tree::too_large(size)));
        }
        Self::load(&fs::read_to_string(path).map_err(unread)?, path)
    }

    /// Checks the file in `yaml`. `origin` is its path, which faults show and
    /// which the paths in it are relative to.
    ///
    /// # Errors
    /// Every fault of the file at once.
    pub fn load(yaml: &str, origin: &Path) -> Result<Self, Faults> {
        let name = origin.display().to_string();
        let root = tree::parse(yaml).map_err(|fault| Faults {
            origin: name.clone(),
            faults: vec![fault],
        })?;
        let mut found = Found::default();
        let folder = origin.parent().unwrap_or(Path::new(""));
        let file = check(&root, folder, &mut found);
        found.finish(&name, file)
    }
}

fn check(root: &Node, folder: &Path, found: &mut Found) -> Option<NodeFile> {
    let top = Section::open(root, "", &TOP, found)?;
    top.require("version", "write version: 1", found);
    match top.count("version", found) {
        Some(At { value: 1, .. }) | None => {}
        Some(At { value, at }) => {
            let what = format!("version: {value}: this version of ferry reads version 1");
            found.add::<()>(at, what);
        }
    }
    let (cluster, node) = (cluster(&top, found), number(&top, found));
    let members = members(&top, node, found);
    let data_dir = top.text("data_dir", found);
    let (listen, _) = address(&top, "listen", &ADDRESS, found);
    let (admin, _) = address(&top, "admin", &ADDRESS, found);
    let (peer, peer_section) = address(&top, "peer", &PEER, found);
    let tls = peer_section.and_then(|peer| tls(&peer, folder, found));
    let (heartbeat, election_min, election_max) = election(&top, found);
    let groups = top.count("groups", found);
    let groups = count(groups.as_ref(), "groups", GROUPS_BOUND, found);
    let groups = groups.and_then(|groups| NonZeroU32::new(u32::try_from(groups).ok()?));
    let runtimes = [
        ("shared", Some(Runtime::Shared)),
        ("dedicated", Some(Runtime::Dedicated)),
    ];
    let pipelines = [
        ("full", Some(Pipeline::Full)),
        ("serial", Some(Pipeline::Serial)),
    ];
    let runtime = top.choice("runtime", &runtimes, found);
    let pipeline = top.choice("pipeline", &pipelines, found);
    let log_bytes = top.size("snapshot_log_bytes", found);
    let log_bytes = bytes(
        log_bytes.as_ref(),
        "snapshot_log_bytes",
        (LOG_BYTES, LOG_BYTES_BOUNDS),
        found,
    );
    let node = node?;
    Some(NodeFile {
        cluster: cluster?,
        node,
        data_dir: data_dir.map_or_else(
            || PathBuf::from(format!("ferry-data/node-{node}")),
            |dir| PathBuf::from(dir.value),
        ),
        listen: listen.unwrap_or(LISTEN),
        admin,
        peer: peer.unwrap_or(PEERS),
        tls,
        members,
        heartbeat,
        election_min,
        election_max,
        groups: groups.unwrap_or(NonZeroU32::MIN),
        runtime: runtime.map_or(Runtime::Shared, |runtime| runtime.value),
        pipeline: pipeline.map_or(Pipeline::Full, |pipeline| pipeline.value),
        log_bytes_max: log_bytes as u64,
    })
}

/// The cluster's name, which travels as metadata.
fn cluster(top: &Section<'_>, found: &mut Found) -> Option<String> {
    top.require("cluster", "give the cluster a name", found)?;
    let At { value, at } = top.text("cluster", found)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if value.is_empty() || value.len() > NAME_MAX || !value.chars().all(plain) {
        let what = format!("must be 1 to {NAME_MAX} letters, digits, - _ .");
        return found.add(at, format!("cluster: {value:?}: {what}"));
    }
    Some(value)
}

fn number(top: &Section<'_>, found: &mut Found) -> Option<u64> {
    top.require("node", "give each node a number of its own", found)?;
    let number = top.count("node", found);
    count(number.as_ref(), "node", u64::MAX, found)
}

fn members(top: &Section<'_>, own: Option<u64>, found: &mut Found) -> BTreeMap<u64, String> {
    let mut members = BTreeMap::new();
    let Some(pairs) = top.pairs("members", found) else {
        return members;
    };
    for (number, address) in &pairs {
        let path = format!("members.{}", number.value);
        let Some(node) = number.value.parse().ok().filter(|node| *node > 0) else {
            let what = "must be a node's number, from 1";
            found.add::<()>(number.at, format!("{path}: {what}"));
            continue;
        };
        if can_be_called(&address.value) {
            members.insert(node, address.value.clone());
        } else {
            let what = "must be HOST:PORT, such as 127.0.0.1:1328 or ferry-0.ferry-peers:1328";
            found.add::<()>(address.at, format!("{path}: {}: {what}", address.value));
        }
    }
    if let (Some(own), Some(first)) = (own, pairs.first())
        && !members.contains_key(&own)
    {
        let what = format!(
            "node {own} itself is missing; add it, or leave members out if it is to be added to a \
             cluster later"
        );
        found.add::<()>(first.0.at, format!("members: {what}"));
    }
    members
}

/// Whether it is an address or a name, and a port, and nothing else.
fn can_be_called(address: &str) -> bool {
    let authority = address.parse::<Authority>().ok();
    authority.is_some_and(|authority| {
        let port = authority.port_u16().is_some_and(|port| port > 0);
        port && !authority.host().is_empty() && !address.contains('@')
    })
}

fn address<'a>(
    top: &Section<'a>,
    key: &str,
    keys: &'static Keys,
    found: &mut Found,
) -> (Option<SocketAddr>, Option<Section<'a>>) {
    let Some(section) = top.section(key, keys, found) else {
        return (None, None);
    };
    let address = section.text("address", found).and_then(|text| {
        text.value.parse().ok().or_else(|| {
            let what = "must be IP:port, such as 127.0.0.1:1228 or [::1]:1228";
            found.add(text.at, format!("{key}.address: {}: {what}", text.value))
        })
    });
    (address, Some(section))
}

fn tls(peer: &Section<'_>, folder: &Path, found: &mut Found) -> Option<NodeTls> {
    let tls = peer.section("tls", &TLS, found)?;
    let mut file = |key: &str| {
        tls.require(key, "name a PEM file", found)?;
        tls.text(key, found).map(|path| folder.join(path.value))
    };
    let (cert, key, ca) = (file("cert"), file("key"), file("ca"));
    let verify_clients = tls.flag("verify_clients", found);
    Some(NodeTls {
        cert: cert?,
        key: key?,
        ca: ca?,
        verify_clients: verify_clients.is_none_or(|verify| verify.value),
    })
}

fn election(top: &Section<'_>, found: &mut Found) -> (Duration, Duration, Duration) {
    let Some(election) = top.section("election", &ELECTION, found) else {
        return (HEARTBEAT, ELECTION_MIN, ELECTION_MAX);
    };
    let mut read = |key: &str, default| {
        let duration = election.duration(key, found);
        let path = election.path_of(key);
        span(duration, &path, SPANS, found).unwrap_or(default)
    };
    let heartbeat = read("heartbeat", HEARTBEAT);
    let (min, max) = (read("min", ELECTION_MIN), read("max", ELECTION_MAX));
    if min < heartbeat * HEARTBEATS_AN_ELECTION {
        let what = format!(
            "min {min:?}: must be at least {HEARTBEATS_AN_ELECTION} heartbeats of {heartbeat:?}; \
             else a lost one starts an election"
        );
        found.add::<()>(election.at, format!("election: {what}"));
    }
    if max <= min {
        let what = format!("max {max:?}: must be more than min, which is {min:?}");
        found.add::<()>(election.at, format!("election: {what}"));
    }
    (heartbeat, min, max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "version: 1\ncluster: ferry\nnode: 2\nmembers:\n  1: 127.0.0.1:1331\n  \
                         2: 127.0.0.1:1332\npeer:\n  address: 127.0.0.1:1332\n  tls: {cert: a.pem, \
                         key: b.pem, ca: c.pem}\nelection: {heartbeat: 20ms, min: 100ms, max: 200ms}\n";

    fn load(yaml: &str) -> Result<NodeFile, String> {
        NodeFile::load(yaml, Path::new("conf/node.yaml")).map_err(|faults| faults.to_string())
    }

    #[test]
    fn a_node_file_is_read_with_its_defaults_and_its_paths_beside_it() {
        let file = load(WHOLE).unwrap();
        assert_eq!((file.node, file.members.len()), (2, 2));
        assert_eq!(file.data_dir, Path::new("ferry-data/node-2"));
        assert_eq!(file.groups.get(), 1);
        let tls = file.tls.unwrap();
        assert_eq!(tls.cert, Path::new("conf/a.pem"));
        assert!(tls.verify_clients, "both ends show who they are");
        assert_eq!(file.election_max, Duration::from_millis(200));
    }

    #[test]
    fn what_is_wrong_with_a_node_file_is_told_with_its_place_and_remedy() {
        for (from, to, told) in [
            ("version: 1", "version: 2", "version: 2"),
            ("cluster: ferry", "cluster: 'a b'", "1 to 64 letters"),
            ("node: 2", "node: 3", "node 3 itself is missing"),
            ("node: 2", "node: 0", "node: 0: must be at least 1"),
            ("  1: 127", "  one: 127", "members.one"),
            ("1: 127.0.0.1:1331", "1: localhost", "HOST:PORT"),
            ("1: 127.0.0.1:1331", "1: 'localhost:'", "HOST:PORT"),
            ("1: 127.0.0.1:1331", "1: localhost:0", "HOST:PORT"),
            ("1: 127.0.0.1:1331", "1: ':1331'", "HOST:PORT"),
            ("1: 127.0.0.1:1331", "1: me@localhost:1331", "HOST:PORT"),
            ("1: 127.0.0.1:1331", "1: http://localhost:1331", "HOST:PORT"),
            ("min: 100ms", "min: 30ms", "3 heartbeats"),
            ("max: 200ms", "max: 100ms", "more than min"),
            ("ca: c.pem", "cd: c.pem", "peer.tls.ca: is missing"),
            ("cluster:", "clutser:", "cluster"),
        ] {
            let told_of = load(&WHOLE.replace(from, to)).unwrap_err();
            assert!(told_of.contains(told), "{to}: {told_of}");
            assert!(told_of.starts_with("conf/node.yaml: line "), "{told_of}");
        }
    }
}
