//! A node of a cluster: its groups, and the listener that its peers call.

use std::{collections::BTreeMap, fs, io, net::SocketAddr, path::Path, sync::Arc};

use futures_util::future::{join_all, select_all};
use openraft::async_runtime::watch::WatchReceiver as _;
use prometheus::Registry;
use tokio::task::JoinHandle;
use tonic::transport::{Server, server::TcpIncoming};

use super::{
    clock::Clock,
    cluster::ClusterService,
    founding::Founding,
    group::Group,
    groups::Groups,
    network::{
        Badge, CONNECTION_WINDOW, Gate, PeerTls, Peers, RaftServer, TlsError, WINDOW, secured,
    },
    settings::{GroupSettings, OpenError},
};
use crate::proto::cluster::cluster_server::ClusterServer;

/// Where snapshots lie, within the data directory, until they are whole.
const INCOMING: &str = "incoming";
/// The most calls of one peer under way on a connection: its groups' streams,
/// and as many writes on their way to the leader as it may have.
const STREAMS_MAX: u32 = 4096;

/// What a node of a cluster needs to know to start.
#[derive(Clone, Debug)]
pub struct MemberSettings {
    /// Its groups; their identity names cluster and node.
    pub groups: GroupSettings,
    /// Where its peers, and operators, call it.
    pub peer: SocketAddr,
    /// TLS between peers; `None` for none.
    pub tls: Option<PeerTls>,
    /// The first members and their peer addresses; empty for a node that is
    /// to be added to a cluster.
    pub members: BTreeMap<u64, String>,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// Its groups do not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its certificates cannot be read.
    #[error("between nodes: {0}")]
    Tls(#[from] TlsError),
    /// The peers' address is taken, forbidden, or not of this machine.
    #[error("peer address {address}: {reason}; free it or choose another")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// What says which cluster it belongs to cannot be read.
    #[error("data directory {path}: {source}")]
    Badge {
        /// The directory.
        path: String,
        /// What is wrong.
        source: io::Error,
    },
}

/// A running node of a cluster.
#[derive(Debug)]
pub struct Member {
    groups: Groups,
    address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl Member {
    /// Opens the groups, listens for peers, and founds the cluster if that is
    /// this node's part. Returns at once: whether there is a leader yet is for
    /// [`Groups::is_ready`] to say.
    ///
    /// # Errors
    /// One clear line, as for [`Groups::open`]; also if the peers' address
    /// cannot be listened on.
    pub async fn start(settings: MemberSettings, registry: &Registry) -> Result<Self, MemberError> {
        let MemberSettings {
            mut groups,
            peer,
            tls,
            members,
        } = settings;
        let data_dir = groups.data_dir.clone();
        let badge = open_badge(&groups)?;
        let peers = Peers::new(Arc::clone(&badge), tls.as_ref(), groups.clock, peer)?;
        let listener = listen(peer)?;
        let address = listener.local_addr().unwrap_or(peer);
        let mut server = server(groups.clock);
        let tls = tls.as_ref().map(PeerTls::server).transpose()?;
        groups.peers = Some(peers.clone());
        let groups = Groups::open(groups, registry).await?;
        let incoming = data_dir.join(INCOMING);
        if let Err(source) = empty(&incoming) {
            groups.shutdown().await.ok();
            return Err(unusable(&incoming, source));
        }
        let raft = RaftServer::new(Arc::clone(&badge), groups.clone(), &incoming);
        let raft = Gate::new(badge, raft);
        let operators = ClusterServer::new(ClusterService {
            peers: peers.clone(),
            groups: groups.clone(),
        });
        let router = server.add_service(raft).add_service(operators);
        let serving = tokio::spawn(async move {
            let served = match tls {
                None => router.serve_with_incoming(listener).await,
                Some(tls) => router.serve_with_incoming(secured(listener, tls)).await,
            };
            if let Err(error) = served {
                tracing::error!("the peers' listener ended: {error}");
            }
        });
        let founding = Founding {
            peers,
            groups: groups.clone(),
            members,
        };
        Ok(Self {
            groups,
            address,
            tasks: vec![serving, tokio::spawn(founding.run())],
        })
    }

    /// Its groups.
    #[must_use]
    pub const fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Where its peers call it.
    #[must_use]
    pub const fn peer_addr(&self) -> SocketAddr {
        self.address
    }

    /// Waits until one of the groups stops for good, as it does when its disk
    /// is full or its log cannot be written, and says why. A node whose group
    /// has stopped is of no use and in the way: it should end.
    pub async fn stopped(&self) -> String {
        let groups = self.groups.all().iter().map(|group| Box::pin(stops(group)));
        let (why, _, _) = select_all(groups).await;
        why
    }

    /// Hands leadership on, stops the groups and the listener, and closes the
    /// directory.
    ///
    /// # Errors
    /// As [`Groups::shutdown`].
    pub async fn shutdown(self) -> io::Result<()> {
        join_all(self.groups.all().iter().map(Group::hand_on)).await;
        let closed = self.groups.shutdown().await;
        for task in self.tasks {
            task.abort();
        }
        closed
    }
}

async fn stops(group: &Group) -> String {
    let mut metrics = group.raft().metrics();
    loop {
        if let Err(fault) = &metrics.borrow_watched().running_state {
            return fault.to_string();
        }
        if metrics.changed().await.is_err() {
            return "its core ended".to_owned();
        }
    }
}

fn open_badge(groups: &GroupSettings) -> Result<Arc<Badge>, MemberError> {
    let (path, identity) = (&groups.data_dir, &groups.identity);
    let badge = Badge::open(path, &identity.cluster, identity.node);
    Ok(Arc::new(badge.map_err(|source| unusable(path, source))?))
}

fn unusable(path: &Path, source: io::Error) -> MemberError {
    MemberError::Badge {
        path: path.display().to_string(),
        source,
    }
}

fn listen(address: SocketAddr) -> Result<TcpIncoming, MemberError> {
    let bound = TcpIncoming::bind(address).map_err(|error| MemberError::Listen {
        address,
        reason: error.to_string(),
    })?;
    Ok(bound.with_nodelay(Some(true)))
}

fn server(clock: Clock) -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(WINDOW)
        // One stream that is not read leaves the others their part.
        .initial_connection_window_size(CONNECTION_WINDOW)
        // As the peers do from their end: a silent peer's calls are let go of.
        .http2_keepalive_interval(Some(clock.election_min / 2))
        .http2_keepalive_timeout(Some(clock.election_min))
}

/// Leaves an empty folder: what lay in it was being received when the process
/// ended.
fn empty(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(folder)
}
