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
use crate::forward::Forwarded;

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

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Self::Forwarded(body) = &mut *self {
            return Pin::new(body).poll_frame(cx);
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
            Self::Nothing | Self::Forwarded(_) => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Message(_) | Self::Trailers => false,
            Self::Nothing => true,
            Self::Forwarded(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Forwarded(body) => body.size_hint(),
            Self::Message(message) => SizeHint::with_exact(message.len() as u64),
            Self::Trailers | Self::Nothing => SizeHint::with_exact(0),
        }
    }
}
