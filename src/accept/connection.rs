//! One connection: HTTP/2 with prior knowledge, its guards, its drain.

use std::{
    convert::Infallible, error::Error, future::Future, io, pin::pin, sync::Arc, time::Duration,
};

use bytes::BytesMut;
use futures_util::{FutureExt, future::poll_fn};
use h2::Reason;
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    task::coop::unconstrained,
    time::timeout,
};

use super::{
    arriving::Arriving,
    carry::{Carried, Carry},
    crowd::Present,
    drain::drain_begins,
    frames::Abuse,
    inline::{Inline, Streams},
    watched::Watch,
};
use crate::{
    telemetry::Refusal,
    transport::{Ahead, ClientCertificate, Coalesced},
};

/// Receive windows: large enough that a burst of small calls never waits for
/// a WINDOW_UPDATE, small enough that a connection holds bounded memory.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Calls that were reset before they were looked at, of one turn: more than
/// come in a turn, since what is too much of that is judged over time.
const RESETS_A_TURN: usize = 256;

/// How every HTTP/2 connection begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// What a client that speaks HTTP/1 is told, in its own language.
const HTTP_1: &str = "this port speaks gRPC: use HTTP/2 without TLS, with prior knowledge\n";

/// How long a client may take to hear why its connection ends.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Serves one accepted socket, of whatever kind, until its client leaves or
/// the drain is over.
pub(super) async fn serve<IO, F, Fut, B>(
    mut socket: IO,
    certificate: Option<ClientCertificate>,
    present: Arc<Present>,
    mut drain: watch::Receiver<bool>,
    answer: F,
) where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Fn(Request<Arriving>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut first = BytesMut::with_capacity(PREFACE.len());
    let greeting = greeting(&mut socket, &mut first);
    let greeted = tokio::select! {
        biased; // whoever has said what it speaks by now is served
        greeted = timeout(present.guards().handshake_timeout, greeting) => greeted,
        () = drain_begins(&mut drain) => return,
    };
    match greeted {
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
        // A probe that opens a connection and closes it is no abuse.
        Ok(Ok(Greeting::Other) | Err(_)) if first.is_empty() => return,
        Ok(Ok(Greeting::Other) | Err(_)) | Err(_) => return present.refuse(Refusal::Handshake),
    }
    let socket = Ahead::begun(first[..].into(), socket);
    let served = serve_http2(socket, certificate, &present, &mut drain, answer).await;
    if let Err(error) = served {
        if is_machines_guard(&error) {
            present.refuse(Refusal::Http2);
        }
        tracing::debug!(%error, "a connection ended with an error");
    }
}

async fn serve_http2<IO, F, Fut, B>(
    socket: IO,
    certificate: Option<ClientCertificate>,
    present: &Arc<Present>,
    drain: &mut watch::Receiver<bool>,
    answer: F,
) -> Result<(), hyper::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Request<Arriving>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<B>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let streams = Streams::default();
    let watch = Watch::new(present);
    let socket = Coalesced::new(watch.over(socket));
    let mut last_word = socket.share();
    let from = Arc::clone(present);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(|body| Arriving::new(body, Arc::clone(&from)));
        if let Some(certificate) = &certificate {
            request.extensions_mut().insert(certificate.clone());
        }
        answer(request).map(Ok::<_, Infallible>)
    });
    let guards = present.guards();
    let connection = http2::Builder::new(streams.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(guards.max_streams)
        .max_header_list_size(guards.max_header_bytes)
        .max_pending_accept_reset_streams(RESETS_A_TURN)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // The reply's headers are the upstream's; ferry adds none of its own.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(socket.share()), service);
    let driven = socket.drive(Box::pin(connection));
    let inline = Inline::new(driven, streams, watch.turn().clone());
    let mut carry = Carry::new(inline, present, &watch);
    // Unconstrained: tokio's budget is meant for one future a task. Here a
    // thousand share one, and each exhausted budget would cost a wake-up.
    // `Inline` bounds its own rounds, and `Turn` what is read in them.
    let carried = unconstrained(async {
        let mut drain = pin!(drain_begins(drain));
        poll_fn(|cx| {
            carry.poll(cx, drain.as_mut(), |connection| {
                connection.connection().as_mut().graceful_shutdown();
            })
        })
        .await
    })
    .await;
    drop(carry);
    let (refusal, why) = match (watch.abuse(), carried) {
        (None, Carried::Ended(ended)) => return ended,
        // It was told to go, and has been counted where that was a refusal.
        (None, Carried::Deaf) => return Ok(()),
        (None, Carried::Stuck) => (Refusal::FrameTimeout, "frame_timeout"),
        (Some(Abuse::Control), _) => (Refusal::ControlFrames, "too_many_control_frames"),
        (Some(Abuse::Resets), _) => (Refusal::Resets, "too_many_resets"),
    };
    present.refuse(refusal);
    // Who does not read it does not hear it.
    let _ = timeout(LAST_WORD, async {
        last_word.write_all(&going_away(why)).await?;
        last_word.shutdown().await
    })
    .await;
    Ok(())
}

/// The frame that ends a connection: GOAWAY, of a client that should calm
/// down, and in words why. Which calls were taken is not known any more.
fn going_away(why: &str) -> Vec<u8> {
    const GOAWAY: u8 = 7;
    const ANY_STREAM: u32 = u32::MAX >> 1;
    let payload = [
        &ANY_STREAM.to_be_bytes()[..],
        &u32::from(Reason::ENHANCE_YOUR_CALM).to_be_bytes(),
        why.as_bytes(),
    ];
    let payload = payload.concat();
    let length = u32::try_from(payload.len()).expect("a few words");
    let head = [&length.to_be_bytes()[1..], &[GOAWAY, 0, 0, 0, 0, 0]].concat();
    [head, payload].concat()
}

/// Whether it was the HTTP/2 machine that had enough of the client.
fn is_machines_guard(error: &hyper::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM);
        }
        cause = error.source();
    }
    false
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
