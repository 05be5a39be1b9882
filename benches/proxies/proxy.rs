//! The proxies, each as one would run it on one core, and their processes.
//!
//! All speak HTTP/2 without TLS on both sides, keep their connections upstream,
//! log no call and run one thread (nginx one process) for the calls. What has a
//! limit on streams, on requests of a connection or on a body has it raised
//! past what the load needs; else they have their defaults. nginx opens a
//! connection upstream for each call under way, since it multiplexes none; it
//! keeps up to a thousand of them.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{
    child::cpu_of,
    h2load::on_core,
    running::{Process, free_port},
};

/// Longer than a proxy takes to listen.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// What stands between the load and the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    /// Nothing.
    None,
    Haproxy,
    Nginx,
    Envoy,
    /// ferry, as if the method were not listed.
    Forwarding,
    /// ferry, with a policy that batches it.
    Coalescing,
}

impl Side {
    pub(crate) const ALL: [Self; 6] = [
        Self::None,
        Self::Haproxy,
        Self::Nginx,
        Self::Envoy,
        Self::Forwarding,
        Self::Coalescing,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "no proxy",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Envoy => "Envoy",
            Self::Forwarding => "ferry, forwarding",
            Self::Coalescing => "ferry, coalescing",
        }
    }
}

/// Where a proxy runs, and on how many threads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// On this core alone.
    Core(usize),
    /// Wherever the system puts it; ferry with so many workers.
    Workers(u32),
}

/// A running proxy.
pub(crate) struct Proxy {
    process: Process,
    pub(crate) address: SocketAddr,
}

impl Proxy {
    /// Starts a proxy in front of `upstream`, with its files in `folder`;
    /// returns when it listens. `None` where there is none.
    pub(crate) fn start(
        side: Side,
        upstream: SocketAddr,
        place: Place,
        folder: &Path,
    ) -> Result<Option<Self>> {
        let address = free_port()?;
        let file = folder.join("proxy.yaml");
        let configuration = match side {
            Side::None => return Ok(None),
            Side::Haproxy => haproxy(address, upstream),
            Side::Nginx => nginx(address, upstream),
            Side::Envoy => envoy(address, upstream),
            Side::Forwarding => ferry(address, upstream, "off"),
            Side::Coalescing => ferry(address, upstream, "enforce"),
        };
        fs::write(&file, configuration)?;
        let program = match side {
            Side::Haproxy => found("haproxy"),
            Side::Nginx => found("nginx"),
            Side::Envoy => std::env::var("FERRY_ENVOY").unwrap_or_else(|_| "envoy".into()),
            _ => env!("CARGO_BIN_EXE_ferry").into(),
        };
        let mut command = match place {
            Place::Core(core) => on_core(core, &program),
            Place::Workers(workers) => {
                let mut command = Command::new(&program);
                command.env("TOKIO_WORKER_THREADS", workers.to_string());
                command
            }
        };
        match side {
            Side::Haproxy => command.args(["-db", "-f"]).arg(&file),
            Side::Nginx => command
                .args(["-e", "stderr", "-p"])
                .arg(folder)
                .arg("-c")
                .arg(&file),
            Side::Envoy => command
                .args(["--concurrency", "1", "--disable-hot-restart"])
                .args(["--log-level", "error", "--config-path"])
                .arg(&file),
            _ => command.args(["proxy", "--policy"]).arg(&file),
        };
        let process = command
            .env("FERRY_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("proxy.log"))?)
            .spawn()
            .with_context(|| {
                format!("{program} does not start; `make bench-proxies` installs it")
            })?;
        let mut proxy = Self {
            process: Process(process),
            address,
        };
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = proxy.process.0.try_wait()?;
            ensure!(
                start.elapsed() < PATIENCE && ended.is_none(),
                "{} does not listen: {}",
                side.name(),
                fs::read_to_string(folder.join("proxy.log")).unwrap_or_default()
            );
            thread::sleep(PAUSE);
        }
        Ok(Some(proxy))
    }

    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu_of(self.process.0.id())
    }

    /// The most memory that it has had at once, in MiB.
    pub(crate) fn peak_mib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kibibytes = kibibytes.context("/proc/PID/status has a VmHWM")?;
        Ok(kibibytes.parse::<f64>()? / 1_024.0)
    }
}

/// Debian puts servers where only root looks for programs.
fn found(program: &str) -> String {
    let below_sbin = format!("/usr/sbin/{program}");
    match Path::new(&below_sbin).exists() {
        true => below_sbin,
        false => program.to_owned(),
    }
}

fn haproxy(listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "global
  nbthread 1
  maxconn 2000
  tune.h2.max-concurrent-streams 10000
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  http-reuse always
frontend calls
  bind {listen} proto h2
  default_backend upstream
backend upstream
  server only {upstream} proto h2
"
    )
}

fn nginx(listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  client_max_body_size 0;
  http2_max_concurrent_streams 10000;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  upstream only {{
    server {upstream};
    keepalive 1000;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
  }}
  server {{
    listen {listen} http2;
    location / {{
      grpc_pass grpc://only;
      grpc_read_timeout 1h;
      grpc_send_timeout 1h;
    }}
  }}
}}
"
    )
}

fn envoy(listen: SocketAddr, upstream: SocketAddr) -> String {
    let address = |at: SocketAddr| {
        format!(
            "{{socket_address: {{address: {}, port_value: {}}}}}",
            at.ip(),
            at.port()
        )
    };
    let (listen, upstream) = (address(listen), address(upstream));
    format!(
        "static_resources:
  listeners:
  - address: {listen}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: calls
          codec_type: HTTP2
          generate_request_id: false
          stream_idle_timeout: 0s
          http2_protocol_options: {{max_concurrent_streams: 10000}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          route_config:
            virtual_hosts:
            - name: all
              domains: ['*']
              routes:
              - match: {{prefix: /}}
                route: {{cluster: upstream, timeout: 0s}}
  clusters:
  - name: upstream
    type: STATIC
    connect_timeout: 5s
    circuit_breakers:
      thresholds: [{{max_connections: 10000, max_pending_requests: 100000, max_requests: 100000}}]
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{max_concurrent_streams: 10000}}}}
    load_assignment:
      cluster_name: upstream
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {upstream}}}
"
    )
}

fn ferry(listen: SocketAddr, upstream: SocketAddr, mode: &str) -> String {
    format!(
        "version: 1
listen: [{{address: {listen}}}]
admin: off
upstream: {{endpoints: [http://{upstream}]}}
methods:
  - selector: meta.service.mqtt.MqttService/CreateSession
    mode: {mode}
    batched_field: sessions
    lift:
      from: OldCreateSession
      fields: {{client_id: client_id, session: session}}
    entry_key: [client_id]
    require: [client_id, session]
"
    )
}
