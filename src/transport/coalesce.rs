//! One write for all that one poll of a connection has to say.
//!
//! The HTTP/2 machine flushes whenever a frame of a few hundred bytes is
//! ready, so a thousand small calls that are passed on in one go would cost a
//! thousand writes. Here its writes and flushes only gather, and whoever polls
//! the connection drains what was gathered once the machine has nothing more
//! to add. Nothing waits any longer for it: the drain follows in the same poll.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gathered bytes past which the socket is asked at once: a few of its own
/// buffers' worth would only be copied and kept.
const GATHERED_MAX: usize = 64 << 10;
/// A write of this size gains nothing from company, and pays for the copy. A
/// full frame does gain: each write to a socket wakes whoever reads it.
const DIRECT: usize = 60 << 10;
/// What the buffer may keep once it is empty; past that it has room for all that
/// may gather, and is let go.
const KEPT: usize = 16 << 10;

/// The side that the HTTP/2 machine has.
#[derive(Debug)]
pub(crate) struct Coalesced<IO>(Arc<Mutex<Gathered<IO>>>);

#[derive(Debug)]
struct Gathered<IO> {
    io: IO,
    waiting: Vec<u8>,
    /// So much of it the socket has taken.
    taken: usize,
    /// Something was written since the last flush: TLS may keep the end of it.
    unflushed: bool,
}

/// A connection together with the draining of what it says.
pub(crate) struct Driven<C, IO> {
    connection: C,
    socket: Arc<Mutex<Gathered<IO>>>,
}

impl<IO> Coalesced<IO> {
    pub(crate) fn new(io: IO) -> Self {
        Self(Arc::new(Mutex::new(Gathered {
            io,
            waiting: Vec::new(),
            taken: 0,
            unflushed: false,
        })))
    }

    /// For the machine that is made over this socket.
    pub(crate) fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    /// Drives `connection`, which writes to this socket.
    pub(crate) fn drive<C>(self, connection: C) -> Driven<C, IO> {
        Driven {
            connection,
            socket: self.0,
        }
    }
}

impl<C, IO> Driven<C, IO> {
    /// The connection itself.
    pub(crate) fn connection(&mut self) -> &mut C {
        &mut self.connection
    }
}

impl<C, IO> Future for Driven<C, IO>
where
    C: Future + Unpin,
    IO: AsyncWrite + Unpin,
{
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let done = Pin::new(&mut self.connection).poll(cx);
        // A socket that fails here fails the machine's next read too, which is
        // where the fault is told; one that is full wakes this task again. A
        // connection that ended well drained itself as it shut down; one that
        // failed may still have its last word, GOAWAY, to say.
        let _ = lock(&self.socket).poll_drain(cx);
        done
    }
}

/// Only ever contended if a connection moved threads in mid-poll, which it
/// does not.
fn lock<IO>(gathered: &Mutex<Gathered<IO>>) -> MutexGuard<'_, Gathered<IO>> {
    gathered.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<IO: AsyncWrite + Unpin> Gathered<IO> {
    /// All of it goes to the socket, and on from there.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_hand_over(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// All of it goes to the socket.
    fn poll_hand_over(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.taken < self.waiting.len() {
            self.unflushed = true;
            let waiting = &self.waiting[self.taken..];
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.taken += written;
        }
        self.taken = 0;
        match self.waiting.capacity() > KEPT {
            true => self.waiting = Vec::new(),
            false => self.waiting.clear(),
        }
        Poll::Ready(Ok(()))
    }

    /// Takes all of `slices`, or, if they are large, what the socket takes.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.waiting.len() - self.taken + len > GATHERED_MAX {
            ready!(self.poll_hand_over(cx))?;
        }
        if len >= DIRECT {
            // What was said before goes before.
            ready!(self.poll_hand_over(cx))?;
            self.unflushed = true;
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        if self.waiting.len() + len > self.waiting.capacity().max(KEPT) {
            self.waiting.drain(..self.taken);
            self.taken = 0;
            let room = GATHERED_MAX - self.waiting.len();
            self.waiting.reserve_exact(room);
        }
        slices
            .iter()
            .for_each(|slice| self.waiting.extend_from_slice(slice));
        Poll::Ready(Ok(len))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Coalesced<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).io).poll_read(cx, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Coalesced<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_take(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_take(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing is flushed here: [`Driven`] drains once the machine has ended
    /// its turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = lock(&self.0);
        ready!(gathered.poll_drain(cx))?;
        Pin::new(&mut gathered.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        pki_types::{PrivatePkcs8KeyDer, ServerName},
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
        time::timeout,
    };
    use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

    use super::*;

    /// Notes the size of every write that reaches it, and takes all.
    #[derive(Debug, Default)]
    struct Noting(Vec<usize>);

    impl AsyncWrite for Noting {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(bytes.len());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Says `frames` of `len` bytes, flushing after each.
    async fn say(mut socket: Coalesced<Noting>, frames: usize, len: usize) {
        let frame = vec![7; len];
        for _ in 0..frames {
            socket.write_all(&frame).await.expect("it takes all");
            socket.flush().await.expect("it takes all");
        }
    }

    async fn writes(frames: usize, len: usize) -> Vec<usize> {
        let socket = Coalesced::new(Noting::default());
        let machine = Box::pin(say(socket.share(), frames, len));
        let kept = socket.share();
        socket.drive(machine).await;
        std::mem::take(&mut lock(&kept.0).io.0)
    }

    #[tokio::test]
    async fn what_one_poll_says_is_one_write() {
        assert_eq!(writes(100, 300).await, [30_000]);
    }

    #[tokio::test]
    async fn what_is_gathered_is_bounded_and_nothing_is_lost() {
        let writes = writes(1_000, 4_000).await;
        assert!(writes.iter().all(|len| *len <= GATHERED_MAX), "{writes:?}");
        assert_eq!(writes.iter().sum::<usize>(), 4_000_000);
    }

    #[tokio::test]
    async fn a_large_write_goes_out_after_what_came_before_it() {
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let socket = Coalesced::new(near);
        let mut machine = socket.share();
        let driven = socket.drive(Box::pin(async move {
            machine.write_all(b"small").await.expect("it is open");
            machine.write_all(&[7; DIRECT]).await.expect("it is open");
            machine.write_all(b"last").await.expect("it is open");
            machine.shutdown().await.expect("it is open");
        }));
        let mut heard = Vec::new();
        let ((), read) = tokio::join!(driven, far.read_to_end(&mut heard));
        read.expect("it ends");
        assert_eq!(heard.len(), 5 + DIRECT + 4);
        assert!(heard.starts_with(b"small\x07") && heard.ends_with(b"\x07last"));
    }

    /// Both ends of a TLS connection over a socket that holds next to nothing.
    async fn tls() -> (
        server::TlsStream<DuplexStream>,
        client::TlsStream<DuplexStream>,
    ) {
        let names = vec!["localhost".to_owned()];
        let own = rcgen::generate_simple_self_signed(names).expect("a name");
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let chain = vec![own.cert.der().clone()];
        let served = ServerConfig::builder().with_no_client_auth();
        let served = served.with_single_cert(chain.clone(), key.into());
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(chain);
        let calling = ClientConfig::builder().with_root_certificates(roots);
        let calling = Arc::new(calling.with_no_client_auth());
        let name = ServerName::try_from("localhost").expect("a name");
        let (near, far) = tokio::io::duplex(1 << 10);
        let served = TlsAcceptor::from(Arc::new(served.expect("a pair")));
        let calling = TlsConnector::from(calling).connect(name, far);
        let (near, far) = tokio::join!(served.accept(near), calling);
        (near.expect("a handshake"), far.expect("a handshake"))
    }

    #[tokio::test]
    async fn the_end_of_what_is_said_over_tls_comes_though_nothing_follows_it() {
        for len in [DIRECT / 2, 4 * DIRECT] {
            let (near, mut far) = tls().await;
            let socket = Coalesced::new(near);
            let mut machine = socket.share();
            let mut driven = socket.drive(Box::pin(async move {
                let said = vec![7; len];
                machine.write_all(&said).await.expect("TLS takes it");
                std::future::pending::<()>().await;
            }));
            let mut heard = vec![0; len];
            let read = far.read_exact(&mut heard);
            tokio::select! {
                () = &mut driven => unreachable!("the machine never ends"),
                read = timeout(Duration::from_secs(5), read) => {
                    read.expect("all of it comes").expect("it is open");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_socket_that_never_gets_empty_takes_no_more_memory_for_it() {
        let (near, mut far) = tokio::io::duplex(40_000);
        let mut machine = Coalesced::new(near);
        let chunk = vec![0; 30_000];
        for _ in 0..1_000 {
            let write = poll_fn(|cx| Poll::Ready(Pin::new(&mut machine).poll_write(cx, &chunk)));
            let _ = write.await;
            let drain = poll_fn(|cx| Poll::Ready(lock(&machine.0).poll_drain(cx)));
            let _ = drain.await;
            let mut some = [0; 20_000];
            far.read_exact(&mut some).await.expect("something is there");
            let kept = lock(&machine.0).waiting.capacity();
            assert!(kept <= GATHERED_MAX, "{kept} bytes are kept");
        }
    }

    #[tokio::test]
    async fn a_full_socket_holds_the_machine_up() {
        let (near, _far) = tokio::io::duplex(1);
        let mut machine = Coalesced::new(near);
        let chunk = vec![0; DIRECT - 1];
        let mut taken = 0;
        while let Poll::Ready(written) =
            poll_fn(|cx| Poll::Ready(Pin::new(&mut machine).poll_write(cx, &chunk))).await
        {
            taken += written.expect("it is open");
            assert!(taken <= 2 * GATHERED_MAX, "{taken} bytes are kept");
        }
    }
}
