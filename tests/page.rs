//! The live page in a real Chromium, in each state that an operator meets.
//! FERRY_PICTURES=DIR keeps a picture of each.

use std::{env, net::SocketAddr, path::PathBuf, process::Stdio};

use serde_json::Value;
use tokio::process::Command;

use crate::{
    process::Sidecar,
    support::{
        admin,
        load::Loading,
        served::{ANY, Served, one_at_a_time, policy_file},
        upstream::{Upstream, refusal},
    },
};

/// Two samples and a figure: the page has something to tell.
const TELLS: &str = "document.getElementById('rate-in').textContent !== '–'";

/// How the page is looked at.
#[derive(Default)]
struct Look<'a> {
    until: &'a str,
    then: &'a str,
    phone: bool,
    dark: bool,
    /// How often Tab is pressed.
    tabs: u32,
    picture: &'a str,
}

impl Look<'_> {
    /// What the page shows once `until` holds.
    async fn at(&self, admin: SocketAddr) -> Value {
        let python = env::var_os("FERRY_PYTHON")
            .expect("FERRY_PYTHON is not set: run `make test`, which sets it");
        let script = crate::support::root().join("tests/python/browser.py");
        let mut browser = Command::new(python);
        browser
            .arg(script)
            .args(["--url", &format!("http://{admin}/")])
            .args(["--until", self.until, "--then", self.then])
            .args(["--tabs", &self.tabs.to_string()])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if self.phone {
            browser.args(["--width", "390", "--height", "844"]);
        }
        if self.dark {
            browser.arg("--dark");
        }
        if let Some(folder) = env::var_os("FERRY_PICTURES") {
            let file = PathBuf::from(folder)
                .join(self.picture)
                .with_extension("png");
            browser.arg("--picture").arg(file);
        }
        let ran = browser.output().await.expect("FERRY_PYTHON names a Python");
        let complained = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{complained}");
        serde_json::from_slice(&ran.stdout).expect("it prints one JSON object")
    }
}

fn text<'a>(shown: &'a Value, id: &str) -> &'a str {
    shown[id].as_str().expect("the page has this text")
}

/// What holds in every state.
fn assert_sound(shown: &Value) {
    assert_eq!(shown["overflow"], 0, "wider than its screen: {shown}");
    assert_eq!(shown["ghosts"], "0");
    assert_eq!(shown["console"], Value::Array(vec![]), "{shown}");
}

#[tokio::test]
async fn the_live_page_at_rest_says_that_nothing_is_sent_and_fits_a_phone() {
    let sidecar = Sidecar::start().await;
    let look = Look {
        until: TELLS,
        phone: true,
        dark: true,
        picture: "at-rest-phone-dark",
        ..Look::default()
    };
    let shown = look.at(sidecar.admin).await;
    assert_sound(&shown);
    assert_eq!(text(&shown, "state"), "ready");
    assert!(text(&shown, "sentence").starts_with("Idle"), "{shown}");
    let background = text(&shown, "background");
    assert_eq!(background, "rgb(16, 21, 27)", "dark was asked for");
}

#[tokio::test]
async fn the_live_page_under_load_says_how_many_proposals_are_saved() {
    let sidecar = Sidecar::start().await;
    let loading = Loading::start(sidecar.address, "page-");
    let look = Look {
        until: "/leave as/.test(document.getElementById('sentence').textContent)",
        then: "document.querySelectorAll('details').forEach((one) => { one.open = true; })",
        tabs: 2,
        picture: "under-load",
        ..Look::default()
    };
    let shown = look.at(sidecar.admin).await;
    let phone = Look {
        phone: true,
        picture: "under-load-phone",
        ..look
    };
    let on_phone = phone.at(sidecar.admin).await;
    loading.stop();
    assert_sound(&shown);
    assert_sound(&on_phone);
    let sentence = text(&shown, "sentence");
    assert!(sentence.contains("proposals saved"), "{sentence}");
    assert!(
        text(&shown, "method-rows").contains("MqttService/CreateSession"),
        "{shown}"
    );
    assert!(text(&shown, "chart").starts_with("limit "), "{shown}");
    assert!(!text(&shown, "group-rows").is_empty(), "{shown}");
    let without = text(&shown, "p50-note");
    assert!(without.ends_with("s without the queue"), "{without}");
    let skip = serde_json::json!([["Skip to the methods", "solid"], ["pause", "solid"]]);
    assert_eq!(shown["tabbed"], skip, "each shows that it has the focus");
    assert!(text(&shown, "policy").contains("CreateSession"), "{shown}");
}

/// A sidecar in front of `upstream`, whose callers may wait for little.
async fn hurried(upstream: SocketAddr) -> Sidecar {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let policy = policy_file(any, any, &one_at_a_time(upstream));
    Sidecar::with_policy(&policy.replace(
        "max_bytes: 64MiB",
        "max_bytes: 1KiB}\n    window: {max_bytes: 1KiB",
    ))
    .await
}

#[tokio::test]
async fn the_live_page_while_shedding_names_the_reason_in_words_and_not_by_colour_alone() {
    let upstream = Upstream::holding().await;
    let sidecar = hurried(upstream.address).await;
    let (code, told) = admin::post(sidecar.admin, "/reload", "").await;
    assert_eq!(code, 200, "{told}");
    let loading = Loading::start(sidecar.address, "page-");
    let look = Look {
        until: "document.getElementById('tile-shed').dataset.state === 'bad' \
                && /reloaded/.test(document.getElementById('reloads').textContent)",
        picture: "while-shedding",
        ..Look::default()
    };
    let shown = look.at(sidecar.admin).await;
    upstream.answer_all();
    loading.stop();
    assert_sound(&shown);
    assert!(text(&shown, "shed-note").contains("/s"), "{shown}");
    assert_eq!(text(&shown, "state"), "ready, but calls are shed");
    let sentence = text(&shown, "sentence");
    assert!(sentence.contains("are refused for load"), "{sentence}");
    assert!(!sentence.contains("Idle"), "{sentence}");
    let reloads = text(&shown, "reloads");
    assert!(reloads.starts_with("✓ reloaded"), "{reloads}");
}

#[tokio::test]
async fn the_live_page_with_the_upstream_refusing_lists_the_failed_batches() {
    let upstream = Upstream::answering().await;
    // It is reached, and then takes nothing more.
    let sidecar = hurried(upstream.address).await;
    for _ in 0..100_000 {
        upstream.refuse(refusal());
    }
    let loading = Loading::start(sidecar.address, "page-");
    let look = Look {
        until: "document.getElementById('ghosts').textContent !== '–' \
                && /failed/.test(document.getElementById('recent').textContent)",
        dark: true,
        picture: "upstream-refusing-dark",
        ..Look::default()
    };
    let shown = look.at(sidecar.admin).await;
    loading.stop();
    assert_sound(&shown);
    assert!(text(&shown, "recent").contains("CreateSession"), "{shown}");
}

#[tokio::test]
async fn the_live_page_with_the_upstream_down_says_which_endpoint_cannot_be_reached() {
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
        listener.local_addr().expect("it is bound")
    };
    // In this process: it never is ready, which the others are waited for.
    let served = Served::by(&policy_file(ANY, ANY, &one_at_a_time(nobody))).await;
    let loading = Loading::start(served.address(), "page-");
    let look = Look {
        until: "document.getElementById('tile-failed').dataset.state === 'bad'",
        picture: "upstream-down",
        ..Look::default()
    };
    let shown = look.at(served.admin()).await;
    loading.stop();
    assert_sound(&shown);
    let state = text(&shown, "state");
    assert!(state.starts_with("not ready"), "{state}");
    assert!(state.contains(&nobody.to_string()), "{state}");
    assert!(
        text(&shown, "sentence").contains("calls a second fail"),
        "{shown}"
    );
}
