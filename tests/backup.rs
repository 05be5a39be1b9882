//! Backups as an operator makes them: with the built binary, from processes
//! that run and from directories of some that do not.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use tempfile::TempDir;
use tokio::process::Command;
use tonic::Code;

use crate::{
    process::Sidecar,
    support::{
        client::{CREATE, Line, grpc, old_form},
        load::Loading,
        nodes::{Nodes, member_at},
        served, soon, until,
    },
};

const NODES: [u64; 3] = [1, 2, 3];

/// A sidecar's policy over two groups.
fn policy() -> String {
    let any = ([127, 0, 0, 1], 0).into();
    served::policy_file(any, any, "  embedded: {data_dir: ferry-data, groups: 2}")
}

fn new_home() -> TempDir {
    tempfile::tempdir().expect("a temporary directory can be made")
}

/// `ferry snapshot` with these arguments.
async fn snapshot<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Output {
    let run = Command::new(env!("CARGO_BIN_EXE_ferry"))
        .arg("snapshot")
        .args(arguments)
        .env("FERRY_LOG", "error")
        .stdin(Stdio::null())
        .output();
    soon("ferry snapshot ends", run)
        .await
        .expect("cargo built the binary")
}

async fn save(place: [&str; 2], to: &Path) -> Output {
    snapshot(["save", place[0], place[1], "--to", text(to)]).await
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

#[track_caller]
fn done(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert_eq!(told.trim_end().lines().count(), 1, "{told}");
    for word in words {
        assert!(told.contains(word), "{word:?} is not in: {told}");
    }
}

/// A sidecar with sessions `kept-0` to `kept-199`, and a backup of it that was
/// made while it was loaded.
async fn saved_under_load(home: &TempDir) -> (Sidecar, PathBuf) {
    let sidecar = Sidecar::with_policy(&policy()).await;
    let loading = Loading::start(sidecar.address, "load-");
    let line = Line::open(sidecar.address).await;
    let creates = (0..200).map(|n| {
        let line = &line;
        async move { line.create(&kept(n).0, &kept(n).1).await }
    });
    futures_util::future::join_all(creates).await;
    let before = loading.acknowledged();
    loading.until_acknowledged(before + 500).await;
    let to = home.path().join("backup");
    let told = done(&save(["--admin", &sidecar.admin.to_string()], &to).await);
    assert!(told.contains("records of 2 groups"), "{told}");
    assert!(told.contains(text(&to)), "{told}");
    loading.stop();
    (sidecar, to)
}

/// A session that is written before the save: its id, and what it is.
fn kept(n: u32) -> (String, Vec<u8>) {
    let seed = n.to_string().into_bytes();
    (format!("kept-{n}"), seed.repeat(40))
}

#[tokio::test]
async fn a_backup_made_under_load_has_every_session_acknowledged_before_it_byte_for_byte() {
    let home = new_home();
    let (sidecar, backup) = saved_under_load(&home).await;
    drop(sidecar.kill().await);
    let anew = new_home();
    let into = anew.path().join("ferry-data");
    let restored = [
        "restore",
        "--from",
        text(&backup),
        "--data-dir",
        text(&into),
    ];
    let told = done(&snapshot(restored).await);
    assert!(told.contains(text(&into)), "{told}");
    let sidecar = Sidecar::with_policy_again(anew, &policy()).await;
    let line = Line::open(sidecar.address).await;
    for n in 0..200 {
        let (id, session) = kept(n);
        assert_eq!(line.list(&id).await, [session], "{id}");
    }
    // It is a beginning, not an end: it takes writes, and keeps them.
    line.create("new", b"session").await;
    let count = line.list("").await.len();
    let sidecar = Sidecar::with_policy_again(sidecar.kill().await, &policy()).await;
    let line = Line::open(sidecar.address).await;
    assert_eq!(line.list("new").await, ["session"]);
    assert_eq!(line.list("").await.len(), count);
}

#[tokio::test]
async fn a_backup_is_never_written_over_and_a_damaged_one_is_refused_by_its_name() {
    let home = new_home();
    let (sidecar, backup) = saved_under_load(&home).await;
    let admin = sidecar.admin.to_string();
    let whole = fs::read(&backup).expect("it was saved");
    refused(
        &save(["--admin", &admin], &backup).await,
        &[text(&backup), "it exists", "choose another name"],
    );
    assert_eq!(fs::read(&backup).expect("it is there"), whole);
    let files = fs::read_dir(home.path()).expect("it is there").count();
    assert_eq!(files, 1, "nothing half made is left beside it");
    done(&snapshot(["check", text(&backup)]).await);

    let mut bent = whole.clone();
    bent[whole.len() / 2] ^= 1;
    let (damaged, into) = (home.path().join("damaged"), home.path().join("into"));
    let restore = [
        "restore",
        "--from",
        text(&damaged),
        "--data-dir",
        text(&into),
    ];
    for content in [&bent[..], &whole[..whole.len() / 2], b""] {
        fs::write(&damaged, content).expect("the temporary directory is writable");
        for run in [&restore[..], &["check", text(&damaged)]] {
            refused(&snapshot(run).await, &[text(&damaged), "is corrupt"]);
        }
        assert!(!into.exists(), "nothing was begun");
    }
}

#[tokio::test]
async fn a_stopped_sidecar_is_saved_from_its_directory_and_a_running_one_by_its_admin_address() {
    let home = new_home();
    let sidecar = Sidecar::with_policy(&policy()).await;
    Line::open(sidecar.address)
        .await
        .create("one", b"session")
        .await;
    let (data_dir, to) = (sidecar.data_dir(), home.path().join("backup"));
    let running = save(["--data-dir", text(&data_dir)], &to).await;
    refused(&running, &["in use by another process", "--admin"]);
    let restore = [
        "restore",
        "--from",
        text(&to),
        "--data-dir",
        text(&data_dir),
    ];
    // Killed: what it had acknowledged is in its log alone.
    let admin = sidecar.admin.to_string();
    let kept = sidecar.kill().await;
    let gone = save(["--admin", &admin], &to).await;
    refused(&gone, &[&admin, "nobody listens there", "--data-dir"]);
    let told = done(&save(["--data-dir", text(&data_dir)], &to).await);
    assert!(told.contains("saved 1 records of 2 groups"), "{told}");
    refused(
        &snapshot(restore).await,
        &["it is not empty", text(&data_dir)],
    );
    let nothing = kept.path().join("nothing");
    refused(
        &save(["--data-dir", text(&nothing)], &home.path().join("other")).await,
        &["nothing was ever kept in it"],
    );
}

#[tokio::test]
async fn a_node_restored_from_a_backup_begins_a_cluster_that_the_others_join() {
    let home = new_home();
    let mut nodes = Nodes::new();
    nodes.settings = "groups: 2\n".into();
    nodes.found(&NODES).await;
    let leader = nodes.leader(1).await;
    let [asked, writes] = {
        let mut others = NODES.into_iter().filter(|node| *node != leader);
        [(); 2].map(|()| others.next().expect("there are three"))
    };
    let line = nodes.line(writes).await;
    for n in 0..50 {
        let (id, session) = kept(n);
        line.create(&id, &session).await;
    }
    // A node that neither leads nor took the writes: it asks how far they are.
    let to = home.path().join("backup");
    let told = done(&save(["--admin", &nodes.admin(asked).to_string()], &to).await);
    assert!(told.contains("saved 50 records of 2 groups"), "{told}");
    line.create("after", b"session").await;
    for node in NODES {
        nodes.kill(node).await;
    }
    let member = save(
        ["--data-dir", text(&nodes.data_dir(1))],
        &home.path().join("no"),
    )
    .await;
    refused(
        &member,
        &["belongs to node 1 of cluster \"ferry\"", "admin address"],
    );

    // Node 2 begins anew, node 3 has nothing, node 1 still has what it had.
    let config = nodes.file(2);
    let restore = ["restore", "--from", text(&to), "--config", text(&config)];
    refused(&snapshot(restore).await, &["it is not empty"]);
    nodes.wipe(2);
    done(&snapshot(restore).await);
    nodes.wipe(3);
    for node in NODES {
        nodes.start(node);
    }
    nodes.until_ready(2).await;
    let line = nodes.line(2).await;
    let gate = |node| nodes.gate(node).to_string();
    refused(
        &nodes.cluster(2, &["add", &gate(1)]).await,
        &["node 1", "belongs to cluster", "empty data directory"],
    );
    until("node 3 listens for its peers", async || {
        nodes.cluster(2, &["add", &gate(3)]).await.status.success()
    })
    .await;
    Nodes::done(&nodes.cluster(2, &["promote", "3"]).await);
    nodes.until_level(&[2, 3]).await;
    let status = nodes.status(2).await;
    assert_eq!(member_at(&status, 3).as_deref(), Some("voter"));
    assert_eq!(member_at(&status, 1), None);
    for at in [&line, &nodes.line(3).await] {
        for n in 0..50 {
            let (id, session) = kept(n);
            assert_eq!(at.list(&id).await, [session], "{id}");
        }
        assert_eq!(at.list("after").await.len(), 0, "it was after the save");
    }
    line.create("anew", b"session").await;
}

#[tokio::test]
async fn what_is_left_of_a_cluster_without_a_majority_is_saved_as_stale_and_only_so() {
    let home = new_home();
    let mut nodes = Nodes::three().await;
    let line = nodes.line(1).await;
    line.create("one", b"session").await;
    nodes.until_level(&NODES).await;
    nodes.kill(2).await;
    nodes.kill(3).await;
    until("node 1 knows that nobody leads", async || {
        let body = old_form("nobody", b"session");
        line.ask(grpc(CREATE), body).await.status().code() == Code::Unavailable
    })
    .await;
    let (to, admin) = (home.path().join("backup"), nodes.admin(1).to_string());
    let asked = save(["--admin", &admin], &to).await;
    refused(&asked, &["cannot be known", "stale"]);
    assert!(!to.exists());
    let stale = ["save", "--admin", &admin, "--stale", "--to", text(&to)];
    let told = done(&snapshot(stale).await);
    assert!(told.contains("saved 1 records of 1 group"), "{told}");
}
