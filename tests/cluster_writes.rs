//! The other hot writes over a cluster of real processes: sent one by one
//! through the sidecar, read at every node, and conditional ones decided once.

use ferry::proto::meta::{
    ExistsRequest, GetPrefixRequest, GetRequest,
    meta_service_service_client::MetaServiceServiceClient,
};
use futures_util::future::join_all;
use tonic::transport::Channel;

use crate::{
    process::Sidecar,
    support::{
        hot::{
            common, delete, mqtt, offset, offsets, set, subscribe, subscriptions, subscriptions_of,
            unsubscribe,
        },
        nodes::Nodes,
    },
};

const NODES: [u64; 3] = [1, 2, 3];
/// Calls of each kind.
const CALLS: usize = 60;

async fn cluster(groups: u32) -> (Nodes, Sidecar) {
    let mut nodes = Nodes::new();
    nodes.settings = format!("groups: {groups}\n");
    nodes.found(&NODES).await;
    let sidecar = Sidecar::with_policy(&nodes.policy(NODES)).await;
    (nodes, sidecar)
}

#[tokio::test]
async fn subscriptions_through_the_sidecar_are_read_at_every_node_at_once() {
    let (nodes, sidecar) = cluster(2).await;
    let client = mqtt(sidecar.address).await;
    let done = join_all((0..CALLS).map(|n| {
        let mut client = client.clone();
        async move { client.set_subscribe(subscribe(n)).await }
    }));
    assert!(done.await.iter().all(Result::is_ok));
    let deleted = client.clone().delete_subscribe(unsubscribe(0)).await;
    deleted.expect("deleted");
    for node in NODES {
        let seen = subscriptions(mqtt(nodes.address(node)).await).await;
        assert_eq!(seen, subscriptions_of(1..CALLS), "node {node}");
    }
}

#[tokio::test]
async fn keys_and_values_through_the_sidecar_are_read_at_every_node_at_once() {
    let (nodes, sidecar) = cluster(2).await;
    let client = common(sidecar.address).await;
    let done = join_all((0..CALLS).map(|n| {
        let mut client = client.clone();
        async move { client.set(set(n)).await }
    }));
    assert!(done.await.iter().all(Result::is_ok));
    client.clone().delete(delete(0)).await.expect("deleted");
    let meant: Vec<_> = (1..CALLS).map(|n| format!("value {n:03}")).collect();
    for node in NODES {
        let mut at = common(nodes.address(node)).await;
        let all = at
            .get_prefix(GetPrefixRequest {
                prefix: "k/".into(),
            })
            .await;
        assert_eq!(
            all.expect("values").into_inner().values,
            meant,
            "node {node}"
        );
        let got = at
            .get(GetRequest {
                key: "k/007".into(),
            })
            .await;
        assert_eq!(got.expect("a value").into_inner().value, "value 007");
        let exists = at
            .exists(ExistsRequest {
                key: "k/000".into(),
            })
            .await;
        assert!(!exists.expect("an answer").into_inner().flag);
    }
}

async fn saved_at(client: &MetaServiceServiceClient<Channel>) -> u64 {
    let reply = client.clone().get_offset_data(offsets()).await;
    let offsets = reply.expect("offsets").into_inner().offsets;
    offsets.first().map_or(0, |record| record.offset)
}

#[tokio::test]
async fn of_conditional_writes_through_all_nodes_each_is_decided_once() {
    const EACH: u64 = 30;
    let (nodes, sidecar) = cluster(2).await;
    let mut clients = vec![common(sidecar.address).await];
    for node in NODES {
        clients.push(common(nodes.address(node)).await);
    }
    // Each adds one to what it reads, until it has done so often enough. Were two
    // writes allowed that expect the same, the sum would be another.
    let adding = clients.iter().map(async |client| {
        let mut left = EACH;
        while left > 0 {
            let found = saved_at(client).await;
            let next = offset("shard", found + 1, Some(found));
            let reply = client.clone().save_offset_data(next).await;
            left -= u64::from(reply.expect("an answer").into_inner().committed);
        }
    });
    join_all(adding).await;
    for client in &clients {
        assert_eq!(saved_at(client).await, EACH * clients.len() as u64);
    }
}
