//! Single requests in, batches out.
mod window;
pub use window::{Close, QueueSettings, WindowSettings};
