//! The embedded Raft groups: durable, pipelined, one member each for now.
//!
//! ```text
//! propose ─► line ─► openraft core ─► log_store ─► log_writer   one synced write for all that queued
//!                         │ committed
//!                         └─► machine ─► apply ─► state         one write batch, no write-ahead log
//!                                          └─► answer
//! ```
//! openraft's types are known to `types`, `codec`, `log_store`, `log_writer`, `machine`,
//! `network`, `line` and `group`; nothing of it leaves this module.

mod apply;
mod codec;
pub mod command;
mod database;
mod directory;
mod group;
mod groups;
pub mod keys;
mod line;
mod log_disk;
mod log_store;
mod log_writer;
mod machine;
mod metrics;
mod network;
mod recent;
mod runtime;
mod sessions;
mod snapshot;
mod state;
mod types;

#[cfg(test)]
mod tests;

pub use command::{Applied, Command, Kind};
pub use directory::DirectoryError;
pub use group::{Group, GroupSettings, Identity, OpenError, Pipeline, ProposeError, Runtime};
pub use groups::{GROUPS_MAX, Groups};
pub use metrics::{LogMetrics, RaftMetrics};
pub use sessions::Sessions;
