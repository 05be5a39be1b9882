//! `ferry node`: the Raft group alone, each call its own proposal.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Result;

use super::proxy::{announce, end, or_close};
use crate::{
    raft::Pipeline,
    stack::{self, Stack},
    telemetry::Metrics,
};

/// The flags of `ferry node`.
#[derive(Debug, clap::Args)]
pub(super) struct Node {
    /// The group's directory, made if it is not there
    #[arg(long, value_name = "DIR", default_value = "ferry-data")]
    data_dir: PathBuf,
    /// Listen here
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1228")]
    listen: SocketAddr,
    /// Serve metrics and probes here
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// How the group's core proposes
    #[arg(long, value_enum, default_value = "full")]
    pipeline: PipelineArg,
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
        let pipeline = match self.pipeline {
            PipelineArg::Full => Pipeline::Full,
            PipelineArg::Serial => Pipeline::Serial,
        };
        let metrics = Metrics::default();
        let group = stack::open_node(&self.data_dir, pipeline, &metrics).await?;
        let stack = Stack::node(group.clone(), self.listen, self.admin, metrics).await;
        let stack = or_close(stack, Some(&group)).await?;
        announce("ferry node", &stack);
        super::interrupted().await?;
        end(stack, Some(group)).await
    }
}
