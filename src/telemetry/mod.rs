//! What ferry shows of itself.

mod admin;
mod controls;
pub mod log;
mod metrics;
pub mod names;
mod page;
mod recent;

pub use admin::{Admin, AdminView};
pub use controls::Controls;
pub use metrics::{LimitMetrics, MethodMetrics, Metrics};
pub use recent::{Recent, RecentBatch, Stages};
