//! A real Prometheus scrapes a real sidecar under load, and every query that
//! `deploy/` ships is asked of it. scripts/setup installs Prometheus.

use std::{collections::BTreeSet, fs, net::SocketAddr, path::PathBuf, process::Stdio};

use ferry::telemetry::names;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

use crate::{
    process::Sidecar,
    support::{admin, load::Loading, until},
};

fn shipped(path: &str) -> PathBuf {
    crate::support::root().join("deploy").join(path)
}

/// The queries of the dashboard, with their panels' titles.
fn dashboard() -> Vec<(String, String)> {
    let text = fs::read_to_string(shipped("grafana/ferry.json")).expect("the dashboard ships");
    let dashboard: Value = serde_json::from_str(&text).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let of = |panel: &Value| {
        let title = panel["title"].as_str().unwrap_or_default().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets
            .into_iter()
            .map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
    };
    panels.iter().flat_map(of).collect()
}

/// Words of a query that begin as ferry's metrics do.
fn metrics_of(query: &str) -> BTreeSet<&str> {
    query
        .split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'))
        .filter(|word| word.starts_with("ferry_"))
        .map(|word| {
            ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| word.strip_suffix(end))
                .unwrap_or(word)
        })
        .collect()
}

#[test]
fn every_query_that_is_shipped_names_metrics_that_exist() {
    let alerts = fs::read_to_string(shipped("prometheus/alerts.yml")).expect("the alerts ship");
    let queries = dashboard().into_iter().map(|(_, query)| query);
    let mut named = 0;
    for query in queries.chain([alerts]) {
        for metric in metrics_of(&query) {
            assert!(names::ALL.contains(&metric), "{metric} in {query}");
            named += 1;
        }
    }
    assert!(named > 40, "only {named} metrics were found in the queries");
}

#[tokio::test]
async fn the_alerts_fire_in_trouble_and_only_then() {
    let test = Command::new("promtool")
        .args(["test", "rules"])
        .arg(shipped("prometheus/alerts_test.yml"))
        .output()
        .await
        .expect("make test installs Prometheus");
    let said = String::from_utf8_lossy(&test.stdout);
    let complained = String::from_utf8_lossy(&test.stderr);
    assert!(test.status.success(), "{said}{complained}");
}

/// What there is nothing of where no entry had to go alone and no method is
/// observed (`tests/observe.rs` looks at that).
const LATER: [&str; 6] = [
    names::ENTRIES_ALONE,
    names::OBSERVED_CALLS,
    names::OBSERVED_ALONE,
    names::OBSERVED_BATCHES,
    names::OBSERVED_BATCH_ENTRIES,
    names::OBSERVED_CALLS_SAVED,
];

/// A Prometheus of the test's own, as `deploy/prometheus` sets it up.
struct Prometheus {
    address: SocketAddr,
    _process: Child,
    _home: TempDir,
}

impl Prometheus {
    async fn scraping(target: SocketAddr) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let config = fs::read_to_string(shipped("prometheus/prometheus.yml")).expect("it ships");
        let config = config
            .replace("127.0.0.1:9901", &target.to_string())
            .replace("interval: 5s", "interval: 1s");
        let path = home.path().join("prometheus.yml");
        fs::write(&path, config).expect("the temporary directory is writable");
        fs::copy(
            shipped("prometheus/alerts.yml"),
            home.path().join("alerts.yml"),
        )
        .expect("the temporary directory is writable");
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let address = free.local_addr().expect("it is bound");
        drop(free);
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", path.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                home.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("make test installs Prometheus");
        until("Prometheus is ready", async || {
            matches!(admin::fetch(address, "/-/ready").await, Ok((200, _)))
        })
        .await;
        Self {
            address,
            _process: process,
            _home: home,
        }
    }

    /// How many series a query answers with now.
    async fn series(&self, query: &str) -> usize {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let path = format!("/api/v1/query?query={encoded}");
        let (code, body) = admin::fetch(self.address, &path).await.expect("it answers");
        assert_eq!(code, 200, "{query}: {body}");
        let body: Value = serde_json::from_str(&body).expect("it answers JSON");
        body["data"]["result"].as_array().map_or(0, Vec::len)
    }
}

#[tokio::test]
async fn every_panel_of_the_dashboard_has_data_after_a_run_and_the_metrics_are_well_formed() {
    let sidecar = Sidecar::start().await;
    let loading = Loading::start(sidecar.address, "prometheus-");
    loading.until_acknowledged(200).await;
    let prometheus = Prometheus::scraping(sidecar.admin).await;
    let asked = "sum(rate(ferry_batches_total[1m]))";
    until("there are two scrapes", async || {
        prometheus.series(asked).await > 0
    })
    .await;
    for (panel, query) in dashboard() {
        let query = query.replace("$__rate_interval", "1m");
        assert!(
            prometheus.series(&query).await > 0,
            "{panel}: no data for {query}"
        );
    }
    loading.stop();
    let (_, text) = admin::fetch(sidecar.admin, "/metrics")
        .await
        .expect("it answers");
    for name in names::ALL.iter().filter(|name| !LATER.contains(name)) {
        assert!(text.contains(&format!("# HELP {name} ")), "{name}: {text}");
        let unit = name.ends_with("_seconds").then_some("in seconds");
        let help = text
            .lines()
            .find(|line| line.starts_with(&format!("# HELP {name} ")));
        let help = help.expect("it was found before");
        assert!(help.contains(unit.unwrap_or_default()), "{help}");
    }
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("make test installs Prometheus");
    let mut stdin = promtool.stdin.take().expect("it is piped");
    stdin.write_all(text.as_bytes()).await.expect("it reads");
    drop(stdin);
    let told = promtool.wait_with_output().await.expect("it ends");
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.is_empty(), "{told}");
}
