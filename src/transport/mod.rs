//! What lies below HTTP/2: sockets of all kinds, and how bytes get onto them.

mod ahead;
mod coalesce;
mod endpoint;
mod expiry;
mod socket;
mod tls;

pub(crate) use ahead::Ahead;
pub(crate) use coalesce::{Coalesced, Driven};
pub use endpoint::Endpoint;
pub use socket::{BindError, Listening, Place};
pub(crate) use socket::{Stream, mortal};
pub(crate) use tls::Fresh;
pub use tls::{ClientCertificate, ClientFiles, ServerFiles, ServerTls, TlsError};
