//! An etcd of the benchmark's own, and the few calls of it that they make.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use ferry::accept::frame::framed;
use h2::client::SendRequest;
use prost::Message;
use tokio::net::TcpStream;

use super::running::{Process, free_port};

/// Longer than a process takes to come up.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn connect(at: SocketAddr) -> Result<SendRequest<Bytes>> {
    let socket = TcpStream::connect(at).await?;
    socket.set_nodelay(true)?;
    let (calls, connection) = h2::client::Builder::new()
        .initial_window_size(4 << 20)
        .initial_connection_window_size(64 << 20)
        .handshake(socket)
        .await?;
    // How a connection ends is for its calls to say.
    tokio::spawn(async move { drop(connection.await) });
    Ok(calls)
}

/// One unary call of etcd's KV service, which must end well.
pub(crate) async fn call(
    line: &SendRequest<Bytes>,
    method: &str,
    message: &impl Message,
) -> Result<Bytes> {
    let request = http::Request::post(format!("http://etcd/etcdserverpb.KV/{method}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(())?;
    let mut line = line.clone().ready().await?;
    let (answer, mut body) = line.send_request(request, false)?;
    body.send_data(framed(&message.encode_to_vec()), true)?;
    let (head, mut stream) = answer.await?.into_parts();
    let mut reply = Vec::new();
    while let Some(bytes) = stream.data().await {
        let bytes = bytes?;
        stream.flow_control().release_capacity(bytes.len())?;
        reply.extend_from_slice(&bytes);
    }
    let trailers = stream.trailers().await?.unwrap_or(head.headers);
    let status = tonic::Status::from_header_map(&trailers).context("a reply without a status")?;
    ensure!(status.code() == tonic::Code::Ok, "{method}: {status}");
    ensure!(reply.len() >= 5, "{method}: a reply without a message");
    Ok(Bytes::from(reply).slice(5..))
}

pub(crate) async fn etcd(home: &Path) -> Result<(SocketAddr, Process)> {
    let (client, peer) = (free_port()?, free_port()?);
    let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
    let process = Command::new("etcd")
        .args(["--name", "bench", "--log-level", "error"])
        .args(["--listen-client-urls", &client_url])
        .args(["--advertise-client-urls", &client_url])
        .args(["--listen-peer-urls", &peer_url])
        .args(["--initial-advertise-peer-urls", &peer_url])
        .args(["--initial-cluster", &format!("bench={peer_url}")])
        .arg("--data-dir")
        .arg(home.join("etcd"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("etcd does not start; scripts/setup bench installs it")?;
    let process = Process(process);
    answers(client).await?;
    Ok((client, process))
}

/// Waits until a put is taken.
pub(crate) async fn answers(at: SocketAddr) -> Result<()> {
    let start = Instant::now();
    loop {
        let probe = Put {
            key: Bytes::from_static(b"ready"),
            value: Bytes::new(),
        };
        let tried = async { call(&connect(at).await?, "Put", &probe).await }.await;
        match tried {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() > PATIENCE => return Err(error.context("not ready")),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}
