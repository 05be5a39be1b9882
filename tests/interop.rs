//! gRPC's interoperability cases through ferry, by implementations of gRPC that
//! ferry did not write: Python's grpcio and tonic, each calling the other.

mod cases;
mod service;

use std::{env, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::support::{served::Served, soon};

#[allow(clippy::all, unreachable_pub, clippy::use_self)]
pub(crate) mod proto {
    include!(concat!(env!("OUT_DIR"), "/grpc.testing.rs"));
}

/// The cases, by the names that gRPC gives them.
const CASES: [&str; 18] = [
    "empty_unary",
    "large_unary",
    "client_compressed_unary",
    "server_compressed_unary",
    "client_streaming",
    "client_compressed_streaming",
    "server_streaming",
    "server_compressed_streaming",
    "ping_pong",
    "empty_stream",
    "custom_metadata",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
    "cancel_after_begin",
    "cancel_after_first_response",
    "timeout_on_sleeping_server",
];

fn python(script: &str) -> Command {
    let python = env::var_os("FERRY_PYTHON")
        .expect("FERRY_PYTHON is not set: run `make test`, which installs grpcio and sets it");
    let folder = crate::support::root().join("tests/python");
    let mut command = Command::new(python);
    command.arg(folder.join(script)).kill_on_drop(true);
    command
}

/// Python's server, and the port that it says it serves on. It ends when its
/// input does.
async fn python_server() -> (Child, u16) {
    let mut server = python("interop_server.py")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("FERRY_PYTHON names a Python");
    let said = server.stdout.take().expect("it is piped");
    let mut said = BufReader::new(said).lines();
    let port = soon("the server says its port", said.next_line()).await;
    let port = port.expect("text").expect("a line");
    (server, port.parse().expect("a port"))
}

#[tokio::test]
async fn every_interop_case_of_pythons_client_passes_through_to_tonics_server() {
    let served = Served::before(service::serve().await).await;
    let client = python("interop_client.py")
        .arg(served.address().to_string())
        .stdin(Stdio::null())
        .output();
    let client = soon("the client ends", client).await.expect("it runs");
    let passed = String::from_utf8_lossy(&client.stdout);
    let complained = String::from_utf8_lossy(&client.stderr);
    assert!(client.status.success(), "after {passed}: {complained}");
    assert_eq!(passed.lines().collect::<Vec<_>>(), CASES);
}

#[tokio::test]
async fn every_interop_case_of_tonics_client_passes_through_to_pythons_server() {
    let (_server, port) = python_server().await;
    let served = Served::before(([127, 0, 0, 1], port).into()).await;
    // Python's server is not told whether a message came compressed, so it
    // refuses none for it.
    let passed = cases::all(served.address(), cases::Refuses::Nothing).await;
    assert_eq!(passed, CASES);
}

#[tokio::test]
async fn every_interop_case_of_tonics_client_passes_through_to_tonics_server() {
    let served = Served::before(service::serve().await).await;
    let passed = cases::all(served.address(), cases::Refuses::Uncompressed).await;
    assert_eq!(passed, CASES);
}
