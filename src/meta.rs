//! The session service of a node, served by tonic: the calls that come straight
//! to the groups, and the ones that are too rare to batch.
//!
//! Reads answer from what this node has applied, once that is no older than any
//! write that was acknowledged before; a caller that does not need that much
//! says so with the metadata `ferry-read: stale`. Writes validate first: what
//! cannot be applied never reaches the log. A session lies in the group of its
//! client id; a batch of several groups' is applied a group at a time.

use std::{collections::BTreeMap, ops::ControlFlow, pin::Pin, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{Stream, future::join_all, stream};
use prost::Message;
use tokio::{
    sync::{Semaphore, mpsc},
    task,
};
use tonic::{Code, Request, Response, Status};

use crate::{
    proto::mqtt::{
        CreateSessionReply, CreateSessionRequest, DeleteSessionReply, DeleteSessionRequest,
        ListSessionReply, ListSessionRequest, mqtt_service_server::MqttService,
    },
    raft::{
        Group, Groups, ProposeError, Read, Sessions,
        command::{Applied, CLIENT_ID_MAX, Command, HEADER_LEN, Kind},
    },
};

/// How many listings of everything may run at once: each holds a thread and a
/// moment of the database for as long as its caller takes to read it.
const LISTINGS_MAX: usize = 4;
/// How many sessions a listing reads ahead of its caller.
const LISTING_AHEAD: usize = 256;

/// The session service over a node's Raft groups.
#[derive(Clone)]
pub struct MetaService {
    groups: Groups,
    listings: Arc<Semaphore>,
}

type Listing = Pin<Box<dyn Stream<Item = Result<ListSessionReply, Status>> + Send>>;

impl MetaService {
    /// Serves `groups`.
    #[must_use]
    pub fn new(groups: Groups) -> Self {
        Self {
            groups,
            listings: Arc::new(Semaphore::new(LISTINGS_MAX)),
        }
    }

    async fn propose(&self, group: u32, command: Command, entries: usize) -> Result<(), Status> {
        let entries = u32::try_from(entries).unwrap_or(u32::MAX);
        match self.groups.at(group).propose(command, entries).await {
            Ok(Applied::Done) => Ok(()),
            Ok(Applied::Malformed) => Err(Status::internal(
                "the group could not parse the command; nothing was applied",
            )),
            // Definitely not appended, so a retry is safe.
            Err(error @ ProposeError::Refused(_)) => Err(Status::unavailable(error.to_string())),
            // A client must not take this for an invitation to retry blindly.
            Err(error @ ProposeError::Unknown(_)) => Err(Status::unknown(error.to_string())),
        }
    }

    /// The sessions of each group, in their order.
    fn parts(&self, request: CreateSessionRequest) -> BTreeMap<u32, CreateSessionRequest> {
        let mut parts = BTreeMap::<_, CreateSessionRequest>::new();
        for raw in request.sessions {
            let group = self.groups.number_of(&[raw.client_id.as_bytes()]);
            parts.entry(group).or_default().sessions.push(raw);
        }
        parts
    }
}

/// One answer of all groups'. UNAVAILABLE would say that nothing was applied,
/// so it is said only where that is true of every part.
fn together(outcomes: Vec<Result<(), Status>>) -> Result<(), Status> {
    let parts = outcomes.len();
    let applied = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let errors: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    let uncertain = errors.iter().find(|e| e.code() != Code::Unavailable);
    match uncertain.or(errors.first()) {
        None => Ok(()),
        Some(error) if applied == 0 => Err(error.clone()),
        Some(error) => Err(Status::unknown(format!(
            "{applied} of the {parts} groups that the sessions belong to applied their part, and \
             one did not: {}; send them again if creating them twice does no harm",
            error.message()
        ))),
    }
}

#[tonic::async_trait]
impl MqttService for MetaService {
    type ListSessionStream = Listing;

    async fn create_session(
        &self,
        request: Request<CreateSessionRequest>,
    ) -> Result<Response<CreateSessionReply>, Status> {
        let request = request.into_inner();
        check_sessions(&request)?;
        let mut proposals = Vec::new();
        for (group, part) in self.parts(request) {
            let entries = part.sessions.len();
            proposals.push(self.propose(group, command(Kind::CreateSession, &part)?, entries));
        }
        together(join_all(proposals).await)?;
        Ok(Response::new(CreateSessionReply {}))
    }

    async fn delete_session(
        &self,
        request: Request<DeleteSessionRequest>,
    ) -> Result<Response<DeleteSessionReply>, Status> {
        let request = request.into_inner();
        check_client_id("client_id", &request.client_id)?;
        let group = self.groups.number_of(&[request.client_id.as_bytes()]);
        self.propose(group, command(Kind::DeleteSession, &request)?, 1)
            .await?;
        Ok(Response::new(DeleteSessionReply {}))
    }

    async fn list_session(
        &self,
        request: Request<ListSessionRequest>,
    ) -> Result<Response<Listing>, Status> {
        let read = Read::asked(&request)?;
        let client_id = request.into_inner().client_id;
        if client_id.is_empty() {
            read.of(self.groups.all()).await?;
            let sessions = self.groups.all().iter().map(Group::sessions).collect();
            let permit = Arc::clone(&self.listings)
                .acquire_owned()
                .await
                .map_err(|_| Status::unavailable("the node is shutting down"))?;
            return Ok(Response::new(list_all(sessions, permit)));
        }
        let group = self.groups.of(&[client_id.as_bytes()]);
        read.of(std::slice::from_ref(group)).await?;
        let sessions = group.sessions();
        let found = task::spawn_blocking(move || sessions.get(client_id.as_bytes()))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let replies = found.map(|session| Ok(ListSessionReply { session }));
        Ok(Response::new(Box::pin(stream::iter(replies))))
    }
}

/// Streams every session, no faster than the caller reads: group by group, each
/// as of the moment at which its turn begins.
fn list_all(groups: Vec<Sessions>, permit: tokio::sync::OwnedSemaphorePermit) -> Listing {
    let (reply, mut replies) = mpsc::channel(LISTING_AHEAD);
    task::spawn_blocking(move || {
        let _permit = permit;
        let mut groups = groups.iter();
        let listed = groups.try_for_each(|sessions| {
            let listed = sessions.for_each(|_, session| {
                let session = Bytes::copy_from_slice(session);
                // An error means that the caller has left.
                match reply.blocking_send(Ok(ListSessionReply { session })) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            });
            listed.map(drop)
        });
        if let Err(error) = listed {
            reply
                .blocking_send(Err(Status::unavailable(error.to_string())))
                .ok();
        }
    });
    Box::pin(stream::poll_fn(move |context| replies.poll_recv(context)))
}

/// The command that asks for `message`, which is written once, behind its header.
fn command(kind: Kind, message: &impl Message) -> Result<Command, Status> {
    let mut encoded = BytesMut::with_capacity(HEADER_LEN + message.encoded_len());
    encoded.put_slice(&Command::header(kind));
    message
        .encode(&mut encoded)
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok(Command::from_encoded(encoded.freeze()))
}

fn check_sessions(request: &CreateSessionRequest) -> Result<(), Status> {
    if request.sessions.is_empty() {
        return Err(Status::invalid_argument(
            "sessions: 0 are given; at least 1 must be",
        ));
    }
    for (place, raw) in request.sessions.iter().enumerate() {
        check_client_id(&format!("sessions[{place}].client_id"), &raw.client_id)?;
        if raw.session.is_empty() {
            return Err(Status::invalid_argument(format!(
                "sessions[{place}].session: it is empty; it must hold the encoded session"
            )));
        }
    }
    Ok(())
}

fn check_client_id(field: &str, client_id: &str) -> Result<(), Status> {
    match client_id.len() {
        0 => Err(Status::invalid_argument(format!(
            "{field}: it is empty; it must name the client"
        ))),
        len if len > CLIENT_ID_MAX => Err(Status::invalid_argument(format!(
            "{field}: it is {len} bytes; it must be at most {CLIENT_ID_MAX}"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{proto::mqtt::CreateSessionRaw, raft::GroupSettings};
    use futures_util::StreamExt as _;
    use prometheus::Registry;

    struct Node {
        service: MetaService,
        _home: tempfile::TempDir,
    }

    async fn node() -> Node {
        node_of(1).await
    }

    async fn node_of(groups: u32) -> Node {
        let home = tempfile::tempdir().unwrap();
        let mut settings = GroupSettings::new(home.path());
        settings.identity.groups = groups;
        let groups = Groups::open(settings, &Registry::new()).await.unwrap();
        Node {
            service: MetaService::new(groups),
            _home: home,
        }
    }

    impl Node {
        async fn create(&self, sessions: &[(&str, &str)]) -> Result<(), Status> {
            let sessions = sessions
                .iter()
                .map(|&(client_id, session)| CreateSessionRaw {
                    client_id: client_id.into(),
                    session: Bytes::copy_from_slice(session.as_bytes()),
                })
                .collect();
            let request = Request::new(CreateSessionRequest { sessions });
            self.service.create_session(request).await.map(|_| ())
        }

        async fn delete(&self, client_id: &str) -> Result<(), Status> {
            let request = DeleteSessionRequest {
                tenant: "any".into(),
                client_id: client_id.into(),
            };
            self.service
                .delete_session(Request::new(request))
                .await
                .map(|_| ())
        }

        async fn list(&self, client_id: &str) -> Vec<Bytes> {
            let request = ListSessionRequest {
                tenant: String::new(),
                client_id: client_id.into(),
            };
            let stream = self
                .service
                .list_session(Request::new(request))
                .await
                .unwrap();
            stream
                .into_inner()
                .map(|reply| reply.unwrap().session)
                .collect()
                .await
        }
    }

    #[tokio::test]
    async fn what_was_created_is_listed_until_it_is_deleted() {
        let node = node().await;
        node.create(&[("a", "1"), ("b", "2"), ("a", "3")])
            .await
            .unwrap();
        assert_eq!(node.list("a").await, ["3"]);
        assert_eq!(node.list("").await, ["3", "2"]);
        node.delete("a").await.unwrap();
        assert!(node.list("a").await.is_empty());
        assert_eq!(node.list("").await, ["2"]);
        node.delete("a").await.unwrap();
    }

    #[tokio::test]
    async fn a_batch_of_several_groups_is_split_and_every_session_found_and_deleted() {
        let node = node_of(4).await;
        let ids: Vec<String> = (0..100).map(|n| format!("client-{n:02}")).collect();
        let pairs: Vec<_> = ids.iter().map(|id| (id.as_str(), id.as_str())).collect();
        node.create(&pairs).await.unwrap();
        assert_eq!(node.service.groups.proposals(), 4, "one for each group");
        for group in node.service.groups.all() {
            assert!(group.sessions().count().unwrap() > 0, "{group:?}");
        }
        let mut all = node.list("").await;
        all.sort();
        assert_eq!(all, ids);
        for id in &ids {
            assert_eq!(node.list(id).await, [id.as_bytes()]);
            node.delete(id).await.unwrap();
        }
        assert!(node.list("").await.is_empty());
    }

    #[test]
    fn a_batch_is_unavailable_only_where_no_group_applied_its_part() {
        let unavailable = || Err(Status::unavailable("why"));
        assert!(together(vec![Ok(()), Ok(())]).is_ok());
        let none = together(vec![unavailable(), unavailable()]).unwrap_err();
        assert_eq!(none.code(), Code::Unavailable);
        let some = together(vec![Ok(()), unavailable()]).unwrap_err();
        assert_eq!(some.code(), Code::Unknown);
        let unknown = together(vec![unavailable(), Err(Status::unknown("why"))]).unwrap_err();
        assert_eq!(unknown.code(), Code::Unknown);
    }

    #[tokio::test]
    async fn a_bad_entry_refuses_the_batch_and_is_named() {
        let node = node().await;
        let long = "x".repeat(CLIENT_ID_MAX + 1);
        for (sessions, named) in [
            (&[][..], "sessions: 0"),
            (
                &[("a", "1"), ("b", "2"), ("", "3")],
                "sessions[2].client_id: it is empty",
            ),
            (&[("a", "1"), ("b", "")], "sessions[1].session: it is empty"),
            (
                &[(long.as_str(), "1")],
                "it is 65536 bytes; it must be at most 65535",
            ),
        ] {
            let status = node.create(sessions).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains(named), "{status}");
        }
        let status = node.delete("").await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            node.list("").await.is_empty(),
            "nothing of a refused batch is applied"
        );
        assert_eq!(
            node.service.groups.proposals(),
            0,
            "nor does it reach the log"
        );
    }

    #[tokio::test]
    async fn a_listing_that_nobody_reads_holds_a_bounded_number_of_sessions() {
        let node = node().await;
        let ids: Vec<String> = (0..2_000).map(|n| format!("{n:05}")).collect();
        let pairs: Vec<_> = ids.iter().map(|id| (id.as_str(), "session")).collect();
        node.create(&pairs).await.unwrap();

        let request = ListSessionRequest::default();
        let mut unread = node
            .service
            .list_session(Request::new(request))
            .await
            .unwrap()
            .into_inner();
        let first = unread.next().await.unwrap().unwrap();
        assert_eq!(first.session, "session");
        // The rest waits for the caller: writes and other listings go on.
        node.create(&[("later", "session")]).await.unwrap();
        assert_eq!(node.list("").await.len(), 2_001);
        // It shows the moment it began at, whatever came since.
        assert_eq!(unread.count().await, 1_999);
    }

    #[tokio::test]
    async fn a_caller_that_leaves_its_listing_makes_room_for_another() {
        let node = node().await;
        let ids: Vec<String> = (0..2_000).map(|n| format!("{n:05}")).collect();
        let pairs: Vec<_> = ids.iter().map(|id| (id.as_str(), "session")).collect();
        node.create(&pairs).await.unwrap();
        for _ in 0..3 * LISTINGS_MAX {
            let request = Request::new(ListSessionRequest::default());
            let mut left = node
                .service
                .list_session(request)
                .await
                .unwrap()
                .into_inner();
            left.next().await.unwrap().unwrap();
        }
        assert_eq!(node.list("").await.len(), 2_000);
    }

    #[tokio::test]
    async fn after_a_shutdown_calls_are_answered_and_say_so() {
        let node = node().await;
        node.service.groups.shutdown().await.unwrap();
        let status = node.create(&[("a", "1")]).await.unwrap_err();
        assert!(
            matches!(status.code(), Code::Unavailable | Code::Unknown),
            "{status}"
        );
        let request = Request::new(ListSessionRequest {
            client_id: "a".into(),
            ..Default::default()
        });
        let Err(status) = node.service.list_session(request).await else {
            panic!("a closed group has no sessions to list");
        };
        assert_eq!(status.code(), Code::Unavailable);
    }
}
