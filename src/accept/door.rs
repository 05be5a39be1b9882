//! One call, from its headers to its answer: route, read, scan, enqueue, await.
//!
//! Whatever is wrong with a call is found here and told to its caller alone,
//! before it stands in any window.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, header, request::Parts};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tonic::{Code, Status, body::Body};
use tower::{Service, ServiceExt};

use super::{
    answer::{self, AnswerBody},
    frame::{self, HEADER, Unary},
    metadata,
    route::{Route, Router},
    status::{self, ShedAnswer},
};
use crate::{
    batch::BatchError,
    forward::Forwarder,
    policy::{Classify, MetadataRules},
    telemetry::MethodMetrics,
    upstream::{Call, Identity},
    wire::{Form, Piece, Plan, Scan},
};

/// What the door knows of a batched method.
#[derive(Clone, Debug)]
pub struct DoorMethod {
    /// How its messages are scanned.
    pub plan: Arc<Plan>,
    /// Most bytes a message may have.
    pub max_message_bytes: usize,
    /// Where its calls are counted.
    pub metrics: Arc<MethodMetrics>,
}

/// Answers every call of a listener.
#[derive(Debug)]
pub struct Door<S> {
    /// Which paths batch.
    pub router: Router,
    /// The batched methods, by the router's index.
    pub methods: Vec<DoorMethod>,
    /// What a call's metadata means for its batch.
    pub metadata: MetadataRules,
    /// How a shed call is answered.
    pub shed: ShedAnswer,
    /// Takes calls that batch.
    pub batched: S,
    /// Takes all others.
    pub forward: Forwarder,
}

/// What the door makes of a call's body and metadata.
enum Judged {
    Batch(Call),
    /// Cannot merge: goes as it came.
    Alone(Bytes, Option<HeaderMap>),
    Refused(Status),
}

impl<S> Door<S>
where
    S: Service<Call, Response = Bytes, Error = BatchError<Status>> + Clone + Send + Sync,
    S::Future: Send,
{
    /// Answers one call.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<AnswerBody> {
        match self.router.route(request.uri().path()) {
            Route::Batch(method) => self.answer_batched(method, request).await,
            Route::Forward => self.forward(request.map(Body::new)).await,
        }
    }

    async fn answer_batched(
        &self,
        method: usize,
        request: Request<Incoming>,
    ) -> Response<AnswerBody> {
        if let Some(refusal) = not_grpc(&request) {
            return refusal;
        }
        let (parts, body) = request.into_parts();
        match self.judge(method, &parts, body).await {
            Judged::Batch(call) => self.batch(call).await,
            Judged::Alone(body, trailers) => {
                let body = Body::new(Replay(Some(body), trailers));
                self.forward(Request::from_parts(parts, body)).await
            }
            Judged::Refused(status) => {
                self.methods[method].metrics.on_invalid();
                answer::status(status)
            }
        }
    }

    async fn judge(&self, method: usize, parts: &Parts, body: Incoming) -> Judged {
        let DoorMethod {
            plan,
            max_message_bytes,
            ..
        } = &self.methods[method];
        // A deadline counts from the call's arrival, not from its last byte.
        let deadline = metadata::deadline(&parts.headers)
            .map(|timeout| tokio::time::Instant::now().into_std() + timeout);
        let (body, trailers) = match read(body, HEADER + max_message_bytes).await {
            Ok(read) => read,
            Err(ReadError::TooLarge(bytes)) => {
                return Judged::Refused(status::too_large(bytes, *max_message_bytes));
            }
            Err(ReadError::Broken) => {
                return Judged::Refused(Status::new(Code::Cancelled, "the call broke off"));
            }
        };
        let message = match frame::unary(&body) {
            Ok(Unary::Message(message)) => message,
            // Whether the upstream can read it is for the upstream to say.
            Ok(Unary::Compressed) => return Judged::Alone(body, trailers),
            Err(error) => return Judged::Refused(status::of_frame(error)),
        };
        let piece = match plan.scan(&message) {
            Ok(Scan::Merge(piece)) => piece,
            Ok(Scan::Alone(_)) => return Judged::Alone(body, trailers),
            Err(error) => return Judged::Refused(status::of_scan(&error)),
        };
        match identity(&self.metadata, &parts.headers) {
            Ok(identity) => Judged::Batch(Call {
                method,
                piece,
                identity,
                deadline,
            }),
            // The older form is lifted all the same, for an upstream that
            // knows only the newer one.
            Err(Lone) if piece.form() == Form::Single => {
                Judged::Alone(lifted(plan, &piece), trailers)
            }
            Err(Lone) => Judged::Alone(body, trailers),
        }
    }

    async fn batch(&self, call: Call) -> Response<AnswerBody> {
        let method = call.method;
        let outcome = self.batched.clone().oneshot(call).await;
        match outcome {
            Ok(reply) => answer::message(&reply),
            Err(error) => {
                let refused = matches!(&error, BatchError::Upstream(status) if is_refusal(status));
                self.methods[method].metrics.on_error(&error, refused);
                answer::status(status::of_batch(error, self.shed, fastrand::f64()))
            }
        }
    }

    async fn forward(&self, request: Request<Body>) -> Response<AnswerBody> {
        match self.forward.clone().oneshot(request).await {
            Ok(response) => response.map(AnswerBody::Forwarded),
            Err(never) => match never {},
        }
    }
}

/// gRPC over HTTP/2 is a POST of `application/grpc`; anything else is told so
/// in HTTP's own terms.
fn not_grpc(request: &Request<Incoming>) -> Option<Response<AnswerBody>> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let is_grpc =
        content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    let code = if request.method() != http::Method::POST {
        StatusCode::METHOD_NOT_ALLOWED
    } else if !is_grpc {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else {
        return None;
    };
    let mut response = Response::new(AnswerBody::Nothing);
    *response.status_mut() = code;
    Some(response)
}

enum ReadError {
    TooLarge(usize),
    Broken,
}

/// Reads a bounded body whole. A small call's message is one frame, which is
/// taken as it is; only a message in pieces is copied together.
async fn read(mut body: Incoming, bound: usize) -> Result<(Bytes, Option<HeaderMap>), ReadError> {
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame.map_err(|_| ReadError::Broken)?.into_data() {
            Ok(data) if first.is_empty() => first = data,
            Ok(data) => {
                if joined.is_empty() {
                    joined.extend_from_slice(&first);
                }
                joined.extend_from_slice(&data);
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        let have = joined.len().max(first.len());
        if have > bound {
            return Err(ReadError::TooLarge(have - HEADER));
        }
    }
    let whole = if joined.is_empty() {
        first
    } else {
        joined.freeze()
    };
    Ok((whole, trailers))
}

/// One call of the single form, as a batch of one in its frame.
fn lifted(plan: &Plan, piece: &Piece) -> Bytes {
    let mut merged = BytesMut::with_capacity(piece.merged_len());
    plan.merge([piece], &mut merged);
    frame::framed(&merged)
}

/// The call has metadata that no batch can carry.
struct Lone;

/// The metadata that stands for the caller. Nearly all calls have none, and
/// then nothing is allocated.
fn identity(rules: &MetadataRules, headers: &HeaderMap) -> Result<Option<Arc<Identity>>, Lone> {
    let mut identity: Option<HeaderMap> = None;
    for (name, value) in headers {
        match rules.classify(name.as_str()) {
            Classify::Ignore => {}
            Classify::Alone => return Err(Lone),
            Classify::Identity => {
                let identity = identity.get_or_insert_default();
                identity.append(name, value.clone());
            }
        }
    }
    Ok(identity.map(|headers| Arc::new(Identity::new(headers))))
}

/// Whether the upstream's status says that nothing took effect.
fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied
    )
}

/// A body that was read and goes on as it came.
struct Replay(Option<Bytes>, Option<HeaderMap>);

impl HttpBody for Replay {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let data = self.0.take().map(Frame::data);
        Poll::Ready(data.or_else(|| self.1.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none() && self.1.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, Bytes::len) as u64)
    }
}
