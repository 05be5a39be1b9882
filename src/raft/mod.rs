//! The embedded Raft group.
