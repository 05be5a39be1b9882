//! Where the keys of a file are set: what is not listed is as it is by default.
//!
//! Read off the tree, so that a key is listed in the file's own words, whatever
//! was made of it. A file names secrets by the files that hold them, so their
//! names are all that is listed of them.

use std::{fmt, fs, path::Path};

use super::{
    fault::{Fault, Faults},
    tree::{self, Node, Value},
};

/// A key that a file sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its path in the file, `upstream.limit.max` or `methods[0].mode`.
    pub key: String,
    /// What it is set to.
    pub value: String,
    /// The line of the file, from 1.
    pub line: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} (line {})", self.key, self.value, self.line)
    }
}

/// Every key of the policy or node file at `path` that has a value of its own,
/// in the file's order.
///
/// # Errors
/// If it cannot be read or is no YAML; whoever has loaded it knows better.
pub fn origins(path: &Path) -> Result<Vec<Origin>, Faults> {
    let faults = |fault| Faults {
        origin: path.display().to_string(),
        faults: vec![fault],
    };
    let yaml = fs::read_to_string(path).map_err(|error| {
        faults(Fault {
            at: None,
            what: format!("cannot be read: {error}"),
        })
    })?;
    let mut all = Vec::new();
    collect(&tree::parse(&yaml).map_err(faults)?, "", &mut all);
    Ok(all)
}

fn collect(node: &Node, path: &str, all: &mut Vec<Origin>) {
    match &node.value {
        Value::Map(entries) if !entries.is_empty() => {
            for (key, node) in entries {
                let dot = if path.is_empty() { "" } else { "." };
                collect(node, &format!("{path}{dot}{}", key.name), all);
            }
        }
        Value::List(nodes) if nodes.iter().any(|node| !is_plain(node)) => {
            for (i, node) in nodes.iter().enumerate() {
                collect(node, &format!("{path}[{i}]"), all);
            }
        }
        value => all.push(Origin {
            key: path.to_owned(),
            value: shown(value),
            line: node.at.line,
        }),
    }
}

fn is_plain(node: &Node) -> bool {
    !matches!(node.value, Value::List(_) | Value::Map(_))
}

fn shown(value: &Value) -> String {
    match value {
        Value::List(nodes) => {
            let nodes: Vec<_> = nodes.iter().map(|node| shown(&node.value)).collect();
            format!("[{}]", nodes.join(", "))
        }
        Value::Map(_) => "{}".to_owned(),
        // In quotes only where it would not be seen without them.
        Value::Text(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) => {
            text.clone()
        }
        Value::Text(text) => format!("{text:?}"),
        plain => plain.kind(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_is_set_is_listed_once_with_its_line() {
        let yaml = "version: 1\nupstream:\n  embedded: {}\n  limit: {min: 2,\n    max: 64}\n\
                    metadata: {identity: [a, b]}\nmethods:\n  - selector: a.B/C\n    mode: off\n  \
                    - selector: 'a b'\n";
        let mut all = Vec::new();
        collect(&tree::parse(yaml).unwrap(), "", &mut all);
        let told: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "version 1 (line 1)",
                "upstream.embedded {} (line 3)",
                "upstream.limit.min 2 (line 4)",
                "upstream.limit.max 64 (line 5)",
                "metadata.identity [a, b] (line 6)",
                "methods[0].selector a.B/C (line 8)",
                "methods[0].mode off (line 9)",
                "methods[1].selector \"a b\" (line 10)",
            ]
        );
    }
}
