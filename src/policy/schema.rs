//! A JSON Schema of policy files, for editors: made from the table that the
//! reader goes by, so that the two cannot differ.
//!
//! It says which keys there are, of what kind, and which must be there. What
//! depends on descriptors or on other keys is for the loader to say.

use serde_json::{Map, Value, json};

use super::{
    keys::{Keys, TOP, Takes},
    units,
};

/// The schema of a policy file. `policies/schema.json` is this.
#[must_use]
pub fn schema() -> Value {
    let mut schema = of_map(&TOP);
    let top = schema.as_object_mut().expect("a map's schema is an object");
    top.insert(
        "$schema".into(),
        "http://json-schema.org/draft-07/schema#".into(),
    );
    top.insert("title".into(), "A policy of ferry".into());
    schema
}

fn of_map(keys: &Keys) -> Value {
    let properties = keys.known.iter().map(|key| {
        let mut schema = of_value(&key.takes);
        let described = schema.as_object_mut();
        let described = described.expect("a value's schema is an object");
        described.insert("description".into(), key.help.into());
        (key.name.to_owned(), schema)
    });
    let properties: Map<String, Value> = properties.collect();
    let mut schema = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if !keys.needs.is_empty() {
        schema["required"] = json!(keys.needs);
    }
    if !keys.one_of.is_empty() {
        let one = keys.one_of.iter().map(|name| json!({"required": [name]}));
        schema["oneOf"] = one.collect();
    }
    schema
}

fn of_value(takes: &Takes) -> Value {
    match takes {
        Takes::Version => json!({"const": 1}),
        Takes::Text => json!({"type": "string"}),
        Takes::Count => json!({"type": "integer", "minimum": 1}),
        Takes::Flag => json!({"type": "boolean"}),
        Takes::Size => with_unit(units::SIZES.iter().map(|(unit, _)| *unit)),
        Takes::Duration => with_unit(units::SPANS.iter().map(|(unit, _)| *unit)),
        Takes::Texts => json!({"type": "array", "items": {"type": "string"}}),
        Takes::Pairs => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        Takes::Sizes => json!({
            "type": "object",
            "additionalProperties": of_value(&Takes::Size),
        }),
        Takes::OneOf(names) => json!({"enum": names}),
        Takes::SomeOf(names) => json!({"type": "array", "items": {"enum": names}}),
        Takes::Map(keys) => of_map(keys),
        Takes::Maps(keys) => json!({"type": "array", "items": of_map(keys)}),
        Takes::Either(all) => {
            let all: Vec<_> = all.iter().map(of_value).collect();
            json!({"anyOf": all})
        }
    }
}

/// A whole number and one of these units, as the reader takes it.
fn with_unit(units: impl Iterator<Item = &'static str>) -> Value {
    let units: Vec<_> = units.collect();
    let pattern = format!("^[0-9]+\\s*({})$", units.join("|"));
    json!({"type": "string", "pattern": pattern})
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;
    use crate::policy::{Policy, keys::CLIENT_TLS, section::was_asked, tree};

    const SHIPPED: &str = include_str!("../../policies/schema.json");
    /// Every key but those of `embedded`, which has no endpoints beside it.
    const FULL: &str = include_str!("tests/full.yaml");

    #[test]
    fn the_schema_that_is_shipped_is_the_one_that_the_reader_goes_by() {
        let made = serde_json::to_string_pretty(&schema()).expect("it is JSON");
        assert_eq!(
            SHIPPED.trim_end(),
            made,
            "run `ferry check --schema > policies/schema.json`"
        );
    }

    fn read(policy: &Value) -> Vec<String> {
        let yaml = policy.to_string();
        let faults = Policy::load(&yaml, Path::new("src/policy/tests/full.yaml"));
        let faults = faults.err().map(|faults| faults.faults);
        let faults = faults.unwrap_or_default().into_iter();
        faults.map(|fault| fault.what).collect()
    }

    /// The two policies that have all keys between them.
    fn full() -> [Value; 2] {
        let remote: Value = serde_yaml::from_str(FULL).expect("it is YAML");
        let mut embedded = remote.clone();
        embedded["upstream"] = json!({"embedded": {
            "data_dir": "d", "groups": 2, "runtime": "shared", "pipeline": "full", "log_max": "1GiB",
        }});
        embedded["methods"] = json!([]);
        embedded["listen"] = json!([{"unix": "/run/ferry.sock"}]);
        [remote, embedded]
    }

    /// Every map of the table once, with its path through `policy` where it
    /// stands there.
    fn maps(keys: &'static Keys, at: &str, all: &mut Vec<(&'static Keys, String)>) {
        all.push((keys, at.to_owned()));
        for key in keys.known {
            inner(&key.takes, &format!("{at}/{}", key.name), all);
        }
    }

    fn inner(takes: &'static Takes, at: &str, all: &mut Vec<(&'static Keys, String)>) {
        match takes {
            Takes::Map(keys) => maps(keys, at, all),
            Takes::Maps(keys) => maps(keys, &format!("{at}/0"), all),
            Takes::Either(several) => several.iter().for_each(|one| inner(one, at, all)),
            _ => {}
        }
    }

    #[test]
    fn every_key_of_the_schema_is_read_and_no_other_is() {
        for policy in full() {
            assert_eq!(read(&policy), Vec::<String>::new());
        }
        let mut all = Vec::new();
        maps(&TOP, "", &mut all);
        assert!(all.len() > 15, "the whole table is walked: {}", all.len());
        for (keys, at) in all {
            for key in keys.known {
                // Read by hand, since it may be one of two kinds.
                let by_hand = matches!(key.takes, Takes::Either(_));
                assert!(
                    by_hand || was_asked(keys, key.name),
                    "{at}/{} is never read",
                    key.name
                );
            }
        }
        // And what is read that the table does not have ends a test, of a release
        // build too.
        let node = tree::parse("version: 1").expect("it is YAML");
        let mut found = crate::policy::fault::Found::default();
        let top = crate::policy::section::Section::open(&node, "", &TOP, &mut found);
        let top = top.expect("it is a map");
        let asked = std::panic::AssertUnwindSafe(|| top.text("version", &mut found));
        assert!(std::panic::catch_unwind(asked).is_err());
    }

    #[test]
    fn what_the_schema_demands_the_reader_demands_and_nothing_else() {
        let mut all = Vec::new();
        maps(&TOP, "", &mut all);
        let mut looked_at = BTreeSet::new();
        for policy in full() {
            for (keys, at) in &all {
                let Some(Value::Object(map)) = policy.pointer(at) else {
                    continue;
                };
                for name in map.keys() {
                    let mut less = policy.clone();
                    let map = less.pointer_mut(at).and_then(Value::as_object_mut);
                    map.expect("it was found").remove(name);
                    let missing = |what: &String| {
                        let path = at.replace("/0", "[0]").replace('/', ".");
                        let path = format!("{}.{name}", path);
                        let named = path.trim_start_matches('.');
                        what.starts_with(&format!("{named}: is missing"))
                    };
                    let faults = read(&less);
                    let demanded = keys.needs.contains(&&**name);
                    // Of two, one must be there; a certificate and its key go together.
                    if keys.one_of.contains(&&**name) || std::ptr::eq(*keys, &CLIENT_TLS) {
                        assert!(!demanded);
                        continue;
                    }
                    assert_eq!(
                        faults.iter().any(missing),
                        demanded,
                        "{at}/{name}: {faults:?}"
                    );
                    looked_at.insert(format!("{at}/{name}"));
                }
            }
        }
        assert!(looked_at.len() > 70, "{}", looked_at.len());
    }

    #[test]
    fn a_size_and_a_duration_are_what_the_reader_takes() {
        let pattern = |takes| {
            of_value(&takes)["pattern"]
                .as_str()
                .expect("text")
                .to_owned()
        };
        for (pattern, reads) in [
            (
                pattern(Takes::Size),
                (|text| units::size(text).is_some()) as fn(&str) -> bool,
            ),
            (pattern(Takes::Duration), |text| {
                units::duration(text).is_some()
            }),
        ] {
            let pattern = regex::Regex::new(&pattern).expect("it is one");
            for text in [
                "1MiB", "64 KiB", "0B", "2ms", "10m", "", "1", "MiB", "1mib", "-1MiB", "1.5s",
                "1MiBs", " 1s", "9x",
            ] {
                assert_eq!(pattern.is_match(text), reads(text), "{text:?}");
            }
        }
    }
}
