//! One method of the policy, from names to a plan of field numbers.

use std::sync::Arc;

use prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};

use super::{
    bounds,
    descriptors::{Descriptors, Types, field},
    fault::Found,
    file::{LiftFile, MethodFile},
    rules::{Method, Mode},
    section::At,
};
use crate::wire::{Lift, LiftedField, Plan, Shape};

/// What the embedded group serves; it has no way to apply anything else.
const EMBEDDED: &str = "meta.service.mqtt.MqttService/CreateSession";
/// MQTT's bound on a client identifier, whose length has 16 bits.
const MAX_KEY: usize = 65_535;

/// Checks every method; those without a fault are answered.
pub(super) fn check_all(
    files: Vec<MethodFile>,
    descriptors: &Descriptors,
    embedded: bool,
    found: &mut Found,
) -> Vec<Method> {
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
    methods
}

fn check(
    file: MethodFile,
    descriptors: &Descriptors,
    embedded: bool,
    found: &mut Found,
) -> Option<Method> {
    let (window, queue) = bounds::window_and_queue(&file.path, &file.window, &file.queue, found);
    let max_message_bytes = bounds::message(&file.path, file.max_message_bytes.as_ref(), found);
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
    if embedded && selector.value != EMBEDDED {
        let what = format!("the embedded group serves {EMBEDDED} only; name endpoints for others");
        return found.add(
            selector.at,
            format!("{}.selector: {}: {what}", file.path, selector.value),
        );
    }
    if method.is_client_streaming() || method.is_server_streaming() {
        let what =
            "streams: must have one request and one reply; take it off the list to forward it";
        return found.add(
            selector.at,
            format!("{}.selector: {}: {what}", file.path, selector.value),
        );
    }
    Some(Method {
        path: format!("/{}", selector.value),
        mode: file.mode.as_ref().map_or(Mode::Enforce, |mode| mode.value),
        plan: Arc::new(plan(&file, &method, descriptors, found)?),
        window,
        queue,
        max_message_bytes,
    })
}

/// Resolves the names of `file` into the plan for `method`.
fn plan(
    file: &MethodFile,
    method: &MethodDescriptor,
    descriptors: &Descriptors,
    found: &mut Found,
) -> Option<Plan> {
    let request = method.input();
    let (batched, entry) = batched(file, &request, found)?;
    let keys = entry_fields(
        &entry,
        &file.entry_key,
        &format!("{}.entry_key", file.path),
        found,
    );
    let required = entry_fields(
        &entry,
        &file.require,
        &format!("{}.require", file.path),
        found,
    );
    let lift = file.lift.as_ref().map(|lift| {
        let needed = keys.iter().flatten().chain(required.iter().flatten());
        self::lift(
            &file.path,
            lift,
            &request,
            &entry,
            needed,
            descriptors,
            found,
        )
    });
    let (keys, required) = (scalar(keys?, file, found)?, required?);
    let lift = match lift {
        Some(lift) => Some(lift?),
        None => None,
    };
    let mut types = Types::default();
    let request_type = types.own(&request);
    let entry_type = types.own(&entry);
    types.field_mut(request_type, batched.number())?.kind = crate::wire::Kind::Message(entry_type);
    for field in &required {
        types.field_mut(entry_type, field.number())?.require = true;
    }
    for key in &keys {
        types.field_mut(entry_type, key.number())?.max_len = Some(MAX_KEY);
    }
    let shape = Shape {
        messages: types.into_messages(),
        request: request_type,
        batched_field: batched.number(),
        lift,
        entry_key: keys.iter().map(FieldDescriptor::number).collect(),
        ..Shape::default()
    };
    match Plan::new(shape) {
        Ok(plan) => Some(plan),
        Err(why) => {
            // The single form is the only part that could not be judged field by field.
            let (key, at) = match &file.lift {
                Some(lift) => ("lift", lift.from.at),
                None => ("batched_field", file.batched_field.at),
            };
            found.add(at, format!("{}.{key}: {why}", file.path))
        }
    }
}

/// The batched field and the type of its entries.
fn batched(
    file: &MethodFile,
    request: &MessageDescriptor,
    found: &mut Found,
) -> Option<(FieldDescriptor, MessageDescriptor)> {
    let At { value: name, at } = &file.batched_field;
    let path = format!("{}.batched_field", file.path);
    let batched = match field(request, name) {
        Ok(batched) => batched,
        Err(why) => return found.add(*at, format!("{path}: {name}: {why}")),
    };
    match batched.kind() {
        Kind::Message(entry) if batched.is_list() && !batched.is_group() => Some((batched, entry)),
        _ => {
            let what = "must be a repeated message, since calls are appended to it";
            found.add(*at, format!("{path}: {name}: {what}"))
        }
    }
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
fn lift<'a>(
    path: &str,
    file: &LiftFile,
    request: &MessageDescriptor,
    entry: &MessageDescriptor,
    needed: impl Iterator<Item = &'a FieldDescriptor>,
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

/// Whether a value of `one` is encoded as a value of `other`.
fn alike(one: &FieldDescriptor, other: &FieldDescriptor) -> bool {
    kind(one) == kind(other)
}

/// A field's type as its .proto file has it.
fn kind(field: &FieldDescriptor) -> String {
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
