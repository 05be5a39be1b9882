//! What is on disk stays bounded, whole and named.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use prometheus::Registry;

use super::create;
use crate::raft::{
    Group, GroupSettings, Groups,
    backup::{Heir, Moment, restore},
    command::Applied,
};

fn size_of(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    // A file may be gone by the time it is looked at: RocksDB cleans up.
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => size_of(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

#[tokio::test]
async fn the_disk_stays_bounded_under_endless_overwrites_of_the_same_keys() {
    const ROUNDS: usize = 400;
    const WIDTH: usize = 16;
    let home = tempfile::tempdir().unwrap();
    let mut settings = GroupSettings::new(home.path());
    settings.log_bytes_max = 1 << 20;
    let group = Group::open(settings, &Registry::new()).await.unwrap();
    let session = "x".repeat(32 << 10);
    let (mut written, mut largest) = (0, 0);
    for _ in 0..ROUNDS {
        let proposals: Vec<_> = (0..WIDTH)
            .map(|n| group.propose(create(&[(&n.to_string(), &session)]), 1))
            .collect();
        for proposal in proposals {
            assert_eq!(proposal.await, Ok(Applied::Done));
        }
        written += WIDTH * session.len();
        largest = largest.max(size_of(home.path()));
    }
    assert_eq!(group.sessions().count().unwrap(), WIDTH as u64);
    group.shutdown().await.unwrap();
    // A state of half a MiB, what is flushed at once (8 MiB), a snapshot; the log's
    // four buffers of 1 MiB, what a snapshot leaves, and what waits for
    // compaction: all of it a small part of what was written.
    let written = written as u64;
    assert!(
        largest * 3 < written,
        "{largest} bytes on disk for {written} written over {WIDTH} keys"
    );
}

#[tokio::test]
async fn a_state_database_with_a_damaged_file_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let group = super::open(home.path()).await;
    let session = "x".repeat(1 << 10);
    for n in 0..100 {
        let applied = group
            .propose(create(&[(&n.to_string(), &session)]), 1)
            .await;
        assert_eq!(applied, Ok(Applied::Done));
    }
    group.shutdown().await.unwrap();
    let state = home.path().join("group-0/state-1");
    let tables = fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut tables = tables.filter(|path| path.extension().is_some_and(|kind| kind == "sst"));
    let table = tables.next().expect("a shutdown flushes");
    let mut bytes = fs::read(&table).unwrap();
    // In the middle of the records, and nowhere that opening has to read.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&table, bytes).unwrap();
    let told = match Group::open(GroupSettings::new(home.path()), &Registry::new()).await {
        Err(error) => error.to_string(),
        Ok(group) => {
            let listed = group.sessions().count();
            let told = listed.expect_err("damage is never skipped").to_string();
            group.shutdown().await.ok();
            told
        }
    };
    assert!(told.contains(&state.display().to_string()), "{told}");
}

/// A directory with one acknowledged session in it, closed.
async fn written(path: &Path) {
    let group = super::open(path).await;
    let applied = group.propose(create(&[("a", "1")]), 1).await;
    assert_eq!(applied, Ok(Applied::Done));
    group.shutdown().await.unwrap();
}

/// Every file and folder below a directory.
fn names(below: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut names(&path));
        }
        found.insert(path);
    }
    found
}

async fn refused(path: &Path) -> String {
    let opened = Group::open(GroupSettings::new(path), &Registry::new()).await;
    opened.unwrap_err().to_string()
}

/// Takes the mark away that says how far the directory was laid out, as
/// earlier versions left it out.
fn unmark(home: &Path) {
    let header = home.join("HEADER");
    let text = fs::read_to_string(&header).unwrap();
    let marked = text.lines().filter(|line| !line.contains("layout"));
    fs::write(&header, marked.collect::<String>()).unwrap();
}

#[tokio::test]
async fn a_directory_that_lost_its_log_or_a_state_is_refused_by_name_and_nothing_of_it_is_deleted()
{
    for (lost, told_of) in [
        ("log", "log/CURRENT is missing"),
        ("log/CURRENT", "log/CURRENT is missing"),
        ("group-0", "group-0/CURRENT is missing"),
        ("group-0/CURRENT", "group-0/CURRENT is missing"),
    ] {
        let (home, aside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        written(home.path()).await;
        let aside = aside.path().join("lost");
        fs::rename(home.path().join(lost), &aside).unwrap();
        let before = names(home.path());
        let told = refused(home.path()).await;
        assert!(told.contains(told_of), "{lost}: {told}");
        assert!(told.contains("restore a backup"), "{lost}: {told}");
        assert_eq!(names(home.path()), before, "{lost}");
        fs::rename(&aside, home.path().join(lost)).unwrap();
        let group = super::open(home.path()).await;
        assert_eq!(super::listed(&group).len(), 1, "{lost}: put back");
        group.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_directory_of_an_earlier_version_is_marked_when_it_opens_and_refused_without_its_log() {
    let home = tempfile::tempdir().unwrap();
    written(home.path()).await;
    unmark(home.path());
    let (log, aside) = (home.path().join("log"), home.path().join("aside"));
    fs::rename(&log, &aside).unwrap();
    assert!(
        refused(home.path())
            .await
            .contains("log/CURRENT is missing")
    );
    fs::rename(&aside, &log).unwrap();
    super::open(home.path()).await.shutdown().await.unwrap();
    let header = fs::read_to_string(home.path().join("HEADER")).unwrap();
    assert!(header.contains("\"layout\": \"whole\""), "{header}");
}

#[tokio::test]
async fn a_state_whose_current_file_is_gone_is_never_begun_again_nor_deleted() {
    let home = tempfile::tempdir().unwrap();
    written(home.path()).await;
    // So that the header does not tell: the group itself has to.
    unmark(home.path());
    let group = home.path().join("group-0");
    fs::remove_file(group.join("CURRENT")).unwrap();
    fs::rename(group.join("state-1"), group.join("state-2")).unwrap();
    let before = names(&group);
    let told = refused(home.path()).await;
    assert!(told.contains("state-2 lies beside it"), "{told}");
    assert_eq!(names(&group), before);
}

#[tokio::test]
async fn a_directory_whose_layout_did_not_end_is_laid_out_to_its_end() {
    // In the order in which it is made: what a crash leaves is a beginning of it.
    for (made, from) in [("HEADER", "log"), ("log", "group-0"), ("group-0", "none")] {
        let home = tempfile::tempdir().unwrap();
        super::open(home.path()).await.shutdown().await.unwrap();
        unmark(home.path());
        for lost in ["log", "group-0"]
            .into_iter()
            .skip_while(|lost| *lost != from)
        {
            fs::remove_dir_all(home.path().join(lost)).unwrap();
        }
        written(home.path()).await;
        let header = fs::read_to_string(home.path().join("HEADER")).unwrap();
        assert!(header.contains("whole"), "up to {made}: {header}");
    }
}

#[tokio::test]
async fn a_restored_directory_begins_its_log_once_and_never_again() {
    let home = tempfile::tempdir().unwrap();
    let (from, into) = (home.path().join("from"), home.path().join("into"));
    let group = super::open(&from).await;
    group.propose(create(&[("a", "1")]), 1).await.unwrap();
    let backup = home.path().join("backup");
    let saved = Groups::of_one(group.clone());
    let file = fs::File::create(&backup).unwrap();
    saved.save(Moment::Now, file).await.unwrap();
    group.shutdown().await.unwrap();
    let heir = Heir {
        identity: crate::raft::Identity::alone(),
        peer: None,
    };
    restore(&backup, &into, &heir).unwrap();
    let current = into.join("group-0/CURRENT");
    let text = fs::read(&current).unwrap();
    fs::remove_file(&current).unwrap();
    assert!(refused(&into).await.contains("group-0/CURRENT is missing"));
    fs::write(&current, text).unwrap();
    super::open(&into).await.shutdown().await.unwrap();
    fs::remove_dir_all(into.join("log")).unwrap();
    assert!(refused(&into).await.contains("log/CURRENT is missing"));
}
