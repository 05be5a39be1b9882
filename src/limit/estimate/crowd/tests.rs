//! Several rules that share a plant in virtual time, and what one does that
//! meets others.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{super::stage::Stage, *};
use crate::limit::{Outcome, Rule, Sample};

const SERVICE: Duration = Duration::from_micros(500);
const WAY: Duration = Duration::from_millis(4);

/// What each of `k` rules had in flight on the mean, in the last third of
/// `seconds`, before one plant that works at one batch at a time.
fn share(k: usize, seconds: u64) -> Vec<f64> {
    let start = Instant::now();
    let mut rules: Vec<Little> = (0..k).map(|_| Little::new(1, 256)).collect();
    rules.iter_mut().for_each(|rule| rule.align(start));
    let (mut now, mut free_at, mut seed) = (start, start, 1_u64);
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        f64::from(u32::try_from(seed >> 33).expect("31 bits")) / f64::from(1_u32 << 31)
    };
    let mut answers = BinaryHeap::new();
    let mut in_flight = vec![0_u32; k];
    let (mut held, mut counted) = (vec![0.0; k], 0.0);
    let end = start + Duration::from_secs(seconds);
    while now < end {
        for (at, rule) in rules.iter_mut().enumerate() {
            while f64::from(in_flight[at]) < rule.limit().floor() {
                let arrives = now + WAY.mul_f64(0.4 + 0.2 * random());
                free_at = free_at.max(arrives) + SERVICE.mul_f64(0.8 + 0.4 * random());
                rule.leaves(now, 100, 1_000);
                in_flight[at] += 1;
                answers.push(Reverse((free_at + WAY / 2, at, now, in_flight[at])));
            }
        }
        let Reverse((answered, at, sent, beside)) = answers.pop().expect("some are in flight");
        now = answered;
        in_flight[at] -= 1;
        rules[at].learn(&Sample {
            sent,
            now,
            entries: 100,
            in_flight: beside,
            waited: true,
            backlog: 1_000,
            outcome: Outcome::Success,
        });
        if (now - start) * 3 > Duration::from_secs(seconds) * 2 {
            (0..k).for_each(|at| held[at] += f64::from(in_flight[at]));
            counted += 1.0;
        }
    }
    held.iter().map(|held| held / counted).collect()
}

#[test]
fn those_who_share_an_upstream_give_way_to_each_other_and_get_the_same() {
    let shares = share(6, 40);
    let all: f64 = shares.iter().sum();
    // Nine batches are on their way, and each has one or two of its own waiting.
    assert!((9.0..30.0).contains(&all), "{all}: {shares:?}");
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    let jain = all * all / (6.0 * squares);
    assert!(jain > 0.9, "{jain}: {shares:?}");
}

#[test]
fn two_that_share_an_upstream_find_that_they_do() {
    for k in [2, 3] {
        let shares = share(k, 40);
        let all: f64 = shares.iter().sum();
        // Nine batches are on their way; by the elasticity alone it goes past 100.
        assert!((9.0..60.0).contains(&all), "{all}: {shares:?}");
    }
}

#[test]
fn who_sees_others_give_way_follows_them() {
    let (mut little, now) = met();
    let second = |little: &mut Little, slowdown: f64, period: u64| {
        let work = f64::from(1_u32 << 10);
        little.seconds.count(slowdown * work, work, 1 << 10);
        little.end_second(now, Duration::from_secs(period));
    };
    little.crowd.forget();
    little.enter(Stage::Steady { phase: 0 });
    (0..SLOTS).for_each(|_| little.drains.begin(now, Purpose::Empty));
    second(&mut little, 3.0, 4);
    second(&mut little, 2.9, 1);
    assert!(!little.crowd.is_met(), "W is what it was");
    second(&mut little, 3.0, 4);
    second(&mut little, 2.0, 1);
    assert!(little.crowd.is_met());
}

const MS: Duration = Duration::from_millis(1);

/// A rule that has just met others: it had 20 batches in flight at a slowdown of
/// 4, and carried 100 entries a second.
fn met() -> (Little, Instant) {
    let (mut little, now) = (Little::new(1, 256), Instant::now());
    little.centre = 20.0;
    little.slowdown = 4.0;
    little.trim.set(2.0);
    little.crowd.carries(100.0);
    little.meet(now);
    (little, now)
}

#[test]
fn who_meets_others_keeps_what_of_its_own_is_at_work_and_little_more() {
    let (little, _) = met();
    assert!(
        (little.centre - (5.0 + WAITING)).abs() < 1e-9,
        "{}",
        little.centre
    );
}

#[test]
fn while_somebody_does_not_give_way_nobody_else_goes_on_giving_way() {
    let (mut little, _) = met();
    little.bdp = 0.5;
    little.usual = 1.5;
    assert!((little.target() - (0.5 + WAITING)).abs() < 1e-9);
    little.usual = 3.5;
    assert!((little.target() - (5.0 + WAITING)).abs() < 1e-9);
}

#[test]
fn who_gives_way_in_vain_takes_back_what_it_had_and_gives_way_again_with_all() {
    let (mut little, now) = met();
    little.take_back();
    assert!(!little.crowd.is_met());
    assert!((little.centre - 20.0).abs() < 1e-9 && (little.trim.theta() - 2.0).abs() < 1e-9);
    little.watch_crowd(now + TRIAL);
    assert!(!little.crowd.is_met(), "not before all come in");
    little.crowd.begins_slot(true);
    little.watch_crowd(now + TRIAL * 2);
    assert!(little.crowd.is_met());
}

#[test]
fn who_has_met_nobody_notices_by_what_it_no_longer_carries() {
    let (mut little, now) = met();
    let later = now + TRIAL + MS;
    little.crowd.carries(90.0);
    assert!(!little.crowd.is_in_doubt(later));
    little.crowd.carries(80.0);
    assert!(little.crowd.is_in_doubt(later));
    // A drain of its own then finds no queue but its own.
    let before = little.centre;
    little.act(later, false);
    assert!(!little.crowd.is_met());
    assert!(
        (little.centre - before).abs() < 1e-9,
        "it goes on from here"
    );
}

#[test]
fn whoever_is_left_alone_finds_out_in_a_while() {
    let (mut little, now) = met();
    // Nothing is lost.
    let doubts = |little: &mut Little, after| little.crowd.is_in_doubt(now + after);
    assert!(!doubts(&mut little, RECHECK - MS));
    assert!(doubts(&mut little, RECHECK + MS));
    assert!(!doubts(&mut little, RECHECK * 2), "it has just asked");
    little.act(now + RECHECK * 2, false);
    assert!(!little.crowd.is_met());
}
