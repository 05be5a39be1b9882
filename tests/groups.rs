//! Several Raft groups behind one sidecar: each call finds its group, and a
//! call of several groups' entries is split.

use std::collections::HashSet;

use tonic::Code;

use crate::support::{
    admin,
    client::{CREATE, grpc, old_form},
    served::Served,
};

#[tokio::test]
async fn calls_are_spread_over_the_groups_and_a_batch_of_several_groups_is_whole() {
    let served = Served::embedded_with(", groups: 4, runtime: dedicated").await;
    let line = served.line().await;
    let old: Vec<_> = (0..40).map(|n| format!("old-{n}")).collect();
    for id in &old {
        line.create(id, id.as_bytes()).await;
    }
    // Forty entries of the newer form in one call: all groups' are among them.
    let new: Vec<_> = (0..40).map(|n| format!("new-{n}")).collect();
    let entry = |id: &String| {
        let [tag, len] = [b"\x0a", &[id.len() as u8]];
        let session = [tag, len, id.as_bytes(), b"\x12", len, id.as_bytes()].concat();
        [&[0x0a, session.len() as u8][..], &session].concat()
    };
    let message: Vec<u8> = new.iter().flat_map(entry).collect();
    let mut body = vec![0];
    body.extend_from_slice(&(message.len() as u32).to_be_bytes());
    body.extend_from_slice(&message);
    let answer = line.ask(grpc(CREATE), body.into()).await;
    assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());

    let all: HashSet<_> = line.list("").await.into_iter().collect();
    for id in old.iter().chain(&new) {
        assert!(all.contains(id.as_bytes()), "{id} is not listed");
        assert_eq!(line.list(id).await, [id.as_bytes()]);
    }
    let groups = served.groups.as_ref().expect("they are embedded");
    for group in groups.all() {
        let count = group.sessions().count().expect("it is open");
        assert!(count >= 10, "{count} sessions in {group:?}");
    }
    let address = served.admin();
    for group in 0..4 {
        let label = format!("group=\"{group}\"");
        assert!(admin::metric(address, "ferry_limit", &label).await >= 1.0);
    }
    // One bad entry refuses the whole call, in every group.
    let refused = line.ask(grpc(CREATE), old_form("", b"session")).await;
    assert_eq!(refused.status().code(), Code::InvalidArgument);
    groups.shutdown().await.expect("an orderly end");
}
