//! Reads the keys of a method that say how requests merge, what keeps one
//! alone, and how a reply falls into parts.

use super::{
    fault::Found,
    keys_method::{CONDITION, HELD, REPLY},
    section::{At, Section},
    tree::{Node, Value},
    units,
};
use crate::wire::{HeldIs, Is, KeyUse};

/// The gRPC codes that a policy may give, by name and number.
const CODES: [(&str, Option<i32>); 8] = [
    ("UNKNOWN", Some(2)),
    ("NOT_FOUND", Some(5)),
    ("ALREADY_EXISTS", Some(6)),
    ("RESOURCE_EXHAUSTED", Some(8)),
    ("FAILED_PRECONDITION", Some(9)),
    ("ABORTED", Some(10)),
    ("INTERNAL", Some(13)),
    ("UNAVAILABLE", Some(14)),
];

/// How requests merge and replies split, as written.
#[derive(Debug, Default)]
pub(super) struct FormFile {
    pub(super) call: Option<At<String>>,
    pub(super) wrap: Option<At<String>>,
    pub(super) discriminators: Vec<At<String>>,
    pub(super) alone_if: Vec<(At<String>, Is)>,
    pub(super) keys: Option<At<KeyUse>>,
    pub(super) max_field_bytes: Vec<(At<String>, usize)>,
    pub(super) reply: ReplyFile,
}

/// The `reply` key.
#[derive(Debug, Default)]
pub(super) struct ReplyFile {
    pub(super) subresponse: Option<At<String>>,
    pub(super) unwrap: Option<At<String>>,
    pub(super) fill: Vec<(At<String>, At<String>)>,
    pub(super) status: Option<At<String>>,
    pub(super) require: Vec<HeldFile>,
    pub(super) max_bytes: Option<At<u64>>,
}

/// One of `reply.require`.
#[derive(Debug)]
pub(super) struct HeldFile {
    pub(super) field: At<String>,
    pub(super) is: HeldIs,
    pub(super) code: Option<i32>,
}

impl FormFile {
    /// Reads the keys out of one of `methods`.
    pub(super) fn read(method: &Section<'_>, found: &mut Found) -> Self {
        let keys = [
            ("keep", Some(KeyUse::Ignore)),
            ("next_batch", Some(KeyUse::Distinct)),
        ];
        Self {
            call: method.text("call", found),
            wrap: method.text("wrap", found),
            discriminators: method
                .texts("discriminator_fields", found)
                .unwrap_or_default(),
            alone_if: conditions(method, found),
            keys: method.choice("on_duplicate_key", &keys, found),
            max_field_bytes: sizes(method, found),
            reply: reply(method, found),
        }
    }
}

fn conditions(method: &Section<'_>, found: &mut Found) -> Vec<(At<String>, Is)> {
    let list = method.list("unbatchable_if", found).unwrap_or_default();
    let states = [("present", Some(Is::Present)), ("empty", Some(Is::Empty))];
    let mut conditions = Vec::with_capacity(list.len());
    for (i, node) in list.iter().enumerate() {
        let path = format!("{}[{i}]", method.path_of("unbatchable_if"));
        let Some(condition) = Section::open(node, &path, &CONDITION, found) else {
            continue;
        };
        let field = condition.require("field", "name the field, from the request down", found);
        let is = condition.require("is", "write is: present, or is: empty", found);
        let field = field.and_then(|()| condition.text("field", found));
        let is = is.and_then(|()| condition.choice("is", &states, found));
        conditions.extend(field.zip(is).map(|(field, is)| (field, is.value)));
    }
    conditions
}

fn sizes(method: &Section<'_>, found: &mut Found) -> Vec<(At<String>, usize)> {
    let key = "max_field_bytes";
    if method.node(key).is_none() {
        return Vec::new();
    }
    let mut sizes = Vec::new();
    for (field, text) in method.pairs(key, found).unwrap_or_default() {
        let size = units::size(&text.value).and_then(|size| usize::try_from(size).ok());
        match size.filter(|size| *size > 0) {
            Some(size) => sizes.push((field, size)),
            None => {
                let (path, value) = (method.path_of(key), Value::Text(text.value).kind());
                let what = "must be a size with its unit, such as 64KiB or 1MiB";
                found.add::<()>(text.at, format!("{path}.{}: {value}: {what}", field.value));
            }
        }
    }
    sizes
}

fn reply(method: &Section<'_>, found: &mut Found) -> ReplyFile {
    let Some(node) = method.node("reply") else {
        return ReplyFile::default();
    };
    let Value::Map(_) = node.value else {
        method.choice("reply", &[("replicate", Some(()))], found);
        return ReplyFile::default();
    };
    let Some(reply) = Section::open(node, &method.path_of("reply"), &REPLY, found) else {
        return ReplyFile::default();
    };
    let require = reply.list("require", found).unwrap_or_default();
    let held = |(i, node)| held(node, &format!("{}[{i}]", reply.path_of("require")), found);
    let require = require.iter().enumerate().filter_map(held).collect();
    let fill = reply.node("fill").is_some();
    ReplyFile {
        subresponse: reply.text("subresponse_field", found),
        unwrap: reply.text("unwrap", found),
        fill: fill
            .then(|| reply.pairs("fill", found))
            .flatten()
            .unwrap_or_default(),
        status: reply.text("status_field", found),
        require,
        max_bytes: reply.size("max_bytes", found),
    }
}

fn held(node: &Node, path: &str, found: &mut Found) -> Option<HeldFile> {
    let held = Section::open(node, path, &HELD, found)?;
    let field = held.require("field", "name a field of the reply", found);
    let is = held.require("is", "write is: true, is: false or is: present", found);
    let code = held.choice("else", &CODES, found);
    let is = is.and_then(|()| {
        let node = held.node("is")?;
        match &node.value {
            Value::Flag(flag) => Some(HeldIs::Flag(*flag)),
            Value::Text(text) if text == "present" => Some(HeldIs::Present),
            value => {
                let what = format!("{}: must be true, false or present", value.kind());
                found.add(node.at, format!("{}: {what}", held.path_of("is")))
            }
        }
    });
    Some(HeldFile {
        field: field.and_then(|()| held.text("field", found))?,
        is: is?,
        code: code.map(|code| code.value),
    })
}
