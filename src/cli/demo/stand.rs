//! The server side of one leg: a fresh group, and in front of it either its
//! own node or a ferry sidecar, with nothing tuned for the occasion.

use std::{
    net::{Ipv4Addr, SocketAddr},
    ops::ControlFlow,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    legs::{Core, Entrance, Leg},
    verify::{Roll, Verified},
};
use crate::{
    cli::bench::{Acknowledged, Sessions},
    policy::{Listen, Policy},
    raft::{GroupSettings, Groups, Pipeline},
    stack::{self, Stack},
    telemetry::Metrics,
};

/// Any free loopback port.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// How long callers that are still connected may take to leave.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// A group and the server in front of it.
pub(super) struct Stand {
    groups: Groups,
    server: Stack,
    entrance: Entrance,
}

impl Stand {
    /// What `leg` calls upon, with its data in `data_dir`.
    ///
    /// # Errors
    /// If the group does not open or the server does not start.
    pub(super) async fn open(leg: &Leg, data_dir: &Path) -> Result<Self> {
        let mut settings = GroupSettings::new(data_dir);
        settings.pipeline = match leg.core {
            Core::Serial => Pipeline::Serial,
            Core::Pipelined => Pipeline::Full,
        };
        let metrics = Metrics::default();
        let groups = stack::open_node(settings, &metrics).await?;
        let server = match leg.entrance {
            Entrance::Direct => Stack::node(groups.clone(), ANY_PORT, None, metrics).await?,
            Entrance::Ferry => {
                // The built-in policy as it is, but for where it listens.
                let mut policy = Policy::embedded();
                policy.listen = vec![Listen::from(ANY_PORT)];
                policy.admin = None;
                Stack::proxy(&policy, Some(groups.clone()), metrics).await?
            }
        };
        Ok(Self {
            groups,
            server,
            entrance: leg.entrance,
        })
    }

    /// Where the clients call.
    pub(super) fn address(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Proposals handed to the group's core so far.
    pub(super) fn proposals(&self) -> u64 {
        self.groups.proposals()
    }

    /// Entries proposed so far although their caller had left, wherever on the
    /// way that was: as the group counts them, and ferry in front of it.
    pub(super) fn ghosts(&self) -> u64 {
        self.groups.ghosts() + self.server.ghosts()
    }

    /// The batches that ferry keeps in flight; `None` without ferry.
    pub(super) fn limit(&self) -> Option<f64> {
        (self.entrance == Entrance::Ferry).then(|| self.server.limit().into())
    }

    /// Looks every acknowledged session up in the group's state.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub(super) async fn look_up(
        &self,
        sessions: Sessions,
        acknowledged: Acknowledged,
    ) -> Result<Verified> {
        let stored = self.groups.at(0).sessions();
        let looked_up = tokio::task::spawn_blocking(move || {
            let mut roll = Roll::new(&sessions, &acknowledged);
            stored.for_each(|client_id, value| {
                roll.call(client_id, value);
                ControlFlow::Continue(())
            })?;
            std::io::Result::Ok(Verified {
                acknowledged: acknowledged.total(),
                sampled: 0,
                missing: roll.missing(),
            })
        });
        looked_up
            .await
            .context("the look-up panicked")?
            .context("the group's state")
    }

    /// Drains the server and closes the group.
    ///
    /// # Errors
    /// If the group's state cannot be made durable.
    pub(super) async fn close(self) -> Result<()> {
        self.server.drain(DRAIN_PATIENCE).await;
        self.groups
            .shutdown()
            .await
            .context("the group does not shut down")
    }
}
