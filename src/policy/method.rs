//! One method of the policy, from names to a plan of field numbers.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};

use super::{
    descriptors::{Descriptors, Types, field},
    fault::{Found, Position},
    file::{LiftFile, MethodFile, QueueFile, WindowFile},
    rules::{Method, Mode, count, span},
    section::At,
    units::{show_duration, show_size},
};
use crate::{
    batch::{Close, QueueSettings, WindowSettings},
    wire::{Lift, LiftedField, Plan, Shape},
};

/// What the embedded group serves; it has no way to apply anything else.
const EMBEDDED: &str = "meta.service.mqtt.MqttService/CreateSession";
/// MQTT's bound on a client identifier, whose length has 16 bits.
const MAX_KEY: usize = 65_535;
const MAX_ENTRIES: NonZeroU32 = NonZeroU32::new(500).expect("500 is not zero");
const WINDOW_BYTES: u64 = 1 << 20;
const LINGER: Duration = Duration::from_millis(2);
const LINGER_BOUNDS: (Duration, Duration) = (Duration::from_micros(50), Duration::from_secs(10));
const MAX_WAIT: Duration = Duration::from_secs(1);
const WAIT_BOUNDS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(3_600));
const QUEUE_BYTES: u64 = 64 << 20;
/// What gRPC servers accept unless told otherwise.
const MESSAGE_BYTES: u64 = 4 << 20;
const ENTRIES_BOUND: u64 = 100_000;
const WINDOW_BYTES_BOUNDS: (u64, u64) = (1 << 10, 256 << 20);
const QUEUE_BYTES_BOUNDS: (u64, u64) = (1 << 10, 64 << 30);
const MESSAGE_BYTES_BOUNDS: (u64, u64) = (1 << 10, 256 << 20);

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
    let (window, queue) = bounds(&file.path, &file.window, &file.queue, found);
    let max_message_bytes = bytes(
        file.max_message_bytes.as_ref(),
        &format!("{}.max_message_bytes", file.path),
        (MESSAGE_BYTES, MESSAGE_BYTES_BOUNDS),
        found,
    );
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

/// The bounds of window and queue. Faults are noted; what is at fault counts
/// as its default, so that the comparisons after it still mean something.
fn bounds(
    path: &str,
    window: &WindowFile,
    queue: &QueueFile,
    found: &mut Found,
) -> (WindowSettings, QueueSettings) {
    let name = |key: &str| format!("{path}.{key}");
    let entries = count(
        window.max_entries.as_ref(),
        &name("window.max_entries"),
        ENTRIES_BOUND,
        found,
    );
    let max_entries = entries
        .and_then(|entries| NonZeroU32::new(u32::try_from(entries).ok()?))
        .unwrap_or(MAX_ENTRIES);
    let window_bytes = (WINDOW_BYTES, WINDOW_BYTES_BOUNDS);
    let window_bytes = bytes(
        window.max_bytes.as_ref(),
        &name("window.max_bytes"),
        window_bytes,
        found,
    );
    let queue_bytes = (QUEUE_BYTES, QUEUE_BYTES_BOUNDS);
    let queue_bytes = bytes(
        queue.max_bytes.as_ref(),
        &name("queue.max_bytes"),
        queue_bytes,
        found,
    );
    let linger = linger(window.linger.as_ref(), &name("window.linger"), found);
    let max_wait = span(
        queue.max_wait.clone(),
        &name("queue.max_wait"),
        WAIT_BOUNDS,
        found,
    );
    let max_wait = max_wait.unwrap_or(MAX_WAIT);
    // Else every entry of a quiet window would be shed before the window closes.
    if let Some(at) =
        place(window.linger.as_ref(), queue.max_wait.as_ref()).filter(|_| linger >= max_wait)
    {
        let (linger, wait) = (show_duration(linger), show_duration(max_wait));
        let what = format!("{linger}: must be shorter than queue.max_wait, which is {wait}");
        found.add::<()>(at, format!("{}: {what}", name("window.linger")));
    }
    if let Some(at) = place(window.max_bytes.as_ref(), queue.max_bytes.as_ref())
        .filter(|_| window_bytes > queue_bytes)
    {
        let (window, queue) = (
            show_size(window_bytes as u64),
            show_size(queue_bytes as u64),
        );
        let what = format!("{window}: must be at most queue.max_bytes, which is {queue}");
        found.add::<()>(at, format!("{}: {what}", name("window.max_bytes")));
    }
    let close = window
        .close
        .as_ref()
        .map_or(Close::Adaptive, |close| close.value);
    (
        WindowSettings {
            max_entries,
            max_bytes: window_bytes,
            linger,
            close,
        },
        QueueSettings {
            max_wait,
            max_bytes: queue_bytes,
        },
    )
}

/// Where to point for two values that do not go together.
fn place<T, U>(first: Option<&At<T>>, second: Option<&At<U>>) -> Option<Position> {
    first
        .map(|first| first.at)
        .or(second.map(|second| second.at))
}

fn linger(file: Option<&At<Duration>>, path: &str, found: &mut Found) -> Duration {
    if let Some(file) = file.filter(|file| file.value < LINGER_BOUNDS.0) {
        let what = "must be at least 50us; leave the key out, and with close: adaptive \
                    a call waits for nobody while the upstream is idle";
        found.add::<()>(
            file.at,
            format!("{path}: {}: {what}", show_duration(file.value)),
        );
        return LINGER;
    }
    span(file.cloned(), path, LINGER_BOUNDS, found).unwrap_or(LINGER)
}

fn bytes(
    file: Option<&At<u64>>,
    path: &str,
    (default, (least, most)): (u64, (u64, u64)),
    found: &mut Found,
) -> usize {
    let mut value = default;
    if let Some(file) = file {
        let show = show_size;
        if file.value < least {
            let what = format!(
                "must be at least {}; leave the key out for {}",
                show(least),
                show(default)
            );
            found.add::<()>(file.at, format!("{path}: {}: {what}", show(file.value)));
        } else if file.value > most {
            let what = format!("must be at most {}; lower it", show(most));
            found.add::<()>(file.at, format!("{path}: {}: {what}", show(file.value)));
        } else {
            value = file.value;
        }
    }
    usize::try_from(value).unwrap_or(usize::MAX)
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
