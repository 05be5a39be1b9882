//! Clients that mean no good: each does one thing over and over, as fast as
//! its socket takes it, from a thread of its own, and comes again when it is
//! cut. What they say is written frame by frame.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::frames::{END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, frame};

pub(crate) const DATA: u8 = 0;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
/// A kind that no RFC has.
const UNKNOWN: u8 = 0xfa;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How every client begins: the preface, and settings of its own, none.
pub(crate) fn opening() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// A field that is written out and not kept.
pub(crate) fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        number(&mut field, text.len(), 0x7f);
        field.extend(text.as_bytes());
    }
    field
}

/// HPACK's whole numbers, with a prefix of `most`.
fn number(into: &mut Vec<u8>, mut value: usize, most: usize) {
    let byte = |value: usize| u8::try_from(value).expect("below 256");
    if value < most {
        return into.push(byte(value));
    }
    into.push(byte(most));
    value -= most;
    while value >= 0x80 {
        into.push(byte(value % 0x80 + 0x80));
        value /= 0x80;
    }
    into.push(byte(value));
}

/// The header block of a gRPC call.
pub(crate) fn block(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // :method POST, :scheme http
    for (name, value) in [
        (":path", path),
        (":authority", "ferry"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ] {
        block.extend(literal(name, value));
    }
    block
}

/// A call's head; its body is still to come.
pub(crate) fn call(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(path))
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// What one of them does.
#[derive(Clone, Copy)]
pub(crate) struct Attack {
    /// What it is called.
    pub(crate) name: &'static str,
    /// The guard that stops it, as the metric has it; none where what it does
    /// is bounded, and else allowed.
    pub(crate) refused: Option<&'static str>,
    /// What it says after the opening.
    first: fn() -> Vec<u8>,
    /// What it says each time.
    again: fn(u32) -> Vec<u8>,
    /// How long it waits between two times.
    pause: Duration,
}

/// So many frames at a time, that the threads' own work counts for little.
const AT_ONCE: u32 = 256;
const PATH: &str = "/test.Streams/SilentUntilLeft";
const BATCHED: &str = super::client::CREATE;

fn nothing() -> Vec<u8> {
    Vec::new()
}

/// Odd numbers, `AT_ONCE` new ones a round.
fn streams(round: u32) -> impl Iterator<Item = u32> {
    let first = round * AT_ONCE;
    (first..first + AT_ONCE).map(|number| 2 * number + 1)
}

const fn attack(
    name: &'static str,
    refused: Option<&'static str>,
    first: fn() -> Vec<u8>,
    again: fn(u32) -> Vec<u8>,
) -> Attack {
    Attack {
        name,
        refused,
        first,
        again,
        pause: Duration::ZERO,
    }
}

/// All of them.
pub(crate) const ATTACKS: [Attack; 14] = [
    attack("pings", Some("control_frames"), nothing, |_| {
        frame(PING, 0, 0, &[7; 8]).repeat(AT_ONCE as usize)
    }),
    attack("settings", Some("control_frames"), nothing, |_| {
        // A window for all streams, another each time.
        frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(AT_ONCE as usize)
    }),
    attack("unknown frames", Some("control_frames"), nothing, |_| {
        frame(UNKNOWN, 0, 0, &[]).repeat(AT_ONCE as usize)
    }),
    attack(
        "window updates",
        Some("control_frames"),
        || call(1, PATH),
        |_| {
            // By a byte each, so that it may go on for long.
            frame(WINDOW_UPDATE, 0, 1, &1_u32.to_be_bytes()).repeat(AT_ONCE as usize)
        },
    ),
    attack(
        "empty DATA",
        Some("http2"),
        || call(1, PATH),
        |_| frame(DATA, 0, 1, &[]).repeat(AT_ONCE as usize),
    ),
    attack(
        "tiny DATA",
        Some("control_frames"),
        || call(1, PATH),
        |_| frame(DATA, 0, 1, &[0]).repeat(AT_ONCE as usize),
    ),
    attack(
        "CONTINUATION",
        Some("http2"),
        || frame(HEADERS, END_STREAM, 1, &block(PATH)),
        |_| frame(CONTINUATION, 0, 1, &literal("x-more", &"x".repeat(100))).repeat(64),
    ),
    attack("header bomb", Some("http2"), nothing, |round| {
        // A field of four kilobytes that is kept, and named a thousand times.
        let mut bomb = block(PATH);
        let mut kept = vec![0x40];
        for text in ["x-bomb", &"x".repeat(4_000)] {
            number(&mut kept, text.len(), 0x7f);
            kept.extend(text.as_bytes());
        }
        bomb.extend(kept);
        bomb.extend([0x80 | 62; 1_000]);
        frame(HEADERS, END_HEADERS | END_STREAM, 2 * round + 1, &bomb)
    }),
    attack("rapid reset", Some("resets"), nothing, |round| {
        let calls = streams(round).map(|stream| [call(stream, PATH), reset(stream)].concat());
        calls.collect::<Vec<_>>().concat()
    }),
    attack("rapid reset, batched", Some("resets"), nothing, |round| {
        let calls = streams(round).map(|stream| [call(stream, BATCHED), reset(stream)].concat());
        calls.collect::<Vec<_>>().concat()
    }),
    attack("made you reset", Some("http2"), nothing, |round| {
        // A header that HTTP/2 forbids is a fault, which resets the stream.
        let faulty = [block(PATH), literal("connection", "close")].concat();
        let calls = streams(round).map(|stream| frame(HEADERS, END_HEADERS, stream, &faulty));
        calls.collect::<Vec<_>>().concat()
    }),
    attack(
        "half messages",
        Some("unfinished_bytes"),
        nothing,
        |round| {
            // Of each message of a megabyte, its first sixteen kilobytes.
            let half = [&[0, 0, 16, 0, 0][..], &[7; 16 << 10][..]].concat();
            let calls = (0..4).map(|place| {
                let stream = 2 * (4 * round + place) + 1;
                let (now, then) = half.split_at(8 << 10);
                let parts = [frame(DATA, 0, stream, now), frame(DATA, 0, stream, then)];
                [call(stream, BATCHED), parts.concat()].concat()
            });
            calls.collect::<Vec<_>>().concat()
        },
    ),
    Attack {
        pause: Duration::from_millis(20),
        ..attack(
            "slow headers",
            Some("frame_timeout"),
            || frame(HEADERS, END_STREAM, 1, &block(PATH))[..20].to_vec(),
            |round| {
                block(PATH)
                    .get(11 + round as usize)
                    .map_or(vec![0], |byte| vec![*byte])
            },
        )
    },
    Attack {
        pause: Duration::from_millis(20),
        ..attack("open calls", None, nothing, |round| {
            let calls = streams(round).map(|stream| call(stream, PATH));
            calls.collect::<Vec<_>>().concat()
        })
    },
];

/// The attack of that name.
pub(crate) fn named(name: &str) -> Attack {
    let found = ATTACKS.into_iter().find(|attack| attack.name == name);
    found.unwrap_or_else(|| panic!("no attack is called {name}"))
}

/// An attack under way; it ends when this is dropped.
pub(crate) struct Hostile {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hostile {
    pub(crate) fn begin(attack: Attack, target: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // Cut, as it should be: it comes again.
                let _ = attack.once(target, &stopped);
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A write that is stuck ends by its timeout.
            let _ = thread.join();
        }
    }
}

impl Attack {
    fn once(&self, target: SocketAddr, stop: &AtomicBool) -> std::io::Result<()> {
        let mut socket = TcpStream::connect(target)?;
        socket.set_write_timeout(Some(Duration::from_millis(200)))?;
        let mut heard = socket.try_clone()?;
        // What it is told it throws away, or it would hold itself up.
        let reader =
            thread::spawn(move || while matches!(heard.read(&mut [0; 64 << 10]), Ok(1..)) {});
        let mut said = socket.write_all(&[opening(), (self.first)()].concat());
        let mut round = 0;
        while said.is_ok() && !stop.load(Ordering::Relaxed) && !reader.is_finished() {
            said = socket.write_all(&(self.again)(round));
            round += 1;
            thread::sleep(self.pause);
        }
        let _ = socket.shutdown(Shutdown::Both);
        let _ = reader.join();
        said
    }
}
