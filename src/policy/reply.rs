//! How a reply falls into parts, from names to field numbers.

use prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};

use super::{
    descriptors::field,
    fault::{Found, Position},
    method::{alike, kind},
    read_form::{HeldFile, ReplyFile},
    section::At,
};
use crate::wire::{Fill, Held, HeldIs, ReplyShape, SplitShape, StatusShape};

/// What a caller is told where a reply does not say what it must.
const INTERNAL: i32 = 13;

/// Resolves `file`. `target` is the method that batches call, another than
/// `method` where the policy says so.
pub(super) fn check(
    (path, at): (&str, Position),
    file: &ReplyFile,
    method: &MethodDescriptor,
    target: &MethodDescriptor,
    found: &mut Found,
) -> Option<ReplyShape> {
    let reply = target.output();
    let held: Vec<_> = file
        .require
        .iter()
        .enumerate()
        .map(|(i, held)| self::held(&format!("{path}.reply.require[{i}]"), held, &reply, found))
        .collect();
    let split = match &file.subresponse {
        Some(name) => Some(
            Splitting {
                path,
                file,
                reply: &reply,
            }
            .check(name, method, target, found)?,
        ),
        None => {
            whole(path, file, found)?;
            if reply != method.output() {
                return found.add(at, unsplit(path, method, target));
            }
            None
        }
    };
    Some(ReplyShape {
        name: reply.full_name().into(),
        require: held.into_iter().collect::<Option<_>>()?,
        split,
    })
}

fn unsplit(path: &str, method: &MethodDescriptor, target: &MethodDescriptor) -> String {
    format!(
        "{path}.reply: {} answers {}, and callers of {} get {}: \
         name the field of its parts with subresponse_field",
        target.name(),
        target.output().full_name(),
        method.name(),
        method.output().full_name()
    )
}

/// Whether each caller may get the reply as a whole: nothing is asked of its parts.
fn whole(path: &str, file: &ReplyFile, found: &mut Found) -> Option<()> {
    let parts = [
        ("unwrap", file.unwrap.as_ref()),
        ("fill", file.fill.first().map(|(from, _)| from)),
        ("status_field", file.status.as_ref()),
    ];
    let asked = parts
        .into_iter()
        .find_map(|(key, value)| Some((key, value?.at)));
    match asked {
        None => Some(()),
        Some((key, at)) => {
            let what = "speaks of sub-responses: name their field with subresponse_field";
            found.add(at, format!("{path}.reply.{key}: {what}"))
        }
    }
}

fn held(path: &str, file: &HeldFile, reply: &MessageDescriptor, found: &mut Found) -> Option<Held> {
    let At { value: name, at } = &file.field;
    let one = named(reply, &file.field, &format!("{path}.field"), found)?;
    if matches!(file.is, HeldIs::Flag(_)) && (one.kind() != Kind::Bool || one.is_list()) {
        let what = format!("is {}: must be bool to be true or false", kind(&one));
        return found.add(*at, format!("{path}.field: {name}: {what}"));
    }
    Some(Held {
        number: one.number(),
        name: one.name().into(),
        is: file.is,
        code: file.code.unwrap_or(INTERNAL),
    })
}

fn named(
    message: &MessageDescriptor,
    name: &At<String>,
    path: &str,
    found: &mut Found,
) -> Option<FieldDescriptor> {
    match field(message, &name.value) {
        Ok(field) => Some(field),
        Err(why) => found.add(name.at, format!("{path}: {}: {why}", name.value)),
    }
}

/// A reply that falls into parts.
struct Splitting<'a> {
    path: &'a str,
    file: &'a ReplyFile,
    reply: &'a MessageDescriptor,
}

impl Splitting<'_> {
    fn check(
        &self,
        name: &At<String>,
        method: &MethodDescriptor,
        target: &MethodDescriptor,
        found: &mut Found,
    ) -> Option<SplitShape> {
        let path = format!("{}.reply.subresponse_field", self.path);
        let subresponse = named(self.reply, name, &path, found)?;
        let element = match subresponse.kind() {
            Kind::Message(element) if subresponse.is_list() && !subresponse.is_group() => element,
            _ => {
                let what = "must be a repeated message, one for each entry";
                return found.add(name.at, format!("{path}: {}: {what}", name.value));
            }
        };
        let status = match &self.file.status {
            Some(name) => Some(self.status(&element, name, found)?),
            None => None,
        };
        if method == target {
            self.nothing_to_unwrap(found)?;
            return Some(SplitShape {
                subresponse: subresponse.number(),
                name: name.value.clone(),
                status,
                ..SplitShape::default()
            });
        }
        let (unwrap, part) = self.part(&element, found)?;
        if part != method.output() {
            let at = self.file.unwrap.as_ref().unwrap_or(name).at;
            let (is, must) = (part.full_name(), method.output());
            let what = format!(
                "is {is}, and callers of {} get {}: name the field that holds it with unwrap",
                method.name(),
                must.full_name()
            );
            return found.add(at, format!("{}.reply: a part {what}", self.path));
        }
        let fill = self.file.fill.iter();
        let fill: Vec<_> = fill
            .map(|(from, to)| self.fill(&part, from, to, found))
            .collect();
        Some(SplitShape {
            subresponse: subresponse.number(),
            name: name.value.clone(),
            unwrap,
            fill: fill.into_iter().collect::<Option<_>>()?,
            status,
        })
    }

    /// Where the batch is answered as each call would be, a part is that
    /// reply with fewer sub-responses.
    fn nothing_to_unwrap(&self, found: &mut Found) -> Option<()> {
        let fill = self.file.fill.first().map(|(from, _)| from);
        let asked = [("unwrap", self.file.unwrap.as_ref()), ("fill", fill)];
        let asked = asked
            .into_iter()
            .find_map(|(key, value)| Some((key, value?.at)));
        match asked {
            None => Some(()),
            Some((key, at)) => {
                let what = "is for replies of another method: \
                            without call each caller gets the reply with its own sub-responses";
                found.add(at, format!("{}.reply.{key}: {what}", self.path))
            }
        }
    }

    /// What a sub-response holds for its caller.
    #[allow(clippy::type_complexity)]
    fn part(
        &self,
        element: &MessageDescriptor,
        found: &mut Found,
    ) -> Option<(Option<(u32, String)>, MessageDescriptor)> {
        let Some(name) = &self.file.unwrap else {
            return Some((None, element.clone()));
        };
        let path = format!("{}.reply.unwrap", self.path);
        let inner = named(element, name, &path, found)?;
        match inner.kind() {
            Kind::Message(part) if single(&inner) => {
                Some((Some((inner.number(), inner.name().into())), part))
            }
            _ => {
                let what = "must be a message that stands once, since it is one caller's reply";
                found.add(name.at, format!("{path}: {}: {what}", name.value))
            }
        }
    }

    fn fill(
        &self,
        part: &MessageDescriptor,
        from: &At<String>,
        to: &At<String>,
        found: &mut Found,
    ) -> Option<Fill> {
        let path = format!("{}.reply.fill.{}", self.path, from.value);
        let (outer, inner) = (
            named(self.reply, from, &path, found),
            named(part, to, &path, found),
        );
        let (outer, inner) = (outer?, inner?);
        if !single(&outer) || !single(&inner) || !alike(&outer, &inner) {
            let what = format!(
                "is {}, {} is {}: both must be one value of one type",
                kind(&outer),
                to.value,
                kind(&inner)
            );
            return found.add(to.at, format!("{path}: {what}"));
        }
        Some(Fill {
            from: outer.number(),
            from_name: outer.name().into(),
            to: inner.number(),
            to_name: inner.name().into(),
            message: matches!(outer.kind(), Kind::Message(_)),
        })
    }

    /// A field in the shape of `google.rpc.Status`.
    fn status(
        &self,
        element: &MessageDescriptor,
        name: &At<String>,
        found: &mut Found,
    ) -> Option<StatusShape> {
        let path = format!("{}.reply.status_field", self.path);
        let field = named(element, name, &path, found)?;
        let shape = match field.kind() {
            Kind::Message(status) if single(&field) => {
                let number = |name: &str, fits: fn(&FieldDescriptor) -> bool| {
                    let field = status.get_field_by_name(name);
                    field.filter(fits).map(|field| field.number())
                };
                let code = number("code", |field| {
                    single(field) && matches!(field.kind(), Kind::Int32 | Kind::Enum(_))
                });
                let message = number("message", |field| {
                    single(field) && field.kind() == Kind::String
                });
                code.zip(message).map(|(code, message)| StatusShape {
                    field: field.number(),
                    code,
                    message,
                    details: number("details", FieldDescriptor::is_list),
                })
            }
            _ => None,
        };
        let what = "must be a message like google.rpc.Status: int32 code and string message";
        shape.or_else(|| found.add(name.at, format!("{path}: {}: {what}", name.value)))
    }
}

fn single(field: &FieldDescriptor) -> bool {
    field.cardinality() != Cardinality::Repeated && !field.is_group()
}
