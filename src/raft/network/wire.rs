//! openraft's messages as protobuf, and back.
//!
//! A command's bytes are handed over as they stand in the log: protobuf frames
//! them and nothing else is done to them. What does not convert is a fault of
//! the peer and refused as such; nothing is guessed at.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{
    BasicNode, EntryPayload, Membership as RaftMembership, StoredMembership,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult,
        TransferLeaderRequest as RaftTransfer, VoteRequest as RaftVoteRequest, VoteResponse,
    },
};
use tonic::Status;

use crate::{
    proto::raft::{
        AppendReply, AppendRequest, Blank, Conflict, LeaderId, LogEntry, LogId as LogIdMessage,
        Matching, Membership, SnapshotHead, TransferLeaderRequest, VoteReply, VoteRequest,
        VoteState, Voters, append_reply::Outcome, log_entry::Payload,
    },
    raft::{
        command::Command,
        types::{Entry, LogId, SnapshotMeta, Types, Vote},
    },
};

type RaftLeaderId = <Types as openraft::RaftTypeConfig>::LeaderId;
type Members = RaftMembership<u64, BasicNode>;

/// What a message lacks that its sender always sends.
fn lacks(what: &str) -> Status {
    Status::invalid_argument(format!(
        "a message between nodes lacks {what}; run the same version of ferry on all nodes"
    ))
}

const fn leader(id: &RaftLeaderId) -> LeaderId {
    LeaderId {
        term: id.term,
        node: id.node_id,
    }
}

fn read_leader(id: Option<LeaderId>) -> Result<RaftLeaderId, Status> {
    let id = id.ok_or_else(|| lacks("a leader id"))?;
    Ok(RaftLeaderId {
        term: id.term,
        node_id: id.node,
    })
}

pub(super) const fn log_id(id: &LogId) -> LogIdMessage {
    LogIdMessage {
        leader: Some(leader(&id.leader_id)),
        index: id.index,
    }
}

pub(super) fn read_log_id(id: LogIdMessage) -> Result<LogId, Status> {
    Ok(LogId {
        leader_id: read_leader(id.leader)?,
        index: id.index,
    })
}

fn log_ids(id: Option<&LogId>) -> Option<LogIdMessage> {
    id.map(log_id)
}

fn read_log_ids(id: Option<LogIdMessage>) -> Result<Option<LogId>, Status> {
    id.map(read_log_id).transpose()
}

pub(super) const fn vote(vote: &Vote) -> VoteState {
    VoteState {
        leader: Some(leader(&vote.leader_id)),
        committed: vote.committed,
    }
}

pub(super) fn read_vote(vote: Option<VoteState>) -> Result<Vote, Status> {
    let vote = vote.ok_or_else(|| lacks("a vote"))?;
    Ok(Vote {
        leader_id: read_leader(vote.leader)?,
        committed: vote.committed,
    })
}

pub(super) fn vote_request(group: u32, request: &RaftVoteRequest<Types>) -> VoteRequest {
    VoteRequest {
        group,
        vote: Some(vote(&request.vote)),
        last_log: log_ids(request.last_log_id.as_ref()),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(super) fn read_vote_request(request: VoteRequest) -> Result<RaftVoteRequest<Types>, Status> {
    let last_log = read_log_ids(request.last_log)?;
    let mut read = RaftVoteRequest::new(read_vote(request.vote)?, last_log);
    read.leadership_transfer = request.leadership_transfer;
    Ok(read)
}

pub(super) fn vote_reply(reply: &VoteResponse<Types>) -> VoteReply {
    VoteReply {
        vote: Some(vote(&reply.vote)),
        granted: reply.vote_granted,
        last_log: log_ids(reply.last_log_id.as_ref()),
    }
}

pub(super) fn read_vote_reply(reply: VoteReply) -> Result<VoteResponse<Types>, Status> {
    let vote = read_vote(reply.vote)?;
    let last_log = read_log_ids(reply.last_log)?;
    Ok(VoteResponse::new(vote, last_log, reply.granted))
}

fn membership(members: &Members) -> Membership {
    let voters = members.get_joint_config().iter().map(|voters| Voters {
        nodes: voters.iter().copied().collect(),
    });
    Membership {
        voters: voters.collect(),
        addresses: members
            .nodes()
            .map(|(node, at)| (*node, at.addr.clone()))
            .collect(),
    }
}

fn read_membership(members: Membership) -> Result<Members, Status> {
    let voters: Vec<BTreeSet<u64>> = members
        .voters
        .into_iter()
        .map(|voters| voters.nodes.into_iter().collect())
        .collect();
    let nodes: BTreeMap<u64, BasicNode> = members
        .addresses
        .into_iter()
        .map(|(node, address)| (node, BasicNode { addr: address }))
        .collect();
    RaftMembership::new(voters, nodes)
        .map_err(|error| Status::invalid_argument(format!("a membership between nodes: {error}")))
}

fn entry(entry: Entry) -> LogEntry {
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank(Blank {}),
        EntryPayload::Normal(command) => Payload::Command(command.encoded().clone()),
        EntryPayload::Membership(members) => Payload::Membership(membership(&members)),
    };
    LogEntry {
        id: Some(log_id(&entry.log_id)),
        payload: Some(payload),
    }
}

fn read_entry(entry: LogEntry) -> Result<Entry, Status> {
    let payload = match entry
        .payload
        .ok_or_else(|| lacks("a log entry's payload"))?
    {
        Payload::Blank(Blank {}) => EntryPayload::Blank,
        Payload::Command(bytes) => EntryPayload::Normal(Command::from_encoded(bytes)),
        Payload::Membership(members) => EntryPayload::Membership(read_membership(members)?),
    };
    Ok(Entry {
        log_id: read_log_id(entry.id.ok_or_else(|| lacks("a log entry's id"))?)?,
        payload,
    })
}

pub(super) fn append(group: u32, request: AppendEntriesRequest<Types>) -> AppendRequest {
    AppendRequest {
        group,
        vote: Some(vote(&request.vote)),
        previous: log_ids(request.prev_log_id.as_ref()),
        entries: request.entries.into_iter().map(entry).collect(),
        committed: log_ids(request.leader_commit.as_ref()),
    }
}

pub(super) fn read_append(request: AppendRequest) -> Result<AppendEntriesRequest<Types>, Status> {
    Ok(AppendEntriesRequest {
        vote: read_vote(request.vote)?,
        prev_log_id: read_log_ids(request.previous)?,
        entries: request
            .entries
            .into_iter()
            .map(read_entry)
            .collect::<Result<_, _>>()?,
        leader_commit: read_log_ids(request.committed)?,
    })
}

/// The answer to one append of a stream.
pub(super) fn streamed(result: StreamAppendResult<Types>) -> AppendReply {
    let outcome = match result {
        Ok(last) => Outcome::Matching(Matching {
            last: log_ids(last.as_ref()),
        }),
        Err(StreamAppendError::Conflict(previous)) => Outcome::Conflict(Conflict {
            previous: Some(log_id(&previous)),
        }),
        Err(StreamAppendError::HigherVote(higher)) => Outcome::HigherVote(vote(&higher)),
    };
    AppendReply {
        outcome: Some(outcome),
    }
}

pub(super) fn read_streamed(reply: AppendReply) -> Result<StreamAppendResult<Types>, Status> {
    match reply.outcome.ok_or_else(|| lacks("an append's outcome"))? {
        Outcome::Matching(Matching { last }) => Ok(Ok(read_log_ids(last)?)),
        Outcome::Conflict(Conflict { previous }) => {
            let previous = previous.ok_or_else(|| lacks("the entry that conflicts"))?;
            Ok(Err(StreamAppendError::Conflict(read_log_id(previous)?)))
        }
        Outcome::HigherVote(higher) => {
            Ok(Err(StreamAppendError::HigherVote(read_vote(Some(higher))?)))
        }
    }
}

/// The answer to one append outside a stream, which ended at `last`.
pub(super) fn appended(reply: AppendEntriesResponse<Types>, last: Option<&LogId>) -> AppendReply {
    let outcome = match reply {
        AppendEntriesResponse::Success => Outcome::Matching(Matching {
            last: log_ids(last),
        }),
        AppendEntriesResponse::PartialSuccess(last) => Outcome::Matching(Matching {
            last: log_ids(last.as_ref()),
        }),
        AppendEntriesResponse::Conflict => Outcome::Conflict(Conflict { previous: None }),
        AppendEntriesResponse::HigherVote(higher) => Outcome::HigherVote(vote(&higher)),
    };
    AppendReply {
        outcome: Some(outcome),
    }
}

/// Reads the answer to an append that ended at `last`.
pub(super) fn read_appended(
    reply: AppendReply,
    last: Option<&LogId>,
) -> Result<AppendEntriesResponse<Types>, Status> {
    Ok(
        match reply.outcome.ok_or_else(|| lacks("an append's outcome"))? {
            Outcome::Matching(Matching { last: matching }) => {
                let matching = read_log_ids(matching)?;
                match matching.as_ref() == last {
                    true => AppendEntriesResponse::Success,
                    false => AppendEntriesResponse::PartialSuccess(matching),
                }
            }
            Outcome::Conflict(_) => AppendEntriesResponse::Conflict,
            Outcome::HigherVote(higher) => {
                AppendEntriesResponse::HigherVote(read_vote(Some(higher))?)
            }
        },
    )
}

pub(super) fn snapshot_head(group: u32, by: &Vote, meta: &SnapshotMeta) -> SnapshotHead {
    SnapshotHead {
        group,
        vote: Some(vote(by)),
        last_log: log_ids(meta.last_log_id.as_ref()),
        membership_log: log_ids(meta.last_membership.log_id().as_ref()),
        membership: Some(membership(meta.last_membership.membership())),
    }
}

pub(super) fn read_snapshot_head(head: SnapshotHead) -> Result<(Vote, SnapshotMeta), Status> {
    let members = head.membership.ok_or_else(|| lacks("a membership"))?;
    let members = read_membership(members)?;
    let meta = SnapshotMeta {
        last_log_id: read_log_ids(head.last_log)?,
        last_membership: StoredMembership::new(read_log_ids(head.membership_log)?, members),
    };
    Ok((read_vote(head.vote)?, meta))
}

pub(super) fn transfer(group: u32, request: &RaftTransfer<Types>) -> TransferLeaderRequest {
    TransferLeaderRequest {
        group,
        from: Some(vote(request.from_leader())),
        to: *request.to_node_id(),
        last_log: log_ids(request.last_log_id()),
    }
}

pub(super) fn read_transfer(request: TransferLeaderRequest) -> Result<RaftTransfer<Types>, Status> {
    let last_log = read_log_ids(request.last_log)?;
    Ok(RaftTransfer::new(
        read_vote(request.from)?,
        request.to,
        last_log,
    ))
}
