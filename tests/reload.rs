//! A policy that changes while calls are under way: all or nothing, nothing
//! lost, and whoever was let in is served by the rules it was let in under.

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use ferry::{accept::frame::framed, policy::Cause};
use tempfile::TempDir;
use tonic::Code;

use crate::{
    process::Sidecar,
    support::{
        admin,
        client::{CREATE, Line, grpc, messages, more, old_form},
        served::{ANY, Served, one_at_a_time, policy_file},
        until,
        upstream::Upstream,
    },
};

/// Reloads of one test, every other one broken.
const RELOADS: u64 = 100;
/// Callers that never stop calling meanwhile.
const CALLERS: u64 = 32;

/// A policy file of a test's own.
struct PolicyFile {
    home: TempDir,
    upstream: SocketAddr,
}

impl PolicyFile {
    fn new(upstream: SocketAddr) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let file = Self { home, upstream };
        file.write(&file.with_window("max_entries: 500"));
        file
    }

    fn path(&self) -> PathBuf {
        self.home.path().join("policy.yaml")
    }

    fn with_window(&self, window: &str) -> String {
        let file = policy_file(ANY, ANY, &one_at_a_time(self.upstream));
        format!("{file}    window: {{{window}}}\n")
    }

    fn write(&self, yaml: &str) {
        fs::write(self.path(), yaml).expect("the temporary directory is writable");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reloads_under_load_lose_nothing_and_send_and_answer_nothing_twice() {
    let upstream = Upstream::answering().await;
    let file = PolicyFile::new(upstream.address);
    let served = Served::of_file(&file.path()).await;
    let (stop, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (stop, answered, address) =
                (Arc::clone(&stop), Arc::clone(&answered), served.address());
            tokio::spawn(async move {
                let line = Line::open(address).await;
                let mut created = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let client_id = format!("{caller}-{}", created.len());
                    line.create(&client_id, b"session").await;
                    created.push(client_id);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                created
            })
        })
        .collect();

    for round in 0..RELOADS {
        let moved = file.with_window("max_entries: 7");
        let broken = round % 2 == 1;
        file.write(&match round % 8 {
            1 => "version: 1\nlisten: [".to_owned(),
            3 => file.with_window("max_entires: 5"),
            5 => moved.replacen("127.0.0.1:0", "127.0.0.1:1", 1),
            7 => String::new(),
            _ => file.with_window(&format!("max_entries: {}", round + 1)),
        });
        let before = answered.load(Ordering::Relaxed);
        let reload = served.stack.reload(Cause::Request).await;
        let reload = reload.expect("a sidecar has a policy");
        assert_eq!(reload.accepted, !broken, "{round}: {:?}", reload.faults);
        assert_eq!(reload.faults.is_empty(), !broken);
        until("calls go on after the reload", async || {
            answered.load(Ordering::Relaxed) > before
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);

    // `create` has seen exactly one answer, OK, a call.
    let mut created = Vec::new();
    for caller in callers {
        created.extend(caller.await.expect("every call is answered, and well"));
    }
    let mut sent: HashMap<String, u32> = HashMap::new();
    for client_id in upstream.batches().into_iter().flat_map(|seen| seen.clients) {
        *sent.entry(client_id).or_default() += 1;
    }
    assert_eq!(sent.len(), created.len());
    assert!(created.iter().all(|client_id| sent[client_id] == 1));
    for result in ["accepted", "refused"] {
        let label = format!("result=\"{result}\"");
        let counted = admin::metric(served.admin(), "ferry_policy_reloads_total", &label).await;
        assert_eq!(counted, 50.0, "{result}");
    }
}

#[tokio::test]
async fn a_batch_keeps_the_policy_that_it_was_opened_with() {
    let upstream = Upstream::holding().await;
    let file = PolicyFile::new(upstream.address);
    let served = Served::of_file(&file.path()).await;
    let line = served.line().await;
    let send = async |client_id: &str| {
        line.send(grpc(CREATE), old_form(client_id, b"session"))
            .await
    };
    let mut calls = vec![send("out").await];
    upstream.until_batches(1).await;
    for client_id in ["a", "b", "c"] {
        calls.push(send(client_id).await);
    }
    served.until_queued(3).await;

    file.write(&file.with_window("max_entries: 1"));
    let reload = served.stack.reload(Cause::Request).await;
    assert!(reload.expect("a sidecar has a policy").accepted);
    for client_id in ["d", "e"] {
        calls.push(send(client_id).await);
    }
    served.until_queued(5).await;
    assert_eq!(
        upstream.batches().len(),
        1,
        "both policies go by one and the same limit"
    );
    upstream.answer_all();
    for call in calls {
        let answer = call.answer().await.expect("an answer, not a reset");
        assert_eq!(answer.status().code(), Code::Ok);
    }
    let mut batches: Vec<_> = upstream.batches().into_iter().map(|b| b.clients).collect();
    batches.sort();
    let expected = [vec!["a", "b", "c"], vec!["d"], vec!["e"], vec!["out"]];
    assert_eq!(batches, expected);
}

#[tokio::test]
async fn what_cannot_change_at_run_time_is_refused_by_its_key_and_all_else_stays() {
    let upstream = Upstream::answering().await;
    let file = PolicyFile::new(upstream.address);
    let served = Served::of_file(&file.path()).await;
    let yaml = file.with_window("max_entries: 1");
    for (key, changed) in [
        ("listen: ", yaml.replacen("127.0.0.1:0", "127.0.0.1:1", 1)),
        (
            "admin: ",
            yaml.replace("admin: {address: 127.0.0.1:0}", "admin: off"),
        ),
        (
            "upstream: embedded",
            yaml.replace(
                &format!("endpoints: [http://{}]", upstream.address),
                "embedded: {}",
            ),
        ),
    ] {
        file.write(&changed);
        let (code, told) = admin::post(served.admin(), "/reload", "").await;
        assert_eq!(code, 422, "{key}: {told}");
        assert!(
            told.contains(key) && told.contains("cannot change"),
            "{told}"
        );
    }
    served.line().await.create("x", b"session").await;
}

#[tokio::test]
async fn a_broken_file_is_told_with_its_place_and_the_old_policy_goes_on() {
    let upstream = Upstream::answering().await;
    let file = PolicyFile::new(upstream.address);
    let served = Served::of_file(&file.path()).await;
    file.write(&file.with_window("max_entires: 5"));
    let (code, told) = admin::post(served.admin(), "/reload", "").await;
    assert_eq!(code, 422);
    assert!(told.contains("did you mean max_entries?"), "{told}");
    let (code, page) = admin::fetch(served.admin(), "/policy")
        .await
        .expect("it answers");
    assert_eq!(code, 200);
    let page: serde_json::Value = serde_json::from_str(&page).expect("JSON");
    assert_eq!(page["reloads"][0]["accepted"], false);
    assert_eq!(page["reloads"][0]["cause"], "request");
    let policy = page["policy"].as_str().expect("the policy in words");
    assert!(policy.contains("at most 500 entries"), "{policy}");
    served.line().await.create("x", b"session").await;

    file.write(&file.with_window("max_entries: 5"));
    assert_eq!(admin::post(served.admin(), "/reload", "").await.0, 200);
}

#[tokio::test]
async fn a_dialogue_outlives_the_policies_that_come_after_its_own() {
    let upstream = Upstream::answering().await;
    let file = PolicyFile::new(upstream.address);
    let served = Served::of_file(&file.path()).await;
    let line = served.line().await;
    let mut dialogue = line.begin(grpc("/test.Streams/Echo")).await;
    let (_, mut heard) = dialogue.head().await.expect("it is answered");
    for entries in ["1", "2", "3"] {
        file.write(&file.with_window(&format!("max_entries: {entries}")));
        assert_eq!(admin::post(served.admin(), "/reload", "").await.0, 200);
        dialogue.write(framed(entries.as_bytes()), false);
        let said = more(&mut heard).await.expect("no reset");
        assert_eq!(messages(said.expect("it goes on")), [entries]);
    }
}

#[tokio::test]
async fn a_policy_that_names_a_file_which_comes_later_is_in_force_once_it_is_there() {
    let upstream = Upstream::answering().await;
    let file = PolicyFile::new(upstream.address);
    let served = Served::of_file(&file.path()).await;
    let yaml = file.with_window("max_entries: 5");
    let admin = "admin: {address: 127.0.0.1:0";
    assert!(yaml.contains(admin), "{yaml}");
    file.write(&yaml.replacen(admin, &format!("{admin}, token_file: late.token"), 1));
    until("it is refused", async || {
        let label = "result=\"refused\"";
        admin::metric(served.admin(), "ferry_policy_reloads_total", label).await >= 1.0
    })
    .await;
    fs::write(file.home.path().join("late.token"), "x".repeat(40)).expect("writable");
    until_accepted(served.admin(), 1.0).await;
    let page = admin::fetch(served.admin(), "/policy").await;
    let (_, page) = page.expect("it answers");
    let page: serde_json::Value = serde_json::from_str(&page).expect("JSON");
    let told = page["reloads"].as_array().expect("a list");
    let told: Vec<_> = told.iter().map(|reload| &reload["accepted"]).collect();
    assert_eq!(told, [false, true], "the same refusal is told once");
}

async fn until_accepted(admin: SocketAddr, reloads: f64) {
    until("the policy is reloaded", async || {
        let label = "result=\"accepted\"";
        admin::metric(admin, "ferry_policy_reloads_total", label).await >= reloads
    })
    .await;
}

/// One revision of a mounted ConfigMap, under its own folder.
fn revision(mount: &Path, name: &str, yaml: &str) {
    fs::create_dir(mount.join(name)).expect("it is not there");
    fs::write(mount.join(name).join("policy.yaml"), yaml).expect("it can be written");
    symlink(name, mount.join("..next")).expect("it was renamed");
    fs::rename(mount.join("..next"), mount.join("..data")).expect("both are links");
}

#[tokio::test]
async fn a_file_that_changes_is_reloaded_also_by_kubernetes_swap_of_a_folder() {
    let upstream = Upstream::answering().await;
    let file = PolicyFile::new(upstream.address);
    let mount = file.home.path().join("mount");
    fs::create_dir(&mount).expect("it is not there");
    revision(&mount, "..1", &file.with_window("max_entries: 5"));
    let path = mount.join("policy.yaml");
    symlink("..data/policy.yaml", &path).expect("it is not there");
    let served = Served::of_file(&path).await;
    revision(&mount, "..2", &file.with_window("max_entries: 6"));
    until_accepted(served.admin(), 1.0).await;
    fs::write(&path, file.with_window("max_entries: 77")).expect("it can be written");
    until_accepted(served.admin(), 2.0).await;
    let (_, page) = admin::fetch(served.admin(), "/policy")
        .await
        .expect("it answers");
    assert!(page.contains("at most 77 entries"), "{page}");
}

#[tokio::test]
async fn the_process_reloads_at_sighup_and_does_what_its_admin_address_asks() {
    let sidecar = Sidecar::start().await;
    sidecar.hang_up().await;
    until_accepted(sidecar.admin, 1.0).await;
    let level = admin::post(sidecar.admin, "/log-level", "warn,ferry=debug").await;
    assert_eq!(level, (200, "logging warn,ferry=debug\n".to_owned()));
    let (code, told) = admin::post(sidecar.admin, "/log-level", "debgu").await;
    assert!(code == 422 && told.contains("info, debug"), "{told}");
    let (code, told) = admin::post(sidecar.admin, "/log-level", "loud=very").await;
    assert_eq!(code, 422, "{told}");
    assert_eq!(
        admin::fetch(sidecar.admin, "/drain").await.expect("405").0,
        405
    );
    assert_eq!(admin::post(sidecar.admin, "/drain", "").await.0, 200);
    let (status, _home) = sidecar.ended().await;
    assert_eq!(status.code(), Some(0));
}
