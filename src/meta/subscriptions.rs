//! Subscriptions, by client id and path. A client's lie in one group.

use bytes::Bytes;
use tonic::Status;

use super::{
    Listing, MetaService,
    write::{Write, filled, named},
};
use crate::{
    proto::mqtt::{
        DeleteSubscribeRaw, DeleteSubscribeRequest, ListSubscribeReply, SetSubscribeRaw,
        SetSubscribeRequest,
    },
    raft::{Read, command::Kind},
};

impl Write for SetSubscribeRequest {
    type Raw = SetSubscribeRaw;
    const KIND: Kind = Kind::SetSubscribe;
    const BATCHED: &'static str = "subscriptions";

    fn forms(self) -> (Option<SetSubscribeRaw>, Vec<SetSubscribeRaw>) {
        let Self {
            client_id,
            path,
            subscribe,
            subscriptions,
        } = self;
        let is_single = subscriptions.is_empty()
            || !(client_id.is_empty() && path.is_empty() && subscribe.is_empty());
        let single = SetSubscribeRaw {
            client_id,
            path,
            subscribe,
        };
        (is_single.then_some(single), subscriptions)
    }

    fn of(subscriptions: Vec<SetSubscribeRaw>) -> Self {
        Self {
            subscriptions,
            ..Self::default()
        }
    }

    fn check(raw: &SetSubscribeRaw) -> Result<(), String> {
        named("client_id", &raw.client_id, "client")?;
        named("path", &raw.path, "subscription")?;
        filled("subscribe", &raw.subscribe, "subscription")
    }

    fn key(raw: &SetSubscribeRaw) -> Vec<&[u8]> {
        vec![raw.client_id.as_bytes()]
    }
}

impl Write for DeleteSubscribeRequest {
    type Raw = DeleteSubscribeRaw;
    const KIND: Kind = Kind::DeleteSubscribe;
    const BATCHED: &'static str = "subscriptions";

    fn forms(self) -> (Option<DeleteSubscribeRaw>, Vec<DeleteSubscribeRaw>) {
        let Self {
            client_id,
            path,
            subscriptions,
        } = self;
        let is_single = subscriptions.is_empty() || !(client_id.is_empty() && path.is_empty());
        let single = DeleteSubscribeRaw { client_id, path };
        (is_single.then_some(single), subscriptions)
    }

    fn of(subscriptions: Vec<DeleteSubscribeRaw>) -> Self {
        Self {
            subscriptions,
            ..Self::default()
        }
    }

    fn check(raw: &DeleteSubscribeRaw) -> Result<(), String> {
        named("client_id", &raw.client_id, "client")?;
        named("path", &raw.path, "subscription")
    }

    fn key(raw: &DeleteSubscribeRaw) -> Vec<&[u8]> {
        vec![raw.client_id.as_bytes()]
    }
}

/// Every subscription of every client.
pub(super) async fn list(
    service: &MetaService,
    read: Read,
) -> Result<Listing<ListSubscribeReply>, Status> {
    service
        .list(read, |view, show| {
            view.subscriptions(|subscribe| {
                let subscribe = Bytes::copy_from_slice(subscribe);
                show(ListSubscribeReply { subscribe })
            })
        })
        .await
}
