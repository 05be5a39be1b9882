//! The listener: accepts connections, and drains them.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::BytesMut;
use http::{Request, Response};
use http_body::Body;
use rustls::ServerConfig;
use tokio::{io::AsyncReadExt, sync::watch, task::JoinSet, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    arriving::Arriving,
    connection,
    crowd::{Crowd, Present},
    drain::drain_begins,
    guards::Guards,
};
use crate::{
    telemetry::{Refusal, Refusals},
    transport::{Ahead, BindError, ClientCertificate, Listening, Place, ServerTls, Stream},
};

/// Why a server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken, forbidden, or not of this machine.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// Waits after a failed accept (too many open files, say): the condition is
/// the system's and passes, and a busy loop would not help it to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A client's first words of TLS, or most of them.
const HELLO: usize = 1 << 10;

/// A listening server.
#[derive(Debug)]
pub struct Server {
    place: Place,
    tls: Option<ServerTls>,
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
        Ok(Self::on(listening, None, guards, Arc::default(), answer))
    }

    /// The same on a socket that listens already, and with TLS if there is
    /// any. A connection keeps the `guards` that it began with; what they refuse
    /// is counted in `refusals`. It must be called inside a tokio runtime.
    pub fn on<F, Fut, B>(
        listening: Listening,
        tls: Option<ServerTls>,
        guards: Arc<ArcSwap<Guards>>,
        refusals: Arc<Refusals>,
        answer: F,
    ) -> Self
    where
        F: Fn(Request<Arriving>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<B>> + Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let place = listening.place().clone();
        let (draining, drain) = watch::channel(false);
        let crowd = Crowd::new(refusals);
        let accepting = accept(listening, tls.clone(), guards, crowd, drain, answer);
        Self {
            place,
            tls,
            draining,
            accepting: tokio::spawn(accepting),
        }
    }

    /// Its TLS, if it has any, for whoever may change it.
    #[must_use]
    pub fn tls(&self) -> Option<&ServerTls> {
        self.tls.as_ref()
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
        match timeout(patience, all_ended).await {
            Ok(()) => 0,
            Err(_) => connections.len(),
        }
    }
}

async fn accept<F, Fut, B>(
    listening: Listening,
    tls: Option<ServerTls>,
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
                    let tls = tls.as_ref().map(ServerTls::config);
                    let (mut drain, answer) = (connection_drain.clone(), answer.clone());
                    connections.spawn(async move {
                        let secured = secured(socket, tls, &present, &mut drain).await;
                        let Some((socket, certificate)) = secured else {
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
/// the client cannot, or takes too long, or the drain begins before.
async fn secured(
    socket: Box<dyn Stream>,
    tls: Option<Arc<ServerConfig>>,
    present: &Present,
    drain: &mut watch::Receiver<bool>,
) -> Option<(Box<dyn Stream>, Option<ClientCertificate>)> {
    let Some(tls) = tls else {
        return Some((socket, None));
    };
    let within = present.guards().handshake_timeout;
    let shaken = tokio::select! {
        biased; // whoever is through by now is served
        shaken = timeout(within, handshake(socket, tls)) => shaken,
        () = drain_begins(drain) => return None,
    };
    match shaken {
        Ok(Ok(Some(socket))) => {
            let certificates = socket.get_ref().1.peer_certificates();
            let peer = certificates.and_then(|chain| chain.first());
            let peer = peer.map(ClientCertificate::of);
            Some((Box::new(socket), peer))
        }
        Ok(Ok(None)) => None,
        Ok(Err(error)) => {
            present.refuse_tls(&error);
            None
        }
        Err(_) => {
            present.refuse(Refusal::Handshake);
            None
        }
    }
}

/// `None` if the client left before it said anything: a probe that opens a
/// connection and closes it has failed at nothing.
async fn handshake(
    mut socket: Box<dyn Stream>,
    tls: Arc<ServerConfig>,
) -> io::Result<Option<TlsStream<Ahead<Box<dyn Stream>>>>> {
    let mut hello = BytesMut::with_capacity(HELLO);
    if !matches!(socket.read_buf(&mut hello).await, Ok(1..)) {
        return Ok(None);
    }
    let socket = Ahead::begun(hello[..].into(), socket);
    TlsAcceptor::from(tls).accept(socket).await.map(Some)
}
