//! A call arrives: sockets, connections, frames, routes.

pub mod answer;
mod caller;
mod connection;
mod door;
mod drain;
pub mod frame;
mod inline;
mod metadata;
mod partition;
mod read;
pub mod route;
mod server;
mod spread;
pub mod status;

pub use answer::AnswerBody;
pub use connection::ConnectionSettings;
pub use door::{Answering, Door, DoorMethod, Submit};
pub use metadata::deadline;
pub use partition::{CallRules, MethodRules, Partition};
pub use server::{Server, ServerError};
pub use spread::{GroupKey, Spread, SpreadAnswer};
