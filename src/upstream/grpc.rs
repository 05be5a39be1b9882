//! Someone else's service: one batch, one unary call with the merged message.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, Error as ClientError, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tonic::{Status, body::Body};
use tower::Service;

use super::{BatchReply, Call, Target, late, reply::of_split};
use crate::{
    accept::frame::{self, HEADER, Unary},
    batch::Batch,
};

/// Most bytes of a batch's reply: replies of writes are small.
const REPLY_MAX: usize = 4 << 20;
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an idle-looking connection is asked whether it lives, and how
/// long it may take to say so.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10));
/// Receive windows towards the upstream, as generous as those towards callers.
const WINDOWS: (u32, u32) = (1 << 20, 8 << 20);

/// Connections to the endpoints of an upstream: HTTP/2, one an endpoint, made
/// when first needed and made again when lost.
#[derive(Clone, Debug)]
pub struct RemoteClient {
    client: Arc<Client<HttpConnector, Body>>,
    endpoints: Arc<[Uri]>,
    next: Arc<AtomicUsize>,
}

impl RemoteClient {
    /// A client of these endpoints (`http://HOST:PORT`), used in turn.
    ///
    /// # Panics
    /// If there is no endpoint; the policy's loader sees to that.
    #[must_use]
    pub fn new(endpoints: Vec<Uri>) -> Self {
        assert!(!endpoints.is_empty(), "a remote upstream has an endpoint");
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_only(true)
            .http2_initial_stream_window_size(WINDOWS.0)
            .http2_initial_connection_window_size(WINDOWS.1)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .http2_keep_alive_timeout(KEEP_ALIVE.1)
            .build(connector);
        Self {
            client: Arc::new(client),
            endpoints: endpoints.into(),
            next: Arc::default(),
        }
    }

    /// The endpoints.
    #[must_use]
    pub fn endpoints(&self) -> &[Uri] {
        &self.endpoints
    }

    /// Sends a request to the next endpoint, its path and headers unchanged.
    ///
    /// # Errors
    /// UNAVAILABLE if it was certainly not sent, UNKNOWN if it may have been.
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, Status> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let endpoint = &self.endpoints[turn % self.endpoints.len()];
        let mut target = endpoint.clone().into_parts();
        let path = request.uri().path_and_query().cloned();
        target.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        let uri = Uri::from_parts(target)
            .map_err(|error| Status::internal(format!("endpoint {endpoint}: {error}")))?;
        *request.uri_mut() = uri;
        let sent = self.client.request(request).await;
        sent.map_err(|error| of_client(endpoint, &error))
    }
}

/// A connection that was never made sent nothing; any other fault may have
/// come after the upstream began to work.
fn of_client(endpoint: &Uri, error: &ClientError) -> Status {
    let cause = std::iter::successors(std::error::Error::source(error), |error| error.source())
        .last()
        .map(ToString::to_string)
        .unwrap_or_else(|| error.to_string());
    match error.is_connect() {
        true => Status::unavailable(format!("upstream {endpoint} cannot be reached: {cause}")),
        false => Status::unknown(format!(
            "upstream {endpoint} failed after the call was sent: {cause}; it may have taken effect"
        )),
    }
}

/// Sends batches to a remote service.
#[derive(Clone, Debug)]
pub struct Remote {
    client: RemoteClient,
    targets: Arc<[Target]>,
    timeout: Duration,
}

impl Remote {
    /// An upstream for the methods of a policy, in its order. A batch without
    /// an answer within `timeout` is DEADLINE_EXCEEDED, and is answered so when
    /// the upstream answers, or after as long again.
    #[must_use]
    pub fn new(client: RemoteClient, targets: Vec<Target>, timeout: Duration) -> Self {
        Self {
            client,
            targets: targets.into(),
            timeout,
        }
    }
}

impl Service<Batch<Call>> for Remote {
    type Response = BatchReply;
    type Error = Status;
    type Future = BoxFuture<'static, Result<BatchReply, Status>>;

    /// Always ready: how much is in flight is the limiter's business.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: Batch<Call>) -> Self::Future {
        let timeout = self.timeout;
        let (client, targets) = (self.client.clone(), Arc::clone(&self.targets));
        Box::pin(async move {
            let target = &targets[batch.requests[0].method];
            // The upstream is told when nobody waits any more; whether it can
            // stop then is its own business.
            let given_up = tokio::time::Instant::now() + timeout;
            let deadline = batch
                .deadline
                .map_or(given_up, |at| given_up.min(at.into()));
            let request = request(target, &batch, deadline);
            let answer = async move { read_reply(client.send(request).await?).await };
            split(target, &batch, late(timeout, answer).await?)
        })
    }
}

/// The reply, as the batch's callers will hear it.
fn split(target: &Target, batch: &Batch<Call>, reply: Bytes) -> Result<BatchReply, Status> {
    let pieces = batch.requests.iter().map(|call| &call.piece);
    let parts = target.plan.split(&reply, pieces);
    parts
        .map(BatchReply::from)
        .map_err(|error| of_split(&error))
}

fn request(target: &Target, batch: &Batch<Call>, deadline: tokio::time::Instant) -> Request<Body> {
    let pieces = || batch.requests.iter().map(|call| &call.piece);
    let len = target.plan.merged_len(pieces());
    let mut framed = BytesMut::with_capacity(HEADER + len);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(len).expect("a batch is bounded far below 4 GiB"));
    target.plan.merge(pieces(), &mut framed);

    let mut request = Request::new(Body::new(Full::new(framed.freeze())));
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = Uri::try_from(&*target.path).expect("a method's path was checked");
    let headers = request.headers_mut();
    if let Some(identity) = &batch.requests[0].identity {
        headers.clone_from(&identity.headers);
    }
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert("grpc-timeout", timeout_header(deadline));
    request
}

/// What remains until the deadline. gRPC allows eight digits.
fn timeout_header(deadline: tokio::time::Instant) -> HeaderValue {
    let remains = deadline.saturating_duration_since(tokio::time::Instant::now());
    let (value, unit) = match remains.as_micros() {
        micros if micros < 100_000_000 => (micros, 'u'),
        micros => ((micros / 1000).min(99_999_999), 'm'),
    };
    HeaderValue::try_from(format!("{value}{unit}")).expect("digits and a letter")
}

/// The reply's one message; the status stands in the trailers, or in the
/// headers of a reply that has nothing else.
async fn read_reply(response: Response<Incoming>) -> Result<Bytes, Status> {
    if response.status() != http::StatusCode::OK {
        return Err(Status::unknown(format!(
            "the upstream answered with HTTP {}: is it a gRPC service?",
            response.status()
        )));
    }
    if let Some(status) = Status::from_header_map(response.headers()) {
        return finish(status, None);
    }
    let body = Limited::new(response.into_body(), REPLY_MAX)
        .collect()
        .await;
    let body = body.map_err(|error| {
        Status::unknown(format!(
            "the upstream's reply broke off: {error}; the batch may have taken effect"
        ))
    })?;
    let status = body.trailers().and_then(Status::from_header_map);
    finish(
        status.unwrap_or_else(|| Status::unknown("the upstream's reply has no grpc-status")),
        Some(body.to_bytes()),
    )
}

fn finish(mut status: Status, body: Option<Bytes>) -> Result<Bytes, Status> {
    if status.code() != tonic::Code::Ok {
        // The batch's own trailers are no single caller's business.
        *status.metadata_mut() = tonic::metadata::MetadataMap::new();
        return Err(status);
    }
    match frame::unary(&body.unwrap_or_default()) {
        Ok(Unary::Message(message)) => Ok(message),
        Ok(Unary::Compressed) => Err(Status::internal(
            "the upstream compressed its reply, which was not offered",
        )),
        Err(error) => Err(Status::internal(format!("the upstream's reply: {error}"))),
    }
}
