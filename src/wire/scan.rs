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

use bytes::Bytes;

use super::{
    checked::Known,
    error::{Refusal, ScanError, missing, not_utf8, too_long, wire_type},
    key::{self, Keys},
    marks::SLOTS,
    partition::{Other, Span, value_at},
    piece::{Form, Piece, Reason, Scan},
    plan::{Plan, Role},
    record::{self, MAX_DEPTH, Malformed, Record, Wire, varint_len},
    shape::{Field, KeyUse, Kind},
};

/// A gRPC frame's length has 32 bits.
const MAX_MESSAGE: usize = u32::MAX as usize;
/// Most records outside the batched field that a mergeable message may have:
/// real requests have a handful, and each costs the scan memory.
const MAX_OTHERS: usize = 64;

/// What one pass gathers.
#[derive(Default)]
struct Tally {
    alone: Option<Reason>,
    entries: u32,
    batched_len: usize,
    /// Length of the single form's fields once they are renumbered.
    lifted_len: usize,
    lifted: Lifted,
    others: Vec<Other>,
    /// Which required fields stand outside the entries.
    held: u64,
    /// Values of the entry that is being read, as the plan wants them remembered.
    slots: [Span; SLOTS],
    /// The same of the first entry.
    first: [Span; SLOTS],
    keys: Keys,
}

impl Tally {
    #[inline]
    fn alone(&mut self, reason: Reason) {
        self.alone = self.alone.or(Some(reason));
    }
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
        let form = match &self.wrap {
            None => self.top(buf, &mut tally),
            Some(_) => self.whole(buf, &mut tally),
        };
        let form = form.map_err(|refusal| *refusal)?;
        if self.keys == KeyUse::Distinct && tally.keys.repeat() {
            tally.alone(Reason::DuplicateKey);
        }
        if let Some(reason) = tally.alone {
            return Ok(Scan::Alone(reason, form));
        }
        let (entries, merged_len) = match form {
            Form::Batch => (tally.entries, tally.batched_len),
            Form::Single => (1, self.entry_len(tally.lifted_len)),
            Form::Whole => (1, self.wrapped_len(buf.len())),
        };
        let others = std::mem::take(&mut tally.others);
        let (partition, shared_at) = self.partition(message, others, &tally.first);
        Ok(Scan::Merge(Piece {
            message: message.clone(),
            partition,
            shared_at,
            merged_len,
            lifted_len: tally.lifted_len,
            entries,
            form,
            keys: tally.keys,
        }))
    }

    /// Reads a request that holds entries, or is the single form of one.
    #[inline]
    fn top(&self, buf: &[u8], tally: &mut Tally) -> Result<Form, Refusal> {
        let mut at = 0;
        while at < buf.len() {
            let read = record::read(buf, at).map_err(|why| self.malformed(self.request, why))?;
            self.top_record(buf, &read, tally)?;
            at = read.end;
        }
        let form = self.form(tally)?;
        if let Some(field) = self.messages[self.request].missing(tally.held) {
            return Err(missing(field, &field.name));
        }
        if form == Form::Single {
            self.end_entry(buf, tally);
        }
        Ok(form)
    }

    /// Reads a request that is an entry as a whole.
    #[inline]
    fn whole(&self, buf: &[u8], tally: &mut Tally) -> Result<Form, Refusal> {
        // Depth 2: so deep it will lie in the other method's request.
        self.message(self.entry, buf, 0, buf.len(), 2, tally)?;
        self.end_entry(buf, tally);
        Ok(Form::Whole)
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
                to, tag_len, name, ..
            }) => {
                let known = &self.messages[self.entry].fields[*to];
                // Depth 2: a lifted value ends up inside an entry.
                self.value(known, name, buf, read, 2, tally)?;
                tally.lifted.any = true;
                tally.lifted.held = hold(tally.lifted.held, known, read, buf);
                tally.lifted_len += tag_len + (read.end - read.value);
            }
            Some(Role::Other(index)) => {
                let known = &self.messages[self.request].fields[*index];
                self.value(known, &known.field.name, buf, read, 1, tally)?;
                tally.held = hold(tally.held, known, read, buf);
                if known.field.choice.is_some() && self.contends(known, tally) {
                    tally.alone(Reason::Oneof);
                }
                if tally.others.len() < MAX_OTHERS {
                    tally.others.push((read.number, read.start, read.end));
                } else {
                    tally.alone(Reason::ManyFields);
                }
            }
            None => tally.alone(unknown(read)),
        }
        Ok(())
    }

    /// Whether another member of the oneof that `known` is of stands there too.
    #[cold]
    fn contends(&self, known: &Known, tally: &Tally) -> bool {
        let request = &self.messages[self.request];
        let choice = |number| {
            let index = *request.by_number.at(number)?;
            request.fields[index].field.choice
        };
        let mut others = tally.others.iter().map(|&(number, ..)| number);
        others.any(|other| other != known.field.number && choice(other) == known.field.choice)
    }

    /// Checks one record of the batched field.
    #[inline]
    fn entry(&self, buf: &[u8], read: &Record, tally: &mut Tally) -> Result<(), Refusal> {
        if read.wire != Wire::Len {
            return Err(wire_type(&self.batched_name, read.wire, Wire::Len));
        }
        self.message(self.entry, buf, read.payload, read.end, 1, tally)
            .map_err(|refusal| Box::new(refusal.under(&self.batched_name, Some(tally.entries))))?;
        self.end_entry(buf, tally);
        Ok(())
    }

    /// Takes what was remembered of an entry.
    #[inline]
    fn end_entry(&self, buf: &[u8], tally: &mut Tally) {
        if !self.remembers {
            return;
        }
        let slots = std::mem::take(&mut tally.slots);
        if !self.key_parts.is_empty() {
            tally.keys.push(key::of_entry(&self.key_parts, &slots, buf));
        }
        if self.discriminators.is_empty() {
        } else if tally.entries == 0 {
            tally.first = slots;
        } else if self.discriminators.iter().any(|&slot| {
            let (one, other) = (slots[usize::from(slot)], tally.first[usize::from(slot)]);
            value_at(buf, one) != value_at(buf, other)
        }) {
            tally.alone(Reason::MixedDiscriminator);
        }
    }

    /// Checks the message of type `index` that lies at `at..end`.
    fn message(
        &self,
        index: usize,
        buf: &[u8],
        mut at: usize,
        end: usize,
        depth: u32,
        tally: &mut Tally,
    ) -> Result<(), Refusal> {
        let message = &self.messages[index];
        if depth > MAX_DEPTH {
            return Err(self.malformed(index, Malformed::Depth { at }));
        }
        let within = &buf[..end];
        let mut held = 0;
        while at < end {
            let read = record::read(within, at).map_err(|why| self.malformed(index, why))?;
            match message.by_number.at(read.number) {
                Some(&index) => {
                    let known = &message.fields[index];
                    self.value(known, &known.field.name, within, &read, depth + 1, tally)?;
                    held = hold(held, known, &read, within);
                }
                None => tally.alone(unknown(&read)),
            }
            at = read.end;
        }
        if held & message.expected != message.expected {
            tally.alone(Reason::Condition);
        }
        match message.missing(held) {
            Some(field) => Err(missing(field, &field.name)),
            None => Ok(()),
        }
    }

    /// Checks one value of a known field; `depth` is that of a message in it.
    #[inline]
    fn value(
        &self,
        known: &Known,
        name: &str,
        buf: &[u8],
        read: &Record,
        depth: u32,
        tally: &mut Tally,
    ) -> Result<(), Refusal> {
        let Known { field, mark, .. } = known;
        if mark.alone {
            tally.alone(Reason::Condition);
        }
        let expected = match field.kind {
            Kind::Bytes | Kind::Text | Kind::Message(_) => Wire::Len,
            Kind::Varint | Kind::Varint32 | Kind::Flag => Wire::Varint,
            Kind::Fixed32 => Wire::Fixed32,
            Kind::Fixed64 => Wire::Fixed64,
            Kind::Group => Wire::Group,
        };
        if read.wire != expected {
            let packed = field.repeated && read.wire == Wire::Len && expected != Wire::Group;
            return match packed {
                true => self.packed(buf, read, expected),
                false => Err(wire_type(name, read.wire, expected)),
            };
        }
        let payload = read.payload(buf);
        match field.max_len {
            Some(max) if payload.len() > max => return Err(too_long(name, payload.len(), max)),
            _ => {}
        }
        if mark.slot > 0 {
            // A frame's length has 32 bits, and so has every offset in it.
            tally.slots[usize::from(mark.slot) - 1] = (read.payload as u32, read.end as u32);
        }
        match field.kind {
            Kind::Text => {
                let text = std::str::from_utf8(payload);
                text.map(|_| ()).map_err(|error| not_utf8(name, error))
            }
            Kind::Message(index) => self
                .message(index, buf, read.payload, read.end, depth, tally)
                .map_err(|refusal| Box::new(refusal.under(name, None))),
            Kind::Group => {
                tally.alone(Reason::Group);
                Ok(())
            }
            Kind::Bytes
            | Kind::Varint
            | Kind::Varint32
            | Kind::Flag
            | Kind::Fixed32
            | Kind::Fixed64 => Ok(()),
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
    fn form(&self, tally: &mut Tally) -> Result<Form, Refusal> {
        match (tally.entries > 0, tally.lifted.any) {
            (true, false) => Ok(Form::Batch),
            (false, true) => {
                let entry = &self.messages[self.entry];
                if tally.lifted.held & entry.expected != entry.expected {
                    tally.alone(Reason::Condition);
                }
                match entry.missing(tally.lifted.held) {
                    None => Ok(Form::Single),
                    Some(field) => Err(missing(field, self.single_name(field))),
                }
            }
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

    /// Bytes that a whole request of `len` bytes takes in a merged message.
    #[inline]
    fn wrapped_len(&self, len: usize) -> usize {
        self.entry_len(self.wrapped_entry_len(len))
    }

    #[cold]
    fn malformed(&self, message: usize, why: Malformed) -> Refusal {
        Box::new(ScanError::Malformed {
            message: self.messages[message].name.clone(),
            why,
        })
    }
}

/// `held` with `read`, a record of `known`, taken into account.
#[inline]
fn hold(held: u64, known: &Known, read: &Record, buf: &[u8]) -> u64 {
    let field = &known.field;
    let held = held | known.there;
    if known.filled == 0 {
        return held;
    }
    // Of a scalar that stands twice the last counts, as for any decoder.
    let default = match field.kind {
        Kind::Varint32 => read.varint(buf) as u32 == 0,
        _ => read.is_default(buf),
    };
    match default {
        true => held & !known.filled,
        false => held | known.filled,
    }
}

#[cold]
fn unknown(read: &Record) -> Reason {
    match read.wire {
        Wire::Group => Reason::Group,
        _ => Reason::UnknownField,
    }
}
