//! ferry's limit against the known limiters and against the best fixed limit,
//! in virtual time: `cargo bench --bench limiter -- --help`.
//!
//! It needs the library core alone, so that it builds in a minute:
//! `cargo bench --no-default-features --bench limiter`.

// What a bench prints is its result. The simulator counts time from some
// instant, and any will do. Counts of a run are far below 2^52.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::float_cmp
)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

mod anchors;
mod load;
mod oracle;
mod plant;
mod report;
mod scenario;
mod sim;
mod trace;

use load::{Kind, LoadShape};
use report::{Figures, Line, Role};
use scenario::Scenario;
use sim::Setup;

const HELP: &str = "\
cargo bench --no-default-features --bench limiter -- [FLAGS]

  --scenario FILE  run this file (may be given again); all of tests/scenarios
                   without it
  --load NAME      of its loads, only this one
  --only RULE      of the rules, only this one (may be given again)
  --seeds N        seeds 1 to N; every figure is the mean over them [5]
  --seed N         this seed alone
  --json           one line of JSON a rule, plant and load";

/// What was asked for.
#[derive(Debug, Default)]
struct Arguments {
    scenarios: Vec<PathBuf>,
    load: Option<String>,
    only: Vec<String>,
    seeds: Vec<u64>,
    json: bool,
    help: bool,
}

impl Arguments {
    fn parse(mut given: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self {
            seeds: (1..=5).collect(),
            ..Self::default()
        };
        while let Some(flag) = given.next() {
            let mut value = || given.next().ok_or(format!("{flag}: a value must follow"));
            match flag.as_str() {
                "--scenario" => arguments.scenarios.push(value()?.into()),
                "--load" => arguments.load = Some(value()?),
                "--only" => arguments.only.push(value()?),
                "--seed" => arguments.seeds = vec![number(&flag, &value()?)?],
                "--seeds" => arguments.seeds = (1..=number(&flag, &value()?)?).collect(),
                "--json" => arguments.json = true,
                "--help" => arguments.help = true,
                "--bench" => {}
                // `make bench` gives every bench the flags of the measured
                // ones; rounds and durations mean nothing in virtual time.
                "--rounds" | "--duration" => drop(value()?),
                "--output" => arguments.json = value()? == "json",
                _ => return Err(format!("{flag}: no such flag\n\n{HELP}")),
            }
        }
        for name in &arguments.only {
            if !anchors::NAMES.contains(&name.as_str()) {
                let known = anchors::NAMES.join(", ");
                return Err(format!("--only {name}: no such rule; there are {known}"));
            }
        }
        Ok(arguments)
    }

    fn rules(&self) -> Vec<&'static str> {
        let asked = |name: &&str| self.only.is_empty() || self.only.iter().any(|o| o == name);
        anchors::NAMES.into_iter().filter(asked).collect()
    }
}

fn number(flag: &str, text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(number @ 1..=1_000_000) => Ok(number),
        _ => Err(format!("{flag} {text}: must be 1 to 1000000")),
    }
}

/// What `cargo test` runs, which gives no flag at all: a few files, one seed,
/// ferry's own rule, for the ranges that they say must hold.
const SHORT: [&str; 3] = ["serial3ms", "collapse", "gc200ms"];

fn short(folder: &Path) -> Arguments {
    let file = |name: &&str| folder.join(name).with_extension("yaml");
    Arguments {
        scenarios: SHORT.iter().map(file).collect(),
        only: vec!["little".into()],
        seeds: vec![1],
        ..Arguments::default()
    }
}

fn main() -> ExitCode {
    let asked = match std::env::args().len() {
        1 => Ok(short(&folder())),
        _ => Arguments::parse(std::env::args().skip(1)),
    };
    match asked.and_then(|arguments| evaluate(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("{fault}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what was asked for; whether every range held.
fn evaluate(arguments: &Arguments) -> Result<bool, String> {
    if arguments.help {
        println!("{HELP}");
        return Ok(true);
    }
    let files = match arguments.scenarios.is_empty() {
        true => all_scenarios()?,
        false => arguments.scenarios.clone(),
    };
    let rules = arguments.rules();
    let (mut lines, mut held) = (Vec::new(), true);
    if !arguments.json {
        println!("{}", report::heading());
    }
    for file in &files {
        let scenario = Scenario::read(file)?;
        let asked = |load: &&LoadShape| arguments.load.as_ref().is_none_or(|l| *l == load.name);
        for load in scenario.loads.iter().filter(asked) {
            for line in compare(file, &scenario, load, &arguments.seeds, &rules) {
                match arguments.json {
                    true => println!("{}", serde_json::to_string(&line).expect("plain figures")),
                    false => println!("{}", report::row(&line)),
                }
                if line.algorithm == "little" && load.is_closed() {
                    held &= holds(&scenario, &line);
                }
                lines.push(line);
            }
        }
    }
    if !arguments.json && arguments.scenarios.is_empty() {
        println!("\n{}", report::goals(&lines, &rules));
    }
    Ok(held)
}

/// The checkout, as cargo says now: it may have been built in another one.
fn root() -> PathBuf {
    let built_in = || env!("CARGO_MANIFEST_DIR").into();
    env::var_os("CARGO_MANIFEST_DIR").map_or_else(built_in, PathBuf::from)
}

fn folder() -> PathBuf {
    root().join("tests/scenarios")
}

fn all_scenarios() -> Result<Vec<PathBuf>, String> {
    let folder = folder();
    let entries = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    Ok(files)
}

/// Every rule under one load, each figure the mean over the seeds.
fn compare(
    file: &Path,
    scenario: &Scenario,
    load: &LoadShape,
    seeds: &[u64],
    rules: &[&'static str],
) -> Vec<Line> {
    let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); rules.len()];
    let segments = scenario.segments();
    for &seed in seeds {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plant = scenario.plant.varied(scenario.vary, &mut rng);
        let setup = Setup {
            plant: &plant,
            load,
            batch: scenario.batch,
            sidecars: scenario.sidecars,
            seconds: scenario.seconds,
            seed,
        };
        let best = oracle::sweep(load.is_closed(), |limit| {
            oracle::parts(&sim::run(&setup, || anchors::fixed(limit)), &segments)
        });
        for (rule, figures) in rules.iter().zip(&mut figures) {
            let trace = sim::run(&setup, || anchors::limiter(rule));
            let parts = oracle::parts(&trace, &segments);
            figures.push(Figures::new(&trace, &parts, &best, &segments));
        }
    }
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let last = seeds.last().copied().unwrap_or(1);
    let replay = match seeds.len() {
        1 => format!("--seed {last}"),
        _ => format!("--seeds {last}"),
    };
    let lines = rules.iter().zip(&figures);
    let lines = lines.map(|(rule, figures)| Line {
        scenario: name.to_string(),
        load: load.name.clone(),
        algorithm: rule,
        figures: Figures::mean(figures),
        seeds: seeds.to_vec(),
        replay: format!(
            "cargo bench --no-default-features --bench limiter -- --scenario {} --load {} {replay}",
            file.strip_prefix(root()).unwrap_or(file).display(),
            load.name
        ),
        role: role(scenario, load),
    });
    lines.collect()
}

fn role(scenario: &Scenario, load: &LoadShape) -> Role {
    match &load.kind {
        Kind::Closed(_) => Role::Saturated {
            steps: !scenario.plant.steps.is_empty(),
            fleet: scenario.sidecars > 1,
        },
        Kind::Open(open) if open.share > 1.0 => Role::Overload,
        Kind::Open(_) => Role::Open,
        Kind::Swing(_) => Role::Swing,
    }
}

/// Whether the default rule stayed in the scenario's ranges; says where not.
fn holds(scenario: &Scenario, line: &Line) -> bool {
    let mut held = true;
    for (name, (least, most)) in &scenario.hold {
        let value = line.figures.named(name);
        if !(*least..=*most).contains(&value) {
            held = false;
            eprintln!(
                "{} {}: {name} {value:.3} is not in {least}..{most}: {}\n  {}",
                line.scenario, line.load, scenario.expect, line.replay
            );
        }
    }
    held
}
