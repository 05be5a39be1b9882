//! A socket whose frames are watched on their way to the HTTP/2 machine.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    crowd::Present,
    frames::{Abuse, FrameWatch},
    turn::Turn,
};

/// What is seen of one connection, by its socket and by its task.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    seen: Arc<Mutex<Seen>>,
    turn: Turn,
    present: Arc<Present>,
}

#[derive(Debug)]
struct Seen {
    frames: FrameWatch,
    abuse: Option<Abuse>,
}

impl Watch {
    pub(super) fn new(present: &Arc<Present>) -> Self {
        let guards = present.guards();
        let frames = FrameWatch::new(guards.max_control_frames, guards.max_resets);
        let abuse = None;
        Self {
            seen: Arc::new(Mutex::new(Seen { frames, abuse })),
            turn: Turn::default(),
            present: Arc::clone(present),
        }
    }

    /// Over `io`.
    pub(super) fn over<IO>(&self, io: IO) -> Watched<IO> {
        let watch = self.clone();
        Watched { io, watch }
    }

    pub(super) fn turn(&self) -> &Turn {
        &self.turn
    }

    /// Why the connection must end, if it must.
    pub(super) fn abuse(&self) -> Option<Abuse> {
        self.lock().abuse
    }

    /// Whether a frame or a header block has begun and not come whole for so
    /// long.
    pub(super) fn is_half_for(&self, span: Duration) -> bool {
        let now = Instant::now().into_std();
        self.lock().frames.is_half_for(span, now)
    }

    /// Only ever contended if a connection moved threads in mid-poll, which
    /// it does not.
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, bytes: &[u8]) -> Result<(), Abuse> {
        let now = Instant::now().into_std();
        let mut seen = self.lock();
        let frames = seen.frames.read(bytes, now);
        self.present.suspect(seen.frames.is_resetting());
        match frames {
            Ok(frames) => self.turn.spend(frames, bytes.len()),
            Err(abuse) => seen.abuse = Some(abuse),
        }
        frames.map(|_| ())
    }
}

/// The socket itself.
#[derive(Debug)]
pub(super) struct Watched<IO> {
    io: IO,
    watch: Watch,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.watch.turn.is_spent() {
            // Nobody is asked to wake it: `Inline` sees the same, and comes
            // again after the others.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if self.watch.read(&buffer.filled()[before..]).is_err() {
            buffer.set_filled(before);
            let what = "a guard closes the connection";
            return Poll::Ready(Err(io::Error::other(what)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> Watched<IO> {
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.watch.lock().frames.wrote(bytes);
        }
        written
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
