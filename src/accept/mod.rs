//! A call arrives: sockets, connections, frames, routes.

pub mod answer;
mod arriving;
mod barred;
mod caller;
mod carry;
mod connection;
mod crowd;
mod door;
mod drain;
pub mod frame;
mod frames;
mod guards;
pub mod inflate;
mod inline;
mod judge;
mod metadata;
mod observe;
mod partition;
mod read;
pub mod route;
mod server;
mod spread;
pub mod status;
mod turn;
mod watched;

pub use answer::AnswerBody;
pub use arriving::Arriving;
pub use barred::{Barred, BarredAnswer, Reserve};
pub use door::{Answering, Door, DoorMethod, Submit};
pub use guards::Guards;
pub use metadata::deadline;
pub use observe::{ObservedMethod, Observer};
pub use partition::{CallRules, MethodRules, Partition};
pub use server::{Server, ServerError};
pub use spread::{GroupKey, Spread, SpreadAnswer};
