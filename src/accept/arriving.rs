//! A call's body as it arrives, and who it arrives from.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tonic::{Code, Status};

use super::crowd::Present;
use crate::telemetry::Refusal;

/// The body of a call, for whoever answers it.
pub struct Arriving {
    body: Incoming,
    from: Arc<Present>,
}

impl fmt::Debug for Arriving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.body.fmt(f)
    }
}

impl Arriving {
    pub(super) fn new(body: Incoming, from: Arc<Present>) -> Self {
        Self { body, from }
    }

    pub(super) fn from(&self) -> &Arc<Present> {
        &self.from
    }

    /// Why a guard refuses the call, going by its headers and by its client.
    pub(super) fn refused(&self, headers: &HeaderMap) -> Option<Status> {
        let guards = self.from.guards();
        let (refusal, what) = if headers.len() > guards.max_headers {
            let (have, most) = (headers.len(), guards.max_headers);
            let what = format!("{have} headers: at most {most} are taken; send fewer");
            (Refusal::Headers, what)
        } else if self.from.is_crowding() {
            let most = guards.max_streams_total;
            let what = format!(
                "{most} calls are open and this connection has more than its share of them; \
                 make fewer at once"
            );
            (Refusal::Streams, what)
        } else {
            return None;
        };
        self.from.refuse(refusal);
        let key = refusal.key().expect("a bound is a key of the policy");
        let what = format!("{what}, or raise {key} in the policy");
        Some(Status::new(Code::ResourceExhausted, what))
    }
}

/// Lets the connection see first whether the call has been reset by now: what
/// is passed on and reset at once is work for the upstream, which may close a
/// connection for it that others share. Only calls that are `suspect` pay for it.
pub(super) fn second_look<T>(
    suspect: bool,
    call: impl Future<Output = T> + Send + 'static,
) -> BoxFuture<'static, T> {
    if !suspect {
        return Box::pin(call);
    }
    Box::pin(async {
        tokio::task::yield_now().await;
        call.await
    })
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
