//! A cluster of real processes: what its callers and its operator may rely on,
//! whatever happens to its nodes and to the ways between them.

use std::process::Output;

use tonic::Code;

use crate::{
    process::Sidecar,
    support::{
        client::{CREATE, LIST, Line, frame, grpc, old_form, with},
        faults::Rule,
        load::Loading,
        nodes::{Nodes, group_at, member_at},
        until,
    },
};
use ferry::proto::{
    mqtt::ListSessionRequest,
    raft::{LeaderId, VoteRequest, VoteState, raft_client::RaftClient},
};

/// Sessions that make a snapshot due and let the log before it go, and how many
/// of them are written at once.
const MANY: usize = 2_800;
const AT_ONCE: usize = 50;

/// What the status of a create at this node is.
async fn create(line: &Line, client_id: &str) -> tonic::Status {
    let answer = line
        .ask(grpc(CREATE), old_form(client_id, b"session"))
        .await;
    answer.status()
}

/// Creates until one is acknowledged: while a leader is found none is.
async fn create_soon(line: &Line, client_id: &str) {
    create_soon_with(line, client_id, b"session").await;
}

async fn create_soon_with(line: &Line, client_id: &str, session: &[u8]) {
    until("a write is acknowledged", async || {
        let answer = line.ask(grpc(CREATE), old_form(client_id, session)).await;
        answer.status().code() == Code::Ok
    })
    .await;
}

/// The status of a read of one session, with this metadata.
async fn read(line: &Line, metadata: &[(&str, &str)]) -> tonic::Status {
    let request = ListSessionRequest {
        client_id: "anybody".into(),
        ..ListSessionRequest::default()
    };
    line.ask(with(LIST, metadata), frame(&request))
        .await
        .status()
}

#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{told}");
    for word in words {
        assert!(told.contains(word), "{word:?} is not in: {told}");
    }
}

#[tokio::test]
async fn any_node_takes_a_write_and_every_node_reads_it_at_once() {
    let nodes = Nodes::three().await;
    let mut lines = Vec::new();
    for node in [1, 2, 3] {
        lines.push(nodes.line(node).await);
    }
    for round in 0..20 {
        let client_id = format!("client-{round}");
        lines[round % 3].create(&client_id, b"session").await;
        for line in &lines {
            assert_eq!(line.list(&client_id).await, [&b"session"[..]]);
        }
    }
    // Also when all is asked for, and what was taken away.
    lines[1].delete("client-0").await;
    assert_eq!(lines[2].list("").await.len(), 19);
}

#[tokio::test]
async fn nodes_that_are_named_and_not_numbered_find_each_other() {
    let mut nodes = Nodes::new();
    nodes.named = true;
    nodes.found(&[1, 2, 3]).await;
    let leader = nodes.leader(1).await;
    let other = [1, 2, 3].into_iter().find(|node| *node != leader);
    let line = nodes.line(other.expect("there are three")).await;
    line.create("client", b"session").await;
    assert_eq!(line.list("client").await, [&b"session"[..]]);
}

#[tokio::test]
async fn a_leader_killed_under_load_costs_no_acknowledged_write_and_catches_up() {
    let mut nodes = Nodes::three().await;
    let sidecar = Sidecar::with_policy(&nodes.policy([1, 2, 3])).await;
    let loading = Loading::start(sidecar.address, "killed-");
    loading.until_acknowledged(200).await;
    let leader = nodes.leader(1).await;
    nodes.kill(leader).await;
    let before = loading.acknowledged();
    loading.until_acknowledged(before + 300).await;
    nodes.start(leader);
    nodes.until_ready(leader).await;
    let loaded = loading.stop();
    nodes.until_level(&[1, 2, 3]).await;
    for node in [1, 2, 3] {
        let line = nodes.line(node).await;
        assert_eq!(loaded.missing(&line).await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_node_is_added_promoted_made_leader_and_another_removed() {
    let mut nodes = Nodes::three().await;
    nodes.line(2).await.create("before", b"session").await;
    nodes.place(4).await;
    nodes.configure(4, &[], "ferry");
    nodes.start(4);
    nodes.until_said(4, "peers call").await;
    let gate = nodes.gate(4).to_string();
    // Whichever node is asked, the leader does it.
    Nodes::done(&nodes.cluster(2, &["add", &gate]).await);
    assert_eq!(
        member_at(&nodes.status(3).await, 4).as_deref(),
        Some("learner")
    );
    refused(
        &nodes.cluster(2, &["add", &gate]).await,
        &["node 4 is a member"],
    );
    refused(&nodes.cluster(2, &["transfer", "4"]).await, &["no voter"]);
    Nodes::done(&nodes.cluster(3, &["promote", "4"]).await);
    Nodes::done(&nodes.cluster(1, &["transfer", "4"]).await);
    assert_eq!(nodes.leader(4).await, 4);
    Nodes::done(&nodes.cluster(2, &["remove", "1"]).await);
    let status = nodes.status(4).await;
    assert_eq!(member_at(&status, 1), None);
    assert_eq!(member_at(&status, 4).as_deref(), Some("voter"));
    nodes.until_not_ready(1, "").await;
    nodes.kill(1).await;
    let line = nodes.line(4).await;
    line.create("after", b"session").await;
    assert_eq!(line.list("").await.len(), 2);
}

#[test]
fn what_cannot_be_reached_is_named_with_the_systems_reason() {
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_ferry"))
        .args(["cluster", "--node", "127.0.0.1:1", "status"])
        .output();
    let output = run.expect("cargo built the binary");
    let words = "127.0.0.1:1 cannot be reached: Connection refused";
    refused(&output, &[words]);
}

#[tokio::test]
async fn a_node_that_lost_its_data_elects_nobody() {
    let mut nodes = Nodes::three().await;
    let id = nodes.status(1).await["cluster_id"].clone();
    // It does not lead, so its end alone is no reason for an election.
    Nodes::done(&nodes.cluster(1, &["transfer", "2"]).await);
    nodes.kill(1).await;
    nodes.wipe(1);
    nodes.start(1);
    nodes.until_said(1, "there is one of a kind").await;
    // Of the two that have their data one is lost too: were the blank node to
    // vote, the other would be elected.
    let leader = nodes.leader(2).await;
    let left = if leader == 2 { 3 } else { 2 };
    nodes.kill(leader).await;
    // The answer to its asking for a vote.
    nodes.until_said(left, "belongs to no cluster").await;
    nodes.until_not_ready(left, "has no leader").await;
    assert!(group_at(&nodes.status(left).await, left)["leader"].is_null());
    for node in [1, left] {
        let status = create(&nodes.line(node).await, "nobody").await;
        assert_ne!(status.code(), Code::Ok, "node {node}");
    }

    // Nor if it is asked as by a member.
    let address = format!("http://{}", nodes.peer(1));
    let client = RaftClient::connect(address).await;
    let mut request = tonic::Request::new(VoteRequest {
        vote: Some(VoteState {
            leader: Some(LeaderId {
                term: 9,
                node: left,
            }),
            committed: false,
        }),
        ..VoteRequest::default()
    });
    let (from, id) = (left.to_string(), id.as_str().expect("it was founded"));
    for (key, value) in [
        ("ferry-cluster", "ferry"),
        ("ferry-cluster-id", id),
        ("ferry-from", &from),
        ("ferry-to", "1"),
    ] {
        let value = value.parse().expect("text");
        request.metadata_mut().insert(key, value);
    }
    let answer = client.expect("it listens").vote(request).await;
    let refused = answer.expect_err("it votes for nobody");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(
        refused.message().contains("empty data directory"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_node_that_lost_its_data_founds_nothing_and_has_nothing_until_it_is_added_again() {
    let mut nodes = Nodes::new();
    // Small enough that the log before the loss is let go of.
    nodes.settings = "snapshot_log_bytes: 1MiB\n".into();
    nodes.found(&[1, 2, 3]).await;
    nodes.kill(1).await;
    nodes.wipe(1);
    // The founder: it would found a second cluster if it could.
    nodes.start(1);
    nodes.until_said(1, "there is one of a kind").await;
    let writer = nodes.line(2).await;
    create_soon(&writer, "first").await;
    let session = vec![b's'; 1 << 10];
    for round in 0..MANY / AT_ONCE {
        let ids = (0..AT_ONCE).map(|place| format!("client-{round}-{place}"));
        // On a starved machine the leader may be lost for a moment.
        let creates = ids.map(async |id| create_soon_with(&writer, &id, &session).await);
        futures_util::future::join_all(creates).await;
    }
    until(
        "a snapshot is made and the log before it let go of",
        async || {
            let status = nodes.status(2).await;
            group_at(&status, 2)["snapshot_index"].as_u64() > Some(1_001)
        },
    )
    .await;
    let line = nodes.line(1).await;
    assert_eq!(create(&line, "nobody").await.code(), Code::Unavailable);
    let status = nodes.status(2).await;
    assert_eq!(group_at(&status, 1)["last_log_index"], 0, "{status}");

    let gate = nodes.gate(1).to_string();
    refused(
        &nodes.cluster(2, &["add", &gate]).await,
        &["node 1 is a member"],
    );
    Nodes::done(&nodes.cluster(2, &["remove", "1"]).await);
    Nodes::done(&nodes.cluster(2, &["add", &gate]).await);
    Nodes::done(&nodes.cluster(2, &["promote", "1"]).await);
    nodes.until_level(&[2, 1, 3]).await;
    let status = nodes.status(2).await;
    assert!(
        group_at(&status, 1)["snapshot_index"].as_u64() > Some(0),
        "{status}"
    );
    assert_eq!(line.list("").await.len(), MANY + 1);
}

#[tokio::test]
async fn two_founders_make_one_cluster() {
    let mut nodes = Nodes::new();
    for node in [1, 2, 3] {
        nodes.place(node).await;
    }
    // Two files that name different first members: two nodes take themselves
    // for the founder, and the third is in both.
    nodes.configure(1, &[1, 2, 3], "ferry");
    nodes.configure(2, &[2, 3], "ferry");
    nodes.configure(3, &[1, 2, 3], "ferry");
    for node in [1, 2, 3] {
        nodes.start(node);
    }
    let said = |words| [1, 2].map(|node| usize::from(nodes.said(node).contains(words)));
    let ends = || {
        said("not founded: ")
            .iter()
            .chain(&said("founded the cluster"))
            .sum::<usize>()
    };
    until("both have founded or given up", async || ends() == 2).await;
    let founded: usize = said("founded the cluster").iter().sum();
    assert_eq!(founded, 1, "{}\n{}", nodes.said(1), nodes.said(2));
    // Both files name the other two, so whoever founded it has them.
    for node in [2, 3] {
        nodes.until_ready(node).await;
        create_soon(&nodes.line(node).await, &format!("client-{node}")).await;
    }
    assert_eq!(nodes.line(3).await.list("").await.len(), 2);
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused() {
    let mut nodes = Nodes::three().await;
    for (node, cluster) in [(4, "other"), (5, "ferry")] {
        nodes.place(node).await;
        nodes.configure(node, &[node], cluster);
        nodes.start(node);
        nodes.until_ready(node).await;
        let gate = nodes.gate(node).to_string();
        // One has another name; the other only another id.
        let words = ["belongs to cluster"];
        refused(&nodes.cluster(1, &["add", &gate]).await, &words);
        assert_eq!(member_at(&nodes.status(1).await, node), None);
    }
    nodes.line(1).await.create("after", b"session").await;
}

#[tokio::test]
async fn a_leader_that_is_cut_off_acknowledges_nothing_and_reads_nothing_but_stale() {
    let nodes = Nodes::three().await;
    let leader = nodes.leader(1).await;
    let others: Vec<u64> = [1, 2, 3]
        .into_iter()
        .filter(|node| *node != leader)
        .collect();
    let (cut_off, other) = (nodes.line(leader).await, nodes.line(others[0]).await);
    cut_off.create("before", b"session").await;
    nodes.faults().around(leader, &others, Rule::Hold);
    create_soon(&other, "meanwhile").await;

    let old = cut_off
        .send(grpc(CREATE), old_form("lost", b"session"))
        .await;
    let status = read(&cut_off, &[]).await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let stale = read(&cut_off, &[("ferry-read", "stale")]).await;
    assert_eq!(stale.code(), Code::Ok, "{stale}");

    nodes.faults().around(leader, &others, Rule::Pass);
    let told = old.answer().await.expect("an answer, not a reset").status();
    assert_ne!(told.code(), Code::Ok, "nobody but itself had it");
    nodes.until_level(&[1, 2, 3]).await;
    assert_eq!(cut_off.list("meanwhile").await.len(), 1);
    assert_eq!(cut_off.list("lost").await.len(), 0);
}

#[tokio::test]
async fn a_slow_way_to_one_node_slows_nobody_else() {
    let nodes = Nodes::three().await;
    let leader = nodes.leader(1).await;
    let slow = if leader == 3 { 2 } else { 3 };
    // Some 200 KB, of which 2 KB a second pass: with the slow one's word it
    // would take longer than anything is waited for.
    nodes.faults().set(leader, slow, Rule::Trickle);
    let loading = Loading::start(nodes.address(leader), "slow-");
    loading.until_acknowledged(1_500).await;
    let loaded = loading.stop();
    assert_eq!(nodes.leader(leader).await, leader, "it was slow, not gone");
    nodes.faults().set(leader, slow, Rule::Pass);
    nodes.until_level(&[1, 2, 3]).await;
    let line = nodes.line(slow).await;
    assert_eq!(loaded.missing(&line).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_node_whose_disk_is_full_ends_and_the_others_go_on() {
    let mut nodes = Nodes::three().await;
    nodes.kill(3).await;
    nodes.start_with_file_limit(3, 256);
    nodes.until_ready(3).await;
    let loading = Loading::start(nodes.address(1), "full-");
    let status = nodes.ended(3).await;
    assert_eq!(status.code(), Some(1), "{}", nodes.said(3));
    assert!(nodes.said(3).contains("has stopped"), "{}", nodes.said(3));
    let before = loading.acknowledged();
    loading.until_acknowledged(before + 200).await;
    let loaded = loading.stop();
    nodes.start(3);
    nodes.until_ready(3).await;
    nodes.until_level(&[1, 2, 3]).await;
    let line = nodes.line(3).await;
    assert_eq!(loaded.missing(&line).await, Vec::<String>::new());
}

/// An authority and a certificate of it for each node, as PEM files.
fn certificates(home: &std::path::Path, nodes: &[u64]) {
    let key = rcgen::KeyPair::generate().expect("randomness");
    let mut of_authority = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    of_authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = of_authority.self_signed(&key).expect("its own key");
    let issuer = rcgen::Issuer::new(of_authority, key);
    let write = |name: &str, pem: String| {
        std::fs::write(home.join(name), pem).expect("the temporary directory is writable");
    };
    write("ca.pem", authority.pem());
    let own = rcgen::KeyPair::generate().expect("randomness");
    let mut names = vec!["127.0.0.1".to_owned()];
    names.extend(
        nodes
            .iter()
            .map(|node| crate::support::faults::home_of(*node).to_string()),
    );
    let node = rcgen::CertificateParams::new(names).expect("addresses");
    let node = node.signed_by(&own, &issuer).expect("the authority's key");
    write("node.pem", node.pem());
    write("node.key", own.serialize_pem());
}

#[tokio::test]
async fn nodes_with_certificates_form_a_cluster_and_nobody_without_one_gets_in() {
    let mut nodes = Nodes::new();
    certificates(nodes.home(), &[1, 2, 3]);
    nodes.peer_settings = "  tls: {cert: node.pem, key: node.key, ca: ca.pem}\n".into();
    nodes.found(&[1, 2, 3]).await;
    nodes.line(2).await.create("sealed", b"session").await;
    let file = |name: &str| nodes.home().join(name).display().to_string();
    let (ca, cert, key) = (file("ca.pem"), file("node.pem"), file("node.key"));
    let shown = ["--ca", &ca, "--cert", &cert, "--key", &key, "status"];
    assert!(Nodes::done(&nodes.cluster(3, &shown).await).contains("follower"));
    // Neither in the clear, nor with the authority's certificate alone.
    refused(&nodes.cluster(3, &["status"]).await, &[]);
    refused(&nodes.cluster(3, &["--ca", &ca, "status"]).await, &[]);
}
