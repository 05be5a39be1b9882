//! The process dies at every place that has a name, and what is left is whole.
//!
//! A child process, this test binary again, writes three sessions at a time
//! with one value, says on stderr what was acknowledged, and dies where
//! `FERRY_FAIL` says. What it leaves is opened here: every acknowledged write
//! is there, and of no write a part.

use std::{
    collections::BTreeMap,
    env,
    io::{self, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command as Process, Output, Stdio},
    sync::Arc,
};

use futures_util::stream;
use openraft::{
    EntryPayload, RaftSnapshotBuilder as _,
    storage::{RaftStateMachine as _, Snapshot},
};
use prometheus::Registry;

use super::{create, log_id, metrics};
use crate::raft::{
    Group, GroupSettings, command::Applied, fail, machine::Machine, state::StateStore,
    types::Entry, view::View,
};

const DIRECTORY: &str = "FERRY_TEST_CHILD_DIRECTORY";
/// Keys that are written again and again, three sessions each.
const KEYS: u64 = 40;
/// Writes under way at once.
const WIDTH: u64 = 16;
/// Writes of a child that nothing ends before.
const WRITES: u64 = 20_000;
/// SIGABRT: what a place that has come ends with.
const ABORTED: i32 = 6;

/// A snapshot every hundred log entries or so, and a log with small buffers.
fn settings(home: &Path) -> GroupSettings {
    let mut settings = GroupSettings::new(home);
    settings.log_bytes_max = 4 << 10;
    settings
}

async fn open(home: &Path) -> Group {
    Group::open(settings(home), &Registry::new()).await.unwrap()
}

fn value(group: &Group, id: &str) -> Option<u64> {
    let session = group.sessions().get(id.as_bytes()).unwrap()?;
    Some(std::str::from_utf8(&session).unwrap().parse().unwrap())
}

/// The value of a key's three sessions, which is one and the same.
fn whole(group: &Group, key: u64) -> Option<u64> {
    let three = ["a", "b", "c"].map(|part| value(group, &format!("{key}-{part}")));
    assert!(
        three.iter().all(|value| *value == three[0]),
        "half of a write of key {key} is there: {three:?}"
    );
    three[0]
}

/// Not a test of its own: the process that dies.
#[tokio::test]
#[ignore = "run by the tests of this file"]
async fn write_until_the_place_has_come() {
    let Some(directory) = env::var_os(DIRECTORY) else {
        return;
    };
    let group = open(Path::new(&directory)).await;
    // Numbers go on where the process before this one ended.
    let begin = (0..KEYS).filter_map(|key| whole(&group, key)).max();
    let begin = begin.map_or(0, |highest| highest + WIDTH);
    for round in 0..WRITES / WIDTH {
        let numbers = (0..WIDTH).map(|n| begin + round * WIDTH + n);
        let proposals: Vec<_> = numbers
            .map(|number| {
                let key = number % KEYS;
                let ids = ["a", "b", "c"].map(|part| format!("{key}-{part}"));
                let text = number.to_string();
                let sessions = ids.each_ref().map(|id| (id.as_str(), text.as_str()));
                (number, group.propose(create(&sessions), 3))
            })
            .collect();
        for (number, proposal) in proposals {
            assert_eq!(proposal.await, Ok(Applied::Done));
            writeln!(io::stderr(), "acknowledged {number}").unwrap();
        }
    }
}

fn child(test: &str, home: &Path, armed: &str) -> Output {
    Process::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg(format!("raft::tests::crash::{test}"))
        .env(DIRECTORY, home)
        .env(fail::VARIABLE, armed)
        .stdout(Stdio::null())
        .output()
        .unwrap()
}

/// The highest acknowledged number of each key; a last line may be torn.
fn acknowledged(output: &Output, into: &mut BTreeMap<u64, u64>) {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let whole_lines = told.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let numbers = whole_lines
        .lines()
        .filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok());
    for number in numbers {
        let highest = into.entry(number % KEYS).or_default();
        *highest = number.max(*highest);
    }
}

/// Acknowledged writes that are not there, nor a later one of their key.
fn lost(group: &Group, acknowledged: &BTreeMap<u64, u64>) -> Vec<u64> {
    let mut lost = Vec::new();
    for key in 0..KEYS {
        let found = whole(group, key);
        if let Some(&number) = acknowledged.get(&key)
            && found.is_none_or(|found| found < number)
        {
            lost.push(number);
        }
    }
    lost
}

#[tokio::test]
async fn wherever_the_process_dies_no_acknowledged_write_is_lost_and_none_is_half_there() {
    let home = tempfile::tempdir().unwrap();
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut written = BTreeMap::new();
    for place in fail::PLACES.iter().filter(|p| !p.starts_with("install")) {
        // A vote is saved once in a lone node's life: when it begins.
        let new = tempfile::tempdir().unwrap();
        let mut own = BTreeMap::new();
        let (home, written) = match place.starts_with("vote") {
            true => (&new, &mut own),
            false => (&home, &mut written),
        };
        let passes = match place.split('.').next() {
            Some("log" | "apply") => random.u64(1..120),
            Some("vote") => 1,
            _ => random.u64(1..4),
        };
        let armed = format!("{place}@{passes}");
        let output = child("write_until_the_place_has_come", home.path(), &armed);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.signal(),
            Some(ABORTED),
            "{armed}, seed {seed}: {told}"
        );
        acknowledged(&output, written);
        let group = open(home.path()).await;
        assert_eq!(
            lost(&group, written),
            Vec::<u64>::new(),
            "{armed}, seed {seed}"
        );
        group.shutdown().await.unwrap();
    }
    assert!(!written.is_empty(), "nothing was ever acknowledged");
}

#[tokio::test]
async fn the_harness_finds_a_log_that_acknowledges_what_it_does_not_write() {
    let home = tempfile::tempdir().unwrap();
    let armed = format!("{}@{}", fail::ACKNOWLEDGE, 20);
    let mut child = Process::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("raft::tests::crash::lie_until_killed")
        .env(DIRECTORY, home.path())
        .env(fail::VARIABLE, &armed)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = io::BufRead::lines(io::BufReader::new(child.stderr.take().unwrap()));
    let (mut told, mut count) = (Vec::new(), 0);
    while count < 400 {
        let line = lines.next().expect("it writes until it is killed").unwrap();
        count += u32::from(line.starts_with("acknowledged "));
        writeln!(told, "{line}").unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let output = Output {
        status: Default::default(),
        stdout: Vec::new(),
        stderr: told,
    };
    let mut written = BTreeMap::new();
    acknowledged(&output, &mut written);
    let group = Group::open(GroupSettings::new(home.path()), &Registry::new())
        .await
        .unwrap();
    assert_ne!(
        lost(&group, &written),
        Vec::<u64>::new(),
        "the lie was not found out"
    );
}

/// Not a test of its own: the process that lies.
#[tokio::test]
#[ignore = "run by the_harness_finds_a_log_that_acknowledges_what_it_does_not_write"]
async fn lie_until_killed() {
    let Some(directory) = env::var_os(DIRECTORY) else {
        return;
    };
    // No snapshot: with the log alone, what it does not write is nowhere.
    let settings = GroupSettings::new(Path::new(&directory));
    let group = Group::open(settings, &Registry::new()).await.unwrap();
    for number in 0.. {
        let key = number % KEYS;
        let ids = ["a", "b", "c"].map(|part| format!("{key}-{part}"));
        let text = number.to_string();
        let sessions = ids.each_ref().map(|id| (id.as_str(), text.as_str()));
        group.propose(create(&sessions), 3).await.unwrap();
        writeln!(io::stderr(), "acknowledged {number}").unwrap();
    }
}

/// Sessions of the snapshot that is installed: several blocks of the file.
const SENT: u64 = 100;

fn machine(home: &Path) -> (Arc<StateStore>, Machine) {
    let store = Arc::new(StateStore::open(home).unwrap());
    let (machine, _gone) =
        Machine::start(Arc::clone(&store), Arc::new(metrics()), u64::MAX).unwrap();
    (store, machine)
}

async fn apply(machine: &mut Machine, index: u64, id: &str, session: &str) {
    let entry = Entry {
        log_id: log_id(index),
        payload: EntryPayload::Normal(create(&[(id, session)])),
    };
    let entries = stream::iter([Ok((entry, None))]);
    machine.apply(entries).await.unwrap();
}

/// Not a test of its own: the process that dies over a snapshot.
#[tokio::test]
#[ignore = "run by wherever_an_install_dies_the_state_is_the_old_or_the_new_one"]
async fn install_until_the_place_has_come() {
    let Some(directory) = env::var_os(DIRECTORY) else {
        return;
    };
    let home = Path::new(&directory);
    let (_sender, mut sending) = machine(&home.join("from"));
    let large = "x".repeat(10_000);
    for index in 1..=SENT {
        apply(&mut sending, index, &format!("sent-{index}"), &large).await;
    }
    let mut builder = sending.try_create_snapshot_builder(true).await.unwrap();
    let Snapshot { meta, snapshot } = builder.build_snapshot().await.unwrap();
    let (receiver, mut receiving) = machine(&home.join("to"));
    apply(&mut receiving, 1, "kept", "old").await;
    receiver.flush().unwrap();
    let mut builder = receiving.try_create_snapshot_builder(true).await.unwrap();
    builder.build_snapshot().await.unwrap();
    receiving.install_snapshot(&meta, snapshot).await.unwrap();
}

#[tokio::test]
async fn wherever_an_install_dies_the_state_is_the_old_or_the_new_one() {
    for place in [
        fail::INSTALL_HALF,
        fail::INSTALL_LOADED,
        fail::INSTALL_MOVED,
    ] {
        let home = tempfile::tempdir().unwrap();
        let armed = format!("{place}@1");
        let output = child("install_until_the_place_has_come", home.path(), &armed);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(ABORTED), "{armed}: {told}");
        let (left, mut receiving) = machine(&home.path().join("to"));
        let snapshot = receiving.get_current_snapshot().await.unwrap();
        assert!(
            snapshot.is_none_or(|found| found.meta.last_log_id == left.position().applied),
            "{armed}: the snapshot is of another state"
        );
        let (applied, sessions) = (left.position().applied, View::new(left).sessions());
        let (index, count) = (applied.unwrap().index, sessions.count().unwrap());
        let has_old = sessions.get(b"kept").unwrap().is_some();
        if place == fail::INSTALL_MOVED {
            assert_eq!((index, count, has_old), (SENT, SENT, false), "{armed}");
        } else {
            assert_eq!((index, count, has_old), (1, 1, true), "{armed}");
        }
        let states = std::fs::read_dir(home.path().join("to")).unwrap();
        let states = states.filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("state-")
        });
        assert_eq!(states.count(), 1, "{armed}: the other one is removed");
    }
}
