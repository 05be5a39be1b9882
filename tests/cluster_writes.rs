//! The other hot writes over a cluster of real processes: sent one by one
//! through the sidecar, read at every node, and conditional ones decided once.

use ferry::proto::{
    meta::{
        DeleteRequest, ExistsRequest, GetOffsetDataRequest, GetPrefixRequest, GetRequest,
        SaveOffsetData, SaveOffsetDataRequest, SaveOffsetDataRequestOffset, SetRequest,
        meta_service_service_client::MetaServiceServiceClient,
    },
    mqtt::{
        DeleteSubscribeRequest, ListSubscribeRequest, SetSubscribeRequest,
        mqtt_service_client::MqttServiceClient,
    },
};
use futures_util::future::join_all;
use tonic::transport::Channel;

use crate::{process::Sidecar, support::nodes::Nodes};

const NODES: [u64; 3] = [1, 2, 3];
/// Calls of each kind.
const CALLS: usize = 60;

async fn channel(address: std::net::SocketAddr) -> Channel {
    let channel = Channel::from_shared(format!("http://{address}"));
    let channel = channel.expect("an address").connect().await;
    channel.expect("it listens")
}

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
    let client = MqttServiceClient::new(channel(sidecar.address).await);
    let set = join_all((0..CALLS).map(|n| {
        let mut client = client.clone();
        async move {
            let request = SetSubscribeRequest {
                client_id: format!("c{n}"),
                path: "a/#".into(),
                subscribe: format!("subscription {n}").into(),
                subscriptions: Vec::new(),
            };
            client.set_subscribe(request).await
        }
    }));
    assert!(set.await.iter().all(Result::is_ok));
    let delete = DeleteSubscribeRequest {
        client_id: "c0".into(),
        path: "a/#".into(),
        subscriptions: Vec::new(),
    };
    client
        .clone()
        .delete_subscribe(delete)
        .await
        .expect("deleted");
    for node in NODES {
        let mut at = MqttServiceClient::new(channel(nodes.address(node)).await);
        let listed = at.list_subscribe(ListSubscribeRequest {}).await;
        let mut listed = listed.expect("a listing").into_inner();
        let mut seen = Vec::new();
        while let Some(reply) = listed.message().await.expect("a subscription") {
            seen.push(String::from_utf8(reply.subscribe.to_vec()).expect("text"));
        }
        seen.sort_unstable();
        let mut meant: Vec<_> = (1..CALLS).map(|n| format!("subscription {n}")).collect();
        meant.sort_unstable();
        assert_eq!(seen, meant, "node {node}");
    }
}

#[tokio::test]
async fn keys_and_values_through_the_sidecar_are_read_at_every_node_at_once() {
    let (nodes, sidecar) = cluster(2).await;
    let client = MetaServiceServiceClient::new(channel(sidecar.address).await);
    let set = join_all((0..CALLS).map(|n| {
        let mut client = client.clone();
        async move {
            let request = SetRequest {
                key: format!("k/{n:03}"),
                value: format!("value {n:03}"),
                entries: Vec::new(),
            };
            client.set(request).await
        }
    }));
    assert!(set.await.iter().all(Result::is_ok));
    let deleted = DeleteRequest {
        key: "k/000".into(),
        entries: Vec::new(),
    };
    client.clone().delete(deleted).await.expect("deleted");
    let meant: Vec<_> = (1..CALLS).map(|n| format!("value {n:03}")).collect();
    for node in NODES {
        let mut at = MetaServiceServiceClient::new(channel(nodes.address(node)).await);
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

fn save(offset: u64, expected: u64) -> SaveOffsetDataRequest {
    let record = SaveOffsetDataRequestOffset {
        shard_name: "shard".into(),
        offset,
        expected_offset: Some(expected),
        ..SaveOffsetDataRequestOffset::default()
    };
    SaveOffsetDataRequest {
        offsets: vec![SaveOffsetData {
            group: "g".into(),
            offsets: vec![record],
            tenant: "t".into(),
        }],
    }
}

async fn saved_at(client: &MetaServiceServiceClient<Channel>) -> u64 {
    let request = GetOffsetDataRequest {
        tenant: "t".into(),
        group: "g".into(),
    };
    let reply = client.clone().get_offset_data(request).await;
    let offsets = reply.expect("offsets").into_inner().offsets;
    offsets.first().map_or(0, |record| record.offset)
}

#[tokio::test]
async fn of_conditional_writes_through_all_nodes_each_is_decided_once() {
    const EACH: u64 = 30;
    let (nodes, sidecar) = cluster(2).await;
    let mut clients = vec![MetaServiceServiceClient::new(
        channel(sidecar.address).await,
    )];
    for node in NODES {
        let channel = channel(nodes.address(node)).await;
        clients.push(MetaServiceServiceClient::new(channel));
    }
    // Each adds one to what it reads, until it has done so often enough. Were two
    // writes allowed that expect the same, the sum would be another.
    let adding = clients.iter().map(async |client| {
        let mut left = EACH;
        while left > 0 {
            let found = saved_at(client).await;
            let reply = client
                .clone()
                .save_offset_data(save(found + 1, found))
                .await;
            left -= u64::from(reply.expect("an answer").into_inner().committed);
        }
    });
    join_all(adding).await;
    for client in &clients {
        assert_eq!(saved_at(client).await, EACH * clients.len() as u64);
    }
}
