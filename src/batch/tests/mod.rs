//! The layers together, in virtual time, over an upstream that a test steers.

mod methods;
mod overload;
mod stages;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, join_all};
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tower::{Service, ServiceBuilder, ServiceExt};

use super::*;
use crate::limit::{Algorithm, LimitLayer, LimitSettings};

/// A request: whose it is, and when its caller stops waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ask {
    number: u32,
    identity: u8,
    deadline: Option<Instant>,
}

const fn ask(number: u32) -> Ask {
    Ask {
        number,
        identity: 0,
        deadline: None,
    }
}

#[derive(Default)]
struct Rules {
    window: WindowSettings,
    timeout: Option<Duration>,
    queue: QueueSettings,
    tally: Mutex<Tally>,
}

/// What the layer told of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    cancelled: usize,
    expired: usize,
    abandoned: usize,
    ghosts: usize,
    shed: BTreeMap<&'static str, u32>,
}

impl Coalesce<Ask> for Rules {
    type Partition = u8;

    fn partition(&self, ask: &Ask) -> u8 {
        ask.identity
    }

    fn deadline(&self, ask: &Ask) -> Option<Instant> {
        ask.deadline
    }

    fn weight(&self, _: &Ask) -> Weight {
        Weight {
            entries: 1,
            overhead: 0,
            bytes: 10,
        }
    }

    fn window(&self, _: &u8) -> WindowSettings {
        self.window
    }

    fn queue(&self, _: &u8) -> QueueSettings {
        self.queue
    }

    fn timeout(&self, _: &u8) -> Option<Duration> {
        self.timeout
    }

    fn shed(&self, _: &u8, entries: u32, reason: ShedReason) {
        *self
            .tally
            .lock()
            .expect("no test panics under it")
            .shed
            .entry(reason.name())
            .or_default() += entries;
    }

    fn sealed(&self, _: &u8, sealing: &Sealing<'_>) {
        let mut tally = self.tally.lock().expect("no test panics under it");
        tally.cancelled += sealing.cancelled;
        tally.expired += sealing.expired;
    }

    fn answered(&self, _: &u8, answering: &Answering<'_>) {
        let mut tally = self.tally.lock().expect("no test panics under it");
        tally.abandoned += answering.abandoned;
        tally.ghosts += answering.ghosts;
    }
}

impl Rules {
    fn tally(&self) -> Tally {
        self.tally.lock().expect("no test panics under it").clone()
    }
}

/// A batch with this number fails.
const FAIL: u32 = 1_000_001;
/// A batch with this number panics.
const PANIC: u32 = 1_000_002;

/// Takes 10 ms a batch, answers each request with its number, and shows every
/// batch it saw.
#[derive(Clone)]
struct Upstream(mpsc::UnboundedSender<Arc<Vec<Ask>>>);

impl Service<Batch<Ask>> for Upstream {
    type Response = Vec<u32>;
    type Error = &'static str;
    type Future = BoxFuture<'static, Result<Vec<u32>, &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: Batch<Ask>) -> Self::Future {
        let numbers: Vec<u32> = batch.requests.iter().map(|ask| ask.number).collect();
        // Not every test looks on.
        let _ = self.0.send(batch.requests);
        Box::pin(async move {
            sleep(Duration::from_millis(10)).await;
            assert!(!numbers.contains(&PANIC), "asked to panic");
            match numbers.contains(&FAIL) {
                true => Err("no"),
                false => Ok(numbers),
            }
        })
    }
}

type Front = Batcher<Ask, Rules, u32, &'static str>;

/// A stack with one permit, so that what comes while it is taken must wait.
fn front(rules: Rules) -> (Front, mpsc::UnboundedReceiver<Arc<Vec<Ask>>>, Arc<Rules>) {
    let (seen, batches) = mpsc::unbounded_channel();
    let rules = Arc::new(rules);
    let one = LimitSettings {
        algorithm: Algorithm::Fixed,
        min: 1,
        max: 1,
    };
    let front = ServiceBuilder::new()
        .layer(BatchLayer::new(Arc::clone(&rules)))
        .layer(LimitLayer::new(one))
        .service(Upstream(seen));
    (front, batches, rules)
}

fn call(front: &Front, ask: Ask) -> JoinHandle<Result<u32, BatchError<&'static str>>> {
    tokio::spawn(front.clone().oneshot(ask))
}

async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

fn numbers(batch: Option<Arc<Vec<Ask>>>) -> Vec<u32> {
    batch
        .unwrap_or_default()
        .iter()
        .map(|ask| ask.number)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn each_caller_gets_its_own_answer() {
    let (front, ..) = front(Rules::default());
    let answers = join_all((0..2_000).map(|n| call(&front, ask(n)))).await;
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(
            answer.expect("no panic"),
            Ok(u32::try_from(n).expect("small"))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_the_upstream_is_busy_is_the_next_batch() {
    let (front, mut batches, _) = front(Rules::default());
    let first = call(&front, ask(0));
    settle().await;
    let rest: Vec<_> = (1..100).map(|n| call(&front, ask(n))).collect();
    assert_eq!(
        numbers(batches.recv().await),
        [0],
        "an idle upstream gets it at once"
    );
    assert_eq!(numbers(batches.recv().await).len(), 99);
    first.await.expect("no panic").expect("it succeeds");
    join_all(rest).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_left_while_waiting_is_never_proposed() {
    let (front, mut batches, rules) = front(Rules::default());
    let first = call(&front, ask(0));
    settle().await;
    let stays = call(&front, ask(1));
    let leaves = call(&front, ask(2));
    settle().await;
    leaves.abort();
    first.await.expect("no panic").expect("it succeeds");
    stays.await.expect("no panic").expect("it succeeds");
    batches.recv().await;
    assert_eq!(numbers(batches.recv().await), [1]);
    let expected = Tally {
        cancelled: 1,
        ..Tally::default()
    };
    assert_eq!(rules.tally(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_while_waiting_is_answered_then_and_never_proposed() {
    let (front, mut batches, rules) = front(Rules::default());
    let first = call(&front, ask(0));
    settle().await;
    let started = tokio::time::Instant::now();
    let deadline = started + Duration::from_millis(5);
    let expires = call(
        &front,
        Ask {
            deadline: Some(deadline.into_std()),
            ..ask(1)
        },
    );
    assert_eq!(
        expires.await.expect("no panic"),
        Err(BatchError::DeadlineExceeded)
    );
    assert_eq!(started.elapsed(), Duration::from_millis(5));
    first.await.expect("no panic").expect("it succeeds");
    call(&front, ask(2))
        .await
        .expect("no panic")
        .expect("it succeeds");
    assert_eq!(numbers(batches.recv().await), [0]);
    assert_eq!(numbers(batches.recv().await), [2]);
    assert_eq!(rules.tally().expired, 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_after_the_proposal_disturbs_nobody() {
    let (front, mut batches, rules) = front(Rules::default());
    let first = call(&front, ask(0));
    settle().await;
    let callers: Vec<_> = (1..4).map(|n| call(&front, ask(n))).collect();
    first.await.expect("no panic").expect("it succeeds");
    batches.recv().await;
    assert_eq!(numbers(batches.recv().await), [1, 2, 3]);
    settle().await;
    callers[1].abort();
    let [one, _, three] = <[_; 3]>::try_from(callers).expect("three");
    assert_eq!(one.await.expect("no panic"), Ok(1));
    assert_eq!(three.await.expect("no panic"), Ok(3));
    settle().await;
    let expected = Tally {
        abandoned: 1,
        ..Tally::default()
    };
    assert_eq!(rules.tally(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_sealing_that_leaves_nothing_gives_the_permit_back() {
    let (front, mut batches, _) = front(Rules::default());
    let first = call(&front, ask(0));
    settle().await;
    let leaves = call(&front, ask(1));
    settle().await;
    leaves.abort();
    first.await.expect("no panic").expect("it succeeds");
    // With its only permit lost, the stack would never answer again.
    call(&front, ask(2))
        .await
        .expect("no panic")
        .expect("it succeeds");
    batches.recv().await;
    assert_eq!(numbers(batches.recv().await), [2]);
}

#[tokio::test(start_paused = true)]
async fn entries_of_different_identity_never_share_a_batch() {
    let (front, mut batches, _) = front(Rules::default());
    let asks = (0..300).map(|number| Ask {
        identity: u8::try_from(number % 7).expect("small"),
        ..ask(number)
    });
    let answers = join_all(asks.map(|ask| call(&front, ask))).await;
    assert_eq!(answers.len(), 300);
    drop(front);
    let mut seen = 0;
    while let Some(batch) = batches.recv().await {
        assert!(
            batch.iter().all(|ask| ask.identity == batch[0].identity),
            "{batch:?}"
        );
        seen += batch.len();
    }
    assert_eq!(seen, 300);
}

#[tokio::test(start_paused = true)]
async fn the_window_that_has_waited_longest_leaves_first() {
    let (front, mut batches, _) = front(Rules::default());
    let mut calls = vec![call(&front, ask(0))];
    settle().await;
    for identity in [5, 3, 4] {
        calls.push(call(
            &front,
            Ask {
                identity,
                ..ask(u32::from(identity))
            },
        ));
        settle().await;
    }
    join_all(calls).await;
    for expected in [0, 5, 3, 4] {
        assert_eq!(numbers(batches.recv().await), [expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_batch_is_told_to_each_of_its_callers_and_to_no_other() {
    let (front, ..) = front(Rules::default());
    let first = call(&front, ask(0));
    settle().await;
    let failing = [call(&front, ask(1)), call(&front, ask(FAIL))];
    let other = call(
        &front,
        Ask {
            identity: 1,
            ..ask(7)
        },
    );
    assert_eq!(first.await.expect("no panic"), Ok(0));
    for caller in failing {
        assert_eq!(
            caller.await.expect("no panic"),
            Err(BatchError::Upstream("no"))
        );
    }
    assert_eq!(other.await.expect("no panic"), Ok(7));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_panics_answers_its_callers_and_frees_its_permit() {
    let (front, ..) = front(Rules::default());
    let lost = call(&front, ask(PANIC));
    assert_eq!(
        lost.await.expect("the caller does not panic"),
        Err(BatchError::Unanswered)
    );
    assert_eq!(call(&front, ask(1)).await.expect("no panic"), Ok(1));
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_is_answered_after_the_last_handle_is_gone() {
    let (front, ..) = front(Rules::default());
    let calls: Vec<_> = (0..50).map(|n| call(&front, ask(n))).collect();
    drop(front);
    for (n, answer) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(
            answer.expect("no panic"),
            Ok(u32::try_from(n).expect("small"))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_does_not_split_is_an_error_to_all() {
    let short = tower::service_fn(|batch: Batch<Ask>| async move {
        Ok::<_, Infallible>(vec![0_u32; batch.requests.len() - 1])
    });
    let front = ServiceBuilder::new()
        .layer(BatchLayer::new(Arc::new(Rules::default())))
        .service(short);
    let answers = join_all((0..3).map(|n| front.clone().oneshot(ask(n)))).await;
    for answer in answers {
        assert!(
            matches!(answer, Err(BatchError::Unsplittable { .. })),
            "{answer:?}"
        );
    }
}
