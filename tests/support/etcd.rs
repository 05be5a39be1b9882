//! A real etcd on ports that the system chooses, in a temporary directory,
//! killed when dropped; and the messages with which the tests speak to it.

use std::{
    net::{SocketAddr, TcpListener},
    process::Stdio,
};

use bytes::Bytes;
use prost::Message;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tonic::{Code, Status};

use super::{
    client::{Answer, Line, frame, grpc, messages},
    until,
};
use crate::process::Sidecar;

/// The shipped policy, which names etcd's usual port.
const POLICY: &str = "policies/etcd.yaml";
const USUAL: &str = "http://127.0.0.1:2379";

pub(crate) const PUT: &str = "/etcdserverpb.KV/Put";
pub(crate) const AUTHENTICATE: &str = "/etcdserverpb.Auth/Authenticate";
pub(crate) const RANGE: &str = "/etcdserverpb.KV/Range";

/// A running etcd of one member.
pub(crate) struct Etcd {
    pub(crate) address: SocketAddr,
    _process: Child,
    _home: TempDir,
}

impl Etcd {
    /// Starts one, and waits until it takes writes.
    pub(crate) async fn start() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let (client, peer) = (free_port(), free_port());
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        let process = Command::new("etcd")
            .args(["--name", "test", "--log-level", "error"])
            .args(["--listen-client-urls", &client_url])
            .args(["--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url])
            .args(["--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("test={peer_url}")])
            .arg("--data-dir")
            .arg(home.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("etcd is not installed: run `make test`, which sees to that");
        let etcd = Self {
            address: client,
            _process: process,
            _home: home,
        };
        until("etcd takes writes", async || {
            let Ok(probe) = tokio::net::TcpStream::connect(client).await else {
                return false;
            };
            drop(probe);
            let line = Line::open(client).await;
            let answer = line.ask(grpc(PUT), frame(&Put::of("ready", "yes"))).await;
            answer.status().code() == Code::Ok
        })
        .await;
        etcd
    }

    /// `ferry proxy` with the shipped policy, in front of this one.
    pub(crate) async fn sidecar(&self) -> Sidecar {
        self.sidecar_with(&[]).await
    }

    /// The same with each of these texts, which the policy has once, replaced.
    pub(crate) async fn sidecar_with(&self, changes: &[(&str, &str)]) -> Sidecar {
        let path = crate::support::root().join(POLICY);
        let mut policy = std::fs::read_to_string(path).expect("the policy is shipped");
        let address = format!("http://{}", self.address);
        for (from, to) in [&[(USUAL, &*address)], changes].concat() {
            assert_eq!(policy.matches(from).count(), 1, "{from} in the policy");
            policy = policy.replace(from, to);
        }
        Sidecar::with_policy(&policy).await
    }

    /// What is under `key`, asked of etcd itself.
    pub(crate) async fn read(&self, line: &Line, key: &str) -> Option<KeyValue> {
        let range = Range {
            key: Bytes::copy_from_slice(key.as_bytes()),
        };
        let answer = line.ask(grpc(RANGE), frame(&range)).await;
        let message = ok(&answer);
        let reply = RangeReply::decode(message).expect("a range's reply");
        reply.kvs.into_iter().next()
    }
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("it is bound")
}

/// The message of an answer, which must be a success.
pub(crate) fn ok(answer: &Answer) -> Bytes {
    let status = answer.status();
    assert_eq!(status.code(), Code::Ok, "{status}");
    messages(answer.body.clone()).remove(0)
}

/// One put to its end.
pub(crate) async fn put(line: &Line, put: &Put) -> Result<PutReply, Status> {
    let answer = line.ask(grpc(PUT), frame(put)).await;
    match answer.status() {
        status if status.code() == Code::Ok => {
            Ok(PutReply::decode(ok(&answer)).expect("a put's reply"))
        }
        status => Err(status),
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
    #[prost(int64, tag = "3")]
    pub(crate) lease: i64,
    #[prost(bool, tag = "4")]
    pub(crate) prev_kv: bool,
    #[prost(bool, tag = "5")]
    pub(crate) ignore_value: bool,
    #[prost(bool, tag = "6")]
    pub(crate) ignore_lease: bool,
}

impl Put {
    pub(crate) fn of(key: &str, value: &str) -> Self {
        Self {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            ..Self::default()
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PutReply {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
    #[prost(message, optional, tag = "2")]
    pub(crate) prev_kv: Option<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Header {
    #[prost(uint64, tag = "1")]
    pub(crate) cluster_id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) member_id: u64,
    #[prost(int64, tag = "3")]
    pub(crate) revision: i64,
    #[prost(uint64, tag = "4")]
    pub(crate) raft_term: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
    #[prost(int64, tag = "3")]
    pub(crate) mod_revision: i64,
    #[prost(int64, tag = "4")]
    pub(crate) version: i64,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Range {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct RangeReply {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Authenticate {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) password: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Authenticated {
    #[prost(string, tag = "2")]
    pub(crate) token: String,
}
