//! What cannot be done is refused before anything is begun: an exit code for
//! scripts, and one line on stderr that names the value and the remedy.

use std::{
    collections::HashSet,
    fs,
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::{
    process::Sidecar,
    support::{admin, soon, until},
};

/// The flags make no sense; and: they do, but it cannot be done.
const USAGE: i32 = 2;
const FAILED: i32 = 1;

/// An empty directory in which ferry is run.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("the temporary directory is writable");
        path
    }

    fn run(&self, flags: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ferry"))
            .args(flags)
            .current_dir(self.0.path())
            .env_remove("FERRY_LOG")
            .stdin(Stdio::null())
            .output()
            .expect("cargo built the binary")
    }

    /// Runs ferry, which must end with `code` and say one line of these words.
    #[track_caller]
    fn refuses(&self, flags: &[&str], code: i32, words: &[&str]) {
        let output = self.run(flags);
        let told = String::from_utf8(output.stderr).expect("what is told is text");
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {told}");
        assert_eq!(told.lines().count(), 1, "{flags:?}: not one line: {told}");
        assert!(
            output.stdout.is_empty(),
            "{flags:?}: stdout is for results, of which there are none"
        );
        let parts = told.trim_end().split([';', ':']).map(str::trim);
        let sentences: Vec<_> = parts.filter(|part| part.contains(' ')).collect();
        let said: HashSet<_> = sentences.iter().collect();
        assert_eq!(said.len(), sentences.len(), "{flags:?}: twice: {told}");
        for word in words {
            assert!(told.contains(word), "{flags:?}: {word:?} is not in: {told}");
        }
    }
}

/// A policy over an embedded group at `data_dir`, on ports of the system's choice.
fn embedded(data_dir: &Path) -> String {
    format!(
        "version: 1\nlisten:\n  - address: 127.0.0.1:0\nadmin: {{address: 127.0.0.1:0}}\n\
         upstream:\n  embedded: {{data_dir: {}}}\nmethods: []\n",
        data_dir.display()
    )
}

fn shipped(name: &str) -> String {
    let root = crate::support::root();
    root.join("policies").join(name).display().to_string()
}

#[test]
fn flags_that_make_no_sense_are_refused_in_one_line() {
    let desk = Desk::new();
    let bench = |flags: &[&'static str]| [&["bench", "create-session"], flags].concat();
    for (flags, words) in [
        (vec!["prox"], vec!["prox", "proxy"]),
        (vec!["proxy", "--polcy", "x"], vec!["--polcy", "--policy"]),
        (
            vec!["proxy", "--listen", "nowhere"],
            vec!["nowhere", "--listen"],
        ),
        (
            vec!["node", "--pipeline", "half"],
            vec!["half", "full, serial"],
        ),
        (vec!["check"], vec!["FILE"]),
        (bench(&["--concurrency", "0"]), vec!["'0'", "--concurrency"]),
        (bench(&["--port", "70000"]), vec!["70000", "65535"]),
        (
            bench(&["--count", "9", "--batch-size", "5"]),
            vec!["--batch-size 5", "1 session a call", "--form batch"],
        ),
        (
            bench(&["--count", "9", "--value-bytes", "0"]),
            vec!["'0'", "--value-bytes", "from 1 up"],
        ),
    ] {
        desk.refuses(&flags, USAGE, &words);
    }
}

#[test]
fn a_bench_without_a_server_says_where_there_is_none() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let free = free.expect("loopback has free ports").port().to_string();
    let flags = ["bench", "create-session", "--count", "1", "--port", &free];
    let words = [&*free, "cannot connect", "start a server there"];
    Desk::new().refuses(&flags, FAILED, &words);
}

#[tokio::test]
async fn a_bench_whose_server_dies_in_the_run_fails() {
    let sidecar = Sidecar::start().await;
    let port = sidecar.address.port().to_string();
    let bench = tokio::process::Command::new(env!("CARGO_BIN_EXE_ferry"))
        .args(["bench", "create-session", "--count", "4000000000"])
        .args(["--port", &port])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("cargo built the binary");
    until("some are acknowledged", async || {
        admin::metric(sidecar.admin, "ferry_entries_total", "committed").await > 0.0
    })
    .await;
    sidecar.kill().await;
    let output = soon("it ends", bench.wait_with_output()).await;
    let output = output.expect("it is our child");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(FAILED), "{told}");
    assert!(told.contains("stopped early"), "{told}");
}

#[test]
fn a_policy_key_that_does_not_exist_is_refused_by_line_column_and_suggestion() {
    let desk = Desk::new();
    let policy = embedded(&desk.path("ferry-data")).replace("data_dir", "data_dri");
    let policy = desk.write("policy.yaml", &policy).display().to_string();
    for flags in [&["proxy", "--policy", &policy][..], &["check", &policy]] {
        let words = [
            "policy.yaml: line 6, column 14",
            "data_dri",
            "did you mean data_dir?",
        ];
        desk.refuses(flags, FAILED, &words);
    }
    assert!(!desk.path("ferry-data").exists(), "nothing was begun");
}

#[test]
fn a_policy_that_is_not_there_is_refused_by_its_path() {
    let words = ["nowhere.yaml", "cannot be read"];
    let flags = ["proxy", "--policy", "nowhere.yaml"];
    Desk::new().refuses(&flags, FAILED, &words);
}

#[test]
fn a_port_in_use_is_refused_by_its_address() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let taken = taken.local_addr().map(|address| (taken, address));
    let (_taken, address) = taken.expect("it is bound");
    let address = &*address.to_string();
    let any = "127.0.0.1:0";
    for flags in [
        ["proxy", "--listen", address, "--admin", any],
        ["proxy", "--listen", any, "--admin", address],
        ["node", "--listen", address, "--admin", any],
    ] {
        let words = [address, "in use", "free it or choose another"];
        let desk = Desk::new();
        desk.refuses(&flags, FAILED, &words);
        assert!(!desk.path("ferry-data").exists(), "nothing was begun");
    }
}

#[test]
fn a_unix_socket_that_cannot_be_is_refused_with_what_would_help() {
    let desk = Desk::new();
    let long = format!("/tmp/{}", "x".repeat(200));
    for (path, words) in [
        (long.as_str(), ["SUN_LEN", "choose a shorter path"]),
        ("no-folder/socket", ["No such file", "make its directory"]),
    ] {
        let policy = format!(
            "version: 1\nlisten:\n  - unix: {path}\n\
             upstream: {{endpoints: [http://127.0.0.1:1]}}\nmethods: []\n"
        );
        desk.write("policy.yaml", &policy);
        let flags = ["proxy", "--policy", "policy.yaml"];
        desk.refuses(&flags, FAILED, &words);
    }
}

#[test]
fn fewer_descriptors_than_the_guards_let_connections_in_are_warned_of_at_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = taken.local_addr().expect("it is bound");
    let desk = Desk::new();
    let policy = format!(
        "version: 1\nlisten:\n  - address: {address}\nguards: {{max_connections: 5000}}\n\
         upstream: {{endpoints: [http://127.0.0.1:1]}}\nmethods: []\n"
    );
    desk.write("policy.yaml", &policy);
    let mut bounded = Command::new("sh");
    bounded
        .args(["-c", "ulimit -n 128; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_ferry"))
        .args(["proxy", "--policy", "policy.yaml"])
        .current_dir(desk.path("."))
        .env_remove("FERRY_LOG");
    let output = bounded.output().expect("there is a shell");
    assert_eq!(output.status.code(), Some(FAILED));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("WARN") && told.contains("128 files"),
        "{told}"
    );
    assert!(
        told.contains("6024") && told.contains("ulimit -n"),
        "{told}"
    );
}

#[test]
fn a_directory_that_cannot_be_written_is_refused_by_its_path() {
    let desk = Desk::new();
    let file = desk.write("a-file", "");
    // Not by permissions, which do not bind root.
    for data_dir in [file.join("ferry-data"), file, "/proc/ferry-data".into()] {
        let policy = desk.write("policy.yaml", &embedded(&data_dir));
        let flags = ["proxy", "--policy", &policy.display().to_string()];
        let path = &*data_dir.display().to_string();
        desk.refuses(&flags, FAILED, &["data directory", path, "choose"]);
    }
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused() {
    let sidecar = Sidecar::start().await;
    let data_dir = sidecar.data_dir();
    let (path, any) = (&*data_dir.display().to_string(), "127.0.0.1:0");
    let desk = Desk::new();
    let policy = desk.write("policy.yaml", &embedded(&data_dir));
    let policy = &*policy.display().to_string();
    for flags in [
        &["proxy", "--policy", policy][..],
        &["node", "--data-dir", path, "--listen", any],
    ] {
        let words = [path, "in use by another process", "choose another"];
        desk.refuses(flags, FAILED, &words);
    }
}

#[test]
fn the_shipped_policies_pass_their_own_check() {
    let output = Desk::new().run(&[
        "check",
        &shipped("embedded.yaml"),
        &shipped("robustmq.yaml"),
    ]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{told}");
    let plans = String::from_utf8(output.stdout).expect("a plan is text");
    assert_eq!(plans.matches("yaml: ok").count(), 2, "{plans}");
    assert!(plans.contains("meta.service.mqtt.MqttService/CreateSession"));
}

#[test]
fn a_check_for_scripts_gives_every_fault_with_its_line_and_column() {
    let desk = Desk::new();
    let bad = "version: 2\nlisten: []\nupstraem: {}\n";
    let bad = desk.write("bad.yaml", bad).display().to_string();
    let output = desk.run(&["check", "--format", "json", &shipped("embedded.yaml"), &bad]);
    assert_eq!(output.status.code(), Some(FAILED));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let checked: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(checked[0]["ok"], true);
    assert!(
        checked[0]["plan"]
            .as_str()
            .is_some_and(|plan| plan.contains("CreateSession"))
    );
    assert_eq!(checked[1]["ok"], false);
    assert_eq!(checked[1]["plan"], serde_json::Value::Null);
    let faults = checked[1]["faults"].as_array().expect("a list");
    assert!(faults.len() >= 4, "all at once: {faults:?}");
    let meant = faults.iter().find(|fault| fault["line"] == 3);
    let meant = meant.expect("a fault of the third line");
    assert_eq!(meant["column"], 1);
    let message = meant["message"].as_str().expect("text");
    assert!(message.contains("did you mean upstream?"), "{message}");
}

#[test]
fn a_policy_is_checked_that_comes_through_a_pipe() {
    let mut check = Command::new(env!("CARGO_BIN_EXE_ferry"))
        .args(["check", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cargo built the binary");
    let mut pipe = check.stdin.take().expect("it is piped");
    let policy = include_bytes!("../policies/embedded.yaml");
    pipe.write_all(policy).expect("it is read");
    drop(pipe);
    let output = check.wait_with_output().expect("it ends with its input");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.starts_with("/dev/stdin: ok"), "{told}");
}

#[test]
fn one_bad_policy_among_good_ones_fails_the_check() {
    let desk = Desk::new();
    let bad = desk.write("bad.yaml", "version: 2\n").display().to_string();
    let output = desk.run(&["check", &shipped("embedded.yaml"), &bad]);
    assert_eq!(output.status.code(), Some(FAILED));
    let (plans, told) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(plans.contains("embedded.yaml: ok"), "{plans}");
    assert!(told.contains("bad.yaml: line 1, column"), "{told}");
}

#[test]
fn a_flag_outranks_its_variable_which_outranks_the_policy_and_print_config_says_so() {
    let desk = Desk::new();
    let policy = desk.write("policy.yaml", &embedded(&desk.path("ferry-data")));
    let told = |flags: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ferry"))
            .args(["proxy", "--print-config"])
            .args(flags)
            .env("FERRY_PROXY_POLICY", &policy)
            .env("FERRY_PROXY_LISTEN", "127.0.0.1:4001")
            .output()
            .expect("cargo built the binary");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("what is told is text")
    };
    let by_variable = told(&[]);
    for line in [
        "--listen 127.0.0.1:4001 (environment, FERRY_PROXY_LISTEN)",
        "(environment, FERRY_PROXY_POLICY)",
        "--admin - (not set, nor FERRY_PROXY_ADMIN)",
        "--print-config true (command line)",
    ] {
        assert!(by_variable.contains(line), "{line}: {by_variable}");
    }
    let by_flag = told(&["--listen", "127.0.0.1:4002"]);
    let line = "--listen 127.0.0.1:4002 (command line)";
    assert!(by_flag.contains(line), "{by_flag}");
    assert!(!by_flag.contains("4001"), "{by_flag}");
    assert!(!desk.path("ferry-data").exists(), "nothing was begun");
}

/// Standard output of `ferry` with `flags`, which must succeed.
fn told(desk: &Desk, flags: &[&str]) -> String {
    let output = desk.run(flags);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("what is told is text")
}

#[test]
fn print_config_names_the_line_of_each_key_and_the_node_that_comes_of_them() {
    let desk = Desk::new();
    let policy = desk.write("policy.yaml", &embedded(&desk.path("ferry-data")));
    let policy = policy.display().to_string();
    let shown = told(&desk, &["proxy", "--policy", &policy, "--print-config"]);
    assert!(shown.contains("\n  version 1 (line 1)\n"), "{shown}");
    let node = crate::support::root().join("deploy/cluster/node2.yaml");
    let node = node.display().to_string();
    let shown = told(&desk, &["node", "--config", &node, "--print-config"]);
    for line in [
        "  node 2 (line ",
        "  election.heartbeat 100ms (line ",
        "cluster      ferry, as node 2",
        "members      1 at 127.0.0.1:1331, 2 at 127.0.0.1:1332, 3 at",
        "--config ",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    for other in ["--data-dir", "--listen", "(default)"] {
        assert!(!shown.contains(other), "{other} is not in force: {shown}");
    }
    let shown = told(&desk, &["node", "--groups", "4", "--print-config"]);
    assert!(shown.contains("--groups 4 (command line)"), "{shown}");
    assert!(shown.contains("4 groups in ferry-data"), "{shown}");
    assert!(!desk.path("ferry-data").exists(), "nothing was begun");
}

#[test]
fn print_config_names_secrets_by_their_files_and_never_reads_them_out() {
    const SECRET: &str = "correct-horse-battery-staple";
    let desk = Desk::new();
    for name in ["token", "key.pem", "cert.pem", "ca.pem"] {
        desk.write(name, SECRET);
    }
    let policy = embedded(&desk.path("ferry-data"))
        .replace("127.0.0.1:0}", "127.0.0.1:0, token_file: token}")
        .replace(
            "127.0.0.1:0\n",
            "127.0.0.1:0\n    tls: {cert: cert.pem, key: key.pem, client_ca: ca.pem}\n",
        );
    let traces =
        "telemetry: {traces: {endpoint: 'https://a:4317', header_files: {authorization: token}}}";
    let policy = format!("{policy}{traces}\n");
    let policy = desk.write("policy.yaml", &policy).display().to_string();
    let shown = told(&desk, &["proxy", "--policy", &policy, "--print-config"]);
    assert!(
        shown.contains("telemetry.traces.header_files.authorization token (line "),
        "{shown}"
    );
    assert!(shown.contains("with authorization from files"), "{shown}");
    assert!(shown.contains("admin.token_file token (line "), "{shown}");
    assert!(
        shown.contains("listen[0].tls.key key.pem (line "),
        "{shown}"
    );
    assert!(!shown.contains(SECRET), "{shown}");
    let node = "version: 1\ncluster: a\nnode: 1\npeer:\n  address: 127.0.0.1:0\n  tls: {cert: \
                cert.pem, key: key.pem, ca: ca.pem}\n";
    let node = desk.write("node.yaml", node).display().to_string();
    let shown = told(&desk, &["node", "--config", &node, "--print-config"]);
    assert!(shown.contains("peer.tls.key key.pem (line "), "{shown}");
    assert!(!shown.contains(SECRET), "{shown}");
}

/// A proxy with this variable, which must end before anything is begun, and
/// say these words.
#[track_caller]
fn is_refused(variable: &str, value: &str, words: [&str; 2]) {
    let desk = Desk::new();
    let output = Command::new(env!("CARGO_BIN_EXE_ferry"))
        .args(["proxy", "--listen", "127.0.0.1:0"])
        .current_dir(desk.path("."))
        .env(variable, value)
        .output()
        .expect("cargo built the binary");
    assert_eq!(output.status.code(), Some(FAILED));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(words.iter().all(|word| told.contains(word)), "{told}");
    assert!(!desk.path("ferry-data").exists(), "nothing was begun");
}

#[test]
fn a_log_format_that_ferry_does_not_have_is_refused_before_anything_is_begun() {
    is_refused(
        "FERRY_LOG_FORMAT",
        "xml",
        ["FERRY_LOG_FORMAT xml: ", "text or json"],
    );
}

#[test]
fn a_log_filter_that_says_nothing_is_refused_before_anything_is_begun() {
    let mistaken = "warn,ferry::access=inof";
    is_refused("FERRY_LOG", mistaken, [mistaken, "write info, or"]);
    is_refused("FERRY_LOG", "debgu", ["FERRY_LOG debgu: ", "info, debug"]);
    is_refused("FERRY_LOG", "", ["FERRY_LOG is empty", "write info, or"]);
}

#[test]
fn a_variable_that_makes_no_sense_is_refused_like_its_flag() {
    let output = Command::new(env!("CARGO_BIN_EXE_ferry"))
        .arg("proxy")
        .env("FERRY_PROXY_LISTEN", "nowhere")
        .output()
        .expect("cargo built the binary");
    assert_eq!(output.status.code(), Some(USAGE));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("nowhere") && told.contains("--listen"),
        "{told}"
    );
}
