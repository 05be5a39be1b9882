//! An upstream of known capacity: it works on one batch after the other, each
//! entry takes it the same time, and it keeps account of what it did.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use ferry::{accept::frame::framed, proto::mqtt::CreateSessionRequest};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep_until},
};

/// Of a gRPC message: its compression flag and its length.
const HEADER: usize = 5;

/// A running upstream.
#[derive(Clone)]
pub(crate) struct Slow {
    pub(crate) address: SocketAddr,
    work: Arc<Mutex<Work>>,
}

/// What it has done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Work {
    /// Entries taken.
    pub(crate) entries: u64,
    free_at: Option<Instant>,
}

impl Slow {
    /// One that takes `an_entry` of time for each of them.
    pub(crate) async fn start(an_entry: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("loopback has free ports");
        let slow = Self {
            address: listener.local_addr().expect("it is bound"),
            work: Arc::default(),
        };
        let work = Arc::clone(&slow.work);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let work = Arc::clone(&work);
                let service = service_fn(move |request| {
                    let work = Arc::clone(&work);
                    async move { Ok::<_, Infallible>(serve(work, an_entry, request).await) }
                });
                let connection = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(socket), service);
                tokio::spawn(connection);
            }
        });
        slow
    }

    /// What it has done so far.
    pub(crate) fn work(&self) -> Work {
        self.work.lock().expect("no holder panics").clone()
    }
}

impl Work {
    /// Takes a batch in, behind what stands before it; when it will be done.
    fn take(&mut self, entries: usize, an_entry: Duration) -> Instant {
        let now = Instant::now();
        let free_at = self.free_at.unwrap_or(now);
        let takes = an_entry * u32::try_from(entries).expect("a batch is bounded");
        self.entries += entries as u64;
        let done = free_at.max(now) + takes;
        self.free_at = Some(done);
        done
    }
}

type Reply = StreamBody<
    futures_util::stream::Iter<std::array::IntoIter<Result<Frame<Bytes>, Infallible>, 2>>,
>;

async fn serve(
    work: Arc<Mutex<Work>>,
    an_entry: Duration,
    request: Request<Incoming>,
) -> Response<Reply> {
    let body = request.into_body().collect().await;
    let body = body.expect("ferry sends whole batches").to_bytes();
    let (header, message) = body.split_at(HEADER);
    let length = u32::from_be_bytes(header[1..].try_into().expect("four bytes"));
    assert_eq!(length as usize, message.len(), "a batch is one message");
    let batch = CreateSessionRequest::decode(message).expect("a batch is well-formed");
    let done = {
        let mut work = work.lock().expect("no holder panics");
        work.take(batch.sessions.len(), an_entry)
    };
    sleep_until(done).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Frame::data(framed(b"")), Frame::trailers(trailers)].map(Ok);
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    response
}
