//! Rules about one field at one place, put on the message types.
//!
//! A type may be used at many places, and a rule such as "alone if
//! `offsets.offsets.expected_offset` is there" speaks of one of them. So each
//! type on a rule's way is given a copy of its own, and the scan meets the
//! rule as a mark on a field, with no path to follow.

use std::collections::BTreeSet;

use super::{
    checked::Mark,
    error::PlanError,
    plan::entries_of,
    shape::{Is, KeyUse, Kind, Message, Shape},
};

/// Most values that a scan remembers of an entry.
pub(super) const SLOTS: usize = 8;

/// One value of an entry's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyPart {
    pub(super) slot: u8,
    pub(super) kind: Kind,
}

/// Message types with marks on their fields.
#[derive(Debug)]
pub(super) struct Marked {
    pub(super) messages: Vec<Message>,
    /// For each type, one a field.
    pub(super) marks: Vec<Vec<Mark>>,
    pub(super) request: usize,
    pub(super) entry: usize,
    pub(super) key_parts: Vec<KeyPart>,
    pub(super) discriminators: Vec<u8>,
    pub(super) discriminator_names: Vec<String>,
    pub(super) alone_if: Vec<(String, Is)>,
}

impl Marked {
    pub(super) fn of(shape: &Shape) -> Result<Self, PlanError> {
        let mut drawing = Drawing::of(shape)?;
        let entry = drawing.entry;
        let mut key_parts = Vec::new();
        for &number in &shape.entry_key {
            let index = drawing.field(entry, number)?;
            if shape.keys != KeyUse::Ignore {
                key_parts.push(KeyPart {
                    slot: drawing.remember(entry, index)?,
                    kind: drawing.messages[entry].fields[index].kind,
                });
            }
        }
        let mut discriminators = Vec::new();
        let mut discriminator_names = Vec::new();
        for path in &shape.discriminators {
            let place = drawing.walk(path)?;
            if place.many {
                return Err(drawing.not_one_value(place.message, place.index));
            }
            discriminator_names.push(place.name);
            // Elsewhere at the top every field parts calls as it is.
            if shape.wrap.is_some() || path.first() == Some(&shape.batched_field) {
                discriminators.push(drawing.remember(place.message, place.index)?);
            }
        }
        let mut alone_if = Vec::new();
        for condition in &shape.alone_if {
            let place = drawing.walk(&condition.path)?;
            let mark = &mut drawing.marks[place.message][place.index];
            match condition.is {
                Is::Present => mark.alone = true,
                Is::Empty if place.message == entry => mark.expected = true,
                Is::Empty => return Err(PlanError::EmptyElsewhere { field: place.name }),
            }
            alone_if.push((place.name, condition.is));
        }
        Ok(Self {
            messages: drawing.messages,
            marks: drawing.marks,
            request: drawing.request,
            entry,
            key_parts,
            discriminators,
            discriminator_names,
            alone_if,
        })
    }
}

/// The types while marks are put on them.
struct Drawing {
    messages: Vec<Message>,
    marks: Vec<Vec<Mark>>,
    /// Types that no other place uses.
    own: BTreeSet<usize>,
    request: usize,
    entry: usize,
    slots: u8,
}

/// Where a path ends.
struct Place {
    message: usize,
    index: usize,
    name: String,
    /// Whether one entry may have many values here.
    many: bool,
}

impl Drawing {
    fn of(shape: &Shape) -> Result<Self, PlanError> {
        let messages = shape.messages.clone();
        let exists = |index| match index < messages.len() {
            true => Ok(index),
            false => Err(PlanError::NoMessage {
                index,
                len: messages.len(),
            }),
        };
        exists(shape.request)?;
        for field in messages.iter().flat_map(|message| &message.fields) {
            if let Kind::Message(index) = field.kind {
                exists(index)?;
            }
        }
        let marks = messages
            .iter()
            .map(|message| vec![Mark::default(); message.fields.len()])
            .collect();
        let mut drawing = Self {
            messages,
            marks,
            own: BTreeSet::new(),
            request: shape.request,
            entry: shape.request,
            slots: 0,
        };
        drawing.request = drawing.copy(shape.request);
        drawing.entry = match shape.wrap {
            Some(_) => drawing.request,
            None => {
                entries_of(&drawing.messages[drawing.request], shape.batched_field)?;
                let index = drawing.field(drawing.request, shape.batched_field)?;
                drawing.enter(drawing.request, index)?
            }
        };
        Ok(drawing)
    }

    fn copy(&mut self, message: usize) -> usize {
        let copy = self.messages.len();
        self.messages.push(self.messages[message].clone());
        self.marks.push(self.marks[message].clone());
        self.own.insert(copy);
        copy
    }

    fn field(&self, message: usize, number: u32) -> Result<usize, PlanError> {
        let message = &self.messages[message];
        let fields = &mut message.fields.iter();
        fields
            .position(|field| field.number == number)
            .ok_or_else(|| PlanError::NoField {
                message: message.name.clone(),
                number,
            })
    }

    /// The type that a message field holds, no longer shared with other places.
    fn enter(&mut self, message: usize, index: usize) -> Result<usize, PlanError> {
        let Kind::Message(within) = self.messages[message].fields[index].kind else {
            return Err(PlanError::NotAMessage {
                message: self.messages[message].name.clone(),
                field: self.messages[message].fields[index].name.clone(),
            });
        };
        if self.own.contains(&within) {
            return Ok(within);
        }
        let own = self.copy(within);
        self.messages[message].fields[index].kind = Kind::Message(own);
        Ok(own)
    }

    /// Follows `path` from the request down.
    fn walk(&mut self, path: &[u32]) -> Result<Place, PlanError> {
        let (mut message, mut names, mut many) = (self.request, Vec::new(), false);
        for (step, &number) in path.iter().enumerate() {
            let index = self.field(message, number)?;
            let field = &self.messages[message].fields[index];
            names.push(field.name.clone());
            let entries = step == 0 && self.request != self.entry;
            many |= field.repeated && !entries;
            if step + 1 == path.len() {
                return Ok(Place {
                    message,
                    index,
                    name: names.join("."),
                    many,
                });
            }
            message = self.enter(message, index)?;
        }
        Err(PlanError::NoField {
            message: self.messages[self.request].name.clone(),
            number: 0,
        })
    }

    /// The slot in which the value of a field is remembered.
    fn remember(&mut self, message: usize, index: usize) -> Result<u8, PlanError> {
        if let Kind::Message(_) | Kind::Group = self.messages[message].fields[index].kind {
            return Err(self.not_one_value(message, index));
        }
        let slot = &mut self.marks[message][index].slot;
        if *slot == 0 {
            if usize::from(self.slots) == SLOTS {
                return Err(PlanError::ManyRemembered { bound: SLOTS });
            }
            self.slots += 1;
            *slot = self.slots;
        }
        Ok(*slot - 1)
    }

    fn not_one_value(&self, message: usize, index: usize) -> PlanError {
        PlanError::NotOneValue {
            message: self.messages[message].name.clone(),
            field: self.messages[message].fields[index].name.clone(),
        }
    }
}
