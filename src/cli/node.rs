//! `ferry node`: the Raft groups without a sidecar, alone or as one node of a
//! cluster; each call is its own proposal.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};

use super::{
    descriptors,
    proxy::{DRAIN_PATIENCE, announce, end, ended, or_close},
    settings::{Setting, effective},
    signals::Signals,
};
use crate::{
    accept::Guards,
    policy::{self, NodeFile},
    raft::{Clock, GroupSettings, Identity, Member, MemberSettings, PeerTls, Pipeline, Runtime},
    stack::{self, Stack},
    telemetry::Metrics,
    transport::Place,
};

/// The flags of `ferry node`.
#[derive(Debug, clap::Args)]
pub(super) struct Node {
    /// Run one node of a cluster, as this file describes it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data_dir", "listen", "admin", "pipeline", "groups", "runtime"])]
    config: Option<PathBuf>,
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
    /// Print what would be in force, and where each setting is from; start nothing
    #[arg(long)]
    print_config: bool,
    /// The flags above, and where their values are from.
    #[arg(skip)]
    pub(super) settings: Vec<Setting>,
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
        let file = self.config.as_deref().map(NodeFile::read).transpose()?;
        if self.print_config {
            let in_force = match &file {
                Some(file) => policy::describe_node(file),
                None => self.alone(),
            };
            let mut settings = self.settings;
            if file.is_some() {
                // The file stands in the place of the other flags' defaults.
                settings.retain(Setting::is_chosen);
            }
            print!(
                "{}",
                effective(&settings, self.config.as_deref(), &in_force)?
            );
            return Ok(ExitCode::SUCCESS);
        }
        // Its calls arrive at one address, within the guards of a policy that has none.
        descriptors::provide_for(1, &Guards::default());
        if let Some(file) = file {
            return join(file).await;
        }
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
        let listen = [self.listen].into_iter().chain(self.admin);
        stack::are_free(listen.map(Place::Tcp))?;
        let groups = stack::open_node(settings, &metrics).await?;
        let mut signals = Signals::listen()?;
        let stack = Stack::node(groups.clone(), self.listen, self.admin, metrics).await;
        let stack = or_close(stack, Some(&groups)).await?;
        announce("ferry node", &stack);
        signals.asked_to_end().await?;
        end(stack, Some(groups)).await
    }

    /// The node that the flags alone make.
    fn alone(&self) -> String {
        let groups = match self.groups {
            1 => "1 group".to_owned(),
            groups => format!("{groups} groups"),
        };
        let admin = self.admin.map(|admin| admin.to_string());
        format!(
            "  a node by itself: {groups} in {}, calls at {}, admin at {}\n",
            self.data_dir.display(),
            self.listen,
            admin.as_deref().unwrap_or("no address")
        )
    }
}

/// Runs one node of a cluster until it is asked to end, or its group has
/// stopped for good.
async fn join(file: NodeFile) -> Result<ExitCode> {
    let metrics = Metrics::default();
    let (listen, admin) = (file.listen, file.admin);
    let member = Member::start(settings(file), metrics.registry()).await?;
    let mut signals = Signals::listen()?;
    let stack = match Stack::node(member.groups().clone(), listen, admin, metrics).await {
        Ok(stack) => stack,
        Err(error) => {
            member.shutdown().await.context("closing the Raft groups")?;
            return Err(error.into());
        }
    };
    announce("ferry node", &stack);
    eprintln!("ferry node: peers call {}", member.peer_addr());
    let fault = tokio::select! {
        asked = signals.asked_to_end() => asked.map(|()| None)?,
        fault = member.stopped() => Some(fault),
    };
    if let Some(fault) = fault {
        // Nothing that is held can be answered any more, and the others elect
        // another leader the sooner this one is gone.
        eprintln!("error: a Raft group of this node has stopped: {fault}");
        // Closed in order even so: a database that is still written while the
        // process ends takes it down with a signal, which says nothing. What
        // does not close in time is left to the restart.
        let closing = tokio::time::timeout(DRAIN_PATIENCE, member.shutdown());
        if let Ok(Err(error)) = closing.await {
            tracing::warn!("the Raft groups did not close in order: {error}");
        }
        return Ok(ExitCode::FAILURE);
    }
    eprintln!(
        "draining: what was accepted is answered; at most {} s",
        DRAIN_PATIENCE.as_secs()
    );
    let cut = stack.finish(DRAIN_PATIENCE).await;
    member.shutdown().await.context("closing the Raft groups")?;
    Ok(ended(&cut))
}

fn settings(file: NodeFile) -> MemberSettings {
    let mut groups = GroupSettings::new(file.data_dir);
    groups.identity = Identity {
        cluster: file.cluster,
        node: file.node,
        groups: file.groups.get(),
    };
    groups.pipeline = match file.pipeline {
        policy::Pipeline::Full => Pipeline::Full,
        policy::Pipeline::Serial => Pipeline::Serial,
    };
    groups.runtime = match file.runtime {
        policy::Runtime::Shared => Runtime::Shared,
        policy::Runtime::Dedicated => Runtime::Dedicated,
    };
    groups.log_bytes_max = file.log_bytes_max;
    groups.clock = Clock {
        heartbeat: file.heartbeat,
        election_min: file.election_min,
        election_max: file.election_max,
    };
    MemberSettings {
        groups,
        peer: file.peer,
        tls: file.tls.map(|tls| PeerTls {
            cert: tls.cert,
            key: tls.key,
            ca: tls.ca,
            verify_clients: tls.verify_clients,
        }),
        members: file.members,
    }
}
