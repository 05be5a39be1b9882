//! The servers of one measurement: a fresh group, and what stands in front.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use ferry::{
    limit::LimitSettings,
    policy::{Listen, Policy},
    raft::{GroupSettings, Groups, Pipeline},
    stack::{self, Stack},
    telemetry::Metrics,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Any free loopback port.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// How long callers that are still connected may take to leave.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);
/// How long a group of one may take to elect itself.
const ELECTION: Duration = Duration::from_secs(30);

/// What the clients call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Face {
    /// A sidecar over its own group.
    Ferry(Pipeline, LimitSettings),
    /// A node, no sidecar.
    Node,
    /// A sidecar that batches, in front of a node.
    BeforeNode,
    /// A sidecar that forwards, in front of a node.
    Forwarding,
}

impl Face {
    pub(crate) fn little() -> Self {
        Self::Ferry(Pipeline::Full, LimitSettings::default())
    }
}

/// Running servers.
pub(crate) struct Stand {
    runtime: Runtime,
    group: Groups,
    /// The one that is called last.
    servers: Vec<Stack>,
    _home: TempDir,
}

impl Stand {
    pub(crate) fn open(face: Face) -> Result<Self> {
        let runtime = Runtime::new()?;
        let home = tempfile::Builder::new().prefix("ferry-bench-").tempdir()?;
        let (group, servers) = runtime.block_on(open(face, home.path()))?;
        Ok(Self {
            runtime,
            group,
            servers,
            _home: home,
        })
    }

    /// Where the clients call.
    pub(crate) fn address(&self) -> SocketAddr {
        let last = self.servers.last();
        last.expect("there is a server at least").local_addr()
    }

    pub(crate) fn close(self) -> Result<()> {
        self.runtime.block_on(async {
            for server in self.servers.into_iter().rev() {
                server.drain(DRAIN_PATIENCE).await;
            }
            self.group.shutdown().await
        })?;
        Ok(())
    }
}

async fn open(face: Face, home: &Path) -> Result<(Groups, Vec<Stack>)> {
    let pipeline = match face {
        Face::Ferry(pipeline, _) => pipeline,
        _ => Pipeline::Full,
    };
    let metrics = Metrics::default();
    let mut settings = GroupSettings::new(home);
    settings.pipeline = pipeline;
    let group = stack::open_node(settings, &metrics).await?;
    ready(&group).await?;
    let mut servers = Vec::new();
    match face {
        Face::Ferry(_, limit) => {
            let mut policy = Policy::embedded();
            policy.limit = limit;
            policy.listen = vec![Listen::from(ANY_PORT)];
            policy.admin = None;
            servers.push(Stack::proxy(&policy, Some(group.clone()), metrics).await?);
        }
        Face::Node | Face::BeforeNode | Face::Forwarding => {
            let node = Stack::node(group.clone(), ANY_PORT, None, metrics).await?;
            let address = node.local_addr();
            servers.push(node);
            if let Some(mode) = match face {
                Face::BeforeNode => Some("enforce"),
                Face::Forwarding => Some("off"),
                _ => None,
            } {
                let policy = before(address, mode)?;
                servers.push(Stack::proxy(&policy, None, Metrics::default()).await?);
            }
        }
    }
    Ok((group, servers))
}

/// Waits until the group of one has elected itself.
async fn ready(group: &Groups) -> Result<()> {
    let elected = async {
        while !group.is_ready() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(ELECTION, elected)
        .await
        .context("the group has no leader")
}

/// The policy of a sidecar in front of `node`.
fn before(node: SocketAddr, mode: &str) -> Result<Policy> {
    let yaml = format!(
        "version: 1\nlisten: [{{address: {ANY_PORT}}}]\nadmin: off\n\
         upstream: {{endpoints: [http://{node}]}}\nmethods:\n  \
         - selector: meta.service.mqtt.MqttService/CreateSession\n    mode: {mode}\n    \
         batched_field: sessions\n    lift:\n      from: OldCreateSession\n      \
         fields: {{client_id: client_id, session: session}}\n    \
         entry_key: [client_id]\n    require: [client_id, session]\n"
    );
    Ok(Policy::load(&yaml, Path::new("bench.yaml"))?)
}
