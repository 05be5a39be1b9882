//! What ferry shows of itself.

mod access;
mod admin;
mod clients;
mod collector;
mod controls;
pub mod log;
mod metrics;
pub mod names;
mod note;
mod observed;
mod page;
mod plan;
mod recent;
mod refusals;
mod saving;
mod sending;
mod traces;

pub use access::{AccessLine, AccessLog};
pub use admin::{Admin, AdminView};
pub use controls::Controls;
pub use metrics::{LimitMetrics, MethodMetrics, Metrics, outcome_name};
pub use note::{EXPLAIN, Note, Notes, Sent, TRACEPARENT, explained};
pub use observed::{ObservedCounts, ObservedMetrics};
pub use plan::MethodPlan;
pub use recent::{Recent, RecentBatch, Stages};
pub use refusals::{Refusal, Refusals};
pub use saving::{Pieces, Saves};
pub use traces::{BatchSpan, Traces, TracesError};
