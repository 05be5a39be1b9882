//! How the members of a cluster reach each other.
//!
//! ```text
//! leader                                  follower
//! openraft core ─► link ─► wire ── gRPC ──► server ─► wire ─► openraft core
//! Group::propose ─► route ──────── gRPC ──► server ─► Group::propose
//! ```
//! Three connections to a peer, so that none waits behind another's bytes:
//! votes, heartbeats and short questions on one; appends, in a stream, on the
//! second; snapshots on the third. Each is made when first needed, and made
//! again when lost.

mod alone;
mod badge;
mod gate;
mod link;
mod peers;
mod route;
mod server;
mod tls;
mod wire;

pub(crate) use alone::Alone;
pub(crate) use badge::Badge;
pub(crate) use gate::Gate;
pub(crate) use link::Links;
pub use peers::Peers;
pub(crate) use peers::{CONNECTION_WINDOW, MESSAGE_MAX, Use, WINDOW, never_sent};
pub use route::ReadError;
pub(crate) use route::{Leads, Route};
pub(crate) use server::RaftServer;
pub(crate) use tls::secured;
pub use tls::{PeerTls, TlsError};
