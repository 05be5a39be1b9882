//! The socket under one connection of the load, with writing taken apart from
//! flushing: h2 flushes after every larger DATA frame, which would be a system
//! call a request. Here its writes only gather, and the connection sends all
//! that a round of answers brought about in one call.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Bytes gathered before h2 is told to wait.
const MAX_GATHERED: usize = 4 << 20;

/// What h2 has written and the socket has not been given.
#[derive(Debug)]
struct Gathered {
    bytes: BytesMut,
    /// Whom to wake when there is room again.
    held_back: Option<Waker>,
}

/// The half that h2 reads from and writes into.
#[derive(Debug)]
pub(super) struct Socket {
    read: OwnedReadHalf,
    gathered: Rc<RefCell<Gathered>>,
}

/// The half that sends what was gathered.
#[derive(Debug)]
pub(super) struct Outbox {
    write: OwnedWriteHalf,
    gathered: Rc<RefCell<Gathered>>,
}

/// Both halves of `stream`.
pub(super) fn halves(stream: TcpStream) -> (Socket, Outbox) {
    let (read, write) = stream.into_split();
    let bytes = BytesMut::with_capacity(64 << 10);
    let gathered = Rc::new(RefCell::new(Gathered {
        bytes,
        held_back: None,
    }));
    (
        Socket {
            read,
            gathered: Rc::clone(&gathered),
        },
        Outbox { write, gathered },
    )
}

impl Outbox {
    /// Sends what was gathered; pending while the peer does not take it.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Gathered { bytes, held_back } = &mut *self.gathered.borrow_mut();
        while !bytes.is_empty() {
            let sent = ready!(Pin::new(&mut self.write).poll_write(cx, bytes))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            bytes.advance(sent);
        }
        if let Some(waiting) = held_back.take() {
            waiting.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, into)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut gathered = self.gathered.borrow_mut();
        if gathered.bytes.len() >= MAX_GATHERED {
            gathered.held_back = Some(cx.waker().clone());
            return Poll::Pending;
        }
        gathered.bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
