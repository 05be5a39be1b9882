//! Three nodes on this machine against one: real `ferry node` processes that
//! sync what they acknowledge, called over their sockets. The three share the
//! machine's cores and its disk, so each session is written three times over;
//! on machines of their own they would not.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use ferry::cli::bench::Form;
use serde::Serialize;
use tempfile::TempDir;

use super::{
    Bench,
    calls::Calls,
    child::cpu_of,
    figures::{Figures, Medians},
    load::VALUE_BYTES,
    running::{Process, free_port},
};

/// Longer than a cluster takes to found itself and elect a leader.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// The article's clients: batches of a hundred, twenty in flight.
pub(crate) const CALLS: Calls = Calls {
    form: Form::Batch,
    batch_size: 100,
    connections: 4,
    callers: 20,
    value_bytes: VALUE_BYTES,
};

/// All sides.
#[derive(Serialize)]
pub(crate) struct Compared {
    one: Medians,
    three_at_the_leader: Medians,
    three_at_a_follower: Medians,
}

pub(crate) fn run(bench: &Bench<'_>) -> Result<Compared> {
    let sides = [(1, true), (3, true), (3, false)];
    let name = |(nodes, leader)| {
        let at = if leader { "the leader" } else { "a follower" };
        format!("{nodes} nodes, called at {at}")
    };
    let figures = bench.by_turns(&sides, name, |(nodes, leader), round| {
        let cluster = Nodes::start(bench.folder, nodes)?;
        let at = cluster.entrance(leader)?;
        cluster.measure(at, &format!("{round}-"), bench.duration)
    })?;
    let mut medians = figures.into_iter().map(Medians::of);
    let mut next = || medians.next().expect("three sides were measured");
    Ok(Compared {
        one: next(),
        three_at_the_leader: next(),
        three_at_a_follower: next(),
    })
}

/// Running nodes of one cluster.
pub(crate) struct Nodes {
    nodes: BTreeMap<u64, Node>,
    _home: TempDir,
}

struct Node {
    listen: SocketAddr,
    admin: SocketAddr,
    peer: SocketAddr,
    process: Process,
}

impl Nodes {
    /// Starts so many nodes; returns when each knows a leader.
    pub(crate) fn start(folder: &Path, count: u64) -> Result<Self> {
        let home = tempfile::tempdir_in(folder)?;
        let mut places = BTreeMap::new();
        for node in 1..=count {
            places.insert(node, [free_port()?, free_port()?, free_port()?]);
        }
        let members: String = places
            .iter()
            .map(|(node, [_, _, peer])| format!("  {node}: {peer}\n"))
            .collect();
        let mut nodes = BTreeMap::new();
        for (node, [listen, admin, peer]) in &places {
            let own = home.path().join(format!("node-{node}"));
            let file = home.path().join(format!("node-{node}.yaml"));
            let yaml = format!(
                "version: 1\ncluster: bench\nnode: {node}\ndata_dir: {}\n\
                 listen: {{address: {listen}}}\nadmin: {{address: {admin}}}\n\
                 peer: {{address: {peer}}}\nmembers:\n{members}",
                own.display()
            );
            std::fs::write(&file, yaml)?;
            let process = Command::new(env!("CARGO_BIN_EXE_ferry"))
                .args(["node", "--config"])
                .arg(&file)
                .env("FERRY_LOG", "error")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(std::fs::File::create(file.with_extension("log"))?)
                .spawn()
                .context("ferry does not start")?;
            let started = Node {
                listen: *listen,
                admin: *admin,
                peer: *peer,
                process: Process(process),
            };
            nodes.insert(*node, started);
        }
        let cluster = Self { nodes, _home: home };
        cluster.until_ready()?;
        Ok(cluster)
    }

    fn until_ready(&self) -> Result<()> {
        let start = Instant::now();
        while !self.nodes.values().all(|node| is_ready(node.admin)) {
            ensure!(
                start.elapsed() < PATIENCE,
                "a node is not ready after {PATIENCE:?}"
            );
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Where the leader is called, or a node that is not the leader.
    pub(crate) fn entrance(&self, leader: bool) -> Result<SocketAddr> {
        let first = self.nodes.values().next().context("there are nodes")?;
        let told = Command::new(env!("CARGO_BIN_EXE_ferry"))
            .args(["cluster", "--node", &first.peer.to_string()])
            .args(["status", "--output", "json"])
            .output()?;
        let status: serde_json::Value = serde_json::from_slice(&told.stdout)
            .with_context(|| String::from_utf8_lossy(&told.stderr).into_owned())?;
        let leads = status.pointer("/nodes/0/groups/0/leader");
        let Some(leads) = leads.and_then(serde_json::Value::as_u64) else {
            bail!("no leader in {status}");
        };
        let mut nodes = self.nodes.iter();
        let found = nodes.find(|(number, _)| (**number == leads) == leader);
        Ok(found.context("there is no such node")?.1.listen)
    }

    /// Calls one of them, a little first to warm up, and says what it came to.
    pub(crate) fn measure(
        &self,
        at: SocketAddr,
        prefix: &str,
        duration: Duration,
    ) -> Result<Figures> {
        CALLS.run(at, &format!("warm-up-{prefix}"), duration / 10)?;
        let before = self.cpu()?;
        let report = CALLS.run(at, prefix, duration)?;
        let cpu = self.cpu()?.saturating_sub(before);
        Ok(Figures::told(&report, cpu))
    }

    /// What all of them used of the cores.
    fn cpu(&self) -> Result<Duration> {
        self.nodes
            .values()
            .map(|node| cpu_of(node.process.0.id()))
            .sum()
    }
}

fn is_ready(admin: SocketAddr) -> bool {
    let asked = || -> std::io::Result<String> {
        let mut socket = TcpStream::connect(admin)?;
        socket.write_all(b"GET /ready HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    };
    asked().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

impl Compared {
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_header([
            "batches of 100, 20 in flight",
            "sessions/s",
            "slowest–fastest",
            "p50 ms",
            "p99 ms",
            "CPU µs a session, all nodes",
            "of one node",
        ]);
        let sides = [
            ("one node", &self.one),
            ("three, at the leader", &self.three_at_the_leader),
            ("three, at a follower", &self.three_at_a_follower),
        ];
        for (name, medians) in sides {
            let figures = medians.figures;
            table.add_row([
                name.to_owned(),
                format!("{:.0}", figures.sessions_per_second),
                medians.range(),
                format!("{:.2}", figures.p50_ms),
                format!("{:.2}", figures.p99_ms),
                format!("{:.2}", figures.cpu_us_per_session),
                format!("{:.2}", medians.ratio_to(&self.one)),
            ]);
        }
        format!("{table}\nnodes, their disk and their callers share this machine")
    }
}
