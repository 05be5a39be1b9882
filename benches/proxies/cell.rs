//! What is measured: how many calls are under way, how long their messages
//! are, whether a call is one message or a stream of them, and what stands
//! behind the proxy.

use std::fmt;

use ferry::accept::frame::framed;
use serde::Serialize;

use super::{
    h2load::Crowd,
    proxy::Side,
    upstream::{Kind, filled},
};

/// Messages of a stream, in each direction.
const STREAM_MESSAGES: u64 = 16;
const SMALL: usize = 256;
const LARGE: usize = 64 << 10;
const CROWDS: [(u32, u32); 3] = [(16, 10), (4, 100), (1, 1)];

/// One comparison of all sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Cell {
    pub(crate) part: Part,
    /// Connections, and streams of each.
    pub(crate) crowd: (u32, u32),
    /// Of a message, in each direction.
    pub(crate) bytes: usize,
    pub(crate) messages: u64,
    pub(crate) upstream: Kind,
}

/// Cells that are measured together, and can be alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    /// Calls of one message of 256 bytes; ferry coalesces them too
    Small,
    /// Calls of one message of 64 KiB
    Large,
    /// Calls of 16 messages each way, of 256 bytes and of 64 KiB
    Streams,
    /// The small calls in front of a server as most are, for the CPU of both
    Usual,
    /// ferry's CPU a call with two workers against one
    Workers,
}

impl Cell {
    /// The cells of a part; of the workers', the crowd of many streams.
    pub(crate) fn of(part: Part) -> Vec<Self> {
        let cell = |crowd, bytes, messages, upstream| Self {
            part,
            crowd,
            bytes,
            messages,
            upstream,
        };
        let small = |crowd| cell(crowd, SMALL, 1, Kind::Lean);
        match part {
            Part::Small => CROWDS.map(small).into(),
            Part::Large => CROWDS.map(|crowd| cell(crowd, LARGE, 1, Kind::Lean)).into(),
            Part::Streams => [SMALL, LARGE]
                .into_iter()
                .flat_map(|bytes| {
                    CROWDS.map(|crowd| cell(crowd, bytes, STREAM_MESSAGES, Kind::Lean))
                })
                .collect(),
            Part::Usual => CROWDS[..2]
                .iter()
                .map(|crowd| cell(*crowd, SMALL, 1, Kind::Usual))
                .collect(),
            Part::Workers => vec![small(CROWDS[1])],
        }
    }

    /// Who is compared; coalescing is for calls that are entries.
    pub(crate) fn sides(self) -> Vec<Side> {
        let coalesced = matches!(self.part, Part::Small | Part::Usual);
        let sides = Side::ALL.into_iter();
        sides
            .filter(|side| coalesced || *side != Side::Coalescing)
            .collect()
    }

    pub(crate) const fn alone(self) -> bool {
        matches!(self.crowd, (1, 1))
    }

    pub(crate) const fn h2load(self) -> Crowd {
        Crowd {
            connections: self.crowd.0,
            streams: self.crowd.1,
        }
    }

    /// What a call sends: each message a session in the older single form.
    pub(crate) fn body(self) -> Vec<u8> {
        let client_id = b"bench-client-0001";
        let mut message = vec![0x12, client_id.len() as u8];
        message.extend_from_slice(client_id);
        message.extend(filled(0x1a, self.bytes - message.len()));
        framed(&message).repeat(self.messages as usize)
    }

    /// Of a call's messages, as the upstream counts them.
    pub(crate) const fn message_bytes(self) -> u64 {
        self.bytes as u64 * self.messages
    }

    /// What a session takes up in a batch: the same fields, one level down.
    pub(crate) const fn entry_bytes(self) -> u64 {
        // A tag and a length of two bytes.
        self.bytes as u64 + 3
    }

    /// Of a call's whole answer.
    pub(crate) const fn reply_bytes(self) -> u64 {
        (self.bytes as u64 + 5) * self.messages
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.crowd {
            (1, 1) => f.write_str("one call at a time")?,
            (connections, streams) => write!(f, "{connections} × {streams}")?,
        }
        if self.messages > 1 {
            write!(f, ", streams of {}", self.messages)?;
        }
        match self.bytes {
            LARGE => f.write_str(", 64 KiB")?,
            bytes => write!(f, ", {bytes} B")?,
        }
        match self.upstream {
            Kind::Lean => Ok(()),
            Kind::Usual => f.write_str(", to tonic"),
        }
    }
}
