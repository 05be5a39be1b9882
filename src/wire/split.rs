//! One reply written as many, each caller's own.
//!
//! By position, since that is what batch methods promise: the first
//! sub-response answers the first entry. Whatever does not add up, a count, a
//! field that is missing, a condition that does not hold, is an error to all,
//! because from there on nobody can say whose answer is whose.
//!
//! All parts of a reply lie in one buffer, so a batch costs one allocation.

use std::{borrow::Cow, ops::Range};

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    error::SplitError,
    piece::{Form, Piece},
    plan::Plan,
    record::{Malformed, Record, Wire, records},
    shape::{Fill, Held, HeldIs, SplitShape, StatusShape},
};

/// What a batch's callers get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parts {
    /// The reply, each of them.
    Same(Bytes),
    /// One part each, in the order of the pieces, or its own error.
    Each(Vec<Result<Bytes, EntryStatus>>),
}

/// How one entry failed, as its sub-response says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryStatus {
    /// The gRPC code; never 0.
    pub code: i32,
    /// The text.
    pub message: String,
    /// The whole status as it was encoded, where it has details.
    pub details: Bytes,
}

/// A part while the others are still being written.
type Draft = Result<Range<usize>, EntryStatus>;

impl Plan {
    /// Splits the `reply` to a batch that was merged from `pieces`.
    ///
    /// # Errors
    /// Where the reply does not fall into one part for each entry, or says
    /// that the batch did not take effect. It concerns every caller.
    pub fn split<'a>(
        &self,
        reply: &Bytes,
        pieces: impl IntoIterator<Item = &'a Piece>,
    ) -> Result<Parts, SplitError> {
        for held in &self.reply.require {
            self.check(held, reply)?;
        }
        let Some(shape) = &self.reply.split else {
            return Ok(Parts::Same(reply.clone()));
        };
        let pieces = pieces.into_iter();
        let mut drafts: Vec<Draft> = Vec::with_capacity(pieces.size_hint().0);
        let mut out = BytesMut::with_capacity(2 * reply.len());
        let Opened { elements, others } = self.open(shape, reply)?;
        let (mut next, mut entries) = (0, 0);
        for piece in pieces {
            entries += piece.entries();
            let own = elements.get(next..next + piece.entries() as usize);
            // The count is wrong then, and judged once all are counted.
            let Some(own) = own else { continue };
            drafts.push(match piece.form() {
                Form::Whole => self.unwrapped(shape, reply, next, &own[0], &others, &mut out)?,
                form => self.alike(shape, reply, form, own, &others, &mut out)?,
            });
            next += own.len();
        }
        if elements.len() as u64 != u64::from(entries) {
            return Err(SplitError::Count {
                field: shape.name.clone(),
                entries,
                parts: elements.len(),
            });
        }
        let out = out.freeze();
        let part = |draft: Draft| draft.map(|range| out.slice(range));
        Ok(Parts::Each(drafts.into_iter().map(part).collect()))
    }

    /// Whether a field of the reply is what it must be.
    fn check(&self, held: &Held, reply: &Bytes) -> Result<(), SplitError> {
        let mut last = None;
        for record in records(reply) {
            let record = record.map_err(|why| self.no_reply(why))?;
            if record.number == held.number {
                last = Some(record);
            }
        }
        let set = last.is_some_and(|record| !record.is_default(reply));
        let (holds, is, must) = match held.is {
            HeldIs::Flag(true) => (set, "false", "true"),
            HeldIs::Flag(false) => (!set, "true", "false"),
            HeldIs::Present => (last.is_some(), "absent", "there"),
        };
        match holds {
            true => Ok(()),
            false => Err(SplitError::NotHeld {
                field: format!("{}.{}", self.reply.name, held.name),
                is,
                must,
                code: held.code,
            }),
        }
    }

    /// Finds the sub-responses, and everything else at the top.
    fn open(&self, shape: &SplitShape, reply: &[u8]) -> Result<Opened, SplitError> {
        let mut opened = Opened::default();
        for record in records(reply) {
            let record = record.map_err(|why| self.no_reply(why))?;
            if record.number != shape.subresponse {
                opened.others.push(record);
            } else if record.wire == Wire::Len {
                opened.elements.push(record);
            } else {
                return Err(SplitError::NotAMessage {
                    field: shape.name.clone(),
                });
            }
        }
        Ok(opened)
    }

    /// The part of a caller whose method answers with one sub-response.
    fn unwrapped(
        &self,
        shape: &SplitShape,
        reply: &[u8],
        index: usize,
        element: &Record,
        others: &[Record],
        out: &mut BytesMut,
    ) -> Result<Draft, SplitError> {
        let content = element.payload(reply);
        if let Some(status) = &shape.status
            && let Some(failed) = self.failed(status, content)?
        {
            return Ok(Err(failed));
        }
        let start = out.len();
        let Some((number, name)) = &shape.unwrap else {
            self.fill(shape, reply, content, others, out)?;
            return Ok(Ok(start..out.len()));
        };
        let mut found: Option<Cow<'_, [u8]>> = None;
        for record in records(content) {
            let record = record.map_err(|why| self.no_reply(why))?;
            if record.number == *number && record.wire == Wire::Len {
                found = Some(match found {
                    None => Cow::Borrowed(record.payload(content)),
                    // Two of one field are one, in two parts.
                    Some(first) => Cow::Owned([&first[..], record.payload(content)].concat()),
                });
            }
        }
        let Some(part) = found else {
            return Err(SplitError::NotWrapped {
                field: shape.name.clone(),
                index,
                unwrap: name.clone(),
            });
        };
        self.fill(shape, reply, &part, others, out)?;
        Ok(Ok(start..out.len()))
    }

    /// The part of a caller whose method answers with the same type: the
    /// reply, with nobody else's sub-responses.
    fn alike(
        &self,
        shape: &SplitShape,
        reply: &[u8],
        form: Form,
        own: &[Record],
        others: &[Record],
        out: &mut BytesMut,
    ) -> Result<Draft, SplitError> {
        // Who knows only the older single form would not look for a status in
        // the reply; who knows the batch form finds it there.
        if let (Some(status), Form::Single, [one]) = (&shape.status, form, own)
            && let Some(failed) = self.failed(status, one.payload(reply))?
        {
            return Ok(Err(failed));
        }
        let start = out.len();
        for record in others.iter().chain(own) {
            out.extend_from_slice(&reply[record.start..record.end]);
        }
        Ok(Ok(start..out.len()))
    }

    /// Writes `part`, and what it lacks and the reply has.
    fn fill(
        &self,
        shape: &SplitShape,
        reply: &[u8],
        part: &[u8],
        others: &[Record],
        out: &mut BytesMut,
    ) -> Result<(), SplitError> {
        for fill in &shape.fill {
            let outer = others.iter().filter(|record| record.number == fill.from);
            match fill.message {
                true => self.fill_message(fill, reply, part, outer, out)?,
                false if self.has(part, fill.to)? => {}
                false => {
                    for record in outer {
                        put_tag(out, fill.to, record.wire);
                        out.extend_from_slice(&reply[record.value..record.end]);
                    }
                }
            }
        }
        if shape.fill.iter().all(|fill| !fill.message) {
            out.extend_from_slice(part);
            return Ok(());
        }
        for record in records(part) {
            let record = record.map_err(|why| self.no_reply(why))?;
            let written = |fill: &Fill| fill.message && fill.to == record.number;
            if !shape.fill.iter().any(written) {
                out.extend_from_slice(&part[record.start..record.end]);
            }
        }
        Ok(())
    }

    /// Writes one message of what the part says and, for each field on which
    /// it is silent, what the reply says.
    fn fill_message<'a>(
        &self,
        fill: &Fill,
        reply: &[u8],
        part: &[u8],
        outer: impl Iterator<Item = &'a Record>,
        out: &mut BytesMut,
    ) -> Result<(), SplitError> {
        let mut own: Vec<&[u8]> = Vec::new();
        for record in records(part) {
            let record = record.map_err(|why| self.no_reply(why))?;
            if record.number == fill.to && record.wire == Wire::Len {
                own.push(record.payload(part));
            }
        }
        let mut said: Vec<u32> = Vec::new();
        for record in own.iter().flat_map(|own| records(own)) {
            said.push(record.map_err(|why| self.no_reply(why))?.number);
        }
        let (mut content, mut present) = (Vec::new(), !own.is_empty());
        for message in outer.map(|record| record.payload(reply)) {
            present = true;
            for record in records(message) {
                let record = record.map_err(|why| self.no_reply(why))?;
                if !said.contains(&record.number) {
                    content.extend_from_slice(&message[record.start..record.end]);
                }
            }
        }
        own.iter().for_each(|own| content.extend_from_slice(own));
        if present {
            put_tag(out, fill.to, Wire::Len);
            put_len(out, content.len());
            out.extend_from_slice(&content);
        }
        Ok(())
    }

    fn has(&self, message: &[u8], number: u32) -> Result<bool, SplitError> {
        for record in records(message) {
            if record.map_err(|why| self.no_reply(why))?.number == number {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The status of a sub-response, unless it is a success.
    fn failed(
        &self,
        shape: &StatusShape,
        element: &[u8],
    ) -> Result<Option<EntryStatus>, SplitError> {
        let mut status = Vec::new();
        for record in records(element) {
            let record = record.map_err(|why| self.no_reply(why))?;
            if record.number == shape.field && record.wire == Wire::Len {
                status.extend_from_slice(record.payload(element));
            }
        }
        let (mut code, mut message, mut details) = (0, &b""[..], false);
        for record in records(&status) {
            let record = record.map_err(|why| self.no_reply(why))?;
            match (record.number, record.wire) {
                (number, Wire::Varint) if number == shape.code => {
                    code = record.varint(&status) as i32; // as every decoder cuts an int32
                }
                (number, Wire::Len) if number == shape.message => {
                    message = record.payload(&status);
                }
                (number, _) if Some(number) == shape.details => details = true,
                _ => {}
            }
        }
        Ok((code != 0).then(|| EntryStatus {
            code,
            message: String::from_utf8_lossy(message).into_owned(),
            details: match details {
                true => Bytes::copy_from_slice(&status),
                false => Bytes::new(),
            },
        }))
    }

    #[cold]
    fn no_reply(&self, why: Malformed) -> SplitError {
        SplitError::Malformed {
            message: self.reply.name.clone(),
            why,
        }
    }
}

/// A reply's top level.
#[derive(Default)]
struct Opened {
    elements: Vec<Record>,
    others: Vec<Record>,
}

pub(super) fn put_tag(out: &mut BytesMut, number: u32, wire: Wire) {
    put_varint(out, u64::from(number) << 3 | u64::from(wire.bits()));
}

pub(super) fn put_len(out: &mut BytesMut, len: usize) {
    put_varint(out, len as u64);
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}
