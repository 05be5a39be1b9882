//! How many batches may be in flight, found by itself.
//!
//! `estimate.rs` turns samples into a limit; `aimd.rs`, `vegas.rs`,
//! `gradient2.rs` and `fixed.rs` are rules that a policy may ask for instead;
//! `limiter.rs` keeps the count. All of them are pure; `service.rs` and
//! `permit.rs` drive them under a tower service.

mod aimd;
mod doubling;
mod drain;
mod elasticity;
mod estimate;
mod faults;
mod fixed;
mod gradient2;
mod limiter;
mod meter;
mod partial;
mod permit;
mod rule;
mod service;
mod slots;
mod trim;
mod unloaded;
mod vegas;

pub use estimate::Little;
pub use limiter::{Algorithm, LimitSettings, Limiter, Sent};
pub use permit::Permit;
pub use rule::{Outcome, Rule, Sample};
pub use service::{Classify, Limit, LimitLayer, LimitView, Limited, Load, OkOrFailed};
