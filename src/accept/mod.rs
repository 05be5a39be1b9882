//! A call arrives: sockets, connections, frames, routes.

mod connection;
pub mod frame;
mod inline;
mod metadata;
pub mod route;
mod server;
pub mod status;

pub use connection::ConnectionSettings;
pub use metadata::deadline;
pub use server::{Server, ServerError};
