//! Snapshots while they are made: of bounded memory, and in nobody's way.

use std::{
    fs,
    io::Read as _,
    path::Path,
    process::Command as Process,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::stream;
use openraft::{
    EntryPayload, RaftSnapshotBuilder as _,
    alias::SnapshotOf,
    storage::{RaftStateMachine as _, Snapshot},
};
use prometheus::Registry;

use super::{create, log_id, metrics};
use crate::raft::{
    Group, GroupSettings, View,
    blocks::{BLOCK_BYTES, Blocks, Named},
    database::temporary,
    machine::Machine,
    snapshot::SnapshotFile,
    state::StateStore,
    types::{Entry, Types},
};

/// Only a fault waits so long.
const WITHIN: Duration = Duration::from_secs(20);

fn machine(home: &Path) -> (Arc<StateStore>, Machine) {
    let store = Arc::new(StateStore::open(home).unwrap());
    let (machine, _gone) =
        Machine::start(Arc::clone(&store), Arc::new(metrics()), u64::MAX).unwrap();
    (store, machine)
}

async fn apply(machine: &mut Machine, index: u64, session: &str) {
    let entry = Entry {
        log_id: log_id(index),
        payload: EntryPayload::Normal(create(&[(&index.to_string(), session)])),
    };
    let applying = machine.apply(stream::iter([Ok((entry, None))]));
    tokio::time::timeout(WITHIN, applying)
        .await
        .expect("nothing is in its way")
        .unwrap();
}

#[tokio::test]
async fn a_snapshot_is_written_and_read_a_block_at_a_time() {
    const RECORD: usize = 50_000;
    let home = tempfile::tempdir().unwrap();
    let (store, mut machine) = machine(home.path());
    let session = "x".repeat(RECORD);
    for index in 1..=60 {
        apply(&mut machine, index, &session).await;
    }
    let mut builder = machine.try_create_snapshot_builder(true).await.unwrap();
    builder.build_snapshot().await.unwrap();

    let path = store.snapshot_path();
    let written = fs::read(&path).unwrap();
    let named = Named {
        what: "snapshot",
        path: &path,
        remedy: "",
    };
    let mut blocks = Blocks::begin(named, &written[..], *b"FERRYSN1").unwrap();
    blocks.position().unwrap();
    let mut sizes = Vec::new();
    let count = blocks.records(|batch| {
        sizes.push(batch.size_in_bytes());
        Ok(())
    });
    assert_eq!(count.unwrap(), 60);
    // A block ends with the record that fills it.
    let bound = BLOCK_BYTES + RECORD + 1_000;
    assert!(sizes.iter().all(|size| *size <= bound), "{sizes:?}");
    assert!(sizes.len() >= 60 * RECORD / bound, "{sizes:?}");
}

#[tokio::test]
async fn writes_go_on_while_a_snapshot_is_being_written() {
    let home = tempfile::tempdir().unwrap();
    let (store, mut machine) = machine(home.path());
    apply(&mut machine, 1, "before").await;
    // A file that takes nothing until somebody reads it: the snapshot is stuck.
    let pipe = home.path().join("snapshot.new");
    let made = Process::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let building = machine.try_create_snapshot_builder(true);
    let building = tokio::time::timeout(WITHIN, building).await;
    if building.is_ok() {
        apply(&mut machine, 2, "while it is stuck").await;
    }
    let reader = std::thread::spawn(move || {
        let mut written = Vec::new();
        let mut pipe = fs::File::open(pipe).unwrap();
        pipe.read_to_end(&mut written).unwrap();
        written
    });
    let builder = building.expect("whoever builds a snapshot does not wait for its file");
    // That a pipe cannot be synced is what becomes of it.
    builder.unwrap().build_snapshot().await.unwrap_err();
    let written = reader.join().unwrap();
    assert!(written.starts_with(b"FERRYSN1"));
    assert!(!written.windows(5).any(|bytes| bytes == b"stuck"));
    assert_eq!(store.position().applied, Some(log_id(2)));
}

#[tokio::test]
async fn a_snapshot_that_is_being_written_is_given_up_when_its_group_is_closed() {
    let home = tempfile::tempdir().unwrap();
    let (store, mut machine) = machine(home.path());
    apply(&mut machine, 1, "before").await;
    // As above: it is stuck until somebody reads it.
    let pipe = home.path().join("snapshot.new");
    let made = Process::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let builder = machine.try_create_snapshot_builder(true).await;
    store.is_closing.store(true, Ordering::Relaxed);
    let reader = std::thread::spawn(move || fs::read(pipe).unwrap());
    let given_up = builder.unwrap().build_snapshot().await.unwrap_err();
    assert!(given_up.to_string().contains("given up"), "{given_up}");
    assert_eq!(reader.join().unwrap(), b"");
    // Nothing holds the database any more, so the group can be closed.
    store.database.close().unwrap();
}

/// What another node sends: one session, as of log entry 900.
async fn sent(home: &Path) -> SnapshotOf<Types, SnapshotFile> {
    let (_, mut sending) = machine(home);
    apply(&mut sending, 900, "sent").await;
    let mut builder = sending.try_create_snapshot_builder(true).await.unwrap();
    builder.build_snapshot().await.unwrap()
}

#[tokio::test]
async fn a_snapshot_is_installed_while_the_old_state_is_still_read() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Snapshot { meta, snapshot } = sent(from.path()).await;
    let (store, mut receiving) = machine(to.path());
    for index in 1..=600 {
        apply(&mut receiving, index, "old").await;
    }
    let (reached, is_reached) = std::sync::mpsc::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let sessions = View::new(Arc::clone(&store)).sessions();
    let listing = std::thread::spawn(move || {
        let mut seen = 0;
        let listed = sessions.for_each(|_, _| {
            seen += 1;
            if seen == 1 {
                reached.send(()).unwrap();
                may_go_on.recv().unwrap();
            }
            std::ops::ControlFlow::Continue(())
        });
        (seen, listed)
    });
    is_reached.recv().unwrap();
    receiving.install_snapshot(&meta, snapshot).await.unwrap();
    assert_eq!(store.position().applied, Some(log_id(900)));
    assert!(to.path().join("state-1").exists(), "it is being read");
    go_on.send(()).unwrap();
    let (seen, listed) = listing.join().unwrap();
    let told = listed.unwrap_err().to_string();
    assert!(seen < 600 && told.contains("ask again"), "{seen}: {told}");
    assert!(!to.path().join("state-1").exists(), "nobody reads it");
    apply(&mut receiving, 901, "new").await;
}

#[tokio::test]
async fn a_snapshot_that_is_being_written_gives_way_to_one_that_is_installed() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Snapshot { meta, snapshot } = sent(from.path()).await;
    let (store, mut machine) = machine(to.path());
    apply(&mut machine, 1, "old").await;
    // As above: it is stuck until somebody reads it.
    let pipe = temporary(&store.snapshot_path());
    let made = Process::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let mut builder = machine.try_create_snapshot_builder(true).await.unwrap();
    let installed = machine.install_snapshot(&meta, snapshot).await;
    let reader = std::thread::spawn(move || fs::read(pipe).unwrap());
    installed.unwrap();
    // To openraft an error would be the end of the group.
    let built = builder.build_snapshot().await.unwrap();
    assert_eq!(reader.join().unwrap(), b"", "it was given up");
    assert_eq!(built.meta, meta);
    let current = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta, meta);
    assert!(!to.path().join("state-1").exists(), "nobody reads it");
}

/// How many tables the database in `folder` has been flushed to.
fn tables(folder: &Path) -> usize {
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|end| end == "sst"))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_closed_in_the_midst_of_a_snapshot() {
    let home = tempfile::tempdir().unwrap();
    let mut settings = GroupSettings::new(home.path());
    // More than its founding takes: no snapshot begins before the pipe is there.
    settings.log_bytes_max = 64 << 10;
    let group = Group::open(settings, &Registry::new()).await.unwrap();
    let state = group.store();
    let pipe = temporary(&state.snapshot_path());
    // As above: a snapshot is stuck with its file until somebody reads it.
    let made = Process::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let folder = state.database.get().unwrap().path().to_owned();
    let proposals: Vec<_> = (0..15_000)
        .map(|n| group.propose(create(&[(&n.to_string(), "session")]), 1))
        .collect();
    for proposal in proposals {
        proposal.await.unwrap();
    }
    let begins = async {
        // New it has none.
        while tables(&folder) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let begun = tokio::time::timeout(WITHIN, begins).await;
    begun.expect("the snapshot flushes the state");
    // Which somebody does only when the group is being closed, and then again
    // and again, so that whoever does not give it up is not stuck for ever.
    let (read, was_read) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for _ in 0..WITHIN.as_millis() {
            if state.is_closing.load(Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(state);
        while let Ok(bytes) = fs::read(&pipe) {
            read.send(bytes).ok();
        }
    });
    group.shutdown().await.unwrap();
    let first = was_read.recv_timeout(WITHIN).unwrap();
    assert_eq!(first.len(), 0, "it was given up");
}

#[test]
fn a_file_that_names_no_state_is_refused_by_name_and_nothing_is_removed() {
    let home = tempfile::tempdir().unwrap();
    drop(StateStore::open(home.path()).unwrap());
    for damaged in ["", "state-", "../state-1", "state-x"] {
        fs::write(home.path().join("CURRENT"), damaged).unwrap();
        let told = StateStore::open(home.path()).err().unwrap().to_string();
        assert!(told.contains("CURRENT"), "{told}");
        assert!(home.path().join("state-1").exists());
    }
}
