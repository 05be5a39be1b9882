//! One method of the policy, from names to a plan of field numbers.

use std::sync::Arc;

use prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};

use super::{
    barrier, bounds,
    descriptors::{Descriptors, Types, field},
    fault::Found,
    file::{LiftFile, MethodFile},
    form::{self, Form},
    on_error, reply,
    rules::{Method, Mode},
    section::At,
};
use crate::{
    raft::command::Kind as Write,
    wire::{Condition, Is, KeyUse, Lift, LiftedField, Plan, Require, Shape},
};

/// The embedded group keeps a key's length in 16 bits, as MQTT does.
const MAX_KEY: usize = 65_535;

/// Checks every method; those without a fault are answered.
pub(super) fn check_all(
    mut files: Vec<MethodFile>,
    descriptors: &Descriptors,
    embedded: bool,
    found: &mut Found,
) -> Vec<Method> {
    let barriers = barrier::read(&mut files);
    let mut methods: Vec<Method> = Vec::with_capacity(files.len());
    for file in files {
        let (at, path) = (file.selector.at, file.path.clone());
        let Some(method) = check(file, descriptors, embedded, found) else {
            continue;
        };
        match methods.iter().any(|held| held.path == method.path) {
            true => {
                let what = format!(
                    "{path}.selector: {}: stands twice; keep one of them",
                    &method.path[1..]
                );
                found.add::<()>(at, what);
            }
            false => methods.push(method),
        }
    }
    barrier::check(&barriers, &mut methods, found);
    methods
}

fn check(
    file: MethodFile,
    descriptors: &Descriptors,
    embedded: bool,
    found: &mut Found,
) -> Option<Method> {
    let (window, queue) = bounds::window_and_queue(&file.path, &file.window, &file.queue, found);
    let max_partitions = bounds::partitions(&file.path, &file.queue, found);
    let on_error = on_error::check(&file.on_error, &format!("{}.on_error", file.path), found);
    let max_message_bytes = file.max_message_bytes.as_ref();
    let max_message_bytes = bounds::message(&file.path, max_message_bytes, queue.max_bytes, found);
    let max_reply_bytes = bounds::reply(&file.path, &file.form.reply, found);
    let selector = &file.selector;
    let method = match descriptors.method(&selector.value) {
        Ok(method) => method,
        Err(why) => {
            return found.add(
                selector.at,
                format!("{}.selector: {}: {why}", file.path, selector.value),
            );
        }
    };
    let write = match (embedded, Write::of_selector(&selector.value)) {
        (false, _) => None,
        (true, Some(write)) => Some(write),
        (true, None) => {
            let served = Write::ALL.map(Write::selector).join(", ");
            let what = format!("the embedded group takes {served}; name endpoints for others");
            return found.add(
                selector.at,
                format!("{}.selector: {}: {what}", file.path, selector.value),
            );
        }
    };
    if method.is_client_streaming() || method.is_server_streaming() {
        let what =
            "streams: must have one request and one reply; take it off the list to forward it";
        return found.add(
            selector.at,
            format!("{}.selector: {}: {what}", file.path, selector.value),
        );
    }
    let form = Form::of(&file, &method, descriptors, found)?;
    if let (true, Some(call)) = (embedded, &file.form.call) {
        let what = "the embedded group takes each write by its own path; leave the key out";
        return found.add(
            call.at,
            format!("{}.call: {}: {what}", file.path, call.value),
        );
    }
    Some(Method {
        path: format!("/{}", selector.value),
        target: format!(
            "/{}/{}",
            form.target.parent_service().full_name(),
            form.target.name()
        ),
        mode: file.mode.as_ref().map_or(Mode::Enforce, |mode| mode.value),
        plan: Arc::new(plan(&file, &method, &form, (descriptors, write), found)?),
        window,
        queue,
        max_partitions,
        barrier: Vec::new(),
        on_error,
        max_message_bytes,
        max_reply_bytes,
    })
}

/// Resolves the names of `file` into the plan for `method`; `write` is what the
/// embedded group makes of it, if there is one.
fn plan(
    file: &MethodFile,
    method: &MethodDescriptor,
    form: &Form,
    (descriptors, write): (&Descriptors, Option<Write>),
    found: &mut Found,
) -> Option<Plan> {
    let (request, entry) = (method.input(), &form.entry);
    if let Some(write) = write.filter(|write| write.batched_field() != form.batched.number()) {
        let At { value: name, at } = &file.batched_field;
        let what = format!(
            "{}.batched_field: {name}: is field {}; the embedded group reads entries from field {}",
            file.path,
            form.batched.number(),
            write.batched_field()
        );
        return found.add(*at, what);
    }
    let keys = entry_fields(
        entry,
        &file.entry_key,
        &format!("{}.entry_key", file.path),
        found,
    );
    let required = entry_fields(
        entry,
        &file.require,
        &format!("{}.require", file.path),
        found,
    );
    let lift = file.lift.as_ref().map(|lift| {
        let needed = keys.iter().flatten().chain(required.iter().flatten());
        let always = |field: &FieldDescriptor| field.cardinality() == Cardinality::Required;
        let needed = needed.cloned().chain(entry.fields().filter(always));
        self::lift(
            &file.path,
            lift,
            &request,
            entry,
            needed,
            descriptors,
            found,
        )
    });
    let discriminators = form::discriminators(file, &request, found);
    let alone_if = form::conditions(file, &request, found);
    let at = file
        .form
        .call
        .as_ref()
        .map_or(file.selector.at, |call| call.at);
    let place = (&*file.path, at);
    let reply = reply::check(place, &file.form.reply, method, &form.target, found);
    let use_of_keys = key_use(file, found);
    let bounds = max_field_bytes(file, entry, found);
    let (keys, required) = (scalar(keys?, file, found)?, required?);
    for (field, name) in required.iter().zip(&file.require) {
        form::one_of_none(field, name, &format!("{}.require", file.path), found)?;
    }
    let lift = match lift {
        Some(lift) => Some(lift?),
        None => None,
    };
    let (discriminators, mut alone_if) = (discriminators?, alone_if?);
    if let Some(lift) = lift
        .as_ref()
        .filter(|lift| lift.from == request.full_name())
    {
        let paths = discriminators.iter().map(Vec::as_slice);
        form::stays(file, (lift, entry), paths, &alone_if, found)?;
    }
    let mut types = Types::default();
    let request_type = types.own(&request);
    if let Some(lift) = lift.iter().find(|lift| lift.from == request.full_name()) {
        // A single form that is part of the same message: its fields are
        // lifted, and no longer what parts calls.
        types.forget(request_type, |number| {
            lift.fields.iter().any(|lifted| lifted.from == number)
        });
    }
    let mut entry_type = request_type;
    if form.wrap.is_none() {
        entry_type = types.own(entry);
        types.field_mut(request_type, form.batched.number())?.kind =
            crate::wire::Kind::Message(entry_type);
    }
    for field in &required {
        types.field_mut(entry_type, field.number())?.require = Require::Filled;
    }
    if write.is_some() {
        for key in &keys {
            types.field_mut(entry_type, key.number())?.max_len = Some(MAX_KEY);
        }
    }
    for (number, bound) in bounds? {
        types.field_mut(entry_type, number)?.max_len = Some(bound);
    }
    // Not a matter of the policy: merged, a conditional write would be judged
    // together with calls that expect nothing.
    let condition = write.and_then(Write::condition).map(|path| Condition {
        path: path.to_vec(),
        is: Is::Present,
    });
    alone_if.extend(condition.filter(|condition| !alone_if.contains(condition)));
    let shape = Shape {
        messages: types.into_messages(),
        request: request_type,
        batched_field: form.batched.number(),
        lift,
        wrap: form.wrap.clone(),
        entry_key: keys.iter().map(FieldDescriptor::number).collect(),
        keys: use_of_keys?,
        discriminators,
        alone_if,
        reply: reply?,
    };
    match Plan::new(shape) {
        Ok(plan) => Some(plan),
        Err(why) => {
            let (key, name) = form::blame(file, &why);
            found.add(name.at, format!("{}.{key}: {why}", file.path))
        }
    }
}

/// What the keys are for; where they stand once in a batch there must be some.
fn key_use(file: &MethodFile, found: &mut Found) -> Option<KeyUse> {
    match &file.form.keys {
        Some(At {
            value: KeyUse::Distinct,
            at,
        }) if file.entry_key.is_empty() => {
            let what = "next_batch: needs entry_key; name the fields that make two entries one";
            found.add(*at, format!("{}.on_duplicate_key: {what}", file.path))
        }
        Some(At {
            value: KeyUse::Distinct,
            ..
        }) => Some(KeyUse::Distinct),
        _ if file.ordered => Some(KeyUse::Note),
        keys => Some(keys.as_ref().map_or(KeyUse::Ignore, |keys| keys.value)),
    }
}

/// The bounds of the entry's fields, by number.
fn max_field_bytes(
    file: &MethodFile,
    entry: &MessageDescriptor,
    found: &mut Found,
) -> Option<Vec<(u32, usize)>> {
    let mut bounds = Vec::with_capacity(file.form.max_field_bytes.len());
    for (At { value: name, at }, bound) in &file.form.max_field_bytes {
        let path = format!("{}.max_field_bytes.{name}", file.path);
        match field(entry, name) {
            Err(why) => found.add::<()>(*at, format!("{path}: {why}")),
            Ok(field) if !matches!(field.kind(), Kind::String | Kind::Bytes | Kind::Message(_)) => {
                let what = format!("is {}: must be text, bytes or a message", kind(&field));
                found.add::<()>(*at, format!("{path}: {what}"))
            }
            Ok(field) => {
                bounds.push((field.number(), *bound));
                continue;
            }
        };
    }
    (bounds.len() == file.form.max_field_bytes.len()).then_some(bounds)
}

/// The fields of `entry` that `names` name, each a single
/// value; `None` where any is at fault.
fn entry_fields(
    entry: &MessageDescriptor,
    names: &[At<String>],
    path: &str,
    found: &mut Found,
) -> Option<Vec<FieldDescriptor>> {
    let mut fields: Vec<FieldDescriptor> = Vec::with_capacity(names.len());
    for (i, At { value: name, at }) in names.iter().enumerate() {
        let mut fault = |what: &str| found.add::<()>(*at, format!("{path}[{i}]: {name}: {what}"));
        match field(entry, name) {
            Err(why) => fault(&why),
            Ok(field) if fields.contains(&field) => fault("stands twice; keep one of them"),
            Ok(field) if field.cardinality() == Cardinality::Repeated => {
                fault("must be a single value; name another field")
            }
            Ok(field) => {
                fields.push(field);
                continue;
            }
        };
    }
    (fields.len() == names.len()).then_some(fields)
}

/// `keys`, none of which may be a message: two encodings of one would be two keys.
fn scalar(
    keys: Vec<FieldDescriptor>,
    file: &MethodFile,
    found: &mut Found,
) -> Option<Vec<FieldDescriptor>> {
    for (key, written) in keys.iter().zip(&file.entry_key) {
        form::one_of_none(key, written, &format!("{}.entry_key", file.path), found)?;
        if let Kind::Message(_) = key.kind() {
            let what = format!(
                "{}.entry_key: {}: is a message: must be text, bytes or a number",
                file.path,
                key.name()
            );
            return found.add(written.at, what);
        }
    }
    Some(keys)
}

/// The single form; `needed` are the entry's fields without which none is valid.
fn lift(
    path: &str,
    file: &LiftFile,
    request: &MessageDescriptor,
    entry: &MessageDescriptor,
    needed: impl Iterator<Item = FieldDescriptor>,
    descriptors: &Descriptors,
    found: &mut Found,
) -> Option<Lift> {
    let single = match descriptors.message(&file.from.value, request.package_name()) {
        Ok(single) => single,
        Err(why) => {
            return found.add(
                file.from.at,
                format!("{path}.lift.from: {}: {why}", file.from.value),
            );
        }
    };
    let mut lifted: Vec<LiftedField> = Vec::with_capacity(file.fields.len());
    for (from, to) in &file.fields {
        let mut fault = |at, what: &str| {
            found.add::<()>(at, format!("{path}.lift.fields.{}: {what}", from.value))
        };
        match (field(&single, &from.value), field(entry, &to.value)) {
            (Err(why), _) => fault(from.at, &why),
            (_, Err(why)) => fault(to.at, &format!("{}: {why}", to.value)),
            (Ok(one), Ok(other)) if !alike(&one, &other) => {
                let what = format!(
                    "is {}, {} is {}; both must be the same",
                    kind(&one),
                    to.value,
                    kind(&other)
                );
                fault(to.at, &what)
            }
            (Ok(one), Ok(other)) if is_choice(&one) != is_choice(&other) => {
                let (one, other) = if is_choice(&one) {
                    (&one, &other)
                } else {
                    (&other, &one)
                };
                let what = format!(
                    "{} is a member of a oneof and {} is of none: must be alike",
                    one.full_name(),
                    other.full_name()
                );
                fault(to.at, &what)
            }
            (Ok(_), Ok(other)) if lifted.iter().any(|held| held.to == other.number()) => fault(
                to.at,
                &format!("{}: is filled twice; keep one of them", to.value),
            ),
            (Ok(one), Ok(other)) => {
                lifted.push(LiftedField {
                    from: one.number(),
                    name: one.name().into(),
                    to: other.number(),
                });
                continue;
            }
        };
    }
    if lifted.len() < file.fields.len() {
        return None;
    }
    for field in needed {
        if !lifted.iter().any(|lifted| lifted.to == field.number()) {
            let what = format!(
                "must fill {}, which is a key or required; add it",
                field.name()
            );
            return found.add(file.from.at, format!("{path}.lift.fields: {what}"));
        }
    }
    Some(Lift {
        from: single.full_name().into(),
        fields: lifted,
    })
}

/// Whether another field's value can take that of `field` away.
fn is_choice(field: &FieldDescriptor) -> bool {
    let choice = field.containing_oneof();
    choice.is_some_and(|choice| !choice.is_synthetic())
}

/// Whether a value of `one` is encoded as a value of `other`.
pub(super) fn alike(one: &FieldDescriptor, other: &FieldDescriptor) -> bool {
    kind(one) == kind(other)
}

/// A field's type as its .proto file has it.
pub(super) fn kind(field: &FieldDescriptor) -> String {
    let kind = match field.kind() {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(kind) => kind.full_name().to_owned(),
        other => format!("{other:?}").to_lowercase(),
    };
    match field.is_list() || field.is_map() {
        true => format!("repeated {kind}"),
        false => kind,
    }
}
