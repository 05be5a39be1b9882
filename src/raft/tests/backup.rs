//! What is saved, what is restored of it, and what is refused.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    sync::{Arc, Condvar, Mutex},
};

use prometheus::Registry;

use super::{create, listed, open};
use crate::raft::{
    Group, GroupSettings, Groups, Identity,
    backup::{Heir, Moment, read, restore},
    command::Applied,
};

const GROUPS: u32 = 3;

async fn groups(path: &Path) -> Groups {
    let mut settings = GroupSettings::new(path);
    settings.identity.groups = GROUPS;
    Groups::open(settings, &Registry::new()).await.unwrap()
}

/// Writes sessions to whichever group they belong to.
async fn write(groups: &Groups, ids: impl IntoIterator<Item = String>, session: &str) {
    for id in ids {
        let group = groups.of(&[id.as_bytes()]);
        let applied = group.propose(create(&[(&id, session)]), 1).await;
        assert_eq!(applied, Ok(Applied::Done));
    }
}

fn heir(groups: u32) -> Heir {
    let identity = Identity {
        groups,
        ..Identity::alone()
    };
    Heir {
        identity,
        peer: None,
    }
}

/// A backup of two sessions of a lone group, as a file.
async fn small_backup(home: &Path) -> std::path::PathBuf {
    let group = open(&home.join("from")).await;
    let sessions = create(&[("a", "1"), ("b", "2")]);
    group.propose(sessions, 2).await.unwrap();
    let path = home.join("backup");
    let groups = Groups::of_one(group.clone());
    let file = fs::File::create(&path).unwrap();
    groups.save(Moment::Now, file).await.unwrap();
    group.shutdown().await.unwrap();
    path
}

fn all(groups: &Groups) -> Vec<Vec<(String, String)>> {
    groups.all().iter().map(listed).collect()
}

#[tokio::test]
async fn a_backup_of_several_groups_is_restored_whole_and_takes_writes_again() {
    let home = tempfile::tempdir().unwrap();
    let (from, into) = (home.path().join("from"), home.path().join("into"));
    let saved = groups(&from).await;
    // Several blocks of each group.
    let large = "x".repeat(20_000);
    write(&saved, (0..120).map(|n| format!("{n:03}")), &large).await;
    let path = home.path().join("backup");
    let file = fs::File::create(&path).unwrap();
    let contents = saved.save(Moment::Now, file).await.unwrap();
    assert_eq!(contents, read(&path).unwrap());
    assert_eq!(contents.records.iter().sum::<u64>(), 120);
    assert!(contents.records.iter().all(|group| *group > 0));

    assert_eq!(restore(&path, &into, &heir(GROUPS)).unwrap(), contents);
    let restored = groups(&into).await;
    assert_eq!(all(&restored), all(&saved));
    write(&restored, ["new".to_owned()], "session").await;
    let expected = all(&restored);
    restored.shutdown().await.unwrap();
    let again = groups(&into).await;
    assert_eq!(all(&again), expected, "after a restart");
    again.shutdown().await.unwrap();
    saved.shutdown().await.unwrap();
    assert!(!from.join("group-0/saving-0").exists(), "the copy is gone");
}

/// Lets nothing through until it is opened.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    asked: bool,
    open: bool,
    written: Vec<u8>,
}

impl Gate {
    fn wait_until_asked(&self) {
        let (state, changed) = &*self.0;
        let asked = changed.wait_while(state.lock().unwrap(), |state| !state.asked);
        drop(asked.unwrap());
    }

    fn open(&self) {
        self.0.0.lock().unwrap().open = true;
        self.0.1.notify_all();
    }
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        state.asked = true;
        changed.notify_all();
        let mut state = changed.wait_while(state, |state| !state.open).unwrap();
        state.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_a_backup_is_read_slowly_and_are_not_in_it() {
    let home = tempfile::tempdir().unwrap();
    let saved = groups(&home.path().join("from")).await;
    write(&saved, ["before".to_owned()], "1").await;
    let gate = Gate::default();
    let (saving, out) = (saved.clone(), gate.clone());
    let backup = tokio::spawn(async move { saving.save(Moment::Now, out).await });
    let asked = gate.clone();
    tokio::task::spawn_blocking(move || asked.wait_until_asked())
        .await
        .unwrap();
    // It is stuck now; its reader takes nothing.
    write(&saved, (0..50).map(|n| format!("after-{n}")), "2").await;
    gate.open();
    let contents = backup.await.unwrap().unwrap();
    assert_eq!(contents.records.iter().sum::<u64>(), 1);
    // Nothing of the running databases is held: they close at once.
    saved.shutdown().await.unwrap();
    let path = home.path().join("backup");
    fs::write(&path, &gate.0.0.lock().unwrap().written).unwrap();
    assert_eq!(read(&path).unwrap(), contents);
}

#[tokio::test]
async fn a_damaged_backup_is_refused_by_name_and_leaves_no_directory() {
    let home = tempfile::tempdir().unwrap();
    let path = small_backup(home.path()).await;
    let whole = fs::read(&path).unwrap();
    let (bent_path, into) = (home.path().join("bent"), home.path().join("into"));
    // Every byte flipped once, every truncation, and one byte too many.
    let bent = (0..whole.len()).map(|at| {
        let mut bent = whole.clone();
        bent[at] ^= 0x10;
        bent
    });
    let cut = (0..whole.len()).map(|len| whole[..len].to_vec());
    let longer = [&whole[..], b"x"].concat();
    for damaged in bent.chain(cut).chain([longer]) {
        fs::write(&bent_path, &damaged).unwrap();
        let told = restore(&bent_path, &into, &heir(1))
            .unwrap_err()
            .to_string();
        assert!(told.contains(&bent_path.display().to_string()), "{told}");
        assert!(told.contains("restore another one"), "{told}");
        assert!(!into.exists(), "{told}");
    }
    restore(&path, &into, &heir(1)).unwrap();
    let restored = open(&into).await;
    assert_eq!(listed(&restored).len(), 2);
}

#[tokio::test]
async fn a_backup_is_restored_only_into_an_empty_directory_for_its_number_of_groups() {
    let home = tempfile::tempdir().unwrap();
    let path = small_backup(home.path()).await;
    let refused = |into: &Path, groups| {
        let told = restore(&path, into, &heir(groups)).unwrap_err().to_string();
        assert!(!told.contains('\n'), "{told}");
        told
    };
    let into = home.path().join("into");
    let told = refused(&into, 4);
    assert!(told.contains("it has 1 groups, and groups: 4"), "{told}");
    assert!(!into.exists());

    let from = home.path().join("from");
    assert!(refused(&from, 1).contains("it is not empty"));
    let group = open(&from).await;
    assert!(refused(&from, 1).contains("in use by another process"));
    assert_eq!(listed(&group).len(), 2, "nothing of it was touched");
    group.shutdown().await.unwrap();

    fs::create_dir_all(&into).unwrap();
    fs::write(into.join("notes"), b"").unwrap();
    assert!(refused(&into, 1).contains("notes is in it"));
}

#[tokio::test]
async fn a_restore_that_did_not_end_is_never_taken_for_a_new_directory() {
    let home = tempfile::tempdir().unwrap();
    let path = small_backup(home.path()).await;
    let into = home.path().join("into");
    restore(&path, &into, &heir(1)).unwrap();
    // The header is the last of it.
    fs::remove_file(into.join("HEADER")).unwrap();
    let refused = Group::open(GroupSettings::new(&into), &Registry::new()).await;
    let told = refused.unwrap_err().to_string();
    assert!(told.contains("no HEADER"), "{told}");
}
