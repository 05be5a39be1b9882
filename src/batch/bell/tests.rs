//! What the worker sleeps through, and what wakes it.

use std::num::NonZeroU32;

use futures_util::poll;

use super::*;

/// The worker's sleep with windows open: it looks again in a second.
fn sleep(bell: &Bell, room: Option<u64>) -> Sleep {
    Sleep {
        seen: 0,
        room,
        look: Some(bell.base + Duration::from_secs(1)),
        is_paced: true,
    }
}

/// An entry that would wait for two seconds, in a window of 1000.
fn patient(bell: &Bell) -> Arrival {
    Arrival {
        at: bell.base,
        window: WindowSettings {
            max_entries: NonZeroU32::new(1_000).expect("it is not zero"),
            linger: Duration::from_secs(2),
            ..WindowSettings::default()
        },
        is_large: false,
        slack: None,
        max_wait: Duration::from_secs(2),
    }
}

fn arrive(bell: &Bell, entries: u32, arrival: &Arrival) {
    bell.sent(bell.count(entries), arrival);
}

/// Whether one arrival wakes a worker that sleeps so.
async fn wakes(room: Option<u64>, change: impl FnOnce(&mut Sleep, &mut Arrival)) -> bool {
    let bell = Bell::default();
    let (mut sleep, mut arrival) = (sleep(&bell, room), patient(&bell));
    change(&mut sleep, &mut arrival);
    let mut slept = Slept::default();
    let mut heard = std::pin::pin!(bell.heard(&mut slept, sleep));
    assert!(poll!(&mut heard).is_pending());
    arrive(&bell, 1, &arrival);
    poll!(&mut heard).is_ready()
}

#[tokio::test]
async fn the_worker_sleeps_through_what_does_not_matter() {
    let bell = Bell::default();
    let mut slept = Slept::default();
    let mut heard = std::pin::pin!(bell.heard(&mut slept, sleep(&bell, Some(3))));
    assert!(poll!(&mut heard).is_pending());
    arrive(&bell, 2, &patient(&bell));
    assert!(poll!(&mut heard).is_pending());
    arrive(&bell, 1, &patient(&bell));
    assert!(poll!(&mut heard).is_ready());
}

#[tokio::test]
async fn what_arrived_before_the_worker_slept_is_not_slept_through() {
    let bell = Bell::default();
    arrive(&bell, 3, &patient(&bell));
    // It has no other way to be woken here: it wakes itself.
    bell.heard(&mut Slept::default(), sleep(&bell, Some(3)))
        .await;
}

#[tokio::test]
async fn an_arrival_is_heard_although_a_caller_before_it_has_not_rung_yet() {
    let bell = Bell::default();
    let mut slept = Slept::default();
    let mut heard = std::pin::pin!(bell.heard(&mut slept, sleep(&bell, Some(2))));
    assert!(poll!(&mut heard).is_pending());
    // The first is sent, and taken, by a caller that has lost its turn.
    let first = bell.count(1);
    arrive(&bell, 1, &patient(&bell));
    assert!(poll!(&mut heard).is_ready());
    bell.sent(first, &patient(&bell));
}

#[tokio::test]
async fn an_entry_that_is_due_before_the_worker_looks_wakes_it() {
    let half = Duration::from_millis(500);
    let room = Some(1_000);
    assert!(!wakes(room, |_, _| {}).await);
    assert!(wakes(room, |_, it| it.window.linger = half).await);
    assert!(wakes(room, |_, it| it.max_wait = half).await);
    assert!(wakes(room, |_, it| it.slack = Some(half * 7)).await);
    assert!(!wakes(room, |_, it| it.slack = Some(half * 9)).await);
    assert!(wakes(room, |_, it| it.is_large = true).await);
    let one = NonZeroU32::MIN;
    assert!(wakes(room, |_, it| it.window.max_entries = one).await);
}

#[tokio::test]
async fn an_adaptive_entry_wakes_a_worker_that_looks_for_no_pace() {
    let room = Some(1_000);
    assert!(wakes(room, |sleep, _| sleep.is_paced = false).await);
    let fixed = |sleep: &mut Sleep, it: &mut Arrival| {
        (sleep.is_paced, it.window.close) = (false, Close::Fixed);
    };
    assert!(!wakes(room, fixed).await);
}

#[tokio::test]
async fn while_a_permit_is_awaited_only_the_longest_wait_matters() {
    let half = Duration::from_millis(500);
    let hasty = |_: &mut Sleep, it: &mut Arrival| {
        (it.window.linger, it.slack, it.is_large) = (half, Some(half), true);
    };
    assert!(!wakes(None, hasty).await);
    assert!(wakes(None, |_, it| it.max_wait = half).await);
}

#[tokio::test]
async fn who_went_by_an_earlier_look_is_taken_before_the_worker_sleeps_past_it() {
    let bell = Bell::default();
    let mut slept = Slept::default();
    let mut earlier = sleep(&bell, Some(1_000));
    earlier.look = Some(bell.base + Duration::from_millis(100));
    {
        let mut heard = std::pin::pin!(bell.heard(&mut slept, earlier));
        assert!(poll!(&mut heard).is_pending());
        let mut arrival = patient(&bell);
        arrival.window.linger = Duration::from_millis(500);
        arrive(&bell, 1, &arrival);
        assert!(poll!(&mut heard).is_pending(), "it looks before that");
    }
    // It looked, and took what it saw, which was nothing yet.
    bell.heard(&mut slept, sleep(&bell, Some(1_000))).await;
    let mut later = sleep(&bell, Some(1_000));
    later.seen = 1;
    let mut heard = std::pin::pin!(bell.heard(&mut slept, later));
    assert!(poll!(&mut heard).is_pending(), "it has taken it");
}
