//! What the log store owes: order, durability, and a clear word about damage.

use std::{path::Path, sync::Arc, time::Duration};

use openraft::{
    EntryPayload,
    storage::{IOFlushed, RaftLogReader as _, RaftLogStorage as _, RaftLogStorageExt as _},
    type_config::TypeConfigExt as _,
};
use prometheus::Registry;

use super::{create, log_id as id, log_metrics, metrics};
use crate::{
    raft::{
        LogMetrics, keys,
        log_disk::BUFFER_BYTES,
        log_store::{LogDatabase, LogStore},
        types::{Entry, Types, Vote},
    },
    telemetry::names,
};

fn entry(index: u64, session: &str) -> Entry {
    let command = create(&[(&index.to_string(), session)]);
    Entry {
        log_id: id(index),
        payload: EntryPayload::Normal(command),
    }
}

fn entries(indexes: std::ops::Range<u64>) -> Vec<Entry> {
    indexes.map(|index| entry(index, "session")).collect()
}

fn log(path: &Path) -> (Arc<LogDatabase>, LogStore) {
    let log = LogDatabase::open(path, BUFFER_BYTES, log_metrics()).unwrap();
    let store = log.group(0, Arc::new(metrics())).unwrap();
    (log, store)
}

async fn indexes(store: &mut LogStore) -> Vec<u64> {
    let entries = store.try_get_log_entries(0..).await.unwrap();
    entries.iter().map(|entry| entry.log_id.index).collect()
}

#[tokio::test]
async fn what_is_appended_is_readable_before_it_is_durable() {
    let home = tempfile::tempdir().unwrap();
    let (_log, mut store) = log(home.path());
    for index in 0..100 {
        store
            .append([entry(index, "session")], IOFlushed::noop())
            .await
            .unwrap();
        let read = store.try_get_log_entries(index..index + 1).await.unwrap();
        assert_eq!(read, [entry(index, "session")]);
    }
}

#[tokio::test]
async fn a_vote_is_saved_behind_pending_appends() {
    let home = tempfile::tempdir().unwrap();
    let (_log, mut store) = log(home.path());
    let mut durable = Vec::new();
    for index in 0..100 {
        let (tx, rx) = Types::oneshot();
        store
            .append([entry(index, "session")], IOFlushed::signal(tx))
            .await
            .unwrap();
        durable.push(rx);
    }
    store.save_vote(&Vote::new(2, 1)).await.unwrap();
    for mut rx in durable {
        rx.try_recv()
            .expect("the append is durable before the vote")
            .unwrap();
    }
    assert_eq!(store.read_vote().await.unwrap(), Some(Vote::new(2, 1)));
}

#[tokio::test]
async fn a_truncation_and_a_purge_are_written_behind_pending_appends() {
    let home = tempfile::tempdir().unwrap();
    let (log_database, mut store) = log(home.path());
    for index in 0..50 {
        store
            .append([entry(index, "old")], IOFlushed::noop())
            .await
            .unwrap();
    }
    store.truncate_after(Some(id(9))).await.unwrap();
    store
        .append([entry(10, "new")], IOFlushed::noop())
        .await
        .unwrap();
    store.purge(id(4)).await.unwrap();
    assert_eq!(indexes(&mut store).await, [5, 6, 7, 8, 9, 10]);
    log_database.close().unwrap();

    let (_log, mut store) = log(home.path());
    assert_eq!(indexes(&mut store).await, [5, 6, 7, 8, 9, 10]);
    let last = store.try_get_log_entries(10..11).await.unwrap();
    assert_eq!(
        last,
        [entry(10, "new")],
        "the append behind the truncation survives it"
    );
    let state = store.get_log_state().await.unwrap();
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (Some(id(4)), Some(id(10)))
    );
}

#[tokio::test]
async fn a_purge_behind_pending_appends_leaves_none_of_them_on_disk() {
    let home = tempfile::tempdir().unwrap();
    let (log_database, mut store) = log(home.path());
    for index in 0..500 {
        let entry = entry(index, "session");
        store.append([entry], IOFlushed::noop()).await.unwrap();
    }
    store.purge(id(499)).await.unwrap();
    log_database.close().unwrap();
    let db = rocksdb::DB::open_default(home.path()).unwrap();
    let from = rocksdb::IteratorMode::Start;
    let left: Vec<_> = db
        .iterator(from)
        .filter_map(|pair| keys::parse_entry(&pair.unwrap().0))
        .collect();
    assert_eq!(left, []);
}

#[tokio::test]
async fn what_is_committed_is_remembered_and_never_syncs() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::new();
    let log_metrics = LogMetrics::register(&registry).unwrap();
    let log_database = LogDatabase::open(home.path(), BUFFER_BYTES, log_metrics).unwrap();
    let mut store = log_database.group(0, Arc::new(metrics())).unwrap();
    store.blocking_append(entries(0..10)).await.unwrap();
    for index in 0..10 {
        store.save_committed(Some(id(index))).await.unwrap();
    }
    assert_eq!(store.read_committed().await.unwrap(), Some(id(9)));
    log_database.close().unwrap();
    let syncs = registry
        .gather()
        .into_iter()
        .find(|family| family.name() == names::RAFT_LOG_SYNC_SECONDS)
        .unwrap();
    let syncs = syncs.get_metric()[0].get_histogram().get_sample_count();
    assert_eq!(syncs, 1, "the append's own");
    let (_log, mut store) = log(home.path());
    assert_eq!(store.read_committed().await.unwrap(), Some(id(9)));
}

#[tokio::test]
async fn groups_share_one_database_and_one_writer_and_never_see_each_other() {
    let home = tempfile::tempdir().unwrap();
    let (log_database, mut first) = log(home.path());
    let mut second = log_database.group(1, Arc::new(metrics())).unwrap();
    first.blocking_append(entries(0..5)).await.unwrap();
    second.blocking_append(entries(0..3)).await.unwrap();
    first.save_vote(&Vote::new(7, 1)).await.unwrap();
    second.purge(id(1)).await.unwrap();
    first.truncate_after(Some(id(3))).await.unwrap();
    log_database.close().unwrap();

    let (log_database, mut first) = log(home.path());
    let mut second = log_database.group(1, Arc::new(metrics())).unwrap();
    assert_eq!(indexes(&mut first).await, [0, 1, 2, 3]);
    assert_eq!(indexes(&mut second).await, [2]);
    assert_eq!(first.read_vote().await.unwrap(), Some(Vote::new(7, 1)));
    assert_eq!(second.read_vote().await.unwrap(), None);
}

#[tokio::test]
async fn entries_that_have_left_memory_are_read_from_disk() {
    let home = tempfile::tempdir().unwrap();
    let (_log, mut store) = log(home.path());
    let large = "x".repeat(1 << 20);
    // More than memory keeps.
    for index in 0..50 {
        store.blocking_append([entry(index, &large)]).await.unwrap();
    }
    assert_eq!(indexes(&mut store).await, (0..50).collect::<Vec<_>>());
    let piece = store.limited_get_log_entries(0, 50).await.unwrap();
    assert!(
        (1..4).contains(&piece.len()),
        "{} entries of 1 MiB at once",
        piece.len()
    );
    assert_eq!(piece[0], entry(0, &large));
}

#[tokio::test]
async fn a_damaged_entry_is_named_with_its_database_group_and_index() {
    let home = tempfile::tempdir().unwrap();
    let (log_database, mut store) = log(home.path());
    store.blocking_append(entries(0..5)).await.unwrap();
    log_database.close().unwrap();
    bend(home.path(), 2);

    let (log_database, mut store) = log(home.path());
    let error = store
        .try_get_log_entries(0..5)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("group 0 at index 2"), "{error}");
    assert!(
        error.contains(&home.path().display().to_string()),
        "{error}"
    );
    assert!(error.contains("checksum"), "{error}");
    assert!(error.contains("restore the data directory"), "{error}");
    log_database.close().unwrap();

    bend(home.path(), 4);
    let log_database = LogDatabase::open(home.path(), BUFFER_BYTES, log_metrics()).unwrap();
    let error = log_database
        .group(0, Arc::new(metrics()))
        .err()
        .expect("the last entry is read at once")
        .to_string();
    assert!(error.contains("group 0 at index 4"), "{error}");
}

#[tokio::test]
async fn a_missing_entry_is_an_error_and_never_skipped() {
    let home = tempfile::tempdir().unwrap();
    let (log_database, mut store) = log(home.path());
    store.blocking_append(entries(0..5)).await.unwrap();
    log_database.close().unwrap();
    let db = rocksdb::DB::open_default(home.path()).unwrap();
    db.delete(keys::entry(0, 2)).unwrap();
    drop(db);
    let (_log, mut store) = log(home.path());
    let error = store
        .try_get_log_entries(0..5)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("group 0 at index 2 is missing"), "{error}");
}

/// The write-ahead log of the database, which holds all that is not old.
fn write_ahead_log(home: &Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(home)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|kind| kind == "log"));
    logs.max_by_key(|path| path.metadata().unwrap().len())
        .unwrap()
}

#[tokio::test]
async fn a_torn_end_of_the_log_is_let_go_and_damage_before_it_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let (log_database, mut store) = log(home.path());
    for index in 0..10 {
        store
            .blocking_append([entry(index, "session")])
            .await
            .unwrap();
    }
    log_database.close().unwrap();
    let path = write_ahead_log(home.path());
    let whole = std::fs::read(&path).unwrap();
    let written = whole.iter().rposition(|&byte| byte != 0).unwrap() + 1;

    let mut damaged = whole[..written].to_vec();
    damaged[written / 2] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let error = LogDatabase::open(home.path(), BUFFER_BYTES, log_metrics())
        .err()
        .expect("the middle is damaged");
    let error = error.to_string();
    assert!(
        error.contains(&home.path().display().to_string()),
        "{error}"
    );

    std::fs::write(&path, &whole[..written - 3]).unwrap();
    let (_log, mut store) = log(home.path());
    assert_eq!(indexes(&mut store).await, (0..9).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_closed_log_refuses_and_answers() {
    let home = tempfile::tempdir().unwrap();
    let (log_database, mut store) = log(home.path());
    log_database.close().unwrap();
    let vote = Vote::new(1, 1);
    let answered = tokio::time::timeout(Duration::from_secs(5), store.save_vote(&vote)).await;
    assert!(answered.expect("it is answered").is_err());
    assert!(
        store
            .append(entries(0..1), IOFlushed::noop())
            .await
            .is_err()
    );
}

/// Flips one bit of a stored entry.
fn bend(path: &Path, index: u64) {
    let db = rocksdb::DB::open_default(path).unwrap();
    let key = keys::entry(0, index);
    let mut value = db.get(key).unwrap().unwrap();
    let middle = value.len() / 2;
    value[middle] ^= 1;
    db.put(key, value).unwrap();
}
