//! The window by its promises, and against a naive list.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn settings(max_entries: u32, max_bytes: usize) -> WindowSettings {
    WindowSettings {
        max_entries: NonZeroU32::new(max_entries).expect("a test's bound is positive"),
        max_bytes,
        ..WindowSettings::default()
    }
}

fn held(entry: u32, arrived: Instant) -> Held<u32> {
    Held {
        entry,
        weight: Weight {
            entries: 1,
            overhead: 0,
            bytes: 10,
        },
        arrived,
        deadline: None,
    }
}

const fn waiting(_: &u32) -> Caller {
    Caller::Waiting
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Something is in flight, and nothing is known of its pace.
fn busy(now: Instant) -> Flow {
    Flow {
        in_flight: 1,
        last_sent: Some(now),
        ..Flow::default()
    }
}

#[test]
fn an_idle_upstream_never_lingers() {
    let now = Instant::now();
    let mut window = Window::new(settings(100, 1000));
    window.push(held(1, now));
    assert_eq!(window.due(now, &Flow::default()), Due::Now(ClosedBy::Ready));
}

#[test]
fn a_partial_window_waits_at_most_for_its_linger() {
    let now = Instant::now();
    let mut window = Window::new(settings(100, 1000));
    window.push(held(1, now));
    assert_eq!(window.due(now, &busy(now)), Due::At(now + ms(2)));
    assert_eq!(
        window.due(now + ms(2), &busy(now)),
        Due::Now(ClosedBy::Linger)
    );
}

#[test]
fn a_partial_window_is_paced_to_the_upstream() {
    let now = Instant::now();
    let mut window = Window::new(settings(100, 1000));
    window.push(held(1, now));
    let flow = Flow {
        in_flight: 4,
        spacing: Some(ms(1)),
        ..busy(now)
    };
    // No faster than the upstream finishes.
    assert_eq!(
        window.due(now, &flow),
        Due::At(now + Duration::from_micros(1_100))
    );
    assert_eq!(window.due(now + ms(2), &flow), Due::Now(ClosedBy::Ready));
}

#[test]
fn a_pace_that_paces_itself_costs_no_more_than_a_part_of_the_time_to_an_answer() {
    let now = Instant::now();
    let mut window = Window::new(settings(100, 1000));
    window.push(held(1, now));
    // One in flight each 3 ms: what we send is what we see finished.
    let flow = Flow {
        in_flight: 1,
        spacing: Some(ms(3)),
        ..busy(now)
    };
    assert_eq!(window.due(now, &flow), Due::At(now + ms(1)));
}

#[test]
fn a_fixed_window_closes_only_full_or_after_its_linger() {
    let now = Instant::now();
    let fixed = WindowSettings {
        close: Close::Fixed,
        ..settings(2, 1000)
    };
    let mut window = Window::new(fixed);
    window.push(held(1, now));
    assert_eq!(window.due(now, &Flow::default()), Due::At(now + ms(2)));
    window.push(held(2, now));
    assert_eq!(window.due(now, &Flow::default()), Due::Now(ClosedBy::Full));
}

#[test]
fn an_urgent_entry_closes_its_window_before_a_quarter_of_its_slack_is_gone() {
    let now = Instant::now();
    let mut window = Window::new(settings(100, 1000));
    window.push(Held {
        deadline: Some(now + ms(4)),
        ..held(1, now)
    });
    assert_eq!(window.due(now, &busy(now)), Due::At(now + ms(1)));
    assert_eq!(
        window.due(now + ms(1), &busy(now)),
        Due::Now(ClosedBy::Deadline)
    );
}

#[test]
fn what_was_cancelled_or_has_expired_never_leaves() {
    let now = Instant::now();
    let mut window = Window::new(settings(100, 1000));
    for entry in 0..6 {
        let deadline = (entry % 3 == 1).then(|| now + ms(1));
        window.push(Held {
            deadline,
            ..held(entry, now)
        });
    }
    let left = |entry: &u32| match entry % 3 {
        2 => Caller::Left,
        _ => Caller::Waiting,
    };
    let sealed = window.seal(now + ms(1), left);
    let sent: Vec<_> = sealed.entries.iter().map(|held| held.entry).collect();
    assert_eq!(
        (sent, sealed.expired, sealed.cancelled),
        (vec![0, 3], vec![1, 4], vec![2, 5])
    );
    assert!(window.is_empty());
}

#[test]
fn those_who_left_make_room_for_those_who_wait() {
    let now = Instant::now();
    let mut window = Window::new(settings(2, 1000));
    for entry in 0..4 {
        window.push(held(entry, now));
    }
    let sealed = window.seal(now, |entry| match entry {
        0 | 1 => Caller::Left,
        _ => Caller::Waiting,
    });
    assert_eq!(sealed.count, 2, "the batch is full of waiting callers");
}

#[test]
fn an_entry_too_large_for_any_batch_goes_alone() {
    let now = Instant::now();
    let mut window = Window::new(settings(100, 50));
    let large = Weight {
        entries: 1,
        overhead: 0,
        bytes: 500,
    };
    for (entry, weight) in [(0, None), (1, Some(large)), (2, None)] {
        let plain = held(entry, now);
        window.push(Held {
            weight: weight.unwrap_or(plain.weight),
            ..plain
        });
    }
    let batches: Vec<Vec<u32>> = (0..3)
        .map(|_| {
            window
                .seal(now, waiting)
                .entries
                .iter()
                .map(|held| held.entry)
                .collect()
        })
        .collect();
    assert_eq!(batches, [[0], [1], [2]]);
}

#[test]
fn an_entry_waits_no_longer_than_its_queue_allows() {
    let now = Instant::now();
    let mut window = Window::new(settings(100, 1000));
    window.push(held(1, now));
    window.push(held(2, now + ms(1)));
    assert!(window.overdue(now + ms(9), ms(10)).is_empty());
    let overdue = window.overdue(now + ms(10), ms(10));
    assert_eq!(
        overdue.iter().map(|held| held.entry).collect::<Vec<_>>(),
        [1]
    );
    assert_eq!((window.count(), window.bytes()), (1, 10));
}

/// What happens to a window in the model's test.
#[derive(Clone, Debug)]
enum Event {
    Push {
        entries: u32,
        bytes: usize,
        deadline: Option<u64>,
    },
    Leave(usize),
    Seal,
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..4_u32, 1..60_usize, proptest::option::of(1..20_u64))
            .prop_map(|(entries, bytes, deadline)| Event::Push { entries, bytes, deadline }),
        1 => (0..100_usize).prop_map(Event::Leave),
        1 => Just(Event::Seal),
        1 => (1..5_u64).prop_map(Event::Wait),
    ]
}

proptest! {
    /// Against a plain list that is filtered and cut: same batches, same
    /// order, nothing lost, nothing twice.
    #[test]
    fn a_window_does_what_a_naive_list_does(
        events in proptest::collection::vec(event(), 1..200),
        max_entries in 1..8_u32,
        max_bytes in 1..200_usize,
    ) {
        let start = Instant::now();
        let mut now = start;
        let mut window = Window::new(settings(max_entries, max_bytes));
        let mut model: Vec<(u32, Weight, Option<Instant>)> = Vec::new();
        let mut left = BTreeSet::new();
        let mut next = 0;
        for event in events {
            match event {
                Event::Push { entries, bytes, deadline } => {
                    let weight = Weight {
 entries,
 overhead: 0,
 bytes };
                    let deadline = deadline.map(|after| now + ms(after));
                    window.push(Held { entry: next, weight, arrived: now, deadline });
                    model.push((next, weight, deadline));
                    next += 1;
                }
                Event::Leave(index) => {
                    if let Some((entry, ..)) = model.get(index) {
                        left.insert(*entry);
                    }
                }
                Event::Wait(millis) => now += ms(millis),
                Event::Seal => {
                    let sealed = window.seal(now, |entry| match left.contains(entry) {
                        true => Caller::Left,
                        false => Caller::Waiting,
                    });
                    let sent: Vec<u32> = sealed.entries.iter().map(|held| held.entry).collect();
                    let (mut expected, mut count, mut bytes) = (Vec::new(), 0, 0);
                    while let Some(&(entry, weight, deadline)) = model.first() {
                        let gone = left.contains(&entry) || deadline.is_some_and(|at| at <= now);
                        let fits = expected.is_empty()
                            || (count + weight.entries <= max_entries && bytes + weight.bytes <= max_bytes);
                        if !gone && !fits {
                            break;
                        }
                        model.remove(0);
                        if !gone {
                            expected.push(entry);
                            count += weight.entries;
                            bytes += weight.bytes;
                        }
                    }
                    prop_assert_eq!(sent, expected);
                    prop_assert_eq!((sealed.count, sealed.bytes), (count, bytes));
                }
            }
            let weight: u64 = model.iter().map(|(_, weight, _)| u64::from(weight.entries)).sum();
            prop_assert_eq!(window.count(), weight);
            prop_assert_eq!(window.is_empty(), model.is_empty());
        }
    }
}

/// Seals entries whose key is their number modulo ten.
fn seal_by_key(window: &mut Window<u32>, now: Instant) -> Vec<u32> {
    const KEYS: [u64; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    let key = |entry: &u32| (*entry % 10) as usize;
    let sealed = window.seal_for(now, &Outlook::default(), waiting, |entry| {
        &KEYS[key(entry)..=key(entry)]
    });
    sealed.entries.iter().map(|held| held.entry).collect()
}

#[test]
fn two_entries_of_one_key_are_never_in_one_batch_and_keep_their_order() {
    let now = Instant::now();
    let mut window = Window::new(settings(100, 1000));
    for entry in [1, 11, 2, 21, 12, 3] {
        window.push(held(entry, now));
    }
    assert_eq!(seal_by_key(&mut window, now), [1, 2, 3]);
    assert_eq!((window.count(), window.bytes()), (3, 30));
    assert_eq!(seal_by_key(&mut window, now), [11, 12]);
    assert_eq!(seal_by_key(&mut window, now), [21]);
    assert!(window.is_empty());
}

#[test]
fn a_busy_key_lets_those_of_other_keys_pass_within_a_bound() {
    let now = Instant::now();
    let mut window = Window::new(settings(4, 1000));
    (0..10).for_each(|n| window.push(held(10 * n, now)));
    window.push(held(7, now));
    assert_eq!(
        seal_by_key(&mut window, now),
        [0],
        "7 stands too far behind"
    );
    (0..5).for_each(|n| assert_eq!(seal_by_key(&mut window, now)[0], 10 * (n + 1)));
    assert_eq!(seal_by_key(&mut window, now), [60, 7]);
    assert_eq!(window.count(), 3);
}

#[test]
fn nobody_passes_one_who_waits_for_a_key_that_both_have() {
    let now = Instant::now();
    let mut window = Window::new(settings(100, 1000));
    (0..3).for_each(|entry| window.push(held(entry, now)));
    const KEYS: [&[u64]; 3] = [&[1], &[1, 2], &[2]];
    let seal = |window: &mut Window<u32>| {
        let sealed = window.seal_for(now, &Outlook::default(), waiting, |entry| {
            KEYS[*entry as usize]
        });
        sealed
            .entries
            .iter()
            .map(|held| held.entry)
            .collect::<Vec<_>>()
    };
    assert_eq!(seal(&mut window), [0]);
    assert_eq!(seal(&mut window), [1]);
    assert_eq!(seal(&mut window), [2]);
}

const fn outlook(idle: bool) -> Outlook {
    Outlook {
        soonest: ms(5),
        latest: ms(20),
        idle,
    }
}

fn until(entry: u32, now: Instant, deadline: u64) -> Held<u32> {
    Held {
        deadline: Some(now + ms(deadline)),
        ..held(entry, now)
    }
}

fn entries(held: &[Held<u32>]) -> Vec<u32> {
    held.iter().map(|held| held.entry).collect()
}

#[test]
fn in_a_crowd_who_would_likely_be_late_makes_room_and_alone_only_who_would_surely() {
    let now = Instant::now();
    for (crowd, sent, doomed) in [(false, vec![2, 3], vec![1]), (true, vec![3, 4], vec![1, 2])] {
        let mut window = Window::new(settings(if crowd { 2 } else { 100 }, 1000));
        window.push(until(1, now, 4));
        window.push(until(2, now, 15));
        window.push(until(3, now, 25));
        if crowd {
            window.push(held(4, now));
            window.push(held(5, now));
        }
        let sealed = window.seal_for(now, &outlook(false), waiting, |_| &[]);
        assert_eq!(entries(&sealed.entries), sent);
        assert_eq!(entries(&sealed.doomed), doomed);
        assert_eq!(window.count(), u64::from(crowd), "nobody is counted twice");
    }
}

#[test]
fn an_idle_upstream_is_sent_the_doomed_rather_than_nobody() {
    let now = Instant::now();
    let mut window = Window::new(settings(2, 1000));
    for entry in 1..4 {
        window.push(until(entry, now, 2));
    }
    let sealed = window.seal_for(now, &outlook(true), waiting, |_| &[]);
    assert_eq!(entries(&sealed.entries), [1, 2]);
    assert_eq!(entries(&sealed.doomed), [3]);
    assert_eq!((sealed.count, sealed.bytes), (2, 20));
    assert!(window.is_empty());
}
