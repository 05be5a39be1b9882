//! The rule against small plants in virtual time: each promise by name.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::*;
use crate::limit::{LimitSettings, Limiter, Sent};

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
            sent.push((limiter.sent(now, 100, true), now));
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
