//! The rules of which methods batch, and how.
//!
//! A policy file is read three times, each time into something that promises
//! more: text into a tree that knows its places (`tree`), the tree into the
//! file's shape (`file`), the shape into a [`Policy`] (`rules`, with names
//! resolved by `descriptors`). A [`Policy`] needs no further checking by
//! anyone. All faults of a file are found in one go, since an operator who
//! mends one at a time gives up before the last.

mod barrier;
mod bounds;
mod client_tls;
mod describe;
mod describe_node;
mod descriptors;
mod fault;
mod file;
mod fixed;
mod form;
mod guards;
mod keys;
mod keys_guards;
mod keys_method;
mod keys_node;
mod listen;
mod live;
mod metadata;
mod method;
mod node;
mod on_error;
mod origin;
mod read;
mod read_form;
mod regular;
mod reply;
mod rules;
mod schema;
mod secret;
mod section;
mod telemetry;
mod tls_files;
mod traces;
mod tree;
mod units;
mod upstream;
mod watch;

pub use describe::{describe, plan};
pub use describe_node::describe_node;
pub use fault::{Fault, Faults, Position};
pub use listen::Listen;
pub use live::{Cause, Install, Live, Reload, Source};
pub use metadata::{Classify, MetadataRules, OtherMetadata};
pub use node::NodeFile;
pub use on_error::{OnError, Retry};
pub use origin::{Origin, origins};
pub use rules::{Health, Method, Mode, Pipeline, Policy, Runtime, Shed, ShedStatus, Upstream};
pub use schema::schema;
pub use secret::Secret;
pub use telemetry::Telemetry;
pub use traces::{SecretHeader, TracesTo};
pub use watch::Stamp;

#[cfg(test)]
mod tests;
