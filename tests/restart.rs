//! A rolling restart: one process after the other on one socket, as systemd's
//! socket activation hands it over, and callers that never notice.

use std::{
    net::TcpListener as StdListener,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use ferry::accept::frame::framed;
use h2::{Reason, client::SendRequest};
use tokio::{net::TcpStream, task::JoinHandle};
use tonic::{Code, Status};

use crate::{
    process::Sidecar,
    support::{
        client::{CREATE, grpc, old_form},
        served::{ANY, Served, policy_file},
        until,
        upstream::Upstream,
    },
};

const GENERATIONS: usize = 3;
const CALLERS: usize = 8;
/// Calls between two restarts.
const BETWEEN: usize = 100;

/// Calls all the time, one after the other, as a gRPC client does: what was
/// certainly not taken (its connection goes away, its stream was refused) is
/// sent again over another connection, and nothing else is.
struct Caller {
    address: std::net::SocketAddr,
    calls: Option<SendRequest<Bytes>>,
}

/// What became of one attempt.
enum Attempt {
    Answered(Code),
    NotTaken,
    Lost(h2::Error),
}

impl Caller {
    async fn connection(&mut self) -> SendRequest<Bytes> {
        loop {
            if let Some(calls) = self.calls.take()
                && let Ok(calls) = calls.ready().await
            {
                return calls;
            }
            let socket = TcpStream::connect(self.address).await;
            let socket = socket.expect("somebody listens at every moment");
            if let Ok((calls, connection)) = h2::client::handshake(socket).await {
                tokio::spawn(connection);
                self.calls = Some(calls);
            }
        }
    }

    async fn attempt(&mut self, path: &str, message: &Bytes) -> Attempt {
        let mut calls = self.connection().await;
        let Ok((answer, mut body)) = calls.send_request(grpc(path), false) else {
            return Attempt::NotTaken;
        };
        self.calls = Some(calls);
        let _ = body.send_data(message.clone(), true);
        let told = async {
            let (head, mut stream) = answer.await?.into_parts();
            while let Some(bytes) = stream.data().await {
                stream.flow_control().release_capacity(bytes?.len())?;
            }
            let trailers = stream.trailers().await?.unwrap_or_default();
            let status = Status::from_header_map(&trailers);
            Ok::<_, h2::Error>(status.or_else(|| Status::from_header_map(&head.headers)))
        };
        match told.await {
            Ok(status) => Attempt::Answered(status.map_or(Code::Unknown, |status| status.code())),
            Err(error) if not_taken(&error) => Attempt::NotTaken,
            Err(error) => Attempt::Lost(error),
        }
    }
}

/// HTTP/2: a stream above the GOAWAY's last, or one that was refused.
fn not_taken(error: &h2::Error) -> bool {
    (error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR))
        || error.reason() == Some(Reason::REFUSED_STREAM)
}

fn calling(
    address: std::net::SocketAddr,
    name: usize,
    answered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<Vec<String>> {
    tokio::spawn(async move {
        let mut caller = Caller {
            address,
            calls: None,
        };
        let mut failed = Vec::new();
        for call in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let (path, message) = match call % 2 {
                0 => (CREATE, old_form(&format!("{name}-{call}"), b"session")),
                _ => ("/test.Streams/Sum", framed(b"1")),
            };
            loop {
                match caller.attempt(path, &message).await {
                    Attempt::Answered(Code::Ok) => break,
                    Attempt::NotTaken => {}
                    Attempt::Answered(code) => {
                        failed.push(format!("{path}: {code:?}"));
                        break;
                    }
                    Attempt::Lost(error) => {
                        failed.push(format!("{path}: {error}"));
                        break;
                    }
                }
            }
            answered.fetch_add(1, Ordering::Relaxed);
        }
        failed
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_rolling_restart_under_load_not_one_call_fails() {
    let upstream = Upstream::answering().await;
    let socket = StdListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("it is bound");
    let endpoint = format!("  endpoints: [http://{}]", upstream.address);
    let policy = policy_file(address, ANY, &endpoint);
    let mut running = Sidecar::on_socket(&socket, &policy).await;
    assert_eq!(running.address, address);

    let (answered, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
    let callers =
        (0..CALLERS).map(|name| calling(address, name, Arc::clone(&answered), Arc::clone(&stop)));
    let callers: Vec<_> = callers.collect();
    let some_more = async || {
        let from = answered.load(Ordering::Relaxed);
        until("calls are answered", async || {
            answered.load(Ordering::Relaxed) >= from + BETWEEN
        })
        .await;
    };
    for _ in 1..GENERATIONS {
        some_more().await;
        // The next is there, on the same socket, before the last is told to go.
        let next = Sidecar::on_socket(&socket, &policy).await;
        running.terminate().await;
        let (status, _home) = running.ended().await;
        assert_eq!(status.code(), Some(0), "it drains in time");
        running = next;
        some_more().await;
    }
    // And one after the other, the socket kept meanwhile, as systemd does it.
    running.terminate().await;
    let (status, _home) = running.ended().await;
    assert_eq!(status.code(), Some(0), "it drains in time");
    let _last = Sidecar::on_socket(&socket, &policy).await;
    some_more().await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        assert_eq!(
            caller.await.expect("it does not panic"),
            Vec::<String>::new()
        );
    }
    assert!(answered.load(Ordering::Relaxed) >= GENERATIONS * BETWEEN);
}

#[tokio::test]
async fn started_before_its_upstream_it_serves_once_that_is_there() {
    let nobody = StdListener::bind("127.0.0.1:0").expect("a free port");
    let address = nobody.local_addr().expect("it is bound");
    drop(nobody);
    let served = Served::before(address).await;
    let line = served.line().await;
    let early = line.ask(grpc(CREATE), old_form("early", b"session")).await;
    assert_eq!(
        early.status().code(),
        Code::Unavailable,
        "{}",
        early.status()
    );
    let upstream = Upstream::answering_at(address).await;
    until("a call is served", async || {
        let answer = line.ask(grpc(CREATE), old_form("x", b"session")).await;
        answer.status().code() == Code::Ok
    })
    .await;
    assert!(
        upstream
            .batches()
            .iter()
            .all(|batch| batch.clients == ["x"])
    );
    let ready = crate::support::admin::fetch(served.admin(), "/ready").await;
    assert_eq!(ready.expect("it answers").0, 200);
}

#[tokio::test]
async fn a_socket_that_is_handed_over_and_that_no_listener_names_is_refused_by_its_place() {
    let upstream = Upstream::answering().await;
    let socket = StdListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("it is bound");
    let endpoint = format!("  endpoints: [http://{}]", upstream.address);
    let policy = policy_file(ANY, ANY, &endpoint);
    let told = Sidecar::refusal_on_socket(&socket, &policy).await;
    let place = format!("LISTEN_FDS: {address}");
    assert!(told.contains(&place), "{told}");
}
