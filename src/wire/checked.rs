//! A message type as a scan looks at it: fields found by number, what must be
//! there as a set of bits, and what is to be noted of each value.

use super::{
    error::PlanError,
    shape::{Field, Kind, Message, Require},
};

/// What a scan notes of a field's values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// A request that has it goes alone.
    pub(super) alone: bool,
    /// A request that has it empty goes alone.
    pub(super) expected: bool,
    /// Where the value's place is remembered, plus one; 0: nowhere.
    pub(super) slot: u8,
}

/// A field, and what a scan does with it.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) field: Field,
    /// The bits that are held once it stands there.
    pub(super) there: u64,
    /// Those that are held as long as it is not its default.
    pub(super) filled: u64,
    pub(super) mark: Mark,
}

/// A message type with its look-up and its required fields as a bit set.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) name: String,
    pub(super) fields: Vec<Known>,
    /// Field number to index in `fields`.
    pub(super) by_number: Table<usize>,
    pub(super) required: u64,
    /// Fields without which a request goes alone.
    pub(super) expected: u64,
}

impl Checked {
    /// Fails where a number stands twice, or too much is asked for.
    pub(super) fn new(message: Message, marks: Vec<Mark>) -> Result<Self, PlanError> {
        let Message { name, fields } = message;
        let asked = |(field, mark): (&Field, &Mark)| {
            usize::from(field.require != Require::Nothing) + usize::from(mark.expected)
        };
        let count = fields.iter().zip(&marks).map(asked).sum();
        if count > u64::BITS as usize {
            return Err(PlanError::ManyRequired {
                message: name,
                count,
            });
        }
        let (mut required, mut expected) = (0_u64, 0_u64);
        let known = |(field, mark): (Field, Mark)| {
            let (mut there, mut filled) = (0, 0);
            // Of these to be there is all that can be asked.
            let whole = field.repeated || matches!(field.kind, Kind::Message(_) | Kind::Group);
            let mut bit = |all: &mut u64, is_filled: bool, taken: u64| {
                let bit = 1 << taken.count_ones();
                *all |= bit;
                *if is_filled && !whole {
                    &mut filled
                } else {
                    &mut there
                } |= bit;
            };
            let taken = required | expected;
            match field.require {
                Require::Nothing => {}
                Require::Present => bit(&mut required, false, taken),
                Require::Filled => bit(&mut required, true, taken),
            }
            if mark.expected {
                let taken = required | expected;
                bit(&mut expected, true, taken);
            }
            Known {
                field,
                there,
                filled,
                mark,
            }
        };
        let fields: Vec<Known> = fields.into_iter().zip(marks).map(known).collect();
        let rows = fields.iter().enumerate();
        let rows = rows.map(|(index, known)| (known.field.number, index));
        let by_number = Table::new(rows.collect()).map_err(|number| PlanError::TwiceTheNumber {
            message: name.clone(),
            number,
        })?;
        Ok(Self {
            name,
            fields,
            by_number,
            required,
            expected,
        })
    }

    /// The index of the field that has `number`.
    pub(super) fn field(&self, number: u32) -> Result<usize, PlanError> {
        let index = self.by_number.at(number).copied();
        index.ok_or_else(|| PlanError::NoField {
            message: self.name.clone(),
            number,
        })
    }

    /// The first required field that is not among `held`.
    #[inline]
    pub(super) fn missing(&self, held: u64) -> Option<&Field> {
        if held & self.required == self.required {
            return None;
        }
        let lacking = |known: &&Known| (known.there | known.filled) & self.required & !held != 0;
        self.fields.iter().find(lacking).map(|known| &known.field)
    }
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

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            low: [ABSENT; 32],
            rows: Vec::new(),
        }
    }
}

impl<T> Table<T> {
    /// Fails with the number that stands twice.
    pub(super) fn new(mut rows: Vec<(u32, T)>) -> Result<Self, u32> {
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
