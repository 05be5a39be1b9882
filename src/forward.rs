//! Everything that does not batch: passed on byte for byte, trailers kept.
//!
//! Bodies go through as streams of frames, in both directions, so neither a
//! message's bytes nor its flow control is touched. A caller that resets its
//! stream resets the upstream's, and the other way round. Only where the
//! upstream is gone does ferry speak for it: with a status, since a stream
//! that merely breaks tells a caller nothing.

use std::{
    error::Error,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use prometheus::{IntCounter, IntCounterVec};
use tonic::{Code, Status, body::Body, service::Routes};
use tower::ServiceExt;

use crate::{
    health,
    upstream::{Led, Receiving, RemoteClient},
};

/// Where forwarded calls go.
#[derive(Clone, Debug)]
pub enum Forward {
    /// To a remote upstream.
    /// To whichever endpoint leads, where the policy knows how that is told.
    Remote(RemoteClient, Option<Led>),
    /// To the services of this process; what they do not know is UNIMPLEMENTED.
    Local(Box<Routes>),
}

/// Forwards calls and counts them.
#[derive(Clone, Debug)]
pub struct Forwarder {
    to: Forward,
    counts: Arc<Counts>,
}

impl Forwarder {
    /// Forwards to `to`, counting by status code in `forwarded`.
    #[must_use]
    pub fn new(to: Forward, forwarded: IntCounterVec) -> Self {
        let counts = Arc::new(Counts::new(&forwarded));
        Self { to, counts }
    }

    /// Why no call can be passed on now; `None` if one can, or will soon be
    /// tried.
    #[must_use]
    pub fn unreachable(&self) -> Option<String> {
        match &self.to {
            Forward::Remote(client, _) => client.unreachable(),
            Forward::Local(_) => None,
        }
    }

    /// Passes one call on, and its answer back as it comes. What remains of
    /// its time until `deadline` goes along.
    pub async fn forward<B>(
        self,
        request: Request<B>,
        deadline: Option<Instant>,
    ) -> Response<Forwarded>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        match self.to {
            Forward::Remote(client, led) => {
                let deadline = deadline.map(Into::into);
                let answer = match &led {
                    Some(led) => {
                        led.ask(deadline, |leader| leader.send(request, deadline))
                            .await
                    }
                    None => client.send(request, deadline).await,
                };
                match answer {
                    Ok(response) => passed(response, led, self.counts),
                    Err(status) => {
                        let status = match led {
                            Some(led) => led.told(status),
                            None => status,
                        };
                        self.counts.count(status.code() as usize);
                        status.into_http()
                    }
                }
            }
            Forward::Local(routes) => {
                let path = request.uri().path().to_owned();
                let response = match routes.oneshot(request.map(Body::new)).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
                let response = told_if_unknown(&path, response);
                self.counts.count_of(response.headers());
                response.map(Forwarded::Local)
            }
        }
    }
}

/// A reply on its way through, counted when its status has come.
fn passed(
    mut response: Response<Receiving>,
    led: Option<Led>,
    counts: Arc<Counts>,
) -> Response<Forwarded> {
    let only_head = response.body().is_end_stream();
    if only_head {
        keep_leader(response.headers_mut(), led.as_ref());
        counts.count_of(response.headers());
    }
    response.map(|body| {
        Forwarded::Remote(Passing {
            body,
            counts: (!only_head).then_some(counts),
            led,
            ended: false,
        })
    })
}

/// A forwarded reply's body.
#[derive(Debug)]
pub enum Forwarded {
    /// Of a remote upstream.
    Remote(Passing),
    /// Of a service of this process, or of none: a status stands in headers.
    Local(Body),
}

impl Default for Forwarded {
    fn default() -> Self {
        Self::Local(Body::empty())
    }
}

/// A remote upstream's body as it comes.
#[derive(Debug)]
pub struct Passing {
    body: Receiving,
    /// `None` once the call is counted.
    counts: Option<Arc<Counts>>,
    led: Option<Led>,
    ended: bool,
}

impl Passing {
    fn count(&mut self, trailers: &HeaderMap) {
        if let Some(counts) = self.counts.take() {
            counts.count_of(trailers);
        }
    }

    /// A reset is passed on as what it is. A connection that was lost is no
    /// caller's connection: the caller is told what is known.
    fn broken(&mut self, status: Status) -> Result<Frame<Bytes>, Status> {
        self.ended = true;
        if let Some(counts) = self.counts.take() {
            counts.count(status.code() as usize);
        }
        if status.source().is_some() {
            return Err(status);
        }
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers)?;
        Ok(Frame::trailers(trailers))
    }
}

impl HttpBody for Passing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    keep_leader(trailers, self.led.as_ref());
                    self.count(trailers);
                }
                Some(Ok(frame))
            }
            Some(Err(status)) => Some(self.broken(status)),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl HttpBody for Forwarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut *self {
            Self::Remote(body) => Pin::new(body).poll_frame(cx),
            Self::Local(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Remote(body) => body.is_end_stream(),
            Self::Local(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Remote(body) => body.size_hint(),
            Self::Local(body) => body.size_hint(),
        }
    }
}

/// Keeps a leader's address from callers, who would follow it past ferry; the
/// next call goes there.
fn keep_leader(status: &mut HeaderMap, led: Option<&Led>) {
    let Some(led) = led.filter(|_| status.contains_key(Status::GRPC_MESSAGE)) else {
        return;
    };
    let Some(came) = Status::from_header_map(status) else {
        return;
    };
    let code = came.code();
    let told = led.told(came);
    if told.code() != code {
        status.remove(Status::GRPC_STATUS_DETAILS);
        // A text of our own, which is always a header's.
        let _ = told.add_header(status);
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
    let why = match path.starts_with(health::PREFIX) {
        true => "ferry answers Check and Watch of its own health; call one of those",
        false => {
            "the embedded group has no such method; call one that it has, or name endpoints in \
             the policy's upstream, to which any method is forwarded"
        }
    };
    let why = format!("method {path}: {why}");
    Status::unimplemented(why).into_http()
}

/// The status codes' names, by their numbers.
const CODES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

/// A counter for each code, found once: a look-up a call would cost more than
/// the counting.
#[derive(Debug)]
struct Counts {
    codes: [IntCounter; CODES.len()],
    none: IntCounter,
}

impl Counts {
    fn new(forwarded: &IntCounterVec) -> Self {
        Self {
            codes: CODES.map(|code| forwarded.with_label_values(&[code])),
            none: forwarded.with_label_values(&["none"]),
        }
    }

    fn count(&self, code: usize) {
        self.codes.get(code).unwrap_or(&self.none).inc();
    }

    /// Counts by the status in `headers`, without reading its message.
    fn count_of(&self, headers: &HeaderMap) {
        let status = headers.get("grpc-status");
        let code = status.and_then(|status| status.to_str().ok()?.parse().ok());
        self.count(code.unwrap_or(usize::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_counted_under_its_own_name() {
        for (number, name) in CODES.iter().enumerate() {
            let code = Code::from_i32(i32::try_from(number).expect("a small number"));
            assert_eq!(code as usize, number);
            let spoken = format!("{code:?}").to_lowercase();
            assert_eq!(name.replace('_', ""), spoken);
        }
    }
}
