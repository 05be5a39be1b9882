//! What ferry shows of itself.

mod admin;
mod metrics;
pub mod names;

pub use admin::{Admin, AdminView};
pub use metrics::{LimitMetrics, MethodMetrics, Metrics};
