//! What a group promises to whoever calls it.

use std::{sync::Arc, time::Duration};

use prometheus::{Registry, proto::MetricFamily};

use super::{crash_image, create, delete, encoded, listed, open};
use crate::{
    raft::{
        Group, GroupSettings, Identity, OpenError, Pipeline, ProposeError,
        command::{Applied, Kind},
    },
    telemetry::names,
};

fn pair(client_id: &str, session: &str) -> (String, String) {
    (client_id.into(), session.into())
}

fn family(registry: &Registry, name: &str) -> MetricFamily {
    registry
        .gather()
        .into_iter()
        .find(|family| family.name() == name)
        .unwrap()
}

/// How many observations a histogram has, and their sum.
fn observed(registry: &Registry, name: &str) -> (u64, f64) {
    let family = family(registry, name);
    let histogram = family.get_metric()[0].get_histogram();
    (histogram.get_sample_count(), histogram.get_sample_sum())
}

async fn open_serial(path: &std::path::Path, registry: &Registry) -> Group {
    let mut settings = GroupSettings::new(path);
    settings.pipeline = Pipeline::Serial;
    Group::open(settings, registry).await.unwrap()
}

#[tokio::test]
async fn what_is_proposed_is_applied_and_read_back() {
    let home = tempfile::tempdir().unwrap();
    let group = open(home.path()).await;
    assert!(group.is_ready());
    let applied = group.propose(create(&[("b", "2"), ("a", "1")]), 2).await;
    assert_eq!(applied, Ok(Applied::Done));
    assert_eq!(group.propose(delete("b"), 1).await, Ok(Applied::Done));
    assert_eq!(listed(&group), [pair("a", "1")]);
    assert_eq!(group.sessions().get(b"a").unwrap().unwrap(), "1");
    assert_eq!(group.sessions().get(b"b").unwrap(), None);
    assert_eq!(group.sessions().count().unwrap(), 1);
    assert_eq!((group.proposals(), group.ghosts()), (2, 0));
}

#[tokio::test]
async fn a_command_that_does_not_parse_applies_nothing_and_stops_nobody() {
    let home = tempfile::tempdir().unwrap();
    let group = open(home.path()).await;
    // One good session, then a cut-off one.
    let bad = encoded(Kind::CreateSession, b"\x0a\x06\x0a\x01x\x12\x01y\x0a\x20");
    let (bad, good) = tokio::join!(
        group.propose(bad, 2),
        group.propose(create(&[("a", "1")]), 1)
    );
    assert_eq!((bad, good), (Ok(Applied::Malformed), Ok(Applied::Done)));
    assert_eq!(listed(&group), [pair("a", "1")]);
    assert!(group.is_ready());
}

#[tokio::test]
async fn a_proposal_enters_the_line_when_it_is_made_and_stays_when_its_caller_leaves() {
    for pipeline in [Pipeline::Full, Pipeline::Serial] {
        let home = tempfile::tempdir().unwrap();
        let mut settings = GroupSettings::new(home.path());
        settings.pipeline = pipeline;
        let group = Group::open(settings, &Registry::new()).await.unwrap();
        drop(group.propose(create(&[("left", "1")]), 1));
        assert_eq!(
            group.propose(create(&[("stayed", "2")]), 1).await,
            Ok(Applied::Done)
        );
        assert_eq!(
            listed(&group),
            [pair("left", "1"), pair("stayed", "2")],
            "{pipeline:?}"
        );
    }
}

#[tokio::test]
async fn serial_is_exactly_one_proposal_a_sync() {
    const COUNT: u64 = 200;
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::new();
    let group = open_serial(home.path(), &registry).await;
    let (syncs_before, entries_before) = observed(&registry, names::RAFT_PROPOSALS_PER_SYNC);
    let proposals: Vec<_> = (0..COUNT)
        .map(|n| group.propose(create(&[(&format!("{n}"), "session")]), 1))
        .collect();
    for proposal in proposals {
        assert_eq!(proposal.await, Ok(Applied::Done));
    }
    let (syncs, entries) = observed(&registry, names::RAFT_PROPOSALS_PER_SYNC);
    assert_eq!(syncs - syncs_before, COUNT);
    assert_eq!(entries - entries_before, COUNT as f64);
    assert_eq!(group.proposals(), COUNT);
}

#[tokio::test]
async fn the_full_pipeline_makes_many_proposals_durable_with_one_sync() {
    const COUNT: u64 = 2_000;
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::new();
    let group = Group::open(GroupSettings::new(home.path()), &registry)
        .await
        .unwrap();
    let (before, _) = observed(&registry, names::RAFT_PROPOSALS_PER_SYNC);
    let proposals: Vec<_> = (0..COUNT)
        .map(|n| group.propose(create(&[(&format!("{n}"), "session")]), 1))
        .collect();
    for proposal in proposals {
        assert_eq!(proposal.await, Ok(Applied::Done));
    }
    let (syncs, _) = observed(&registry, names::RAFT_PROPOSALS_PER_SYNC);
    assert!(
        syncs - before < COUNT / 2,
        "{} syncs for {COUNT} proposals",
        syncs - before
    );
    assert_eq!(group.sessions().count().unwrap(), COUNT);
}

#[tokio::test]
async fn ghosts_are_the_entries_proposed_after_their_caller_had_left() {
    let home = tempfile::tempdir().unwrap();
    let group = open_serial(home.path(), &Registry::new()).await;
    // All in line before the first is taken: this test has the only thread.
    let stayed = group.propose(create(&[("first", "1")]), 1);
    drop(group.propose(create(&[("a", "1"), ("b", "2")]), 2));
    drop(group.propose(create(&[("c", "3")]), 1));
    let last = group.propose(create(&[("last", "4")]), 1);
    assert_eq!(stayed.await, Ok(Applied::Done));
    assert_eq!(last.await, Ok(Applied::Done));
    assert_eq!((group.proposals(), group.ghosts()), (4, 3));
    assert_eq!(
        group.sessions().count().unwrap(),
        5,
        "a ghost is applied all the same"
    );
}

#[tokio::test]
async fn the_metrics_tell_what_happened() {
    let home = tempfile::tempdir().unwrap();
    let registry = Registry::new();
    let group = Group::open(GroupSettings::new(home.path()), &registry)
        .await
        .unwrap();
    for n in 0..3 {
        group
            .propose(create(&[(&format!("{n}"), "session")]), 1)
            .await
            .unwrap();
    }
    let counter = |name| {
        family(&registry, name).get_metric()[0]
            .get_counter()
            .get_value()
    };
    assert_eq!(counter(names::RAFT_WRITE_REQUESTS), 3.0);
    assert_eq!(counter(names::RAFT_WRITE_SUCCESS), 3.0);
    assert_eq!(counter(names::RAFT_WRITE_FAILURES), 0.0);
    assert_eq!(observed(&registry, names::RAFT_WRITE_SECONDS).0, 3);
    for name in [
        names::RAFT_LOG_APPEND_SECONDS,
        names::RAFT_LOG_SYNC_SECONDS,
        names::RAFT_APPLY_BATCH_SECONDS,
    ] {
        assert!(observed(&registry, name).0 >= 3, "{name}");
    }
    let lag = family(&registry, names::RAFT_APPLY_LAG).get_metric()[0]
        .get_gauge()
        .get_value();
    assert_eq!(lag, 0.0);
}

#[tokio::test]
async fn after_a_shutdown_everything_is_answered_and_nothing_is_written() {
    for pipeline in [Pipeline::Full, Pipeline::Serial] {
        let home = tempfile::tempdir().unwrap();
        let mut settings = GroupSettings::new(home.path());
        settings.pipeline = pipeline;
        let group = Group::open(settings, &Registry::new()).await.unwrap();
        let inside: Vec<_> = (0..100)
            .map(|n| group.propose(create(&[(&format!("{n:03}"), "s")]), 1))
            .collect();
        group.shutdown().await.unwrap();
        group.shutdown().await.unwrap();
        assert!(!group.is_ready());
        let late = group.propose(create(&[("late", "s")]), 1).await;
        assert!(late.is_err(), "{late:?}");
        let mut acknowledged = Vec::new();
        for (n, proposal) in inside.into_iter().enumerate() {
            match proposal.await {
                Ok(Applied::Done) => acknowledged.push(format!("{n:03}")),
                Ok(other) => panic!("{other:?}: it parses, and expects nothing"),
                Err(ProposeError::Refused(_) | ProposeError::Unknown(_)) => {}
            }
        }
        let again = open(home.path()).await;
        for client_id in acknowledged {
            assert!(
                again
                    .sessions()
                    .get(client_id.as_bytes())
                    .unwrap()
                    .is_some(),
                "{client_id}"
            );
        }
        assert!(again.sessions().get(b"late").unwrap().is_none());
    }
}

#[tokio::test]
async fn a_directory_is_served_by_one_group_at_a_time() {
    let home = tempfile::tempdir().unwrap();
    let group = open(home.path()).await;
    let Err(error) = Group::open(GroupSettings::new(home.path()), &Registry::new()).await else {
        panic!("the directory was opened twice");
    };
    let line = error.to_string();
    assert!(line.contains("in use by another process"), "{line}");
    assert!(line.contains(&home.path().display().to_string()), "{line}");
    assert!(!line.contains('\n'), "{line}");
    group.shutdown().await.unwrap();
    open(home.path()).await;
}

#[tokio::test]
async fn a_directory_of_another_node_is_refused_and_so_are_settings_for_several_groups() {
    let home = tempfile::tempdir().unwrap();
    open(home.path()).await.shutdown().await.unwrap();
    let mut settings = GroupSettings::new(home.path());
    settings.identity.node = 2;
    let refused = Group::open(settings.clone(), &Registry::new())
        .await
        .err()
        .unwrap();
    assert!(
        refused.to_string().contains("belongs to node 1"),
        "{refused}"
    );
    settings.identity = Identity {
        groups: 4,
        ..settings.identity
    };
    let refused = Group::open(settings, &Registry::new()).await.err().unwrap();
    assert!(
        matches!(refused, OpenError::Groups { groups: 4 }),
        "{refused}"
    );
}

#[tokio::test]
async fn a_listing_shows_one_moment_and_ends_when_the_group_is_shut_down() {
    let home = tempfile::tempdir().unwrap();
    let group = open(home.path()).await;
    let ids: Vec<_> = (0..1_000).map(|n| format!("{n:04}")).collect();
    let pairs: Vec<_> = ids.iter().map(|id| (id.as_str(), "session")).collect();
    group.propose(create(&pairs), 1_000).await.unwrap();

    let (reached, is_reached) = std::sync::mpsc::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let sessions = group.sessions();
    let listing = tokio::task::spawn_blocking(move || {
        let mut seen = 0;
        let result = sessions.for_each(|_, _| {
            seen += 1;
            if seen == 1 {
                reached.send(()).unwrap();
                may_go_on.recv().unwrap();
            }
            std::ops::ControlFlow::Continue(())
        });
        (seen, result)
    });
    tokio::task::spawn_blocking(move || is_reached.recv().unwrap())
        .await
        .unwrap();
    group
        .propose(create(&[("0000x", "later")]), 1)
        .await
        .unwrap();
    let closing = {
        let group = group.clone();
        tokio::spawn(async move { group.shutdown().await })
    };
    while group.sessions().get(b"0000").is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    go_on.send(()).unwrap();
    let (seen, result) = listing.await.unwrap();
    assert!(
        result.is_err() && seen < 1_000,
        "{seen} seen, then {result:?}"
    );
    closing.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_from_many_tasks_are_each_answered_once() {
    let home = tempfile::tempdir().unwrap();
    let group = Arc::new(open(home.path()).await);
    let tasks: Vec<_> = (0..50)
        .map(|task| {
            let group = Arc::clone(&group);
            tokio::spawn(async move {
                for n in 0..20 {
                    let id = format!("{task:02}-{n:02}");
                    assert_eq!(
                        group.propose(create(&[(&id, &id)]), 1).await,
                        Ok(Applied::Done)
                    );
                    // An answer means that it can be read, here and now.
                    assert_eq!(group.sessions().get(id.as_bytes()).unwrap().unwrap(), id);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(group.sessions().count().unwrap(), 1_000);
    // Not shut down: what a crash would leave has all of it.
    let image = tempfile::tempdir().unwrap();
    crash_image(home.path(), image.path());
    assert_eq!(open(image.path()).await.sessions().count().unwrap(), 1_000);
}
