//! One Raft group's way to one peer, as openraft's core uses it.
//!
//! Appends are a stream: the next leaves while the last one is being synced at
//! the other end, which is what the leader's own log does too. A stream ends
//! with its first fault, and openraft begins another.

use std::{future::Future, io, sync::Arc};

use bytes::BytesMut;
use futures_util::{FutureExt as _, Stream, StreamExt, stream};
use openraft::{
    AnyError, BasicNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    base::{BoxFuture, BoxStream},
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use tokio::sync::oneshot;
use tonic::{Code, Status, transport::Channel};

use super::{
    peers::{Peers, Use},
    wire,
};
use crate::{
    proto::raft::{SnapshotPiece, raft_client::RaftClient, snapshot_piece::Piece},
    raft::{
        machine,
        snapshot::SnapshotFile,
        types::{LogId, Types, Vote},
    },
};

/// Bytes of a snapshot that are read and sent at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Makes a group's links.
pub(crate) struct Links {
    peers: Peers,
    group: u32,
}

impl Links {
    pub(crate) const fn new(peers: Peers, group: u32) -> Self {
        Self { peers, group }
    }
}

impl RaftNetworkFactory<Types> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Link {
        Link {
            peers: self.peers.clone(),
            group: self.group,
            target,
            address: node.addr.clone(),
        }
    }
}

/// A group's way to one peer.
pub(crate) struct Link {
    peers: Peers,
    group: u32,
    target: u64,
    address: String,
}

impl Link {
    fn client(&self, of: Use) -> Result<RaftClient<Channel>, RPCError<Types>> {
        let client = self.peers.client(&self.address, of);
        client.map_err(|status| self.fault(&status))
    }

    fn stamp<T>(&self, message: T) -> tonic::Request<T> {
        self.peers.badge().stamp(message, Some(self.target))
    }

    /// What openraft has to know: whether to wait before it tries again.
    fn fault(&self, status: &Status) -> RPCError<Types> {
        self.peers.tell(&self.address, status);
        match status.code() {
            Code::Unavailable | Code::FailedPrecondition | Code::InvalidArgument => {
                RPCError::Unreachable(self.unreachable(status))
            }
            _ => RPCError::Network(NetworkError::new(&AnyError::error(status.to_string()))),
        }
    }

    fn unreachable(&self, status: &Status) -> Unreachable<Types> {
        Unreachable::from_string(format!(
            "node {} at {}: {status}",
            self.target, self.address
        ))
    }

    /// One question on the connection for short ones, within `option`'s time.
    async fn ask<T, F>(
        &self,
        option: &RPCOption,
        asked: impl FnOnce(RaftClient<Channel>) -> F,
    ) -> Result<T, RPCError<Types>>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let client = self.client(Use::Talk)?;
        match tokio::time::timeout(option.hard_ttl(), asked(client)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(self.fault(&status)),
            Err(_) => Err(RPCError::Network(NetworkError::new(&AnyError::error(
                format!("no answer within {:?}", option.hard_ttl()),
            )))),
        }
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let last: Option<LogId> = match request.entries.last() {
            Some(entry) => Some(entry.log_id),
            None => request.prev_log_id,
        };
        let message = self.stamp(wire::append(self.group, request));
        let asked = |mut client: RaftClient<Channel>| async move { client.append(message).await };
        let reply = self.ask(&option, asked).await?;
        wire::read_appended(reply, last.as_ref()).map_err(|status| self.fault(&status))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let link = &*self;
        Box::pin(async move {
            let group = link.group;
            // openraft waits in its input before it goes on to a peer that failed:
            // without this a peer that refuses would be called again at once.
            let Some(first) = input.next().await else {
                let none: BoxStream<'s, _> = Box::pin(stream::empty());
                return Ok(none);
            };
            let mut client = link.client(Use::Append)?;
            // The input keeps a lock of the core's for as long as it lives, so
            // it ends with the answers, whatever the connection still does.
            let (answers_live, answers_gone) = oneshot::channel::<()>();
            let appends = stream::iter([first])
                .chain(input)
                .map(move |request| wire::append(group, request))
                .take_until(answers_gone.map(drop));
            let replies = client
                .append_stream(link.stamp(appends))
                .await
                .map_err(|status| link.fault(&status))?
                .into_inner();
            let results = replies.map(move |reply| {
                let _alive = &answers_live;
                let read = reply.and_then(wire::read_streamed);
                read.map_err(|status| link.fault(&status))
            });
            let results: BoxStream<'s, _> = Box::pin(results);
            Ok(results)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let message = self.stamp(wire::vote_request(self.group, &request));
        let asked = |mut client: RaftClient<Channel>| async move { client.vote(message).await };
        let reply = self.ask(&option, asked).await?;
        wire::read_vote_reply(reply).map_err(|status| self.fault(&status))
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let message = self.stamp(wire::vote_request(self.group, &request));
        let asked = |mut client: RaftClient<Channel>| async move { client.pre_vote(message).await };
        let reply = self.ask(&option, asked).await?;
        wire::read_vote_reply(reply).map_err(|status| self.fault(&status))
    }

    /// Without a bound on its time: a large state takes long to send and to
    /// install, and the connection's keep-alive tells whether the peer lives.
    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<Types, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let unreachable = |status: Status| {
            self.peers.tell(&self.address, &status);
            StreamingError::Unreachable(self.unreachable(&status))
        };
        let mut client = self
            .peers
            .client(&self.address, Use::Snapshot)
            .map_err(unreachable)?;
        let head = wire::snapshot_head(self.group, &vote, &snapshot.meta);
        let head = SnapshotPiece {
            piece: Some(Piece::Head(head)),
        };
        let file = snapshot.snapshot;
        let pieces = pieces(move |bytes: &mut [u8], offset| file.read_at(bytes, offset));
        let pieces = stream::iter([head]).chain(pieces);
        let sent = client.snapshot(self.stamp(pieces));
        let reply = tokio::select! {
            reply = sent => reply.map_err(unreachable)?,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        let vote = wire::read_vote(reply.into_inner().vote).map_err(unreachable)?;
        Ok(SnapshotResponse::new(vote))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let message = self.stamp(wire::transfer(self.group, &request));
        let asked =
            |mut client: RaftClient<Channel>| async move { client.transfer_leader(message).await };
        let reply = self.ask(&option, asked).await?;
        match reply.refused.is_empty() {
            true => Ok(Ok(())),
            false => Err(RPCError::Network(NetworkError::new(&AnyError::error(
                reply.refused,
            )))),
        }
    }
}

/// The bytes that `read_at` finds, a piece at a time. Where it finds an error
/// that is the last piece: an end would be taken for the end of the file.
fn pieces<F>(read_at: F) -> impl Stream<Item = SnapshotPiece> + Send + 'static
where
    F: Fn(&mut [u8], u64) -> io::Result<usize> + Send + Sync + 'static,
{
    stream::unfold(Some((Arc::new(read_at), 0)), async |next| {
        let (read_at, offset) = next?;
        let reading = Arc::clone(&read_at);
        let read = machine::blocking(move || {
            let mut piece = BytesMut::zeroed(PIECE_BYTES);
            let len = reading(&mut piece, offset)?;
            piece.truncate(len);
            Ok(piece.freeze())
        });
        let (piece, next) = match read.await {
            Ok(bytes) if bytes.is_empty() => return None,
            Ok(bytes) => {
                let next = offset + bytes.len() as u64;
                (Piece::Bytes(bytes), Some((read_at, next)))
            }
            Err(error) => {
                tracing::error!("a snapshot cannot be read to be sent: {error}");
                (Piece::Fault(error.to_string()), None)
            }
        };
        Some((SnapshotPiece { piece: Some(piece) }, next))
    })
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use openraft::raft::AppendEntriesRequest;
    use tokio::net::TcpListener;

    use super::*;
    use crate::raft::{Clock, network::Badge};

    /// How openraft waits before it goes on to a peer that failed.
    const BACKOFF: Duration = Duration::from_millis(5);

    #[tokio::test]
    async fn a_peer_that_hangs_up_is_called_once_for_each_wait_of_openrafts() {
        let home = tempfile::tempdir().unwrap();
        let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = peer.local_addr().unwrap().to_string();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        tokio::spawn(async move {
            while let Ok((called, _)) = peer.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                drop(called);
            }
        });
        let badge = Arc::new(Badge::open(home.path(), "ferry", 1).unwrap());
        let own = ([127, 0, 0, 1], 0).into();
        let peers = Peers::new(badge, None, Clock::default(), own).unwrap();
        let mut link = Links::new(peers, 0)
            .new_client(2, &BasicNode::new(&address))
            .await;

        // As `StreamState::next_request` does it: the wait is in the input.
        let waits = Arc::new(AtomicUsize::new(0));
        for _ in 0..20 {
            let (waits, calls) = (Arc::clone(&waits), Arc::clone(&calls));
            let before = calls.load(Ordering::SeqCst);
            let input = stream::once(async move {
                tokio::time::sleep(BACKOFF).await;
                assert_eq!(
                    calls.load(Ordering::SeqCst),
                    before,
                    "called before the wait"
                );
                waits.fetch_add(1, Ordering::SeqCst);
                AppendEntriesRequest {
                    vote: Vote::new_committed(1, 1),
                    prev_log_id: None,
                    entries: Vec::new(),
                    leader_commit: None,
                }
            });
            let option = RPCOption::new(Duration::from_secs(1));
            let appended = link.stream_append(Box::pin(input), option).await;
            assert!(appended.is_err(), "nobody answers there");
        }
        assert_eq!(waits.load(Ordering::SeqCst), 20);
        let calls = calls.load(Ordering::SeqCst);
        assert!(calls <= 20, "{calls} calls for 20 waits");
    }

    #[tokio::test]
    async fn a_snapshot_that_cannot_be_read_on_ends_with_its_fault() {
        let read_at = |bytes: &mut [u8], offset| match offset {
            0 => {
                bytes.fill(1);
                Ok(bytes.len())
            }
            _ => Err(io::Error::other("the disk fails")),
        };
        let sent: Vec<_> = pieces(read_at)
            .map(|sent| sent.piece.unwrap())
            .collect()
            .await;
        let [Piece::Bytes(bytes), Piece::Fault(fault)] = &sent[..] else {
            panic!("{} pieces", sent.len());
        };
        assert_eq!(bytes.len(), PIECE_BYTES);
        assert!(fault.contains("the disk fails"), "{fault}");
    }
}
