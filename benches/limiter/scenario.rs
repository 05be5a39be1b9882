//! The data files: a plant, the loads to put on it, and the ranges that the
//! default rule must stay in. The format is documented in docs/limiter.md.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{load::LoadShape, plant::PlantShape, unseen};

/// One file of tests/scenarios.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// The file's name without its ending, and where it is.
    #[serde(skip)]
    pub(crate) name: String,
    #[serde(skip)]
    pub(crate) file: PathBuf,
    /// What a good rule does here, in a sentence.
    pub(crate) expect: String,
    pub(crate) plant: PlantShape,
    pub(crate) loads: Vec<LoadShape>,
    /// Virtual seconds of a run.
    pub(crate) seconds: f64,
    /// Virtual seconds at its beginning that no figure but `start_rtts` counts.
    pub(crate) warmup: f64,
    /// Entries of a full batch.
    #[serde(default = "hundred")]
    pub(crate) batch: u32,
    /// Sidecars in front of the one plant.
    #[serde(default = "one")]
    pub(crate) sidecars: usize,
    /// How far the first and the last sidecar's clock are apart; the others lie
    /// evenly between.
    #[serde(default)]
    pub(crate) clocks_ms: f64,
    /// Every size and time of the plant is multiplied by `exp(±vary)`,
    /// drawn anew for each seed.
    #[serde(default)]
    pub(crate) vary: f64,
    /// Figure → the least and the most that it may be, for the default rule,
    /// as the mean over the seeds.
    #[serde(default)]
    pub(crate) hold: BTreeMap<String, (f64, f64)>,
}

const fn hundred() -> u32 {
    100
}

const fn one() -> usize {
    1
}

impl Scenario {
    /// Reads a file and checks what a run relies on; where there is no file, a
    /// name like random-7-12 is the 12th that seed 7 draws.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        if let Some(drawn) = path.to_str().and_then(unseen::named)
            && !path.exists()
        {
            return Ok(drawn);
        }
        let named = |fault: String| format!("{}: {fault}", path.display());
        let text = fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        let mut scenario: Self =
            serde_yaml::from_str(&text).map_err(|error| named(error.to_string()))?;
        scenario.check().map_err(named)?;
        let name = path.file_stem().unwrap_or_default();
        scenario.name = name.to_string_lossy().into_owned();
        scenario.file = path.to_owned();
        Ok(scenario)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if !(1.0..=600.0).contains(&self.seconds) {
            return Err(format!("seconds {}: must be 1 to 600", self.seconds));
        }
        if !(0.0..=self.seconds - 0.5).contains(&self.warmup) {
            return Err(format!(
                "warmup {}: must leave at least 0.5 of {} seconds",
                self.warmup, self.seconds
            ));
        }
        if self.batch == 0 || self.sidecars == 0 {
            return Err("batch and sidecars: must be at least 1".into());
        }
        if !(0.0..=1e4).contains(&self.clocks_ms) {
            return Err(format!("clocks_ms {}: must be 0 to 10000", self.clocks_ms));
        }
        if !(0.0..=1.0).contains(&self.vary) {
            return Err(format!("vary {}: must be 0 to 1", self.vary));
        }
        if self.loads.is_empty() {
            return Err("loads: must name at least one".into());
        }
        for name in self.hold.keys() {
            if !super::figures::FIGURES.contains(&name.as_str()) {
                let known = super::figures::FIGURES.join(", ");
                return Err(format!("hold: no figure {name}; there are {known}"));
            }
        }
        self.loads.iter().try_for_each(LoadShape::check)?;
        self.plant.check()
    }

    /// The plant that a seed stands for.
    pub(crate) fn plant_of(&self, seed: u64) -> PlantShape {
        let mut rng = fastrand::Rng::with_seed(seed);
        self.plant.varied(self.vary, &mut rng)
    }

    /// Where the plant changes its speed, and the end: the segments over
    /// which the oracle may choose anew.
    pub(crate) fn segments(&self) -> Vec<(f64, f64)> {
        let mut from = self.warmup;
        let mut segments = Vec::new();
        for step in &self.plant.steps {
            if step.at_s > from && step.at_s < self.seconds {
                segments.push((from, step.at_s));
                from = step.at_s;
            }
        }
        segments.push((from, self.seconds));
        segments
    }
}
