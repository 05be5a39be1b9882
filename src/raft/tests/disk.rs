//! What is on disk stays bounded, whole and named.

use std::{fs, path::Path};

use prometheus::Registry;

use super::create;
use crate::raft::{Group, GroupSettings, command::Applied};

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
