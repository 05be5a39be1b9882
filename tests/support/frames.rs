//! HTTP/2 frame by frame, to be as odd as no library lets one be.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

const PREFACE: usize = 24;

/// One frame: its head and its payload.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is small");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The reply that consists of its head: OK.
pub(crate) fn ok(stream: u32) -> Vec<u8> {
    let block = [vec![0x88], literal(TYPE), literal(DONE)].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)
}

/// The head of a reply whose body follows.
pub(crate) fn reply_head(stream: u32) -> Vec<u8> {
    let block = [vec![0x88], literal(TYPE)].concat(); // :status 200
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// The end of such a reply: OK.
pub(crate) fn reply_end(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &literal(DONE))
}

const TYPE: [&str; 2] = ["content-type", "application/grpc"];
const DONE: [&str; 2] = ["grpc-status", "0"];

/// A header that is not indexed.
fn literal(header: [&str; 2]) -> Vec<u8> {
    let mut block = vec![0];
    for text in header {
        block.push(u8::try_from(text.len()).expect("below 127"));
        block.extend(text.as_bytes());
    }
    block
}

pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// It goes away and has taken the calls up to `last`.
pub(crate) fn going_away(last: u32) -> Vec<u8> {
    let payload = [last.to_be_bytes(), [0; 4]].concat();
    frame(GOAWAY, 0, 0, &payload)
}

/// What an upstream does when a call's headers come.
pub(crate) enum Act {
    Say(Vec<u8>),
    HangUp,
}

/// An upstream that answers the headers of each call with frames of the
/// test's own; it is told how many calls came before.
pub(crate) struct Odd {
    pub(crate) address: SocketAddr,
    calls: Arc<AtomicUsize>,
}

impl Odd {
    pub(crate) async fn start(
        act: impl Fn(usize, u32) -> Act + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let calls = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&calls);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (act, calls) = (act.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    // How a connection ends is for its calls to say.
                    let _ = converse(socket, act, calls).await;
                });
            }
        });
        Self { address, calls }
    }

    /// The calls whose headers came.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

async fn converse(
    mut socket: TcpStream,
    act: impl Fn(usize, u32) -> Act,
    calls: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    socket.read_exact(&mut [0; PREFACE]).await?;
    socket.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, d, e, f, g] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        socket.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes([d, e, f, g]);
        match (kind, flags & ACK) {
            (SETTINGS, 0) => socket.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
            (PING, 0) => socket.write_all(&frame(PING, ACK, 0, &payload)).await?,
            (HEADERS, _) => match act(calls.fetch_add(1, Ordering::SeqCst), stream) {
                Act::Say(frames) => socket.write_all(&frames).await?,
                Act::HangUp => return Ok(()),
            },
            _ => {}
        }
    }
}
