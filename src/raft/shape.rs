//! What openraft tells of a group's members: who belongs to it, who answers, and
//! whether a change of them was left half done.

use std::{collections::BTreeSet, time::Duration};

use openraft::{
    ChangeMembers, Instant as _, Raft, ServerState, async_runtime::watch::WatchReceiver as _,
    metrics::RaftMetrics,
};
use tokio::time::Instant;

use super::{
    machine::Machine,
    types::{LogId, Types},
};

/// A learner may become a voter when it lacks no more log entries than this: a
/// fraction of a second's worth.
pub(super) const CAUGHT_UP_ENTRIES: u64 = 1_000;

/// What a node is to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Voter,
    /// It is a voter until a change that has been begun is done.
    Leaving,
    Learner,
    Stranger,
}

/// Who belongs to a group: as it is, or as it will be once the change that it is
/// in the middle of is done.
pub(super) struct Shape {
    pub(super) voters: BTreeSet<u64>,
    leaving: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    pub(super) is_joint: bool,
}

impl Shape {
    pub(super) fn of(now: &RaftMetrics<Types>) -> Self {
        let members = now.membership_config.membership();
        let configs = members.get_joint_config();
        let voters = configs.last().cloned().unwrap_or_default();
        let all: BTreeSet<u64> = members.voter_ids().collect();
        let nodes: BTreeSet<u64> = members.nodes().map(|(node, _)| *node).collect();
        Self {
            leaving: &all - &voters,
            learners: &nodes - &all,
            voters,
            is_joint: configs.len() > 1,
        }
    }

    pub(super) fn standing(&self, node: u64) -> Standing {
        if self.voters.contains(&node) {
            Standing::Voter
        } else if self.leaving.contains(&node) {
            Standing::Leaving
        } else if self.learners.contains(&node) {
            Standing::Learner
        } else {
            Standing::Stranger
        }
    }
}

/// A change of voters whose leader was lost between its two log entries: the
/// group has two sets of voters, needs a majority of both, and nobody goes on.
#[derive(Default)]
pub(super) struct Unfinished(Option<(Option<LogId>, Instant)>);

impl Unfinished {
    /// As the leader, goes on with one that has stood for longer than any that
    /// somebody is at.
    pub(super) fn finish(&mut self, raft: &Raft<Types, Machine>, patience: Duration) {
        let metrics = raft.metrics();
        let now = metrics.borrow_watched();
        let shape = Shape::of(&now);
        if !shape.is_joint || !leads(&now) || !is_settled(&now) {
            self.0 = None;
            return;
        }
        let seen = *now.membership_config.log_id();
        match self.0 {
            Some((known, since)) if known == seen => {
                if since.elapsed() <= patience {
                    return;
                }
            }
            _ => {
                self.0 = Some((seen, Instant::now()));
                return;
            }
        }
        self.0 = None;
        let raft = raft.clone();
        tokio::spawn(async move {
            tracing::info!(voters = ?shape.voters, "a change of the members that was cut off is finished");
            let change = ChangeMembers::ReplaceAllVoters(shape.voters);
            if let Err(error) = raft.change_membership(change, false).await {
                tracing::warn!("a change of the members is not finished: {error}");
            }
        });
    }
}

pub(super) fn leads(now: &RaftMetrics<Types>) -> bool {
    now.state == ServerState::Leader && now.current_leader == Some(now.id)
}

/// Whether the members that count are committed.
pub(super) fn is_settled(now: &RaftMetrics<Types>) -> bool {
    now.membership_config.log_id() == now.committed_membership_config.log_id()
}

/// Whether a node answered this leader, or is it, within this time.
pub(super) fn is_fresh(now: &RaftMetrics<Types>, node: u64, lately: Duration) -> bool {
    let heard = now.heartbeat.as_ref().and_then(|all| all.get(&node));
    let heard = heard.copied().flatten();
    node == now.id || heard.is_some_and(|heard| heard.into_inner().elapsed() <= lately)
}

/// The voters other than this node, which leads the group, that answer and have
/// every log entry or nearly so, the best first; `None` where it does not lead,
/// or is the only voter.
pub(super) fn heirs(now: &RaftMetrics<Types>, lately: Duration) -> Option<Vec<u64>> {
    let mut voters = Shape::of(now).voters;
    voters.remove(&now.id);
    if !leads(now) || voters.is_empty() {
        return None;
    }
    let mut heirs = Vec::from_iter(voters);
    heirs.retain(|voter| is_fresh(now, *voter, lately) && lag(now, *voter) <= CAUGHT_UP_ENTRIES);
    heirs.sort_by_key(|voter| lag(now, *voter));
    Some(heirs)
}

/// How many log entries a node lacks, as this leader knows.
pub(super) fn lag(now: &RaftMetrics<Types>, node: u64) -> u64 {
    let matched = now.replication.as_ref().and_then(|all| all.get(&node));
    let matched = matched.copied().flatten().map_or(0, |id| id.index + 1);
    let next = now.last_log_index.map_or(0, |last| last + 1);
    next.saturating_sub(matched)
}
