//! Everything that does not batch: passed on byte for byte, trailers kept.
//!
//! Bodies go through as streams of frames, in both directions, so neither a
//! message's bytes nor its flow control is touched. A caller that resets its
//! stream drops the upstream's, and the other way round.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response};
use prometheus::IntCounterVec;
use tonic::{Code, Status, body::Body, service::Routes};
use tower::{Service, ServiceExt};

use crate::upstream::RemoteClient;

/// Where forwarded calls go.
#[derive(Clone, Debug)]
pub enum Forward {
    /// To a remote upstream.
    Remote(RemoteClient),
    /// To the services of this process; what they do not know is UNIMPLEMENTED.
    Local(Box<Routes>),
}

/// Forwards calls and counts them.
#[derive(Clone, Debug)]
pub struct Forwarder {
    to: Forward,
    forwarded: IntCounterVec,
}

impl Forwarder {
    /// Forwards to `to`, counting by status code in `forwarded`.
    #[must_use]
    pub fn new(to: Forward, forwarded: IntCounterVec) -> Self {
        Self { to, forwarded }
    }

    fn count(&self, response: &Response<Body>) {
        // The status of a streamed reply comes in trailers, when the call is
        // long counted; the reply that is a failure from the start says so here.
        let code = match Status::from_header_map(response.headers()) {
            Some(status) => code_name(status.code()),
            None => "none",
        };
        self.forwarded.with_label_values(&[code]).inc();
    }
}

impl Service<Request<Body>> for Forwarder {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = futures_util::future::BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let forwarder = self.clone();
        Box::pin(async move {
            let response = match &forwarder.to {
                Forward::Remote(client) => {
                    strip_hop_by_hop(request.headers_mut());
                    match client.send(request).await {
                        Ok(response) => response.map(Body::new),
                        Err(status) => status.into_http(),
                    }
                }
                Forward::Local(routes) => {
                    let path = request.uri().path().to_owned();
                    let response = match Routes::clone(routes).oneshot(request).await {
                        Ok(response) => response,
                        Err(never) => match never {},
                    };
                    told_if_unknown(&path, response)
                }
            };
            forwarder.count(&response);
            Ok(response)
        })
    }
}

/// Says which method it is that this process does not serve, where its
/// services only say that there is none.
fn told_if_unknown(path: &str, response: Response<Body>) -> Response<Body> {
    let status = Status::from_header_map(response.headers());
    let unknown =
        |status: &Status| status.code() == Code::Unimplemented && status.message().is_empty();
    if !status.as_ref().is_some_and(unknown) {
        return response;
    }
    let why = format!(
        "method {path}: the embedded group has no such method; call one that it has, or name \
         endpoints in the policy's upstream, to which any method is forwarded"
    );
    Status::unimplemented(why).into_http()
}

/// Headers that name one hop's connection and must not be passed on.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    for name in [
        "connection",
        "proxy-connection",
        "keep-alive",
        "transfer-encoding",
        "upgrade",
    ] {
        headers.remove(name);
    }
}

const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}
