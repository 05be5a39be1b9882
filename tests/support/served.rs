//! A sidecar in this process: the same assembly as the binary's, on ports that
//! the system chooses, with its counters within reach.

use std::{net::SocketAddr, path::Path};

use ferry::{
    policy::{Listen, Policy, Source, Upstream},
    raft::Groups,
    stack::{self, Stack},
    telemetry::Metrics,
};
use tempfile::TempDir;

use super::{WITHIN, admin, client::Line, until};

/// CreateSession as both shipped policies have it, but patient: what waits in
/// a test waits for the test.
pub(crate) const METHODS: &str = "
metadata: {ignore: [x-request-id]}
methods:
  - selector: meta.service.mqtt.MqttService/CreateSession
    batched_field: sessions
    lift:
      from: OldCreateSession
      fields: {client_id: client_id, session: session}
    entry_key: [client_id]
    require: [client_id, session]
    queue: {max_wait: 50s, max_bytes: 64MiB}
";

/// A running sidecar.
pub(crate) struct Served {
    pub(crate) stack: Stack,
    /// The embedded groups, if it has any.
    pub(crate) groups: Option<Groups>,
    _home: Option<TempDir>,
}

impl Served {
    /// Over an embedded group of its own.
    pub(crate) async fn embedded() -> Self {
        Self::embedded_with("").await
    }

    /// The same with more keys of the policy's `embedded`: `, groups: 4`.
    pub(crate) async fn embedded_with(more: &str) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let data_dir = home.path().join("ferry-data");
        let upstream = format!("  embedded: {{data_dir: {}{more}}}", data_dir.display());
        Self::over_groups_in(home, policy(&upstream)).await
    }

    /// As `ferry proxy` is without a policy file, over so many groups.
    pub(crate) async fn built_in(groups: u32) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let mut policy = Policy::embedded();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        policy.listen = vec![Listen::from(any)];
        policy.admin = Some(any);
        if let Upstream::Embedded {
            data_dir,
            groups: count,
            ..
        } = &mut policy.upstream
        {
            *data_dir = home.path().join("ferry-data");
            *count = groups.try_into().expect("at least one");
        }
        for method in &mut policy.methods {
            method.queue.max_wait = WITHIN;
        }
        Self::over_groups_in(home, policy).await
    }

    async fn over_groups_in(home: TempDir, policy: Policy) -> Self {
        let metrics = Metrics::default();
        let groups = stack::open_groups(&policy, &metrics).await;
        let groups = groups.expect("an empty directory").expect("it is embedded");
        let served = Self {
            stack: serve(&policy, Some(groups.clone()), metrics).await,
            groups: Some(groups),
            _home: Some(home),
        };
        let admin = served.admin();
        until("the group has a leader", async || {
            matches!(admin::fetch(admin, "/ready").await, Ok((200, _)))
        })
        .await;
        served
    }

    /// In front of a service elsewhere, one batch in flight at a time: while
    /// that one is held back, everything else waits.
    pub(crate) async fn before(upstream: SocketAddr) -> Self {
        let policy = policy(&one_at_a_time(upstream));
        Self {
            stack: serve(&policy, None, Metrics::default()).await,
            groups: None,
            _home: None,
        }
    }

    /// By the policy of [`Served::before`], with `from` replaced by `to`.
    pub(crate) async fn before_with(upstream: SocketAddr, from: &str, to: &str) -> Self {
        let yaml = policy_file(ANY, ANY, &one_at_a_time(upstream));
        assert!(yaml.contains(from), "{from:?} is not in\n{yaml}");
        Self::by(&yaml.replacen(from, to, 1)).await
    }

    /// By the policy file at `path`, as `ferry proxy --policy` reads it.
    pub(crate) async fn of_file(path: &Path) -> Self {
        let source = Source::new(path.to_owned(), |_| {});
        let policy = source.read().unwrap_or_else(|faults| panic!("{faults}"));
        let stack = Stack::of_source(&policy, Some(source), None, Metrics::default()).await;
        Self {
            stack: stack.expect("loopback has free ports"),
            groups: None,
            _home: None,
        }
    }

    /// As the policy in `yaml` says, which has an upstream elsewhere.
    pub(crate) async fn by(yaml: &str) -> Self {
        let policy = Policy::load(yaml, Path::new("test.yaml"));
        let policy = policy.unwrap_or_else(|faults| panic!("{faults}"));
        Self {
            stack: serve(&policy, None, Metrics::default()).await,
            groups: None,
            _home: None,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.stack.local_addr()
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.stack.admin_addr().expect("the policy names one")
    }

    pub(crate) async fn line(&self) -> Line {
        Line::open(self.address()).await
    }

    /// Waits until so many entries stand in windows.
    pub(crate) async fn until_queued(&self, entries: u32) {
        let admin = self.admin();
        until("so many entries wait", async || {
            admin::metric(admin, "ferry_queued_entries", "").await == f64::from(entries)
        })
        .await;
    }
}

/// An upstream that gets one batch at a time.
pub(crate) fn one_at_a_time(upstream: SocketAddr) -> String {
    format!(
        "  endpoints: [http://{upstream}]\n  limit: {{algorithm: fixed, max: 1}}\n  \
         batch_timeout: 100s"
    )
}

/// A whole policy file in front of `upstream`, which is its YAML.
pub(crate) fn policy_file(listen: SocketAddr, admin: SocketAddr, upstream: &str) -> String {
    format!(
        "version: 1\nlisten:\n  - address: {listen}\nadmin: {{address: {admin}}}\n\
         upstream:\n{upstream}\n{METHODS}"
    )
}

/// Any free loopback port.
pub(crate) const ANY: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn policy(upstream: &str) -> Policy {
    loaded(&policy_file(ANY, ANY, upstream))
}

fn loaded(yaml: &str) -> Policy {
    Policy::load(yaml, Path::new("test.yaml")).unwrap_or_else(|faults| panic!("{faults}"))
}

async fn serve(policy: &Policy, groups: Option<Groups>, metrics: Metrics) -> Stack {
    let stack = Stack::proxy(policy, groups, metrics).await;
    stack.expect("loopback has free ports")
}
