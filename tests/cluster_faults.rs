//! What callers of a cluster notice when a node, a disk or a way fails: each
//! row of docs/cluster.md about faults, through the sidecar as it ships.

use tonic::Code;

use crate::{
    process::Sidecar,
    support::{
        admin,
        client::{CREATE, LIST, Line, frame, grpc, old_form, with},
        faults::Rule,
        load::Loading,
        nodes::{Nodes, group_at, groups_at, member_at},
        slow_disk::SlowDisk,
        until,
    },
};
use ferry::{proto::mqtt::ListSessionRequest, raft::keys, telemetry::names};

const NODES: [u64; 3] = [1, 2, 3];

fn others(node: u64) -> [u64; 2] {
    let mut others = NODES.into_iter().filter(|other| *other != node);
    [(); 2].map(|()| others.next().expect("there are three"))
}

/// Each of these nodes has what was acknowledged.
async fn has_all(nodes: &Nodes, loaded: &crate::support::load::Loaded) {
    nodes.until_level(&NODES).await;
    for node in NODES {
        let line = nodes.line(node).await;
        assert_eq!(loaded.missing(&line).await, Vec::<String>::new());
    }
}

/// A node of three is not ready while the two others are gone, says so once, and
/// is ready again when one of them is back. `left` chooses it, given who leads.
async fn is_not_ready_alone(left: impl Fn(u64) -> u64) {
    let mut nodes = Nodes::three().await;
    let left = left(nodes.leader(1).await);
    let warned = |nodes: &Nodes| nodes.said(left).matches("writes are refused").count();
    let before = warned(&nodes);
    for other in others(left) {
        nodes.kill(other).await;
    }
    nodes.until_not_ready(left, "has no leader").await;
    until("the gauge says so", async || {
        let label = "group=\"0\"";
        admin::metric(nodes.admin(left), names::RAFT_HAS_LEADER, label).await == 0.0
    })
    .await;
    let group = group_at(&nodes.status(left).await, left);
    assert!(group["leader"].is_null(), "{group}");
    until("it warns", async || warned(&nodes) > before).await;
    let line = nodes.line(left).await;
    let body = old_form("client", b"session");
    let refused = line.ask(grpc(CREATE), body).await.status();
    assert_ne!(refused.code(), Code::Ok, "{refused}");

    nodes.start(others(left)[0]);
    nodes.until_ready(left).await;
    nodes.until_said(left, "has a leader again").await;
    assert_eq!(warned(&nodes), before + 1);
}

#[tokio::test]
async fn a_leader_that_is_left_alone_is_not_ready() {
    is_not_ready_alone(|leader| leader).await;
}

#[tokio::test]
async fn a_follower_that_is_left_alone_is_not_ready() {
    is_not_ready_alone(|leader| others(leader)[0]).await;
}

#[tokio::test]
async fn a_leader_that_is_removed_hands_over_and_is_not_ready_any_more() {
    let nodes = Nodes::three().await;
    let leader = nodes.leader(1).await;
    let [asked, other] = others(leader);
    nodes.line(asked).await.create("before", b"session").await;
    Nodes::done(&nodes.cluster(asked, &["remove", &leader.to_string()]).await);
    until("another leads", async || {
        let status = nodes.status(asked).await;
        let led_by = group_at(&status, asked)["leader"].as_u64();
        led_by.is_some_and(|node| node != leader)
    })
    .await;
    assert_eq!(member_at(&nodes.status(asked).await, leader), None);
    nodes.until_not_ready(leader, "").await;
    nodes.until_ready(other).await;
    let line = nodes.line(other).await;
    line.create("after", b"session").await;
    assert_eq!(line.list("").await.len(), 2);
}

#[tokio::test]
async fn a_leader_that_is_told_to_end_hands_leadership_to_a_node_that_lives() {
    let mut nodes = Nodes::three().await;
    // The dead one has the smaller number and all of the log, as far as is known.
    nodes.until_level(&NODES).await;
    nodes.kill(1).await;
    until("it is refused as the leader", async || {
        let refused = nodes.cluster(2, &["transfer", "1"]).await;
        String::from_utf8_lossy(&refused.stderr).contains("was not heard")
    })
    .await;
    let mut said = String::new();
    // On a starved machine it may be no leader any more when it is told.
    for _ in 0..3 {
        let leader = nodes.leader(2).await;
        let other = if leader == 2 { 3 } else { 2 };
        nodes.signal(leader, "TERM").await;
        let status = nodes.ended(leader).await;
        said = nodes.said(leader);
        assert!(status.success(), "{said}");
        if said.contains(&format!("leadership is handed on leader={other}")) {
            return;
        }
        nodes.start(leader);
        nodes.until_ready(2).await;
    }
    panic!("{said}");
}

#[tokio::test]
async fn a_leader_that_is_told_to_lead_goes_on_in_its_term() {
    let nodes = Nodes::three().await;
    // Again, since on a starved machine a leader may be lost by itself.
    until("it leads on in its term", async || {
        let leader = nodes.leader(1).await;
        let before = group_at(&nodes.status(leader).await, leader);
        let transfer = ["transfer", &leader.to_string()];
        let told = nodes.cluster(others(leader)[0], &transfer).await;
        let line = nodes.line(leader).await;
        let body = old_form("client", b"session");
        let written = line.ask(grpc(CREATE), body).await.status();
        let after = group_at(&nodes.status(leader).await, leader);
        let stays = ["term", "leader"]
            .iter()
            .all(|key| before[*key] == after[*key]);
        told.status.success() && written.code() == Code::Ok && stays
    })
    .await;
}

#[tokio::test]
async fn callers_with_time_notice_nothing_of_a_leader_that_is_killed() {
    let mut nodes = Nodes::three().await;
    let sidecar = Sidecar::with_policy(&nodes.policy(NODES)).await;
    let loading = Loading::start(sidecar.address, "patient-");
    loading.until_acknowledged(500).await;
    // Twice, so that both the endpoints left and one that is back are led.
    for _ in 0..2 {
        let leader = nodes.leader(1).await;
        nodes.kill(leader).await;
        let before = loading.acknowledged();
        loading.until_acknowledged(before + 500).await;
        nodes.start(leader);
        nodes.until_ready(leader).await;
        nodes.until_ready(1).await;
    }
    let loaded = loading.stop();
    assert_eq!(loaded.errors.len(), 0, "{:?}", loaded.errors);
    has_all(&nodes, &loaded).await;
}

#[tokio::test]
async fn a_leader_of_several_groups_that_is_killed_costs_none_of_them_a_write() {
    let mut nodes = Nodes::new();
    nodes.settings = "groups: 2\n".into();
    nodes.found(&NODES).await;
    let sidecar = Sidecar::with_policy(&nodes.policy(NODES)).await;
    let loading = Loading::start(sidecar.address, "groups-");
    loading.until_acknowledged(400).await;
    let leader = nodes.leader(1).await;
    nodes.kill(leader).await;
    let before = loading.acknowledged();
    loading.until_acknowledged(before + 400).await;
    let status = nodes.status(others(leader)[0]).await;
    let groups = groups_at(&status, others(leader)[0]);
    assert_eq!(groups.len(), 2);
    for group in groups {
        let led_by = group["leader"].as_u64();
        assert!(led_by.is_some_and(|node| node != leader), "{group}");
        assert!(group["applied_index"].as_u64() > Some(1), "{group}");
    }
    nodes.start(leader);
    nodes.until_ready(leader).await;
    has_all(&nodes, &loading.stop()).await;
}

#[tokio::test]
async fn a_node_that_stands_still_is_done_without_and_catches_up() {
    let nodes = Nodes::three().await;
    // Not as shipped: each key is written once here, so a late write harms none.
    let (all, timed) = (
        "idempotent: true}",
        "idempotent: true, attempt_timeout: 3s}",
    );
    let policy = nodes.policy(NODES).replace(all, timed);
    let sidecar = Sidecar::with_policy(&policy).await;
    let loading = Loading::start(sidecar.address, "still-");
    loading.until_acknowledged(200).await;
    let leader = nodes.leader(1).await;
    // It keeps its connections, and answers nothing: nobody is told.
    nodes.signal(leader, "STOP").await;
    until("what it was sent is sent to another", async || {
        let label = "reason=\"retry\"";
        admin::metric(sidecar.admin, names::BATCHES_AGAIN, label).await > 0.0
    })
    .await;
    let before = loading.acknowledged();
    loading.until_acknowledged(before + 400).await;
    assert_ne!(nodes.leader(others(leader)[0]).await, leader);
    nodes.signal(leader, "CONT").await;
    let loaded = loading.stop();
    assert_eq!(loaded.errors.len(), 0, "{:?}", loaded.errors);
    has_all(&nodes, &loaded).await;
}

/// Creates one after the other at a node, more than a disk that takes a second
/// for each sync could carry in the time that a test has.
async fn quick_writes(line: &Line, prefix: &str) {
    let mut written = 0;
    until("a hundred are acknowledged", async || {
        let id = format!("{prefix}-{written}");
        let answer = line.ask(grpc(CREATE), old_form(&id, b"session")).await;
        written += u32::from(answer.status().code() == Code::Ok);
        written == 100
    })
    .await;
}

#[tokio::test]
async fn a_slow_disk_slows_nobody_as_long_as_a_majority_has_quick_ones() {
    let mut nodes = Nodes::three().await;
    let disk = SlowDisk::new(nodes.home());
    let leader = nodes.leader(1).await;
    let follower = others(leader)[0];
    // A node that follows gets the disk; then it is made the leader with it.
    nodes.kill(follower).await;
    nodes.variables = disk.variables();
    nodes.start(follower);
    nodes.until_ready(follower).await;
    disk.slow();
    let line = nodes.line(leader).await;
    quick_writes(&line, "followed").await;
    disk.quick();
    nodes.until_level(&NODES).await;
    let transfer = ["transfer".to_owned(), follower.to_string()];
    let transfer = transfer.each_ref().map(String::as_str);
    Nodes::done(&nodes.cluster(leader, &transfer).await);
    disk.slow();
    quick_writes(&line, "led").await;
    disk.quick();
    nodes.until_level(&NODES).await;
    assert_eq!(nodes.line(follower).await.list("").await.len(), 200);
}

#[tokio::test]
async fn a_node_is_not_ready_before_it_has_applied_the_log_from_before_its_restart() {
    const MANY: usize = 3_000;
    let mut nodes = Nodes::three().await;
    let leader = nodes.leader(1).await;
    let node = others(leader)[0];
    let line = nodes.line(leader).await;
    let session = vec![b's'; 1 << 10];
    for round in 0..MANY / 100 {
        let ids = (0..100).map(|place| format!("client-{round}-{place}"));
        // On a starved machine a leader may be lost for a moment.
        let creates = ids.map(async |id| {
            until("it is acknowledged", async || {
                let answer = line.ask(grpc(CREATE), old_form(&id, &session)).await;
                answer.status().code() == Code::Ok
            })
            .await;
        });
        futures_util::future::join_all(creates).await;
    }
    nodes.until_level(&NODES).await;
    // What it had applied was in memory, and how much of its log is committed
    // was never synced: it has to hear that from the leader, and apply all of it.
    nodes.kill(node).await;
    let log = rocksdb::DB::open_default(nodes.data_dir(node).join("log"));
    let log = log.expect("the node is dead");
    log.delete(keys::fact(0, keys::Fact::Committed))
        .expect("a disk");
    drop(log);
    nodes.start(node);
    nodes.until_ready(node).await;
    let stale = [("ferry-read", "stale")];
    assert_eq!(read(&nodes.line(node).await, &stale).await, Ok(MANY));
}

async fn read(line: &Line, metadata: &[(&str, &str)]) -> Result<usize, Code> {
    let request = frame(&ListSessionRequest::default());
    let answer = line.ask(with(LIST, metadata), request).await;
    match answer.status().code() {
        Code::Ok => Ok(crate::support::client::messages(answer.body).len()),
        code => Err(code),
    }
}

#[tokio::test]
async fn a_follower_that_is_behind_is_read_only_by_who_asks_for_stale_data() {
    let nodes = Nodes::three().await;
    let leader = nodes.leader(1).await;
    let [behind, other] = others(leader);
    let (line, writer) = (nodes.line(behind).await, nodes.line(other).await);
    writer.create("before", b"session").await;
    assert_eq!(read(&line, &[]).await, Ok(1));
    nodes.faults().around(behind, &[leader, other], Rule::Hold);
    until("a write is acknowledged by the others", async || {
        let body = old_form("after", b"session");
        writer.ask(grpc(CREATE), body).await.status().code() == Code::Ok
    })
    .await;
    // It does not know that it is behind; it only cannot prove that it is not.
    assert_eq!(read(&line, &[]).await, Err(Code::Unavailable));
    assert_eq!(read(&line, &[("ferry-read", "stale")]).await, Ok(1));
    nodes.faults().around(behind, &[leader, other], Rule::Pass);
    until("it reads again", async || read(&line, &[]).await.is_ok()).await;
    assert_eq!(read(&line, &[]).await, Ok(2));
}
