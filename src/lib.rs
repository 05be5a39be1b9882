//! ferry: single calls go in, batches go to Raft, each caller gets its own answer.
//!
//! ```text
//!  legacy client ─┐                                                        ┌─ embedded Raft group   openraft + RocksDB
//!  legacy client ─┼─► accept ─► route ─┬─► batch ─► limit ─► upstream ─────┼─ ferry nodes
//!  legacy client ─┘             │      └──────── reply ◄───────┘           └─ any gRPC service with a batch form
//!                               └─► forward (everything else, byte for byte)
//! ```
//!
//! The modules stand in the order in which a call passes them; below them,
//! what all of them go by (`policy`, `telemetry`) and what puts them together
//! (`stack`, `cli`).

// A pure core's tests count time from some instant, and any will do.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

#[cfg(feature = "full")]
pub mod accept;
pub mod batch;
#[cfg(feature = "full")]
pub mod cli;
#[cfg(feature = "full")]
pub mod forward;
#[cfg(feature = "full")]
pub mod health;
pub mod limit;
#[cfg(feature = "full")]
pub mod meta;
#[cfg(feature = "full")]
pub mod policy;
#[cfg(feature = "full")]
pub mod raft;
pub mod reply;
#[cfg(feature = "full")]
pub mod stack;
#[cfg(feature = "full")]
pub mod telemetry;
#[cfg(feature = "full")]
pub mod transport;
#[cfg(feature = "full")]
pub mod upstream;
pub mod wire;

/// What `build.rs` compiles from `proto/`.
#[cfg(feature = "full")]
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod proto {
    /// RobustMQ's sessions and subscriptions, which ferry's own nodes serve too.
    pub mod mqtt {
        tonic::include_proto!("meta.service.mqtt");
    }
    /// RobustMQ's consumer offsets, keys and values, likewise.
    pub mod meta {
        tonic::include_proto!("meta.service.common");
    }
    /// What the members of a cluster say to each other.
    pub mod raft {
        tonic::include_proto!("ferry.raft.v1");
    }
    /// What an operator asks of a cluster.
    pub mod cluster {
        tonic::include_proto!("ferry.cluster.v1");
    }
    /// The compiled descriptors of what ferry serves.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    /// Those of the calls of etcd that a policy may batch.
    pub const ETCD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/etcd.bin"));
}
