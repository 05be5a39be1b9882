//! The built binary as a user runs it: on ports that the system chooses, in a
//! temporary directory; ready when `/ready` says so, killed when dropped.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use ferry::raft::fail;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

use crate::support::{admin, soon, until};

/// Where the shipped policy keeps its group.
const DATA_DIR: &str = "ferry-data";

/// A policy of the test's own.
const POLICY: &str = "policy.yaml";

/// A running `ferry proxy`.
pub(crate) struct Sidecar {
    /// Where gRPC is served.
    pub(crate) address: SocketAddr,
    /// Where it tells of itself.
    pub(crate) admin: SocketAddr,
    process: Child,
    home: TempDir,
}

impl Sidecar {
    /// Starts with the shipped `policies/embedded.yaml`, and waits until it
    /// takes traffic.
    pub(crate) async fn start() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        Self::start_again(home).await
    }

    /// The same in a directory in which one ran before.
    pub(crate) async fn start_again(home: TempDir) -> Self {
        let root = crate::support::root();
        Self::run(home, &root.join("policies/embedded.yaml")).await
    }

    /// Starts with a policy of the test's own.
    pub(crate) async fn with_policy(policy: &str) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        Self::with_policy_again(home, policy).await
    }

    /// Starts with a policy of the test's own in a directory in which one ran
    /// before.
    pub(crate) async fn with_policy_again(home: TempDir, policy: &str) -> Self {
        let path = write_policy(&home, policy);
        Self::run(home, &path).await
    }

    /// The same, armed to die by itself at `place`.
    ///
    /// # Errors
    /// It died before it was ready: what it kept.
    pub(crate) async fn armed(home: TempDir, policy: &str, place: &str) -> Result<Self, TempDir> {
        let path = write_policy(&home, policy);
        Self::run_with(home, &path, Some((fail::VARIABLE, place))).await
    }

    async fn run(home: TempDir, policy: &Path) -> Self {
        let started = Self::run_with(home, policy, None).await;
        started.expect("it runs until it is ready; what it said is above")
    }

    async fn run_with(
        home: TempDir,
        policy: &Path,
        variable: Option<(&str, &str)>,
    ) -> Result<Self, TempDir> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferry"));
        command.args(["proxy", "--listen", "127.0.0.1:0"]);
        command.envs(variable).stdin(Stdio::null());
        Self::run_command(home, policy, command).await
    }

    /// Starts with a policy of the test's own on a socket that is kept for it,
    /// as systemd's socket activation does.
    pub(crate) async fn on_socket(socket: &std::net::TcpListener, policy: &str) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let path = write_policy(&home, policy);
        let started = Self::run_command(home, &path, handed(socket)).await;
        started.expect("it runs until it is ready; what it said is above")
    }

    /// Starts with a policy of the test's own in a process that may have so
    /// many `descriptors` and no more.
    pub(crate) async fn with_descriptors(descriptors: u32, policy: &str) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let path = write_policy(&home, policy);
        let mut command = Command::new("sh");
        let bounded = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
        command.args(["-c", &bounded, env!("CARGO_BIN_EXE_ferry"), "proxy"]);
        command
            .args(["--listen", "127.0.0.1:0"])
            .stdin(Stdio::null());
        let started = Self::run_command(home, &path, command).await;
        started.expect("it runs until it is ready; what it said is above")
    }

    /// What it says where it does not start on such a socket.
    pub(crate) async fn refusal_on_socket(socket: &std::net::TcpListener, policy: &str) -> String {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let path = write_policy(&home, policy);
        let mut command = handed(socket);
        command.arg("--policy").arg(path).kill_on_drop(true);
        let output = soon("it ends", command.output()).await;
        let output = output.expect("cargo built the binary");
        assert!(!output.status.success(), "it serves");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    async fn run_command(
        home: TempDir,
        policy: &Path,
        mut command: Command,
    ) -> Result<Self, TempDir> {
        let mut process = command
            .args(["--admin", "127.0.0.1:0"])
            .arg("--policy")
            .arg(policy)
            .current_dir(home.path())
            .env("FERRY_LOG", "warn")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("cargo built the binary");
        let stderr = process.stderr.take().expect("it is piped");
        let mut told = BufReader::new(stderr).lines();
        let Some((address, admin)) =
            soon("ferry says where it listens", announced(&mut told)).await
        else {
            return Err(home);
        };
        tokio::spawn(async move { while next(&mut told).await.is_some() {} });
        let mut sidecar = Self {
            address,
            admin,
            process,
            home,
        };
        until("ferry is ready, or has died", async || {
            sidecar.is_dead() || matches!(admin::fetch(admin, "/ready").await, Ok((200, _)))
        })
        .await;
        match sidecar.is_dead() {
            true => Err(sidecar.home),
            false => Ok(sidecar),
        }
    }

    /// The memory that it has resident now, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let process = self.process.id().expect("it was not waited for");
        let status = std::fs::read_to_string(format!("/proc/{process}/status"));
        let status = status.expect("a process that runs has a status");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|line| line.split_whitespace().next());
        kib.expect("the kernel counts it")
            .parse()
            .expect("a number")
    }

    /// The directory of its group.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.home.path().join(DATA_DIR)
    }

    /// The policy file of a test's own.
    pub(crate) fn policy(&self) -> PathBuf {
        self.home.path().join(POLICY)
    }

    /// Sends SIGTERM, as every supervisor does first.
    pub(crate) async fn terminate(&self) {
        self.signal("TERM").await;
    }

    async fn signal(&self, signal: &str) {
        let process = self.process.id().expect("it was not waited for");
        // The shell's own `kill`: there need be no other.
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{signal} {process}")])
            .status()
            .await;
        assert!(sent.expect("there is a shell").success());
    }

    /// Sends SIGHUP, as an operator does who changed the policy.
    pub(crate) async fn hang_up(&self) {
        self.signal("HUP").await;
    }

    /// Whether it has died, of whatever cause.
    pub(crate) fn is_dead(&mut self) -> bool {
        let status = self.process.try_wait().expect("it is our child");
        status.is_some()
    }

    /// Waits until it has ended by itself; what it kept stays.
    pub(crate) async fn ended(mut self) -> (ExitStatus, TempDir) {
        let status = soon("ferry ends", self.process.wait()).await;
        (status.expect("it is our child"), self.home)
    }

    /// Kills it as `kill -9` does; what it kept stays.
    pub(crate) async fn kill(mut self) -> TempDir {
        self.process.kill().await.expect("it is our child");
        self.home
    }
}

/// `ferry proxy` with a socket that is kept for it.
fn handed(socket: &std::net::TcpListener) -> Command {
    let socket = socket.try_clone().expect("descriptors are left");
    let mut command = Command::new("sh");
    // Descriptor 3 is where handed-over sockets begin.
    let hand_over = "exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" \"$@\"";
    command.args(["-c", hand_over, env!("CARGO_BIN_EXE_ferry"), "proxy"]);
    command.stdin(std::os::fd::OwnedFd::from(socket));
    command
}

fn write_policy(home: &TempDir, policy: &str) -> PathBuf {
    let path = home.path().join(POLICY);
    std::fs::write(&path, policy).expect("the temporary directory is writable");
    path
}

/// The addresses on the line that announces them; `None` if it ended before.
pub(crate) async fn announced(
    told: &mut Lines<BufReader<ChildStderr>>,
) -> Option<(SocketAddr, SocketAddr)> {
    let address = |text: &str| text.parse().expect("an address is announced");
    while let Some(line) = next(told).await {
        if let Some((_, places)) = line.split_once("listening on ") {
            let (listen, admin) = places
                .split_once(", admin on http://")
                .expect("the flags name an admin address");
            return Some((address(listen), address(admin)));
        }
    }
    None
}

/// The next line that it says, shown beside what the test says.
#[allow(clippy::print_stderr)] // the harness shows it where a test fails
async fn next(told: &mut Lines<BufReader<ChildStderr>>) -> Option<String> {
    let line = told.next_line().await.expect("what it says is text")?;
    eprintln!("ferry: {line}");
    Some(line)
}
