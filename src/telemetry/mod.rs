//! What ferry shows of itself.

mod admin;
mod controls;
pub mod log;
mod metrics;
pub mod names;

pub use admin::{Admin, AdminView};
pub use controls::Controls;
pub use metrics::{LimitMetrics, MethodMetrics, Metrics};
