//! What the layer does when more comes in than the upstream carries: whom it
//! refuses at the door, who falls out at the sealing, what a late batch keeps.

use tower::Layer;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_queue_holds_no_more_bytes_than_its_bound() {
    let queue = QueueSettings {
        max_bytes: 50,
        ..QueueSettings::default()
    };
    let (front, _batches, rules) = front(Rules {
        queue,
        ..Rules::default()
    });
    let first = call(&front, ask(0));
    settle().await;
    let answers = join_all((1..8).map(|n| call(&front, ask(n)))).await;
    let shed = answers
        .into_iter()
        .filter(|answer| {
            matches!(
                answer,
                Ok(Err(BatchError::Shed {
                    reason: ShedReason::QueueBytes,
                    ..
                }))
            )
        })
        .count();
    assert_eq!(shed, 2, "five entries of ten bytes fit");
    assert_eq!(rules.tally().shed, BTreeMap::from([("queue_bytes", 2)]));
    first.await.expect("no panic").expect("it succeeds");
}

fn waiting_at_most(max_wait: Duration) -> Rules {
    let queue = QueueSettings {
        max_wait,
        ..QueueSettings::default()
    };
    Rules {
        queue,
        ..Rules::default()
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_that_waited_for_max_wait_is_shed_then() {
    let (front, _batches, rules) = front(waiting_at_most(Duration::from_millis(4)));
    let first = call(&front, ask(0));
    settle().await;
    let started = tokio::time::Instant::now();
    let shed = call(&front, ask(1)).await.expect("no panic");
    assert!(
        matches!(
            shed,
            Err(BatchError::Shed {
                reason: ShedReason::QueueWait,
                ..
            })
        ),
        "{shed:?}"
    );
    assert_eq!(started.elapsed(), Duration::from_millis(4));
    assert_eq!(rules.tally().shed, BTreeMap::from([("queue_wait", 1)]));
    first.await.expect("no panic").expect("it succeeds");
}

#[tokio::test(start_paused = true)]
async fn who_left_or_was_out_of_time_before_max_wait_is_not_counted_as_shed() {
    let (front, _batches, rules) = front(waiting_at_most(Duration::from_millis(4)));
    let first = call(&front, ask(0));
    settle().await;
    let leaves = call(&front, ask(1));
    let impatient = call(&front, within(2, Duration::from_millis(3)));
    let stays = call(&front, ask(3));
    settle().await;
    leaves.abort();
    let told = impatient.await.expect("no panic");
    assert!(
        matches!(told, Err(BatchError::DeadlineExceeded)),
        "{told:?}"
    );
    let shed = stays.await.expect("no panic");
    assert!(matches!(shed, Err(BatchError::Shed { .. })), "{shed:?}");
    let tally = rules.tally();
    assert_eq!(tally.shed, BTreeMap::from([("queue_wait", 1)]));
    assert_eq!((tally.cancelled, tally.expired), (1, 1));
    first.await.expect("no panic").expect("it succeeds");
}

#[tokio::test(start_paused = true)]
async fn whose_callers_were_all_shed_does_not_keep_others_from_the_permit() {
    let one = LimitLayer::new(LimitSettings {
        algorithm: Algorithm::Fixed,
        min: 1,
        max: 1,
    });
    let front = |max_wait| {
        let (seen, batches) = mpsc::unbounded_channel();
        let front = ServiceBuilder::new()
            .layer(BatchLayer::new(Arc::new(waiting_at_most(max_wait))))
            .layer(one.clone())
            .service(Upstream(seen));
        (front, batches)
    };
    // Two fronts of one upstream, as before and after a reload. The first
    // holds the only permit, and stands in the line for it once more.
    let (impatient, _seen) = front(Duration::from_millis(5));
    let (patient, _seen_too) = front(Duration::from_secs(1));
    let first = call(&impatient, ask(0));
    settle().await;
    let shed = call(&impatient, ask(1));
    sleep(Duration::from_millis(3)).await; // longer than it lingers
    let waits = call(&patient, ask(2));
    let shed = shed.await.expect("no panic");
    assert!(matches!(shed, Err(BatchError::Shed { .. })), "{shed:?}");
    assert_eq!(first.await.expect("no panic"), Ok(0));
    let served = tokio::time::timeout(Duration::from_millis(100), waits).await;
    assert_eq!(served.expect("in time").expect("no panic"), Ok(2));
    drop(impatient); // which was there all the time
}

/// Entries one by one, so that latency and pace of the upstream are known.
async fn warm_up(front: &Front) {
    for n in 0..20 {
        let calls: Vec<_> = (0..2).map(|i| call(front, ask(2 * n + i))).collect();
        join_all(calls).await;
    }
}

fn within(number: u32, slack: Duration) -> Ask {
    Ask {
        deadline: Some((tokio::time::Instant::now() + slack).into_std()),
        ..ask(number)
    }
}

const TEN: WindowSettings = WindowSettings {
    max_entries: std::num::NonZeroU32::new(10).expect("10 is not zero"),
    max_bytes: 1 << 20,
    linger: Duration::from_millis(2),
    close: Close::Adaptive,
};

#[tokio::test(start_paused = true)]
async fn who_could_not_be_answered_in_time_behind_the_backlog_is_refused_at_the_door() {
    let (front, _batches, rules) = front(Rules {
        window: TEN,
        ..Rules::default()
    });
    warm_up(&front).await;
    // One batch of one on its way, then five full batches: 50 ms of work.
    let first = call(&front, ask(0));
    settle().await;
    let backlog: Vec<_> = (1..51).map(|n| call(&front, ask(n))).collect();
    settle().await;
    let refused = call(&front, within(90, Duration::from_millis(55)));
    let served = call(&front, within(91, Duration::from_millis(90)));
    let refused = refused
        .await
        .expect("no panic")
        .expect_err("no time for it");
    let BatchError::Shed {
        reason: ShedReason::Deadline,
        retry_after,
    } = refused
    else {
        panic!("{refused:?}");
    };
    assert!(
        retry_after.abs_diff(Duration::from_millis(50)) < Duration::from_millis(11),
        "the backlog's drain time, not {retry_after:?}"
    );
    assert_eq!(served.await.expect("no panic"), Ok(91));
    assert_eq!(first.await.expect("no panic"), Ok(0));
    join_all(backlog).await;
    assert_eq!(rules.tally().shed, BTreeMap::from([("deadline", 1)]));
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_answered_in_time_any_more_falls_out_at_the_sealing() {
    let (front, mut batches, rules) = front(Rules::default());
    warm_up(&front).await;
    let first = call(&front, ask(0));
    settle().await;
    // Sealed in 9 ms, answered in 19.
    let doomed = call(&front, within(90, Duration::from_millis(15)));
    let served = call(&front, within(91, Duration::from_millis(30)));
    first.await.expect("no panic").expect("it succeeds");
    let doomed = doomed.await.expect("no panic");
    assert!(
        matches!(
            doomed,
            Err(BatchError::Shed {
                reason: ShedReason::Deadline,
                ..
            })
        ),
        "{doomed:?}"
    );
    assert_eq!(served.await.expect("no panic"), Ok(91));
    drop(front);
    let mut last = Vec::new();
    while let Some(batch) = batches.recv().await {
        last = numbers(Some(batch));
    }
    assert_eq!(last, [91]);
    assert_eq!(rules.tally().shed, BTreeMap::from([("deadline", 1)]));
}

#[tokio::test(start_paused = true)]
async fn an_idle_upstream_gets_even_what_it_seems_too_slow_for() {
    let (front, mut batches, rules) = front(Rules::default());
    warm_up(&front).await;
    settle().await;
    let hasty = call(&front, within(90, Duration::from_millis(5)));
    let answer = hasty.await.expect("no panic");
    assert!(
        matches!(
            answer,
            Err(BatchError::DeadlineExceeded | BatchError::TimedOut)
        ),
        "{answer:?}"
    );
    drop(front);
    let mut last = Vec::new();
    while let Some(batch) = batches.recv().await {
        last = numbers(Some(batch));
    }
    assert_eq!(last, [90], "else a wrong guess would never be corrected");
    assert_eq!(rules.tally().shed, BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_late_is_told_in_time_and_keeps_its_permit_until_its_reply() {
    let (front, mut batches, rules) = front(Rules {
        timeout: Some(Duration::from_millis(4)),
        ..Rules::default()
    });
    let started = tokio::time::Instant::now();
    let late = call(&front, ask(0));
    settle().await;
    let next = call(&front, ask(1));
    assert_eq!(late.await.expect("no panic"), Err(BatchError::TimedOut));
    assert_eq!(started.elapsed(), Duration::from_millis(4));
    assert_eq!(numbers(batches.recv().await), [0]);
    assert_eq!(numbers(batches.recv().await), [1], "with the late reply");
    assert_eq!(started.elapsed(), Duration::from_millis(10));
    assert_eq!(next.await.expect("no panic"), Err(BatchError::TimedOut));
    assert_eq!(
        rules.tally(),
        Tally::default(),
        "nobody left, nobody is lost"
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_was_sent_again_says_nothing_of_how_long_one_takes() {
    let upstream = tower::service_fn(|batch: Batch<Ask>| async move {
        let sendings = 1 + batch.requests[0].number;
        for _ in 0..sendings {
            let now = tokio::time::Instant::now().into_std();
            batch.handed_over.on(now);
            sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, Infallible>(vec![0_u32; batch.requests.len()])
    });
    let front = BatchLayer::new(Arc::new(Rules::default())).layer(upstream);
    let ms = Duration::from_millis(1);
    for (number, learned) in [(5, Duration::ZERO), (0, ms * 30), (5, ms * 30)] {
        let answer = front.submit(ask(number)).await;
        answer.expect("it succeeds");
        settle().await;
        // Its mean and four times its distance.
        assert_eq!(front.queue().answered_in(0, ms), ms + learned);
    }
}
