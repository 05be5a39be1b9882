//! Where entries go: into the request's own list, or whole into another
//! method's; and the fields, by path, that keep requests apart.

use prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};

use super::{
    descriptors::{Descriptors, field},
    fault::Found,
    file::MethodFile,
    section::At,
};
use crate::wire::{Condition, Is, Lift, Wrap};

/// Where the entries of a method go.
pub(super) struct Form {
    /// The method that batches call: the one that is listed, or another.
    pub(super) target: MethodDescriptor,
    /// The field that holds entries, in the target's request.
    pub(super) batched: FieldDescriptor,
    /// The type whose fields are an entry's, as rules name them.
    pub(super) entry: MessageDescriptor,
    /// What stands around a whole request, where the target is another method.
    pub(super) wrap: Option<Wrap>,
}

impl Form {
    /// Resolves where the calls of `method` go.
    pub(super) fn of(
        file: &MethodFile,
        method: &MethodDescriptor,
        descriptors: &Descriptors,
        found: &mut Found,
    ) -> Option<Self> {
        let Some(call) = &file.form.call else {
            if let Some(At { value, at }) = &file.form.wrap {
                let what = "wraps a request for another method: name that with call";
                return found.add(*at, format!("{}.wrap: {value}: {what}", file.path));
            }
            let (batched, entry) = batched(file, &method.input(), found)?;
            return Some(Self {
                target: method.clone(),
                batched,
                entry,
                wrap: None,
            });
        };
        let target = match descriptors.method(&call.value) {
            Ok(target) => target,
            Err(why) => {
                return found.add(
                    call.at,
                    format!("{}.call: {}: {why}", file.path, call.value),
                );
            }
        };
        let fault = |what: &str, found: &mut Found| {
            found.add(
                call.at,
                format!("{}.call: {}: {what}", file.path, call.value),
            )
        };
        if target.is_client_streaming() || target.is_server_streaming() {
            return fault("streams: must have one request and one reply", found);
        }
        if file.lift.is_some() {
            return fault(
                "stands beside lift, which is for one path: keep one of them",
                found,
            );
        }
        let (batched, element) = batched(file, &target.input(), found)?;
        let within = self::wrap(file, method, &element, &batched, found)?;
        // What stands around a request has nothing else to say.
        let must = |field: &FieldDescriptor| field.cardinality() == Cardinality::Required;
        let mut unsaid: Vec<_> = target.input().fields().filter(must).collect();
        if let Some((inner, _)) = &within {
            let around = element.fields().filter(must);
            unsaid.extend(around.filter(|field| field.number() != *inner));
        }
        if let Some(field) = unsaid.first() {
            let what = format!("requires {}, which no call says", field.full_name());
            return fault(&what, found);
        }
        let wrap = Wrap {
            request: target.input().full_name().into(),
            batched: batched.name().into(),
            field: within,
        };
        Some(Self {
            target,
            batched,
            entry: method.input(),
            wrap: Some(wrap),
        })
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

/// The field of `element` that holds a request of `method`; `Some(None)` where
/// the request is the element.
fn wrap(
    file: &MethodFile,
    method: &MethodDescriptor,
    element: &MessageDescriptor,
    batched: &FieldDescriptor,
    found: &mut Found,
) -> Option<Option<(u32, String)>> {
    let request = method.input();
    let Some(At { value: name, at }) = &file.form.wrap else {
        if *element == request {
            return Some(None);
        }
        let what = format!(
            "holds {}, and {} takes {}: name the field between them with wrap",
            element.full_name(),
            method.name(),
            request.full_name()
        );
        let path = format!("{}.batched_field: {}", file.path, batched.name());
        return found.add(file.batched_field.at, format!("{path}: {what}"));
    };
    let path = format!("{}.wrap: {name}", file.path);
    match field(element, name) {
        Err(why) => found.add(*at, format!("{path}: {why}")),
        Ok(inner) if inner.kind() != Kind::Message(request.clone()) || inner.is_list() => {
            let what = format!("must be one {}, as callers send it", request.full_name());
            found.add(*at, format!("{path}: {what}"))
        }
        Ok(inner) => Some(Some((inner.number(), inner.name().into()))),
    }
}

/// `discriminator_fields`, each as numbers from the request down.
pub(super) fn discriminators(
    file: &MethodFile,
    request: &MessageDescriptor,
    found: &mut Found,
) -> Option<Vec<Vec<u32>>> {
    let paths: Vec<_> = file
        .form
        .discriminators
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let at = format!("{}.discriminator_fields[{i}]", file.path);
            let steps = path(request, name, &at, found)?;
            for step in &steps {
                one_of_none(step, name, &at, found)?;
            }
            Some(numbers(&steps))
        })
        .collect();
    paths.into_iter().collect()
}

/// `unbatchable_if`, each as numbers from the request down.
pub(super) fn conditions(
    file: &MethodFile,
    request: &MessageDescriptor,
    found: &mut Found,
) -> Option<Vec<Condition>> {
    let mut conditions = Vec::with_capacity(file.form.alone_if.len());
    for (i, (name, is)) in file.form.alone_if.iter().enumerate() {
        let at = format!("{}.unbatchable_if[{i}].field", file.path);
        let steps = path(request, name, &at, found);
        // Of one that is there nobody asks whether it counts.
        let steps = steps.filter(|steps| {
            let mut steps = steps.iter();
            *is == Is::Present || steps.all(|step| one_of_none(step, name, &at, found).is_some())
        });
        conditions.push(steps.map(|steps| Condition {
            path: numbers(&steps),
            is: *is,
        }));
    }
    conditions.into_iter().collect()
}

/// What parts calls must still be there when the single form has been lifted,
/// where that is part of the same message: its fields have gone to the entry.
pub(super) fn stays<'a>(
    file: &MethodFile,
    (lift, entry): (&Lift, &MessageDescriptor),
    discriminators: impl Iterator<Item = &'a [u32]>,
    alone_if: &'a [Condition],
    found: &mut Found,
) -> Option<()> {
    let form = &file.form;
    let names = form.discriminators.iter().enumerate();
    let names = names.map(|(i, name)| (format!("discriminator_fields[{i}]"), name));
    let conditions = form.alone_if.iter().enumerate();
    let conditions = conditions.map(|(i, (name, _))| (format!("unbatchable_if[{i}].field"), name));
    let paths = alone_if.iter().map(|condition| condition.path.as_slice());
    let all = names.zip(discriminators).chain(conditions.zip(paths));
    let mut all_stay = Some(());
    for ((key, name), path) in all {
        let lifted = lift
            .fields
            .iter()
            .find(|field| path.first() == Some(&field.from));
        let Some(to) = lifted.and_then(|field| entry.get_field(field.to)) else {
            continue;
        };
        let what = format!(
            "is lifted to {}.{}, where each entry has its own; leave it out",
            file.batched_field.value,
            to.name()
        );
        all_stay = found.add(
            name.at,
            format!("{}.{key}: {}: {what}", file.path, name.value),
        );
    }
    all_stay
}

fn numbers(steps: &[FieldDescriptor]) -> Vec<u32> {
    steps.iter().map(FieldDescriptor::number).collect()
}

/// The fields of a dotted path.
fn path(
    request: &MessageDescriptor,
    name: &At<String>,
    at: &str,
    found: &mut Found,
) -> Option<Vec<FieldDescriptor>> {
    let At { value, at: place } = name;
    let mut message = Some(request.clone());
    let mut steps: Vec<FieldDescriptor> = Vec::new();
    for step in value.split('.') {
        let Some(within) = message else {
            let parent = steps.last().map_or("", FieldDescriptor::full_name);
            let what = format!("{parent} is no message, so it has no {step}");
            return found.add(*place, format!("{at}: {value}: {what}"));
        };
        let field = match field(&within, step) {
            Ok(field) => field,
            Err(why) => return found.add(*place, format!("{at}: {value}: {why}")),
        };
        message = match field.kind() {
            Kind::Message(within) => Some(within),
            _ => None,
        };
        steps.push(field);
    }
    Some(steps)
}

/// A value that another field's can take away cannot tell entries apart.
pub(super) fn one_of_none(
    field: &FieldDescriptor,
    name: &At<String>,
    at: &str,
    found: &mut Found,
) -> Option<()> {
    let choice = field
        .containing_oneof()
        .filter(|choice| !choice.is_synthetic());
    match choice {
        None => Some(()),
        Some(choice) => {
            let what = format!(
                "is one of the oneof {}: must stand for itself",
                choice.name()
            );
            found.add(name.at, format!("{at}: {}: {what}", name.value))
        }
    }
}

/// Where to point for a plan that contradicts itself.
pub(super) fn blame<'a>(
    file: &'a MethodFile,
    why: &crate::wire::PlanError,
) -> (&'static str, &'a At<String>) {
    use crate::wire::PlanError::{EmptyElsewhere, ManyRemembered, NotOneValue};
    let form = &file.form;
    let empty = form.alone_if.iter().find(|(_, is)| *is == Is::Empty);
    let (key, name) = match why {
        NotOneValue { .. } | ManyRemembered { .. } => {
            ("discriminator_fields", form.discriminators.first())
        }
        EmptyElsewhere { .. } => ("unbatchable_if", empty.map(|(name, _)| name)),
        // The single form is the only other part that is not judged field by field.
        _ => ("lift", file.lift.as_ref().map(|lift| &lift.from)),
    };
    name.map_or(("batched_field", &file.batched_field), |name| (key, name))
}
