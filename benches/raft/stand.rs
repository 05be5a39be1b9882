//! The groups of one measurement, in this process, in a directory of their own.

use std::path::Path;

use anyhow::{Context, Result};
use ferry::{
    raft::{GroupSettings, Groups, Runtime},
    telemetry::names,
};
use prometheus::{Registry, TextEncoder};
use tempfile::TempDir;

/// Open groups.
pub(crate) struct Stand {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) groups: Groups,
    registry: Registry,
    _home: TempDir,
}

/// What the log writer has counted since it began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    proposals: f64,
    syncs_with_proposals: f64,
    sync_seconds: f64,
    syncs: f64,
}

impl Stand {
    /// Opens so many groups below `folder`; returns when each leads.
    pub(crate) fn open(folder: &Path, groups: u32, runs_on: Runtime) -> Result<Self> {
        let runtime = tokio::runtime::Runtime::new()?;
        let home = tempfile::tempdir_in(folder)?;
        let mut settings = GroupSettings::new(home.path());
        settings.identity.groups = groups;
        settings.runtime = runs_on;
        let registry = Registry::new();
        let groups = runtime.block_on(Groups::open(settings, &registry))?;
        Ok(Self {
            runtime,
            groups,
            registry,
            _home: home,
        })
    }

    pub(crate) fn counted(&self) -> Result<Counted> {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather())?;
        let value = |name: &str, part: &str| -> Result<f64> {
            let start = format!("{name}_{part} ");
            let found = text.lines().find_map(|line| line.strip_prefix(&start));
            Ok(found
                .with_context(|| format!("{name} is not there"))?
                .parse()?)
        };
        Ok(Counted {
            proposals: value(names::RAFT_PROPOSALS_PER_SYNC, "sum")?,
            syncs_with_proposals: value(names::RAFT_PROPOSALS_PER_SYNC, "count")?,
            sync_seconds: value(names::RAFT_LOG_SYNC_SECONDS, "sum")?,
            syncs: value(names::RAFT_LOG_SYNC_SECONDS, "count")?,
        })
    }

    pub(crate) fn close(self) -> Result<()> {
        self.runtime.block_on(self.groups.shutdown())?;
        Ok(())
    }
}

impl Counted {
    /// Proposals a sync, and milliseconds of one, since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> (f64, f64) {
        let over = |sum: f64, count: f64| if count > 0.0 { sum / count } else { 0.0 };
        (
            over(
                self.proposals - earlier.proposals,
                self.syncs_with_proposals - earlier.syncs_with_proposals,
            ),
            1e3 * over(
                self.sync_seconds - earlier.sync_seconds,
                self.syncs - earlier.syncs,
            ),
        )
    }
}
