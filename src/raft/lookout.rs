//! Whether somebody leads a group with a majority behind it, as this node can
//! tell.
//!
//! openraft names a leader for as long as nobody else stands, also one that is
//! dead, or that is left alone. So a leader counts here only while a majority
//! has acknowledged it lately, and at the other members only while they hear it:
//! "lately" is the longest election, after which somebody else would stand.
//!
//! Looking is cheap and never waits: what has to be asked of the core is asked a
//! few times in that while, for whoever looks in between.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use openraft::{Instant as _, Raft, alias::InstantOf, async_runtime::watch::WatchReceiver as _};
use tokio::time::{Instant, MissedTickBehavior};

use super::{
    clock::Clock, machine::Machine, metrics::RaftMetrics, shape::Unfinished, types::Types,
};

/// How often the core is asked within the longest election.
const LOOKS: u32 = 8;

/// Why a group takes no writes at this node now. Each goes on from the group's
/// name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unled {
    #[error("has stopped: {0}")]
    Stopped(String),
    #[error("has no members that this node knows of")]
    Blank,
    #[error(
        "has no place for this node: this node was removed from the cluster, or is still being \
         added"
    )]
    Stranger,
    #[error("has no leader")]
    Nobody,
    #[error("has no leader: this node leads it and was acknowledged by no majority for {0:?}")]
    Alone(Duration),
    #[error("has no leader: node {0} leads it and was not heard for {1:?}")]
    Silent(u64, Duration),
}

type Heard = InstantOf<Types>;

/// Looks after one group's leader.
#[derive(Clone)]
pub(crate) struct Lookout(Arc<Shared>);

struct Shared {
    raft: Raft<Types, Machine>,
    clock: Clock,
    began: Instant,
    /// When whom this node takes for the leader was heard last.
    heard: Mutex<Option<Heard>>,
}

impl Lookout {
    /// Looks until the group stops. Must be called within a runtime.
    pub(crate) fn start(
        raft: Raft<Types, Machine>,
        clock: Clock,
        group: u32,
        metrics: Arc<RaftMetrics>,
    ) -> Self {
        let lookout = Self(Arc::new(Shared {
            raft,
            clock,
            began: Instant::now(),
            heard: Mutex::default(),
        }));
        tokio::spawn(lookout.clone().run(group, metrics));
        lookout
    }

    pub(crate) fn clock(&self) -> Clock {
        self.0.clock
    }

    /// Who leads the group, with a majority behind it.
    pub(crate) fn leader(&self) -> Result<u64, Unled> {
        let metrics = self.0.raft.metrics();
        let now = metrics.borrow_watched();
        if let Err(fault) = &now.running_state {
            return Err(Unled::Stopped(fault.to_string()));
        }
        let members = now.membership_config.membership();
        if members.voter_ids().next().is_none() {
            return Err(Unled::Blank);
        }
        if members.get_node(&now.id).is_none() {
            return Err(Unled::Stranger);
        }
        let leader = now.current_leader.ok_or(Unled::Nobody)?;
        let leads_here = leader == now.id;
        if leads_here && members.voter_ids().all(|voter| voter == now.id) {
            return Ok(leader);
        }
        let last = match leads_here {
            true => now.last_quorum_acked.map(|acked| acked.into_inner()),
            false => *self.heard(),
        };
        let silence = last.map_or_else(|| self.0.began.elapsed(), |last| last.elapsed());
        if last.is_some() && silence <= self.0.clock.election_max {
            return Ok(leader);
        }
        let silence = Duration::from_millis(u64::try_from(silence.as_millis()).unwrap_or(u64::MAX));
        Err(match leads_here {
            true => Unled::Alone(silence),
            false => Unled::Silent(leader, silence),
        })
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Option<Heard>> {
        self.0.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self, group: u32, metrics: Arc<RaftMetrics>) {
        let patience = self.0.clock.election_max;
        let mut looks = tokio::time::interval(patience / LOOKS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut led, mut lost) = (None, false);
        let mut unfinished = Unfinished::default();
        loop {
            looks.tick().await;
            let heard = self
                .0
                .raft
                .with_raft_state(|state| state.vote_last_modified());
            let Ok(heard) = heard.await else { break };
            *self.heard() = heard;
            let leader = self.leader();
            metrics.has_leader.set(i64::from(leader.is_ok()));
            match leader {
                Ok(leader) => {
                    if lost {
                        tracing::info!(group, leader, "the Raft group has a leader again");
                    }
                    (led, lost) = (Some(Instant::now()), false);
                    unfinished.finish(&self.0.raft, patience);
                }
                // An election is no loss.
                Err(why) if !lost && led.is_some_and(|led: Instant| led.elapsed() > patience) => {
                    tracing::warn!(group, "the Raft group {why}; writes are refused meanwhile");
                    lost = true;
                }
                Err(_) => {}
            }
        }
        metrics.has_leader.set(0);
    }
}
