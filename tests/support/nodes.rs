//! A cluster of real processes: each node the built binary with a file of its
//! own, on a loopback address of its own.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{
    admin,
    client::Line,
    faults::{Faults, home_of},
    soon, until,
};

/// An election of a test: quick, and long enough for a machine that compiles.
const ELECTION: &str = "election: {heartbeat: 100ms, min: 1s, max: 1500ms}";

/// The nodes of one test; all of them end with it.
pub(crate) struct Nodes {
    home: TempDir,
    faults: Faults,
    nodes: BTreeMap<u64, Node>,
    /// More of each node's file.
    pub(crate) settings: String,
    /// More of each node's `peer`.
    pub(crate) peer_settings: String,
    /// Members are called `localhost`, not by their address.
    pub(crate) named: bool,
    /// What nodes that are started from now on find in their environment.
    pub(crate) variables: Vec<(String, String)>,
}

/// One node, running or not.
struct Node {
    listen: SocketAddr,
    admin: SocketAddr,
    peer: SocketAddr,
    /// Where the others call it: a gate.
    gate: SocketAddr,
    process: Option<Child>,
}

impl Nodes {
    /// No nodes yet.
    pub(crate) fn new() -> Self {
        Self {
            home: tempfile::tempdir().expect("a temporary directory can be made"),
            faults: Faults::none(),
            nodes: BTreeMap::new(),
            settings: String::new(),
            peer_settings: String::new(),
            named: false,
            variables: Vec::new(),
        }
    }

    /// Three nodes that have found each other.
    pub(crate) async fn three() -> Self {
        let mut nodes = Self::new();
        nodes.found(&[1, 2, 3]).await;
        nodes
    }

    /// Starts these as the first members, and waits until all know a leader.
    pub(crate) async fn found(&mut self, members: &[u64]) {
        for node in members {
            self.place(*node).await;
        }
        for node in members {
            self.configure(*node, members, "ferry");
            self.start(*node);
        }
        for node in members {
            self.until_ready(*node).await;
        }
    }

    /// Chooses addresses for a node.
    pub(crate) async fn place(&mut self, node: u64) {
        let [listen, admin, peer] = free_ports(node);
        let gate = self.faults.gate(node, peer).await;
        let placed = Node {
            listen,
            admin,
            peer,
            gate,
            process: None,
        };
        self.nodes.insert(node, placed);
    }

    /// Writes a node's file.
    pub(crate) fn configure(&self, node: u64, members: &[u64], cluster: &str) {
        let Node {
            listen,
            admin,
            peer,
            ..
        } = &self.nodes[&node];
        let mut file = format!(
            "version: 1\ncluster: {cluster}\nnode: {node}\ndata_dir: {}\n\
             listen: {{address: {listen}}}\nadmin: {{address: {admin}}}\n\
             peer:\n  address: {peer}\n{}{ELECTION}\n{}",
            self.data_dir(node).display(),
            self.peer_settings,
            self.settings,
        );
        if !members.is_empty() {
            file.push_str("members:\n");
        }
        for member in members {
            let gate = self.nodes[member].gate;
            let host = match self.named {
                true => "localhost".to_owned(),
                false => gate.ip().to_string(),
            };
            file.push_str(&format!("  {member}: {host}:{}\n", gate.port()));
        }
        std::fs::write(self.file(node), file).expect("the temporary directory is writable");
    }

    pub(crate) fn start(&mut self, node: u64) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferry"));
        command.args(["node", "--config"]).arg(self.file(node));
        self.spawn(node, command);
    }

    /// Starts a node that may not let a file grow past so many KiB: its disk
    /// is full then, as far as it can tell.
    pub(crate) fn start_with_file_limit(&mut self, node: u64, kibibytes: u32) {
        let mut command = Command::new("bash");
        let script = format!("trap '' XFSZ; ulimit -f {kibibytes}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_ferry")]);
        command.args(["node", "--config"]).arg(self.file(node));
        self.spawn(node, command);
    }

    fn spawn(&mut self, node: u64, mut command: Command) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log(node))
            .expect("the temporary directory is writable");
        let process = command
            .env("FERRY_LOG", "info,openraft=error")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("cargo built the binary");
        self.node_mut(node).process = Some(process);
    }

    /// Sends a signal to a node: STOP and CONT let it stand still and go on.
    pub(crate) async fn signal(&self, node: u64, signal: &str) {
        let process = self.nodes[&node].process.as_ref().expect("it runs");
        let process = process.id().expect("it was not waited for");
        // The shell's own `kill`: there need be no other.
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{signal} {process}")])
            .status()
            .await;
        assert!(sent.expect("there is a shell").success());
    }

    /// Kills a node as `kill -9` does; what it kept stays.
    pub(crate) async fn kill(&mut self, node: u64) {
        let mut process = self.node_mut(node).process.take().expect("it runs");
        process.kill().await.expect("it is our child");
    }

    /// Waits until a node has ended by itself.
    pub(crate) async fn ended(&mut self, node: u64) -> std::process::ExitStatus {
        let mut process = self.node_mut(node).process.take().expect("it runs");
        let status = soon("the node ends by itself", process.wait()).await;
        status.expect("it is our child")
    }

    /// Loses what a node kept.
    pub(crate) fn wipe(&self, node: u64) {
        std::fs::remove_dir_all(self.data_dir(node)).expect("it ran before");
    }

    /// What a node has said.
    pub(crate) fn said(&self, node: u64) -> String {
        std::fs::read_to_string(self.log(node)).unwrap_or_default()
    }

    pub(crate) async fn until_said(&self, node: u64, words: &str) {
        until(words, async || self.said(node).contains(words)).await;
    }

    pub(crate) async fn until_ready(&self, node: u64) {
        let admin = self.nodes[&node].admin;
        until("the node is ready", async || {
            matches!(admin::fetch(admin, "/ready").await, Ok((200, _)))
        })
        .await;
    }

    /// Waits until a node says that it is not ready, in these words.
    pub(crate) async fn until_not_ready(&self, node: u64, words: &str) {
        let admin = self.nodes[&node].admin;
        until("the node is not ready", async || {
            let answer = admin::fetch(admin, "/ready").await;
            matches!(answer, Ok((503, why)) if why.contains(words))
        })
        .await;
    }

    pub(crate) const fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Where calls arrive at a node.
    pub(crate) fn address(&self, node: u64) -> SocketAddr {
        self.nodes[&node].listen
    }

    /// Where a node tells of itself.
    pub(crate) fn admin(&self, node: u64) -> SocketAddr {
        self.nodes[&node].admin
    }

    /// The sidecar's policy in front of three nodes, as policies/cluster.yaml
    /// has it.
    pub(crate) fn policy(&self, members: [u64; 3]) -> String {
        let shipped = include_str!("../../policies/cluster.yaml");
        let mut policy = shipped.replace("127.0.0.1:1229", "127.0.0.1:0");
        for (place, node) in members.iter().enumerate() {
            let shipped = format!("127.0.0.1:123{}", place + 1);
            policy = policy.replace(&shipped, &self.address(*node).to_string());
        }
        policy
    }

    /// Where it listens for its peers, without a gate.
    pub(crate) fn peer(&self, node: u64) -> SocketAddr {
        self.nodes[&node].peer
    }

    /// Where its peers call it.
    pub(crate) fn gate(&self, node: u64) -> SocketAddr {
        self.nodes[&node].gate
    }

    pub(crate) async fn line(&self, node: u64) -> Line {
        Line::open(self.address(node)).await
    }

    /// Runs `ferry cluster` and returns what came of it.
    pub(crate) async fn cluster(&self, asked: u64, flags: &[&str]) -> Output {
        let node = self.nodes[&asked].peer.to_string();
        let run = Command::new(env!("CARGO_BIN_EXE_ferry"))
            .args(["cluster", "--node", &node])
            .args(flags)
            .stdin(Stdio::null())
            .output();
        soon("ferry cluster ends", run)
            .await
            .expect("cargo built the binary")
    }

    /// The same, which must be done.
    #[track_caller]
    pub(crate) fn done(output: &Output) -> String {
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// How a node sees the cluster.
    pub(crate) async fn status(&self, asked: u64) -> Value {
        let output = self.cluster(asked, &["status", "--output", "json"]).await;
        serde_json::from_str(&Self::done(&output)).expect("JSON was asked for")
    }

    /// Who leads, as a node sees it; waits until somebody does.
    pub(crate) async fn leader(&self, asked: u64) -> u64 {
        let mut leader = None;
        until("somebody leads", async || {
            leader = group_at(&self.status(asked).await, asked)["leader"].as_u64();
            leader.is_some()
        })
        .await;
        leader.expect("the wait ended")
    }

    /// Waits until all of these have applied the same log entries.
    pub(crate) async fn until_level(&self, nodes: &[u64]) {
        until("all nodes have applied the same", async || {
            let status = self.status(nodes[0]).await;
            let places: Vec<_> = nodes
                .iter()
                .map(|node| {
                    let groups = groups_at(&status, *node).into_iter();
                    let place = |group: Value| {
                        let [log, applied] = ["last_log_index", "applied_index"];
                        (group[log].clone(), group[applied].clone())
                    };
                    groups.map(place).collect::<Vec<_>>()
                })
                .collect();
            let applied = |(log, applied): &(Value, Value)| log.is_u64() && log == applied;
            places
                .iter()
                .all(|groups| !groups.is_empty() && groups.iter().all(applied))
                && places.windows(2).all(|pair| pair[0] == pair[1])
        })
        .await;
    }

    fn node_mut(&mut self, node: u64) -> &mut Node {
        self.nodes.get_mut(&node).expect("it was placed")
    }

    pub(crate) fn file(&self, node: u64) -> PathBuf {
        self.home.path().join(format!("node{node}.yaml"))
    }

    fn log(&self, node: u64) -> PathBuf {
        self.home.path().join(format!("node{node}.log"))
    }

    pub(crate) fn data_dir(&self, node: u64) -> PathBuf {
        self.home.path().join(format!("node{node}"))
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }
}

/// The first group of a node in a status; null where there is none.
pub(crate) fn group_at(status: &Value, node: u64) -> Value {
    groups_at(status, node)
        .into_iter()
        .next()
        .unwrap_or_default()
}

/// All groups of a node in a status; none where it does not answer.
pub(crate) fn groups_at(status: &Value, node: u64) -> Vec<Value> {
    let nodes = status["nodes"].as_array().into_iter().flatten();
    let mut at = nodes.filter(|seen| seen["node"] == node);
    let groups = at
        .next()
        .and_then(|seen| seen["groups"].as_array().cloned());
    groups.unwrap_or_default()
}

/// What a node is to the cluster in a status: voter, learner, none; or nothing.
pub(crate) fn member_at(status: &Value, node: u64) -> Option<String> {
    let mut nodes = status["nodes"].as_array().into_iter().flatten();
    let seen = nodes.find(|seen| seen["node"] == node)?;
    seen["member"].as_str().map(str::to_owned)
}

/// Ports that nobody has, all held until the last is found.
fn free_ports<const N: usize>(node: u64) -> [SocketAddr; N] {
    let held = [(); N].map(|()| TcpListener::bind((home_of(node), 0)).expect("a free port"));
    held.map(|held| held.local_addr().expect("it listens"))
}
