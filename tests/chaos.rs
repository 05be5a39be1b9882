//! A cluster of real processes under load, and deeds at random: kills, cuts,
//! slow ways, nodes that stand still. What was acknowledged is on every node.
//!
//! `make chaos` runs many rounds and tells how long callers heard nothing when
//! a leader was killed; `make test` a few, and a planted lie that must be found.

use std::{env, time::Duration};

use tokio::time::{self, Instant};

use crate::{
    process::Sidecar,
    support::{
        WITHIN,
        faults::Rule,
        load::{Loaded, Loading},
        nodes::Nodes,
    },
};
use ferry::raft::fail;

/// Rounds of `make chaos`, unless FERRY_CHAOS_ROUNDS says otherwise.
const ROUNDS: u32 = 30;
const NODES: [u64; 3] = [1, 2, 3];
/// Sessions that must be acknowledged while a deed is done.
const MEANWHILE: u64 = 200;

/// What is done to a node, or to all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Kill,
    KillAll,
    CutOff,
    Slow,
    HoldWhatComesFrom,
    StandStill,
}

const DEEDS: [Deed; 6] = [
    Deed::Kill,
    Deed::KillAll,
    Deed::CutOff,
    Deed::Slow,
    Deed::HoldWhatComesFrom,
    Deed::StandStill,
];

/// A cluster with two groups, a load on it through a sidecar.
struct Stage {
    nodes: Nodes,
    _sidecar: Sidecar,
    loading: Loading,
    /// How long callers heard nothing, each time that a leader was killed.
    silences: Vec<Duration>,
}

impl Stage {
    async fn set(variables: Vec<(String, String)>) -> Self {
        let mut nodes = Nodes::new();
        nodes.settings = "groups: 2\nsnapshot_log_bytes: 1MiB\n".into();
        nodes.variables = variables;
        nodes.found(&NODES).await;
        nodes.variables = Vec::new();
        let sidecar = Sidecar::with_policy(&nodes.policy(NODES)).await;
        let loading = Loading::start(sidecar.address, "chaos-");
        loading.until_acknowledged(MEANWHILE).await;
        Self {
            nodes,
            _sidecar: sidecar,
            loading,
            silences: Vec::new(),
        }
    }

    /// One deed to one node, and its undoing.
    async fn round(&mut self, deed: Deed, node: u64) {
        let others: Vec<u64> = NODES.into_iter().filter(|other| *other != node).collect();
        let led = match deed {
            Deed::Kill => self.nodes.leader(node).await == node,
            _ => false,
        };
        match deed {
            Deed::Kill => self.nodes.kill(node).await,
            Deed::KillAll => {
                for node in NODES {
                    self.nodes.kill(node).await;
                }
                // Nothing can be acknowledged before they are back.
                NODES.into_iter().for_each(|node| self.nodes.start(node));
            }
            Deed::CutOff => self.nodes.faults().around(node, &others, Rule::Hold),
            Deed::Slow => self.nodes.faults().around(node, &others, Rule::Slow),
            Deed::HoldWhatComesFrom => others
                .iter()
                .for_each(|other| self.nodes.faults().set(node, *other, Rule::Hold)),
            Deed::StandStill => self.nodes.signal(node, "STOP").await,
        }
        let silence = longest_silence(&self.loading, MEANWHILE).await;
        self.silences.extend(led.then_some(silence));
        match deed {
            Deed::Kill => self.nodes.start(node),
            Deed::KillAll => {}
            Deed::StandStill => self.nodes.signal(node, "CONT").await,
            _ => self.nodes.faults().around(node, &others, Rule::Pass),
        }
        self.nodes.until_ready(node).await;
    }

    /// Ends the load; what each node does not have of what was acknowledged.
    /// Where not all nodes apply the same within `patience`, each is asked for
    /// what it has, whatever the others have.
    async fn roll_call(self, patience: Duration) -> RollCall {
        let loaded = self.loading.stop();
        let level = time::timeout(patience, self.nodes.until_level(&NODES));
        let level = level.await.is_ok();
        let metadata: &[_] = if level {
            &[]
        } else {
            &[("ferry-read", "stale")]
        };
        let mut missing = Vec::new();
        for node in NODES {
            let line = self.nodes.line(node).await;
            missing.extend(loaded.missing_with(metadata, &line).await);
        }
        RollCall {
            loaded,
            level,
            missing,
        }
    }
}

/// What a load comes to.
struct RollCall {
    loaded: Loaded,
    /// Whether all nodes apply the same.
    level: bool,
    missing: Vec<String>,
}

impl RollCall {
    /// What a cluster without lies comes to.
    fn honest(self) -> (Loaded, Vec<String>) {
        assert!(self.level, "all nodes apply the same");
        (self.loaded, self.missing)
    }
}

/// Waits until so many more sessions are acknowledged; returns the longest time
/// in which none was.
async fn longest_silence(loading: &Loading, more: u64) -> Duration {
    let (mut last, mut count) = (Instant::now(), loading.acknowledged());
    let (begin, enough, mut longest) = (last, count + more, Duration::ZERO);
    while count < enough {
        assert!(begin.elapsed() < WITHIN, "{count} of {enough} acknowledged");
        time::sleep(Duration::from_millis(1)).await;
        let now = loading.acknowledged();
        if now > count {
            longest = longest.max(last.elapsed());
            (last, count) = (Instant::now(), now);
        }
    }
    longest
}

#[tokio::test]
#[ignore = "minutes long: make chaos"]
#[allow(clippy::print_stderr)] // the seed and the silences, which it is run for
async fn kills_and_cuts_at_random_cost_no_acknowledged_write() {
    let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
    let seed = number("FERRY_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let rounds = number("FERRY_CHAOS_ROUNDS").unwrap_or(u64::from(ROUNDS));
    eprintln!("FERRY_CHAOS_SEED={seed} FERRY_CHAOS_ROUNDS={rounds}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut stage = Stage::set(Vec::new()).await;
    for round in 0..rounds {
        let (deed, node) = (DEEDS[chance.usize(..DEEDS.len())], chance.u64(1..=3));
        eprintln!("round {round}: {deed:?}, node {node}");
        stage.round(deed, node).await;
    }
    let mut silences = std::mem::take(&mut stage.silences);
    silences.sort_unstable();
    let (loaded, missing) = stage.roll_call(WITHIN).await.honest();
    eprintln!(
        "chaos: {} acknowledged sessions, {} missing; {} leaders killed, callers heard nothing \
         for {:?} by the median and {:?} at the longest (an election waits 1 s to 1.5 s, so two \
         are 3 s); answered otherwise: {:?}",
        loaded.acknowledged.total(),
        missing.len(),
        silences.len(),
        silences
            .get(silences.len() / 2)
            .copied()
            .unwrap_or_default(),
        silences.last().copied().unwrap_or_default(),
        loaded.errors,
    );
    assert_eq!(missing, Vec::<String>::new());
}

#[tokio::test]
async fn after_every_deed_of_the_chaos_harness_each_node_has_what_was_acknowledged() {
    let mut stage = Stage::set(Vec::new()).await;
    for (deed, node) in DEEDS.into_iter().zip([1, 2, 3, 1, 2, 3]) {
        stage.round(deed, node).await;
    }
    let (_, missing) = stage.roll_call(WITHIN).await.honest();
    assert_eq!(missing, Vec::<String>::new());
}

#[tokio::test]
async fn the_chaos_harness_finds_a_planted_lie() {
    // Every node's log acknowledges, from its hundredth write on, what it does
    // not write. As long as one of them lives, it knows all the same.
    let lie = format!("{}@100", fail::ACKNOWLEDGE);
    let mut stage = Stage::set(vec![(fail::VARIABLE.to_owned(), lie)]).await;
    let before = stage.loading.acknowledged();
    stage
        .loading
        .until_acknowledged(before + 5 * MEANWHILE)
        .await;
    stage.round(Deed::KillAll, 1).await;
    // What the logs lack may also keep the nodes from ever being level again.
    let called = stage.roll_call(WITHIN / 3).await;
    let found = !called.missing.is_empty();
    assert!(found, "three logs lied, and nothing is missed");
}
