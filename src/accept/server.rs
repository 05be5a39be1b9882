//! The listener: accepts connections, and drains them.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use super::{
    connection::{self, ConnectionSettings},
    drain::drain_begins,
};

/// Why a server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken, forbidden, or not of this machine.
    #[error("listen address {address}: {error}; free it or choose another")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
}

/// Waits after a failed accept (too many open files, say): the condition is
/// the system's and passes, and a busy loop would not help it to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening server.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
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
        settings: ConnectionSettings,
        answer: F,
    ) -> Result<Self, ServerError>
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<B>> + Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let bind = |error| ServerError::Bind { address, error };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let (draining, drain) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, settings, drain, answer));
        Ok(Self {
            address,
            draining,
            accepting,
        })
    }

    /// The address it listens on (the port the system chose, for port 0).
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
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
    listener: TcpListener,
    settings: ConnectionSettings,
    mut drain: watch::Receiver<bool>,
    answer: F,
) -> JoinSet<()>
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
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
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    // Small answers must not wait for a full segment.
                    let _ = socket.set_nodelay(true);
                    let serve = connection::serve(
                        socket, settings, connection_drain.clone(), answer.clone(),
                    );
                    connections.spawn(serve);
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}
