//! Clients that mean no good, on loopback: each guard stops what it is for,
//! and everybody else is served meanwhile.

mod attacked;
mod bounds;
mod cost;
