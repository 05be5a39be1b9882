//! One pass over a call's message: may it share a batch, and with whom?
//!
//! Owns validation at the door. Whatever could make an upstream refuse or
//! misread a whole batch is found here and answered to its sender alone:
//! bytes that do not parse at any depth, wrong wire types, strings that are
//! not UTF-8, required fields that are empty, over-long keys, both forms at
//! once or neither. What is valid but not understood (an unknown field, a
//! group) goes alone, since nobody can say what merging it would mean.
//!
//! It copies nothing: a [`Piece`] refers to the caller's own bytes. The one
//! exception is a message whose other top-level fields are scattered, and
//! those bytes are the partition that it belongs to.

use std::str::Utf8Error;

use bytes::{Bytes, BytesMut};

use super::{
    error::ScanError,
    piece::{Form, Piece, Reason, Scan},
    plan::{Checked, Field, Kind, Plan, Role},
    record::{self, MAX_DEPTH, Malformed, Record, Wire, varint_len},
};

/// A gRPC frame's length has 32 bits.
const MAX_MESSAGE: usize = u32::MAX as usize;
/// Most records outside the batched field that a mergeable message may have:
/// real requests have a handful, and each costs the scan memory.
const MAX_OTHERS: usize = 64;

/// Boxed, so that the answer to every check fits in registers.
type Refusal = Box<ScanError>;

/// What one pass gathers.
#[derive(Default)]
struct Tally {
    alone: Option<Reason>,
    entries: u32,
    batched_len: usize,
    /// Length of the single form's fields once they are renumbered.
    lifted_len: usize,
    lifted: Lifted,
    others: Vec<(u32, usize, usize)>,
}

/// Whether the single form was met, and which required fields it held.
#[derive(Default)]
struct Lifted {
    any: bool,
    held: u64,
}

impl Plan {
    /// Reads `message` once. `Ok` says that it is valid, so that it can harm
    /// no batch that it joins; `Err` is for its sender alone.
    ///
    /// # Errors
    /// Where the bytes are not the request's message, or a value in it is one
    /// that the plan refuses.
    pub fn scan(&self, message: &Bytes) -> Result<Scan, ScanError> {
        if message.len() > MAX_MESSAGE {
            return Err(ScanError::TooLarge {
                len: message.len(),
                max: MAX_MESSAGE,
            });
        }
        let buf = &message[..];
        let mut tally = Tally::default();
        let mut at = 0;
        while at < buf.len() {
            let read = record::read(buf, at).map_err(|why| *self.malformed(self.request, why))?;
            self.top_record(buf, &read, &mut tally)
                .map_err(|refusal| *refusal)?;
            at = read.end;
        }
        let form = self.form(&tally).map_err(|refusal| *refusal)?;
        if let Some(reason) = tally.alone {
            return Ok(Scan::Alone(reason));
        }
        let (entries, merged_len) = match form {
            Form::Batch => (tally.entries, tally.batched_len),
            Form::Single => (1, self.entry_len(tally.lifted_len)),
        };
        let partition = partition(message, tally.others);
        Ok(Scan::Merge(Piece {
            message: message.clone(),
            partition,
            merged_len,
            lifted_len: tally.lifted_len,
            entries,
            form,
        }))
    }

    #[inline]
    fn top_record(&self, buf: &[u8], read: &Record, tally: &mut Tally) -> Result<(), Refusal> {
        match self.top.at(read.number) {
            Some(Role::Batched) => {
                self.entry(buf, read, tally)?;
                tally.entries += 1;
                tally.batched_len += read.end - read.start;
            }
            Some(Role::Lifted {
                to,
                bit,
                tag_len,
                name,
                ..
            }) => {
                let field = &self.messages[self.entry].fields[*to];
                // Depth 2: a lifted value ends up inside an entry.
                let alone = self.value(field, name, buf, read, 2)?;
                tally.alone = tally.alone.or(alone);
                tally.lifted.any = true;
                tally.lifted.held = hold(tally.lifted.held, *bit, field, read, buf);
                tally.lifted_len += tag_len + (read.end - read.value);
            }
            Some(Role::Other(index)) => {
                let field = &self.messages[self.request].fields[*index];
                let alone = self.value(field, &field.name, buf, read, 1)?;
                tally.alone = tally.alone.or(alone);
                if tally.others.len() < MAX_OTHERS {
                    tally.others.push((read.number, read.start, read.end));
                } else {
                    tally.alone = tally.alone.or(Some(Reason::ManyFields));
                }
            }
            None => tally.alone = tally.alone.or(Some(unknown(read))),
        }
        Ok(())
    }

    /// Checks one record of the batched field.
    #[inline]
    fn entry(&self, buf: &[u8], read: &Record, tally: &mut Tally) -> Result<(), Refusal> {
        if read.wire != Wire::Len {
            return Err(wire_type(&self.batched_name, read.wire, Wire::Len));
        }
        let alone = self
            .message(self.entry, buf, read.payload, read.end, 1)
            .map_err(|refusal| Box::new(refusal.under(&self.batched_name, Some(tally.entries))))?;
        tally.alone = tally.alone.or(alone);
        Ok(())
    }

    /// Checks the message of type `index` that lies at `at..end`.
    fn message(
        &self,
        index: usize,
        buf: &[u8],
        mut at: usize,
        end: usize,
        depth: u32,
    ) -> Result<Option<Reason>, Refusal> {
        let message = &self.messages[index];
        if depth > MAX_DEPTH {
            return Err(self.malformed(index, Malformed::Depth { at }));
        }
        let within = &buf[..end];
        let mut alone = None;
        let mut held = 0;
        while at < end {
            let read = record::read(within, at).map_err(|why| self.malformed(index, why))?;
            match message.by_number.at(read.number) {
                Some(&(index, bit)) => {
                    let field = &message.fields[index];
                    let reason = self.value(field, &field.name, within, &read, depth + 1)?;
                    alone = alone.or(reason);
                    held = hold(held, bit, field, &read, within);
                }
                None => alone = alone.or(Some(unknown(&read))),
            }
            at = read.end;
        }
        match message.missing(held) {
            Some(field) => Err(empty(&field.name)),
            None => Ok(alone),
        }
    }

    /// Checks one value of a known field; `depth` is that of a message in it.
    #[inline]
    fn value(
        &self,
        field: &Field,
        name: &str,
        buf: &[u8],
        read: &Record,
        depth: u32,
    ) -> Result<Option<Reason>, Refusal> {
        let expected = match field.kind {
            Kind::Bytes | Kind::Text | Kind::Message(_) => Wire::Len,
            Kind::Varint => Wire::Varint,
            Kind::Fixed32 => Wire::Fixed32,
            Kind::Fixed64 => Wire::Fixed64,
            Kind::Group => Wire::Group,
        };
        if read.wire != expected {
            let packed = field.repeated && read.wire == Wire::Len && expected != Wire::Group;
            return match packed {
                true => self.packed(buf, read, expected).map(|()| None),
                false => Err(wire_type(name, read.wire, expected)),
            };
        }
        let payload = read.payload(buf);
        match field.max_len {
            Some(max) if payload.len() > max => return Err(too_long(name, payload.len(), max)),
            _ => {}
        }
        match field.kind {
            Kind::Text => {
                let text = std::str::from_utf8(payload);
                text.map(|_| None).map_err(|error| not_utf8(name, error))
            }
            Kind::Message(index) => self
                .message(index, buf, read.payload, read.end, depth)
                .map_err(|refusal| Box::new(refusal.under(name, None))),
            Kind::Group => Ok(Some(Reason::Group)),
            Kind::Bytes | Kind::Varint | Kind::Fixed32 | Kind::Fixed64 => Ok(None),
        }
    }

    /// Checks a packed list of numbers.
    fn packed(&self, buf: &[u8], read: &Record, element: Wire) -> Result<(), Refusal> {
        let within = &buf[..read.end];
        let mut at = read.payload;
        while at < read.end {
            let next = match element {
                Wire::Fixed32 => at + 4,
                Wire::Fixed64 => at + 8,
                _ => {
                    record::varint(within, at, read.start)
                        .map_err(|why| self.malformed(self.request, why))?
                        .1
                }
            };
            if next > read.end {
                return Err(self.malformed(self.request, Malformed::Truncated { at: read.start }));
            }
            at = next;
        }
        Ok(())
    }

    /// Which form the message has, once it has been read to its end.
    #[inline]
    fn form(&self, tally: &Tally) -> Result<Form, Refusal> {
        match (tally.entries > 0, tally.lifted.any) {
            (true, false) => Ok(Form::Batch),
            (false, true) => match self.messages[self.entry].missing(tally.lifted.held) {
                None => Ok(Form::Single),
                Some(field) => Err(empty(self.single_name(field))),
            },
            (batch, _) => Err(self.no_form(batch)),
        }
    }

    /// The refusal of both forms at once, or of neither.
    #[cold]
    fn no_form(&self, both: bool) -> Refusal {
        let message = self.messages[self.request].name.clone();
        let batched = self.batched_name.clone();
        let single = self.lift().map(|lift| lift.from.clone());
        Box::new(match both {
            true => ScanError::BothForms {
                message,
                batched,
                single: single.unwrap_or_default(),
            },
            false => ScanError::NoEntries {
                message,
                field: batched,
                single: single
                    .map(|single| format!(", or send {single}"))
                    .unwrap_or_default(),
            },
        })
    }

    /// What the single form calls `field`, or the entry's name for it where
    /// the single form has no such field.
    #[cold]
    fn single_name<'a>(&'a self, field: &'a Field) -> &'a str {
        self.lift()
            .and_then(|lift| lift.fields.iter().find(|lifted| lifted.to == field.number))
            .map_or(&field.name, |lifted| &lifted.name)
    }

    /// Bytes that an entry of `len` bytes takes in a merged message.
    #[inline]
    fn entry_len(&self, len: usize) -> usize {
        varint_len(u64::from(self.batched) << 3) + varint_len(len as u64) + len
    }

    #[cold]
    fn malformed(&self, message: usize, why: Malformed) -> Refusal {
        Box::new(ScanError::Malformed {
            message: self.messages[message].name.clone(),
            why,
        })
    }
}

/// `held` with `read`, a record of `field`, whose bit is `bit`, taken into account.
#[inline]
fn hold(held: u64, bit: u64, field: &Field, read: &Record, buf: &[u8]) -> u64 {
    if bit == 0 {
        return held;
    }
    // Of a scalar that stands twice the last counts, as for any decoder.
    let presence = field.repeated || matches!(field.kind, Kind::Message(_) | Kind::Group);
    match presence || !read.is_default(buf) {
        true => held | bit,
        false => held & !bit,
    }
}

impl Checked {
    /// The first required field that is not among `held`.
    #[inline]
    fn missing(&self, held: u64) -> Option<&Field> {
        if held & self.required == self.required {
            return None;
        }
        self.fields.iter().find(|field| {
            field.require
                && self
                    .by_number
                    .at(field.number)
                    .is_some_and(|&(_, bit)| held & bit == 0)
        })
    }
}

#[cold]
fn unknown(read: &Record) -> Reason {
    match read.wire {
        Wire::Group => Reason::Group,
        _ => Reason::UnknownField,
    }
}

#[cold]
fn wire_type(field: &str, found: Wire, expected: Wire) -> Refusal {
    Box::new(ScanError::WireType {
        field: field.to_owned(),
        found,
        expected,
    })
}

#[cold]
fn too_long(field: &str, len: usize, max: usize) -> Refusal {
    Box::new(ScanError::TooLong {
        field: field.to_owned(),
        len,
        max,
    })
}

#[cold]
fn not_utf8(field: &str, error: Utf8Error) -> Refusal {
    Box::new(ScanError::NotUtf8 {
        field: field.to_owned(),
        valid: error.valid_up_to(),
    })
}

#[cold]
fn empty(field: &str) -> Refusal {
    Box::new(ScanError::Empty {
        field: field.to_owned(),
    })
}

/// The bytes of `others` in the order of their numbers; the order of equal
/// numbers is theirs, since it is the order of a repeated field's elements.
#[inline]
fn partition(message: &Bytes, mut others: Vec<(u32, usize, usize)>) -> Bytes {
    if others.is_empty() {
        return Bytes::new();
    }
    others.sort_by_key(|&(number, ..)| number);
    let contiguous = others.windows(2).all(|pair| pair[0].2 == pair[1].1);
    match (contiguous, others.first(), others.last()) {
        (true, Some(&(_, start, _)), Some(&(_, _, end))) => message.slice(start..end),
        _ => {
            let mut bytes = BytesMut::new();
            others
                .iter()
                .for_each(|&(_, start, end)| bytes.extend_from_slice(&message[start..end]));
            bytes.freeze()
        }
    }
}
