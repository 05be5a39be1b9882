//! `ferry proxy`: the sidecar, until it is asked to end.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};

use crate::{
    policy::{Listen, Policy},
    stack::{self, Stack, StackError},
    telemetry::Metrics,
};

/// How long what was accepted may take to be answered once intake has ended.
pub(super) const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// The flags of `ferry proxy`.
#[derive(Debug, clap::Args)]
pub(super) struct Proxy {
    /// The policy file; without one, the built-in policy: both generations of
    /// CreateSession over an embedded group in ./ferry-data
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Listen here instead of where the policy says
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Serve metrics and probes here instead of where the policy says
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
}

impl Proxy {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let mut policy = match &self.policy {
            Some(path) => Policy::read(path)?,
            None => Policy::embedded(),
        };
        if let Some(address) = self.listen {
            policy.listen = vec![Listen::Tcp(address)];
        }
        policy.admin = self.admin.or(policy.admin);
        let metrics = Metrics::default();
        let group = stack::open_group(&policy, &metrics).await?;
        let stack = Stack::proxy(&policy, group.clone(), metrics).await;
        let stack = or_close(stack, group.as_ref()).await?;
        announce("ferry proxy", &stack);
        super::interrupted().await?;
        end(stack, group).await
    }
}

/// The stack, or else an orderly end of the group that was opened for it: one
/// that is only dropped would complain, and hide why.
pub(super) async fn or_close(
    stack: Result<Stack, StackError>,
    group: Option<&crate::raft::Group>,
) -> Result<Stack> {
    if let (Err(_), Some(group)) = (&stack, group) {
        group.shutdown().await.context("closing the Raft group")?;
    }
    Ok(stack?)
}

/// One line to stderr that says where it listens, for people and for scripts
/// that chose port 0.
pub(super) fn announce(what: &str, stack: &Stack) {
    let admin = stack.admin_addr();
    let admin = admin.map_or_else(String::new, |admin| format!(", admin on http://{admin}"));
    eprintln!("{what}: listening on {}{admin}", stack.local_addr());
}

/// Stops intake, answers what was accepted, then closes the group.
pub(super) async fn end(stack: Stack, group: Option<crate::raft::Group>) -> Result<ExitCode> {
    eprintln!(
        "draining: what was accepted is answered; at most {} s",
        DRAIN_PATIENCE.as_secs()
    );
    let cut = stack.drain(DRAIN_PATIENCE).await;
    if let Some(group) = group {
        group.shutdown().await.context("closing the Raft group")?;
    }
    if cut > 0 {
        eprintln!("error: {cut} connections were still open after the drain and were cut");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
