//! Reads a unary call's body whole, bounded.
//!
//! A small call's message comes as one frame, which is taken as it is; only a
//! message in pieces is copied together.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Sleep, sleep_until};
use tonic::{Code, Status};

use super::{arriving::Arriving, crowd::Unfinished, frame::HEADER, status};
use crate::telemetry::Refusal;

/// A first part smaller than this is copied before it is kept: it is a slice
/// of what the socket read, and would keep all of that.
const SLICE_KEPT: usize = 4 << 10;

/// A body that was read.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    /// Nearly no client sends any.
    pub(super) trailers: Option<Box<HeaderMap>>,
}

/// Why there is no whole body.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It has at least this many bytes, more than the bound.
    TooLarge(usize),
    /// The caller broke off.
    Broken,
    /// It did not come whole in its time.
    Slow,
    /// Too much has come of calls that are not whole, and more than its share
    /// from this client.
    Crowded,
}

impl ReadError {
    /// What its caller hears; `bound` is the most that a message may have.
    pub(super) fn status(self, bound: usize) -> Status {
        match self {
            Self::TooLarge(bytes) => status::too_large(bytes - HEADER, bound),
            Self::Broken => Status::new(Code::Cancelled, "the call broke off"),
            Self::Slow => status::slow(),
            Self::Crowded => status::crowded(),
        }
    }
}

/// A body on its way in.
#[derive(Debug)]
pub(super) struct Reading {
    body: Arriving,
    bound: usize,
    /// When the caller gives up.
    deadline: Option<Instant>,
    /// A box: nearly all calls come whole, and all pay for its place.
    half: Option<Box<Half>>,
    first: Bytes,
    joined: BytesMut,
    trailers: Option<Box<HeaderMap>>,
}

/// A body that has not come whole.
#[derive(Debug)]
struct Half {
    /// Bytes of its headers.
    head: usize,
    held: Unfinished,
    patience: Pin<Box<Sleep>>,
}

impl Reading {
    pub(super) fn new(body: Arriving, bound: usize, deadline: Option<Instant>) -> Self {
        Self {
            body,
            bound,
            deadline,
            half: None,
            first: Bytes::new(),
            joined: BytesMut::new(),
            trailers: None,
        }
    }

    /// Whether its connection had calls reset as they were made.
    pub(super) fn is_suspect(&self) -> bool {
        self.body.from().is_suspect()
    }

    /// `headers` are the call's, which are kept as long.
    pub(super) fn poll_whole(
        &mut self,
        cx: &mut Context<'_>,
        headers: &HeaderMap,
    ) -> Poll<Result<Whole, ReadError>> {
        while !self.body.is_end_stream() {
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(ReadError::Broken)),
                Poll::Ready(None) => break,
                Poll::Pending => return self.poll_wait(cx, headers),
            };
            self.take(frame);
            let have = self.joined.len().max(self.first.len());
            if have > self.bound {
                return Poll::Ready(Err(ReadError::TooLarge(have)));
            }
        }
        let first = std::mem::take(&mut self.first);
        let joined = std::mem::take(&mut self.joined);
        Poll::Ready(Ok(Whole {
            bytes: if joined.is_empty() {
                first
            } else {
                joined.freeze()
            },
            trailers: self.trailers.take(),
        }))
    }

    /// The rest is still to come: what is here is counted, and timed.
    fn poll_wait(
        &mut self,
        cx: &mut Context<'_>,
        headers: &HeaderMap,
    ) -> Poll<Result<Whole, ReadError>> {
        if self.first.len() < SLICE_KEPT {
            self.join();
        }
        let from = self.body.from();
        let half = self.half.get_or_insert_with(|| {
            let patience = tokio::time::Instant::now() + from.guards().message_timeout;
            let deadline = self.deadline.map(Into::into);
            let patience = deadline.map_or(patience, |deadline| patience.min(deadline));
            let sizes = headers.iter();
            let sizes = sizes.map(|(name, value)| name.as_str().len() + value.len());
            Box::new(Half {
                head: sizes.sum(),
                held: Unfinished::new(Arc::clone(from)),
                patience: Box::pin(sleep_until(patience)),
            })
        });
        let body = self.joined.capacity() + self.first.len();
        if !half.held.grow_to(half.head + body) {
            from.refuse(Refusal::UnfinishedBytes);
            return Poll::Ready(Err(ReadError::Crowded));
        }
        half.patience.as_mut().poll(cx).map(|()| {
            if self
                .deadline
                .is_none_or(|at| at > tokio::time::Instant::now().into_std())
            {
                from.refuse(Refusal::MessageTimeout);
            }
            Err(ReadError::Slow)
        })
    }

    fn join(&mut self) {
        let first = std::mem::take(&mut self.first);
        self.joined.extend_from_slice(&first);
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) if self.first.is_empty() && self.joined.is_empty() => self.first = data,
            Ok(data) => {
                self.join();
                self.joined.extend_from_slice(&data);
            }
            Err(frame) => self.trailers = frame.into_trailers().ok().map(Box::new),
        }
    }
}

/// A body that was read and goes on as it came.
impl HttpBody for Whole {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let bytes = std::mem::take(&mut self.bytes);
        if !bytes.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let trailers = self.trailers.take();
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(*trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}
