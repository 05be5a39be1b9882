//! Listeners of every kind, and the way to an upstream: TLS with and without
//! clients' certificates, Unix sockets, several places at once.

use std::{fs, path::Path, time::Duration};

use ferry::{accept::frame::framed, policy::Cause, telemetry::names};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};
use tonic::Code;

use crate::support::{
    admin,
    authority::Authority,
    client::{CREATE, Line, grpc, old_form},
    served::{METHODS, Served},
    soon, until,
    upstream::Upstream,
};

/// Long enough for a machine that compiles beside it, and shorter than any
/// patience that the tests give ferry.
const DRAINED_WITHIN: Duration = Duration::from_secs(20);

/// A sidecar with these listeners in front of `upstream`, both as YAML.
async fn served(listen: &str, upstream: &str) -> Served {
    let yaml =
        format!("version: 1\nlisten:\n{listen}\nadmin: off\nupstream:\n{upstream}\n{METHODS}");
    Served::by(&yaml).await
}

/// A listener with the certificate `server`, as YAML.
fn over_tls(authority: &Authority) -> String {
    let [cert, key] = ["server.pem", "server.key"].map(|name| authority.path(name));
    format!("  - address: 127.0.0.1:0\n    tls: {{cert: {cert}, key: {key}}}")
}

fn one_batch_at_a_time(upstream: &Upstream) -> String {
    crate::support::served::one_at_a_time(upstream.address)
}

#[tokio::test]
async fn calls_come_in_over_tls_over_ipv6_and_over_a_unix_socket_at_once() {
    let authority = Authority::new();
    authority.sign("server");
    let upstream = Upstream::answering().await;
    let unix = authority.path("ferry.sock");
    let listen = over_tls(&authority) + &format!("\n  - address: '[::1]:0'\n  - unix: {unix}");
    let served = served(&listen, &one_batch_at_a_time(&upstream)).await;
    authority
        .line(served.address(), None)
        .await
        .create("over-tls", b"s")
        .await;
    let v6 = served.stack.places()[1].parse().expect("an address");
    Line::open(v6).await.create("over-v6", b"s").await;
    let socket = UnixStream::connect(&unix).await.expect("it listens");
    Line::over(socket).await.create("over-unix", b"s").await;
    let clients: Vec<_> = upstream
        .batches()
        .into_iter()
        .flat_map(|b| b.clients)
        .collect();
    assert_eq!(clients, ["over-tls", "over-v6", "over-unix"]);
    served.stack.drain(std::time::Duration::from_secs(1)).await;
    assert!(!Path::new(&unix).exists(), "a socket's file goes with it");
}

/// More than a socket and TLS take at once, in both directions.
#[tokio::test]
async fn a_large_message_comes_whole_through_tls_though_nothing_follows_it() {
    let authority = Authority::new();
    authority.sign("server");
    let upstream = Upstream::answering().await;
    let listen = over_tls(&authority);
    let served = served(&listen, &one_batch_at_a_time(&upstream)).await;
    let line = authority.line(served.address(), None).await;
    for bytes in [200_000, 1_000_000, 16 << 20] {
        let body = framed(&vec![7; bytes]);
        let answer = line.ask(grpc("/test.Streams/Echo"), body.clone());
        let answer = soon("an answer", answer).await;
        assert_eq!(answer.status().code(), Code::Ok);
        assert!(answer.body == body, "{} bytes came back", answer.body.len());
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_that_is_trusted_is_refused() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for name in ["server", "client"] {
        authority.sign(name);
    }
    stranger.sign("client");
    let upstream = Upstream::answering().await;
    let served = served(&mutual(&authority), &one_batch_at_a_time(&upstream)).await;
    let line = authority.line(served.address(), Some("client")).await;
    line.create("known", b"s").await;
    for name in [None, Some("stranger")] {
        if name.is_some() {
            for kind in ["pem", "key"] {
                let from = stranger.path(&format!("client.{kind}"));
                fs::copy(from, authority.path(&format!("stranger.{kind}"))).expect("both exist");
            }
        }
        // TLS 1.3 tells a client only when it reads.
        if let Ok(socket) = authority.connect(served.address(), name).await {
            let mut socket = socket;
            let mut said = [0; 1];
            let read = soon("it is told", socket.read(&mut said)).await;
            assert!(!matches!(read, Ok(1..)), "{name:?} is served");
        }
    }
    assert_eq!(upstream.batches().len(), 1);
}

#[tokio::test]
async fn who_does_not_finish_its_tls_is_cut() {
    let authority = Authority::new();
    authority.sign("server");
    let upstream = Upstream::answering().await;
    let listen = over_tls(&authority) + "\nguards: {handshake_timeout: 50ms}";
    let served = served(&listen, &one_batch_at_a_time(&upstream)).await;
    // Nothing at all, and the head of a record that does not come.
    for said in [&b""[..], &[22, 3, 1, 2, 0]] {
        let mut socket = TcpStream::connect(served.address()).await.expect("open");
        socket.write_all(said).await.expect("open");
        let cut = soon("it is cut", socket.read(&mut [0; 64])).await;
        assert!(matches!(cut, Ok(0) | Err(_)), "{cut:?}");
    }
    let line = authority.line(served.address(), None).await;
    line.create("x", b"s").await;
}

fn mutual(authority: &Authority) -> String {
    format!(
        "  - address: 127.0.0.1:0\n    tls: {{cert: {}, key: {}, client_ca: {}}}",
        authority.path("server.pem"),
        authority.path("server.key"),
        authority.path("ca.pem"),
    )
}

#[tokio::test]
async fn clients_of_different_certificates_never_share_a_batch() {
    let authority = Authority::new();
    for name in ["server", "one", "two"] {
        authority.sign(name);
    }
    let upstream = Upstream::holding().await;
    let served = served(&mutual(&authority), &one_batch_at_a_time(&upstream)).await;
    let lines = [
        authority.line(served.address(), Some("one")).await,
        authority.line(served.address(), Some("two")).await,
    ];
    let create = async |line: &Line, id: &str| line.send(grpc(CREATE), old_form(id, b"s")).await;
    let mut calls = vec![create(&lines[0], "first").await];
    upstream.until_batches(1).await;
    for (place, line) in [0, 1, 0, 1].map(|place| (place, &lines[place])) {
        calls.push(create(line, &format!("of-{place}-{}", calls.len())).await);
        // Each is asked for after the one before has come.
        line.ask(grpc("/test.Streams/Fail"), framed(b"")).await;
    }
    upstream.answer_all();
    for call in calls {
        let answer = call.answer().await.expect("an answer");
        assert_eq!(answer.status().code(), Code::Ok);
    }
    let batches: Vec<_> = upstream.batches().into_iter().map(|b| b.clients).collect();
    assert_eq!(batches.len(), 3, "{batches:?}");
    for batch in &batches[1..] {
        let of = batch[0].split('-').nth(1);
        assert!(
            batch.iter().all(|id| id.split('-').nth(1) == of),
            "{batches:?}"
        );
    }
}

#[tokio::test]
async fn a_certificate_that_is_replaced_is_shown_to_the_next_connection() {
    let (old, new) = (Authority::new(), Authority::new());
    old.sign("server");
    new.sign("server");
    let upstream = Upstream::answering().await;
    let listen = format!(
        "  - address: 127.0.0.1:0\n    tls: {{cert: {}, key: {}}}",
        old.path("server.pem"),
        old.path("server.key"),
    );
    let served = served(&listen, &one_batch_at_a_time(&upstream)).await;
    let before = old.line(served.address(), None).await;
    for kind in ["pem", "key"] {
        let name = format!("server.{kind}");
        fs::copy(new.path(&name), old.path(&name)).expect("both exist");
    }
    until("the new certificate is shown", async || {
        new.connect(served.address(), None).await.is_ok()
    })
    .await;
    // What was connected before goes on.
    before.create("x", b"s").await;
}

#[tokio::test]
async fn an_upstream_is_called_over_mutual_tls_and_over_a_unix_socket() {
    let authority = Authority::new();
    for name in ["server", "client"] {
        authority.sign(name);
    }
    let upstream = Upstream::answering().await;
    // One sidecar in front of another: the far one is the TLS upstream.
    let unix = authority.path("far.sock");
    let listen = format!("{}\n  - unix: {unix}", mutual(&authority));
    let far = served(&listen, &one_batch_at_a_time(&upstream)).await;
    let port = far.address().port();
    let tls = format!(
        "  endpoints: ['https://localhost:{port}']\n  tls: {{ca: {}, cert: {}, key: {}}}",
        authority.path("ca.pem"),
        authority.path("client.pem"),
        authority.path("client.key"),
    );
    for way in [tls, format!("  endpoints: ['unix:{unix}']")] {
        let near = served("  - address: 127.0.0.1:0", &way).await;
        let line = near.line().await;
        line.create("x", b"s").await;
        let answer = line.ask(grpc("/test.Streams/Echo"), framed(b"y")).await;
        assert_eq!(answer.status().code(), Code::Ok, "{way}");
    }
    assert_eq!(upstream.batches().len(), 2);
}

#[tokio::test]
async fn an_upstream_whose_certificate_is_not_trusted_gets_no_call() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign("server");
    let upstream = Upstream::answering().await;
    let listen = over_tls(&authority);
    let far = served(&listen, &one_batch_at_a_time(&upstream)).await;
    let way = format!(
        "  endpoints: ['https://localhost:{}']\n  tls: {{ca: {}}}",
        far.address().port(),
        stranger.path("ca.pem"),
    );
    let near = served("  - address: 127.0.0.1:0", &way).await;
    let answer = near
        .line()
        .await
        .ask(grpc(CREATE), old_form("x", b"s"))
        .await;
    let status = answer.status();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("no TLS"), "{status}");
    assert!(upstream.batches().is_empty());
}

/// Lets `at` use what `of` has signed as `client`, as `stranger`.
fn lend(of: &Authority, at: &Authority) {
    for kind in ["pem", "key"] {
        let from = of.path(&format!("client.{kind}"));
        fs::copy(from, at.path(&format!("stranger.{kind}"))).expect("both exist");
    }
}

async fn is_let_in(authority: &Authority, served: &Served, name: &str) -> bool {
    // TLS 1.3 tells a client only when it reads.
    let Ok(socket) = authority.connect(served.address(), Some(name)).await else {
        return false;
    };
    let Ok((calls, connection)) = h2::client::handshake(socket).await else {
        return false;
    };
    let driver = tokio::spawn(connection);
    let answer = async {
        let mut calls = calls.ready().await?;
        let (answer, _) = calls.send_request(grpc("/test.Streams/Fail"), true)?;
        answer.await
    };
    let answer: Result<_, h2::Error> = answer.await;
    driver.abort();
    answer.is_ok()
}

#[tokio::test]
async fn who_is_trusted_after_a_reload_is_who_its_file_names_and_nobody_else() {
    let (old, new) = (Authority::new(), Authority::new());
    for name in ["server", "client"] {
        old.sign(name);
    }
    new.sign("client");
    lend(&new, &old);
    let upstream = Upstream::answering().await;
    let path = old.path("policy.yaml");
    let write = |client_ca: &str| {
        let [cert, key] = ["server.pem", "server.key"].map(|name| old.path(name));
        let upstream = one_batch_at_a_time(&upstream);
        let yaml = format!(
            "version: 1\nlisten:\n  - address: 127.0.0.1:0\n    tls: {{cert: {cert}, key: {key}, \
             client_ca: {client_ca}}}\nadmin: off\nupstream:\n{upstream}\n{METHODS}"
        );
        fs::write(&path, yaml).expect("it is writable");
    };
    write(&old.path("ca.pem"));
    let served = Served::of_file(Path::new(&path)).await;
    let before = old.line(served.address(), Some("client")).await;
    assert!(!is_let_in(&old, &served, "stranger").await);

    write("missing.pem");
    let reload = served
        .stack
        .reload(Cause::Request)
        .await
        .expect("a sidecar");
    assert!(!reload.accepted);
    let told = reload.faults.join("\n");
    assert!(
        told.contains("listen[0].tls") && told.contains("missing.pem"),
        "{told}"
    );
    assert!(is_let_in(&old, &served, "client").await, "as before");

    write(&new.path("ca.pem"));
    let reload = served
        .stack
        .reload(Cause::Request)
        .await
        .expect("a sidecar");
    assert!(reload.accepted, "{:?}", reload.faults);
    assert!(is_let_in(&old, &served, "stranger").await);
    assert!(!is_let_in(&old, &served, "client").await);
    // What was connected before goes on.
    before.create("x", b"s").await;
}

#[tokio::test]
async fn a_handshake_that_fails_is_counted_as_tls_and_a_probe_that_says_nothing_is_not() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.sign("server");
    let upstream = Upstream::answering().await;
    let yaml = format!(
        "version: 1\nlisten:\n{}\nadmin: {{address: 127.0.0.1:0}}\nupstream:\n{}\n{METHODS}",
        over_tls(&authority),
        one_batch_at_a_time(&upstream),
    );
    let served = Served::by(&yaml).await;
    drop(TcpStream::connect(served.address()).await.expect("open"));
    stranger
        .connect(served.address(), None)
        .await
        .expect_err("it trusts somebody else");
    let refused = async |reason: &str| {
        let label = format!("reason=\"{reason}\"");
        admin::metric(served.admin(), names::GUARD_REFUSALS, &label).await
    };
    until("it is counted", async || refused("tls").await >= 1.0).await;
    authority.line(served.address(), None).await;
    assert_eq!(refused("tls").await, 1.0);
    assert_eq!(refused("handshake").await, 0.0);
}

#[tokio::test]
async fn who_has_not_finished_its_tls_does_not_hold_up_a_drain() {
    let authority = Authority::new();
    authority.sign("server");
    let upstream = Upstream::answering().await;
    let listen = over_tls(&authority) + "\nguards: {handshake_timeout: 60s}";
    let served = served(&listen, &one_batch_at_a_time(&upstream)).await;
    let mut silent = TcpStream::connect(served.address()).await.expect("open");
    // Who comes after it has been let in, so it has been, too.
    authority.line(served.address(), None).await;
    assert_eq!(served.stack.drain(DRAINED_WITHIN).await, 0);
    let _ = silent.read(&mut [0; 1]).await;
}
