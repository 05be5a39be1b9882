//! The upstream that costs next to nothing, so that the proxy is what is
//! measured: HTTP/2 by hand, as much of it as proxies and `h2load` speak.
//!
//! It reads no headers (any path, any metadata) and answers each gRPC message,
//! as soon as it is whole, with a message of a fixed length; when the request
//! has ended it says status 0. So a unary call is one message and a reply, and
//! a stream of sixteen is answered with sixteen. Flow control is kept, in both
//! directions, and everything that one read brought about leaves with one write.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf, Bytes, BytesMut};
use ferry::accept::frame::framed;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{telling, upstream::Counted};

const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const HEAD: usize = 9;
/// What a peer takes in a frame unless it says otherwise; nobody need be asked.
const FRAME_MAX: usize = 16_384;
/// What a stream may send, which is more than any does, and a connection before
/// it is told to go on.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;
const FIRST_WINDOW: u32 = 65_535;
const STREAMS: u32 = 10_000;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// `:status: 200` from the static table, then `content-type: application/grpc`
/// and, in the trailers, `grpc-status: 0`, neither indexed.
const REPLY_HEAD: &[u8] = b"\x88\x0f\x10\x10application/grpc";
const TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";

#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    messages: AtomicU64,
    message_bytes: AtomicU64,
}

/// Serves until its input ends.
pub(crate) async fn serve(reply_bytes: usize) -> anyhow::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    let counts = Arc::new(Counts::default());
    let told = Arc::clone(&counts);
    let ended = telling::told_to_end(listener.local_addr()?, move || {
        Ok(Counted {
            calls: told.calls.load(Ordering::Relaxed),
            messages: told.messages.load(Ordering::Relaxed),
            message_bytes: told.message_bytes.load(Ordering::Relaxed),
            entries: None,
        })
    })?;
    let reply = framed(&super::upstream::reply(reply_bytes));
    let accepting = async {
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            let connection = Connection::new(reply.clone(), Arc::clone(&counts));
            // How a connection ends is for its peer to say.
            tokio::spawn(async move { connection.serve(socket).await.ok() });
        }
    };
    tokio::select! {
        () = ended => Ok(()),
        failed = accepting => failed,
    }
}

/// One connection's state.
struct Connection {
    reply: Bytes,
    counts: Arc<Counts>,
    out: BytesMut,
    streams: HashMap<u32, Stream>,
    /// Streams with replies that a window holds up, in turn.
    held_up: VecDeque<u32>,
    /// What this side may send on the connection, and on a new stream.
    window: i64,
    stream_window: i64,
    /// What was received and not yet given back to the connection's window.
    taken: u32,
}

/// One call.
struct Stream {
    answered: bool,
    ended: bool,
    window: i64,
    /// Of the message that is arriving: its head so far, and what is to come.
    head: Vec<u8>,
    missing: usize,
    /// Replies to send, the first perhaps in part.
    pending: VecDeque<Bytes>,
    waits: bool,
}

impl Connection {
    fn new(reply: Bytes, counts: Arc<Counts>) -> Self {
        Self {
            reply,
            counts,
            out: BytesMut::new(),
            streams: HashMap::new(),
            held_up: VecDeque::new(),
            window: FIRST_WINDOW.into(),
            stream_window: FIRST_WINDOW.into(),
            taken: 0,
        }
    }

    async fn serve(mut self, mut socket: TcpStream) -> io::Result<()> {
        let mut read = BytesMut::with_capacity(256 << 10);
        while read.len() < PREFACE {
            if socket.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        }
        read.advance(PREFACE);
        self.greet();
        let (mut from, mut to) = socket.split();
        loop {
            while let Some(frame) = next_frame(&mut read) {
                self.frame(frame);
            }
            self.send_held_up();
            read.reserve(256 << 10);
            // Reads go on while a write waits: a proxy may take no reply before
            // it has got rid of its requests.
            let came = tokio::select! {
                biased;
                written = to.write_buf(&mut self.out), if !self.out.is_empty() => {
                    written?;
                    continue;
                }
                came = from.read_buf(&mut read) => came?,
            };
            if came == 0 {
                return Ok(());
            }
        }
    }

    fn greet(&mut self) {
        // SETTINGS_MAX_CONCURRENT_STREAMS is 3, SETTINGS_INITIAL_WINDOW_SIZE 4.
        head(&mut self.out, 12, SETTINGS, 0, 0);
        for (setting, value) in [(3u16, STREAMS), (4, STREAM_WINDOW)] {
            self.out.extend_from_slice(&setting.to_be_bytes());
            self.out.extend_from_slice(&value.to_be_bytes());
        }
        self.widen(CONNECTION_WINDOW - FIRST_WINDOW);
    }

    /// Lets the peer send so much more on the connection.
    fn widen(&mut self, by: u32) {
        head(&mut self.out, 4, WINDOW_UPDATE, 0, 0);
        self.out.extend_from_slice(&by.to_be_bytes());
    }

    fn frame(&mut self, frame: Frame) {
        match frame.kind {
            HEADERS => {
                let stream = Stream::new(self.stream_window);
                self.streams.insert(frame.stream, stream);
                if frame.flags & END_STREAM != 0 {
                    self.end(frame.stream);
                }
            }
            DATA => self.content(&frame),
            SETTINGS if frame.flags & ACK == 0 => {
                self.settings(&frame.content);
                head(&mut self.out, 0, SETTINGS, ACK, 0);
            }
            PING if frame.flags & ACK == 0 => {
                head(&mut self.out, 8, PING, ACK, 0);
                self.out.extend_from_slice(&frame.content);
            }
            WINDOW_UPDATE => self.widened(&frame),
            RST_STREAM => drop(self.streams.remove(&frame.stream)),
            // Priorities, continued headers (which nobody reads) and goodbyes.
            _ => {}
        }
    }

    fn settings(&mut self, mut content: &[u8]) {
        while content.len() >= 6 {
            let (setting, value) = (content.get_u16(), i64::from(content.get_u32()));
            if setting == 4 {
                let more = value - self.stream_window;
                self.stream_window = value;
                self.streams
                    .values_mut()
                    .for_each(|stream| stream.window += more);
            }
        }
        self.held_up
            .extend(self.streams.iter_mut().filter_map(|(id, stream)| {
                let waits = !stream.pending.is_empty() && !stream.waits;
                stream.waits |= waits;
                waits.then_some(*id)
            }));
    }

    fn widened(&mut self, frame: &Frame) {
        let by = i64::from((&frame.content[..]).get_u32());
        if frame.stream == 0 {
            self.window += by;
        } else if let Some(stream) = self.streams.get_mut(&frame.stream) {
            stream.window += by;
            if !stream.pending.is_empty() && !stream.waits {
                stream.waits = true;
                self.held_up.push_back(frame.stream);
            }
        }
    }

    fn content(&mut self, frame: &Frame) {
        self.taken += frame.content.len() as u32;
        if self.taken > CONNECTION_WINDOW / 4 {
            self.widen(self.taken);
            self.taken = 0;
        }
        let Some(stream) = self.streams.get_mut(&frame.stream) else {
            return;
        };
        let mut content = &frame.content[..];
        if frame.flags & PADDED != 0 {
            let padding = content.get_u8() as usize;
            content = &content[..content.len() - padding];
        }
        let messages = stream.take(content, &self.counts.message_bytes);
        self.counts.messages.fetch_add(messages, Ordering::Relaxed);
        for _ in 0..messages {
            stream.pending.push_back(self.reply.clone());
        }
        if frame.flags & END_STREAM != 0 {
            self.end(frame.stream);
        } else {
            self.send(frame.stream);
        }
    }

    fn end(&mut self, id: u32) {
        self.counts.calls.fetch_add(1, Ordering::Relaxed);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.ended = true;
        }
        self.send(id);
    }

    fn send_held_up(&mut self) {
        for _ in 0..self.held_up.len() {
            let Some(id) = self.held_up.pop_front() else {
                return;
            };
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.waits = false;
            }
            self.send(id);
        }
    }

    /// Sends what the windows allow of a stream's replies, and its end behind
    /// the last of them.
    fn send(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !stream.answered && (stream.ended || !stream.pending.is_empty()) {
            stream.answered = true;
            head(&mut self.out, REPLY_HEAD.len(), HEADERS, END_HEADERS, id);
            self.out.extend_from_slice(REPLY_HEAD);
        }
        while let Some(reply) = stream.pending.front_mut() {
            let window = self.window.min(stream.window).max(0) as usize;
            let part = reply.split_to(reply.len().min(window).min(FRAME_MAX));
            if part.is_empty() {
                // Only its own window tells a stream that waits for it alone.
                if stream.window > 0 && !stream.waits {
                    stream.waits = true;
                    self.held_up.push_back(id);
                }
                return;
            }
            self.window -= part.len() as i64;
            stream.window -= part.len() as i64;
            head(&mut self.out, part.len(), DATA, 0, id);
            self.out.extend_from_slice(&part);
            if reply.is_empty() {
                stream.pending.pop_front();
            }
        }
        if stream.ended {
            head(
                &mut self.out,
                TRAILERS.len(),
                HEADERS,
                END_HEADERS | END_STREAM,
                id,
            );
            self.out.extend_from_slice(TRAILERS);
            self.streams.remove(&id);
        }
    }
}

impl Stream {
    fn new(window: i64) -> Self {
        Self {
            answered: false,
            ended: false,
            window,
            head: Vec::new(),
            missing: 0,
            pending: VecDeque::new(),
            waits: false,
        }
    }

    /// How many messages are whole with this.
    fn take(&mut self, mut content: &[u8], message_bytes: &AtomicU64) -> u64 {
        let mut messages = 0;
        while !content.is_empty() {
            if self.head.len() < 5 {
                let part = content.len().min(5 - self.head.len());
                self.head.extend_from_slice(&content[..part]);
                content.advance(part);
                if self.head.len() < 5 {
                    return messages;
                }
                self.missing = (&self.head[1..]).get_u32() as usize;
                message_bytes.fetch_add(self.missing as u64, Ordering::Relaxed);
            }
            let part = content.len().min(self.missing);
            content.advance(part);
            self.missing -= part;
            if self.missing == 0 {
                self.head.clear();
                messages += 1;
            }
        }
        messages
    }
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    content: Bytes,
}

fn next_frame(read: &mut BytesMut) -> Option<Frame> {
    let first: &[u8; HEAD] = read.first_chunk()?;
    let length = u32::from_be_bytes([0, first[0], first[1], first[2]]) as usize;
    let (kind, flags) = (first[3], first[4]);
    let stream = u32::from_be_bytes([first[5], first[6], first[7], first[8]]) & 0x7fff_ffff;
    if read.len() < HEAD + length {
        return None;
    }
    read.advance(HEAD);
    Some(Frame {
        kind,
        flags,
        stream,
        content: read.split_to(length).freeze(),
    })
}

fn head(out: &mut BytesMut, length: usize, kind: u8, flags: u8, stream: u32) {
    let [_, a, b, c] = (length as u32).to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}
