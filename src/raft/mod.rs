//! The Raft groups: durable, pipelined, of one member each or of a cluster's.
//!
//! ```text
//! propose ─► line ─► openraft core ─► log_store ─► log_writer   one synced write for all that queued
//!                         │ committed
//!                         └─► machine ─► apply ─► state         one write batch, no write-ahead log
//!                                          └─► answer
//! ```
//! In a cluster, `member` starts a node, `founding` begins the cluster once,
//! `network` is what its nodes say to each other, `membership` and `cluster` what
//! an operator says to them. Nothing of openraft leaves this module.

mod apply;
pub mod backup;
mod blocks;
mod clock;
mod cluster;
mod codec;
pub mod command;
mod database;
mod directory;
pub mod fail;
mod founding;
mod group;
mod groups;
mod header;
pub mod keys;
mod line;
mod log_disk;
mod log_store;
mod log_writer;
mod lookout;
mod machine;
mod member;
mod membership;
mod metrics;
mod network;
mod pending;
mod read;
mod recent;
mod runtime;
mod sessions;
mod settings;
mod shape;
mod snapshot;
mod state;
mod types;
mod unreached;
mod view;

#[cfg(test)]
mod tests;

pub use clock::Clock;
pub use command::{Applied, Command, Kind};
pub use directory::{DirectoryError, Identity};
pub use group::{Group, ProposeError};
pub use groups::{GROUPS_MAX, Groups};
pub use line::Pipeline;
pub use member::{Member, MemberError, MemberSettings};
pub use metrics::{LogMetrics, RaftMetrics};
pub(crate) use network::never_sent;
pub use network::{PeerTls, Peers, ReadError, TlsError};
pub use read::Read;
pub use runtime::Runtime;
pub use sessions::Sessions;
pub use settings::{GroupSettings, OpenError};
pub(crate) use unreached::unreached;
pub use view::View;
