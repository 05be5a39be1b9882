//! Reads a unary call's body whole, bounded.
//!
//! A small call's message comes as one frame, which is taken as it is; only a
//! message in pieces is copied together.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

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
}

/// A body on its way in.
#[derive(Debug)]
pub(super) struct Reading {
    body: Incoming,
    bound: usize,
    first: Bytes,
    joined: BytesMut,
    trailers: Option<Box<HeaderMap>>,
}

impl Reading {
    pub(super) fn new(body: Incoming, bound: usize) -> Self {
        Self {
            body,
            bound,
            first: Bytes::new(),
            joined: BytesMut::new(),
            trailers: None,
        }
    }

    pub(super) fn poll_whole(&mut self, cx: &mut Context<'_>) -> Poll<Result<Whole, ReadError>> {
        while !self.body.is_end_stream() {
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
                break;
            };
            let Ok(frame) = frame else {
                return Poll::Ready(Err(ReadError::Broken));
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

    fn take(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) if self.first.is_empty() => self.first = data,
            Ok(data) => {
                if self.joined.is_empty() {
                    self.joined.extend_from_slice(&self.first);
                }
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
