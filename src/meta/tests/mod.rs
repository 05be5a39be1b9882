//! What a node answers, over groups of its own on a real disk.

mod writes;

use std::{task::Poll, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use prometheus::Registry;
use tonic::Request;

use super::{
    listing::{LISTING_STALL, LISTING_WAIT, LISTINGS_MAX},
    *,
};
use crate::{
    proto::{
        meta::{
            DeleteRequest, ExistsRequest, GetOffsetDataRequest, GetPrefixRequest, GetRequest,
            SaveOffsetData, SaveOffsetDataRequest, SaveOffsetDataRequestOffset, SetRaw, SetRequest,
            meta_service_service_server::MetaServiceService as _,
        },
        mqtt::{
            CreateSessionRaw, CreateSessionRequest, DeleteSessionRaw, DeleteSessionRequest,
            DeleteSubscribeRequest, ListSessionReply, ListSessionRequest, ListSubscribeRequest,
            SetSubscribeRaw, SetSubscribeRequest, mqtt_service_server::MqttService as _,
        },
    },
    raft::{GroupSettings, command::NAME_MAX},
};

/// Looks at what another thread is about to do; only a fault needs so many.
const WAITS_MAX: usize = 10_000;

struct Node {
    service: MetaService,
    _home: tempfile::TempDir,
}

async fn node() -> Node {
    node_of(1).await
}

async fn node_of(groups: u32) -> Node {
    let home = tempfile::tempdir().unwrap();
    let mut settings = GroupSettings::new(home.path());
    settings.identity.groups = groups;
    let groups = Groups::open(settings, &Registry::new()).await.unwrap();
    Node {
        service: MetaService::new(groups),
        _home: home,
    }
}

impl Node {
    async fn create(&self, sessions: &[(&str, &str)]) -> Result<(), Status> {
        let sessions = sessions
            .iter()
            .map(|&(client_id, session)| CreateSessionRaw {
                client_id: client_id.into(),
                session: Bytes::copy_from_slice(session.as_bytes()),
            })
            .collect();
        let request = Request::new(CreateSessionRequest { sessions });
        self.service.create_session(request).await.map(|_| ())
    }

    async fn delete(&self, client_id: &str) -> Result<(), Status> {
        let request = DeleteSessionRequest {
            tenant: "any".into(),
            client_id: client_id.into(),
            sessions: Vec::new(),
        };
        self.service
            .delete_session(Request::new(request))
            .await
            .map(|_| ())
    }

    async fn list(&self, client_id: &str) -> Vec<Bytes> {
        let request = ListSessionRequest {
            tenant: String::new(),
            client_id: client_id.into(),
        };
        let stream = self
            .service
            .list_session(Request::new(request))
            .await
            .unwrap();
        stream
            .into_inner()
            .map(|reply| reply.unwrap().session)
            .collect()
            .await
    }
}

#[tokio::test]
async fn what_was_created_is_listed_until_it_is_deleted() {
    let node = node().await;
    node.create(&[("a", "1"), ("b", "2"), ("a", "3")])
        .await
        .unwrap();
    assert_eq!(node.list("a").await, ["3"]);
    assert_eq!(node.list("").await, ["3", "2"]);
    node.delete("a").await.unwrap();
    assert!(node.list("a").await.is_empty());
    assert_eq!(node.list("").await, ["2"]);
    node.delete("a").await.unwrap();
}

#[tokio::test]
async fn a_batch_of_several_groups_is_split_and_every_session_found_and_deleted() {
    let node = node_of(4).await;
    let ids: Vec<String> = (0..100).map(|n| format!("client-{n:02}")).collect();
    let pairs: Vec<_> = ids.iter().map(|id| (id.as_str(), id.as_str())).collect();
    node.create(&pairs).await.unwrap();
    assert_eq!(node.service.groups.proposals(), 4, "one for each group");
    for group in node.service.groups.all() {
        assert!(group.sessions().count().unwrap() > 0, "{group:?}");
    }
    let mut all = node.list("").await;
    all.sort();
    assert_eq!(all, ids);
    for id in &ids {
        assert_eq!(node.list(id).await, [id.as_bytes()]);
        node.delete(id).await.unwrap();
    }
    assert!(node.list("").await.is_empty());
}

#[test]
fn a_batch_is_unavailable_only_where_no_group_applied_its_part() {
    let unavailable = || Err(Status::unavailable("why"));
    assert!(together(vec![Ok(true), Ok(true)]).is_ok());
    let none = together(vec![unavailable(), unavailable()]).unwrap_err();
    assert_eq!(none.code(), Code::Unavailable);
    let some = together(vec![Ok(true), unavailable()]).unwrap_err();
    assert_eq!(some.code(), Code::Unknown);
    let unknown = together(vec![unavailable(), Err(Status::unknown("why"))]).unwrap_err();
    assert_eq!(unknown.code(), Code::Unknown);
}

#[tokio::test]
async fn a_bad_entry_refuses_the_batch_and_is_named() {
    let node = node().await;
    let long = "x".repeat(NAME_MAX + 1);
    for (sessions, named) in [
        (&[][..], "sessions: 0"),
        (
            &[("a", "1"), ("b", "2"), ("", "3")],
            "sessions[2].client_id: it is empty",
        ),
        (&[("a", "1"), ("b", "")], "sessions[1].session: it is empty"),
        (
            &[(long.as_str(), "1")],
            "it is 65536 bytes; it must be at most 65535",
        ),
    ] {
        let status = node.create(sessions).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(named), "{status}");
    }
    let status = node.delete("").await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        node.list("").await.is_empty(),
        "nothing of a refused batch is applied"
    );
    assert_eq!(
        node.service.groups.proposals(),
        0,
        "nor does it reach the log"
    );
}

#[tokio::test]
async fn a_listing_that_nobody_reads_holds_a_bounded_number_of_sessions() {
    let node = node().await;
    let ids: Vec<String> = (0..2_000).map(|n| format!("{n:05}")).collect();
    let pairs: Vec<_> = ids.iter().map(|id| (id.as_str(), "session")).collect();
    node.create(&pairs).await.unwrap();

    let request = ListSessionRequest::default();
    let mut unread = node
        .service
        .list_session(Request::new(request))
        .await
        .unwrap()
        .into_inner();
    let first = unread.next().await.unwrap().unwrap();
    assert_eq!(first.session, "session");
    // The rest waits for the caller: writes and other listings go on.
    node.create(&[("later", "session")]).await.unwrap();
    assert_eq!(node.list("").await.len(), 2_001);
    // It shows the moment it began at, whatever came since.
    assert_eq!(unread.count().await, 1_999);
}

#[tokio::test]
async fn a_caller_that_leaves_its_listing_makes_room_for_another() {
    let node = node().await;
    let ids: Vec<String> = (0..2_000).map(|n| format!("{n:05}")).collect();
    let pairs: Vec<_> = ids.iter().map(|id| (id.as_str(), "session")).collect();
    node.create(&pairs).await.unwrap();
    for _ in 0..3 * LISTINGS_MAX {
        let request = Request::new(ListSessionRequest::default());
        let mut left = node
            .service
            .list_session(request)
            .await
            .unwrap()
            .into_inner();
        left.next().await.unwrap().unwrap();
    }
    assert_eq!(node.list("").await.len(), 2_000);
}

/// As many listings as may run, of which nobody reads more than the first of
/// 2,000 sessions.
async fn unread(node: &Node) -> Vec<Listing<ListSessionReply>> {
    let ids: Vec<String> = (0..2_000).map(|n| format!("{n:05}")).collect();
    let pairs: Vec<_> = ids.iter().map(|id| (id.as_str(), "session")).collect();
    node.create(&pairs).await.unwrap();
    let mut unread = Vec::new();
    for _ in 0..LISTINGS_MAX {
        let request = Request::new(ListSessionRequest::default());
        let listing = node.service.list_session(request).await.unwrap();
        let mut listing = listing.into_inner();
        listing.next().await.unwrap().unwrap();
        unread.push(listing);
    }
    unread
}

#[tokio::test]
async fn a_listing_that_finds_no_place_is_refused_in_time_and_told_what_to_do() {
    let node = node().await;
    let _unread = unread(&node).await;
    tokio::time::pause();
    let request = Request::new(ListSessionRequest::default());
    let mut refused = node.service.list_session(request);
    // It has begun to wait before its time runs out.
    assert!(futures_util::poll!(&mut refused).is_pending());
    // Its clock has whole milliseconds.
    tokio::time::advance(LISTING_WAIT + Duration::from_millis(1)).await;
    let polled = futures_util::poll!(&mut refused);
    let Poll::Ready(Err(status)) = polled else {
        panic!("it waits for ever");
    };
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("ask again"), "{status}");
}

#[tokio::test]
async fn a_listing_whose_caller_reads_nothing_ends_and_says_so() {
    let node = node().await;
    let unread = unread(&node).await;
    tokio::time::pause();
    // Each is a thread of its own, which begins to wait when it likes.
    for _ in 0..WAITS_MAX {
        if node.service.listings.running() == 0 {
            break;
        }
        tokio::time::advance(LISTING_STALL).await;
        std::thread::sleep(Duration::from_millis(1));
    }
    tokio::time::resume();
    assert_eq!(node.service.listings.running(), 0, "they are held for ever");
    assert_eq!(node.list("").await.len(), 2_000);
    for listing in unread {
        let replies: Vec<_> = listing.collect().await;
        // What is cut off is never taken for whole.
        let (last, before) = replies.split_last().unwrap();
        assert_eq!(last.as_ref().unwrap_err().code(), Code::Aborted);
        assert!(before.iter().all(Result::is_ok) && before.len() < 1_999);
    }
}

#[tokio::test]
async fn listings_read_at_a_trickle_end_and_make_room() {
    let node = node().await;
    let (mut trickled, mut told) = (unread(&node).await, Vec::new());
    tokio::time::pause();
    // One record a minute, just before the listing has waited too long for it.
    for _ in 0..WAITS_MAX {
        if node.service.listings.running() == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
        tokio::time::advance(LISTING_STALL - Duration::from_secs(1)).await;
        let taken = trickled
            .iter_mut()
            .map(|listing| listing.next().now_or_never());
        told.extend(taken.flatten().flatten());
    }
    tokio::time::resume();
    assert_eq!(node.service.listings.running(), 0, "they are held for ever");
    for listing in trickled {
        told.extend(listing.collect::<Vec<_>>().await);
    }
    let ended = told.into_iter().filter_map(Result::err);
    let codes: Vec<_> = ended.map(|status| status.code()).collect();
    assert_eq!(codes, [Code::Aborted; LISTINGS_MAX]);
}

#[tokio::test]
async fn a_listing_that_is_read_slowly_and_steadily_comes_whole() {
    let node = node().await;
    let mut steady = unread(&node).await.pop().unwrap();
    tokio::time::pause();
    let mut count = 1;
    while let Some(reply) = steady.next().await {
        reply.unwrap();
        count += 1;
        if count % 400 == 0 {
            tokio::time::advance(LISTING_STALL / 2).await;
        }
    }
    assert_eq!(count, 2_000);
}

#[tokio::test]
async fn after_a_shutdown_calls_are_answered_and_say_so() {
    let node = node().await;
    node.service.groups.shutdown().await.unwrap();
    let status = node.create(&[("a", "1")]).await.unwrap_err();
    assert!(
        matches!(status.code(), Code::Unavailable | Code::Unknown),
        "{status}"
    );
    let request = Request::new(ListSessionRequest {
        client_id: "a".into(),
        ..Default::default()
    });
    let Err(status) = node.service.list_session(request).await else {
        panic!("a closed group has no sessions to list");
    };
    assert_eq!(status.code(), Code::Unavailable);
}
