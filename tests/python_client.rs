//! A client that ferry did not write: Python's grpcio against the built
//! sidecar. The Makefile makes the virtual environment that it runs in.

use std::{env, path::Path, process::Stdio};

use tokio::process::Command;

use crate::process::Sidecar;

#[tokio::test]
async fn two_thousand_old_form_calls_of_a_foreign_client_are_all_kept() {
    let python = env::var_os("FERRY_PYTHON")
        .expect("FERRY_PYTHON is not set: run `make test`, which installs grpcio and sets it");
    let sidecar = Sidecar::start().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/real_client.py");
    let client = Command::new(python)
        .arg(script)
        .args(["--count", "2000", "--target", &sidecar.address.to_string()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("FERRY_PYTHON names a Python");
    let said = String::from_utf8_lossy(&client.stdout);
    let complained = String::from_utf8_lossy(&client.stderr);
    assert!(client.status.success(), "{}: {complained}", client.status);
    assert!(
        said.starts_with("2000 created"),
        "the client did something else: {said}"
    );
}
