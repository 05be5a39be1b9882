//! The shipped policy for etcd against a real etcd: single puts leave as
//! transactions, and each client hears what etcd would have told it.

use std::{net::SocketAddr, process::Stdio};

use bytes::Bytes;
use futures_util::future::join_all;
use prost::Message;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};
use tonic::Code;

use crate::{
    python_client::python,
    support::{
        admin,
        client::{Line, frame, grpc, with},
        etcd::{AUTHENTICATE, Authenticate, Authenticated, Etcd, PUT, Put, ok, put},
        soon,
    },
};

/// Concurrent puts over a few connections; every one must succeed.
async fn put_all(address: SocketAddr, puts: &[Put]) -> Vec<i64> {
    let lines = join_all((0..4).map(|_| Line::open(address))).await;
    let calls = puts
        .iter()
        .enumerate()
        .map(|(n, one)| put(&lines[n % lines.len()], one));
    let replies = join_all(calls).await;
    let revision = |reply: Result<_, tonic::Status>| {
        let reply: crate::support::etcd::PutReply = reply.expect("a put succeeds");
        let header = reply.header.expect("a header");
        assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0);
        header.revision
    };
    replies.into_iter().map(revision).collect()
}

#[tokio::test]
async fn puts_leave_as_transactions_and_each_is_answered_as_etcd_answers() {
    let etcd = Etcd::start().await;
    let sidecar = etcd.sidecar().await;
    let puts: Vec<Put> = (0..400)
        .map(|n| Put::of(&format!("key-{n}"), &format!("value-{n}")))
        .collect();
    let mut revisions = put_all(sidecar.address, &puts).await;
    let line = Line::open(etcd.address).await;
    let straight = put(&line, &Put::of("straight", "1"))
        .await
        .expect("it is etcd's own");
    let through = Line::open(sidecar.address).await;
    let again = put(&through, &Put::of("through", "1"))
        .await
        .expect("a put succeeds");
    let (straight, again) = (
        straight.header.expect("a header"),
        again.header.expect("a header"),
    );
    assert_eq!(
        (again.cluster_id, again.member_id, again.raft_term),
        (straight.cluster_id, straight.member_id, straight.raft_term)
    );
    assert_eq!(again.revision, straight.revision + 1);
    for (n, revision) in revisions.iter().enumerate() {
        let kept = etcd
            .read(&line, &format!("key-{n}"))
            .await
            .expect("it was acknowledged");
        assert_eq!(kept.value, format!("value-{n}"));
        assert_eq!(
            kept.mod_revision, *revision,
            "each hears the revision of its own put"
        );
    }
    revisions.sort_unstable();
    revisions.dedup();
    assert!(
        revisions.len() < 400,
        "no two of 400 puts shared a transaction"
    );
}

#[tokio::test]
async fn two_puts_of_one_key_never_share_a_transaction_and_both_are_made() {
    let etcd = Etcd::start().await;
    let sidecar = etcd.sidecar().await;
    let puts: Vec<Put> = (0..200)
        .map(|n| match n % 2 {
            0 => Put::of("busy", &n.to_string()),
            _ => Put::of(&format!("key-{n}"), "v"),
        })
        .collect();
    put_all(sidecar.address, &puts).await;
    let line = Line::open(etcd.address).await;
    let busy = etcd.read(&line, "busy").await.expect("it was acknowledged");
    assert_eq!(busy.version, 100, "every put of the key made a version");
}

#[tokio::test]
async fn what_could_fail_a_transaction_goes_alone_and_hears_etcds_own_words() {
    let etcd = Etcd::start().await;
    let sidecar = etcd.sidecar().await;
    let lines = (
        Line::open(etcd.address).await,
        Line::open(sidecar.address).await,
    );
    let refused = [
        Put {
            key: Bytes::new(),
            ..Put::of("", "v")
        },
        Put {
            lease: 4711,
            ..Put::of("a", "v")
        },
        Put {
            ignore_value: true,
            ..Put::of("missing", "")
        },
        Put {
            ignore_lease: true,
            ..Put::of("missing", "v")
        },
        Put {
            ignore_value: true,
            ..Put::of("missing", "v")
        },
    ];
    for one in &refused {
        let fine: Vec<Put> = (0..20)
            .map(|n| Put::of(&format!("fine-{n}"), "v"))
            .collect();
        let (told, _) = tokio::join!(put(&lines.1, one), put_all(sidecar.address, &fine));
        let told = told.expect_err("etcd refuses it");
        let straight = put(&lines.0, one).await.expect_err("etcd refuses it");
        assert_eq!(
            (told.code(), told.message()),
            (straight.code(), straight.message())
        );
    }
    put(&lines.1, &Put::of("old", "before"))
        .await
        .expect("a put succeeds");
    let wants = Put {
        prev_kv: true,
        ..Put::of("old", "after")
    };
    let reply = put(&lines.1, &wants).await.expect("a put succeeds");
    assert_eq!(reply.prev_kv.expect("the old value").value, "before");
    let name = "ferry_entries_alone_total";
    let alone = admin::metric(sidecar.admin, name, "unbatchable_if").await;
    assert_eq!(alone, 6.0, "each is counted with its reason");
}

#[tokio::test]
async fn more_than_a_transaction_takes_is_several_and_what_is_too_large_hears_so_alone() {
    let etcd = Etcd::start().await;
    let sidecar = etcd.sidecar().await;
    let (large, huge) = ("x".repeat(1_200_000), "x".repeat(1_600_000));
    let mut puts: Vec<Put> = (0..300)
        .map(|n| Put::of(&format!("key-{n}"), &"v".repeat(20_000)))
        .collect();
    puts.push(Put::of("large", &large));
    let line = Line::open(sidecar.address).await;
    let too_large = Put::of("huge", &huge);
    let (told, _) = tokio::join!(put(&line, &too_large), put_all(sidecar.address, &puts));
    let told = told.expect_err("etcd takes 1.5 MiB");
    assert_eq!(told.code(), Code::InvalidArgument);
    assert_eq!(told.message(), "etcdserver: request is too large");
    let straight = Line::open(etcd.address).await;
    let kept = etcd
        .read(&straight, "large")
        .await
        .expect("it was acknowledged");
    assert_eq!(kept.value.len(), large.len());
    let batches = admin::metric(sidecar.admin, "ferry_batches_total", "").await;
    assert!(
        batches >= 7.0,
        "6 MB do not fit into fewer transactions: {batches}"
    );
}

/// A user's token, asked of etcd through the sidecar.
async fn token(line: &Line, name: &str) -> String {
    let asked = Authenticate {
        name: name.into(),
        password: "secret".into(),
    };
    let answer = line.ask(grpc(AUTHENTICATE), frame(&asked)).await;
    let reply = Authenticated::decode(ok(&answer)).expect("an authentication's reply");
    reply.token
}

#[tokio::test]
async fn a_put_without_permission_is_refused_alone_and_the_others_are_made() {
    let etcd = Etcd::start().await;
    let sidecar = etcd.sidecar().await;
    for command in [
        "user add root:secret",
        "role add writer",
        "role grant-permission writer --prefix=true write mine/",
        "user add alice:secret",
        "user grant-role alice writer",
        "auth enable",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        etcdctl(etcd.address, &words, "").await;
    }
    let line = Line::open(sidecar.address).await;
    let alice = token(&line, "alice").await;
    let answers = join_all((0..60).map(async |n| {
        let key = match n {
            17 => "theirs/17".to_owned(),
            n => format!("mine/{n}"),
        };
        let request = with(PUT, &[("token", &alice)]);
        line.ask(request, frame(&Put::of(&key, "v"))).await.status()
    }))
    .await;
    for (n, status) in answers.iter().enumerate() {
        match n {
            17 => assert_eq!(status.code(), Code::PermissionDenied, "{status}"),
            _ => assert_eq!(status.code(), Code::Ok, "{n}: {status}"),
        }
    }
}

/// Runs etcdctl against the sidecar; answers what it printed.
async fn etcdctl(address: SocketAddr, arguments: &[&str], input: &str) -> String {
    let mut process = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &address.to_string()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("etcdctl is not installed: run `make test`, which sees to that");
    let mut stdin = process.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).await.expect("it reads");
    drop(stdin);
    let ended = soon("etcdctl ends", process.wait_with_output()).await;
    let ended = ended.expect("it can be waited for");
    let (said, complained) = (
        String::from_utf8_lossy(&ended.stdout).into_owned(),
        String::from_utf8_lossy(&ended.stderr),
    );
    assert!(
        ended.status.success(),
        "etcdctl {arguments:?}: {said}{complained}"
    );
    said
}

#[tokio::test]
async fn etcdctl_puts_gets_and_transacts_through_ferry_unaware() {
    let etcd = Etcd::start().await;
    let sidecar = etcd.sidecar().await;
    let at = sidecar.address;
    assert_eq!(etcdctl(at, &["put", "a", "1"], "").await, "OK\n");
    assert_eq!(etcdctl(at, &["get", "a"], "").await, "a\n1\n");
    let previous = etcdctl(at, &["put", "--prev-kv", "a", "2"], "").await;
    assert_eq!(previous, "OK\na\n1\n");
    let txn = "value(\"a\") = \"2\"\n\nput b 3\nput c 4\n\nput d 5\n\n";
    assert_eq!(etcdctl(at, &["txn"], txn).await, "SUCCESS\n\nOK\n\nOK\n");
    assert_eq!(
        etcdctl(at, &["get", "--prefix", ""], "").await,
        "a\n2\nb\n3\nc\n4\nready\nyes\n"
    );
    let granted = etcdctl(at, &["lease", "grant", "60"], "").await;
    let lease = granted
        .split_whitespace()
        .nth(1)
        .expect("lease ID granted")
        .to_owned();
    assert_eq!(
        etcdctl(at, &["put", "--lease", &lease, "e", "6"], "").await,
        "OK\n"
    );
    let alive = etcdctl(at, &["lease", "keep-alive", "--once", &lease], "").await;
    assert!(alive.contains("keepalived"), "{alive}");
    etcdctl(at, &["lease", "revoke", &lease], "").await;
    assert_eq!(etcdctl(at, &["get", "e"], "").await, "");
    let batched = admin::metric(sidecar.admin, "ferry_batches_total", "").await;
    assert_eq!(
        batched, 1.0,
        "one put of etcdctl's has nothing that keeps it alone"
    );
}

#[tokio::test]
async fn etcdctl_watches_puts_through_ferry_unaware() {
    let etcd = Etcd::start().await;
    let sidecar = etcd.sidecar().await;
    let mut watch = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &sidecar.address.to_string()])
        .args(["watch", "--prefix", "w", "--rev", "1"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("etcdctl is not installed: run `make test`, which sees to that");
    let mut told = BufReader::new(watch.stdout.take().expect("it is piped")).lines();
    let puts: Vec<Put> = (0..50).map(|n| Put::of(&format!("w{n}"), "v")).collect();
    put_all(sidecar.address, &puts).await;
    let mut keys = std::collections::BTreeSet::new();
    while keys.len() < 50 {
        let line = soon("the watch tells of a put", told.next_line()).await;
        let line = line.expect("it prints text").expect("it goes on");
        if line.starts_with('w') {
            keys.insert(line);
        }
    }
}

/// Takes a minute, since the check does: `make test-etcd`.
#[tokio::test]
#[ignore = "etcdctl's check takes a minute: make test-etcd"]
async fn etcdctl_finds_etcds_performance_in_order_through_ferry() {
    let etcd = Etcd::start().await;
    let sidecar = etcd.sidecar().await;
    let arguments = [
        "--endpoints",
        &sidecar.address.to_string(),
        "check",
        "perf",
        "--load",
        "s",
    ];
    let checked = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("etcdctl is installed");
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(
        checked.status.success() && said.contains("PASS: Throughput"),
        "{said}"
    );
    let batched = admin::metric(sidecar.admin, "ferry_batch_entries_sum", "").await;
    assert!(
        batched > 1_000.0,
        "its puts went past the windows: {batched}"
    );
}

#[tokio::test]
async fn a_python_client_of_etcd_works_through_ferry_unaware() {
    let etcd = Etcd::start().await;
    let sidecar = etcd.sidecar().await;
    let (host, port) = (
        sidecar.address.ip().to_string(),
        sidecar.address.port().to_string(),
    );
    let said = python(
        "tests/python/etcd_client.py",
        &["--host", &host, "--port", &port],
    )
    .await;
    assert!(
        said.starts_with("500 put"),
        "the client did something else: {said}"
    );
    let batches = admin::metric(sidecar.admin, "ferry_batches_total", "").await;
    assert!(
        batches < 500.0,
        "no two of its puts shared a transaction: {batches}"
    );
}
