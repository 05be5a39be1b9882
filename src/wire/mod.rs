//! Requests merged as bytes, with no decode.
//!
//! A [`Plan`] is what a policy's names come to once they are resolved: field
//! numbers and kinds. [`Plan::scan`] walks a call's message once and says
//! whether it may share a batch; [`Plan::merge`] writes many of them as one;
//! [`Plan::split`] gives each caller its part of the reply.
//! All work on the encoded bytes, because decoding, cloning and encoding a
//! request costs more than everything else ferry does with it, and because
//! protobuf concatenation already means "append the repeated field".
//!
//! Pure: no clock, no IO, no lock, no descriptor library. Whoever has the
//! descriptors (the policy loader, or a library's user by hand) fills a
//! [`Shape`]; nothing here depends on where it came from.

mod checked;
mod error;
mod key;
mod marks;
mod merge;
mod partition;
mod piece;
mod plan;
mod record;
mod scan;
mod shape;
mod shard;
mod split;

pub use error::{PlanError, ScanError, SplitError};
pub use key::key_hash;
pub use piece::{Form, Piece, Reason, Scan};
pub use plan::Plan;
pub use record::{Malformed, Record, Records, Wire, records};
pub use shape::{
    Condition, Field, Fill, Held, HeldIs, Is, KeyUse, Kind, Lift, LiftedField, Message, ReplyShape,
    Require, Shape, SplitShape, StatusShape, Wrap,
};
pub use shard::{Placing, group_of};
pub use split::{EntryStatus, Parts};

#[cfg(test)]
mod tests;
