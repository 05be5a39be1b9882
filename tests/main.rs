//! The one integration binary: what a caller sees of ferry from outside, and
//! the rules of the house. One binary, because each links RocksDB again.

// A test that watches a real process has nothing but the real clock.
#![allow(clippy::disallowed_methods)]

mod backup;
mod bad_input;
mod barrier;
mod cancellation;
mod chaos;
mod cluster;
mod cluster_faults;
mod cluster_writes;
mod command_line;
mod connection;
mod crash;
mod deploy;
mod etcd;
mod explain;
mod forwarding;
mod forwarding_faults;
mod forwarding_load;
mod groups;
mod guards;
mod health;
mod hot_writes;
mod interop;
mod lifecycle;
mod limiter;
mod observe;
mod overload;
mod own_service;
mod page;
mod process;
mod prometheus;
mod proxy;
mod python_client;
mod readme;
mod reload;
mod restart;
mod robustmq;
mod schema;
mod support;
mod tidy;
mod tls;
mod traces;
