//! What a node lets other nodes, and strangers, do to it over the wire.

use std::{fs, path::Path, sync::Arc, time::Duration};

use futures_util::stream;
use tokio::time::timeout;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;

use super::{create, open};
use crate::{
    proto::raft::{
        ChangeReply, ChangeRequest, GreetReply, GreetRequest, JoinRequest, ProposeReply,
        ProposeRequest, raft_client::RaftClient,
    },
    raft::{
        Clock, Groups, PeerTls, Peers,
        network::{Badge, Gate, RaftServer, Use, secured},
    },
};

/// For an answer that has to come, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node of a cluster, as its peers see it.
struct Node {
    badge: Arc<Badge>,
    gate: Gate,
    channel: Channel,
    _homes: [tempfile::TempDir; 2],
}

async fn node() -> Node {
    let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let badge = Arc::new(Badge::open(homes[1].path(), "ferry", 1).unwrap());
    badge.adopt("id").unwrap();
    let groups = Groups::of_one(open(homes[0].path()).await);
    let listener = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    let server = RaftServer::new(Arc::clone(&badge), groups, homes[1].path());
    let gate = Gate::new(Arc::clone(&badge), server);
    let serving = Server::builder().add_service(gate.clone());
    tokio::spawn(serving.serve_with_incoming(listener));
    Node {
        badge,
        gate,
        channel: Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect_lazy(),
        _homes: homes,
    }
}

impl Node {
    /// A call to `method` whose message never comes.
    async fn begin<M, R>(&self, method: &'static str, call: Request<()>) -> Status
    where
        M: prost::Message + Default + 'static,
        R: prost::Message + Default + 'static,
    {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.unwrap();
        let call = call.map(|()| stream::pending::<M>());
        let codec = ProstCodec::<M, R>::default();
        let path = http::uri::PathAndQuery::from_static(method);
        let answer = client.client_streaming(call, path, codec);
        let answer = timeout(PATIENCE, answer).await;
        let answer = answer.expect("it waits for the message");
        answer.map(drop).unwrap_err()
    }
}

#[tokio::test]
async fn a_stranger_is_refused_by_its_headers_before_its_message_has_come() {
    let node = node().await;
    let stranger = || Request::new(());
    let refused = [
        node.begin::<ProposeRequest, ProposeReply>("/ferry.raft.v1.Raft/Propose", stranger())
            .await,
        node.begin::<ChangeRequest, ChangeReply>("/ferry.raft.v1.Raft/Change", stranger())
            .await,
        node.begin::<GreetRequest, GreetReply>("/ferry.raft.v1.Raft/Greet", stranger())
            .await,
    ];
    for status in refused {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("belongs to cluster"), "{status}");
    }
}

#[tokio::test]
async fn a_question_that_is_as_long_as_a_write_is_refused_also_to_a_member() {
    let node = node().await;
    let mut client = RaftClient::new(node.channel.clone());
    client
        .greet(node.badge.stamp(GreetRequest::default(), Some(1)))
        .await
        .expect("a member is let in");
    let long = "x".repeat(1 << 20);
    let join = JoinRequest {
        cluster_id: long.clone(),
    };
    let refused = client.join(node.badge.stamp(join, Some(1))).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let write = ProposeRequest {
        group: 0,
        entries: 1,
        command: create(&[("a", &long)]).encoded().clone(),
    };
    let written = client.propose(node.badge.stamp(write, Some(1))).await;
    assert!(written.unwrap().into_inner().outcome.is_some());
}

/// Another authority, and a certificate of it for this machine: as files that
/// replace what was there.
fn certificates(home: &Path) -> PeerTls {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut of_authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    of_authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = of_authority.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(of_authority, key);
    let own = rcgen::KeyPair::generate().unwrap();
    let node = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let node = node.signed_by(&own, &issuer).unwrap();
    let write = |name: &str, pem: String| {
        let path = home.join(name);
        fs::write(&path, pem).unwrap();
        path
    };
    PeerTls {
        ca: write("ca.pem", authority.pem()),
        cert: write("node.pem", node.pem()),
        key: write("node.key", own.serialize_pem()),
        verify_clients: true,
    }
}

#[tokio::test]
async fn a_certificate_that_is_replaced_is_used_for_the_next_connection_at_both_ends() {
    let node = node().await;
    let home = tempfile::tempdir().unwrap();
    let tls = certificates(home.path());
    let any = ([127, 0, 0, 1], 0).into();
    let listener = TcpIncoming::bind(any).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = Server::builder().add_service(node.gate.clone());
    let listener = secured(listener, tls.server().unwrap());
    tokio::spawn(serving.serve_with_incoming(listener));
    let peers = || {
        let badge = Arc::clone(&node.badge);
        Peers::new(badge, Some(&tls), Clock::default(), any).unwrap()
    };
    let greets = async |peers: &Peers, of| {
        let mut client = peers.client(&address, of).unwrap();
        let call = node.badge.stamp(GreetRequest::default(), Some(1));
        client.greet(call).await.is_ok()
    };
    let before = peers();
    assert!(greets(&before, Use::Talk).await);

    // Nothing of the new authority goes with anything of the old one.
    certificates(home.path());
    let after = peers();
    until(async || greets(&after, Use::Talk).await).await;
    // The listener has the new files now; whoever connects must have them too.
    until(async || greets(&before, Use::Append).await).await;
    assert!(greets(&before, Use::Talk).await, "what stands goes on");
}

/// Waits for what comes true, and fails where it does not.
async fn until(mut is_true: impl AsyncFnMut() -> bool) {
    let came = async {
        while !is_true().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, came).await.expect("it never comes true");
}
