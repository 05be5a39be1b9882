//! What ferry shows of itself.

pub mod names;
