//! RobustMQ's hot writes beside CreateSession, as its own clients send them:
//! one of a kind a call.

use std::net::SocketAddr;

use ferry::proto::{
    meta::{
        DeleteRequest, GetOffsetDataRequest, SaveOffsetData, SaveOffsetDataRequest,
        SaveOffsetDataRequestOffset, SetRequest,
        meta_service_service_client::MetaServiceServiceClient,
    },
    mqtt::{
        DeleteSubscribeRequest, ListSubscribeRequest, SetSubscribeRequest,
        mqtt_service_client::MqttServiceClient,
    },
};
use tonic::transport::Channel;

/// A client of the service of sessions and subscriptions.
pub(crate) async fn mqtt(address: SocketAddr) -> MqttServiceClient<Channel> {
    MqttServiceClient::new(channel(address).await)
}

/// A client of the service of keys, values and offsets.
pub(crate) async fn common(address: SocketAddr) -> MetaServiceServiceClient<Channel> {
    MetaServiceServiceClient::new(channel(address).await)
}

async fn channel(address: SocketAddr) -> Channel {
    let channel = Channel::from_shared(format!("http://{address}"));
    let channel = channel.expect("an address").connect().await;
    channel.expect("it listens")
}

/// The subscription of the client of that number.
pub(crate) fn subscribe(n: usize) -> SetSubscribeRequest {
    SetSubscribeRequest {
        client_id: format!("c{n}"),
        path: "a/#".into(),
        subscribe: format!("subscription {n}").into(),
        subscriptions: Vec::new(),
    }
}

/// Its end.
pub(crate) fn unsubscribe(n: usize) -> DeleteSubscribeRequest {
    DeleteSubscribeRequest {
        client_id: format!("c{n}"),
        path: "a/#".into(),
        subscriptions: Vec::new(),
    }
}

/// All subscriptions that there are, in order.
pub(crate) async fn subscriptions(mut client: MqttServiceClient<Channel>) -> Vec<String> {
    let stream = client.list_subscribe(ListSubscribeRequest {}).await;
    let mut stream = stream.expect("a listing").into_inner();
    let mut all = Vec::new();
    while let Some(reply) = stream.message().await.expect("a subscription") {
        all.push(String::from_utf8(reply.subscribe.to_vec()).expect("text"));
    }
    all.sort_unstable();
    all
}

/// The subscriptions of these clients, in the same order.
pub(crate) fn subscriptions_of(clients: impl Iterator<Item = usize>) -> Vec<String> {
    let mut all: Vec<_> = clients.map(|n| format!("subscription {n}")).collect();
    all.sort_unstable();
    all
}

/// The value of the key of that number.
pub(crate) fn set(n: usize) -> SetRequest {
    SetRequest {
        key: format!("k/{n:03}"),
        value: format!("value {n:03}"),
        entries: Vec::new(),
    }
}

/// Its end.
pub(crate) fn delete(n: usize) -> DeleteRequest {
    DeleteRequest {
        key: format!("k/{n:03}"),
        entries: Vec::new(),
    }
}

/// An offset of `shard`, on the condition that the one before is `expected`.
pub(crate) fn offset(shard: &str, offset: u64, expected: Option<u64>) -> SaveOffsetDataRequest {
    let record = SaveOffsetDataRequestOffset {
        shard_name: shard.into(),
        offset,
        expected_offset: expected,
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

/// Asks for all offsets that [`offset`] saves.
pub(crate) fn offsets() -> GetOffsetDataRequest {
    GetOffsetDataRequest {
        tenant: "t".into(),
        group: "g".into(),
    }
}
