//! How many batches may be in flight, found by itself.
//!
//! `estimate.rs` turns samples into a limit, `limiter.rs` keeps the count,
//! both pure; `service.rs` and `permit.rs` drive them under a tower service.

mod elasticity;
mod estimate;
mod limiter;
mod meter;
mod permit;
mod service;
mod unloaded;

pub use estimate::Little;
pub use limiter::{Algorithm, LimitSettings, Limiter, Outcome, Rule, Sample, Sent};
pub use permit::Permit;
pub use service::{Classify, Limit, LimitLayer, LimitView, Limited, Load, OkOrFailed};
