//! Names resolved against protobuf descriptors, and compiled into a plan.
//!
//! Each source is a pool of its own and the policy's come before the built-in
//! one, so that a file may bring its own version of a service that ferry
//! knows. A .proto file is compiled here, in the process: nothing to install.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use prost_reflect::{
    Cardinality, DescriptorPool, FieldDescriptor, Kind as ProtoKind, MessageDescriptor,
    MethodDescriptor,
};

use super::{
    fault::{Found, nearest},
    regular,
    section::At,
};
use crate::wire::{Field, Kind, Message, Require};

/// Most bytes that a descriptor file may have.
const MAX_BYTES: u64 = 32 << 20;
/// How many folders up from a .proto file its imports may be rooted.
const MAX_ROOTS: usize = 16;

/// Every descriptor that a policy may refer to.
pub(super) struct Descriptors {
    pools: Vec<DescriptorPool>,
    /// Files that the policy's import.
    pub(super) imported: Vec<PathBuf>,
}

impl Descriptors {
    /// The files that the policy names, relative to `folder`, then the built-in ones.
    pub(super) fn open(files: &[At<String>], folder: &Path, found: &mut Found) -> Self {
        let (mut pools, mut imported) = (Vec::with_capacity(files.len() + 1), Vec::new());
        for (i, file) in files.iter().enumerate() {
            match pool(&folder.join(&file.value), &mut imported) {
                Ok(pool) => pools.push(pool),
                Err(why) => {
                    found.add::<()>(file.at, format!("descriptors[{i}]: {}: {why}", file.value));
                }
            }
        }
        for built_in in [crate::proto::DESCRIPTORS, crate::proto::ETCD] {
            let built_in = DescriptorPool::decode(built_in);
            pools.push(built_in.expect("the build script wrote these descriptors"));
        }
        Self { pools, imported }
    }

    /// The method that `selector` (`package.Service/Method`) names.
    pub(super) fn method(&self, selector: &str) -> Result<MethodDescriptor, String> {
        let form = "must be package.Service/Method, with no slash in front";
        let (service, method) = selector.split_once('/').ok_or(form)?;
        if service.is_empty() || method.is_empty() || method.contains('/') {
            return Err(form.into());
        }
        let all: Vec<_> = self
            .pools
            .iter()
            .flat_map(DescriptorPool::services)
            .collect();
        let Some(owner) = all
            .iter()
            .find(|candidate| candidate.full_name() == service)
        else {
            let meant = nearest(service, all.iter().map(|service| service.full_name()));
            return Err(format!(
                "no descriptor has the service {service}{meant}; list its .proto file under descriptors"
            ));
        };
        owner
            .methods()
            .find(|candidate| candidate.name() == method)
            .ok_or_else(|| {
                let names: Vec<_> = owner
                    .methods()
                    .map(|method| method.name().to_owned())
                    .collect();
                let meant = nearest(method, names.iter().map(String::as_str));
                format!(
                    "{service} has no method {method}{meant}; it has {}",
                    names.join(", ")
                )
            })
    }

    /// The message type `name`, in full or as seen from `package`.
    pub(super) fn message(&self, name: &str, package: &str) -> Result<MessageDescriptor, String> {
        let local = format!("{package}.{name}");
        let by_name = |pool: &DescriptorPool| {
            pool.get_message_by_name(&local)
                .or_else(|| pool.get_message_by_name(name))
        };
        self.pools.iter().find_map(by_name).ok_or_else(|| {
            let all: Vec<_> = self
                .pools
                .iter()
                .flat_map(DescriptorPool::all_messages)
                .collect();
            let names = all
                .iter()
                .flat_map(|message| [message.name(), message.full_name()]);
            format!("no descriptor has this message{}", nearest(name, names))
        })
    }
}

/// The pool of one descriptor file, by its ending.
fn pool(path: &Path, imported: &mut Vec<PathBuf>) -> Result<DescriptorPool, String> {
    let size = regular::size(path).map_err(|error| format!("cannot be read: {error}"))?;
    if size > MAX_BYTES {
        return Err(format!(
            "{size} bytes: must be at most {MAX_BYTES}; leave unused files out of it"
        ));
    }
    if path.extension().is_some_and(|ending| ending == "proto") {
        return compile(path, imported);
    }
    let bytes = fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    DescriptorPool::decode(&bytes[..])
        .map_err(|error| format!("neither .proto nor a compiled descriptor set: {error}"))
}

/// Compiles a .proto file, and says what it imports. Its imports are rooted in the nearest folder above
/// it from which all of them are found.
fn compile(path: &Path, imported: &mut Vec<PathBuf>) -> Result<DescriptorPool, String> {
    let path = fs::canonicalize(path).map_err(|error| format!("cannot be read: {error}"))?;
    let roots: Vec<PathBuf> = path
        .ancestors()
        .skip(1)
        .take(MAX_ROOTS)
        .map(PathBuf::from)
        .collect();
    let mut first = None;
    for root in roots {
        let compiled = protox::Compiler::new([&root]).and_then(|mut compiler| {
            compiler.include_imports(true).open_file(&path)?;
            let imports = compiler.files().filter(|file| file.is_import());
            let imports = imports.filter_map(|file| file.path().map(Path::to_owned));
            Ok((compiler.descriptor_pool(), imports.collect::<Vec<_>>()))
        });
        match compiled {
            Ok((pool, imports)) => {
                imported.extend(imports);
                return Ok(pool);
            }
            // Another root may have the import; nothing else gets better by it.
            Err(error) if error.is_file_not_found() => first = first.or(Some(error)),
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(first.map_or_else(|| "has no folder".into(), |error| error.to_string()))
}

/// The message types within reach of a request, as the wire sees them.
#[derive(Default)]
pub(super) struct Types {
    messages: Vec<Message>,
    known: HashMap<String, usize>,
}

impl Types {
    /// Adds a type that is not shared with other uses of it, so that rules may
    /// be put on its fields; fields refer to the shared ones.
    pub(super) fn own(&mut self, message: &MessageDescriptor) -> usize {
        let index = self.messages.len();
        self.messages.push(Message {
            name: message.full_name().into(),
            fields: Vec::new(),
        });
        let fields = message.fields().map(|field| self.field(&field)).collect();
        self.messages[index].fields = fields;
        index
    }

    fn shared(&mut self, message: &MessageDescriptor) -> usize {
        if let Some(&index) = self.known.get(message.full_name()) {
            return index;
        }
        // Known before its fields are: a type may hold itself.
        self.known
            .insert(message.full_name().into(), self.messages.len());
        self.own(message)
    }

    fn field(&mut self, field: &FieldDescriptor) -> Field {
        Field {
            number: field.number(),
            name: field.name().into(),
            kind: match field.kind() {
                _ if field.is_group() => Kind::Group,
                ProtoKind::Message(message) => Kind::Message(self.shared(&message)),
                ProtoKind::String => Kind::Text,
                ProtoKind::Bytes => Kind::Bytes,
                ProtoKind::Fixed32 | ProtoKind::Sfixed32 | ProtoKind::Float => Kind::Fixed32,
                ProtoKind::Fixed64 | ProtoKind::Sfixed64 | ProtoKind::Double => Kind::Fixed64,
                ProtoKind::Int64 | ProtoKind::Uint64 | ProtoKind::Sint64 => Kind::Varint,
                ProtoKind::Int32 | ProtoKind::Uint32 | ProtoKind::Sint32 | ProtoKind::Enum(_) => {
                    Kind::Varint32
                }
                ProtoKind::Bool => Kind::Flag,
            },
            repeated: field.is_list() || field.is_map(),
            require: match field.cardinality() {
                Cardinality::Required => Require::Present,
                Cardinality::Optional | Cardinality::Repeated => Require::Nothing,
            },
            choice: choice(field),
            max_len: None,
        }
    }

    /// The field of type `message` that has `number`.
    pub(super) fn field_mut(&mut self, message: usize, number: u32) -> Option<&mut Field> {
        self.messages[message]
            .fields
            .iter_mut()
            .find(|field| field.number == number)
    }

    /// Drops the fields of type `message` whose numbers `lifted` holds.
    pub(super) fn forget(&mut self, message: usize, lifted: impl Fn(u32) -> bool) {
        let fields = &mut self.messages[message].fields;
        fields.retain(|field| !lifted(field.number));
    }

    /// Everything that was added.
    pub(super) fn into_messages(self) -> Vec<Message> {
        self.messages
    }
}

/// The oneof that `field` is a member of, by its place among those of its type.
/// One that stands for `optional` has no other member.
fn choice(field: &FieldDescriptor) -> Option<u32> {
    let choice = field.containing_oneof()?;
    let mut all = choice.parent_message().oneofs();
    let place = all.position(|one| one == choice)?;
    u32::try_from(place).ok().filter(|_| !choice.is_synthetic())
}

/// The field of `message` that `name` names, or a sentence with the nearest right name.
pub(super) fn field(message: &MessageDescriptor, name: &str) -> Result<FieldDescriptor, String> {
    message.get_field_by_name(name).ok_or_else(|| {
        let names: Vec<_> = message
            .fields()
            .map(|field| field.name().to_owned())
            .collect();
        let meant = nearest(name, names.iter().map(String::as_str));
        match names.is_empty() {
            true => format!("{} has no fields", message.full_name()),
            false => format!(
                "{} has no such field{meant}; it has {}",
                message.full_name(),
                names.join(", ")
            ),
        }
    })
}
