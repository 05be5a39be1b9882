//! The built binary as a user runs it: a policy file, free ports, a temporary
//! data directory; ready when `/ready` says so, killed when dropped.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
    time,
};

/// Long enough for a machine that compiles beside it; only a fault waits.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running `ferry proxy` over its own embedded group.
pub(crate) struct Sidecar {
    /// Where gRPC is served.
    pub(crate) address: SocketAddr,
    process: Child,
    _folder: TempDir,
}

impl Sidecar {
    /// Starts the ready-made policy `policies/embedded.yaml` on free ports, and
    /// waits until it takes traffic.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        let [address, admin] = free_ports().expect("loopback has free ports");
        let policy = folder.path().join("policy.yaml");
        fs::write(&policy, embedded_policy(address, admin, folder.path()))
            .expect("the temporary directory is writable");
        let process = Command::new(env!("CARGO_BIN_EXE_ferry"))
            .arg("proxy")
            .arg("--policy")
            .arg(&policy)
            .current_dir(folder.path())
            .env("FERRY_LOG", "warn")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("cargo built the binary");
        let mut sidecar = Self {
            address,
            process,
            _folder: folder,
        };
        time::timeout(READY_WITHIN, sidecar.ready(admin))
            .await
            .unwrap_or_else(|_| panic!("not ready within {READY_WITHIN:?}: http://{admin}/ready"));
        sidecar
    }

    async fn ready(&mut self, admin: SocketAddr) {
        loop {
            if let Some(status) = self.process.try_wait().expect("it is our child") {
                panic!("ferry proxy ended before it was ready: {status}");
            }
            if status_of(admin, "/ready")
                .await
                .is_ok_and(|code| code == 200)
            {
                return;
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Two ports that were free a moment ago, both held while they are chosen.
fn free_ports() -> io::Result<[SocketAddr; 2]> {
    let first = TcpListener::bind("127.0.0.1:0")?;
    let second = TcpListener::bind("127.0.0.1:0")?;
    Ok([first.local_addr()?, second.local_addr()?])
}

/// The policy that ships, moved to other places.
fn embedded_policy(address: SocketAddr, admin: SocketAddr, folder: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut policy = fs::read_to_string(root.join("policies/embedded.yaml"))
        .expect("policies/embedded.yaml ships with ferry");
    let moved = [
        ("127.0.0.1:1229", address.to_string()),
        ("127.0.0.1:9901", admin.to_string()),
        (
            "ferry-data",
            folder.join("ferry-data").display().to_string(),
        ),
    ];
    for (from, to) in moved {
        assert!(
            policy.contains(from),
            "policies/embedded.yaml has no {from} to replace"
        );
        policy = policy.replace(from, &to);
    }
    policy.replace("../proto", &root.join("proto").display().to_string())
}

/// The status code of `GET path`.
async fn status_of(address: SocketAddr, path: &str) -> io::Result<u16> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    let code = reply.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.ok_or_else(|| io::Error::other(format!("no HTTP reply: {reply:?}")))
}
