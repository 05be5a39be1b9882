//! What drains find out, and when they are made.

use super::*;
use crate::limit::rule::{Outcome, tests::sample};

/// A drain of batches that take `ms`, where τ is 10 ms.
fn found(drains: &mut Drains, ms: u64, suspected: f64) -> Found {
    found_for(drains, Purpose::Empty, ms, suspected)
}

fn found_for(drains: &mut Drains, purpose: Purpose, ms: u64, suspected: f64) -> Found {
    let mut found = None;
    for _ in 0..SAMPLES {
        let sample = sample(Duration::from_millis(ms), 1, Outcome::Success);
        if drains.probe.is_none() {
            drains.begin(sample.sent - Duration::from_nanos(1), purpose);
        }
        found = drains.answered(&sample, Some(0.01), 0.1, suspected);
    }
    found.expect("all of its batches were answered")
}

#[test]
fn a_drain_tells_a_queue_from_a_longer_way() {
    let mut drains = Drains::new();
    drains.suspect();
    assert_eq!(found(&mut drains, 11, 4.0).verdict, Verdict::Queue);
    assert!(!drains.suspects());
    drains.suspect();
    assert_eq!(found(&mut drains, 40, 4.0).verdict, Verdict::Same);
    assert!(drains.suspects(), "it looks again before it believes that");
    assert_eq!(found(&mut drains, 40, 4.0).verdict, Verdict::Longer);
}

#[test]
fn a_drain_of_our_own_tells_whose_queue_it_is() {
    let mut drains = Drains::new();
    assert_eq!(found(&mut drains, 11, 4.0).verdict, Verdict::Same);
    let mut proof = |ms| found_for(&mut drains, Purpose::Proof, ms, 4.0).verdict;
    assert_eq!(proof(38), Verdict::Others);
    assert_eq!(proof(12), Verdict::Ours);
    assert_eq!(proof(20), Verdict::Unclear);
}

#[test]
fn a_first_look_at_a_queue_of_others_has_to_be_borne_out_by_a_slot() {
    let mut drains = Drains::new();
    found(&mut drains, 11, 4.0);
    let look = found_for(&mut drains, Purpose::Look, 12, 4.0);
    assert_eq!(look.verdict, Verdict::Ours);
    let look = found_for(&mut drains, Purpose::Look, 38, 4.0);
    assert_eq!(look.verdict, Verdict::Same);
    assert!(drains.suspects());
    assert_eq!(found(&mut drains, 11, 4.0).verdict, Verdict::Others);
    // The same where the way has become longer: everything takes that long.
    found_for(&mut drains, Purpose::Look, 38, 4.0);
    assert_eq!(found(&mut drains, 38, 4.0).verdict, Verdict::Same);
    assert_eq!(found(&mut drains, 38, 4.0).verdict, Verdict::Longer);
}

#[test]
fn a_look_of_our_own_keeps_away_from_the_moments_in_which_all_drain() {
    let origin = Instant::now();
    for ms in (0..1_000).step_by(13) {
        for lot in [0.0, 0.5, 0.999] {
            let mut drains = Drains::new();
            drains.align(origin);
            drains.look(origin + Duration::from_millis(ms), lot);
            let (at, _) = drains.own.expect("it looks");
            let since = (at - origin).as_secs_f64().fract();
            assert!((0.199..0.801).contains(&since), "{ms} {lot}: {since}");
        }
    }
}

#[test]
fn a_drain_that_is_faster_than_the_unloaded_latency_corrects_it() {
    let mut drains = Drains::new();
    assert_eq!(found(&mut drains, 5, 1.0).verdict, Verdict::Shorter);
    assert_eq!(found(&mut drains, 9, 1.0).verdict, Verdict::Same);
}

#[test]
fn drains_of_a_slow_upstream_are_seldom() {
    let origin = Instant::now();
    let often = |length: Duration| {
        let mut drains = Drains {
            fresh: 0,
            length,
            ..Drains::new()
        };
        drains.align(origin);
        let looks = (0..65).map(|s| origin + Duration::from_secs(s));
        looks
            .filter(|now| drains.due(*now, 1.2, false).is_some())
            .count()
    };
    assert_eq!(often(Duration::from_millis(10)), 32);
    assert_eq!(often(Duration::from_millis(400)), 8);
}
