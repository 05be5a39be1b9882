//! The rule against small plants in virtual time: each promise by name.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use super::*;
use crate::limit::{LimitSettings, Limiter, Sent, drain::SAMPLES};

/// An upstream that takes one batch at a time for `service`, `delay` away.
struct Plant {
    service: Duration,
    delay: Duration,
    /// What it answers.
    outcome: fn(Duration) -> Outcome,
}

impl Plant {
    const fn serial() -> Self {
        Self {
            service: Duration::from_millis(3),
            delay: Duration::from_micros(300),
            outcome: |_| Outcome::Success,
        }
    }

    const fn distant() -> Self {
        Self {
            service: Duration::from_micros(500),
            delay: Duration::from_millis(4),
            outcome: |_| Outcome::Success,
        }
    }
}

/// A run's end: the limiter, and what it saw of the last half.
struct Run {
    limiter: Limiter,
    batches_a_second: f64,
    mean_limit: f64,
    mean_rtt: Duration,
}

/// Sends batches of 100 whenever a permit is free, for `seconds`.
fn saturate(plant: &Plant, seconds: u64) -> Run {
    let mut limiter = Limiter::new(LimitSettings::default());
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let mut now = start;
    let mut free_at = start;
    let mut answers: BinaryHeap<Reverse<(Instant, usize)>> = BinaryHeap::new();
    let mut sent: Vec<(Sent, Instant)> = Vec::new();
    let (mut finished, mut limits, mut rtts) = (0_u32, 0.0, Duration::ZERO);
    while now < end {
        while limiter.try_admit() {
            let begins = (now + plant.delay / 2).max(free_at);
            free_at = begins + plant.service;
            answers.push(Reverse((free_at + plant.delay / 2, sent.len())));
            // Somebody always waits: the limit is binding.
            sent.push((limiter.sent(now, 100, true, 1_000), now));
        }
        let Reverse((at, index)) = answers.pop().expect("at least one is in flight");
        now = at;
        let (mark, sent_at) = sent[index];
        limiter.answered(now, mark, (plant.outcome)(now.duration_since(start)));
        if now.duration_since(start) * 2 > Duration::from_secs(seconds) {
            finished += 1;
            limits += f64::from(limiter.limit());
            rtts += now.duration_since(sent_at);
        }
    }
    Run {
        limiter,
        batches_a_second: f64::from(finished) / (seconds as f64 / 2.0),
        mean_limit: limits / f64::from(finished),
        mean_rtt: rtts / finished,
    }
}

#[test]
fn a_serial_upstream_is_kept_busy_with_hardly_a_queue() {
    let run = saturate(&Plant::serial(), 20);
    let best = 1.0 / 0.003;
    assert!(
        run.batches_a_second > 0.97 * best,
        "{}",
        run.batches_a_second
    );
    assert!(run.mean_limit < 4.0, "{}", run.mean_limit);
    assert!(
        run.mean_rtt < Duration::from_millis(13),
        "{:?}",
        run.mean_rtt
    );
}

#[test]
fn a_distant_upstream_gets_what_its_way_holds() {
    let run = saturate(&Plant::distant(), 20);
    // BDP: (0.5 + 4) ms at one batch each 0.5 ms, nine batches.
    let best = 1.0 / 0.0005;
    assert!(
        run.batches_a_second > 0.97 * best,
        "{}",
        run.batches_a_second
    );
    assert!((8.0..=18.0).contains(&run.mean_limit), "{}", run.mean_limit);
}

#[test]
fn a_rule_that_nobody_presses_stays_where_it_is() {
    let mut little = Little::new(1, 256);
    let before = little.limit();
    let start = Instant::now();
    for n in 0..1_000 {
        let sent = start + Duration::from_millis(10 * n);
        little.learn(&Sample {
            sent,
            now: sent + Duration::from_millis(3),
            entries: 1,
            in_flight: 1,
            waited: false,
            backlog: 0,
            outcome: Outcome::Success,
        });
    }
    assert!(
        (little.limit() - before).abs() < f64::EPSILON,
        "{}",
        little.limit()
    );
}

#[test]
fn an_exhausted_upstream_is_sent_less() {
    let exhausted = Plant {
        outcome: |at| match at.as_secs() >= 10 {
            true => Outcome::Exhausted,
            false => Outcome::Success,
        },
        ..Plant::distant()
    };
    let before = saturate(&exhausted, 9).limiter.limit();
    let after = saturate(&exhausted, 12).limiter.limit();
    assert!(after * 2 < before, "{after} after {before}");
    assert!(after >= 1);
}

#[test]
fn an_absent_upstream_is_probed_one_batch_at_a_time_and_then_found_again() {
    let away = Plant {
        outcome: |at| match at.as_secs() {
            5..10 => Outcome::Unavailable,
            _ => Outcome::Success,
        },
        ..Plant::distant()
    };
    assert_eq!(saturate(&away, 8).limiter.limit(), 1);
    let run = saturate(&away, 30);
    assert!(
        run.batches_a_second > 0.97 / 0.0005,
        "{}",
        run.batches_a_second
    );
}

#[test]
fn a_stall_of_the_whole_upstream_leaves_the_limit() {
    let mut little = Little::new(1, 256);
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let sample = |sent: u64, now: u64| Sample {
        sent: at(sent),
        now: at(now),
        entries: 100,
        in_flight: 2,
        waited: false,
        backlog: 0,
        outcome: Outcome::Success,
    };
    for n in 0..50 {
        little.learn(&sample(10 * n, 10 * n + 5));
    }
    let (limit, slowdown) = (little.limit(), little.slowdown());
    // Sent before the silence, answered a second after it: nobody's fault.
    little.learn(&sample(490, 1_500));
    assert!((little.limit() - limit).abs() < f64::EPSILON);
    assert!((little.slowdown() - slowdown).abs() < f64::EPSILON);
}

#[test]
fn the_limit_keeps_its_bounds() {
    for (min, max) in [(1, 1), (3, 5), (7, 7)] {
        let mut little = Little::new(min, max);
        let start = Instant::now();
        for n in 0..2_000_u64 {
            let sent = start + Duration::from_millis(n);
            little.learn(&Sample {
                sent,
                now: sent + Duration::from_millis(50),
                entries: 100,
                in_flight: max,
                waited: true,
                backlog: 1_000,
                outcome: if n % 3 == 0 {
                    Outcome::Exhausted
                } else {
                    Outcome::Success
                },
            });
            let limit = little.limit();
            assert!(
                (f64::from(min)..=f64::from(max)).contains(&limit),
                "{limit}"
            );
        }
    }
}

/// A batch of 100 behind which a thousand wait, sent when `in_flight` are.
fn pressed(sent: Instant, rtt: Duration, in_flight: u32) -> Sample {
    Sample {
        sent,
        now: sent + rtt,
        entries: 100,
        in_flight,
        waited: true,
        backlog: 1_000,
        outcome: Outcome::Success,
    }
}

const MS: Duration = Duration::from_millis(1);

/// A rule that has run over the distant plant for some seconds, and when.
fn settled() -> (Little, Instant) {
    let run = saturate_rule(&Plant::distant(), Little::new(1, 256), 10);
    (run.0, run.1)
}

/// As `saturate`, with the rule in hand and nobody counting.
fn saturate_rule(plant: &Plant, mut rule: Little, seconds: u64) -> (Little, Instant) {
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let (mut now, mut free_at) = (start, start);
    let mut answers: BinaryHeap<Reverse<(Instant, Instant, u32)>> = BinaryHeap::new();
    while now < end {
        while (answers.len() as f64) < rule.limit().floor() {
            let begins = (now + plant.delay / 2).max(free_at);
            free_at = begins + plant.service;
            let in_flight = u32::try_from(answers.len() + 1).expect("hundreds at most");
            rule.leaves(now, 100, 1_000);
            answers.push(Reverse((free_at + plant.delay / 2, now, in_flight)));
        }
        let Reverse((at, sent, in_flight)) = answers.pop().expect("at least one is in flight");
        now = at;
        rule.learn(&pressed(sent, at - sent, in_flight));
    }
    (rule, now)
}

#[test]
fn start_doubles_a_round_until_the_throughput_is_flat() {
    let mut little = Little::new(1, 256);
    let (mut seen, mut now) = (vec![little.limit()], Instant::now());
    little.leaves(now, 100, 1_000);
    // However many are in flight, each takes 10 ms: the throughput doubles.
    while little.limit() < 64.0 {
        let round = now;
        for n in 0..2 * little.limit() as u32 + 4 {
            let step = 10 * MS / little.limit() as u32;
            little.learn(&pressed(round + step * n, 10 * MS, 1));
        }
        now = round + 40 * MS;
        if seen.last() != Some(&little.limit()) {
            seen.push(little.limit());
        }
        assert!(seen.len() < 20, "{seen:?}");
    }
    assert_eq!(seen, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]);
}

#[test]
fn steady_looks_above_the_limit_and_never_below_it() {
    let (little, _) = settled();
    let (low, high) = little.dither();
    assert!(low + 1.0 > little.centre && high > low, "{low} {high}");
    assert_eq!(HIGH.iter().filter(|high| **high).count(), 2);
}

#[test]
fn app_limited_keeps_what_was_found_under_load() {
    let (mut little, mut now) = settled();
    let (centre, theta) = (little.centre, little.trim.theta());
    for _ in 0..500 {
        now += 3 * MS;
        little.leaves(now, 10, 0);
        little.learn(&Sample {
            entries: 10,
            backlog: 0,
            waited: false,
            ..pressed(now, 5 * MS, 1)
        });
    }
    assert!((little.centre - centre).abs() < f64::EPSILON);
    assert!((little.trim.theta() - theta).abs() < f64::EPSILON);
}

#[test]
fn app_limited_batches_do_not_queue_in_a_serial_upstream() {
    let mut little = Little::new(1, 256);
    let (mut now, service) = (Instant::now(), 3 * MS);
    // Whatever is in flight is worked off one by one, and nobody presses.
    for _ in 0..2_000 {
        little.leaves(now, 10, 0);
        let in_flight = little.limit() as u32;
        now += service;
        little.learn(&Sample {
            entries: 10,
            backlog: 0,
            ..pressed(now, service * in_flight, in_flight)
        });
    }
    assert_eq!(little.limit() as u32, 1);
}

/// Batches that take 60 ms, until it wants to know why.
fn suspicious(little: &mut Little, mut now: Instant) -> Instant {
    for _ in 0..5_000 {
        if little.drains.suspects() && !matches!(little.stage, Stage::Drain { .. }) {
            return now;
        }
        now += MS;
        little.leaves(now, 100, 1_000);
        little.learn(&pressed(now - 60 * MS, 60 * MS, 20));
    }
    panic!("{little:?}");
}

/// Sends what a drain sends, of which each batch takes `rtt`, once it begins.
fn drained(little: &mut Little, mut now: Instant, slow: Duration, rtt: Duration) -> Instant {
    for _ in 0..5_000 {
        if matches!(little.stage, Stage::Drain { .. }) {
            break;
        }
        now += MS;
        little.learn(&pressed(now - slow, slow, 20));
    }
    let alone = little.limit();
    assert!((1.0..=little.bdp.max(1.0)).contains(&alone), "{alone}");
    for _ in 0..SAMPLES {
        now += MS;
        little.leaves(now, 100, 1_000);
        little.learn(&pressed(now, rtt, 1));
    }
    now + rtt
}

#[test]
fn guard_gives_up_the_queue_that_a_drain_leaves_behind() {
    let (mut little, mut now) = settled();
    let before = little.centre;
    now = suspicious(&mut little, now);
    drained(&mut little, now, 60 * MS, 5 * MS);
    assert!(!little.drains.suspects());
    assert!(
        little.centre < before / 2.0,
        "{} of {before}",
        little.centre
    );
}

#[test]
fn guard_keeps_the_limit_where_drains_see_that_there_is_no_queue() {
    let (mut little, mut now) = settled();
    let before = little.centre;
    now = suspicious(&mut little, now);
    for _ in 0..2 {
        now = drained(&mut little, now, 60 * MS, 60 * MS);
    }
    assert!(matches!(little.stage, Stage::Start(_)), "{little:?}");
    assert!(little.centre >= before, "{} of {before}", little.centre);
}

#[test]
fn drain_sends_less_to_see_the_unloaded_latency_and_refuses_nothing() {
    let (mut little, now) = settled();
    little.drain(now, Then::Steady { phase: 0 }, Purpose::Empty);
    let drained = little.limit();
    assert!((1.0..little.bdp).contains(&drained), "{drained}");
    for n in 0..SAMPLES {
        assert!(matches!(little.stage, Stage::Drain { .. }));
        little.leaves(now + n * MS, 100, 1_000);
    }
    assert!(
        little.limit() > drained,
        "it goes on with the last one sent"
    );
}

#[test]
fn a_drain_of_which_a_batch_fails_is_broken_off_and_holds_nothing() {
    let (mut little, now) = settled();
    little.drains.look(now, 0.0);
    assert!(little.drains.looks());
    little.drain(now, Then::Steady { phase: 0 }, Purpose::Look);
    for n in 1..=SAMPLES {
        little.leaves(now + n * MS, 100, 1_000);
    }
    little.learn(&Sample {
        outcome: Outcome::Failed,
        ..pressed(now + MS, 5 * MS, 1)
    });
    assert!(!little.drains.looks() && matches!(little.stage, Stage::Steady { .. }));
}

#[test]
fn start_holds_back_too_in_the_moments_in_which_others_drain() {
    let (mut little, now) = settled();
    little.align(now - 993 * MS);
    little.start_from(8.0);
    for n in 0..3 {
        little.leaves(now + n * MS, 100, 1_000);
        little.learn(&pressed(now + n * MS, 5 * MS, 8));
    }
    let drains = |little: &Little| matches!(little.stage, Stage::Drain { .. });
    assert!(drains(&little), "{:?}", little.stage);
    for n in 3..3 + SAMPLES {
        assert!(drains(&little) && little.limit() < 8.0);
        little.leaves(now + n * MS, 100, 1_000);
    }
    assert!(matches!(little.stage, Stage::Start(_)) && little.limit() >= 8.0);
}

#[test]
fn errors_cut_once_a_round_trip_and_a_single_one_does_not() {
    let (mut little, now) = settled();
    let before = little.centre;
    let refused = |after: Duration| Sample {
        outcome: Outcome::Exhausted,
        ..pressed(now + after, MS, 9)
    };
    little.learn(&refused(MS));
    assert!((little.centre - before).abs() < f64::EPSILON);
    little.learn(&refused(2 * MS));
    assert!((little.centre - before * CUT).abs() < 1e-9);
}

#[test]
fn late_replies_never_enter_the_unloaded_latency() {
    let (mut little, now) = settled();
    let before = little.unloaded.latency(100.0);
    little.learn(&Sample {
        outcome: Outcome::TimedOut,
        ..pressed(now, Duration::from_secs(10), 1)
    });
    assert_eq!(little.unloaded.latency(100.0), before);
}

#[test]
fn idle_keeps_what_is_known_and_gives_up_what_a_burst_had_reached() {
    let (mut little, now) = settled();
    let (theta, tau) = (little.trim.theta(), little.unloaded.latency(100.0));
    little.start_from(200.0);
    little.learn(&pressed(now + Duration::from_secs(11), 5 * MS, 20));
    assert!(little.centre <= little.target(), "{}", little.centre);
    assert!((little.trim.theta() - theta).abs() < f64::EPSILON);
    assert_eq!(little.unloaded.latency(100.0), tau);
}

#[test]
fn a_way_that_has_become_longer_is_no_queue() {
    let (little, _) = settled();
    let far = Plant {
        delay: Duration::from_millis(28),
        ..Plant::distant()
    };
    let (little, _) = saturate_rule(&far, little, 20);
    // 28.5 ms at one batch each 0.5 ms.
    assert!(little.centre > 45.0, "{}", little.centre);
}
