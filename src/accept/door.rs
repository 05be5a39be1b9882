//! One call, from its headers to its answer: route, read, scan, enqueue, await.
//!
//! Whatever is wrong with a call is found here and told to its caller alone,
//! before it stands in any window.
//!
//! [`Answering`] is written out by hand, because its size is paid for each
//! call: an `async fn` of the same steps came to 4.7 kB, which is allocated
//! and moved a few times before it first runs, and cost a tenth of all CPU.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tonic::{Code, Status};

use super::{
    answer::{self, AnswerBody},
    frame::{self, HEADER, Unary},
    metadata,
    read::{ReadError, Reading, Whole},
    route::{Route, Router},
    status::{self, ShedAnswer},
};
use crate::{
    batch::{Answer, BatchError, Batcher},
    forward::Forwarder,
    policy::{Classify, MetadataRules},
    telemetry::MethodMetrics,
    transport::ClientCertificate,
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

/// Where calls go that can batch.
pub trait Submit: Send + Sync + 'static {
    /// The reply's message, in time.
    type Answer: Future<Output = Result<Bytes, BatchError<Status>>> + Send + 'static;

    /// Takes a call; dropping the answer is the caller's leaving.
    fn submit(&self, call: Call) -> Self::Answer;
}

impl Submit for Batcher<Call, super::CallRules, Bytes, Status> {
    type Answer = Answer<Bytes, Status>;

    fn submit(&self, call: Call) -> Self::Answer {
        self.submit(call)
    }
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
    /// Cannot merge: goes by itself.
    Alone(Whole),
    Refused(Status),
}

impl<S: Submit> Door<S> {
    /// Answers one call.
    pub fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Answering<S> {
        let step = match self.router.route(request.uri().path()) {
            Route::Forward => {
                let deadline = arrived(request.headers());
                self.forward(request, deadline)
            }
            Route::Batch(method) => match not_grpc(&request) {
                Some(refusal) => Step::Refused {
                    response: Some(refusal),
                },
                None => self.read(method, request),
            },
        };
        Answering {
            door: Arc::clone(self),
            step,
        }
    }

    fn read(&self, method: usize, request: Request<Incoming>) -> Step<S::Answer> {
        let (parts, body) = request.into_parts();
        let deadline = arrived(&parts.headers);
        let bound = HEADER + self.methods[method].max_message_bytes;
        Step::Reading {
            method,
            deadline,
            parts: Some(parts),
            reading: Reading::new(body, bound),
        }
    }

    fn judge(
        &self,
        method: usize,
        parts: &Parts,
        deadline: Option<Instant>,
        whole: Result<Whole, ReadError>,
    ) -> Judged {
        let DoorMethod {
            plan,
            max_message_bytes,
            metrics,
        } = &self.methods[method];
        let whole = match whole {
            Ok(whole) => whole,
            Err(ReadError::TooLarge(bytes)) => {
                return Judged::Refused(status::too_large(bytes - HEADER, *max_message_bytes));
            }
            Err(ReadError::Broken) => {
                return Judged::Refused(Status::new(Code::Cancelled, "the call broke off"));
            }
        };
        let message = match frame::unary(&whole.bytes) {
            Ok(Unary::Message(message)) => message,
            // Whether the upstream can read it is for the upstream to say.
            Ok(Unary::Compressed) => {
                metrics.on_alone("compressed", 1);
                return Judged::Alone(whole);
            }
            Err(error) => return Judged::Refused(status::of_frame(error)),
        };
        let piece = match plan.scan(&message) {
            Ok(Scan::Merge(piece)) => piece,
            Ok(Scan::Alone(reason)) => {
                // Unread as it is, it counts as one.
                metrics.on_alone(reason.as_str(), 1);
                return Judged::Alone(whole);
            }
            Err(error) => return Judged::Refused(status::of_scan(&error)),
        };
        let identity = identity(&self.metadata, parts);
        if identity.is_err() {
            metrics.on_alone("metadata", piece.entries());
        }
        match identity {
            Ok(identity) => Judged::Batch(Call {
                method,
                group: 0, // the line that takes it says which
                piece,
                identity,
                deadline,
            }),
            // The older form is lifted all the same, for an upstream that
            // knows only the newer one.
            Err(Lone) if piece.form() == Form::Single => Judged::Alone(Whole {
                bytes: lifted(plan, &piece),
                ..whole
            }),
            Err(Lone) => Judged::Alone(whole),
        }
    }

    fn next(
        &self,
        method: usize,
        mut parts: Parts,
        deadline: Option<Instant>,
        judged: Judged,
    ) -> Step<S::Answer> {
        match judged {
            Judged::Batch(call) => Step::Waiting {
                method,
                answer: self.batched.submit(call),
            },
            Judged::Alone(whole) => {
                // A lifted body has another length than the one that came.
                parts.headers.remove(header::CONTENT_LENGTH);
                self.forward(Request::from_parts(parts, whole), deadline)
            }
            Judged::Refused(status) => {
                self.methods[method].metrics.on_invalid();
                Step::Refused {
                    response: Some(answer::status(status)),
                }
            }
        }
    }

    /// Forwarding lives in a box: it is large, and rarer than what batches.
    fn forward<B>(&self, request: Request<B>, deadline: Option<Instant>) -> Step<S::Answer>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let forwarded = self.forward.clone().forward(request, deadline);
        Step::Forwarding {
            response: Box::pin(forwarded.map(|response| response.map(AnswerBody::Forwarded))),
        }
    }

    fn reply(
        &self,
        method: usize,
        outcome: Result<Bytes, BatchError<Status>>,
    ) -> Response<AnswerBody> {
        match outcome {
            Ok(reply) => answer::message(&reply),
            Err(error) => {
                let refused = matches!(&error, BatchError::Upstream(status) if is_refusal(status));
                self.methods[method].metrics.on_error(&error, refused);
                answer::status(status::of_batch(error, self.shed, fastrand::f64()))
            }
        }
    }
}

pin_project! {
    /// One call on its way; dropping it is the caller's leaving.
    pub struct Answering<S: Submit> {
        door: Arc<Door<S>>,
        #[pin]
        step: Step<S::Answer>,
    }
}

pin_project! {
    #[project = StepProjection]
    enum Step<A> {
        Reading {
            method: usize,
            deadline: Option<Instant>,
            parts: Option<Parts>,
            reading: Reading,
        },
        Waiting {
            method: usize,
            #[pin]
            answer: A,
        },
        Forwarding { response: BoxFuture<'static, Response<AnswerBody>> },
        Refused { response: Option<Response<AnswerBody>> },
    }
}

impl<S: Submit> Future for Answering<S> {
    type Output = Response<AnswerBody>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.step.as_mut().project() {
                StepProjection::Waiting { method, answer } => {
                    let outcome = ready!(answer.poll(cx));
                    return Poll::Ready(this.door.reply(*method, outcome));
                }
                StepProjection::Reading {
                    method,
                    deadline,
                    parts,
                    reading,
                } => {
                    let whole = ready!(reading.poll_whole(cx));
                    let parts = parts.take().expect("a body is read to its end once");
                    let judged = this.door.judge(*method, &parts, *deadline, whole);
                    this.door.next(*method, parts, *deadline, judged)
                }
                StepProjection::Forwarding { response } => return response.poll_unpin(cx),
                StepProjection::Refused { response } => {
                    let response = response.take().expect("a call is answered once");
                    return Poll::Ready(response);
                }
            };
            this.step.set(next);
        }
    }
}

/// When the caller stops waiting: counted from its call's arrival, not from
/// the last byte.
fn arrived(headers: &HeaderMap) -> Option<Instant> {
    let timeout = metadata::deadline(headers)?;
    tokio::time::Instant::now().into_std().checked_add(timeout)
}

/// gRPC over HTTP/2 is a POST of `application/grpc`, or of that and the name of
/// an encoding (`+proto`); anything else is told so in HTTP's own terms.
fn not_grpc(request: &Request<Incoming>) -> Option<Response<AnswerBody>> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let content_type = content_type.map_or(&b""[..], |value| value.as_bytes());
    let encoding = content_type.strip_prefix(b"application/grpc");
    if request.method() != http::Method::POST {
        let why = format!("method {}: must be POST, as gRPC is\n", request.method());
        let mut response = answer::http(StatusCode::METHOD_NOT_ALLOWED, why);
        let post = HeaderValue::from_static("POST");
        response.headers_mut().insert(header::ALLOW, post);
        Some(response)
    } else if !matches!(encoding, Some([] | [b'+' | b';', ..])) {
        let why = format!(
            "content-type \"{}\": must be application/grpc; use a gRPC client\n",
            content_type.escape_ascii()
        );
        Some(answer::http(StatusCode::UNSUPPORTED_MEDIA_TYPE, why))
    } else {
        None
    }
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
fn identity(rules: &MetadataRules, parts: &Parts) -> Result<Option<Arc<Identity>>, Lone> {
    let mut identity: Option<HeaderMap> = None;
    for (name, value) in &parts.headers {
        match rules.classify(name.as_str()) {
            Classify::Ignore => {}
            Classify::Alone => return Err(Lone),
            Classify::Identity => {
                let identity = identity.get_or_insert_default();
                identity.append(name, value.clone());
            }
        }
    }
    let peer = parts.extensions.get::<ClientCertificate>();
    let peer = peer.filter(|_| rules.by_certificate());
    if peer.is_some() {
        identity.get_or_insert_default();
    }
    let of_peer = peer.map_or(&[][..], ClientCertificate::digest);
    Ok(identity.map(|headers| Arc::new(Identity::new(headers, of_peer))))
}

/// Whether the upstream's status says that nothing took effect.
pub(super) fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::InvalidArgument | Code::Unauthenticated | Code::PermissionDenied
    )
}
