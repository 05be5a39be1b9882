//! `ferry node`: the Raft groups alone, each call its own proposal.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Result;

use super::proxy::{announce, end, or_close};
use crate::{
    raft::{GroupSettings, Pipeline, Runtime},
    stack::{self, Stack},
    telemetry::Metrics,
};

/// The flags of `ferry node`.
#[derive(Debug, clap::Args)]
pub(super) struct Node {
    /// The groups' directory, made if it is not there
    #[arg(long, value_name = "DIR", default_value = "ferry-data")]
    data_dir: PathBuf,
    /// Listen here
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1228")]
    listen: SocketAddr,
    /// Serve metrics and probes here
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// How a group's core proposes
    #[arg(long, value_enum, default_value = "full")]
    pipeline: PipelineArg,
    /// How many Raft groups share the keys; fixed once there is data
    #[arg(long, value_name = "N", default_value_t = 1)]
    groups: u32,
    /// Which threads the groups' cores run on
    #[arg(long, value_enum, default_value = "shared")]
    runtime: RuntimeArg,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum RuntimeArg {
    /// Those that serve the calls.
    Shared,
    /// One for each group, of its own.
    Dedicated,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum PipelineArg {
    /// As many proposals at once as there are callers.
    Full,
    /// One at a time, each awaiting its sync.
    Serial,
}

impl Node {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let mut settings = GroupSettings::new(self.data_dir);
        settings.pipeline = match self.pipeline {
            PipelineArg::Full => Pipeline::Full,
            PipelineArg::Serial => Pipeline::Serial,
        };
        settings.runtime = match self.runtime {
            RuntimeArg::Shared => Runtime::Shared,
            RuntimeArg::Dedicated => Runtime::Dedicated,
        };
        settings.identity.groups = self.groups;
        let metrics = Metrics::default();
        let groups = stack::open_node(settings, &metrics).await?;
        let stack = Stack::node(groups.clone(), self.listen, self.admin, metrics).await;
        let stack = or_close(stack, Some(&groups)).await?;
        announce("ferry node", &stack);
        super::interrupted().await?;
        end(stack, Some(groups)).await
    }
}
