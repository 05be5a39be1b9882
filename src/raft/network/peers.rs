//! Connections to the other nodes, by address.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::ClientConfig;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::{Badge, PeerTls, TlsError, tls::Dial};
use crate::{
    proto::raft::raft_client::RaftClient,
    raft::clock::Clock,
    transport::{ClientFiles, Fresh},
};

/// The largest message that a node takes from a peer. Its own bound is on what
/// a caller may send; a peer's messages hold a few of those.
pub(crate) const MESSAGE_MAX: usize = 256 << 20;
/// Receive window of a stream, in bytes: what of its appends or of a snapshot
/// may be under way to a node that is slow to take it. The receiver says so.
pub(crate) const WINDOW: u32 = 4 << 20;
/// Receive window of all streams of a connection together.
pub(crate) const CONNECTION_WINDOW: u32 = 4 * WINDOW;
/// How long a question to a peer may take beyond the time to connect, in
/// longest elections: by then another leader has been found.
const ELECTIONS: u32 = 2;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Use {
    /// Votes, heartbeats and short questions.
    Talk,
    /// The stream of appends, and writes on their way to the leader.
    Append,
    /// Snapshots.
    Snapshot,
}

/// The way to every other node of the cluster. Clones share the connections.
#[derive(Clone)]
pub struct Peers(Arc<Shared>);

struct Shared {
    badge: Arc<Badge>,
    tls: Option<Arc<Fresh<ClientFiles, ClientConfig>>>,
    clock: Clock,
    /// Where this node listens, and so calls from: a firewall between the nodes
    /// can tell who calls. `None` where it listens everywhere.
    own: Option<IpAddr>,
    channels: Mutex<HashMap<(String, Use), Channel>>,
    told: Mutex<HashMap<String, String>>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Peers").field(&self.0.badge).finish()
    }
}

impl Peers {
    pub(crate) fn new(
        badge: Arc<Badge>,
        tls: Option<&PeerTls>,
        clock: Clock,
        listens: SocketAddr,
    ) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(Shared {
            badge,
            own: Some(listens.ip()).filter(|ip| !ip.is_unspecified()),
            tls: tls.map(PeerTls::client).transpose()?.map(Arc::new),
            clock,
            channels: Mutex::default(),
            told: Mutex::default(),
        })))
    }

    pub(crate) fn badge(&self) -> &Arc<Badge> {
        &self.0.badge
    }

    /// How long a question may take before whoever asked gives up.
    pub(crate) fn patience(&self) -> Duration {
        self.0.clock.election_max * ELECTIONS
    }

    /// A client of the node at `address`; it connects when it is used.
    pub(crate) fn client(&self, address: &str, of: Use) -> Result<RaftClient<Channel>, Status> {
        let mut channels = self
            .0
            .channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let key = (address.to_owned(), of);
        let channel = match channels.get(&key) {
            Some(channel) => channel.clone(),
            None => {
                let channel = self.channel(address)?;
                channels.insert(key, channel.clone());
                channel
            }
        };
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX))
    }

    fn channel(&self, address: &str) -> Result<Channel, Status> {
        let clock = &self.0.clock;
        let unusable = |error: tonic::transport::Error| {
            Status::invalid_argument(format!("address {address}: {error}; it must be HOST:PORT"))
        };
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(unusable)?
            .connect_timeout(clock.election_min)
            .tcp_nodelay(true)
            .local_address(self.0.own)
            // A peer that vanished without a word is noticed in about the time
            // in which its silence would start an election.
            .http2_keep_alive_interval(clock.election_min / 2)
            .keep_alive_timeout(clock.election_min)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        Ok(match &self.0.tls {
            None => endpoint.connect_lazy(),
            // What it dials is TLS, which tonic does not have to know.
            Some(tls) => endpoint.connect_with_connector_lazy(Dial {
                from: self.0.own,
                tls: Arc::clone(tls),
            }),
        })
    }

    /// Tells the operator of a refusal, once: whoever refuses goes on doing so.
    pub(crate) fn tell(&self, address: &str, status: &Status) {
        if status.code() != tonic::Code::FailedPrecondition {
            return;
        }
        let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        let before = told.insert(address.to_owned(), status.message().to_owned());
        if before.as_deref() != Some(status.message()) {
            tracing::warn!(peer = address, "refused by a peer: {}", status.message());
        }
    }
}

/// Whether a call that failed certainly never reached the peer's hands.
pub(crate) fn never_sent(status: &Status) -> bool {
    let causes = std::iter::successors(std::error::Error::source(status), |error| error.source());
    let unconnected = causes
        .into_iter()
        .any(|error| error.is::<tonic::ConnectError>());
    // The badge is looked at before the message is.
    unconnected || status.code() == tonic::Code::FailedPrecondition
}
