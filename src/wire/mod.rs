//! Requests merged as bytes, with no decode.
//!
//! A [`Plan`] is what a policy's names come to once they are resolved: field
//! numbers and kinds. [`Plan::scan`] walks a call's message once and says
//! whether it may share a batch; [`Plan::merge`] writes many of them as one.
//! Both work on the encoded bytes, because decoding, cloning and encoding a
//! request costs more than everything else ferry does with it, and because
//! protobuf concatenation already means "append the repeated field".
//!
//! Pure: no clock, no IO, no lock, no descriptor library. Whoever has the
//! descriptors (the policy loader, or a library's user by hand) fills a
//! [`Shape`]; nothing here depends on where it came from.

mod error;
mod merge;
mod piece;
mod plan;
mod record;
mod scan;

pub use error::{PlanError, ScanError};
pub use piece::{Form, Piece, Reason, Scan};
pub use plan::{Field, Kind, Lift, LiftedField, Message, Plan, Shape};
pub use record::{Malformed, Record, Records, Wire, records};

#[cfg(test)]
mod tests;
