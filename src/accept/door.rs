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

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderMap, Request, Response, header, request::Parts};
use pin_project_lite::pin_project;
use tonic::Status;

use super::{
    answer::{self, AnswerBody},
    arriving::{Arriving, second_look},
    caller::{self, Lone},
    frame::HEADER,
    inflate::Encoding,
    judge::{self, Finding},
    observe::Observer,
    read::{ReadError, Reading, Whole},
    route::{Route, Router},
    status::{self, ShedAnswer},
};
use crate::{
    batch::{Answer, BatchError, Batcher, TraceContext},
    forward::Forwarder,
    health,
    policy::MetadataRules,
    telemetry::{
        AccessLine, AccessLog, EXPLAIN, MethodMetrics, Note, Notes, explained, outcome_name,
    },
    upstream::Call,
    wire::{Form, Plan},
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
    /// Whether callers that ask are told what became of their calls.
    pub explain: bool,
    /// Whether batches are linked to their callers' spans.
    pub traced: bool,
    /// Counts the notes that are taken of calls.
    pub notes: Notes,
    /// Which calls have a line in the access log, if any have.
    pub access: Option<AccessLog>,
    /// Looks at calls of the methods that are observed, if any are.
    pub observer: Option<Arc<Observer>>,
    /// Takes calls that batch.
    pub batched: S,
    /// Takes all others.
    pub forward: Forwarder,
    /// Answers `grpc.health.v1`, where the upstream is not asked for it.
    pub health: Option<Forwarder>,
}

/// What the door makes of a call's body and metadata.
enum Judged {
    Batch(Call),
    /// Cannot merge, for this reason: goes by itself.
    Alone(Whole, &'static str),
    Refused(Status),
}

impl<S: Submit> Door<S> {
    /// Answers one call.
    pub fn answer(self: &Arc<Self>, request: Request<Arriving>) -> Answering<S> {
        let path = request.uri().path();
        let access = self.access.as_ref();
        let access = access.and_then(|log| log.begin(path, |of| fastrand::u32(..of)));
        let suspect = request.body().from().is_suspect();
        let step = match (
            request.body().refused(request.headers()),
            self.router.route(path),
        ) {
            (Some(status), _) => Step::Refused {
                response: Some(answer::status(status)),
            },
            (None, Route::Forward) => self.pass(request, None, suspect),
            (None, Route::Observe(method)) => self.observe(method, request, suspect),
            (None, Route::Batch(method)) => match caller::not_grpc(&request) {
                Some(refusal) => Step::Refused {
                    response: Some(refusal),
                },
                None if !caller::is_protobuf(request.headers()) => {
                    self.methods[method].metrics.on_alone(caller::ENCODING, 1);
                    self.pass(request, Some(caller::ENCODING), suspect)
                }
                None => self.read(method, request),
            },
        };
        Answering {
            door: Arc::clone(self),
            access,
            step,
        }
    }

    /// Passes a call on as it came.
    fn pass(
        &self,
        request: Request<Arriving>,
        alone: Option<&'static str>,
        suspect: bool,
    ) -> Step<S::Answer> {
        let deadline = caller::deadline(request.headers());
        self.forward(request, deadline, alone, suspect)
    }

    fn read(&self, method: usize, request: Request<Arriving>) -> Step<S::Answer> {
        let (parts, body) = request.into_parts();
        let deadline = caller::deadline(&parts.headers);
        let bound = HEADER + self.methods[method].max_message_bytes;
        Step::Reading {
            method,
            deadline,
            parts: Some(parts),
            reading: Reading::new(body, bound, deadline),
        }
    }

    fn judge(
        &self,
        method: usize,
        parts: &Parts,
        deadline: Option<Instant>,
        access: Option<&AccessLine>,
        whole: Result<Whole, ReadError>,
    ) -> Judged {
        let DoorMethod {
            plan,
            max_message_bytes,
            metrics,
        } = &self.methods[method];
        let whole = match whole {
            Ok(whole) => whole,
            Err(error) => return Judged::Refused(error.status(*max_message_bytes)),
        };
        let encoding = Encoding::of(&parts.headers);
        let piece = match judge::judge(plan, *max_message_bytes, encoding, &whole.bytes) {
            Finding::Merge(piece) => piece,
            Finding::Alone(reason, single) => {
                // Unread as it is, it counts as one.
                metrics.on_alone(reason, 1);
                let bytes = single.map(|message| judge::lifted(plan, &message));
                let bytes = bytes.unwrap_or(whole.bytes);
                return Judged::Alone(Whole { bytes, ..whole }, reason);
            }
            Finding::Refused(status) => return Judged::Refused(status),
        };
        let caller = caller::caller(&self.metadata, parts);
        if caller.is_err() {
            metrics.on_alone("metadata", piece.entries());
        }
        match caller {
            Ok(caller) => Judged::Batch(Call {
                method,
                group: 0, // the line that takes it says which
                piece,
                identity: caller.identity,
                authority: caller.authority,
                deadline,
                note: self.note(caller.asks, caller.trace, access),
                turn: None, // as above
            }),
            // The older form is lifted all the same, for an upstream that
            // knows only the newer one.
            Err(Lone) if piece.form() == Form::Single => {
                let bytes = judge::lifted(plan, piece.message());
                Judged::Alone(Whole { bytes, ..whole }, "metadata")
            }
            Err(Lone) => Judged::Alone(whole, "metadata"),
        }
    }

    fn next(
        &self,
        method: usize,
        mut parts: Parts,
        deadline: Option<Instant>,
        judged: Judged,
        suspect: bool,
    ) -> Step<S::Answer> {
        match judged {
            Judged::Batch(call) => Step::Waiting {
                method,
                note: call.note.clone(),
                answer: self.batched.submit(call),
            },
            Judged::Alone(whole, reason) => {
                // A lifted body has another length than the one that came.
                parts.headers.remove(header::CONTENT_LENGTH);
                let request = Request::from_parts(parts, whole);
                self.forward(request, deadline, Some(reason), suspect)
            }
            Judged::Refused(status) => {
                self.methods[method].metrics.on_invalid();
                let mut response = answer::status(status);
                if self.asks(&parts.headers) {
                    let told = explained("invalid", None);
                    response.headers_mut().append(EXPLAIN, told);
                }
                Step::Refused {
                    response: Some(response),
                }
            }
        }
    }

    /// A note of a call whose caller, whose span or whose line in the access
    /// log is to have it.
    fn note(
        &self,
        asks: bool,
        trace: Option<TraceContext>,
        access: Option<&AccessLine>,
    ) -> Option<Arc<Note>> {
        let asks = asks && self.explain;
        let trace = trace.filter(|_| self.traced);
        if !asks && trace.is_none() && access.is_none() {
            return None;
        }
        let now = || tokio::time::Instant::now().into_std();
        let arrived = access.map_or_else(now, AccessLine::started);
        Some(self.notes.take(arrived, asks, trace))
    }

    fn asks(&self, headers: &HeaderMap) -> bool {
        self.explain && headers.contains_key(EXPLAIN)
    }

    /// Passes a call on as it came, with an eye on it.
    fn observe(&self, method: usize, request: Request<Arriving>, suspect: bool) -> Step<S::Answer> {
        let deadline = caller::deadline(request.headers());
        let Some(observer) = self.observer.clone() else {
            return self.forward(request, deadline, None, suspect);
        };
        let started = tokio::time::Instant::now();
        let forwarded = self.forwarded(observer.look(method, request), deadline, None);
        let forwarded = forwarded.inspect(move |_| observer.answered(started.elapsed()));
        Step::Forwarding {
            response: second_look(suspect, forwarded),
        }
    }

    /// Forwarding lives in a box: it is large, and rarer than what batches.
    /// `alone` says why a call of a batched method is forwarded.
    fn forward<B>(
        &self,
        request: Request<B>,
        deadline: Option<Instant>,
        alone: Option<&'static str>,
        suspect: bool,
    ) -> Step<S::Answer>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Step::Forwarding {
            response: second_look(suspect, self.forwarded(request, deadline, alone)),
        }
    }

    fn forwarded<B>(
        &self,
        request: Request<B>,
        deadline: Option<Instant>,
        alone: Option<&'static str>,
    ) -> impl Future<Output = Response<AnswerBody>> + Send + use<B, S>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let asks = self.asks(request.headers());
        let path = request.uri().path();
        let own = self.health.as_ref();
        let own = own.filter(|_| path.starts_with(health::PREFIX));
        let to = own.unwrap_or(&self.forward).clone();
        let forwarded = to.forward(request, deadline);
        forwarded.map(move |mut response| {
            if asks {
                let outcome = alone.map_or("forwarded", |_| "alone");
                // Beside what another ferry upstream may have told.
                let headers = response.headers_mut();
                headers.append(EXPLAIN, explained(outcome, alone));
            }
            response.map(AnswerBody::Forwarded)
        })
    }

    fn reply(
        &self,
        method: usize,
        note: Option<&Note>,
        outcome: Result<Bytes, BatchError<Status>>,
    ) -> Response<AnswerBody> {
        let (mut response, outcome, reason) = match outcome {
            Ok(reply) => (answer::message(&reply), "committed", None),
            Err(error) => {
                let refused =
                    matches!(&error, BatchError::Upstream(status) if status::is_refusal(status));
                self.methods[method].metrics.on_error(&error, refused);
                let outcome = outcome_name(&error, refused);
                let reason = match &error {
                    BatchError::Shed { reason, .. } => Some(reason.name()),
                    _ => None,
                };
                let status = status::of_batch(error, self.shed, fastrand::f64());
                (answer::status(status), outcome, reason)
            }
        };
        if let Some(note) = note.filter(|note| note.asks()) {
            let told = note.told(outcome, reason);
            response.headers_mut().append(EXPLAIN, told);
        }
        response
    }
}

pin_project! {
    /// One call on its way; dropping it is the caller's leaving.
    pub struct Answering<S: Submit> {
        door: Arc<Door<S>>,
        // A box: few calls have a line, and all pay for its place.
        access: Option<Box<AccessLine>>,
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
            note: Option<Arc<Note>>,
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
                StepProjection::Waiting {
                    method,
                    note,
                    answer,
                } => {
                    let outcome = ready!(answer.poll(cx));
                    let response = this.door.reply(*method, note.as_deref(), outcome);
                    return Poll::Ready(answer::logged(this.access.take(), response));
                }
                StepProjection::Reading {
                    method,
                    deadline,
                    parts,
                    reading,
                } => {
                    let head = parts.as_ref().expect("a body is read to its end once");
                    let whole = ready!(reading.poll_whole(cx, &head.headers));
                    let parts = parts.take().expect("it was there just now");
                    let access = this.access.as_deref();
                    let judged = this.door.judge(*method, &parts, *deadline, access, whole);
                    if let (
                        Some(line),
                        Judged::Batch(Call {
                            note: Some(note), ..
                        }),
                    ) = (&mut *this.access, &judged)
                    {
                        line.on_batch(Arc::clone(note));
                    }
                    let suspect = reading.is_suspect();
                    this.door.next(*method, parts, *deadline, judged, suspect)
                }
                StepProjection::Forwarding { response } => {
                    let response = ready!(response.poll_unpin(cx));
                    return Poll::Ready(answer::logged(this.access.take(), response));
                }
                StepProjection::Refused { response } => {
                    let response = response.take().expect("a call is answered once");
                    return Poll::Ready(answer::logged(this.access.take(), response));
                }
            };
            this.step.set(next);
        }
    }
}
