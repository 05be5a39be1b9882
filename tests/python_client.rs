//! A client that ferry did not write: Python's grpcio against the built
//! sidecar. The Makefile makes the virtual environment that it runs in.

use std::{env, process::Stdio};

use tokio::process::Command;

use crate::process::Sidecar;

/// Runs a script, which must succeed; answers what it printed.
pub(crate) async fn python(script: &str, arguments: &[&str]) -> String {
    let python = env::var_os("FERRY_PYTHON")
        .expect("FERRY_PYTHON is not set: run `make test`, which installs the clients and sets it");
    let script = crate::support::root().join(script);
    let client = Command::new(python)
        .arg(script)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("FERRY_PYTHON names a Python");
    let complained = String::from_utf8_lossy(&client.stderr);
    assert!(client.status.success(), "{}: {complained}", client.status);
    String::from_utf8_lossy(&client.stdout).into_owned()
}

#[tokio::test]
async fn two_thousand_old_form_calls_of_a_foreign_client_are_all_kept() {
    let sidecar = Sidecar::start().await;
    let target = sidecar.address.to_string();
    let arguments = ["--count", "2000", "--target", &target];
    let said = python("tests/python/real_client.py", &arguments).await;
    assert!(
        said.starts_with("2000 created"),
        "the client did something else: {said}"
    );
}
