//! Runs every rule, and the oracle, under every load that was asked for: the
//! seeds in parallel, the results in order.

use std::{
    num::NonZeroUsize,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    anchors,
    figures::Figures,
    load::LoadShape,
    memory::{Fixed, Memory},
    oracle::{self, Best, Part},
    plant::PlantShape,
    probing,
    scenario::Scenario,
    sim::{self, Setup},
};

/// One load of one scenario.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) load: &'a LoadShape,
}

/// What the rules of a job amount to: for each rule, each seed's figures.
#[derive(Debug)]
pub(crate) struct Outcomes {
    pub(crate) figures: Vec<Vec<Figures>>,
    pub(crate) spent: Spent,
}

/// Where the time went, summed over the seeds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) oracle: Duration,
    pub(crate) rules: Duration,
    /// Seeds of which every fixed limit's run was remembered.
    pub(crate) remembered: usize,
}

/// One seed of a job.
struct Unit {
    at: usize,
    figures: Vec<Figures>,
    spent: Spent,
}

/// Runs all `jobs` with all `seeds` and gives each job's outcomes to `each`,
/// in the order of the jobs. Nothing of a result hangs on `threads`: a seed
/// runs by itself, and is put where it belongs.
pub(crate) fn run(
    jobs: &[Job<'_>],
    seeds: &[u64],
    rules: &[&'static str],
    memory: &Memory,
    threads: usize,
    mut each: impl FnMut(usize, Outcomes),
) {
    let next = AtomicUsize::new(0);
    let units = jobs.len() * seeds.len();
    let (done, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads.min(units) {
            let done = done.clone();
            scope.spawn(|| {
                let done = done;
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= units {
                        return;
                    }
                    let job = &jobs[at / seeds.len()];
                    let (figures, spent) = unit(job, seeds[at % seeds.len()], rules, memory);
                    // Nobody listens only if the collector has panicked.
                    let _ = done.send(Unit { at, figures, spent });
                }
            });
        }
        drop(done);
        let mut finished: Vec<Option<Unit>> = (0..units).map(|_| None).collect();
        let mut told = 0;
        for unit in results {
            let at = unit.at;
            finished[at] = Some(unit);
            while told < jobs.len() {
                let own = &mut finished[told * seeds.len()..][..seeds.len()];
                if own.iter().any(Option::is_none) {
                    break;
                }
                let own = own.iter_mut().filter_map(Option::take);
                each(told, outcomes(own, rules.len()));
                told += 1;
            }
        }
    });
}

fn outcomes(units: impl Iterator<Item = Unit>, rules: usize) -> Outcomes {
    let mut outcomes = Outcomes {
        figures: vec![Vec::new(); rules],
        spent: Spent::default(),
    };
    for unit in units {
        for (all, own) in outcomes.figures.iter_mut().zip(unit.figures) {
            all.push(own);
        }
        outcomes.spent.oracle += unit.spent.oracle;
        outcomes.spent.rules += unit.spent.rules;
        outcomes.spent.remembered += unit.spent.remembered;
    }
    outcomes
}

/// The oracle and each rule with one seed.
fn unit(job: &Job<'_>, seed: u64, rules: &[&str], memory: &Memory) -> (Vec<Figures>, Spent) {
    let began = Instant::now();
    let plant = job.scenario.plant_of(seed);
    let setup = setup(job, &plant, seed);
    let segments = job.scenario.segments();
    let mut fixed = memory.open(key(&setup, &segments));
    let best = best(&setup, &segments, &mut fixed);
    let swept = Instant::now();
    let mut probed = Duration::ZERO;
    let figures = rules.iter().map(|rule| {
        let trace = sim::run(&setup, || anchors::limiter(rule));
        let parts = oracle::parts(&trace, &segments);
        let mut figures = Figures::new(&trace, &parts, &best, &segments);
        if probing::is_told(job.scenario, &setup) {
            let began = Instant::now();
            let run = |limit| run_fixed(&setup, &segments, limit);
            let cost = probing::cost(&trace, segments[0], &parts[0], &mut fixed, run);
            figures.probing_cost = Some(cost);
            probed += began.elapsed();
        }
        figures
    });
    let figures = figures.collect();
    let spent = Spent {
        oracle: swept - began + probed,
        rules: swept.elapsed().saturating_sub(probed),
        remembered: fixed.close().into(),
    };
    (figures, spent)
}

/// One run of a job.
pub(crate) fn setup<'a>(job: &Job<'a>, plant: &'a PlantShape, seed: u64) -> Setup<'a> {
    Setup {
        plant,
        load: job.load,
        batch: job.scenario.batch,
        sidecars: job.scenario.sidecars,
        clocks_ms: job.scenario.clocks_ms,
        seconds: job.scenario.seconds,
        seed,
        deaf: false,
    }
}

/// All that determines what a fixed limit does.
pub(crate) fn key(setup: &Setup<'_>, segments: &[(f64, f64)]) -> String {
    format!("{setup:?} {segments:?}")
}

/// The best fixed limit of each segment.
pub(crate) fn best(setup: &Setup<'_>, segments: &[(f64, f64)], fixed: &mut Fixed<'_>) -> Vec<Best> {
    oracle::sweep(setup.load.is_closed(), too_low(setup), |limit| {
        let run = || run_fixed(setup, segments, limit);
        fixed.parts(limit, run).to_vec()
    })
}

/// A limit below which an open load surely chokes, to spare the sweep the
/// dearest of its runs: by Little's law L batches of n, each under way for at
/// least the unloaded latency, carry at most `L·n/latency`. Half of what is
/// offered leaves room for a plant that cannot carry all of it.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn too_low(setup: &Setup<'_>) -> u32 {
    let plant = setup.plant;
    // Neither of these carries what `capacity` says.
    if plant.collapse.is_some() || plant.group_commit.is_some() {
        return 0;
    }
    let (quickest, slowest) = plant.extremes(setup.batch);
    let share = setup.load.mean_share().min(1.0);
    let offered = share * plant.capacity(setup.batch) / slowest;
    let each = f64::from(setup.batch) * setup.sidecars as f64 / quickest;
    (0.5 * offered / each) as u32
}

fn run_fixed(setup: &Setup<'_>, segments: &[(f64, f64)], limit: u32) -> Vec<Part> {
    oracle::parts(&sim::run(setup, || anchors::fixed(limit)), segments)
}

/// One run at a time a core, unless `asked` says otherwise.
pub(crate) fn threads(asked: Option<usize>) -> usize {
    let cores = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    asked.unwrap_or_else(cores)
}

#[cfg(test)]
#[allow(dead_code, unused_imports)] // of no use to the bench, which has no harness
mod tests {
    use std::fs;

    use super::*;

    const SCENARIO: &str = "
expect: It is short.
plant: { base_ms: 1, entry_us: 5, jitter: 0.3, delay_ms: 3, delay_jitter: 0.3 }
loads:
  - { name: closed, kind: { closed: { clients: 2000 } }, grain: 20 }
  - { name: open, kind: { open: { share: 0.7 } }, grain: 5 }
seconds: 2
warmup: 0.5
vary: 0.2
";

    #[test]
    fn the_figures_are_the_same_however_many_runs_go_on_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("short.yaml");
        fs::write(&file, SCENARIO).expect("it is written");
        let scenario = Scenario::read(&file).expect("a sound scenario");
        let loads = scenario.loads.iter();
        let jobs: Vec<Job> = loads
            .map(|load| Job {
                scenario: &scenario,
                load,
            })
            .collect();
        let memory = |name| Memory::new(Some(&folder.path().join(name)), false);
        let all = |threads, memory: &Memory| {
            let mut told = Vec::new();
            let rules = ["little", "envoy"];
            run(
                &jobs,
                &[1, 2, 3],
                &rules,
                memory,
                threads,
                |at, outcomes| {
                    told.push(format!("{at} {:?}", outcomes.figures));
                },
            );
            told
        };
        let first = memory("first");
        let alone = all(1, &first);
        assert_eq!(alone.len(), 2);
        assert_eq!(alone, all(4, &memory("second")));
        assert_eq!(alone, all(3, &first), "remembered");
    }
}
