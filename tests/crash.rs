//! `kill -9` under load, again and again: what was acknowledged is there.
//!
//! `make crash CYCLES=200` runs many cycles; `make test` a few. In every second
//! cycle the process dies by itself at one of the places of `ferry::raft::fail`
//! instead, at a random passing of it. Each cycle looks for every session that
//! was acknowledged since the directory was new, in a process that is not armed:
//! an armed one may die at any moment after its start, or before it is ready.
//! The harness prints its seed and how long the restarts took.

use std::{
    env,
    time::{Duration, Instant},
};

use ferry::{
    raft::{GroupSettings, Groups, fail},
    telemetry::Metrics,
};
use tempfile::TempDir;

use crate::{
    process::Sidecar,
    support::{
        client::Line,
        load::{Loaded, Loading},
        served, until,
    },
};

/// How many times it is killed, where the variable does not say.
const CYCLES: u32 = 4;
const CYCLES_VARIABLE: &str = "FERRY_CRASH_CYCLES";
const SEED_VARIABLE: &str = "FERRY_CRASH_SEED";
/// Most sessions acknowledged in a cycle that is killed from without.
const SESSIONS: u64 = 1_500;
/// How long an armed process may live, and how much it may acknowledge, before
/// it is killed after all: a snapshot is made at every MiB of a group's log.
const ARMED: Duration = Duration::from_secs(40);
const ARMED_SESSIONS: u64 = 60_000;
/// Cycles of one directory; the next begins a new one.
const LIFE: u32 = 20;

/// Every call its own proposal, in two groups, and a log that is let go early:
/// so that there are many syncs, applies, snapshots and purges to die in.
fn policy() -> String {
    let any = ([127, 0, 0, 1], 0).into();
    let upstream = "  embedded: {data_dir: ferry-data, groups: 2, log_max: 1MiB}";
    let policy = served::policy_file(any, any, upstream);
    format!("{policy}    window: {{max_entries: 1}}\n")
}

fn variable(name: &str) -> Option<u64> {
    let value = env::var(name).ok()?;
    Some(value.parse().expect("the variable is a whole number"))
}

/// A place to die at, and at which passing of it.
fn place(random: &mut fastrand::Rng) -> String {
    // A vote is saved before it listens; an install needs a second node. Both
    // are in the tests of the module.
    let places: Vec<_> = fail::PLACES
        .into_iter()
        .filter(|place| !place.starts_with("vote") && !place.starts_with("install"))
        .collect();
    let place = places[random.usize(..places.len())];
    let passings = match place.split_once('.') {
        Some(("log" | "apply", _)) => random.u64(20..400),
        // Rare ones: a second passing is further than an armed process lives.
        _ => 1,
    };
    format!("{place}@{passings}")
}

/// Kills it when so many sessions are acknowledged, unless it has died before.
/// One that is armed is to die by itself, and has `longest` for it.
async fn die(
    mut sidecar: Sidecar,
    prefix: &str,
    sessions: u64,
    longest: Option<Duration>,
) -> (Loaded, TempDir, bool) {
    let loading = Loading::start(sidecar.address, prefix);
    let dead = until("it dies, or has acknowledged enough", async || {
        sidecar.is_dead() || loading.acknowledged() >= sessions
    });
    match longest {
        None => dead.await,
        // Not reached in time is a cycle that counts for no place.
        Some(longest) => tokio::time::timeout(longest, dead).await.unwrap_or(()),
    }
    let by_itself = sidecar.is_dead();
    let home = sidecar.kill().await;
    (loading.stop(), home, by_itself)
}

#[tokio::test]
async fn killed_at_random_moments_it_has_every_acknowledged_session() {
    let cycles = variable(CYCLES_VARIABLE).unwrap_or(u64::from(CYCLES));
    let seed = variable(SEED_VARIABLE).unwrap_or_else(|| fastrand::u64(..));
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut restarts, mut places, mut total) = (Vec::new(), Vec::new(), 0);
    let mut home = new_home();
    let mut loads: Vec<Loaded> = Vec::new();
    for cycle in 0..cycles {
        if cycle % u64::from(LIFE) == 0 {
            home = new_home();
            loads.clear();
        }
        let begin = Instant::now();
        let mut sidecar = Sidecar::with_policy_again(home, &policy()).await;
        restarts.push(begin.elapsed());
        let line = Line::open(sidecar.address).await;
        for loaded in &loads {
            let missing = loaded.missing(&line).await;
            assert_eq!(missing, Vec::<String>::new(), "cycle {cycle}, seed {seed}");
        }
        drop(line);
        let armed = (cycle % 2 == 1).then(|| place(&mut random));
        if let Some(place) = &armed {
            match Sidecar::armed(sidecar.kill().await, &policy(), place).await {
                Ok(armed) => sidecar = armed,
                Err(kept) => {
                    places.push(format!("{place}(starting)"));
                    home = kept;
                    continue;
                }
            }
        }
        let (sessions, longest) = match armed {
            None => (random.u64(50..SESSIONS), None),
            Some(_) => (ARMED_SESSIONS, Some(ARMED)),
        };
        let prefix = format!("cycle-{cycle}-");
        let (loaded, kept, by_itself) = die(sidecar, &prefix, sessions, longest).await;
        places.extend(armed.filter(|_| by_itself));
        total += loaded.acknowledged.total();
        loads.push(loaded);
        home = kept;
    }
    verify_in_the_groups_own_words(&home, &loads).await;
    report(seed, total, &places, restarts);
    assert!(total > 0, "nothing was ever acknowledged");
    let died = cycles < 2 || !places.is_empty();
    assert!(died, "no armed process ever died at its place, seed {seed}");
}

/// The last directory once more, id by id and byte by byte.
async fn verify_in_the_groups_own_words(home: &TempDir, loads: &[Loaded]) {
    let mut settings = GroupSettings::new(home.path().join("ferry-data"));
    settings.identity.groups = 2;
    let metrics = Metrics::default();
    let groups = Groups::open(settings, metrics.registry()).await;
    let groups = groups.expect("the directory is free again");
    for loaded in loads {
        for number in loaded.acknowledged.iter() {
            let client_id = loaded.sessions.client_id(number);
            let sessions = groups.of(&[client_id.as_bytes()]).sessions();
            let found = sessions.get(client_id.as_bytes());
            let found = found.expect("the group is open");
            let meant = loaded.sessions.value(number);
            assert_eq!(found.as_deref(), Some(&meant[..]), "{client_id}");
        }
    }
    groups.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn the_crash_harness_finds_a_planted_lie() {
    let armed = format!("{}@50", fail::ACKNOWLEDGE);
    let sidecar = Sidecar::armed(new_home(), &policy(), &armed).await;
    let sidecar = sidecar.expect("a lie kills nobody");
    let (loaded, home, _) = die(sidecar, "lie-", 1_000, None).await;
    let sidecar = Sidecar::with_policy_again(home, &policy()).await;
    let line = Line::open(sidecar.address).await;
    let missing = loaded.missing(&line).await;
    assert!(
        !missing.is_empty(),
        "the log wrote nothing, and nothing is missed"
    );
}

fn new_home() -> TempDir {
    tempfile::tempdir().expect("a temporary directory can be made")
}

#[allow(clippy::print_stderr)] // what `make crash` is run for
fn report(seed: u64, total: u64, places: &[String], mut restarts: Vec<Duration>) {
    restarts.sort_unstable();
    let (cycles, longest) = (restarts.len(), restarts.last().copied().unwrap_or_default());
    eprintln!(
        "crash: {cycles} cycles, {total} acknowledged sessions, none lost; seed {seed}; restart \
         to ready: median {:?}, longest {longest:?}; died by itself {} times: {}",
        restarts[cycles / 2],
        places.len(),
        places.join(" ")
    );
}
