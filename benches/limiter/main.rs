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

use std::{env, fs, path::PathBuf, process::ExitCode};

mod anchors;
mod arguments;
mod document;
mod evaluate;
mod figures;
mod goals;
mod load;
mod memory;
mod oracle;
mod plant;
mod plot;
mod probing;
mod report;
mod scenario;
mod sim;
mod timeline;
mod trace;
mod unseen;

use arguments::{Arguments, Output};
use evaluate::{Job, Spent};
use figures::Figures;
use goals::Case;
use load::LoadShape;
use memory::Memory;
use report::Line;
use scenario::Scenario;

fn main() -> ExitCode {
    let asked = match env::args().len() {
        1 => Ok(Arguments::short(&folder())),
        _ => Arguments::parse(env::args().skip(1)),
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
        println!("{}", arguments::HELP);
        return Ok(true);
    }
    let scenarios = scenarios(arguments)?;
    let all = arguments.loads.is_empty();
    let asked = |load: &&LoadShape| all || arguments.loads.contains(&load.name);
    let loads = scenarios.iter().flat_map(|scenario| {
        let loads = scenario.loads.iter().filter(asked);
        loads.map(move |load| Job { scenario, load })
    });
    let jobs: Vec<Job> = loads.collect();
    if jobs.is_empty() {
        let name = arguments.loads.join(", ");
        return Err(format!(
            "--load {name}: no scenario has a load of this name"
        ));
    }
    let (output, rules) = (arguments.output(), arguments.rules());
    let memory = Memory::new(arguments.oracle_cache.as_deref(), arguments.keep_oracle);
    let threads = evaluate::threads(arguments.threads);
    let (mut lines, mut held) = (Vec::new(), true);
    if output == Output::Table {
        println!("{}", report::heading());
    }
    let seeds = &arguments.seeds;
    evaluate::run(&jobs, seeds, &rules, &memory, threads, |at, outcomes| {
        let job = &jobs[at];
        for (rule, figures) in rules.iter().zip(&outcomes.figures) {
            let line = line(job, rule, figures, seeds);
            match output {
                Output::Lines => println!("{}", report::json(&line)),
                Output::Table => println!("{}", report::row(&line)),
            }
            if *rule == "little" {
                held &= holds(job, &line);
            }
            lines.push(line);
        }
        tell(job, outcomes.spent, seeds.len());
    });
    if arguments.write_docs {
        document::write(&root(), &scenarios, &lines, &rules, &memory)?;
    }
    if output == Output::Table && arguments.random.is_some() {
        for rule in &rules {
            println!("\n{}", goals::spread(&lines, rule));
        }
    } else if output == Output::Table && arguments.scenarios.is_empty() {
        println!("\n{}", goals::table(&lines, &rules));
    }
    Ok(held)
}

/// Those that were asked for.
fn scenarios(arguments: &Arguments) -> Result<Vec<Scenario>, String> {
    if let Some(count) = arguments.random {
        let seed = arguments.seeds[0];
        let drawn: Vec<Scenario> = (1..=count).map(|at| unseen::draw(seed, at)).collect();
        if let Some(folder) = &arguments.write {
            (drawn.iter()).try_for_each(|scenario| unseen::write(scenario, folder))?;
        }
        return Ok(drawn);
    }
    let files = match arguments.scenarios.is_empty() {
        true => all_scenarios()?,
        false => arguments.scenarios.clone(),
    };
    files.iter().map(|file| Scenario::read(file)).collect()
}

/// Where the time went, beside the results.
fn tell(job: &Job<'_>, spent: Spent, seeds: usize) {
    eprintln!(
        "{} {}: {:.1} s for the oracle ({} of {seeds} remembered), {:.1} s for the rules",
        job.scenario.name,
        job.load.name,
        spent.oracle.as_secs_f64(),
        spent.remembered,
        spent.rules.as_secs_f64(),
    );
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

/// A rule under one load, each figure the mean over the seeds.
fn line(job: &Job<'_>, rule: &'static str, figures: &[Figures], seeds: &[u64]) -> Line {
    let last = seeds.last().copied().unwrap_or(1);
    let replay = match seeds.len() {
        1 => format!("--seed {last}"),
        _ => format!("--seeds {last}"),
    };
    let file = &job.scenario.file;
    Line {
        scenario: job.scenario.name.clone(),
        load: job.load.name.clone(),
        algorithm: rule,
        figures: Figures::mean(figures),
        seeds: seeds.to_vec(),
        replay: format!(
            "cargo bench --no-default-features --bench limiter -- --scenario {} --load {} {replay}",
            file.strip_prefix(root()).unwrap_or(file).display(),
            job.load.name
        ),
        case: Case::of(job.scenario, job.load),
    }
}

/// Whether the default rule stayed in the scenario's ranges, which are for its
/// closed loads, and made no ghosts under any; says where not.
fn holds(job: &Job<'_>, line: &Line) -> bool {
    let ranges = job.scenario.hold.iter();
    let ranges = ranges.filter(|_| job.load.is_closed());
    let ranges = ranges.map(|(name, range)| (name.as_str(), *range));
    let mut held = true;
    for (name, (least, most)) in ranges.chain([("ghosts", (0.0, 0.0))]) {
        let value = line.figures.named(name);
        if !(least..=most).contains(&value) {
            held = false;
            eprintln!(
                "{} {}: {name} {value:.3} is not in {least}..{most}: {}\n  {}",
                line.scenario, line.load, job.scenario.expect, line.replay
            );
        }
    }
    held
}
