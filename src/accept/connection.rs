//! One connection: HTTP/2 with prior knowledge, its guards, its drain.

use std::{convert::Infallible, future::Future, io, time::Duration};

use bytes::BytesMut;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    task::coop::unconstrained,
};

use super::{
    drain::drain_begins,
    inline::{Inline, Streams},
};
use crate::transport::{Begun, ClientCertificate, Coalesced};

/// Bounds of one connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionSettings {
    /// Streams open at once. hyper's own default of 200 is too few for a
    /// client that multiplexes thousands of calls.
    pub max_streams: u32,
    /// Most bytes of request headers.
    pub max_header_bytes: u32,
    /// Connections open at once on one listener.
    pub max_connections: usize,
    /// How long a client may take to say that it speaks HTTP/2, and before
    /// that for its TLS.
    pub preface_timeout: Duration,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            max_streams: 10_000,
            max_header_bytes: 16 << 10,
            max_connections: 10_000,
            preface_timeout: Duration::from_secs(10),
        }
    }
}

/// Receive windows: large enough that a burst of small calls never waits for
/// a WINDOW_UPDATE, small enough that a connection holds bounded memory.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// How every HTTP/2 connection begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// What a client that speaks HTTP/1 is told, in its own language.
const HTTP_1: &str = "this port speaks gRPC: use HTTP/2 without TLS, with prior knowledge\n";

/// Serves one accepted socket, of whatever kind, until its client leaves or
/// the drain is over.
pub(super) async fn serve<IO, F, Fut, B>(
    mut socket: IO,
    peer: Option<ClientCertificate>,
    settings: ConnectionSettings,
    mut drain: watch::Receiver<bool>,
    answer: F,
) where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut first = BytesMut::with_capacity(PREFACE.len());
    let greeting = greeting(&mut socket, &mut first);
    match tokio::time::timeout(settings.preface_timeout, greeting).await {
        Ok(Ok(Greeting::Http2)) => {}
        Ok(Ok(Greeting::Http1)) => {
            // The client may be gone: then there is nobody to tell.
            let answer = format!(
                "HTTP/1.1 505 HTTP Version Not Supported\r\nconnection: close\r\n\
                 content-type: text/plain\r\ncontent-length: {}\r\n\r\n{HTTP_1}",
                HTTP_1.len()
            );
            let _ = socket.write_all(answer.as_bytes()).await;
            return;
        }
        Ok(Ok(Greeting::Other) | Err(_)) | Err(_) => return,
    }
    let socket = Begun::new(first.freeze(), socket);
    if let Err(error) = serve_http2(socket, peer, settings, &mut drain, answer).await {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

async fn serve_http2<IO, F, Fut, B>(
    socket: IO,
    peer: Option<ClientCertificate>,
    settings: ConnectionSettings,
    drain: &mut watch::Receiver<bool>,
    answer: F,
) -> Result<(), hyper::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let streams = Streams::default();
    let socket = Coalesced::new(socket);
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        answer(request).map(Ok::<_, Infallible>)
    });
    let connection = http2::Builder::new(streams.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.max_streams)
        .max_header_list_size(settings.max_header_bytes)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // The reply's headers are the upstream's; ferry adds none of its own.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(socket.share()), service);
    let driven = socket.drive(Box::pin(connection));
    // Unconstrained: tokio's budget is meant for one future a task. Here a
    // thousand share one, and each exhausted budget would cost a wake-up.
    // `Inline` bounds its own rounds.
    unconstrained(async {
        let mut inline = Inline::new(driven, streams);
        tokio::select! {
            done = &mut inline => return done,
            () = drain_begins(drain) => {}
        }
        // GOAWAY first; what was accepted is still answered.
        let connection = inline.connection().get_mut().connection();
        connection.as_mut().graceful_shutdown();
        inline.await
    })
    .await
}

enum Greeting {
    Http2,
    Http1,
    Other,
}

/// Reads as many of the first bytes as tell what is spoken.
async fn greeting(
    socket: &mut (impl AsyncRead + Unpin),
    first: &mut BytesMut,
) -> io::Result<Greeting> {
    while first.len() < PREFACE.len() && PREFACE.starts_with(first) {
        let room = PREFACE.len() - first.len();
        if (&mut *socket).take(room as u64).read_buf(first).await? == 0 {
            return Ok(Greeting::Other);
        }
    }
    Ok(judge(first))
}

fn judge(first: &[u8]) -> Greeting {
    if first.starts_with(PREFACE) {
        return Greeting::Http2;
    }
    let method = first
        .iter()
        .take_while(|byte| byte.is_ascii_uppercase())
        .count();
    match method > 0 && first.get(method) == Some(&b' ') {
        true => Greeting::Http1,
        false => Greeting::Other,
    }
}
