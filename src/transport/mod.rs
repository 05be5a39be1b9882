//! What lies below HTTP/2: sockets of all kinds, and how bytes get onto them.

mod begun;
mod coalesce;

pub(crate) use begun::Begun;
pub(crate) use coalesce::{Coalesced, Driven};
