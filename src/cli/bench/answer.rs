//! One call's answer: the head, the message, the trailers, and what they say.
//! A reply counts as success only if its `grpc-status` is 0 *and* it brought a
//! message: anything less is an error that a real client would report.

use std::{
    borrow::Cow,
    task::{Context, Poll, ready},
};

use h2::{RecvStream, client::ResponseFuture};
use http::{HeaderMap, StatusCode};
use std::{future::Future, pin::Pin};

use super::message::FRAME_HEADER;

/// The names of gRPC's status codes, by number.
const STATUS_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// An answer on its way.
#[derive(Debug)]
pub(super) enum Answer {
    /// Nothing has come yet.
    Awaited(ResponseFuture),
    /// The head has come; so many bytes of the message have, too.
    Begun(RecvStream, usize),
}

impl Answer {
    /// Ready with what the server said; the error is status and message.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cow<'static, str>>> {
        if let Self::Awaited(head) = self {
            let (head, body) = match ready!(Pin::new(head).poll(cx)) {
                Ok(response) => response.into_parts(),
                Err(error) => return Poll::Ready(Err(lost(&error))),
            };
            if head.status != StatusCode::OK {
                return Poll::Ready(Err(format!("HTTP {}", head.status).into()));
            }
            // A failed call may consist of its head alone.
            if head.headers.contains_key("grpc-status") && body.is_end_stream() {
                return Poll::Ready(verdict(&head.headers, 0));
            }
            *self = Self::Begun(body, 0);
        }
        let Self::Begun(body, received) = self else {
            unreachable!("the head has just come")
        };
        while let Some(chunk) = ready!(body.poll_data(cx)) {
            let length = match chunk {
                Ok(chunk) => chunk.len(),
                Err(error) => return Poll::Ready(Err(lost(&error))),
            };
            *received += length;
            if let Err(error) = body.flow_control().release_capacity(length) {
                return Poll::Ready(Err(lost(&error)));
            }
        }
        Poll::Ready(match ready!(body.poll_trailers(cx)) {
            Ok(Some(trailers)) => verdict(&trailers, *received),
            Ok(None) => Err("INTERNAL: the answer has no trailers".into()),
            Err(error) => Err(lost(&error)),
        })
    }
}

/// What `trailers` say about a call that brought `received` bytes of message.
fn verdict(trailers: &HeaderMap, received: usize) -> Result<(), Cow<'static, str>> {
    let status = trailers.get("grpc-status").map(|status| status.as_bytes());
    match status {
        Some(b"0") if received >= FRAME_HEADER => Ok(()),
        Some(b"0") => Err("INTERNAL: status OK without a message".into()),
        None => Err("INTERNAL: the answer has no grpc-status".into()),
        Some(code) => Err(named(code, trailers).into()),
    }
}

fn named(code: &[u8], trailers: &HeaderMap) -> String {
    let code = String::from_utf8_lossy(code);
    let name = code
        .parse()
        .ok()
        .and_then(|code: usize| STATUS_NAMES.get(code).copied());
    let name = name.map_or_else(|| format!("status {code}"), str::to_owned);
    match trailers.get("grpc-message") {
        Some(message) => format!("{name}: {}", percent_decoded(message.as_bytes())),
        None => name,
    }
}

/// gRPC sends a message's bytes outside of printable ASCII as `%XX`.
fn percent_decoded(message: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(message.len());
    let mut rest = message;
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() {
            &after[2..]
        } else {
            after
        };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// A call that ended below gRPC.
fn lost(error: &h2::Error) -> Cow<'static, str> {
    match error.reason() {
        Some(reason) if error.is_reset() => format!("stream reset: {reason:?}").into(),
        _ => format!("connection lost: {error}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trailers(status: &'static str, message: Option<&'static str>) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.parse().unwrap());
        if let Some(message) = message {
            trailers.insert("grpc-message", message.parse().unwrap());
        }
        trailers
    }

    #[test]
    fn only_status_0_with_a_message_is_success() {
        assert_eq!(verdict(&trailers("0", None), FRAME_HEADER), Ok(()));
        assert!(verdict(&trailers("0", None), 0).is_err());
        assert!(verdict(&HeaderMap::new(), FRAME_HEADER).is_err());
    }

    #[test]
    fn an_error_is_told_by_name_and_decoded_message() {
        let told = verdict(&trailers("8", Some("queue%20full: 5%25 %zz %")), 0).unwrap_err();
        assert_eq!(told, "RESOURCE_EXHAUSTED: queue full: 5% %zz %");
        assert_eq!(
            verdict(&trailers("14", None), 0).unwrap_err(),
            "UNAVAILABLE"
        );
        assert_eq!(verdict(&trailers("99", None), 0).unwrap_err(), "status 99");
    }
}
