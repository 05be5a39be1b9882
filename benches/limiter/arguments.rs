//! The flags of the simulator, and what `cargo test` runs, which gives none.

use std::path::{Path, PathBuf};

use super::anchors;

pub(crate) const HELP: &str = "\
cargo bench --no-default-features --bench limiter -- [FLAGS]

  --scenario FILE     run this file (may be given again), and print one line of
                      JSON a rule and load; all of tests/scenarios without it
  --load NAME         of its loads, only this one (may be given again)
  --only RULE         of the rules, only this one (may be given again)
  --seeds N           seeds 1 to N; every figure is the mean over them [5]
  --seed N            this seed alone
  --json, --table     lines of JSON, or a table, whatever is run
  --threads N         runs at a time [one a core]
  --oracle-cache DIR  where the oracle's sweeps are remembered, or `off`
                      [limiter-oracle in cargo's target folder]
  --random N          N plants and loads that are drawn at random, by --seed [1];
                      how ferry's own rule fares on the worst, the median and
                      so on (others with --only). One of them again:
                      --scenario random-SEED-INDEX --seed SEED
  --write DIR         with --random: write what is drawn as scenario files
  --write-docs        the full evaluation: all scenarios and rules with seeds 1
                      to 20 (or --seeds N); writes the tables of docs/limiter.md
                      and the plots in docs/limiter
  --keep-oracle       take remembered sweeps of another executable, as long as
                      the sources that a sweep runs are the same";

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Table,
    Lines,
}

/// What was asked for.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    pub(crate) scenarios: Vec<PathBuf>,
    pub(crate) loads: Vec<String>,
    pub(crate) only: Vec<String>,
    pub(crate) seeds: Vec<u64>,
    pub(crate) threads: Option<usize>,
    /// `None`: the usual folder.
    pub(crate) oracle_cache: Option<PathBuf>,
    pub(crate) keep_oracle: bool,
    /// How many scenarios to draw, and where to write them.
    pub(crate) random: Option<u64>,
    pub(crate) write: Option<PathBuf>,
    pub(crate) write_docs: bool,
    pub(crate) help: bool,
    output: Option<Output>,
}

impl Arguments {
    pub(crate) fn parse(mut given: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self::default();
        while let Some(flag) = given.next() {
            let mut value = || given.next().ok_or(format!("{flag}: a value must follow"));
            match flag.as_str() {
                "--scenario" => arguments.scenarios.push(value()?.into()),
                "--load" => arguments.loads.push(value()?),
                "--only" => arguments.only.push(value()?),
                "--seed" => arguments.seeds = vec![number(&flag, &value()?)?],
                "--seeds" => arguments.seeds = (1..=number(&flag, &value()?)?).collect(),
                "--json" => arguments.output = Some(Output::Lines),
                "--table" => arguments.output = Some(Output::Table),
                "--threads" => arguments.threads = Some(count(&flag, &value()?)?),
                "--oracle-cache" => arguments.oracle_cache = Some(value()?.into()),
                "--keep-oracle" => arguments.keep_oracle = true,
                "--random" => arguments.random = Some(number(&flag, &value()?)?),
                "--write" => arguments.write = Some(value()?.into()),
                "--write-docs" => arguments.write_docs = true,
                "--help" => arguments.help = true,
                "--bench" => {}
                // `make bench` gives every bench the flags of the measured
                // ones; rounds and durations mean nothing in virtual time.
                "--rounds" | "--duration" => drop(value()?),
                "--output" => {
                    let lines = value()? == "json";
                    arguments.output = Some(if lines { Output::Lines } else { Output::Table });
                }
                _ => return Err(format!("{flag}: no such flag\n\n{HELP}")),
            }
        }
        arguments.settle()?;
        for name in &arguments.only {
            if !anchors::NAMES.contains(&name.as_str()) {
                let known = anchors::NAMES.join(", ");
                return Err(format!("--only {name}: no such rule; there are {known}"));
            }
        }
        Ok(arguments)
    }

    /// What hangs on more than one flag.
    fn settle(&mut self) -> Result<(), String> {
        let drawn = self.random.is_some();
        if drawn && (self.seeds.len() > 1 || !self.scenarios.is_empty()) {
            return Err("--random: draws its own scenarios, by one --seed".into());
        }
        if self.write.is_some() && !drawn {
            return Err("--write: only what --random draws is written".into());
        }
        let partly =
            drawn || !(self.scenarios.is_empty() && self.loads.is_empty() && self.only.is_empty());
        if self.write_docs && partly {
            return Err("--write-docs: runs all scenarios, loads and rules".into());
        }
        if self.seeds.is_empty() {
            let last = match (drawn, self.write_docs) {
                (true, _) => 1,
                (_, true) => 20,
                _ => 5,
            };
            self.seeds = (1..=last).collect();
        }
        if drawn && self.only.is_empty() {
            self.only.push("little".into());
        }
        Ok(())
    }

    /// What `cargo test` runs: a few files of `folder`, two of their loads, one
    /// seed, ferry's own rule, for the ranges that they say must hold.
    pub(crate) fn short(folder: &Path) -> Self {
        let file = |name: &&str| folder.join(name).with_extension("yaml");
        Self {
            scenarios: SHORT.iter().map(file).collect(),
            loads: SHORT_LOADS.map(str::to_owned).into(),
            only: vec!["little".into()],
            seeds: vec![1],
            output: Some(Output::Table),
            ..Self::default()
        }
    }

    pub(crate) fn rules(&self) -> Vec<&'static str> {
        let asked = |name: &&str| self.only.is_empty() || self.only.iter().any(|o| o == name);
        anchors::NAMES.into_iter().filter(asked).collect()
    }

    /// Lines where files were named, so that a program can read what they
    /// amount to; else a table.
    pub(crate) fn output(&self) -> Output {
        self.output.unwrap_or(match self.scenarios.is_empty() {
            true => Output::Table,
            false => Output::Lines,
        })
    }
}

const SHORT: [&str; 3] = ["serial3ms", "collapse", "gc200ms"];
const SHORT_LOADS: [&str; 2] = ["closed4k", "leavers60"];

fn number(flag: &str, text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(number @ 1..=1_000_000) => Ok(number),
        _ => Err(format!("{flag} {text}: must be 1 to 1000000")),
    }
}

fn count(flag: &str, text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=1_024) => Ok(number),
        _ => Err(format!("{flag} {text}: must be 1 to 1024")),
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports)] // of no use to the bench, which has no harness
mod tests {
    use super::*;

    fn parse(flags: &str) -> Result<Arguments, String> {
        Arguments::parse(flags.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_scenario_of_ones_own_answers_in_lines_of_json_unless_a_table_is_asked_for() {
        let output = |flags: &str| parse(flags).expect("known flags").output();
        assert_eq!(output("--scenario my.yaml"), Output::Lines);
        assert_eq!(output("--scenario my.yaml --table"), Output::Table);
        assert_eq!(output("--seeds 2"), Output::Table);
        assert_eq!(output("--seeds 2 --json"), Output::Lines);
    }

    #[test]
    fn a_flag_that_is_wrong_is_told_what_would_be_right() {
        for (flags, remedy) in [
            ("--seed 0", "must be 1 to"),
            ("--threads many", "must be 1 to"),
            ("--only greedy", "there are little"),
            ("--load", "a value must follow"),
            ("--scenarios", "--scenario FILE"),
            ("--random 3 --seeds 2", "by one --seed"),
            ("--write folder", "--random draws"),
            (
                "--write-docs --only little",
                "all scenarios, loads and rules",
            ),
        ] {
            let fault = parse(flags).expect_err(flags);
            assert!(fault.contains(remedy), "{flags}: {fault}");
        }
    }
}
