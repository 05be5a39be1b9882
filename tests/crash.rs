//! `kill -9` under load, again and again: what was acknowledged is there.

use ferry::{
    raft::{Group, GroupSettings},
    telemetry::Metrics,
};

use crate::{
    process::Sidecar,
    support::{client::Line, load::Loading},
};

/// Times that it is killed.
const KILLS: u32 = 4;
/// Sessions acknowledged before each.
const SESSIONS: u64 = 1_500;

#[tokio::test]
async fn killed_under_load_again_and_again_it_has_every_acknowledged_session() {
    let mut home = tempfile::tempdir().expect("a temporary directory can be made");
    let mut loads = Vec::new();
    for kill in 0..KILLS {
        let sidecar = Sidecar::start_again(home).await;
        let loading = Loading::start(sidecar.address, &format!("kill-{kill}-"));
        loading.until_acknowledged(SESSIONS).await;
        home = sidecar.kill().await;
        loads.push(loading.stop());
    }
    let total: u64 = loads.iter().map(|load| load.acknowledged.total()).sum();
    assert!(total >= u64::from(KILLS) * SESSIONS);

    let sidecar = Sidecar::start_again(home).await;
    let line = Line::open(sidecar.address).await;
    for loaded in &loads {
        assert_eq!(loaded.missing(&line).await, Vec::<String>::new());
    }
    // It takes new ones too.
    line.create("after", b"session").await;

    // Once more in the group's own words: id by id, byte by byte.
    let home = sidecar.kill().await;
    let (settings, metrics) = (
        GroupSettings::new(home.path().join("ferry-data")),
        Metrics::default(),
    );
    let group = Group::open(settings, metrics.registry());
    let group = group.await.expect("the directory is free again");
    for loaded in &loads {
        for number in loaded.acknowledged.iter() {
            let client_id = loaded.sessions.client_id(number);
            let found = group.sessions().get(client_id.as_bytes());
            let found = found.expect("the group is open");
            let meant = loaded.sessions.value(number);
            assert_eq!(found.as_deref(), Some(&meant[..]), "{client_id}");
        }
    }
    group.shutdown().await.expect("an orderly end");
}
