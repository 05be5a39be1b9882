//! A method as its policy describes it: plain parts, not yet checked.
//!
//! Whoever has the descriptors (the policy loader, or a library's user by
//! hand) fills a [`Shape`]; [`Plan::new`](super::Plan::new) judges it.

/// A method's requests and replies as the policy describes them.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Every message type within reach; fields refer to them by index.
    pub messages: Vec<Message>,
    /// The type of the request that callers send.
    pub request: usize,
    /// Number of the repeated message field that holds entries: the request's
    /// own, or with [`Shape::wrap`] the other method's.
    pub batched_field: u32,
    /// The older single form that is served on the same path, if any.
    pub lift: Option<Lift>,
    /// Another method's request that takes whole requests of this one, if so.
    pub wrap: Option<Wrap>,
    /// Numbers of the entry's fields that together are its key; may be empty.
    pub entry_key: Vec<u32>,
    /// What a scan does with the keys.
    pub keys: KeyUse,
    /// Fields, as numbers from the request down, that must be equal in all
    /// entries of a batch.
    pub discriminators: Vec<Vec<u32>>,
    /// What keeps a request out of batches.
    pub alone_if: Vec<Condition>,
    /// What becomes of the reply.
    pub reply: ReplyShape,
}

/// What a scan does with the keys of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyUse {
    /// Nothing.
    #[default]
    Ignore,
    /// Notes their hashes.
    Note,
    /// Notes their hashes; a request that has one twice goes alone.
    Distinct,
}

/// The other method's entry around a whole request.
#[derive(Clone, Debug, Default)]
pub struct Wrap {
    /// Full name of the other method's request, for descriptions.
    pub request: String,
    /// Name of its field that holds entries.
    pub batched: String,
    /// The entry's field that holds the request; `None` where the request is
    /// the entry.
    pub field: Option<(u32, String)>,
}

/// What keeps a request out of batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The field, as numbers from the request down.
    pub path: Vec<u32>,
    /// In which state it does so.
    pub is: Is,
}

/// A state of a field on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// It stands there, whatever its value.
    Present,
    /// It is absent or its type's default. For fields of an entry alone.
    Empty,
}

/// A message type.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Its full name, for error messages.
    pub name: String,
    /// Its fields; any other is unknown and keeps a call out of batches.
    pub fields: Vec<Field>,
}

/// A field of a message type and what is asked of it.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its number.
    pub number: u32,
    /// Its name, for error messages.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// Whether it may stand more than once (or packed).
    pub repeated: bool,
    /// What must be there of it.
    pub require: Require,
    /// Which of its type's oneofs it is a member of, if of any.
    pub choice: Option<u32>,
    /// Most bytes its value may have, if bounded.
    pub max_len: Option<usize>,
}

/// What must be there of a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Require {
    /// Nothing.
    #[default]
    Nothing,
    /// It stands there, whatever its value: proto2's `required`, without which
    /// decoders refuse the whole message.
    Present,
    /// A message or list is present, a scalar is not its default.
    Filled,
}

/// What a field holds, as far as the wire shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Integers of variable length and 64 bits.
    Varint,
    /// The same of 32 bits, and enumerations: what is beyond, decoders cut off.
    Varint32,
    /// Booleans: any number but 0 is true.
    Flag,
    /// Four bytes.
    Fixed32,
    /// Eight bytes.
    Fixed64,
    /// Any bytes.
    Bytes,
    /// A string, which must be UTF-8.
    Text,
    /// A message: an index into [`Shape::messages`].
    Message(usize),
    /// A proto2 group: never merged.
    Group,
}

/// The single form: one entry whose fields stand at the top of the request.
#[derive(Clone, Debug, Default)]
pub struct Lift {
    /// The single form's full name, for error messages.
    pub from: String,
    /// Its fields and where they go.
    pub fields: Vec<LiftedField>,
}

/// One field of the single form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiftedField {
    /// Its number at the top of the single form.
    pub from: u32,
    /// Its name there, for error messages.
    pub name: String,
    /// Its number within an entry.
    pub to: u32,
}

/// What becomes of a batch's reply.
#[derive(Clone, Debug, Default)]
pub struct ReplyShape {
    /// The reply's full name, for error messages.
    pub name: String,
    /// What must hold in it.
    pub require: Vec<Held>,
    /// How it falls into parts; `None`: each caller gets a copy.
    pub split: Option<SplitShape>,
}

/// A top-level field of the reply that must have a value, else every caller
/// gets a status instead of the reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its number.
    pub number: u32,
    /// Its name, for the status.
    pub name: String,
    /// What it must be.
    pub is: HeldIs,
    /// The gRPC code where it is not.
    pub code: i32,
}

/// What a field of the reply must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldIs {
    /// A boolean of this value; absent is `false`.
    Flag(bool),
    /// There, whatever its value.
    Present,
}

/// How a reply falls into one part for each entry, by position.
///
/// Where entries are whole requests of another method ([`Shape::wrap`]), a
/// part is one sub-response, as that method would answer. Else a part is the
/// reply with the caller's own sub-responses alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SplitShape {
    /// Number of the repeated field that holds one sub-response an entry.
    pub subresponse: u32,
    /// Its name, for error messages.
    pub name: String,
    /// The field of a sub-response that holds the part, if it is wrapped.
    pub unwrap: Option<(u32, String)>,
    /// What a part lacks and the reply has.
    pub fill: Vec<Fill>,
    /// The status of each entry, where sub-responses have one.
    pub status: Option<StatusShape>,
}

/// A field of the reply that fills a field of each part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Its number in the reply.
    pub from: u32,
    /// Its name there, for descriptions.
    pub from_name: String,
    /// Its number in the part.
    pub to: u32,
    /// Its name there, for descriptions.
    pub to_name: String,
    /// Whether it is a message, whose missing fields are filled one by one.
    pub message: bool,
}

/// Where a sub-response says how its entry ended, in the shape of
/// `google.rpc.Status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusShape {
    /// Number of the status in the sub-response.
    pub field: u32,
    /// Number of the code in the status; 0 is success.
    pub code: u32,
    /// Number of the text in the status.
    pub message: u32,
    /// Number of the list of details in the status, if it has one.
    pub details: Option<u32>,
}
