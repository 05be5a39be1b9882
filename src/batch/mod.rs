//! Single requests in, batches out.
//!
//! [`BatchLayer`] turns a `Service<Batch<Req>>` into a `Service<Req>`: it is
//! always ready, sheds in `call`, and asks the service below for readiness
//! only when a window is due. The window is sealed when that readiness is
//! granted and not before, so whatever was cancelled or has expired while it
//! waited never leaves.
//!
//! ```
//! use std::{convert::Infallible, sync::Arc};
//! use ferry::batch::{Batch, BatchLayer, Coalesce};
//! use ferry::limit::{LimitLayer, LimitSettings};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! /// Every request may share a batch with every other one.
//! struct Together;
//! impl Coalesce<u64> for Together {
//!     type Partition = ();
//!     fn partition(&self, _: &u64) {}
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let squares = ServiceBuilder::new()
//!     .layer(BatchLayer::new(Arc::new(Together)))
//!     .layer(LimitLayer::new(LimitSettings::default()))
//!     .service(service_fn(|batch: Batch<u64>| async move {
//!         // One call for all of them; the answers in the same order.
//!         Ok::<_, Infallible>(batch.requests.iter().map(|n| n * n).collect::<Vec<_>>())
//!     }));
//!
//! let answers = futures_util::future::join_all((0..10).map(|n| squares.clone().oneshot(n))).await;
//! let answers: Vec<u64> = answers.into_iter().map(Result::unwrap).collect();
//! assert_eq!(answers, [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]);
//! # });
//! ```

mod bell;
mod callers;
mod distinct;
mod entry;
mod error;
mod flight;
mod latency;
mod pace;
mod partitions;
mod place;
mod queue;
mod refuse;
mod service;
mod shadow;
mod split;
mod trace;
mod weight;
mod window;
mod worker;

pub use callers::Callers;
pub use entry::{Answering, Batch, Coalesce, Entry, HandedOver, PartOf, Sealing, Stages};
pub use error::{BatchError, ShedReason};
pub use latency::{Latency, Outlook};
pub use pace::Pace;
pub use partitions::Crowd;
pub use place::Place;
pub use queue::Queue;
pub use service::{Answer, BatchLayer, Batcher};
pub use shadow::{CrowdOf, Shadow, ShadowBatch, ShadowRules, Shadowed};
pub use split::{Replicate, Split};
pub use trace::TraceContext;
pub use weight::Weight;
pub use window::{
    Caller, Close, ClosedBy, Due, Flow, Held, QueueSettings, Sealed, Window, WindowSettings,
};

#[cfg(test)]
mod tests;
