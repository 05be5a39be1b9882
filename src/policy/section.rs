//! Reads typed values out of one YAML map, noting every fault on the way.
//!
//! A key that the table ([`super::keys`]) does not have is refused with the
//! nearest right name, since a rule that is silently not kept is worse than a
//! file that does not load.

use std::time::Duration;

use super::{
    fault::{Found, Position, nearest},
    keys::{Keys, Takes},
    tree::{Key, Node, Value},
    units,
};

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) at: Position,
}

/// One map of the file.
pub(super) struct Section<'a> {
    pub(super) path: String,
    pub(super) at: Position,
    entries: &'a [(Key, Node)],
    keys: &'static Keys,
}

impl<'a> Section<'a> {
    /// `node` as a map with no other keys than `keys`; `path` is how faults name it.
    pub(super) fn open(
        node: &'a Node,
        path: &str,
        keys: &'static Keys,
        found: &mut Found,
    ) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            let names: Vec<_> = keys.names().collect();
            let what = format!("must be a map with the keys {}", names.join(", "));
            return found.add(
                node.at,
                prefixed(path, &format!("{}: {what}", node.value.kind())),
            );
        };
        let section = Self {
            path: path.to_owned(),
            at: node.at,
            entries,
            keys,
        };
        for (key, _) in entries {
            if found.is_full() {
                break; // finding the nearest name costs time, which a hostile file must not have
            }
            let name = key.name.as_str();
            if !keys.names().any(|known| known == name) {
                // As tools write it that take `on` for a boolean.
                let meant = match name == "true" && keys.names().any(|known| known == "on") {
                    true => "; did you mean \"on\"? keep it in quotes".to_owned(),
                    false => nearest(name, keys.names()),
                };
                let what = format!("unknown key{meant}");
                found.add::<()>(key.at, format!("{}: {what}", section.path_of(name)));
            }
        }
        Some(section)
    }

    /// How faults name `key`.
    pub(super) fn path_of(&self, key: &str) -> String {
        match self.path.is_empty() {
            true => key.to_owned(),
            false => format!("{}.{key}", self.path),
        }
    }

    /// Holds the reader to the table: it asks for a key that is there, and for
    /// a value of that kind.
    fn asks(&self, key: &str, wanted: impl Fn(&Takes) -> bool) {
        #[cfg(test)]
        ASKED.with_borrow_mut(|asked| {
            asked.insert((std::ptr::from_ref(self.keys).addr(), key.to_owned()))
        });
        if cfg!(any(test, debug_assertions)) {
            let known = self.keys.known.iter().find(|known| known.name == key);
            let takes = known.map(|known| &known.takes);
            let is = takes.is_some_and(|takes| takes.may_be(&wanted));
            assert!(
                is,
                "{}: is read as another kind than keys.rs has it: {takes:?}",
                self.path_of(key)
            );
        }
    }

    /// The node of `key`, if the map has it.
    pub(super) fn node(&self, key: &str) -> Option<&'a Node> {
        self.entries
            .iter()
            .find(|(k, _)| k.name == key)
            .map(|(_, node)| node)
    }

    /// The map under `key`.
    pub(super) fn section(
        &self,
        key: &str,
        keys: &'static Keys,
        found: &mut Found,
    ) -> Option<Self> {
        self.asks(
            key,
            |takes| matches!(takes, Takes::Map(of) if std::ptr::eq(*of, keys)),
        );
        Self::open(self.node(key)?, &self.path_of(key), keys, found)
    }

    /// Notes that `key`, which must be there, is not.
    pub(super) fn require(&self, key: &str, remedy: &str, found: &mut Found) -> Option<()> {
        match self.node(key) {
            Some(_) => Some(()),
            None => found.add(
                self.at,
                format!("{}: is missing; {remedy}", self.path_of(key)),
            ),
        }
    }

    fn read<T>(
        &self,
        key: &str,
        must_be: &str,
        found: &mut Found,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<At<T>> {
        let node = self.node(key)?;
        match convert(&node.value) {
            Some(value) => Some(At { value, at: node.at }),
            None => {
                let value = node.value.kind();
                found.add(
                    node.at,
                    format!("{}: {value}: must be {must_be}", self.path_of(key)),
                )
            }
        }
    }

    /// Text.
    pub(super) fn text(&self, key: &str, found: &mut Found) -> Option<At<String>> {
        self.asks(key, |takes| matches!(takes, Takes::Text | Takes::OneOf(_)));
        self.read(key, "text; put it in quotes", found, text)
    }

    /// A whole number.
    pub(super) fn count(&self, key: &str, found: &mut Found) -> Option<At<u64>> {
        self.asks(key, |takes| matches!(takes, Takes::Count | Takes::Version));
        self.read(
            key,
            "a whole number, such as 500",
            found,
            |value| match value {
                Value::Whole(number) => u64::try_from(*number).ok(),
                _ => None,
            },
        )
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &str, found: &mut Found) -> Option<At<bool>> {
        self.asks(key, |takes| matches!(takes, Takes::Flag));
        self.read(key, "true or false", found, |value| match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    /// A number of bytes.
    pub(super) fn size(&self, key: &str, found: &mut Found) -> Option<At<u64>> {
        self.asks(key, |takes| matches!(takes, Takes::Size));
        self.read(
            key,
            "a size with its unit, such as 64KiB or 1MiB",
            found,
            |value| units::size(&text(value)?),
        )
    }

    /// A span of time.
    pub(super) fn duration(&self, key: &str, found: &mut Found) -> Option<At<Duration>> {
        self.asks(key, |takes| matches!(takes, Takes::Duration));
        self.read(
            key,
            "a duration with its unit, such as 500us, 2ms or 10s",
            found,
            |value| units::duration(&text(value)?),
        )
    }

    /// One of the names in `table`; one without a value is not supported yet.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &str,
        table: &[(&str, Option<T>)],
        found: &mut Found,
    ) -> Option<At<T>> {
        self.asks(
            key,
            |takes| matches!(takes, Takes::OneOf(names) if same(names, table)),
        );
        let name = self.text(key, found)?;
        let path = self.path_of(key);
        let names = || table.iter().map(|(name, _)| *name);
        let supported: Vec<_> = table
            .iter()
            .filter(|(_, value)| value.is_some())
            .map(|(name, _)| *name)
            .collect();
        match table.iter().find(|(candidate, _)| *candidate == name.value) {
            Some(&(_, Some(value))) => Some(At { value, at: name.at }),
            Some((name_of, None)) => found.add(
                name.at,
                format!(
                    "{path}: {name_of}: not supported yet; use {}",
                    supported.join(" or ")
                ),
            ),
            None => {
                let meant = nearest(&name.value, names());
                let value = Value::Text(name.value.clone()).kind();
                found.add(
                    name.at,
                    format!("{path}: {value}: must be {}{meant}", supported.join(" or ")),
                )
            }
        }
    }

    /// A list of text.
    pub(super) fn texts(&self, key: &str, found: &mut Found) -> Option<Vec<At<String>>> {
        self.asks(key, |takes| {
            matches!(takes, Takes::Texts | Takes::SomeOf(_))
        });
        let list = self.list(key, found)?;
        let mut texts = Vec::with_capacity(list.len());
        for (i, node) in list.iter().enumerate() {
            match text(&node.value) {
                Some(value) => texts.push(At { value, at: node.at }),
                None => {
                    let (path, value) = (self.path_of(key), node.value.kind());
                    found.add::<()>(node.at, format!("{path}[{i}]: {value}: must be text"));
                }
            }
        }
        Some(texts)
    }

    /// A list.
    pub(super) fn list(&self, key: &str, found: &mut Found) -> Option<&'a [Node]> {
        self.asks(key, |takes| {
            matches!(takes, Takes::Maps(_) | Takes::Texts | Takes::SomeOf(_))
        });
        let node = self.node(key)?;
        match &node.value {
            Value::List(list) => Some(list),
            value => {
                let what = format!("{}: must be a list, such as [a, b]", value.kind());
                found.add(node.at, format!("{}: {what}", self.path_of(key)))
            }
        }
    }

    /// A list of names, each of which is in `table`.
    pub(super) fn choices<T: Copy>(
        &self,
        key: &str,
        table: &[(&str, Option<T>)],
        found: &mut Found,
    ) -> Vec<At<T>> {
        self.asks(
            key,
            |takes| matches!(takes, Takes::SomeOf(names) if same(names, table)),
        );
        let mut chosen = Vec::new();
        for (i, name) in self.texts(key, found).into_iter().flatten().enumerate() {
            let known = table.iter().find(|(known, _)| *known == name.value);
            if let Some((_, Some(value))) = known {
                chosen.push(At {
                    value: *value,
                    at: name.at,
                });
                continue;
            }
            let names: Vec<_> = table.iter().map(|(name, _)| *name).collect();
            let (value, meant) = (&name.value, nearest(&name.value, names.iter().copied()));
            let what = format!("must be one of {}{meant}", names.join(", "));
            found.add::<()>(
                name.at,
                format!("{}[{i}]: {value}: {what}", self.path_of(key)),
            );
        }
        chosen
    }

    /// A map from names to names, in the file's order.
    pub(super) fn pairs(
        &self,
        key: &str,
        found: &mut Found,
    ) -> Option<Vec<(At<String>, At<String>)>> {
        self.asks(key, |takes| matches!(takes, Takes::Pairs | Takes::Sizes));
        let node = self.node(key)?;
        let Value::Map(entries) = &node.value else {
            let what = format!("{}: must be a map of names", node.value.kind());
            return found.add(node.at, format!("{}: {what}", self.path_of(key)));
        };
        let mut pairs = Vec::with_capacity(entries.len());
        for (name, node) in entries {
            let from = At {
                value: name.name.clone(),
                at: name.at,
            };
            match text(&node.value) {
                Some(value) => pairs.push((from, At { value, at: node.at })),
                None => {
                    let (path, value) = (self.path_of(key), node.value.kind());
                    let what = format!("{path}.{}: {value}: must be text", from.value);
                    found.add::<()>(node.at, what);
                }
            }
        }
        Some(pairs)
    }
}

/// Whether a table that is read by has these names and no others.
fn same<T>(names: &[&str], table: &[(&str, T)]) -> bool {
    names.len() == table.len() && table.iter().all(|(name, _)| names.contains(name))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    }
}

fn prefixed(path: &str, what: &str) -> String {
    match path.is_empty() {
        true => what.to_owned(),
        false => format!("{path}: {what}"),
    }
}

#[cfg(test)]
thread_local! {
    /// Which keys a test's thread has asked for, of which table.
    static ASKED: std::cell::RefCell<std::collections::BTreeSet<(usize, String)>> =
        std::cell::RefCell::default();
}

/// Whether a test's thread has asked for `key` of `keys`.
#[cfg(test)]
pub(super) fn was_asked(keys: &'static Keys, key: &str) -> bool {
    let keys = std::ptr::from_ref(keys).addr();
    ASKED.with_borrow(|asked| asked.contains(&(keys, key.to_owned())))
}
