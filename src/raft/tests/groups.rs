//! What several groups of one node promise together.

use std::{collections::BTreeSet, path::Path};

use prometheus::Registry;

use super::{crash_image, create};
use crate::{
    raft::{GroupSettings, Groups, OpenError, Runtime, command::Applied, network::Badge},
    telemetry::names,
};

fn settings(path: &Path, groups: u32, runtime: Runtime) -> GroupSettings {
    let mut settings = GroupSettings::new(path);
    settings.identity.groups = groups;
    settings.runtime = runtime;
    settings
}

async fn open(path: &Path, groups: u32, runtime: Runtime) -> Groups {
    Groups::open(settings(path, groups, runtime), &Registry::new())
        .await
        .unwrap()
}

async fn put(groups: &Groups, client_id: &str) {
    let group = groups.of(&[client_id.as_bytes()]);
    let applied = group.propose(create(&[(client_id, client_id)]), 1).await;
    assert_eq!(applied, Ok(Applied::Done));
}

fn has(groups: &Groups, client_id: &str) -> bool {
    let sessions = groups.of(&[client_id.as_bytes()]).sessions();
    sessions.get(client_id.as_bytes()).unwrap().is_some()
}

#[tokio::test]
async fn every_group_keeps_its_own_keys_through_a_crash_and_a_restart() {
    for runtime in [Runtime::Shared, Runtime::Dedicated] {
        let home = tempfile::tempdir().unwrap();
        let groups = open(home.path(), 4, runtime).await;
        assert!(groups.is_ready());
        let ids: Vec<_> = (0..200).map(|n| format!("client-{n}")).collect();
        futures_util::future::join_all(ids.iter().map(|id| put(&groups, id))).await;
        let counts = groups.all().iter().map(|g| g.sessions().count().unwrap());
        let counts: Vec<_> = counts.collect();
        assert_eq!(counts.iter().sum::<u64>(), 200);
        assert!(counts.iter().all(|&count| count > 0), "{counts:?}");

        let image = tempfile::tempdir().unwrap();
        crash_image(home.path(), image.path());
        let left = open(image.path(), 4, runtime).await;
        assert!(ids.iter().all(|id| has(&left, id)), "{runtime:?}, crashed");

        groups.shutdown().await.unwrap();
        groups.shutdown().await.unwrap();
        let again = open(home.path(), 4, runtime).await;
        assert!(ids.iter().all(|id| has(&again, id)), "{runtime:?}, closed");
    }
}

#[tokio::test]
async fn another_number_of_groups_on_the_same_data_is_refused_with_the_remedy() {
    let home = tempfile::tempdir().unwrap();
    let groups = open(home.path(), 2, Runtime::Shared).await;
    groups.shutdown().await.unwrap();
    for other in [1, 4] {
        let settings = settings(home.path(), other, Runtime::Shared);
        let refused = Groups::open(settings, &Registry::new()).await.unwrap_err();
        let refused = refused.to_string();
        assert!(refused.contains("laid out for groups: 2"), "{refused}");
        assert!(refused.contains("set groups to 2"), "{refused}");
    }
    open(home.path(), 2, Runtime::Shared).await;
}

#[tokio::test]
async fn no_group_and_too_many_are_refused() {
    let home = tempfile::tempdir().unwrap();
    for groups in [0, 65] {
        let settings = settings(home.path(), groups, Runtime::Shared);
        let refused = Groups::open(settings, &Registry::new()).await.unwrap_err();
        assert!(matches!(refused, OpenError::Groups { .. }), "{refused}");
    }
}

#[tokio::test]
async fn each_group_has_metrics_of_its_own_and_the_log_has_one_set() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::new();
    let groups = Groups::open(settings(home.path(), 2, Runtime::Shared), &registry)
        .await
        .unwrap();
    for n in 0..20 {
        put(&groups, &format!("client-{n}")).await;
    }
    let families = registry.gather();
    let labels = |name: &str| -> BTreeSet<String> {
        let family = families.iter().find(|family| family.name() == name);
        let series = family.unwrap().get_metric().iter();
        series
            .flat_map(|metric| metric.get_label())
            .map(|label| format!("{}={}", label.name(), label.value()))
            .collect()
    };
    for name in [names::RAFT_WRITE_SUCCESS, names::RAFT_APPLY_BATCH_SECONDS] {
        assert_eq!(labels(name), ["group=0".into(), "group=1".into()].into());
    }
    for name in [names::RAFT_LOG_SYNC_SECONDS, names::RAFT_PROPOSALS_PER_SYNC] {
        assert_eq!(labels(name), BTreeSet::new());
    }
    groups.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_group_that_does_not_open_leaves_the_directory_to_the_next_attempt() {
    let home = tempfile::tempdir().unwrap();
    let groups = open(home.path(), 2, Runtime::Shared).await;
    groups.shutdown().await.unwrap();
    let current = home.path().join("group-1/CURRENT");
    let whole = std::fs::read(&current).unwrap();
    std::fs::write(&current, "state-junk/..").unwrap();
    let settings = settings(home.path(), 2, Runtime::Shared);
    Groups::open(settings, &Registry::new()).await.unwrap_err();
    std::fs::write(&current, whole).unwrap();
    open(home.path(), 2, Runtime::Shared).await;
}

#[tokio::test]
async fn the_directory_of_a_clusters_node_is_refused_to_whoever_opens_it_alone() {
    let home = tempfile::tempdir().unwrap();
    let badge = Badge::open(home.path(), "ferry", 1).unwrap();
    badge.adopt("a").unwrap();
    let settings = settings(home.path(), 1, Runtime::Shared);
    let refused = Groups::open(settings, &Registry::new()).await.unwrap_err();
    assert!(matches!(refused, OpenError::Member { .. }), "{refused}");
    let refused = refused.to_string();
    assert!(refused.contains("start it with --config"), "{refused}");
}
