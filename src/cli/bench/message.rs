//! The bytes of each call, and of each session, from its number alone: so that
//! nothing is kept for later comparison, and any acknowledged session can be
//! read back and held against what was sent.
//!
//! Written by hand rather than through prost: one reused buffer, exact lengths
//! known beforehand, no intermediate message. Pure.

use std::{io::Write, ops::Range};

use bytes::{BufMut, Bytes, BytesMut};

use super::plan::{Form, LoadPlan};

/// gRPC's frame in front of a message: one flag byte, four of length.
pub(super) const FRAME_HEADER: usize = 5;
/// Memory that many small messages share before the next is allocated.
const CHUNK: usize = 256 << 10;

/// What the load sends, and what must be found again.
#[derive(Clone, Debug)]
pub struct Sessions {
    prefix: String,
    value_bytes: usize,
}

impl Sessions {
    /// The sessions of one load: ids begin with `prefix`, values are
    /// `value_bytes` long.
    pub fn new(prefix: &str, value_bytes: usize) -> Self {
        Self {
            prefix: prefix.to_owned(),
            value_bytes,
        }
    }

    /// The client id of session `number`.
    pub fn client_id(&self, number: u64) -> String {
        format!("{}{number}", self.prefix)
    }

    /// The number of the session that belongs to `client_id`, if it is ours.
    pub fn number(&self, client_id: &[u8]) -> Option<u64> {
        let digits = client_id.strip_prefix(self.prefix.as_bytes())?;
        let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
        // "+7" and "007" parse too, but nobody sent them.
        (self.client_id(number).as_bytes() == client_id).then_some(number)
    }

    /// The bytes stored for session `number`.
    pub fn value(&self, number: u64) -> Vec<u8> {
        let mut value = BytesMut::with_capacity(self.value_bytes);
        put_value(&mut value, number, self.value_bytes);
        value.into()
    }
}

/// Builds the framed message of one call after another.
#[derive(Debug)]
pub struct Messages {
    sessions: Sessions,
    form: Form,
    buffer: BytesMut,
}

impl Messages {
    /// Messages as `plan` asks for them.
    pub fn new(plan: &LoadPlan) -> Self {
        Self {
            sessions: Sessions::new(&plan.client_id_prefix, plan.value_bytes),
            form: plan.form,
            buffer: BytesMut::with_capacity(CHUNK),
        }
    }

    /// The gRPC frame that creates the sessions `numbers`. In the single forms
    /// the range holds one.
    pub fn frame(&mut self, numbers: Range<u64>) -> Bytes {
        let length = match self.form {
            Form::Legacy | Form::Put => self.entry_length(numbers.start),
            Form::Batch => numbers
                .clone()
                .map(|number| nested_length(self.entry_length(number)))
                .sum(),
            Form::Txn => numbers
                .clone()
                .map(|number| nested_length(nested_length(self.entry_length(number))))
                .sum(),
        };
        if self.buffer.capacity() < FRAME_HEADER + length {
            self.buffer.reserve(CHUNK.max(FRAME_HEADER + length));
        }
        self.buffer.put_u8(0); // not compressed
        self.buffer
            .put_u32(u32::try_from(length).expect("the plan bounds a message at 64 MiB"));
        match self.form {
            // client_id = 2, session = 3, at the top of the message.
            Form::Legacy => self.put_entry(numbers.start, 0x12, 0x1a),
            // key = 1, value = 2.
            Form::Put => self.put_entry(numbers.start, 0x0a, 0x12),
            // sessions = 1, each with client_id = 1, session = 2.
            Form::Batch => {
                for number in numbers {
                    let entry = self.entry_length(number);
                    self.buffer.put_u8(0x0a);
                    put_varint(&mut self.buffer, entry);
                    self.put_entry(number, 0x0a, 0x12);
                }
            }
            // success = 2, each with request_put = 2, with key = 1, value = 2.
            Form::Txn => {
                for number in numbers {
                    let put = self.entry_length(number);
                    self.buffer.put_u8(0x12);
                    put_varint(&mut self.buffer, nested_length(put));
                    self.buffer.put_u8(0x12);
                    put_varint(&mut self.buffer, put);
                    self.put_entry(number, 0x0a, 0x12);
                }
            }
        }
        self.buffer.split().freeze()
    }

    fn entry_length(&self, number: u64) -> usize {
        let id = self.sessions.prefix.len() + digits(number);
        let value = self.sessions.value_bytes;
        1 + varint_length(id) + id + 1 + varint_length(value) + value
    }

    fn put_entry(&mut self, number: u64, id_tag: u8, value_tag: u8) {
        let Sessions {
            prefix,
            value_bytes,
        } = &self.sessions;
        self.buffer.put_u8(id_tag);
        put_varint(&mut self.buffer, prefix.len() + digits(number));
        self.buffer.put_slice(prefix.as_bytes());
        write!((&mut self.buffer).writer(), "{number}").expect("a BytesMut grows as it is written");
        self.buffer.put_u8(value_tag);
        put_varint(&mut self.buffer, *value_bytes);
        put_value(&mut self.buffer, number, *value_bytes);
    }
}

/// SplitMix64 from the session's number: cheap, and two sessions never share
/// a value of 8 bytes or more by accident, so that swapped answers show.
fn put_value(to: &mut BytesMut, number: u64, length: usize) {
    let start = to.len();
    to.resize(start + length, 0);
    let mut state = number;
    for chunk in to[start..].chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
}

fn put_varint(to: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        to.put_u8((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    to.put_u8(value as u8);
}

/// Of a message of this length as a field of another, with a number below 16.
fn nested_length(length: usize) -> usize {
    1 + varint_length(length) + length
}

fn varint_length(value: usize) -> usize {
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

fn digits(number: u64) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::{super::plan::tests::plan, *};
    use crate::proto::mqtt::{CreateSessionRaw, CreateSessionRequest, OldCreateSession};

    fn messages(form: Form, value_bytes: usize) -> Messages {
        let mut plan = plan(([127, 0, 0, 1], 1).into());
        plan.form = form;
        plan.value_bytes = value_bytes;
        Messages::new(&plan)
    }

    fn unframed(frame: Bytes) -> Bytes {
        assert_eq!(frame[0], 0);
        let length = u32::from_be_bytes(frame[1..5].try_into().unwrap());
        assert_eq!(length as usize, frame.len() - FRAME_HEADER);
        frame.slice(FRAME_HEADER..)
    }

    #[test]
    fn the_legacy_form_decodes_to_the_session_that_was_meant() {
        for value_bytes in [1, 7, 127, 128, 300, 70_000] {
            let mut messages = messages(Form::Legacy, value_bytes);
            for number in [0, 9, 10, 99, 100, u64::MAX] {
                let frame = messages.frame(number..number.saturating_add(1));
                let call = OldCreateSession::decode(unframed(frame)).unwrap();
                assert_eq!(call.client_id, format!("t-{number}"));
                assert_eq!(call.session, messages.sessions.value(number));
                assert_eq!(call.session.len(), value_bytes);
            }
        }
    }

    #[test]
    fn the_put_of_etcd_is_the_sessions_key_and_value() {
        let mut messages = messages(Form::Put, 200);
        let frame = messages.frame(95..96);
        // A session of the batch form has the same two fields.
        let put = CreateSessionRaw::decode(unframed(frame)).unwrap();
        assert_eq!(put.client_id, messages.sessions.client_id(95));
        assert_eq!(put.session, messages.sessions.value(95));
    }

    #[test]
    fn the_transaction_of_etcd_holds_every_put_in_order() {
        /// `TxnRequest` and `RequestOp`, as far as they are used.
        #[derive(Clone, PartialEq, Message)]
        struct Txn {
            #[prost(message, repeated, tag = "2")]
            success: Vec<Op>,
        }
        #[derive(Clone, PartialEq, Message)]
        struct Op {
            #[prost(message, optional, tag = "2")]
            request_put: Option<CreateSessionRaw>,
        }
        let mut messages = messages(Form::Txn, 200);
        let txn = Txn::decode(unframed(messages.frame(95..105))).unwrap();
        let puts: Vec<_> = txn.success.into_iter().map(|op| op.request_put).collect();
        let meant = (95..105).map(|number| {
            Some(CreateSessionRaw {
                client_id: messages.sessions.client_id(number),
                session: messages.sessions.value(number).into(),
            })
        });
        assert_eq!(puts, meant.collect::<Vec<_>>());
    }

    #[test]
    fn the_batch_form_decodes_to_every_session_in_order() {
        let mut messages = messages(Form::Batch, 200);
        let frame = messages.frame(95..105);
        let call = CreateSessionRequest::decode(unframed(frame)).unwrap();
        assert_eq!(call.sessions.len(), 10);
        for (number, session) in (95..).zip(&call.sessions) {
            assert_eq!(session.client_id, messages.sessions.client_id(number));
            assert_eq!(session.session, messages.sessions.value(number));
        }
    }

    #[test]
    fn a_client_id_leads_back_to_its_number_and_no_other_does() {
        let sessions = Sessions::new("t-1-", 8);
        for number in [0, 7, 1_234, u64::MAX] {
            assert_eq!(
                sessions.number(sessions.client_id(number).as_bytes()),
                Some(number)
            );
        }
        for stranger in ["t-1-", "t-1-+7", "t-1-007", "t-17", "", "t-1-7x"] {
            assert_eq!(sessions.number(stranger.as_bytes()), None, "{stranger}");
        }
    }

    #[test]
    fn an_earlier_frame_is_untouched_by_later_ones() {
        let mut messages = messages(Form::Legacy, 1_000);
        let first = messages.frame(1..2);
        let copy = first.to_vec();
        for number in 2..1_000 {
            messages.frame(number..number + 1);
        }
        assert_eq!(first, copy);
    }
}
