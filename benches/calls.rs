//! ferry's own generator as a benchmark's callers: every session a new one,
//! every status looked at, and no figure from a load in which a call failed.

use std::{net::SocketAddr, num::NonZeroU32, time::Duration};

use anyhow::{Result, ensure};
use ferry::cli::bench::{AfterTimeout, Deadline, Form, Load, LoadPlan, Progress, Report};

/// Longer than any answer takes: one that does not come is a fault.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who calls, and what with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calls {
    pub(crate) form: Form,
    /// Sessions a call; 1 in the single forms.
    pub(crate) batch_size: u32,
    pub(crate) connections: u32,
    /// Each has one call in flight.
    pub(crate) callers: u32,
    pub(crate) value_bytes: usize,
}

impl Calls {
    /// Calls for `duration`, all of them answered OK. Blocks, and must not be
    /// called on a runtime's thread.
    pub(crate) fn run(
        &self,
        server: SocketAddr,
        prefix: &str,
        duration: Duration,
    ) -> Result<Report> {
        let some = |n| NonZeroU32::new(n).expect("somebody calls");
        let plan = LoadPlan {
            target: server,
            form: self.form,
            batch_size: some(self.batch_size),
            connections: some(self.connections.min(self.callers)),
            concurrency: some(self.callers),
            rate: None,
            count: None,
            duration: Some(duration),
            timeout: PATIENCE,
            after_timeout: AfterTimeout::NextSession,
            deadline: Deadline::Kept,
            value_bytes: self.value_bytes,
            client_id_prefix: prefix.to_owned(),
        };
        let report = Load::run(&plan.checked()?, &Progress::default())?;
        ensure!(
            report.failed + report.timeout == 0 && report.success > 0,
            "of {} calls {} failed and {} timed out: {:?}; no figure is taken from this run",
            report.total,
            report.failed,
            report.timeout,
            report.errors
        );
        Ok(report)
    }
}
