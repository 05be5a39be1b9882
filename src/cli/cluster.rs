//! `ferry cluster`: looks at a cluster, and changes who belongs to it.
//!
//! Any node may be asked: what only a leader can do, it has done by the leader.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, anyhow};
use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use futures_util::future::join_all;
use serde::Serialize;
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{Output, print_json};
use crate::{
    proto::cluster::{
        AddRequest, PromoteRequest, RemoveRequest, StatusReply, StatusRequest, TransferRequest,
        cluster_client::ClusterClient,
    },
    raft::{never_sent, unreached},
};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a node may take to tell of itself.
const LOOK: Duration = Duration::from_secs(3);
/// How long a change may take: a few elections, and a learner that catches up.
const CHANGE: Duration = Duration::from_secs(30);

/// The flags of `ferry cluster`.
#[derive(Debug, clap::Args)]
pub(super) struct Cluster {
    /// Where a node listens for its peers
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:1331",
        env = "FERRY_NODE"
    )]
    node: String,
    /// The authority of the nodes' certificates, a PEM file; with it, TLS
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A certificate of that authority, to show to the nodes
    #[arg(long, global = true, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, global = true, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the members, and each group as each node sees it
    Status {
        /// How it is printed
        #[arg(long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Add the node at an address, as a learner
    Add {
        /// Where it listens for its peers
        #[arg(value_name = "HOST:PORT")]
        address: String,
    },
    /// Make a learner a voter, once it has caught up
    Promote {
        /// Its number
        #[arg(value_name = "NODE")]
        number: u64,
    },
    /// Take a node out
    Remove {
        /// Its number
        #[arg(value_name = "NODE")]
        number: u64,
    },
    /// Make a voter the leader
    Transfer {
        /// Its number
        #[arg(value_name = "NODE")]
        number: u64,
    },
}

/// What a node was asked for.
#[derive(Clone, Copy)]
enum Asked {
    /// Something that it goes on with when nobody waits for it.
    Change,
    Look,
}

impl Cluster {
    pub(super) async fn run(self) -> Result<ExitCode> {
        let mut client = self.client(&self.node)?;
        let refused = |status: Status| self.refused(&status, Asked::Change);
        match &self.command {
            Command::Status { output } => return self.status(&mut client, *output).await,
            Command::Add { address } => {
                let address = address.clone();
                let added = client.add(AddRequest { address }).await.map_err(refused)?;
                let node = added.into_inner().node;
                println!(
                    "node {node} is a learner now; `ferry cluster promote {node}` makes it a voter"
                );
            }
            Command::Promote { number: node } => {
                let request = PromoteRequest { node: *node };
                client.promote(request).await.map_err(refused)?;
                println!("node {node} is a voter now");
            }
            Command::Remove { number: node } => {
                let request = RemoveRequest { node: *node };
                client.remove(request).await.map_err(refused)?;
                println!("node {node} is no member any more; stop it and empty its directory");
            }
            Command::Transfer { number: node } => {
                let request = TransferRequest { node: *node };
                client.transfer(request).await.map_err(refused)?;
                println!("node {node} leads now");
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// What the operator is told of a call that failed.
    fn refused(&self, status: &Status, asked: Asked) -> anyhow::Error {
        let unconnected = never_sent(status);
        let why = match unreached(status, "") {
            Some(why) => why,
            // tonic's own, of `Endpoint::timeout`.
            None if status.code() == Code::Cancelled => format!("gave no answer within {CHANGE:?}"),
            // The node's words, which say what they are about.
            None => return anyhow!("{}", status.message()),
        };
        let node = &self.node;
        match asked {
            Asked::Change if !unconnected => anyhow!(
                "{node} {why}; the change was begun and may still happen; see `ferry cluster status`"
            ),
            Asked::Change | Asked::Look => anyhow!("{node} {why}"),
        }
    }

    fn client(&self, address: &str) -> Result<ClusterClient<Channel>> {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .with_context(|| format!("address {address}: must be HOST:PORT"))?
            .connect_timeout(CONNECT)
            .timeout(CHANGE);
        let endpoint = match self.tls()? {
            Some(tls) => endpoint.tls_config(tls).context("TLS")?,
            None => endpoint,
        };
        Ok(ClusterClient::new(endpoint.connect_lazy()))
    }

    fn tls(&self) -> Result<Option<ClientTlsConfig>> {
        let read = |path: &PathBuf| {
            std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))
        };
        let Some(ca) = &self.ca else { return Ok(None) };
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
        Ok(Some(match self.cert.as_ref().zip(self.key.as_ref()) {
            Some((cert, key)) => tls.identity(Identity::from_pem(read(cert)?, read(key)?)),
            None => tls,
        }))
    }

    /// Asks one node who the members are, then each member how it sees things.
    async fn status(
        &self,
        client: &mut ClusterClient<Channel>,
        output: Output,
    ) -> Result<ExitCode> {
        let told = client.status(StatusRequest {}).await;
        let told = told.map_err(|status| self.refused(&status, Asked::Look))?;
        let told = told.into_inner();
        let mut asked = Vec::new();
        for member in &told.members {
            let (node, mut client) = (member.node, self.client(&member.address)?);
            asked.push(async move {
                let reply = tokio::time::timeout(LOOK, client.status(StatusRequest {})).await;
                (node, reply.ok().and_then(Result::ok))
            });
        }
        let mut views = BTreeMap::new();
        for (node, reply) in join_all(asked).await {
            views.insert(node, reply.map(tonic::Response::into_inner));
        }
        // A node that is no member yet tells of itself alone.
        views.entry(told.node).or_insert_with(|| Some(told.clone()));
        let report = Report::of(&told, &views);
        match output {
            Output::Json => print_json(&report)?,
            Output::Table => report.print(),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A cluster as its nodes see it.
#[derive(Debug, Serialize)]
struct Report {
    cluster: String,
    cluster_id: String,
    nodes: Vec<NodeReport>,
}

#[derive(Debug, Serialize)]
struct NodeReport {
    node: u64,
    address: String,
    member: &'static str,
    reachable: bool,
    groups: Vec<GroupReport>,
}

#[derive(Debug, Serialize)]
struct GroupReport {
    group: u32,
    role: String,
    term: u64,
    leader: Option<u64>,
    last_log_index: u64,
    applied_index: u64,
    snapshot_index: u64,
    joint: bool,
    fault: Option<String>,
}

impl Report {
    fn of(told: &StatusReply, views: &BTreeMap<u64, Option<StatusReply>>) -> Self {
        let nodes = views.iter().map(|(node, view)| {
            let member = told.members.iter().find(|member| member.node == *node);
            let groups = view.iter().flat_map(|view| &view.groups);
            NodeReport {
                node: *node,
                address: member.map_or_else(String::new, |member| member.address.clone()),
                member: match member {
                    Some(member) if member.voter => "voter",
                    Some(_) => "learner",
                    None => "none",
                },
                reachable: view.is_some(),
                groups: groups
                    .map(|group| GroupReport {
                        group: group.group,
                        role: group.role.clone(),
                        term: group.term,
                        leader: group.leader,
                        last_log_index: group.last_log_index,
                        applied_index: group.applied_index,
                        snapshot_index: group.snapshot_index,
                        joint: group.joint,
                        fault: Some(group.fault.clone()).filter(|fault| !fault.is_empty()),
                    })
                    .collect(),
            }
        });
        Self {
            cluster: told.cluster.clone(),
            cluster_id: told.cluster_id.clone(),
            nodes: nodes.collect(),
        }
    }

    fn print(&self) {
        let id = match self.cluster_id.as_str() {
            "" => "not founded",
            id => id,
        };
        println!("cluster {} ({id})", self.cluster);
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header([
            "node", "address", "member", "group", "role", "term", "leader", "log", "applied",
            "snapshot",
        ]);
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        for node in &self.nodes {
            let who = || {
                vec![
                    right(node.node.to_string()),
                    Cell::new(&node.address),
                    Cell::new(node.member),
                ]
            };
            if !node.reachable {
                let mut row = who();
                row.extend([Cell::new(""), Cell::new("no answer")]);
                table.add_row(row);
            }
            for group in &node.groups {
                let mut row = who();
                let role = match (&group.fault, group.joint) {
                    (Some(fault), _) => fault.clone(),
                    (None, true) => format!("{}, joint", group.role),
                    (None, false) => group.role.clone(),
                };
                let leader = group
                    .leader
                    .map_or_else(|| "none".into(), |node| node.to_string());
                row.extend([right(group.group.to_string()), Cell::new(role)]);
                row.extend([right(group.term.to_string()), right(leader)]);
                let places = [
                    group.last_log_index,
                    group.applied_index,
                    group.snapshot_index,
                ];
                row.extend(places.map(|place| right(place.to_string())));
                table.add_row(row);
            }
        }
        println!("{table}");
    }
}
