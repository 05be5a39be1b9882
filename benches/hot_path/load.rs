//! ferry's own generator: every session a new one, every status looked at.

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

use anyhow::{Result, ensure};
use ferry::cli::bench::{AfterTimeout, Deadline, Form, Load, LoadPlan, Progress, Report};

use super::h2load::Crowd;

/// Longer than any answer takes: one that does not come is a fault.
const PATIENCE: Duration = Duration::from_secs(60);

/// Single calls in the older form for `duration`, all of them answered OK.
pub(crate) fn run(
    server: SocketAddr,
    crowd: Crowd,
    duration: Duration,
    prefix: &str,
    value_bytes: usize,
) -> Result<Report> {
    let some = |n| NonZeroU32::new(n).expect("a crowd has somebody in it");
    let plan = LoadPlan {
        target: server,
        form: Form::Legacy,
        batch_size: NonZeroU32::MIN,
        connections: some(crowd.connections),
        concurrency: some(crowd.connections * crowd.streams),
        count: None,
        duration: Some(duration),
        timeout: PATIENCE,
        after_timeout: AfterTimeout::NextSession,
        deadline: Deadline::Kept,
        value_bytes,
        client_id_prefix: prefix.to_owned(),
    };
    let report = Load::run(&plan.checked()?, &Progress::default())?;
    ensure!(
        report.failed + report.timeout == 0,
        "{} of {} calls failed or timed out: {:?}; no figure is taken from this run",
        report.failed + report.timeout,
        report.total,
        report.errors
    );
    Ok(report)
}
