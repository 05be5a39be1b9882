//! A socket of which more has been read than was asked for.
//!
//! Whoever looks at its first bytes takes them: not every kind of socket lets
//! them be seen otherwise, so they are put back in front. And one read is for
//! several frames of a large message: the HTTP/2 machine asks for a frame at a
//! time, 16 KiB. Where more is there, more is read at once and handed to it
//! piece by piece: a copy costs less than a read. A connection that has nothing
//! large to say keeps no memory for it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read at once.
const AHEAD: usize = 64 << 10;
/// A read of this size that was filled tells that more is there.
const LARGE: usize = 4 << 10;

/// A socket that is read ahead where that pays. (`tokio::io::BufReader` keeps its
/// buffer for as long as the connection lives.)
#[derive(Debug)]
pub(crate) struct Ahead<IO> {
    io: IO,
    /// What was read and not yet handed on lies at `from..to`; empty where there
    /// is nothing, and the last read was not filled.
    bytes: Box<[u8]>,
    from: usize,
    to: usize,
    /// The last read was filled.
    more: bool,
}

impl<IO> Ahead<IO> {
    pub(crate) fn new(io: IO) -> Self {
        Self::begun(Box::default(), io)
    }

    /// Of which `first` has been read.
    pub(crate) fn begun(first: Box<[u8]>, io: IO) -> Self {
        Self {
            io,
            to: first.len(),
            bytes: first,
            from: 0,
            more: false,
        }
    }

    /// Hands on what is there of what was read.
    fn hand_on(&mut self, buffer: &mut ReadBuf<'_>) {
        let len = buffer.remaining().min(self.to - self.from);
        buffer.put_slice(&self.bytes[self.from..self.from + len]);
        self.from += len;
        if self.from == self.to && !self.more {
            self.bytes = Box::default();
        }
    }
}

impl<IO: AsyncRead + Unpin> Ahead<IO> {
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            self.bytes = vec![0; AHEAD].into();
        }
        let mut read = ReadBuf::new(&mut self.bytes);
        let answer = Pin::new(&mut self.io).poll_read(cx, &mut read);
        (self.from, self.to) = (0, read.filled().len());
        self.more = self.to == AHEAD;
        if self.to == 0 {
            self.bytes = Box::default();
        }
        answer
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Ahead<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.from == this.to {
            if !this.more {
                let asked = buffer.remaining();
                ready!(Pin::new(&mut this.io).poll_read(cx, buffer))?;
                this.more = asked >= LARGE && buffer.remaining() == 0;
                return Poll::Ready(Ok(()));
            }
            ready!(this.poll_ahead(cx))?;
        }
        this.hand_on(buffer);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Ahead<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
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
    use std::collections::VecDeque;

    use futures_util::FutureExt as _;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Has these bytes, notes how much each read took, then says it would wait.
    #[derive(Debug, Default)]
    struct Having {
        bytes: VecDeque<u8>,
        reads: Vec<usize>,
    }

    impl AsyncRead for Having {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let len = self.bytes.len().min(buffer.remaining());
            self.reads.push(len);
            if len == 0 {
                return Poll::Pending;
            }
            buffer.put_slice(&self.bytes.drain(..len).collect::<Vec<_>>());
            Poll::Ready(Ok(()))
        }
    }

    /// Reads what is there in pieces of `piece`.
    fn read(socket: &mut Ahead<Having>, piece: usize) -> Vec<u8> {
        let (mut all, mut some) = (Vec::new(), vec![0; piece]);
        while let Some(len) = socket.read(&mut some).now_or_never() {
            all.extend_from_slice(&some[..len.expect("it has bytes or waits")]);
        }
        all
    }

    fn having(len: usize) -> (Ahead<Having>, Vec<u8>) {
        let bytes: Vec<_> = (0..len).map(|n| (n % 251) as u8).collect();
        let socket = Ahead::new(Having {
            bytes: bytes.clone().into(),
            ..Having::default()
        });
        (socket, bytes)
    }

    #[test]
    fn a_large_message_is_read_in_few_reads_and_whole() {
        let (mut socket, bytes) = having(300_000);
        assert_eq!(read(&mut socket, 16 << 10), bytes);
        // The first is the machine's own, the last finds nothing.
        assert_eq!(socket.io.reads.len(), 2 + 300_000_usize.div_ceil(AHEAD));
    }

    #[test]
    fn what_was_looked_at_is_read_first() {
        let (socket, bytes) = having(5_000);
        let first = Box::from(*b"first");
        let mut socket = Ahead::begun(first, socket.io);
        let all = read(&mut socket, 4_096);
        assert_eq!(all, [&b"first"[..], &bytes].concat());
    }

    #[test]
    fn a_connection_with_nothing_large_to_say_keeps_no_memory() {
        let (mut socket, bytes) = having(5_000);
        assert_eq!(read(&mut socket, 8 << 10), bytes);
        assert!(socket.bytes.is_empty());
        let (mut socket, bytes) = having(AHEAD + (16 << 10));
        assert_eq!(read(&mut socket, 16 << 10), bytes);
        assert!(socket.bytes.is_empty(), "it is all handed on");
    }
}
