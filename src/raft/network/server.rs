//! The end that answers other nodes.
//!
//! Whoever is answered here has shown its badge at the [`super::Gate`]. What a
//! node's own core says is passed on as it is.

use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::{Raft, Snapshot};
use tokio::{fs, io::AsyncWriteExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::{badge::Badge, wire};
use crate::{
    proto::raft::{
        AppendReply, AppendRequest, ChangeReply, ChangeRequest, GreetReply, GreetRequest,
        JoinReply, JoinRequest, ProposeReply, ProposeRequest, ReadIndexReply, ReadIndexRequest,
        SnapshotPiece, SnapshotReply, TransferLeaderReply, TransferLeaderRequest, VoteReply,
        VoteRequest, propose_reply::Outcome, raft_server, snapshot_piece::Piece,
    },
    raft::{
        command::Command,
        group::Group,
        groups::Groups,
        machine::{self, Machine},
        snapshot::SnapshotFile,
        types::{ProposeError, Types},
    },
};

type Answers = Pin<Box<dyn Stream<Item = Result<AppendReply, Status>> + Send>>;

/// Answers the other nodes of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct RaftServer {
    badge: Arc<Badge>,
    groups: Groups,
    /// Where snapshots lie until they are whole.
    incoming: PathBuf,
    snapshots: Arc<AtomicU64>,
}

impl RaftServer {
    pub(crate) fn new(badge: Arc<Badge>, groups: Groups, data_dir: &Path) -> Self {
        Self {
            badge,
            groups,
            incoming: data_dir.to_owned(),
            snapshots: Arc::default(),
        }
    }

    fn group(&self, number: u32) -> Result<&Group, Status> {
        self.groups.all().get(number as usize).ok_or_else(|| {
            let count = self.groups.count();
            Status::failed_precondition(format!(
                "group {number}: this node has groups 0 to {}; configure the same number of \
                 groups on all nodes",
                count.get() - 1
            ))
        })
    }

    fn raft(&self, group: u32) -> Result<&Raft<Types, Machine>, Status> {
        Ok(self.group(group)?.raft())
    }

    /// Writes the pieces to a file that is gone when it was installed.
    async fn receive(&self, pieces: &mut Streaming<SnapshotPiece>) -> Result<Incoming, Status> {
        let number = self.snapshots.fetch_add(1, Ordering::Relaxed);
        let incoming = Incoming(self.incoming.join(format!("incoming-{number}.new")));
        let written = async {
            let mut file = fs::File::create(&incoming.0).await?;
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(io::Error::other)?;
                match piece.piece {
                    Some(Piece::Bytes(bytes)) => file.write_all(&bytes).await?,
                    Some(Piece::Fault(fault)) => {
                        return Err(io::Error::other(format!("its sender: {fault}")));
                    }
                    Some(Piece::Head(_)) | None => {}
                }
            }
            file.flush().await
        };
        written.await.map_err(|error: io::Error| {
            Status::internal(format!("the snapshot cannot be received: {error}"))
        })?;
        Ok(incoming)
    }
}

/// A file that is removed with its name's end.
struct Incoming(PathBuf);

impl Drop for Incoming {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

/// The core has stopped for good; the process ends soon.
fn stopped(error: impl ToString) -> Status {
    Status::internal(format!(
        "this node's Raft group has stopped: {}",
        error.to_string()
    ))
}

#[tonic::async_trait]
impl raft_server::Raft for RaftServer {
    type AppendStreamStream = Answers;

    async fn greet(&self, _: Request<GreetRequest>) -> Result<Response<GreetReply>, Status> {
        let mut founded = Vec::new();
        for group in self.groups.all() {
            founded.push(group.raft().is_initialized().await.map_err(stopped)?);
        }
        Ok(Response::new(GreetReply {
            founded,
            node: self.badge.node(),
            cluster_id: self.badge.id().unwrap_or_default(),
            groups: self.groups.count().get(),
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let JoinRequest { cluster_id } = request.into_inner();
        let badge = Arc::clone(&self.badge);
        let cluster_id = machine::blocking(move || badge.adopt(&cluster_id))
            .await
            .map_err(|error| {
                Status::internal(format!("the cluster id cannot be written: {error}"))
            })?;
        Ok(Response::new(JoinReply { cluster_id }))
    }

    async fn vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteReply>, Status> {
        let request = request.into_inner();
        let raft = self.raft(request.group)?;
        let reply = raft.vote(wire::read_vote_request(request)?).await;
        Ok(Response::new(wire::vote_reply(&reply.map_err(stopped)?)))
    }

    async fn pre_vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteReply>, Status> {
        let request = request.into_inner();
        let raft = self.raft(request.group)?;
        let reply = raft.pre_vote(wire::read_vote_request(request)?).await;
        Ok(Response::new(wire::vote_reply(&reply.map_err(stopped)?)))
    }

    async fn append(
        &self,
        request: Request<AppendRequest>,
    ) -> Result<Response<AppendReply>, Status> {
        let request = request.into_inner();
        let raft = self.raft(request.group)?;
        let request = wire::read_append(request)?;
        let last = match request.entries.last() {
            Some(entry) => Some(entry.log_id),
            None => request.prev_log_id,
        };
        let reply = raft.append_entries(request).await.map_err(stopped)?;
        Ok(Response::new(wire::appended(reply, last.as_ref())))
    }

    async fn append_stream(
        &self,
        request: Request<Streaming<AppendRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let mut appends = request.into_inner();
        let Some(first) = appends.message().await? else {
            return Ok(Response::new(Box::pin(futures_util::stream::empty())));
        };
        let raft = self.raft(first.group)?.clone();
        let first = wire::read_append(first)?;
        // What cannot be read ends the stream; its sender begins another.
        let rest = appends
            .map(|next| next.and_then(wire::read_append))
            .take_while(|next| {
                if let Err(status) = next {
                    tracing::debug!("a stream of appends ends: {status}");
                }
                std::future::ready(next.is_ok())
            })
            .filter_map(|next| std::future::ready(next.ok()));
        let appends = futures_util::stream::iter([first]).chain(rest);
        let answers = raft
            .stream_append(appends)
            .map(|answer| answer.map(wire::streamed).map_err(stopped));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotPiece>>,
    ) -> Result<Response<SnapshotReply>, Status> {
        let mut pieces = request.into_inner();
        let head = match pieces.message().await?.and_then(|first| first.piece) {
            Some(Piece::Head(head)) => head,
            _ => return Err(Status::invalid_argument("a snapshot begins with its head")),
        };
        let group = head.group;
        let raft = self.raft(group)?.clone();
        let (vote, meta) = wire::read_snapshot_head(head)?;
        let incoming = self.receive(&mut pieces).await?;
        let path = incoming.0.clone();
        let opened = machine::blocking(move || SnapshotFile::sent(&path)).await;
        let snapshot = match opened {
            Ok((found, file)) if found == meta => file,
            Ok(_) => {
                return Err(Status::invalid_argument(
                    "the snapshot is not what its head says",
                ));
            }
            // Such a refusal is told to the sender's operator.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Status::failed_precondition(format!(
                    "group {group}: {error}"
                )));
            }
            Err(error) => return Err(Status::internal(error.to_string())),
        };
        let installed = raft.install_full_snapshot(vote, Snapshot { meta, snapshot });
        let reply = installed.await.map_err(stopped)?;
        Ok(Response::new(SnapshotReply {
            vote: Some(wire::vote(&reply.vote)),
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderReply>, Status> {
        let request = request.into_inner();
        let raft = self.raft(request.group)?;
        let request = wire::read_transfer(request)?;
        let answer = raft
            .handle_transfer_leader(request)
            .await
            .map_err(stopped)?;
        let refused = answer.err().map(|error| error.to_string());
        Ok(Response::new(TransferLeaderReply {
            refused: refused.unwrap_or_default(),
        }))
    }

    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeReply>, Status> {
        let request = request.into_inner();
        let group = self.group(request.group)?;
        let command = Command::from_encoded(request.command);
        let outcome = match group.propose_here(command, request.entries).await {
            Ok(applied) => Outcome::Applied(Bytes::from(
                serde_json::to_vec(&applied)
                    .map_err(|error| Status::internal(error.to_string()))?,
            )),
            Err(ProposeError::Refused(why)) => Outcome::Refused(why.into_owned()),
            Err(ProposeError::Unknown(why)) => Outcome::Unknown(why.into_owned()),
        };
        Ok(Response::new(ProposeReply {
            outcome: Some(outcome),
        }))
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexReply>, Status> {
        let request = request.into_inner();
        let group = self.group(request.group)?;
        let at = group.read_index().await;
        let at = at.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(ReadIndexReply {
            at: Some(wire::log_id(&at)),
        }))
    }

    async fn change(
        &self,
        request: Request<ChangeRequest>,
    ) -> Result<Response<ChangeReply>, Status> {
        let request = request.into_inner();
        let group = self.group(request.group)?;
        let change = request
            .change
            .ok_or_else(|| Status::invalid_argument("a change that changes nothing"))?;
        group.change_here(change).await?;
        Ok(Response::new(ChangeReply {}))
    }
}
