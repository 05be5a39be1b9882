//! Who is sent again and who is not, in virtual time.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use prometheus::Opts;
use prost::Message;
use tower::service_fn;

use super::*;
use crate::{
    batch::{Callers, ClosedBy, HandedOver},
    policy::{Policy, Retry},
    proto::mqtt::OldCreateSession,
    transport::{ClientFiles, Endpoint},
    upstream::{
        Remote, RemoteClient, Target,
        reply::given,
        stub::{Came, Stub},
    },
    wire::Scan,
};

type Sent = Arc<Mutex<Vec<Vec<String>>>>;

fn on_error(bisect: &[Code], retry: Option<(u32, &[Code])>) -> OnError {
    OnError {
        bisect: bisect.to_vec(),
        retry: retry.map(|(attempts, on)| Retry {
            attempts,
            on: on.to_vec(),
            backoff: Duration::from_millis(10),
            attempt_timeout: None,
        }),
    }
}

fn client(call: &Call) -> String {
    let old = OldCreateSession::decode(&call.piece.message()[..]);
    old.expect("a message of this test").client_id
}

pub(in crate::upstream) fn batch(clients: &[String]) -> Batch<Call> {
    let policy = Policy::embedded();
    let call = |client: &String| {
        let message = OldCreateSession {
            client_id: client.clone(),
            session: Bytes::from_static(b"s"),
        };
        let Ok(Scan::Merge(piece)) = policy.methods[0].plan.scan(&message.encode_to_vec().into())
        else {
            panic!("a session merges");
        };
        Call {
            method: 0,
            group: 0,
            piece,
            identity: None,
            authority: None,
            deadline: None,
            note: None,
            turn: None,
        }
    };
    Batch {
        requests: Arc::new(clients.iter().map(call).collect()),
        entries: u32::try_from(clients.len()).expect("few"),
        bytes: 0,
        closed_by: ClosedBy::Full,
        deadline: None,
        backlog: 0,
        handed_over: HandedOver::default(),
        trace: None,
        callers: Callers::default(),
    }
}

fn counted() -> IntCounterVec {
    IntCounterVec::new(Opts::new("again", "again"), &["reason"]).expect("a metric")
}

/// An upstream that answers by `answer` and what it was sent.
fn front(
    rules: OnError,
    answer: impl Fn(usize, &[String]) -> Option<Status> + Send + Sync + Clone + 'static,
) -> (
    impl Service<Batch<Call>, Response = BatchReply, Error = Status> + Clone,
    Sent,
    IntCounterVec,
) {
    let (sent, counted) = (Sent::default(), counted());
    let seen = Arc::clone(&sent);
    let upstream = service_fn(move |batch: Batch<Call>| {
        let clients: Vec<_> = batch.requests.iter().map(client).collect();
        let mut seen = seen.lock().expect("no holder panics");
        let refused = answer(seen.len(), &clients);
        seen.push(clients);
        let refused = refused.map(given);
        std::future::ready(refused.map_or(Ok(BatchReply::Same(Bytes::new())), Err))
    });
    let layer = AgainLayer::new(vec![rules], Duration::from_secs(10), counted.clone());
    (layer.layer(upstream), sent, counted)
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("client-{n}")).collect()
}

#[tokio::test(start_paused = true)]
async fn of_a_rejected_batch_the_innocent_succeed_and_the_poison_gets_its_own_error() {
    let mut clients = names(100);
    let poison = [17, 80];
    for at in poison {
        clients[at] = format!("poison-{at}");
    }
    let rules = on_error(&[Code::InvalidArgument], None);
    let (front, sent, counted) = front(rules, |_, clients| {
        let poison = clients.iter().find(|client| client.starts_with("poison"))?;
        Some(Status::invalid_argument(poison))
    });
    let reply = front.oneshot(batch(&clients)).await.expect("parts");
    let parts = own_parts(reply, clients.len());
    for (at, part) in parts.iter().enumerate() {
        match part {
            Ok(_) => assert!(!poison.contains(&at)),
            Err(status) => assert_eq!(status.message(), clients[at], "its own error"),
        }
    }
    assert_eq!(parts.iter().filter(|part| part.is_err()).count(), 2);
    let sent = sent.lock().expect("no holder panics");
    // Two a level of halving, for each of two: 2·2·log2(100), and the first.
    assert!(sent.len() <= 2 * 2 * 7 + 1, "{} batches", sent.len());
    let again = counted.with_label_values(&["bisect"]).get();
    assert_eq!(again, sent.len() as u64 - 1);
    // What was taken was taken once, and in its order.
    let taken = sent
        .iter()
        .filter(|batch| batch.iter().all(|c| c.starts_with("client")));
    let taken: Vec<_> = taken.flatten().cloned().collect();
    let innocent: Vec<_> = clients
        .into_iter()
        .filter(|c| c.starts_with("client"))
        .collect();
    assert_eq!(taken, innocent);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_proves_nothing_is_never_bisected_and_a_batch_never_sent_again_unasked() {
    for code in [Code::Unavailable, Code::Unknown, Code::Internal] {
        for rules in [OnError::default(), on_error(&[Code::InvalidArgument], None)] {
            let (front, sent, _) = front(rules, move |_, _| Some(Status::new(code, "no")));
            let error = front
                .oneshot(batch(&names(8)))
                .await
                .expect_err("it failed");
            assert_eq!((error.code(), error.message()), (code, "no"));
            assert_eq!(sent.lock().expect("no holder panics").len(), 1);
        }
    }
}

/// How an upstream fails a batch.
#[derive(Clone, Copy, Debug)]
enum Fails {
    /// By its own status.
    Says(Code),
    /// It resets the call.
    Resets,
}

/// How many batches reach an upstream that fails each so.
async fn batches_until_final(fails: Fails) -> usize {
    let count = Arc::<AtomicUsize>::default();
    let seen = Arc::clone(&count);
    let stub = Stub::start(100, 9, move |(_, mut respond): Came| {
        seen.fetch_add(1, Ordering::SeqCst);
        match fails {
            Fails::Says(code) => {
                let mut response = http::Response::new(());
                let headers = response.headers_mut();
                headers.insert(Status::GRPC_STATUS, (code as u16).into());
                let sent = respond.send_response(response, true);
                sent.map(drop).expect("ferry is there");
            }
            Fails::Resets => respond.send_reset(h2::Reason::INTERNAL_ERROR),
        }
    });
    let stub = stub.await;
    let uri = format!("http://{}", stub.address);
    let endpoints = vec![Endpoint::Url(uri.parse().expect("a URI"))];
    let client = RemoteClient::new(endpoints, ClientFiles::default()).expect("no TLS, no fault");
    let target = Target {
        path: "/s.S/Set".into(),
        plan: Arc::clone(&Policy::embedded().methods[0].plan),
        attempt_timeout: None,
        max_reply_bytes: 4 << 20,
    };
    let minute = Duration::from_secs(60);
    let rules = on_error(&[Code::Internal], None);
    let layer = AgainLayer::new(vec![rules], minute, counted());
    let remote = layer.layer(Remote::new(client, vec![target], minute));
    let error = match remote.oneshot(batch(&names(2))).await {
        Ok(reply) => own_parts(reply, 2).swap_remove(1).map(drop),
        Err(status) => Err(status),
    };
    assert_eq!(error.map_err(|status| status.code()), Err(Code::Internal));
    count.load(Ordering::SeqCst)
}

#[tokio::test]
async fn only_a_status_that_the_upstream_itself_gave_has_a_batch_bisected() {
    let rejects = batches_until_final(Fails::Says(Code::Internal)).await;
    assert_eq!(rejects, 3, "and both halves");
    // A success without a message is INTERNAL too, and may have been applied.
    for fails in [Fails::Says(Code::Ok), Fails::Resets] {
        assert_eq!(batches_until_final(fails).await, 1, "{fails:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_hides_what_passes_within_the_callers_time_and_not_longer() {
    let rules = || on_error(&[], Some((8, &[Code::Unavailable])));
    let away = |attempt, _: &[String]| (attempt < 3).then(|| Status::unavailable("no leader"));
    let (served, sent, counted) = front(rules(), away);
    served
        .oneshot(batch(&names(3)))
        .await
        .expect("the leader is back");
    assert_eq!(sent.lock().expect("no holder panics").len(), 4);
    assert_eq!(counted.with_label_values(&["retry"]).get(), 3);

    let (hurried, sent, _) = front(rules(), away);
    let mut batch = batch(&names(3));
    let soon = Instant::now() + Duration::from_millis(1);
    batch.deadline = Some(soon.into());
    let error = hurried.oneshot(batch).await.expect_err("its time is up");
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(sent.lock().expect("no holder panics").len(), 1);

    let (other, sent, _) = front(rules(), |_, _| Some(Status::aborted("no")));
    let error = other
        .oneshot(self::batch(&names(3)))
        .await
        .expect_err("it failed");
    assert_eq!(error.code(), Code::Aborted);
    assert_eq!(sent.lock().expect("no holder panics").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_fails_everything_is_not_sent_everything_again() {
    let rules = on_error(&[], Some((2, &[Code::Unavailable])));
    let (front, sent, counted) = front(rules, |_, _| Some(Status::unavailable("no")));
    let batches = 400;
    for _ in 0..batches {
        let answer = front.clone().oneshot(batch(&names(1))).await;
        assert_eq!(answer.expect_err("it failed").code(), Code::Unavailable);
    }
    let sent = sent.lock().expect("no holder panics").len();
    assert!(sent > batches && sent < 2 * batches, "{sent}");
    assert!(counted.with_label_values(&["no_budget"]).get() > 0);
}

/// Callers of whom those at the given places leave, at the given time.
fn leaving(at: Duration, places: &'static [usize]) -> Callers {
    let begin = Instant::now();
    Callers::new(move |place| begin.elapsed() >= at && places.contains(&place))
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_during_a_retrys_backoff_is_not_sent_again() {
    let away = |attempt, _: &[String]| (attempt < 2).then(|| Status::unavailable("no leader"));
    let (served, sent, _) = front(on_error(&[], Some((4, &[Code::Unavailable]))), away);
    let mut batch = batch(&names(4));
    // After the first attempt, and before the second: its backoff is 5 ms and more.
    batch.callers = leaving(Duration::from_millis(1), &[1, 2]);
    let reply = served.oneshot(batch).await.expect("the leader is back");
    let parts = own_parts(reply, 4);
    let answered: Vec<_> = parts.iter().map(Result::is_ok).collect();
    assert_eq!(
        answered,
        [true, false, false, true],
        "each has its own part"
    );
    let sent = sent.lock().expect("no holder panics");
    let stayed = ["client-0", "client-3"].map(String::from).to_vec();
    assert_eq!(*sent, [names(4), stayed.clone(), stayed]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_callers_have_all_left_is_not_sent_again() {
    let rules = on_error(&[], Some((4, &[Code::Unavailable])));
    let (served, sent, _) = front(rules, |_, _| Some(Status::unavailable("no leader")));
    let mut batch = batch(&names(2));
    batch.callers = leaving(Duration::from_millis(1), &[0, 1]);
    let error = served.oneshot(batch).await.expect_err("nobody is left");
    assert_eq!(error.message(), "no leader", "what is known of it");
    assert_eq!(sent.lock().expect("no holder panics").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_left_before_a_rejected_batch_is_halved_is_in_neither_half() {
    let rules = on_error(&[Code::InvalidArgument], None);
    let (front, sent, _) = front(rules, |_, clients| {
        let poison = clients.iter().any(|client| client == "client-5");
        poison.then(|| Status::invalid_argument("client-5"))
    });
    let mut batch = batch(&names(8));
    batch.callers = leaving(Duration::ZERO, &[0, 1, 2, 4, 6]);
    let reply = front.oneshot(batch).await.expect("parts");
    let answered: Vec<_> = own_parts(reply, 8).iter().map(Result::is_ok).collect();
    assert_eq!([answered[3], answered[5], answered[7]], [true, false, true]);
    let sent = sent.lock().expect("no holder panics");
    let again = sent[1..].concat();
    assert_eq!(
        again.len(),
        5,
        "3 alone, 5 and 7, then each of them: {again:?}"
    );
    assert!(
        again
            .iter()
            .all(|client| !["client-0", "client-4"].contains(&client.as_str()))
    );
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_not_answered_in_its_time_is_made_again_and_keeps_its_place() {
    const SECOND: Duration = Duration::from_secs(1);
    let (made, at_work) = (Arc::<Mutex<usize>>::default(), Arc::new(()));
    let (counted, held) = (Arc::clone(&made), Arc::clone(&at_work));
    // The first stands still for a minute; what it holds, a permit does.
    let upstream = service_fn(move |_: Batch<Call>| {
        let mut made = counted.lock().expect("no holder panics");
        *made += 1;
        let (first, held) = (*made == 1, Arc::clone(&held));
        async move {
            tokio::time::sleep(if first { 60 * SECOND } else { Duration::ZERO }).await;
            drop(held);
            Ok(BatchReply::Same(Bytes::new()))
        }
    });
    let mut rules = on_error(&[], Some((3, &[Code::Unavailable])));
    let retry = rules.retry.as_mut().expect("it has one");
    retry.attempt_timeout = Some(2 * SECOND);
    let layer = |rules| AgainLayer::new(vec![rules], 10 * SECOND, self::counted());
    let begin = Instant::now();
    let answer = layer(rules.clone()).layer(upstream.clone());
    answer
        .oneshot(batch(&names(3)))
        .await
        .expect("the second is answered");
    let took = begin.elapsed();
    assert!(took > 2 * SECOND && took < 3 * SECOND, "{took:?}");
    assert_eq!(*made.lock().expect("no holder panics"), 2);
    // The service's own, the one here, and that of the attempt under way.
    assert_eq!(Arc::strong_count(&at_work), 3, "the first is still at work");

    // Who never hears anything is told so, once all attempts are made.
    let silent = service_fn(|_: Batch<Call>| std::future::pending());
    let begin = Instant::now();
    let answer = layer(rules).layer(silent).oneshot(batch(&names(3))).await;
    let error = answer.expect_err("nobody answers");
    assert_eq!(error.code(), Code::DeadlineExceeded);
    assert!(begin.elapsed() > 6 * SECOND, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_innocent_caller_is_not_told_the_error_of_one_that_has_left_meanwhile() {
    let left = Arc::<AtomicBool>::default();
    let leaves = Arc::clone(&left);
    let rules = on_error(&[Code::PermissionDenied], None);
    let (front, sent, _) = front(rules, move |_, clients| {
        let poison = clients.iter().any(|client| client == "client-1");
        leaves.fetch_or(poison, Ordering::Relaxed);
        poison.then(|| Status::permission_denied("client-1"))
    });
    let mut batch = batch(&names(2));
    batch.callers = Callers::new(move |place| place == 1 && left.load(Ordering::Relaxed));
    let reply = front.oneshot(batch).await.expect("parts");
    let own = own_parts(reply, 2).swap_remove(0);
    assert!(own.is_ok(), "{own:?}");
    let sent = sent.lock().expect("no holder panics");
    assert_eq!(*sent, [names(2), names(1)]);
}

#[tokio::test(start_paused = true)]
async fn what_one_attempt_may_have_done_is_never_unavailable_after_the_next() {
    let made = Arc::<Mutex<usize>>::default();
    let upstream = service_fn(move |_: Batch<Call>| {
        let mut made = made.lock().expect("no holder panics");
        *made += 1;
        let silent = *made == 2;
        async move {
            if silent {
                std::future::pending::<()>().await;
            }
            Err(Status::unavailable("no leader"))
        }
    });
    let mut rules = on_error(&[], Some((4, &[Code::Unavailable])));
    let retry = rules.retry.as_mut().expect("it has one");
    retry.attempt_timeout = Some(Duration::from_secs(1));
    let layer = AgainLayer::new(vec![rules], Duration::from_secs(10), counted());
    let answer = layer.layer(upstream).oneshot(batch(&names(2))).await;
    let error = answer.expect_err("all attempts failed");
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");

    // Also where it is told apart by halves: nobody knows whose was done.
    let mut rules = on_error(&[Code::InvalidArgument], None);
    rules.retry = on_error(&[], Some((2, &[Code::Unknown]))).retry;
    let (front, sent, _) = front(rules, |attempt, _| {
        Some(match attempt {
            0 => Status::unknown("the connection was lost"),
            1 => Status::invalid_argument("one of you"),
            _ => Status::unavailable("no leader"),
        })
    });
    let reply = front.oneshot(batch(&names(2))).await.expect("parts");
    for part in own_parts(reply, 2) {
        assert_eq!(part.map_err(|status| status.code()), Err(Code::Unknown));
    }
    assert_eq!(sent.lock().expect("no holder panics").len(), 4);
}
