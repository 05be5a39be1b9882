//! Sessions, by client id.

use bytes::Bytes;
use futures_util::stream;
use tonic::Status;

use super::{
    Listing, MetaService, blocking,
    write::{Write, filled, named},
};
use crate::{
    proto::mqtt::{
        CreateSessionRaw, CreateSessionRequest, DeleteSessionRaw, DeleteSessionRequest,
        ListSessionReply,
    },
    raft::{Read, command::Kind},
};

impl Write for CreateSessionRequest {
    type Raw = CreateSessionRaw;
    const KIND: Kind = Kind::CreateSession;
    const BATCHED: &'static str = "sessions";

    fn forms(self) -> (Option<CreateSessionRaw>, Vec<CreateSessionRaw>) {
        (None, self.sessions)
    }

    fn of(sessions: Vec<CreateSessionRaw>) -> Self {
        Self { sessions }
    }

    fn check(raw: &CreateSessionRaw) -> Result<(), String> {
        named("client_id", &raw.client_id, "client")?;
        filled("session", &raw.session, "session")
    }

    fn key(raw: &CreateSessionRaw) -> Vec<&[u8]> {
        vec![raw.client_id.as_bytes()]
    }
}

impl Write for DeleteSessionRequest {
    type Raw = DeleteSessionRaw;
    const KIND: Kind = Kind::DeleteSession;
    const BATCHED: &'static str = "sessions";

    fn forms(self) -> (Option<DeleteSessionRaw>, Vec<DeleteSessionRaw>) {
        let Self {
            tenant,
            client_id,
            sessions,
        } = self;
        let is_single = sessions.is_empty() || !tenant.is_empty() || !client_id.is_empty();
        let single = DeleteSessionRaw { tenant, client_id };
        (is_single.then_some(single), sessions)
    }

    fn of(sessions: Vec<DeleteSessionRaw>) -> Self {
        Self {
            sessions,
            ..Self::default()
        }
    }

    fn check(raw: &DeleteSessionRaw) -> Result<(), String> {
        named("client_id", &raw.client_id, "client")
    }

    fn key(raw: &DeleteSessionRaw) -> Vec<&[u8]> {
        vec![raw.client_id.as_bytes()]
    }
}

/// The session of one client, or of all where `client_id` is empty.
pub(super) async fn list(
    service: &MetaService,
    read: Read,
    client_id: String,
) -> Result<Listing<ListSessionReply>, Status> {
    if client_id.is_empty() {
        return service
            .list(read, |view, show| {
                view.sessions().for_each(|_, session| {
                    let session = Bytes::copy_from_slice(session);
                    show(ListSessionReply { session })
                })
            })
            .await;
    }
    let view = service.view_of(read, &[client_id.as_bytes()]).await?;
    let found = blocking(move || view.sessions().get(client_id.as_bytes())).await?;
    let replies = found.map(|session| Ok(ListSessionReply { session }));
    Ok(Box::pin(stream::iter(replies)))
}
