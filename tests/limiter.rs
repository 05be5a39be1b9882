//! The simulator's own parts (`benches/limiter`), which runs as a benchmark
//! without a test harness: here their tests are run.

// The benchmark uses what no test does. It may print, and tells time.
#![allow(
    dead_code,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::float_cmp
)]

#[path = "../benches/limiter/anchors/mod.rs"]
mod anchors;
#[path = "../benches/limiter/arguments.rs"]
mod arguments;
#[path = "../benches/limiter/document.rs"]
mod document;
#[path = "../benches/limiter/evaluate.rs"]
mod evaluate;
#[path = "../benches/limiter/figures.rs"]
mod figures;
#[path = "../benches/limiter/goals.rs"]
mod goals;
#[path = "../benches/limiter/load.rs"]
mod load;
#[path = "../benches/limiter/memory.rs"]
mod memory;
#[path = "../benches/limiter/oracle.rs"]
mod oracle;
#[path = "../benches/limiter/plant.rs"]
mod plant;
#[path = "../benches/limiter/plot.rs"]
mod plot;
#[path = "../benches/limiter/probing.rs"]
mod probing;
#[path = "../benches/limiter/report.rs"]
mod report;
#[path = "../benches/limiter/scenario.rs"]
mod scenario;
#[path = "../benches/limiter/sim.rs"]
mod sim;
#[path = "../benches/limiter/timeline.rs"]
mod timeline;
#[path = "../benches/limiter/trace.rs"]
mod trace;
#[path = "../benches/limiter/unseen.rs"]
mod unseen;
