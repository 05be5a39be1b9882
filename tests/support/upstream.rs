//! An upstream of the tests' own: it notes every batch that it gets and holds
//! its answers back until it is told to give them, and it has one method of
//! each other kind, to be forwarded to.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use ferry::{accept::frame::framed, proto::mqtt::CreateSessionRequest};
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    task::AbortHandle,
};
use tonic::Status;

use super::{
    client::{CREATE, messages},
    until,
};

type Body = BoxBody<Bytes, io::Error>;
type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, io::Error>>;

/// A method of the tests' own, whose entries are as CreateSession's.
pub(crate) const REMOVE: &str = "/test.Sessions/Remove";

/// More permits than any test has batches.
const ALL: usize = 1 << 24;

/// A batch as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    /// To whom it was addressed.
    pub(crate) authority: String,
    pub(crate) headers: HeaderMap,
    /// The client ids of its entries, in order.
    pub(crate) clients: Vec<String>,
    /// As it came, frame and all.
    pub(crate) body: Bytes,
}

/// A running upstream.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    batches: Mutex<Vec<Seen>>,
    /// One permit an answer.
    answers: Semaphore,
    /// What the next batches are answered with, instead of success.
    refusals: Mutex<VecDeque<Status>>,
    /// Calls whose caller went away before they had ended.
    left: AtomicUsize,
    /// Bytes that were taken of floods.
    flooded: AtomicUsize,
    /// The tasks of the connections that were made.
    connections: Mutex<Vec<AbortHandle>>,
}

impl Upstream {
    /// Answers every batch as it comes.
    pub(crate) async fn answering() -> Self {
        Self::start(ALL).await
    }

    /// Answers no batch before [`Upstream::answer`].
    pub(crate) async fn holding() -> Self {
        Self::start(0).await
    }

    /// The same at an address that a test has told others before.
    pub(crate) async fn answering_at(address: SocketAddr) -> Self {
        Self::start_at(address, ALL).await
    }

    async fn start(answers: usize) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), answers).await
    }

    async fn start_at(address: SocketAddr, answers: usize) -> Self {
        let listener = TcpListener::bind(address).await;
        let listener = listener.expect("loopback has free ports");
        let upstream = Self {
            address: listener.local_addr().expect("it is bound"),
            shared: Arc::new(Shared {
                batches: Mutex::default(),
                answers: Semaphore::new(answers),
                refusals: Mutex::default(),
                left: AtomicUsize::new(0),
                flooded: AtomicUsize::new(0),
                connections: Mutex::default(),
            }),
        };
        tokio::spawn(accept(listener, Arc::clone(&upstream.shared)));
        upstream
    }

    /// Lets one batch be answered.
    pub(crate) fn answer(&self) {
        self.shared.answers.add_permits(1);
    }

    /// Answers every batch from now on.
    pub(crate) fn answer_all(&self) {
        self.shared.answers.add_permits(ALL);
    }

    /// The next batch is answered with `status`.
    pub(crate) fn refuse(&self, status: Status) {
        lock(&self.shared.refusals).push_back(status);
    }

    /// Loses every connection, and with it whatever was under way on it.
    pub(crate) fn lose_connections(&self) {
        for connection in lock(&self.shared.connections).drain(..) {
            connection.abort();
        }
    }

    /// The batches that came so far.
    pub(crate) fn batches(&self) -> Vec<Seen> {
        lock(&self.shared.batches).clone()
    }

    /// Waits until so many batches have come.
    pub(crate) async fn until_batches(&self, count: usize) {
        until("so many batches reach the upstream", async || {
            self.batches().len() >= count
        })
        .await;
    }

    /// Calls whose caller went away before they had ended.
    pub(crate) fn left(&self) -> usize {
        self.shared.left.load(Ordering::SeqCst)
    }

    /// Bytes that were taken of floods: they are on their way, or have arrived.
    pub(crate) fn flooded(&self) -> usize {
        self.shared.flooded.load(Ordering::SeqCst)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((socket, _)) = listener.accept().await {
        socket.set_nodelay(true).expect("a TCP socket");
        let (shared, register) = (Arc::clone(&shared), Arc::clone(&shared));
        let connection = tokio::spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(serve(shared, request).await) }
            });
            // How a connection ends is for its calls to say.
            let _ = http2::Builder::new(TokioExecutor::new())
                .max_concurrent_streams(10_000)
                // One caller's stream that is not read must not hold up all.
                .initial_connection_window_size(64 << 20)
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
        lock(&register.connections).push(connection.abort_handle());
    }
}

/// Counts a call whose caller leaves before its end.
struct Leaving(Option<Arc<Shared>>);

impl Leaving {
    fn ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.left.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn serve(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let (head, body) = request.into_parts();
    if path == CREATE || path == REMOVE {
        return create(shared, head, body).await;
    }
    let (frames, answer) = mpsc::unbounded_channel();
    let metadata = echoed(&head.headers);
    match &*path {
        "/test.Streams/Flood" => return flood(shared),
        // Both streams end only when they are left.
        "/test.Streams/SilentUntilLeft" => {
            let _leaving = Leaving(Some(shared));
            std::future::pending().await
        }
        "/test.Streams/SpeakUntilLeft" => {
            tokio::spawn(speak_until_left(frames, Leaving(Some(shared))));
        }
        "/test.Streams/Echo" => {
            tokio::spawn(echo(body, frames, metadata.clone()));
        }
        "/test.Streams/Count" => {
            tokio::spawn(count(body, frames));
        }
        "/test.Streams/Sum" => {
            tokio::spawn(sum(body, frames));
        }
        "/test.Streams/BreakOff" => {
            tokio::spawn(break_off(body, frames));
        }
        "/test.Streams/FailLate" => {
            send(&frames, b"and then");
            end(&frames, trailers(&refusal()));
        }
        "/test.Streams/Fail" => return empty(trailers(&refusal())),
        other => return empty(trailers(&Status::unimplemented(format!("not {other}")))),
    }
    let stream = stream::unfold(answer, async |mut answer| {
        answer.recv().await.map(|frame| (frame, answer))
    });
    let mut response = Response::new(StreamBody::new(stream).boxed());
    *response.headers_mut() = metadata;
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    response
}

async fn create(shared: Arc<Shared>, head: request::Parts, body: Incoming) -> Response<Body> {
    let mut leaving = Leaving(Some(Arc::clone(&shared)));
    let body = body.collect().await.expect("ferry sends whole batches");
    let body = body.to_bytes();
    let [message] = &messages(body.clone())[..] else {
        panic!("a batch is one message");
    };
    let request = CreateSessionRequest::decode(&message[..]).expect("a batch is well-formed");
    let clients = request.sessions.into_iter().map(|raw| raw.client_id);
    let authority = head.uri.authority().map(ToString::to_string);
    lock(&shared.batches).push(Seen {
        path: head.uri.path().to_owned(),
        authority: authority.unwrap_or_default(),
        headers: head.headers,
        clients: clients.collect(),
        body,
    });
    let answer = shared.answers.acquire().await.expect("never closed");
    answer.forget();
    leaving.ended();
    let refusal = lock(&shared.refusals).pop_front();
    match refusal {
        Some(status) => empty(trailers(&status)),
        None => {
            let (frames, mut answer) = mpsc::unbounded_channel();
            send(&frames, b"");
            end(&frames, trailers(&Status::ok("")));
            drop(frames);
            let stream = stream::poll_fn(move |cx| answer.poll_recv(cx));
            let mut response = Response::new(StreamBody::new(stream).boxed());
            let grpc = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert("content-type", grpc);
            response
        }
    }
}

/// Every frame back as it comes, and in the trailers the metadata once more.
async fn echo(mut body: Incoming, frames: Frames, metadata: HeaderMap) {
    while let Some(Ok(frame)) = body.frame().await {
        // What ends the caller's stream without a byte is no message.
        let says = frame.data_ref().is_some_and(|bytes| !bytes.is_empty());
        if says && frames.send(Ok(frame)).is_err() {
            return;
        }
    }
    let mut last = trailers(&Status::ok(""));
    last.extend(metadata);
    end(&frames, last);
}

/// As many messages as the request's one message has bytes.
async fn count(body: Incoming, frames: Frames) {
    let request = body.collect().await.expect("the request comes whole");
    let [message] = &messages(request.to_bytes())[..] else {
        panic!("one message was to come");
    };
    (0..message.len()).for_each(|place| send(&frames, place.to_string().as_bytes()));
    end(&frames, trailers(&Status::ok("")));
}

/// One message: how many came, and all of them in a row.
async fn sum(body: Incoming, frames: Frames) {
    let request = body.collect().await.expect("the request comes whole");
    let messages = messages(request.to_bytes());
    let told = format!("{}:", messages.len()).into_bytes();
    send(&frames, &[told, messages.concat()].concat());
    end(&frames, trailers(&Status::ok("")));
}

/// One message, and when the caller has ended its own, a broken stream.
async fn break_off(body: Incoming, frames: Frames) {
    send(&frames, b"and then");
    // Whatever the caller sends, it is still there.
    let _ = body.collect().await;
    let _ = frames.send(Err(io::Error::other("the upstream breaks off")));
}

/// Messages without end, each made when there is room for it.
fn flood(shared: Arc<Shared>) -> Response<Body> {
    let message = framed(&[7; 16 << 10]);
    let messages = stream::repeat_with(move || {
        shared.flooded.fetch_add(message.len(), Ordering::SeqCst);
        Ok(Frame::data(message.clone()))
    });
    let mut response = Response::new(StreamBody::new(messages).boxed());
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    response
}

/// One message, and nothing more until the caller leaves.
async fn speak_until_left(frames: Frames, _leaving: Leaving) {
    send(&frames, b"still there?");
    frames.closed().await;
}

fn send(frames: &Frames, message: &[u8]) {
    // An error says that the caller has left.
    let _ = frames.send(Ok(Frame::data(framed(message))));
}

fn end(frames: &Frames, trailers: HeaderMap) {
    let _ = frames.send(Ok(Frame::trailers(trailers)));
}

/// What the methods that fail fail with.
pub(crate) fn refusal() -> Status {
    let mut metadata = tonic::metadata::MetadataMap::new();
    metadata.insert("x-why", "because".parse().expect("a value"));
    let details = Bytes::from_static(&[8, 9, 0, 255]);
    Status::with_details_and_metadata(
        tonic::Code::FailedPrecondition,
        "not now: 100 % of naïve calls",
        details,
        metadata,
    )
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    status
        .add_header(&mut trailers)
        .expect("a status fits into headers");
    trailers
}

/// A reply that consists of its head, which says how it ended.
fn empty(mut trailers: HeaderMap) -> Response<Body> {
    let grpc = HeaderValue::from_static("application/grpc");
    trailers.insert("content-type", grpc);
    let body = http_body_util::Empty::new().map_err(|never| match never {});
    let mut response = Response::new(body.boxed());
    *response.headers_mut() = trailers;
    response
}

/// The custom metadata of a request.
fn echoed(headers: &HeaderMap) -> HeaderMap {
    let custom = |(name, _): &(&HeaderName, &HeaderValue)| name.as_str().starts_with("x-");
    let kept = headers.iter().filter(custom);
    kept.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
