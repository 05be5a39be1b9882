//! What goes wrong between nodes: a gate in front of each node's peer address
//! that can hold, slow or cut what comes from each of the others.
//!
//! A node calls its peers from the address that it listens on, and each node of
//! a test has a loopback address of its own; so a gate knows who calls.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// What is done to the bytes from one node to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rule {
    /// They arrive.
    #[default]
    Pass,
    /// They do not arrive, and nobody is told: a cable that was pulled.
    Hold,
    /// A few of them arrive at a time.
    Slow,
    /// So few that whoever waits for a load of this way waits for minutes, and
    /// a heartbeat still arrives in time.
    Trickle,
}

/// How much a slow way lets through at a time, and how often.
const SLOW: (usize, Duration) = (1 << 10, Duration::from_millis(2));
const TRICKLE: (usize, Duration) = (64, Duration::from_millis(32));
const BUFFER: usize = 64 << 10;

type Rules = HashMap<(u64, u64), Rule>;

/// The ways between all nodes of a test.
#[derive(Clone)]
pub(crate) struct Faults(watch::Sender<Rules>);

impl Faults {
    pub(crate) fn none() -> Self {
        Self(watch::Sender::new(Rules::new()))
    }

    /// From now on, what `from` sends to `to` is treated so.
    pub(crate) fn set(&self, from: u64, to: u64, rule: Rule) {
        self.0.send_modify(|rules| {
            rules.insert((from, to), rule);
        });
    }

    /// The same for both ways between a node and each of the others.
    pub(crate) fn around(&self, node: u64, others: &[u64], rule: Rule) {
        for other in others {
            self.set(node, *other, rule);
            self.set(*other, node, rule);
        }
    }

    /// A gate in front of node `to`, which listens at `address`.
    pub(crate) async fn gate(&self, to: u64, address: SocketAddr) -> SocketAddr {
        let gate = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let gate = gate.expect("loopback has free ports");
        let listens = gate.local_addr().expect("it listens");
        let rules = self.0.clone();
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((caller, source)) = gate.accept().await {
                let rules = rules.subscribe();
                // A connection that ends is the nodes' business.
                connections
                    .spawn(async move { join(caller, source, to, address, rules).await.ok() });
            }
        });
        listens
    }
}

/// The loopback addresses of nodes begin behind everybody else's.
const HOMES: u8 = 10;

/// The loopback address of a node: `127.0.0.11` for node 1.
pub(crate) fn home_of(node: u64) -> IpAddr {
    let node = u8::try_from(node).expect("a test has few nodes");
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, HOMES + node))
}

/// The node that calls from an address; 0 for whoever is none.
fn node_at(source: SocketAddr) -> u64 {
    match source.ip() {
        IpAddr::V4(ip) => u64::from(ip.octets()[3].saturating_sub(HOMES)),
        IpAddr::V6(_) => 0,
    }
}

async fn join(
    caller: TcpStream,
    source: SocketAddr,
    to: u64,
    address: SocketAddr,
    rules: watch::Receiver<Rules>,
) -> io::Result<()> {
    let from = node_at(source);
    let called = TcpStream::connect(address).await?;
    caller.set_nodelay(true)?;
    called.set_nodelay(true)?;
    let (mut from_caller, mut to_caller) = caller.into_split();
    let (mut from_called, mut to_called) = called.into_split();
    let there = carry(&mut from_caller, &mut to_called, (from, to), rules.clone());
    let back = carry(&mut from_called, &mut to_caller, (to, from), rules);
    tokio::try_join!(there, back).map(|_| ())
}

async fn carry(
    source: &mut (impl AsyncReadExt + Unpin),
    sink: &mut (impl AsyncWriteExt + Unpin),
    way: (u64, u64),
    mut rules: watch::Receiver<Rules>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let rule = rules.borrow_and_update().get(&way).copied();
        let room = match rule.unwrap_or_default() {
            Rule::Pass => BUFFER,
            Rule::Hold => {
                rules.changed().await.map_err(io::Error::other)?;
                continue;
            }
            Rule::Slow => few(SLOW).await,
            Rule::Trickle => few(TRICKLE).await,
        };
        tokio::select! {
            // A rule that changes counts at once, also for who waits for bytes.
            changed = rules.changed() => changed.map_err(io::Error::other)?,
            read = source.read(&mut buffer[..room]) => match read? {
                0 => return sink.shutdown().await,
                len => sink.write_all(&buffer[..len]).await?,
            },
        }
    }
}

/// Waits until a slow way lets something through; how much.
async fn few((bytes, every): (usize, Duration)) -> usize {
    tokio::time::sleep(every).await;
    bytes
}
