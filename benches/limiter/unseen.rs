//! Plants and loads that nobody chose: drawn at random within ranges
//! (docs/limiter.md has them as a table), so that a rule cannot be tuned to the
//! files of tests/scenarios.
//!
//! `--random N --seed S` draws N of them; the i-th of a seed is always the
//! same. `--write DIR` writes them as files, which replay like any other.

use std::{fs, path::Path};

use super::{
    load::{Clients, Kind, LoadShape, Share, Swing},
    plant::{Collapse, Pause, PlantShape, Stage, Step, Sync},
    scenario::Scenario,
};

/// A full batch takes the proposer at most this long, milliseconds.
const LONGEST_MS: f64 = 20.0;
/// Batches that the way holds, at most: ferry's limit_max is 256.
const MOST_ON_THE_WAY: f64 = 80.0;
/// Full batches in a run, about.
const RUN: f64 = 20_000.0;
/// Groups of callers that arrive in a run of an open load, about.
const ARRIVALS: f64 = 60_000.0;
/// Batches that a closed load could have in flight, over what the way holds.
const PRESSURE: (f64, f64) = (2.5, 8.0);

/// Draws the `at`-th scenario of a seed.
pub(crate) fn draw(seed: u64, at: u64) -> Scenario {
    let mut rng = fastrand::Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(at));
    let rng = &mut rng;
    let batch = [50, 100, 200, 500, 1_000][rng.usize(0..5)];
    let plant = plant(rng, batch);
    let sidecars = if rng.f64() < 1.0 / 12.0 {
        rng.usize(2..=8)
    } else {
        1
    };
    // Plants of quick batches make many of them a second, and need no longer.
    let own = RUN * plant.batch_ms(batch) / 1e3;
    let (seconds, warmup) = match plant.steps.last() {
        Some(step) => (round(step.at_s + 6.0), 3.0),
        None => (round(own.clamp(8.0, 14.0)), 3.0),
    };
    let capacity = plant.capacity(batch);
    let closed = closed(rng, &plant, batch, sidecars);
    let other = other(rng, capacity * seconds, batch);
    Scenario {
        name: format!("random-{seed}-{at}"),
        file: format!("random-{seed}-{at}").into(),
        expect: "Drawn at random: as good as the best fixed limit.".into(),
        plant,
        loads: vec![closed, other],
        seconds,
        warmup,
        batch,
        sidecars,
        clocks_ms: 0.0,
        vary: 0.0,
        hold: [].into(),
    }
}

/// The scenario whose name this is.
pub(crate) fn named(name: &str) -> Option<Scenario> {
    let (seed, at) = name.strip_prefix("random-")?.split_once('-')?;
    Some(draw(seed.parse().ok()?, at.parse().ok()?))
}

/// Writes a drawn scenario into `folder`, where it replays like any other.
pub(crate) fn write(scenario: &Scenario, folder: &Path) -> Result<(), String> {
    let file = folder.join(&scenario.name).with_extension("yaml");
    let text = serde_yaml::to_string(scenario).map_err(|error| error.to_string())?;
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&file, text))
        .map_err(|error| format!("{}: {error}", file.display()))
}

fn plant(rng: &mut fastrand::Rng, batch: u32) -> PlantShape {
    let n = f64::from(batch);
    let mut base_ms = even_in_log(rng, 0.1, 10.0);
    let mut entry_us = even_in_log(rng, 0.5, 50.0);
    let cost = base_ms + entry_us * n / 1e3;
    if cost > LONGEST_MS {
        (base_ms, entry_us) = (base_ms * LONGEST_MS / cost, entry_us * LONGEST_MS / cost);
    }
    let cost = cost.min(LONGEST_MS);
    let most_ms = (cost * MOST_ON_THE_WAY).clamp(0.2, 60.0);
    let delay_ms = even_in_log(rng, 0.1, most_ms);
    let chance = |rng: &mut fastrand::Rng, part: f64| rng.f64() < part;
    let apply = chance(rng, 0.4).then(|| {
        let part = between(rng, 0.1, 0.9);
        Stage {
            base_ms: round(base_ms * part),
            entry_us: round(entry_us * part),
        }
    });
    let stall = chance(rng, 0.125).then(|| Pause {
        every_s: round(between(rng, 2.0, 8.0)),
        for_ms: round(between(rng, 50.0, 400.0)),
    });
    let outage = chance(rng, 1.0 / 12.0).then(|| Pause {
        every_s: round(between(rng, 6.0, 10.0)),
        for_ms: round(between(rng, 200.0, 1_500.0)),
    });
    let collapse = chance(rng, 0.125).then(|| Collapse {
        beyond: rng.u32(4..=40),
        per_batch: round(even_in_log(rng, 0.005, 0.05)),
    });
    let group_commit = chance(rng, 0.1).then(|| {
        let from_ms = even_in_log(rng, 0.3, 2.0);
        Sync {
            from_ms: round(from_ms),
            to_ms: round(from_ms * between(rng, 1.0, 4.0).min(5.0 / from_ms)),
        }
    });
    let steps = match chance(rng, 0.3) {
        true => steps(rng),
        false => Vec::new(),
    };
    PlantShape {
        base_ms: round(base_ms),
        entry_us: round(entry_us),
        jitter: round(between(rng, 0.0, 1.0)),
        delay_ms: round(delay_ms),
        delay_jitter: round(between(rng, 0.0, 0.6)),
        // One sync takes all that wait: there is no second stage to queue at.
        apply: apply.filter(|_| group_commit.is_none()),
        stall,
        outage,
        collapse,
        group_commit,
        steps,
    }
}

fn steps(rng: &mut fastrand::Rng) -> Vec<Step> {
    let count = rng.u32(1..=2);
    let steps = (0..count).map(|at| {
        let delay = match rng.f64() < 1.0 / 3.0 {
            true => even_in_log(rng, 0.25, 6.0),
            false => 1.0,
        };
        Step {
            at_s: round(f64::from(at).mul_add(6.0, 7.0)),
            factor: round(even_in_log(rng, 0.25, 4.0)),
            delay: round(delay),
        }
    });
    steps.collect()
}

/// Enough callers to press whatever the plant does, a step to a longer way or
/// a faster plant included.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn closed(rng: &mut fastrand::Rng, plant: &PlantShape, batch: u32, sidecars: usize) -> LoadShape {
    let n = f64::from(batch);
    let (mut faster, mut longer, mut speed, mut way) = (1.0_f64, 1.0_f64, 1.0, 1.0);
    for step in &plant.steps {
        (speed, way) = (speed * step.factor, way * step.delay);
        (faster, longer) = (faster.max(1.0 / speed), longer.max(way));
    }
    let held = (plant.delay_ms * longer / 1e3 * plant.capacity(batch) * faster / n).max(1.0);
    let held = held + 2.0;
    let sync = plant.group_commit.as_ref();
    // A group commit is the better the more it takes.
    let held = held + sync.map_or(0.0, |sync| sync.to_ms / 1e3 * plant.capacity(batch) / n);
    let pressure = between(rng, PRESSURE.0, PRESSURE.1);
    let batches = (held.min(200.0) * pressure).max(6.0 * sidecars as f64);
    let parts = if plant.batch_ms(batch) < 1.0 { 5 } else { 10 };
    let grain = (batch / parts).max(1);
    LoadShape {
        name: "closed".into(),
        kind: Kind::Closed(Clients {
            clients: ((batches * n) as u32).div_ceil(grain) * grain,
        }),
        grain,
        deadline_ms: None,
        leave: 0.0,
        patience_ms: None,
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn other(rng: &mut fastrand::Rng, entries: f64, batch: u32) -> LoadShape {
    let leave = if rng.bool() {
        round(between(rng, 0.05, 0.5))
    } else {
        0.0
    };
    let patience_ms = (leave > 0.0).then(|| round(between(rng, 20.0, 500.0)));
    let (name, kind, share, deadline_ms) = match rng.u32(0..4) {
        0 => {
            let (low, high) = (between(rng, 0.03, 0.3), between(rng, 0.5, 0.9));
            let swing = Swing {
                low: round(low),
                high: round(high),
                every_s: round(between(rng, 1.0, 4.0)),
            };
            ("swing", Kind::Swing(swing), high, None)
        }
        1 => {
            let share = between(rng, 1.5, 4.0);
            let kind = Kind::Open(Share {
                share: round(share),
            });
            ("over", kind, share, Some(1_000.0))
        }
        _ => {
            let share = between(rng, 0.03, 0.95);
            let kind = Kind::Open(Share {
                share: round(share),
            });
            ("open", kind, share, None)
        }
    };
    let grain = (entries * share / ARRIVALS).ceil() as u32;
    LoadShape {
        name: name.into(),
        kind,
        grain: grain.clamp(1, batch / 4),
        deadline_ms,
        leave,
        patience_ms,
    }
}

fn between(rng: &mut fastrand::Rng, from: f64, to: f64) -> f64 {
    rng.f64().mul_add(to - from, from)
}

fn even_in_log(rng: &mut fastrand::Rng, from: f64, to: f64) -> f64 {
    between(rng, from.ln(), to.ln()).exp()
}

/// To three digits, so that a file says all there is to it.
fn round(value: f64) -> f64 {
    if value == 0.0 {
        return 0.0;
    }
    let digits = 2 - value.abs().log10().floor() as i32;
    // Through text, so that what is written is what was run.
    let digits = usize::try_from(digits.max(0)).unwrap_or_default();
    format!("{value:.digits$}").parse().unwrap_or(value)
}

#[cfg(test)]
#[allow(dead_code, unused_imports)] // of no use to the bench, which has no harness
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_sound_scenarios_again_and_another_seed_others() {
        for at in 0..200 {
            let scenario = draw(1, at);
            scenario.check().expect("what is drawn can be run");
            assert_eq!(format!("{scenario:?}"), format!("{:?}", draw(1, at)));
            assert_ne!(format!("{scenario:?}"), format!("{:?}", draw(2, at)));
            let named = named(&scenario.name).expect("a name that draws");
            assert_eq!(format!("{scenario:?}"), format!("{named:?}"));
        }
    }

    #[test]
    fn a_drawn_scenario_that_was_written_replays_as_it_was_drawn() {
        let folder = tempfile::tempdir().expect("a folder");
        for at in 0..200 {
            let drawn = draw(7, at);
            write(&drawn, folder.path()).expect("it is written");
            let file = folder.path().join(format!("random-7-{at}.yaml"));
            let mut read = Scenario::read(&file).expect("it is read");
            read.file.clone_from(&drawn.file);
            assert_eq!(format!("{read:?}"), format!("{drawn:?}"));
        }
    }

    #[test]
    fn the_ranges_are_used_to_their_ends() {
        let drawn: Vec<Scenario> = (0..400).map(|at| draw(3, at)).collect();
        let count = |has: fn(&Scenario) -> bool| drawn.iter().filter(|s| has(s)).count();
        assert!((20..100).contains(&count(|s| s.plant.stall.is_some())));
        assert!((15..70).contains(&count(|s| s.plant.outage.is_some())));
        assert!((20..100).contains(&count(|s| s.plant.collapse.is_some())));
        assert!((15..80).contains(&count(|s| s.plant.group_commit.is_some())));
        assert!((80..160).contains(&count(|s| !s.plant.steps.is_empty())));
        assert!((15..70).contains(&count(|s| s.sidecars > 1)));
        assert!(count(|s| s.loads[1].leave > 0.0) > 100);
    }
}
