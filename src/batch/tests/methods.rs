//! Methods of different bounds that share an upstream and its queue.

use std::num::NonZeroU32;

use super::*;

/// What one method's windows and their queue may have, and how long its
/// batches take.
#[derive(Clone, Copy)]
struct Method {
    window: WindowSettings,
    queue: QueueSettings,
    takes: Duration,
    /// Whether calls of a second partition go alone.
    crowded: bool,
}

/// Every partition is a method.
struct Methods([Method; 2], Mutex<BTreeMap<&'static str, u32>>);

impl Coalesce<Ask> for Methods {
    type Partition = u8;

    fn partition(&self, ask: &Ask) -> u8 {
        ask.identity
    }

    fn kinds(&self) -> Vec<String> {
        ["big", "ad"].map(Into::into).into()
    }

    fn kind(&self, method: &u8) -> usize {
        usize::from(method & 1)
    }

    fn weight(&self, _: &Ask) -> Weight {
        Weight {
            entries: 1,
            overhead: 0,
            bytes: 10,
        }
    }

    fn deadline(&self, ask: &Ask) -> Option<Instant> {
        ask.deadline
    }

    fn window(&self, method: &u8) -> WindowSettings {
        let window = self.of(*method).window;
        match method & BEYOND {
            0 => window,
            _ => WindowSettings {
                max_entries: NonZeroU32::MIN,
                ..window
            },
        }
    }

    fn queue(&self, method: &u8) -> QueueSettings {
        self.of(*method).queue
    }

    fn crowd(&self, method: &u8) -> Option<Crowd<u8>> {
        Some(Crowd {
            kind: self.kind(method),
            most: if self.of(*method).crowded { 1 } else { 9 },
            beyond: method | BEYOND,
        })
    }

    fn shed(&self, _: &u8, entries: u32, reason: ShedReason) {
        let mut shed = self.1.lock().expect("no test panics under it");
        *shed.entry(reason.name()).or_default() += entries;
    }
}

impl Methods {
    fn of(&self, method: u8) -> &Method {
        &self.0[usize::from(method & 1)]
    }
}

const BIG: u8 = 0;
const AD: u8 = 1;
/// Another partition of the first.
const BIG_TOO: u8 = 2;
/// The partition of those that go alone.
const BEYOND: u8 = 0x80;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A method whose windows hold so many and leave when full or after `linger`.
fn fixed(max_entries: u32, linger: Duration) -> Method {
    Method {
        window: WindowSettings {
            max_entries: NonZeroU32::new(max_entries).expect("a test's bound is positive"),
            linger,
            close: Close::Fixed,
            ..WindowSettings::default()
        },
        queue: QueueSettings {
            max_wait: ms(60_000),
            ..QueueSettings::default()
        },
        takes: ms(10),
        crowded: false,
    }
}

fn adaptive() -> Method {
    Method {
        window: WindowSettings::default(),
        queue: QueueSettings::default(),
        takes: ms(10),
        crowded: false,
    }
}

type Front = Batcher<Ask, Methods, u32, Infallible>;

/// Two methods in front of one upstream that takes so many batches at once.
fn front(methods: [Method; 2], permits: u32) -> Front {
    let limit = LimitSettings {
        algorithm: Algorithm::Fixed,
        min: permits,
        max: permits,
    };
    ServiceBuilder::new()
        .layer(BatchLayer::new(Arc::new(Methods(
            methods,
            Mutex::default(),
        ))))
        .layer(LimitLayer::new(limit))
        .service(tower::service_fn(move |batch: Batch<Ask>| async move {
            let of = usize::from(batch.requests[0].identity & 1);
            sleep(methods[of].takes).await;
            let numbers = batch.requests.iter().map(|ask| ask.number);
            Ok::<_, Infallible>(numbers.collect::<Vec<_>>())
        }))
}

/// A call of `method`; how it ended and how long it took.
fn call(
    front: &Front,
    method: u8,
    slack: Option<Duration>,
) -> JoinHandle<(Result<u32, BatchError<Infallible>>, Duration)> {
    let now = tokio::time::Instant::now();
    // Not by a clone, whose end is told to the worker.
    let answer = front.submit(Ask {
        identity: method,
        deadline: slack.map(|slack| (now + slack).into_std()),
        ..ask(u32::from(method))
    });
    tokio::spawn(async move { (answer.await, now.elapsed()) })
}

#[tokio::test(start_paused = true)]
async fn an_idle_upstream_gets_a_method_at_once_while_a_window_of_another_lingers() {
    let front = front([fixed(500, ms(4_000)), adaptive()], 1);
    let lingers = call(&front, BIG, None);
    sleep(ms(500)).await;
    assert_eq!(
        call(&front, AD, None).await.expect("no panic"),
        (Ok(1), ms(10))
    );
    let lingered = lingers.await.expect("no panic");
    assert_eq!(lingered, (Ok(0), ms(4_010)));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_closes_a_window_that_another_entry_opened_without_one() {
    let front = front([fixed(500, ms(4_000)), adaptive()], 1);
    let lingers = call(&front, BIG, None);
    sleep(ms(500)).await;
    // A quarter of its time it waits for company.
    let (answer, took) = call(&front, BIG, Some(ms(1_500))).await.expect("no panic");
    assert_eq!((answer, took), (Ok(0), ms(385)));
    lingers.await.expect("no panic").0.expect("with the other");
}

#[tokio::test(start_paused = true)]
async fn a_shorter_linger_is_kept_while_a_window_of_another_method_has_a_longer_one() {
    let front = front([fixed(500, ms(4_000)), fixed(500, ms(100))], 1);
    let lingers = call(&front, BIG, None);
    sleep(ms(500)).await;
    let (answer, took) = call(&front, AD, None).await.expect("no panic");
    assert_eq!((answer, took), (Ok(1), ms(110)));
    lingers.await.expect("no panic").0.expect("it lingered");
}

#[tokio::test(start_paused = true)]
async fn a_window_that_is_full_leaves_while_one_of_another_method_has_room() {
    let front = front([fixed(500, ms(4_000)), fixed(3, ms(4_000))], 1);
    let lingers = call(&front, BIG, None);
    sleep(ms(500)).await;
    let full: Vec<_> = (0..3).map(|_| call(&front, AD, None)).collect();
    for answer in join_all(full).await {
        assert_eq!(answer.expect("no panic"), (Ok(1), ms(10)));
    }
    lingers.await.expect("no panic").0.expect("it lingered");
}

#[tokio::test(start_paused = true)]
async fn max_wait_is_kept_while_a_window_of_another_method_waits_for_a_permit() {
    let mut slow = fixed(1, ms(4_000));
    slow.takes = ms(3_000);
    let mut hasty = adaptive();
    hasty.queue.max_wait = ms(200);
    let front = front([slow, hasty], 1);
    let (first, second) = (call(&front, BIG, None), call(&front, BIG, None));
    sleep(ms(500)).await;
    let (answer, took) = call(&front, AD, None).await.expect("no panic");
    assert!(
        matches!(
            answer,
            Err(BatchError::Shed {
                reason: ShedReason::QueueWait,
                ..
            })
        ),
        "{answer:?}"
    );
    assert_eq!(took, ms(200));
    join_all([first, second]).await;
}

/// What waits behind one batch of `BIG` that is on its way, the only one.
async fn behind_a_backlog(
    front: &Front,
    waiting: u32,
) -> Vec<JoinHandle<(Result<u32, BatchError<Infallible>>, Duration)>> {
    // The upstream's pace is known.
    call(front, BIG, None)
        .await
        .expect("no panic")
        .0
        .expect("it is idle");
    let mut calls = vec![call(front, BIG, None)];
    sleep(ms(1)).await;
    calls.extend((0..waiting).map(|_| call(front, BIG, None)));
    sleep(ms(1)).await;
    calls
}

#[tokio::test(start_paused = true)]
async fn a_backlog_that_leaves_as_one_batch_refuses_nobody_of_a_method_of_small_ones() {
    let mut big = adaptive();
    big.window.max_entries = NonZeroU32::new(5_000).expect("it is not zero");
    let mut ad = adaptive();
    ad.window.max_entries = NonZeroU32::MIN;
    let front = front([big, ad], 1);
    let backlog = behind_a_backlog(&front, 900).await;
    assert_eq!(front.queue().entries(), 900);
    let (answer, took) = call(&front, AD, None).await.expect("no panic");
    assert_eq!((answer, took), (Ok(1), ms(28)), "behind the other two");
    join_all(backlog).await;
}

#[tokio::test(start_paused = true)]
async fn a_backlog_of_small_batches_is_as_long_to_a_method_of_large_ones() {
    let mut big = adaptive();
    big.window.max_entries = NonZeroU32::MIN;
    let front = front([big, adaptive()], 1);
    let backlog = behind_a_backlog(&front, 90).await;
    let (answer, took) = call(&front, AD, Some(ms(899))).await.expect("no panic");
    let BatchError::Shed {
        reason: ShedReason::Deadline,
        retry_after,
    } = answer.expect_err("ninety batches stand before it")
    else {
        panic!("at the door");
    };
    assert_eq!((retry_after, took), (ms(900), Duration::ZERO));
    join_all(backlog).await;
}

#[tokio::test(start_paused = true)]
async fn a_methods_bound_in_bytes_is_taken_up_by_its_own_calls_alone() {
    let mut ad = adaptive();
    ad.queue.max_bytes = 20;
    let front = front([adaptive(), ad], 1);
    let backlog = behind_a_backlog(&front, 50).await;
    let calls: Vec<_> = (0..3).map(|_| call(&front, AD, None)).collect();
    assert_eq!(front.queue().bytes(), 520);
    let answers = join_all(calls).await;
    let answers = answers
        .into_iter()
        .map(|answer| answer.expect("no panic").0);
    let shed = answers.filter(|answer| {
        matches!(
            answer,
            Err(BatchError::Shed {
                reason: ShedReason::QueueBytes,
                ..
            })
        )
    });
    assert_eq!(shed.count(), 1, "two of ten bytes fit");
    join_all(backlog).await;
    assert_eq!((front.queue().entries(), front.queue().bytes()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_message_larger_than_its_methods_bound_is_served_where_nothing_waits() {
    let mut small = adaptive();
    small.queue.max_bytes = 5;
    let front = front([small, adaptive()], 1);
    let served = call(&front, BIG, None).await.expect("no panic");
    assert_eq!(served, (Ok(0), ms(10)));
    let (first, second) = (call(&front, BIG, None), call(&front, BIG, None));
    let (shed, took) = second.await.expect("no panic");
    let BatchError::Shed {
        reason: ShedReason::QueueBytes,
        retry_after,
    } = shed.expect_err("the first waits")
    else {
        panic!("for its bytes");
    };
    assert!(retry_after > Duration::ZERO);
    assert_eq!(took, Duration::ZERO);
    first.await.expect("no panic").0.expect("nothing waited");
}

#[tokio::test(start_paused = true)]
async fn a_slow_method_makes_nobody_too_late_for_a_fast_one() {
    let mut slow = adaptive();
    slow.takes = ms(1_000);
    let mut fast = adaptive();
    fast.window.max_entries = NonZeroU32::new(10).expect("it is not zero");
    let front = front([slow, fast], 2);
    for method in std::iter::repeat_n(AD, 20).chain([BIG]) {
        let known = call(&front, method, None).await.expect("no panic");
        known.0.expect("it is idle");
    }
    let on_its_way = call(&front, BIG, None);
    sleep(ms(1)).await;
    // More than a batch, so that there is no place for who would be too late.
    let calls: Vec<_> = (0..26).map(|_| call(&front, AD, Some(ms(900)))).collect();
    for answer in join_all(calls).await {
        assert_eq!(answer.expect("no panic").0, Ok(1));
    }
    on_its_way.await.expect("no panic").0.expect("it is slow");
}

#[tokio::test(start_paused = true)]
async fn who_goes_alone_counts_as_a_batch_and_leaves_nothing_behind() {
    let crowded = Method {
        crowded: true,
        ..adaptive()
    };
    let front = front([crowded, adaptive()], 1);
    let mut backlog = behind_a_backlog(&front, 1).await;
    backlog.extend((0..90).map(|_| call(&front, BIG_TOO, None)));
    // Once the worker has seen them, which it sleeps through until then.
    front.queue().bell().ring();
    sleep(ms(1)).await;
    let (answer, _) = call(&front, AD, Some(ms(500))).await.expect("no panic");
    assert!(matches!(answer, Err(BatchError::Shed { .. })), "{answer:?}");
    for answer in join_all(backlog).await {
        answer.expect("no panic").0.expect("it has time");
    }
    let queue = front.queue();
    assert_eq!((queue.entries(), queue.bytes()), (0, 0));
    assert_eq!(queue.drain_time(), Duration::ZERO);
}
