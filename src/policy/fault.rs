//! What is wrong with a policy file, all of it at once, each with its place.

use std::fmt;

/// Most faults that are told at once: nobody reads more, and a file may be hostile.
const MAX_FAULTS: usize = 200;

/// A place in a policy file; both numbers count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// One fault: where, and a sentence with the value, the bound and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it is, unless it is the file as a whole.
    pub at: Option<Position>,
    /// What is wrong.
    pub what: String,
}

/// Every fault of one policy file, in the file's order; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// The file's name, as the operator gave it.
    pub origin: String,
    /// The faults.
    pub faults: Vec<Fault>,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            match fault.at {
                Some(at) => write!(f, "{end}{}: {at}: {}", self.origin, fault.what)?,
                None => write!(f, "{end}{}: {}", self.origin, fault.what)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Where faults are gathered while a file is read and checked.
#[derive(Debug, Default)]
pub(super) struct Found(Vec<Fault>);

impl Found {
    /// Notes one fault. Answers `None`, so that a check can end with it.
    pub(super) fn add<T>(&mut self, at: Position, what: impl Into<String>) -> Option<T> {
        if self.0.len() < MAX_FAULTS {
            self.0.push(Fault {
                at: Some(at),
                what: what.into(),
            });
        } else if self.0.len() == MAX_FAULTS {
            let what = "and more faults than are shown; mend these first".into();
            self.0.push(Fault { at: None, what });
        }
        None
    }

    /// Whether any more would not be told.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() > MAX_FAULTS
    }

    /// `checked` if nothing was found, else all that was, in the file's order.
    pub(super) fn finish<T>(mut self, origin: &str, checked: Option<T>) -> Result<T, Faults> {
        match checked {
            Some(checked) if self.0.is_empty() => Ok(checked),
            _ => {
                // Those without a place speak of the whole, so they come last.
                self.0.sort_by_key(|fault| (fault.at.is_none(), fault.at));
                Err(Faults {
                    origin: origin.to_owned(),
                    faults: self.0,
                })
            }
        }
    }
}

/// The candidate that `name` was probably meant to be, as `; did you mean …?`.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| format!("; did you mean {candidate}?"))
        .unwrap_or_default()
}

/// How many letters must be put in, taken out, changed, or swapped with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (
        from.chars().take(64).flat_map(char::to_lowercase).collect(),
        to.chars().take(64).flat_map(char::to_lowercase).collect(),
    );
    let mut rows = vec![(0..=to.len()).collect::<Vec<_>>()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let changed = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_and_a_stranger_is_not() {
        let names = ["max_entries", "max_bytes", "linger", "close"];
        assert_eq!(nearest("max_entires", names), "; did you mean max_entries?");
        assert_eq!(nearest("Linger", names), "; did you mean linger?");
        assert_eq!(nearest("maxbytes", names), "; did you mean max_bytes?");
        assert_eq!(nearest("retry", names), "");
        assert_eq!(nearest(&"x".repeat(100_000), names), "");
    }
}
