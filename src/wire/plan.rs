//! What the hot path knows of a method: field numbers and kinds.
//!
//! A [`Shape`] is plain parts; [`Plan::new`] checks them once and builds the
//! look-ups, so that neither scan, merge nor split can meet a shape that
//! contradicts itself. Names are kept for error messages and descriptions.

use super::{
    checked::{Checked, Table},
    error::PlanError,
    marks::{KeyPart, Marked},
    record::varint_len,
    shape::{Field, Is, KeyUse, Kind, Lift, ReplyShape, Shape, Wrap},
};

/// A checked [`Shape`]: what [`Plan::scan`], [`Plan::merge`] and
/// [`Plan::split`] go by.
#[derive(Debug)]
pub struct Plan {
    pub(super) messages: Vec<Checked>,
    pub(super) request: usize,
    pub(super) entry: usize,
    pub(super) batched: u32,
    pub(super) batched_name: String,
    pub(super) top: Table<Role>,
    pub(super) wrap: Option<Wrap>,
    pub(super) keys: KeyUse,
    pub(super) key_parts: Vec<KeyPart>,
    /// Slots of the values that must be equal in all entries of a batch.
    pub(super) discriminators: Vec<u8>,
    /// Whether a scan has to remember any value of an entry.
    pub(super) remembers: bool,
    pub(super) reply: ReplyShape,
    lift: Option<Lift>,
    entry_key: Vec<u32>,
    discriminator_names: Vec<String>,
    alone_if: Vec<(String, Is)>,
}

/// What a top-level field of a request means to a scan.
#[derive(Clone, Debug)]
pub(super) enum Role {
    /// Holds entries.
    Batched,
    /// A field of the single form, which becomes the entry field at `to`.
    Lifted {
        to: usize,
        number: u32,
        tag_len: usize,
        name: String,
    },
    /// Anything else that the request's type knows: part of the partition.
    Other(usize),
}

impl Plan {
    /// Checks `shape` and builds the look-ups.
    ///
    /// # Errors
    /// Where the parts contradict each other.
    pub fn new(shape: Shape) -> Result<Self, PlanError> {
        if let (Some(lift), Some(wrap)) = (&shape.lift, &shape.wrap) {
            return Err(PlanError::LiftAndWrap {
                from: lift.from.clone(),
                request: wrap.request.clone(),
            });
        }
        let Marked {
            messages,
            marks,
            request,
            entry,
            key_parts,
            discriminators,
            discriminator_names,
            alone_if,
        } = Marked::of(&shape)?;
        let remembers = !key_parts.is_empty() || !discriminators.is_empty();
        let messages = messages
            .into_iter()
            .zip(marks)
            .map(|(message, marks)| Checked::new(message, marks))
            .collect::<Result<Vec<_>, _>>()?;
        let batched_name = match &shape.wrap {
            Some(wrap) => wrap.batched.clone(),
            None => {
                let batched = messages[request].field(shape.batched_field)?;
                messages[request].fields[batched].field.name.clone()
            }
        };
        let top = match &shape.wrap {
            Some(_) => Table::default(),
            None => top_level(
                &messages[request],
                shape.batched_field,
                &messages[entry],
                shape.lift.as_ref(),
            )?,
        };
        Ok(Self {
            messages,
            request,
            entry,
            batched: shape.batched_field,
            batched_name,
            top,
            wrap: shape.wrap,
            keys: shape.keys,
            key_parts,
            discriminators,
            remembers,
            reply: shape.reply,
            lift: shape.lift,
            entry_key: shape.entry_key,
            discriminator_names,
            alone_if,
        })
    }

    /// Number of the field that holds entries.
    #[must_use]
    pub fn batched_field(&self) -> u32 {
        self.batched
    }

    /// Full name of the type of the requests that are scanned.
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
    pub fn entry_fields(&self) -> impl Iterator<Item = &Field> {
        let fields = self.messages[self.entry].fields.iter();
        fields.map(|known| &known.field)
    }

    /// The request's fields other than the one that holds entries; none where
    /// a request is an entry as a whole.
    pub fn other_fields(&self) -> impl Iterator<Item = &Field> {
        let fields = self.messages[self.request].fields.iter();
        fields
            .map(|known| &known.field)
            .filter(|field| self.wrap.is_none() && field.number != self.batched)
    }

    /// Numbers of the entry's fields that together are its key.
    #[must_use]
    pub fn entry_key(&self) -> &[u32] {
        &self.entry_key
    }

    /// What a scan does with keys.
    #[must_use]
    pub fn keys(&self) -> KeyUse {
        self.keys
    }

    /// Names of the fields, from the request down, that must be equal in all
    /// entries of a batch.
    #[must_use]
    pub fn discriminators(&self) -> &[String] {
        &self.discriminator_names
    }

    /// Names of the fields, from the request down, that keep a request out of
    /// batches, and when.
    #[must_use]
    pub fn alone_if(&self) -> &[(String, Is)] {
        &self.alone_if
    }

    /// The single form that is lifted into entries, if any.
    #[must_use]
    pub fn lift(&self) -> Option<&Lift> {
        self.lift.as_ref()
    }

    /// The other method's entry around a whole request, if that is the form.
    #[must_use]
    pub fn wrap(&self) -> Option<&Wrap> {
        self.wrap.as_ref()
    }

    /// What becomes of a reply.
    #[must_use]
    pub fn reply(&self) -> &ReplyShape {
        &self.reply
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
        .map(|(index, known)| match known.field.number {
            number if number == batched => (number, Role::Batched),
            number => (number, Role::Other(index)),
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
        let role = Role::Lifted {
            to: entry.field(lifted.to)?,
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

/// The type of the entries that field `number` of `message` holds.
pub(super) fn entries_of(message: &super::shape::Message, number: u32) -> Result<usize, PlanError> {
    let field = message.fields.iter().find(|field| field.number == number);
    match field {
        None => Err(PlanError::NoField {
            message: message.name.clone(),
            number,
        }),
        Some(Field {
            kind: Kind::Message(entry),
            repeated: true,
            ..
        }) => Ok(*entry),
        Some(field) => Err(PlanError::NotBatchable {
            message: message.name.clone(),
            field: field.name.clone(),
        }),
    }
}
