//! A socket whose frames are watched on their way to the HTTP/2 machine.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
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
        Watched {
            io,
            watch: self.clone(),
            held: None,
        }
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

    /// All that was read was looked at; so many calls came of it, ever since.
    pub(super) fn took(&self, calls: u64) {
        let mut seen = self.lock();
        if let Err(abuse) = seen.frames.took(calls) {
            // The next that comes is not read any more.
            seen.abuse = Some(abuse);
        }
    }

    fn hold(&self) -> Option<Duration> {
        let mut seen = self.lock();
        if !seen.frames.owes() {
            return None;
        }
        seen.frames.hold(Instant::now().into_std())
    }

    /// Only ever contended if a connection moved threads in mid-poll, which
    /// it does not.
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, bytes: &[u8]) -> Result<(), Abuse> {
        let now = Instant::now().into_std();
        let mut seen = self.lock();
        if let Some(abuse) = seen.abuse {
            return Err(abuse);
        }
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
    /// Until when its client is not read.
    held: Option<Pin<Box<Sleep>>>,
}

impl<IO> Watched<IO> {
    /// Ready if the client may be read.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(held) = &mut self.held {
                ready!(held.as_mut().poll(cx));
            }
            self.held = self.watch.hold().map(|hold| Box::pin(sleep(hold)));
            if self.held.is_none() {
                return Poll::Ready(());
            }
        }
    }
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
        ready!(self.poll_held(cx));
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::accept::{crowd::Crowd, guards::Guards};

    const CONTROL: u32 = 100;
    const PREFACE: [u8; 24] = [0; 24];
    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    fn watched<IO>(io: IO) -> (Watch, Watched<IO>) {
        let guards = Arc::new(Guards {
            max_control_frames: CONTROL,
            ..Guards::default()
        });
        let present = Crowd::new(Arc::default()).enter("a client".into(), guards);
        let watch = Watch::new(&present);
        let socket = watch.over(io);
        (watch, socket)
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_read_no_faster_than_its_burst_a_second_and_then_cut() {
        let (mut client, server) = duplex(PING.len() * 10);
        let (watch, mut socket) = watched(server);
        let flood = tokio::spawn(async move {
            client.write_all(&PREFACE).await?;
            let mut sent = 0_u32;
            while client.write_all(&PING).await.is_ok() {
                sent += 1;
            }
            Ok::<_, io::Error>(sent)
        });
        let (begun, mut buffer) = (Instant::now(), [0; 170]);
        let at_once = loop {
            let before = begun.elapsed();
            let read = socket.read(&mut buffer).await;
            assert!(read.expect("nothing is cut yet") > 0, "it goes on");
            watch.turn().begin();
            if begun.elapsed() > before {
                break before;
            }
        };
        assert_eq!(at_once, Duration::ZERO, "a beginning is not held up");
        while matches!(socket.read(&mut buffer).await, Ok(1..)) {
            watch.turn().begin();
        }
        let took = begun.elapsed();
        assert!(
            (900..1_300).contains(&took.as_millis()),
            "the burst took {took:?}"
        );
        assert_eq!(watch.abuse(), Some(Abuse::Control));
        drop(socket);
        let sent = flood.await.expect("it ends").expect("it began");
        assert!((10 * CONTROL..13 * CONTROL).contains(&sent), "{sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_is_held_up_by_us_is_not_late() {
        let (mut client, server) = duplex(1 << 20);
        let (watch, mut socket) = watched(server);
        let pings = PING.repeat(5 * CONTROL as usize);
        let half = &PING[..12];
        let said = [&PREFACE[..], &pings, half].concat();
        client.write_all(&said).await.expect("there is room");
        let mut buffer = vec![0; said.len()];
        socket.read_exact(&mut buffer).await.expect("it is there");
        watch.turn().begin();
        let more = socket.read(&mut buffer);
        assert!(
            tokio::time::timeout(Duration::from_millis(1), more)
                .await
                .is_err()
        );
        tokio::time::advance(Duration::from_millis(300)).await;
        assert!(!watch.is_half_for(Duration::from_millis(100)));
        tokio::time::advance(Duration::from_millis(300)).await;
        assert!(watch.is_half_for(Duration::from_millis(100)));
    }
}
