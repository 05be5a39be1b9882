//! An upstream in the tests' own process, over real connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Builder, SendResponse},
};
use http::Request;
use tokio::net::TcpListener;

/// A call that has come, and the way back to its caller.
pub(super) type Came = (Request<RecvStream>, SendResponse<Bytes>);

/// What it made of a call.
pub(super) trait Serve: Fn(Came) + Clone + Send + 'static {}
impl<F: Fn(Came) + Clone + Send + 'static> Serve for F {}

/// A running upstream.
pub(super) struct Stub {
    pub(super) address: SocketAddr,
    made: Arc<AtomicUsize>,
}

impl Stub {
    /// It takes so many calls at once on a connection, speaks HTTP/2 on the
    /// first `connections` and is silent on the others.
    pub(super) async fn start(streams: u32, connections: usize, serve: impl Serve) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let made = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&made);
        tokio::spawn(async move {
            let mut silent = Vec::new();
            while let Ok((socket, _)) = listener.accept().await {
                if count.fetch_add(1, Ordering::SeqCst) >= connections {
                    silent.push(socket);
                    continue;
                }
                let serve = serve.clone();
                tokio::spawn(async move {
                    let mut server = Builder::new();
                    server.max_concurrent_streams(streams);
                    let connection = server.handshake::<_, Bytes>(socket).await;
                    let mut connection = connection.expect("ferry speaks HTTP/2");
                    while let Some(Ok(came)) = connection.accept().await {
                        serve(came);
                    }
                });
            }
        });
        Self { address, made }
    }

    /// The connections that were made to it so far.
    pub(super) fn connections(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }
}
