//! Every command that the README tells a newcomer to type is tried. What ends
//! at once is run as printed; so is `ferry proxy`, on ports that variables move,
//! until it has shown its page and is told to end. `make` runs for minutes: in a
//! test of its own, which is the last part of `make test`. A command of another
//! kind fails the test, so that none is added untried.

use std::{fs, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::{
    process::announced,
    support::{admin, root, soon},
};

const FERRY: &str = env!("CARGO_BIN_EXE_ferry");

/// The lines after `$ ` in the README's console blocks.
fn commands() -> Vec<String> {
    let readme = fs::read_to_string(root().join("README.md")).expect("it ships with ferry");
    let lines = readme.lines().filter_map(|line| line.strip_prefix("$ "));
    lines.map(str::to_owned).collect()
}

/// To be run from the checkout's top, as the README means it.
fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

async fn run(program: &str, arguments: &[&str]) {
    let output = command(program, arguments).output().await;
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {told}");
}

/// The sidecar of the README: it says where it listens, shows its page and its
/// policy there, and ends well when it is told to.
async fn serve(flags: &[&str]) {
    let mut process = command(FERRY, flags)
        .env("FERRY_PROXY_LISTEN", "127.0.0.1:0")
        .env("FERRY_PROXY_ADMIN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("cargo built the binary");
    let told = process.stderr.take().expect("it is piped");
    let mut told = BufReader::new(told).lines();
    let places = soon("it says where it listens", announced(&mut told)).await;
    let (_, at) = places.expect("it runs until it is told to end");
    for (path, part) in [
        ("/", "<title>ferry</title>"),
        ("/policy", "CreateSession"),
        ("/metrics", "ferry_limit"),
    ] {
        let (code, body) = admin::fetch(at, path).await.expect("it answers");
        assert!(code == 200 && body.contains(part), "{path}: {code} {body}");
    }
    let id = process.id().expect("it was not waited for").to_string();
    run("sh", &["-c", &format!("kill -TERM {id}")]).await;
    let ended = soon("ferry ends", process.wait()).await;
    let ended = ended.expect("it is our child");
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn every_command_of_the_readme_is_one_that_works() {
    let commands = commands();
    assert!(commands.len() >= 4, "{commands:?}");
    for command in commands {
        let words: Vec<_> = command.split_whitespace().collect();
        match words.as_slice() {
            ["ferry", "proxy", ..] => serve(&words[1..]).await,
            ["ferry", "check", ..] => run(FERRY, &words[1..]).await,
            // The test below.
            ["make", ..] => {}
            _ => panic!("{command}: say in this test how it is tried"),
        }
    }
}

#[tokio::test]
#[ignore = "minutes long: the last part of make test"]
async fn every_make_command_of_the_readme_runs_as_printed() {
    let commands = commands();
    let commands = commands
        .iter()
        .filter(|command| command.starts_with("make "));
    let (tests, others): (Vec<&String>, Vec<&String>) =
        commands.partition(|command| *command == "make test");
    // Run by itself it would have no end; it is what CI runs, and what runs this.
    let ci = fs::read_to_string(root().join(".ci/run")).expect("it ships with ferry");
    assert_eq!((tests.len(), ci.contains("\nexec make test\n")), (1, true));
    assert!(!others.is_empty(), "no command is left");
    for command in others {
        run("sh", &["-c", command]).await;
    }
}
