//! The listener: accepts connections, and drains them.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::{Request, Response};
use http_body::Body;
use rustls::ServerConfig;
use tokio::{sync::watch, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use super::{
    arriving::Arriving,
    connection,
    crowd::{Crowd, Present},
    drain::drain_begins,
    guards::Guards,
};
use crate::{
    telemetry::{Refusal, Refusals},
    transport::{
        BindError, ClientCertificate, Fresh, Listening, Place, ServerFiles, Stream, TlsError,
    },
};

/// Why a server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken, forbidden, or not of this machine.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Its TLS has no usable key or certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Waits after a failed accept (too many open files, say): the condition is
/// the system's and passes, and a busy loop would not help it to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening server.
#[derive(Debug)]
pub struct Server {
    place: Place,
    draining: watch::Sender<bool>,
    accepting: tokio::task::JoinHandle<JoinSet<()>>,
}

impl Server {
    /// Listens, and answers every call with `answer`, whose future is polled
    /// inside the connection's task: it may parse, enqueue and await, and
    /// must leave longer work to others.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn listen<F, Fut, B>(
        address: SocketAddr,
        guards: Guards,
        answer: F,
    ) -> Result<Self, ServerError>
    where
        F: Fn(Request<Arriving>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<B>> + Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let listening = Listening::bind(&Place::Tcp(address)).await?;
        let guards = Arc::new(ArcSwap::from_pointee(guards));
        Self::on(listening, None, guards, Arc::default(), answer)
    }

    /// The same on a socket that listens already, and with TLS if there are
    /// files for it. A connection keeps the `guards` that it began with; what
    /// they refuse is counted in `refusals`. It must be called inside a tokio
    /// runtime.
    ///
    /// # Errors
    /// If the files cannot be used.
    pub fn on<F, Fut, B>(
        listening: Listening,
        tls: Option<ServerFiles>,
        guards: Arc<ArcSwap<Guards>>,
        refusals: Arc<Refusals>,
        answer: F,
    ) -> Result<Self, ServerError>
    where
        F: Fn(Request<Arriving>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<B>> + Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let tls = tls.map(Fresh::new).transpose()?;
        let place = listening.place().clone();
        let (draining, drain) = watch::channel(false);
        let crowd = Crowd::new(refusals);
        let accepting = tokio::spawn(accept(listening, tls, guards, crowd, drain, answer));
        Ok(Self {
            place,
            draining,
            accepting,
        })
    }

    /// Where it listens (the port that the system chose, for port 0).
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The TCP address that it listens on.
    ///
    /// # Panics
    /// If it listens on a Unix socket.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        match &self.place {
            Place::Tcp(address) => *address,
            Place::Unix(path) => panic!("{} is no TCP address", path.display()),
        }
    }

    /// Stops intake (the socket closes, connections get GOAWAY), lets what
    /// was accepted be answered, and at `patience` closes what is left.
    /// Returns how many connections had to be closed.
    pub async fn drain(self, patience: Duration) -> usize {
        // The receivers may all be gone: then there is nothing to drain.
        let _ = self.draining.send(true);
        let Ok(mut connections) = self.accepting.await else {
            return 0;
        };
        let all_ended = async { while connections.join_next().await.is_some() {} };
        match tokio::time::timeout(patience, all_ended).await {
            Ok(()) => 0,
            Err(_) => connections.len(),
        }
    }
}

async fn accept<F, Fut, B>(
    listening: Listening,
    tls: Option<Fresh<ServerFiles, ServerConfig>>,
    guards: Arc<ArcSwap<Guards>>,
    crowd: Arc<Crowd>,
    mut drain: watch::Receiver<bool>,
    answer: F,
) -> JoinSet<()>
where
    F: Fn(Request<Arriving>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut connections = JoinSet::new();
    let connection_drain = drain.clone();
    loop {
        tokio::select! {
            () = drain_begins(&mut drain) => return connections,
            // Ended connections are let go of as they end.
            Some(_) = connections.join_next() => {}
            accepted = listening.accept() => match accepted {
                Ok((socket, peer)) => {
                    let guards = guards.load_full();
                    // Whoever has been idle longest makes room. One more than
                    // there may be is told so at once, and not left to wait
                    // for an answer that does not come.
                    let is_full = connections.len() >= guards.max_connections;
                    if is_full && !crowd.make_room() {
                        crowd.refuse(Refusal::Connections, &peer);
                        continue;
                    }
                    let present = crowd.enter(peer, guards);
                    let tls = tls.as_ref().map(Fresh::config);
                    let (drain, answer) = (connection_drain.clone(), answer.clone());
                    connections.spawn(async move {
                        let Some((socket, certificate)) = secured(socket, tls, &present).await
                        else {
                            return;
                        };
                        connection::serve(socket, certificate, present, drain, answer).await;
                    });
                }
                Err(error) => {
                    crowd.not_accepted(listening.place(), &error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// The socket as calls go over it: inside TLS, where there is any. `None` if
/// the client cannot, or takes too long.
async fn secured(
    socket: Box<dyn Stream>,
    tls: Option<Arc<ServerConfig>>,
    present: &Present,
) -> Option<(Box<dyn Stream>, Option<ClientCertificate>)> {
    let Some(tls) = tls else {
        return Some((socket, None));
    };
    let handshake = TlsAcceptor::from(tls).accept(socket);
    match tokio::time::timeout(present.guards().handshake_timeout, handshake).await {
        Ok(Ok(socket)) => {
            let certificates = socket.get_ref().1.peer_certificates();
            let peer = certificates.and_then(|chain| chain.first());
            let peer = peer.map(ClientCertificate::of);
            Some((Box::new(socket), peer))
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection without TLS");
            present.refuse(Refusal::Handshake);
            None
        }
        Err(_) => {
            present.refuse(Refusal::Handshake);
            None
        }
    }
}
