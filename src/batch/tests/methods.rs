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
}

/// Every partition is a method.
struct Methods([Method; 2], Mutex<BTreeMap<&'static str, u32>>);

impl Coalesce<Ask> for Methods {
    type Partition = u8;

    fn partition(&self, ask: &Ask) -> u8 {
        ask.identity
    }

    fn weight(&self, _: &Ask) -> Weight {
        Weight {
            entries: 1,
            bytes: 10,
        }
    }

    fn deadline(&self, ask: &Ask) -> Option<Instant> {
        ask.deadline
    }

    fn window(&self, method: &u8) -> WindowSettings {
        self.0[usize::from(*method)].window
    }

    fn queue(&self, method: &u8) -> QueueSettings {
        self.0[usize::from(*method)].queue
    }

    fn shed(&self, _: &u8, entries: u32, reason: ShedReason) {
        let mut shed = self.1.lock().expect("no test panics under it");
        *shed.entry(reason.name()).or_default() += entries;
    }
}

const BIG: u8 = 0;
const AD: u8 = 1;

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
    }
}

fn adaptive() -> Method {
    Method {
        window: WindowSettings::default(),
        queue: QueueSettings::default(),
        takes: ms(10),
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
            let of = usize::from(batch.requests[0].identity);
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
