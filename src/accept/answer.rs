//! What goes back to a caller: one message, a status, or an upstream's reply.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body};

use super::frame;
use crate::{forward::Forwarded, telemetry::AccessLine};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
const GRPC_STATUS: &str = "grpc-status";
const OK: HeaderValue = HeaderValue::from_static("0");

/// A reply's body: one message and its trailers, nothing, or what an upstream
/// streams.
#[derive(Debug, Default)]
pub enum AnswerBody {
    /// One framed message, and after it `grpc-status: 0`.
    Message(Bytes),
    /// Only the trailers are left of it.
    Trailers,
    /// The status stood in the headers, or everything has gone out.
    #[default]
    Nothing,
    /// Passed on as it comes.
    Forwarded(Forwarded),
    /// The same, for the access log.
    Logged(Box<Logged>),
}

/// A body whose end is a line in the access log.
#[derive(Debug)]
pub struct Logged {
    body: Forwarded,
    line: Box<AccessLine>,
}

/// A unary call's good end: `message` in its frame, then `grpc-status: 0`.
#[must_use]
pub fn message(message: &[u8]) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Message(frame::framed(message)));
    response.headers_mut().insert(header::CONTENT_TYPE, GRPC);
    response
}

/// A call's bad end, in headers alone.
#[must_use]
pub fn status(status: Status) -> Response<AnswerBody> {
    status.into_http()
}

/// The end of a request that is no gRPC call: a code and a line of text.
pub(super) fn http(code: StatusCode, line: String) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Forwarded(Forwarded::Local(Body::new(line))));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response
}

/// Notes how the call of `line`, if it has one, was answered, or sees to it that its end is
/// noted: the status of one that is passed on may stand in its trailers.
pub(super) fn logged(
    line: Option<Box<AccessLine>>,
    response: Response<AnswerBody>,
) -> Response<AnswerBody> {
    let Some(mut line) = line else {
        return response;
    };
    line.on_head(response.status().as_u16());
    if let Some(status) = status_in(response.headers()) {
        line.on_status(status);
    }
    response.map(|body| match body {
        AnswerBody::Forwarded(body) => AnswerBody::Logged(Box::new(Logged { body, line })),
        AnswerBody::Message(message) => {
            line.on_status(0);
            AnswerBody::Message(message)
        }
        other => other,
    })
}

fn status_in(headers: &HeaderMap) -> Option<u32> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

impl Logged {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(status) = frame.trailers_ref().and_then(status_in) {
                    self.line.on_status(status);
                }
            }
            Poll::Ready(Some(Err(status))) => self.line.on_status(status.code() as u32),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut *self {
            Self::Forwarded(body) => return Pin::new(body).poll_frame(cx),
            Self::Logged(logged) => return logged.poll_frame(cx),
            Self::Message(_) | Self::Trailers | Self::Nothing => {}
        }
        Poll::Ready(match std::mem::take(&mut *self) {
            Self::Message(message) => {
                *self = Self::Trailers;
                Some(Ok(Frame::data(message)))
            }
            Self::Trailers => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(GRPC_STATUS, OK);
                Some(Ok(Frame::trailers(trailers)))
            }
            Self::Nothing | Self::Forwarded(_) | Self::Logged(_) => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Message(_) | Self::Trailers => false,
            Self::Nothing => true,
            Self::Forwarded(body) => body.is_end_stream(),
            Self::Logged(logged) => logged.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Forwarded(body) => body.size_hint(),
            Self::Logged(logged) => logged.body.size_hint(),
            Self::Message(message) => SizeHint::with_exact(message.len() as u64),
            Self::Trailers | Self::Nothing => SizeHint::with_exact(0),
        }
    }
}
