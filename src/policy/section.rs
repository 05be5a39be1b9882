//! Reads typed values out of one YAML map, noting every fault on the way.
//!
//! A key is known, or known to come later, or unknown: the second is refused
//! in so many words, since a rule that is silently not kept is worse than a
//! file that does not load; the third gets the nearest right name.

use std::time::Duration;

use super::{
    fault::{Found, Position, nearest},
    tree::{Key, Node, Value},
    units,
};

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) at: Position,
}

/// The keys that a map may have.
pub(super) struct Keys {
    /// Those that are read.
    pub(super) known: &'static [&'static str],
    /// Those that the format has and this version does not.
    pub(super) later: &'static [&'static str],
}

/// One map of the file.
pub(super) struct Section<'a> {
    pub(super) path: String,
    pub(super) at: Position,
    entries: &'a [(Key, Node)],
}

impl<'a> Section<'a> {
    /// `node` as a map with no other keys than `keys`; `path` is how faults name it.
    pub(super) fn open(node: &'a Node, path: &str, keys: &Keys, found: &mut Found) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            let what = format!("must be a map with the keys {}", keys.known.join(", "));
            return found.add(
                node.at,
                prefixed(path, &format!("{}: {what}", node.value.kind())),
            );
        };
        let section = Self {
            path: path.to_owned(),
            at: node.at,
            entries,
        };
        for (key, _) in entries {
            if found.is_full() {
                break; // finding the nearest name costs time, which a hostile file must not have
            }
            let name = key.name.as_str();
            if keys.later.contains(&name) {
                let what = "not supported yet; leave the key out";
                found.add::<()>(key.at, format!("{}: {what}", section.path_of(name)));
            } else if !keys.known.contains(&name) {
                let known = keys.known.iter().chain(keys.later).copied();
                let what = format!("unknown key{}", nearest(name, known));
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

    /// The node of `key`, if the map has it.
    pub(super) fn node(&self, key: &str) -> Option<&'a Node> {
        self.entries
            .iter()
            .find(|(k, _)| k.name == key)
            .map(|(_, node)| node)
    }

    /// The map under `key`.
    pub(super) fn section(&self, key: &str, keys: &Keys, found: &mut Found) -> Option<Self> {
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
        self.read(key, "text; put it in quotes", found, text)
    }

    /// A whole number.
    pub(super) fn count(&self, key: &str, found: &mut Found) -> Option<At<u64>> {
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
        self.read(key, "true or false", found, |value| match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    /// A number of bytes.
    pub(super) fn size(&self, key: &str, found: &mut Found) -> Option<At<u64>> {
        self.read(
            key,
            "a size with its unit, such as 64KiB or 1MiB",
            found,
            |value| units::size(&text(value)?),
        )
    }

    /// A span of time.
    pub(super) fn duration(&self, key: &str, found: &mut Found) -> Option<At<Duration>> {
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
