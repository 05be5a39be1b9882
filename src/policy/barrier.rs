//! The `barrier` key: which methods' earlier calls a call waits for.

use std::collections::BTreeSet;

use super::{
    fault::{Found, nearest},
    file::MethodFile,
    rules::Method,
    section::At,
};
use crate::wire::Kind;

/// Marks the methods of `files` whose keys have to be known, since they wait
/// or are waited for; the answer is what each of them waits for.
pub(super) fn read(files: &mut [MethodFile]) -> Vec<Barrier> {
    let awaited = files.iter().flat_map(|file| &file.barrier);
    let awaited: BTreeSet<_> = awaited.map(|name| name.value.clone()).collect();
    for file in &mut *files {
        file.ordered = !file.barrier.is_empty() || awaited.contains(&file.selector.value);
    }
    let read = files.iter().map(|file| Barrier {
        path: format!("{}.barrier", file.path),
        of: file.selector.value.clone(),
        names: file.barrier.clone(),
    });
    read.collect()
}

/// What one method waits for, as written.
pub(super) struct Barrier {
    path: String,
    of: String,
    names: Vec<At<String>>,
}

/// Resolves what the methods wait for, once all of them are checked.
pub(super) fn check(barriers: &[Barrier], methods: &mut [Method], found: &mut Found) {
    for Barrier { path, of, names } in barriers {
        let mut awaits = Vec::with_capacity(names.len());
        for (i, At { value: name, at }) in names.iter().enumerate() {
            let mut fault = |what: String| {
                found.add::<()>(*at, format!("{path}[{i}]: {name}: {what}"));
            };
            if !barriers.iter().any(|other| other.of == *name) {
                let known = barriers.iter().map(|other| &*other.of);
                let meant = nearest(name, known);
                fault(format!("must be a method of this policy{meant}"));
                continue;
            }
            let method = |name: &str| methods.iter().find(|method| method.path[1..] == *name);
            // One that has a fault of its own has been told so.
            let (Some(own), Some(other)) = (method(of), method(name)) else {
                continue;
            };
            let (own, other) = (keys(own), keys(other));
            if own.is_empty() || own != other {
                let what = "must have the same entry_key as this method has: as many fields, of \
                            the same types, at least one";
                fault(what.to_owned());
                continue;
            }
            awaits.push(format!("/{name}"));
        }
        let mut own = methods.iter_mut();
        if let Some(own) = own.find(|method| method.path[1..] == **of) {
            own.barrier = awaits;
        }
    }
}

/// The types of a method's keys, in order.
fn keys(method: &Method) -> Vec<Kind> {
    let plan = &method.plan;
    let kind = |number: &u32| {
        let mut fields = plan.entry_fields();
        fields.find(|field| field.number == *number).map(|f| f.kind)
    };
    // Text and bytes are alike as bytes.
    let alike = |kind| match kind {
        Kind::Text => Kind::Bytes,
        kind => kind,
    };
    plan.entry_key()
        .iter()
        .filter_map(kind)
        .map(alike)
        .collect()
}
