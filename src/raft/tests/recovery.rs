//! What is left after a crash, a restart, a snapshot.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command as Process, Stdio},
    sync::{Arc, atomic::Ordering},
};

use futures_util::stream;
use openraft::{
    EntryPayload, RaftSnapshotBuilder as _,
    storage::{RaftStateMachine as _, Snapshot},
};
use prometheus::Registry;

use super::{crash_image, create, delete, listed, log_id, metrics, open};
use crate::raft::{
    Group, GroupSettings, View,
    command::{Applied, Command},
    keys::{self, Fact},
    machine::Machine,
    snapshot::SnapshotFile,
    state::{Position, StateStore},
    types::Entry,
};

fn entry(index: u64, command: Command) -> Entry {
    Entry {
        log_id: log_id(index),
        payload: EntryPayload::Normal(command),
    }
}

fn machine(home: &Path) -> (Arc<StateStore>, Machine) {
    let store = Arc::new(StateStore::open(home).unwrap());
    let (machine, _gone) =
        Machine::start(Arc::clone(&store), Arc::new(metrics()), u64::MAX).unwrap();
    (store, machine)
}

async fn apply(machine: &mut Machine, entries: Vec<Entry>) {
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    machine.apply(stream::iter(entries)).await.unwrap();
}

fn get(store: &Arc<StateStore>, client_id: &str) -> Option<String> {
    let session = View::new(Arc::clone(store))
        .sessions()
        .get(client_id.as_bytes())
        .unwrap();
    session.map(|session| String::from_utf8(session.to_vec()).unwrap())
}

fn applied(position: &Position) -> Option<u64> {
    position.applied.map(|id| id.index)
}

#[tokio::test]
async fn the_later_of_two_equal_keys_in_one_batch_wins() {
    let home = tempfile::tempdir().unwrap();
    let (store, mut machine) = machine(home.path());
    // Enough of them that an unstable sort would not keep their order.
    let many: Vec<_> = (0..200)
        .map(|n| ("same", if n == 199 { "last" } else { "early" }))
        .collect();
    let commands = [
        create(&[("a", "1"), ("b", "1"), ("a", "2")]),
        create(&many),
        delete("b"),
        create(&[("c", "1")]),
        delete("c"),
        create(&[("c", "2")]),
    ];
    apply(
        &mut machine,
        commands
            .into_iter()
            .zip(1..)
            .map(|(c, at)| entry(at, c))
            .collect(),
    )
    .await;
    assert_eq!(get(&store, "a").as_deref(), Some("2"));
    assert_eq!(get(&store, "same").as_deref(), Some("last"));
    assert_eq!(get(&store, "b"), None);
    assert_eq!(get(&store, "c").as_deref(), Some("2"));
}

#[tokio::test]
async fn after_a_crash_the_applied_state_is_what_was_flushed_and_the_records_agree() {
    let home = tempfile::tempdir().unwrap();
    let (store, mut machine) = machine(home.path());
    apply(&mut machine, vec![entry(1, create(&[("flushed", "1")]))]).await;
    store.flush().unwrap();
    apply(&mut machine, vec![entry(2, create(&[("memory", "2")]))]).await;
    assert_eq!(applied(&store.position()), Some(2));

    let image = tempfile::tempdir().unwrap();
    crash_image(home.path(), image.path());
    let left = Arc::new(StateStore::open(image.path()).unwrap());
    assert_eq!(applied(&left.position()), Some(1));
    assert_eq!(get(&left, "flushed").as_deref(), Some("1"));
    assert_eq!(get(&left, "memory"), None);
}

#[tokio::test]
async fn a_snapshot_is_reported_only_after_a_flush_of_what_it_stands_for() {
    let home = tempfile::tempdir().unwrap();
    let (_store, mut machine) = machine(home.path());
    let entries = (1..=10).map(|at| entry(at, create(&[(&at.to_string(), "session")])));
    apply(&mut machine, entries.collect()).await;
    let mut builder = machine.try_create_snapshot_builder(true).await.unwrap();
    let reported = builder.build_snapshot().await.unwrap().meta.last_log_id;

    let image = tempfile::tempdir().unwrap();
    crash_image(home.path(), image.path());
    let left = StateStore::open(image.path()).unwrap();
    assert_eq!(reported.map(|id| id.index), Some(10));
    assert_eq!(left.position().applied, reported);
}

#[tokio::test]
async fn the_log_is_never_purged_past_the_flushed_last_applied() {
    const COUNT: u64 = 15_000;
    let home = tempfile::tempdir().unwrap();
    let mut settings = GroupSettings::new(home.path());
    settings.log_bytes_max = 1;
    let group = Group::open(settings, &Registry::new()).await.unwrap();
    let proposals: Vec<_> = (0..COUNT)
        .map(|n| group.propose(create(&[(&n.to_string(), "session")]), 1))
        .collect();
    for proposal in proposals {
        assert_eq!(proposal.await, Ok(Applied::Done));
    }
    let purged = group.wait_until_purged().await;
    assert!(purged > 0 && purged < COUNT);

    let image = tempfile::tempdir().unwrap();
    crash_image(home.path(), image.path());
    let left = StateStore::open(&image.path().join("group-0")).unwrap();
    let flushed = applied(&left.position()).unwrap();
    assert!(
        purged <= flushed,
        "purged to {purged}, flushed to {flushed}"
    );
    drop(left);
    let reopened = open(image.path()).await;
    assert_eq!(reopened.sessions().count().unwrap(), COUNT);
    reopened.shutdown().await.unwrap();
    group.shutdown().await.unwrap();
}

#[tokio::test]
async fn reopened_after_a_shutdown_it_has_every_acknowledged_session_at_once() {
    let home = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let group = open(home.path()).await;
        assert_eq!(
            group.sessions().count().unwrap(),
            round,
            "before any new write"
        );
        group
            .propose(create(&[(&round.to_string(), "session")]), 1)
            .await
            .unwrap();
        group.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn reopened_without_a_shutdown_it_has_every_acknowledged_session_at_once() {
    let home = tempfile::tempdir().unwrap();
    let group = open(home.path()).await;
    for n in 0..500 {
        let id = format!("{n:03}");
        assert_eq!(
            group.propose(create(&[(&id, "session")]), 1).await,
            Ok(Applied::Done)
        );
    }
    group.propose(delete("250"), 1).await.unwrap();

    let image = tempfile::tempdir().unwrap();
    crash_image(home.path(), image.path());
    let left = open(image.path()).await;
    assert_eq!(listed(&left), listed(&group));
    assert_eq!(left.sessions().count().unwrap(), 499);
}

#[tokio::test]
async fn reopened_without_knowing_what_was_committed_it_has_every_acknowledged_session_at_once() {
    const COUNT: u64 = 20_000;
    let home = tempfile::tempdir().unwrap();
    let group = open(home.path()).await;
    let proposals: Vec<_> = (0..COUNT)
        .map(|n| group.propose(create(&[(&n.to_string(), "session")]), 1))
        .collect();
    for proposal in proposals {
        assert_eq!(proposal.await, Ok(Applied::Done));
    }
    let image = tempfile::tempdir().unwrap();
    crash_image(home.path(), image.path());
    // That is never synced, so a power failure may take it.
    let log = rocksdb::DB::open_default(image.path().join("log")).unwrap();
    log.delete(keys::fact(0, Fact::Committed)).unwrap();
    drop(log);
    let left = open(image.path()).await;
    assert_eq!(left.sessions().count().unwrap(), COUNT);
}

#[tokio::test]
async fn a_state_that_is_behind_a_purged_log_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let mut settings = GroupSettings::new(home.path());
    settings.log_bytes_max = 1;
    let group = Group::open(settings, &Registry::new()).await.unwrap();
    let proposals: Vec<_> = (0..15_000)
        .map(|n| group.propose(create(&[(&n.to_string(), "s")]), 1))
        .collect();
    for proposal in proposals {
        proposal.await.unwrap();
    }
    group.wait_until_purged().await;
    group.shutdown().await.unwrap();
    std::fs::remove_dir_all(home.path().join("group-0/state-1")).unwrap();
    let refused = Group::open(GroupSettings::new(home.path()), &Registry::new())
        .await
        .err()
        .unwrap();
    assert!(
        refused.to_string().contains("the state ends at nothing"),
        "{refused}"
    );
}

const CHILD_DIRECTORY: &str = "FERRY_TEST_CHILD_DIRECTORY";

/// Not a test of its own: the process that the next one kills.
#[tokio::test]
#[ignore = "run by killed_under_load_it_has_every_acknowledged_session"]
async fn write_until_killed() {
    let Some(directory) = env::var_os(CHILD_DIRECTORY) else {
        return;
    };
    let group = open(Path::new(&directory)).await;
    for round in 0.. {
        let ids: Vec<_> = (0..16).map(|n| format!("{round}-{n}")).collect();
        let proposals: Vec<_> = ids
            .iter()
            .map(|id| group.propose(create(&[(id, id)]), 1))
            .collect();
        for (id, proposal) in ids.iter().zip(proposals) {
            assert_eq!(proposal.await, Ok(Applied::Done));
            writeln!(io::stderr(), "acknowledged {id}").unwrap();
        }
    }
}

#[tokio::test]
async fn killed_under_load_it_has_every_acknowledged_session() {
    let home = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for _ in 0..2 {
        let mut child = Process::new(env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("raft::tests::recovery::write_until_killed")
            .env(CHILD_DIRECTORY, home.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        for _ in 0..1_000 {
            let line = lines
                .next()
                .expect("the child writes until it is killed")
                .unwrap();
            acknowledged.extend(line.strip_prefix("acknowledged ").map(str::to_owned));
        }
        child.kill().unwrap();
        // What it wrote before it died was acknowledged too; a last line may be torn.
        let rest: Vec<_> = lines.map_while(Result::ok).collect();
        let whole = rest.len().saturating_sub(1);
        let rest = rest
            .iter()
            .take(whole)
            .filter_map(|line| line.strip_prefix("acknowledged "));
        acknowledged.extend(rest.map(str::to_owned));
        child.wait().unwrap();
    }
    assert!(
        acknowledged.len() >= 1_900,
        "{} acknowledged",
        acknowledged.len()
    );
    let group = open(home.path()).await;
    for id in acknowledged {
        let session = group.sessions().get(id.as_bytes()).unwrap();
        assert_eq!(
            session.as_deref(),
            Some(id.as_bytes()),
            "{id} was acknowledged"
        );
    }
}

#[tokio::test]
async fn an_installed_snapshot_is_the_whole_state_and_survives_a_crash() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (sender, mut sending) = machine(from.path());
    let large = "x".repeat(10_000);
    // Several blocks of it.
    let entries = (1..=100).map(|at| entry(at, create(&[(&format!("{at:03}"), &large)])));
    apply(&mut sending, entries.collect()).await;
    let mut builder = sending.try_create_snapshot_builder(true).await.unwrap();
    let Snapshot { meta, snapshot } = builder.build_snapshot().await.unwrap();

    let (receiver, mut receiving) = machine(to.path());
    apply(&mut receiving, vec![entry(1, create(&[("void", "1")]))]).await;
    receiving.install_snapshot(&meta, snapshot).await.unwrap();
    assert_eq!(receiver.position(), sender.position());
    assert_eq!(
        get(&receiver, "void"),
        None,
        "what the snapshot does not have is gone"
    );
    assert_eq!(get(&receiver, "050").as_deref(), Some(large.as_str()));
    let current = receiving.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta, meta);

    let image = tempfile::tempdir().unwrap();
    crash_image(to.path(), image.path());
    let left = Arc::new(StateStore::open(image.path()).unwrap());
    assert_eq!(left.position(), sender.position());
    assert_eq!(View::new(left).sessions().count().unwrap(), 100);
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_and_leaves_the_state_as_it_was() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (sender, mut sending) = machine(from.path());
    apply(&mut sending, vec![entry(1, create(&[("sent", "1")]))]).await;
    let mut builder = sending.try_create_snapshot_builder(true).await.unwrap();
    let meta = builder.build_snapshot().await.unwrap().meta;
    let whole = std::fs::read(sender.snapshot_path()).unwrap();

    let (receiver, mut receiving) = machine(to.path());
    apply(&mut receiving, vec![entry(5, create(&[("kept", "1")]))]).await;
    let (before, bent_path) = (receiver.position(), from.path().join("bent"));
    // Every byte flipped once, every truncation.
    let bent = (0..whole.len()).map(|at| {
        let mut bent = whole.clone();
        bent[at] ^= 0x10;
        bent
    });
    let cut = (0..whole.len()).step_by(7).map(|len| whole[..len].to_vec());
    for damaged in bent.chain(cut) {
        std::fs::write(&bent_path, &damaged).unwrap();
        let installed = match SnapshotFile::open(&bent_path) {
            Ok(found) => receiving.install_snapshot(&meta, found.unwrap().1).await,
            Err(error) => Err(error),
        };
        installed.expect_err("a damaged snapshot was installed");
        assert_eq!(receiver.position(), before);
    }
    assert_eq!(get(&receiver, "kept").as_deref(), Some("1"));
    assert_eq!(get(&receiver, "sent"), None);
}

#[tokio::test]
async fn writes_go_on_while_a_snapshot_is_made_and_are_not_in_it() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (sender, mut sending) = machine(from.path());
    apply(&mut sending, vec![entry(1, create(&[("before", "1")]))]).await;
    // The moment is fixed when the builder is there, not when it is awaited.
    let mut builder = sending.try_create_snapshot_builder(true).await.unwrap();
    apply(&mut sending, vec![entry(2, create(&[("after", "2")]))]).await;
    let Snapshot { meta, snapshot } = builder.build_snapshot().await.unwrap();
    assert_eq!(meta.last_log_id.map(|id| id.index), Some(1));
    assert_eq!(get(&sender, "after").as_deref(), Some("2"));

    let (receiver, mut receiving) = machine(to.path());
    receiving.install_snapshot(&meta, snapshot).await.unwrap();
    assert_eq!(get(&receiver, "before").as_deref(), Some("1"));
    assert_eq!(get(&receiver, "after"), None);
}

#[tokio::test]
async fn a_snapshot_is_due_when_the_log_weighs_enough_and_only_then() {
    let home = tempfile::tempdir().unwrap();
    let store = Arc::new(StateStore::open(home.path()).unwrap());
    let (mut machine, _gone) =
        Machine::start(Arc::clone(&store), Arc::new(metrics()), 10_000).unwrap();
    apply(&mut machine, vec![entry(1, create(&[("a", "small")]))]).await;
    assert!(machine.try_create_snapshot_builder(false).await.is_none());
    let large = "x".repeat(10_000);
    apply(&mut machine, vec![entry(2, create(&[("a", &large)]))]).await;
    let mut builder = machine
        .try_create_snapshot_builder(false)
        .await
        .expect("it is due");
    builder.build_snapshot().await.unwrap();
    assert_eq!(store.unsnapped_bytes.load(Ordering::Relaxed), 0);
    assert!(machine.try_create_snapshot_builder(false).await.is_none());
}

#[tokio::test]
async fn what_a_crash_left_half_made_is_removed() {
    let home = tempfile::tempdir().unwrap();
    let (store, mut machine) = machine(home.path());
    apply(&mut machine, vec![entry(1, create(&[("a", "1")]))]).await;
    store.flush().unwrap();
    let image = tempfile::tempdir().unwrap();
    crash_image(home.path(), image.path());
    std::fs::create_dir(image.path().join("state-2")).unwrap();
    std::fs::create_dir(image.path().join("saving-0")).unwrap();
    std::fs::write(image.path().join("snapshot.new"), b"half").unwrap();
    let left = Arc::new(StateStore::open(image.path()).unwrap());
    assert_eq!(get(&left, "a").as_deref(), Some("1"));
    assert!(!image.path().join("state-2").exists());
    assert!(!image.path().join("saving-0").exists());
    assert!(!image.path().join("snapshot.new").exists());
}
