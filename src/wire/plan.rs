//! What the hot path knows of a method: field numbers and kinds.
//!
//! A [`Shape`] is plain parts; [`Plan::new`] checks them once and builds the
//! look-ups, so that neither scan nor merge can meet a shape that contradicts
//! itself. Names are kept for error messages alone.

use super::{error::PlanError, record::varint_len};

/// A method's requests as the policy describes them.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Every message type within reach; fields refer to them by index.
    pub messages: Vec<Message>,
    /// The request's type.
    pub request: usize,
    /// Number of the repeated message field of the request that holds entries.
    pub batched_field: u32,
    /// The older single form that is served on the same path, if any.
    pub lift: Option<Lift>,
    /// Numbers of the entry's fields that together are its key; may be empty.
    pub entry_key: Vec<u32>,
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
    /// Whether it must be there: a message or list present, a scalar not its default.
    pub require: bool,
    /// Most bytes its value may have, if bounded.
    pub max_len: Option<usize>,
}

/// What a field holds, as far as the wire shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Integers, booleans and enumerations of variable length.
    Varint,
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

/// A checked [`Shape`]: what [`Plan::scan`] and [`Plan::merge`] go by.
#[derive(Debug)]
pub struct Plan {
    pub(super) messages: Vec<Checked>,
    pub(super) request: usize,
    pub(super) entry: usize,
    pub(super) batched: u32,
    pub(super) batched_name: String,
    pub(super) top: Table<Role>,
    pub(super) lift: Option<Lift>,
    entry_key: Vec<u32>,
}

/// What a top-level field of a request means to a scan.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// Holds entries.
    Batched,
    /// A field of the single form, which becomes the entry field at `to`;
    /// `bit` is that field's where it is required.
    Lifted {
        to: usize,
        bit: u64,
        number: u32,
        tag_len: usize,
        name: String,
    },
    /// Anything else that the request's type knows: part of the partition.
    Other(usize),
}

/// A message type with its look-up and its required fields as a bit set.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) name: String,
    pub(super) fields: Vec<Field>,
    /// Field number to index in `fields` and, where required, its bit.
    pub(super) by_number: Table<(usize, u64)>,
    pub(super) required: u64,
}

impl Plan {
    /// Checks `shape` and builds the look-ups.
    ///
    /// # Errors
    /// Where the parts contradict each other.
    pub fn new(shape: Shape) -> Result<Self, PlanError> {
        let Shape {
            messages,
            request,
            batched_field,
            lift,
            entry_key,
        } = shape;
        let count = messages.len();
        let exists = |index| {
            if index < count {
                Ok(index)
            } else {
                Err(PlanError::NoMessage { index, len: count })
            }
        };
        exists(request)?;
        for field in messages.iter().flat_map(|message| &message.fields) {
            if let Kind::Message(index) = field.kind {
                exists(index)?;
            }
        }
        let messages = messages
            .into_iter()
            .map(Checked::new)
            .collect::<Result<Vec<_>, _>>()?;
        let batched = messages[request].field(batched_field)?;
        let Field {
            kind: Kind::Message(entry),
            repeated: true,
            ..
        } = messages[request].fields[batched]
        else {
            return Err(PlanError::NotBatchable {
                message: messages[request].name.clone(),
                field: messages[request].fields[batched].name.clone(),
            });
        };
        for &number in &entry_key {
            messages[entry].field(number)?;
        }
        let top = top_level(
            &messages[request],
            batched_field,
            &messages[entry],
            lift.as_ref(),
        )?;
        Ok(Self {
            batched_name: messages[request].fields[batched].name.clone(),
            messages,
            request,
            entry,
            batched: batched_field,
            top,
            lift,
            entry_key,
        })
    }

    /// Number of the field that holds entries.
    #[must_use]
    pub fn batched_field(&self) -> u32 {
        self.batched
    }

    /// Full name of the request's type.
    #[must_use]
    pub fn request_name(&self) -> &str {
        &self.messages[self.request].name
    }

    /// Name of the field that holds entries.
    #[must_use]
    pub fn batched_name(&self) -> &str {
        &self.batched_name
    }

    /// The fields of an entry.
    #[must_use]
    pub fn entry_fields(&self) -> &[Field] {
        &self.messages[self.entry].fields
    }

    /// The request's fields other than the one that holds entries.
    pub fn other_fields(&self) -> impl Iterator<Item = &Field> {
        let fields = self.messages[self.request].fields.iter();
        fields.filter(|field| field.number != self.batched)
    }

    /// Numbers of the entry's fields that together are its key.
    #[must_use]
    pub fn entry_key(&self) -> &[u32] {
        &self.entry_key
    }

    /// The single form that is lifted into entries, if any.
    #[must_use]
    pub fn lift(&self) -> Option<&Lift> {
        self.lift.as_ref()
    }
}

impl Checked {
    fn new(message: Message) -> Result<Self, PlanError> {
        let Message { name, fields } = message;
        let count = fields.iter().filter(|field| field.require).count();
        if count > u64::BITS as usize {
            return Err(PlanError::ManyRequired {
                message: name,
                count,
            });
        }
        let mut required = 0_u64;
        let mut rows = Vec::with_capacity(fields.len());
        for (index, field) in fields.iter().enumerate() {
            let mut bit = 0;
            if field.require {
                bit = 1 << required.count_ones();
                required |= bit;
            }
            rows.push((field.number, (index, bit)));
        }
        let by_number = Table::new(rows).map_err(|number| PlanError::TwiceTheNumber {
            message: name.clone(),
            number,
        })?;
        Ok(Self {
            name,
            fields,
            by_number,
            required,
        })
    }

    fn field(&self, number: u32) -> Result<usize, PlanError> {
        self.by_number
            .at(number)
            .map(|&(index, _)| index)
            .ok_or_else(|| PlanError::NoField {
                message: self.name.clone(),
                number,
            })
    }
}

fn top_level(
    request: &Checked,
    batched: u32,
    entry: &Checked,
    lift: Option<&Lift>,
) -> Result<Table<Role>, PlanError> {
    let mut rows: Vec<_> = request
        .fields
        .iter()
        .enumerate()
        .map(|(index, field)| match field.number == batched {
            true => (field.number, Role::Batched),
            false => (field.number, Role::Other(index)),
        })
        .collect();
    for lifted in lift.iter().flat_map(|lift| &lift.fields) {
        if request.by_number.at(lifted.from).is_some() {
            return Err(PlanError::Ambiguous {
                from: lift.map(|lift| lift.from.clone()).unwrap_or_default(),
                field: lifted.name.clone(),
                request: request.name.clone(),
                number: lifted.from,
            });
        }
        let to = entry.field(lifted.to)?;
        let role = Role::Lifted {
            to,
            bit: entry.by_number.at(lifted.to).map_or(0, |&(_, bit)| bit),
            number: lifted.to,
            tag_len: varint_len(u64::from(lifted.to) << 3),
            name: lifted.name.clone(),
        };
        rows.push((lifted.from, role));
    }
    Table::new(rows).map_err(|number| PlanError::TwiceTheNumber {
        message: lift.map(|lift| lift.from.clone()).unwrap_or_default(),
        number,
    })
}

/// In a [`Table`]: no row has this number.
const ABSENT: u8 = u8::MAX;

/// Rows by field number. Nearly all numbers are below 32, so those are found
/// by index and only the others by search.
#[derive(Debug)]
pub(super) struct Table<T> {
    low: [u8; 32],
    rows: Vec<(u32, T)>,
}

impl<T> Table<T> {
    /// Fails with the number that stands twice.
    fn new(mut rows: Vec<(u32, T)>) -> Result<Self, u32> {
        rows.sort_by_key(|&(number, _)| number);
        if let Some(pair) = rows.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(pair[0].0);
        }
        let mut low = [ABSENT; 32];
        for (index, &(number, _)) in rows.iter().enumerate().take_while(|(_, row)| row.0 < 32) {
            low[number as usize] = index as u8; // at most 32 rows come before number 32
        }
        Ok(Self { low, rows })
    }

    #[inline]
    pub(super) fn at(&self, number: u32) -> Option<&T> {
        let index = match self.low.get(number as usize) {
            Some(&ABSENT) => return None,
            Some(&index) => usize::from(index),
            None => self.rows.binary_search_by_key(&number, |row| row.0).ok()?,
        };
        self.rows.get(index).map(|(_, value)| value)
    }
}
