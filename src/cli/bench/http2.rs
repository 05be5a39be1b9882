//! One HTTP/2 connection from the client's side, as far as unary gRPC needs it
//! (RFC 9113): bytes in, answers and bytes out. Pure: no socket, no clock.
//!
//! Why not the `h2` crate, which the server stands on: it cost 6.5 us of CPU a
//! call here, as much as the server under test, on a machine that both share.
//! A load's requests are all alike, so most of what a general client does for
//! each of them can be done once.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
    mem,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    answer::{Fields, Head, Verdict},
    frame::*,
    hpack::{Decoder, RequestHead},
    upload::{DEFAULT_WINDOW, Uploads},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest frame that we accept: the default, which nobody may exceed unasked.
const MAX_FRAME: usize = 16_384;
/// Longest header block that we put together.
const MAX_BLOCK: usize = 1 << 20;
/// Ours: as wide as can be; renewed when so much has come.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
const RENEW_AFTER: u32 = 1 << 29;
/// A reply's: CreateSession's is empty.
const STREAM_WINDOW: u32 = 1 << 20;
/// Stream ids end here.
const LAST_STREAM: u32 = (1 << 31) - 1;

/// One call's end.
#[derive(Debug)]
pub(super) struct Answer {
    /// Whose call.
    pub(super) caller: usize,
    /// How it ended.
    pub(super) verdict: Verdict,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Http2 {
    head: RequestHead,
    decoder: Decoder,
    /// What has come of a frame that has not come whole.
    partial: Vec<u8>,
    /// A header block that goes on in the next frame.
    block: Option<Block>,
    outbound: BytesMut,
    streams: HashMap<u32, Stream, BuildHasherDefault<IdHasher>>,
    /// Calls taken back, which the server may have answered all the same.
    taken_back: HashSet<u32, BuildHasherDefault<IdHasher>>,
    next_stream: u32,
    server: Server,
    /// The messages on their way out.
    uploads: Uploads,
    /// What came since the server's window was renewed.
    received: u32,
    /// The server opens no more streams, and why.
    closing: Option<String>,
}

/// What the server's settings say.
#[derive(Debug)]
struct Server {
    /// Nothing is sent before they have come.
    known: bool,
    max_streams: usize,
}

#[derive(Debug)]
struct Stream {
    caller: usize,
    /// Bytes of the answer's message.
    received: usize,
}

#[derive(Debug)]
struct Block {
    stream: u32,
    flags: u8,
    bytes: Vec<u8>,
}

impl Http2 {
    /// A connection that sends requests with `head`; its first bytes are in
    /// [`Http2::outbound`].
    pub(super) fn new(head: RequestHead) -> Self {
        let mut outbound = BytesMut::with_capacity(64 << 10);
        outbound.put_slice(PREFACE);
        put_header(&mut outbound, 12, SETTINGS, 0, 0);
        outbound.put_u16(2); // ENABLE_PUSH
        outbound.put_u32(0);
        outbound.put_u16(4); // INITIAL_WINDOW_SIZE
        outbound.put_u32(STREAM_WINDOW);
        put_word(
            &mut outbound,
            WINDOW_UPDATE,
            0,
            CONNECTION_WINDOW - DEFAULT_WINDOW,
        );
        Self {
            head,
            decoder: Decoder::new(),
            partial: Vec::new(),
            block: None,
            outbound,
            streams: HashMap::default(),
            taken_back: HashSet::default(),
            next_stream: 1,
            server: Server {
                known: false,
                max_streams: usize::MAX,
            },
            uploads: Uploads::new(),
            received: 0,
            closing: None,
        }
    }

    /// What is to be sent; whoever sends it takes it off.
    pub(super) fn outbound(&mut self) -> &mut BytesMut {
        &mut self.outbound
    }

    /// How many calls the server takes at once.
    pub(super) fn max_streams(&self) -> usize {
        self.server.max_streams
    }

    /// Whether a call may be sent now.
    pub(super) fn can_open(&self) -> bool {
        self.server.known
            && self.closing.is_none()
            && self.streams.len() < self.server.max_streams
            && self.next_stream < LAST_STREAM
    }

    /// Sends `message` as the one message of `caller`'s call; answers with its
    /// stream. Only if [`Http2::can_open`].
    pub(super) fn open(&mut self, caller: usize, message: Bytes) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        self.streams.insert(
            stream,
            Stream {
                caller,
                received: 0,
            },
        );
        let block = self.head.block();
        put_header(
            &mut self.outbound,
            block.len(),
            HEADERS,
            END_HEADERS,
            stream,
        );
        self.outbound.put_slice(&block);
        self.uploads.send(stream, message, &mut self.outbound);
        stream
    }

    /// Takes a call back.
    pub(super) fn reset(&mut self, stream: u32) {
        if self.streams.remove(&stream).is_some() {
            self.uploads.forget(stream);
            self.taken_back.insert(stream);
            put_word(&mut self.outbound, RST_STREAM, stream, CANCEL);
        }
    }

    /// Takes in what has come; the calls that it ended are added to `answers`.
    ///
    /// # Errors
    /// The connection is of no use any more; calls that are still out are lost.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        answers: &mut Vec<Answer>,
    ) -> Result<(), Broken> {
        if self.partial.is_empty() {
            let used = self.frames(bytes, answers)?;
            self.partial.extend_from_slice(&bytes[used..]);
        } else {
            let mut joined = mem::take(&mut self.partial);
            joined.extend_from_slice(bytes);
            let used = self.frames(&joined, answers)?;
            joined.drain(..used);
            self.partial = joined;
        }
        match &self.closing {
            Some(reason) if self.streams.is_empty() => Err(Broken(reason.clone())),
            _ => Ok(()),
        }
    }

    fn frames(&mut self, bytes: &[u8], answers: &mut Vec<Answer>) -> Result<usize, Broken> {
        let mut rest = bytes;
        while let Some((mut header, after)) = rest.split_at_checked(FRAME_HEADER) {
            let length = header.get_uint(3) as usize;
            let (kind, flags) = (header.get_u8(), header.get_u8());
            let stream = header.get_u32() & LAST_STREAM;
            if !self.server.known && kind != SETTINGS {
                return Err(Broken(
                    "the server does not speak HTTP/2 without TLS".into(),
                ));
            }
            if length > MAX_FRAME {
                return Err(Broken(format!("the server sent a frame of {length} bytes")));
            }
            let Some((payload, after)) = after.split_at_checked(length) else {
                break;
            };
            self.frame(kind, flags, stream, payload, answers)?;
            rest = after;
        }
        Ok(bytes.len() - rest.len())
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        answers: &mut Vec<Answer>,
    ) -> Result<(), Broken> {
        if self.block.is_some() && kind != CONTINUATION {
            return Err(malformed("a header block was interrupted"));
        }
        match kind {
            DATA => self.message_part(flags, stream, payload, answers),
            HEADERS => {
                let mut bytes = unpadded(flags, payload)?;
                if flags & PRIORITY != 0 {
                    bytes = bytes.get(5..).ok_or_else(|| malformed("HEADERS was cut"))?;
                }
                self.headers(flags, stream, bytes, answers)
            }
            CONTINUATION => self.continuation(flags, stream, payload, answers),
            RST_STREAM => {
                let code = word(payload)?;
                self.end(
                    stream,
                    Err(format!("stream reset: {}", named(code)).into()),
                    answers,
                );
                Ok(())
            }
            SETTINGS => self.settings(flags, payload),
            PING if flags & ACK == 0 => {
                let told = payload.get(..8).ok_or_else(|| malformed("PING was cut"))?;
                put_header(&mut self.outbound, 8, PING, ACK, 0);
                self.outbound.put_slice(told);
                Ok(())
            }
            GOAWAY => self.go_away(payload, answers),
            WINDOW_UPDATE => {
                let more = i64::from(word(payload)? & LAST_STREAM);
                self.uploads.widen(stream, more, &mut self.outbound);
                Ok(())
            }
            PUSH_PROMISE => Err(malformed("PUSH_PROMISE was not asked for")),
            _ => Ok(()), // of no interest, or unknown, which must be ignored
        }
    }

    fn message_part(
        &mut self,
        flags: u8,
        stream: u32,
        payload: &[u8],
        answers: &mut Vec<Answer>,
    ) -> Result<(), Broken> {
        self.received += payload.len() as u32;
        if self.received >= RENEW_AFTER {
            put_word(
                &mut self.outbound,
                WINDOW_UPDATE,
                0,
                mem::take(&mut self.received),
            );
        }
        let message = unpadded(flags, payload)?;
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.received += message.len();
        }
        if flags & END_STREAM != 0 {
            self.end(
                stream,
                Err("INTERNAL: the answer has no trailers".into()),
                answers,
            );
        }
        Ok(())
    }

    fn continuation(
        &mut self,
        flags: u8,
        stream: u32,
        payload: &[u8],
        answers: &mut Vec<Answer>,
    ) -> Result<(), Broken> {
        let mut block = self
            .block
            .take()
            .filter(|block| block.stream == stream)
            .ok_or_else(|| malformed("CONTINUATION continues nothing"))?;
        block.bytes.extend_from_slice(payload);
        if block.bytes.len() > MAX_BLOCK {
            return Err(malformed("a header block has no end"));
        }
        let flags = block.flags | flags & END_HEADERS;
        self.headers(flags, stream, &block.bytes, answers)
    }

    fn headers(
        &mut self,
        flags: u8,
        stream: u32,
        bytes: &[u8],
        answers: &mut Vec<Answer>,
    ) -> Result<(), Broken> {
        if flags & END_HEADERS == 0 {
            self.block = Some(Block {
                stream,
                flags,
                bytes: bytes.to_vec(),
            });
            return Ok(());
        }
        // Also for a stream that we have reset: the table must follow.
        let mut fields = Fields::default();
        self.decoder
            .decode(bytes, |name, value| fields.note(name, value))
            .map_err(|_| malformed("a header block does not decode"))?;
        let ends = flags & END_STREAM != 0;
        let Some(&Stream { received, .. }) = self.streams.get(&stream) else {
            return self.stray(stream, ends);
        };
        let verdict = match fields.head() {
            Head::Interim => return Ok(()),
            Head::Begun if !ends => return Ok(()),
            Head::Begun | Head::Absent => fields.verdict(received),
            Head::Foreign(told) => Err(told.into()),
        };
        if !ends {
            self.taken_back.insert(stream);
            put_word(&mut self.outbound, RST_STREAM, stream, CANCEL);
        }
        self.end(stream, verdict, answers);
        Ok(())
    }

    /// An answer to a call that waits for none: it was taken back while the
    /// answer was on its way, or else it is the second.
    fn stray(&mut self, stream: u32, ends: bool) -> Result<(), Broken> {
        let taken_back = match ends {
            true => self.taken_back.remove(&stream),
            false => self.taken_back.contains(&stream),
        };
        match taken_back {
            true => Ok(()),
            false => Err(Broken(format!("stream {stream} was answered twice"))),
        }
    }

    fn end(&mut self, stream: u32, verdict: Verdict, answers: &mut Vec<Answer>) {
        let Some(Stream { caller, .. }) = self.streams.remove(&stream) else {
            return;
        };
        answers.push(Answer { caller, verdict });
        // Answered before it was sent whole: the rest is of no use.
        if self.uploads.forget(stream) {
            put_word(&mut self.outbound, RST_STREAM, stream, CANCEL);
        }
    }

    fn settings(&mut self, flags: u8, mut payload: &[u8]) -> Result<(), Broken> {
        if flags & ACK != 0 {
            return Ok(());
        }
        while payload.len() >= 6 {
            let (name, value) = (payload.get_u16(), payload.get_u32());
            match name {
                1 => self.head.limit_table(value),
                3 => self.server.max_streams = value as usize,
                4 => self.uploads.limit_streams(value),
                5 => self.uploads.limit_frames(value),
                _ => {}
            }
        }
        self.server.known = true;
        put_header(&mut self.outbound, 0, SETTINGS, ACK, 0);
        self.uploads.send_waiting(&mut self.outbound);
        Ok(())
    }

    fn go_away(&mut self, payload: &[u8], answers: &mut Vec<Answer>) -> Result<(), Broken> {
        let last = word(payload)? & LAST_STREAM;
        let code = word(payload.get(4..).unwrap_or_default())?;
        let debug = String::from_utf8_lossy(payload.get(8..).unwrap_or_default()).into_owned();
        let mut reason = format!("connection lost: the server closed it ({})", named(code));
        if !debug.is_empty() {
            reason = format!("{reason}: {debug:.100}");
        }
        let refused: Vec<_> = self
            .streams
            .keys()
            .copied()
            .filter(|stream| *stream > last)
            .collect();
        for stream in refused {
            self.end(stream, Err(reason.clone().into()), answers);
        }
        self.closing = Some(reason);
        Ok(())
    }
}

/// Stream ids count up by two: multiplying spreads them as well as hashing, and
/// the better half of the product is turned to where the map looks.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0.rotate_right(32)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(byte.into()));
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests;
