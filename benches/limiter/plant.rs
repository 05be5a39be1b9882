//! The service model: a network on both sides of a serial proposer, and what
//! can go wrong with it. Times are seconds since the start of the run.

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

/// A plant as the file gives it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlantShape {
    /// `a` of `(a + b·n)·lognormal(j)`: a batch's own cost.
    #[serde(default)]
    pub(crate) base_ms: f64,
    /// `b`: an entry's cost.
    #[serde(default)]
    pub(crate) entry_us: f64,
    /// `j`: the deviation of the logarithm; the mean stays.
    #[serde(default)]
    pub(crate) jitter: f64,
    /// `D`: the way there and back together, half on each side.
    #[serde(default)]
    pub(crate) delay_ms: f64,
    /// Its deviation, drawn for each half.
    #[serde(default)]
    pub(crate) delay_jitter: f64,
    /// A second serial stage behind the proposer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) apply: Option<Stage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stall: Option<Pause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outage: Option<Pause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) collapse: Option<Collapse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group_commit: Option<Sync>,
    /// In order of time.
    #[serde(default)]
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stage {
    pub(crate) base_ms: f64,
    pub(crate) entry_us: f64,
}

/// Nothing happens for a while, again and again.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pause {
    pub(crate) every_s: f64,
    pub(crate) for_ms: f64,
}

/// Service grows by a part of itself for each batch inside beyond some.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Collapse {
    pub(crate) beyond: u32,
    pub(crate) per_batch: f64,
}

/// One sync takes all batches that wait: uniform from … to, plus the
/// proposer's cost of each.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sync {
    pub(crate) from_ms: f64,
    pub(crate) to_ms: f64,
}

/// From then on every service takes `factor` times what it took before …
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    pub(crate) at_s: f64,
    pub(crate) factor: f64,
    /// … and the way `delay` times as long.
    #[serde(default = "same")]
    pub(crate) delay: f64,
}

const fn same() -> f64 {
    1.0
}

impl PlantShape {
    pub(crate) fn check(&self) -> Result<(), String> {
        let works = self.base_ms > 0.0 || self.entry_us > 0.0;
        let positive = [self.base_ms, self.entry_us, self.jitter, self.delay_ms]
            .into_iter()
            .chain([self.delay_jitter])
            .all(|value| (0.0..=60_000.0).contains(&value));
        let pauses = [&self.stall, &self.outage].into_iter().flatten();
        let steps = self
            .steps
            .iter()
            .all(|step| step.factor > 0.0 && step.delay > 0.0);
        let rests = pauses.into_iter().all(|p| p.for_ms < 1e3 * p.every_s);
        match works && positive && steps && rests {
            true => Ok(()),
            false => Err(
                "plant: base_ms or entry_us must be above zero, nothing below it, \
                          and a pause shorter than what it interrupts"
                    .into(),
            ),
        }
    }

    /// The same plant, a little different.
    pub(crate) fn varied(&self, vary: f64, rng: &mut fastrand::Rng) -> Self {
        let mut scale = |value: &mut f64| *value *= (vary * rng.f64().mul_add(2.0, -1.0)).exp();
        let mut plant = self.clone();
        for value in [
            &mut plant.base_ms,
            &mut plant.entry_us,
            &mut plant.jitter,
            &mut plant.delay_ms,
            &mut plant.delay_jitter,
        ] {
            scale(value);
        }
        if let Some(apply) = &mut plant.apply {
            scale(&mut apply.base_ms);
            scale(&mut apply.entry_us);
        }
        if let Some(sync) = &mut plant.group_commit {
            scale(&mut sync.to_ms);
            sync.to_ms = sync.to_ms.max(sync.from_ms);
        }
        plant
    }

    /// How long the proposer takes for a full batch at first, milliseconds.
    pub(crate) fn batch_ms(&self, batch: u32) -> f64 {
        self.base_ms + self.entry_us * f64::from(batch) / 1e3
    }

    /// The least mean latency of a full batch that nothing is in front of, in
    /// seconds, and how much slower than at first it ever works.
    pub(crate) fn extremes(&self, batch: u32) -> (f64, f64) {
        let n = f64::from(batch);
        let apply = self.apply.as_ref();
        let apply = apply.map_or(0.0, |stage| stage.base_ms + stage.entry_us * n / 1e3);
        let work = self.batch_ms(batch) + apply;
        let (mut factor, mut delay) = (1.0, 1.0);
        let (mut quickest, mut slowest) = (work + self.delay_ms, 1.0_f64);
        for step in &self.steps {
            (factor, delay) = (factor * step.factor, delay * step.delay);
            quickest = quickest.min(work * factor + self.delay_ms * delay);
            slowest = slowest.max(factor);
        }
        (quickest / 1e3, slowest)
    }

    /// What it carries with full batches of `batch`, entries a second, if
    /// enough of them are in flight and before any step.
    pub(crate) fn capacity(&self, batch: u32) -> f64 {
        let n = f64::from(batch);
        let cost = |base_ms: f64, entry_us: f64| base_ms / 1e3 + entry_us * n / 1e6;
        let apply = self.apply.as_ref();
        let apply = apply.map_or(0.0, |stage| cost(stage.base_ms, stage.entry_us));
        let busy = cost(self.base_ms, self.entry_us).max(apply);
        let rests = [&self.stall, &self.outage].into_iter().flatten();
        let part: f64 = rests.map(|p| 1.0 - p.for_ms / 1e3 / p.every_s).product();
        n / busy * part
    }
}

/// What becomes of a batch that has arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Served {
    /// It leaves at this time.
    At(f64),
    /// Nobody takes it.
    Refused,
    /// It waits for the next sync, at this time if none was planned before.
    Waits(Option<f64>),
}

/// A plant at work.
#[derive(Debug)]
pub(crate) struct Plant {
    shape: PlantShape,
    /// One for the work and one for the way: the n-th batch then costs the
    /// same whatever the limit is, and two limits differ by what they do and
    /// not by their luck.
    work: fastrand::Rng,
    way: fastrand::Rng,
    proposer_free: f64,
    apply_free: f64,
    inside: u32,
    /// Batches that the next sync takes.
    waiting: Vec<(usize, u32)>,
    syncing: bool,
}

impl Plant {
    pub(crate) fn new(shape: PlantShape, seed: u64) -> Self {
        Self {
            shape,
            work: fastrand::Rng::with_seed(seed),
            way: fastrand::Rng::with_seed(seed ^ 0x0000_d15c_0a57),
            proposer_free: 0.0,
            apply_free: 0.0,
            inside: 0,
            waiting: Vec::new(),
            syncing: false,
        }
    }

    /// Half the way.
    pub(crate) fn delay(&mut self, now: f64) -> f64 {
        let passed = self.shape.steps.iter().filter(|step| step.at_s <= now);
        let longer: f64 = passed.map(|step| step.delay).product();
        self.shape.delay_ms / 2e3 * longer * lognormal(&mut self.way, self.shape.delay_jitter)
    }

    /// A batch of n entries arrives.
    pub(crate) fn arrive(&mut self, now: f64, batch: usize, n: u32) -> Served {
        if let Some(outage) = &self.shape.outage
            && pause_end(outage, now).is_some()
        {
            return Served::Refused;
        }
        self.inside += 1;
        if self.shape.group_commit.is_some() {
            self.waiting.push((batch, n));
            let begins = (!self.syncing).then_some(now);
            self.syncing = true;
            return Served::Waits(begins);
        }
        let begins = self.proposer_free.max(now);
        let service = self.service(begins, n);
        let proposed = self.through(begins, service);
        self.proposer_free = proposed;
        let Some(apply) = &self.shape.apply else {
            return Served::At(proposed);
        };
        let cost = apply.base_ms / 1e3 + apply.entry_us * f64::from(n) / 1e6;
        let begins = self.apply_free.max(proposed);
        self.apply_free = begins + cost * self.speed(begins);
        Served::At(self.apply_free)
    }

    /// The sync that was planned for now begins: who is in it, and when it
    /// ends. If nobody is, the next arrival begins one.
    pub(crate) fn sync(&mut self, now: f64) -> Option<(Vec<(usize, u32)>, f64)> {
        if self.waiting.is_empty() {
            self.syncing = false;
            return None;
        }
        let taken = std::mem::take(&mut self.waiting);
        let sync = self.shape.group_commit.as_ref()?;
        let (from, to) = (sync.from_ms / 1e3, sync.to_ms / 1e3);
        let mut seconds = self.work.f64().mul_add(to - from, from) * self.speed(now);
        for (_, n) in &taken {
            seconds += self.service(now, *n);
        }
        let end = self.through(now, seconds);
        Some((taken, end))
    }

    /// A batch has left.
    pub(crate) fn left(&mut self) {
        self.inside -= 1;
    }

    fn service(&mut self, now: f64, n: u32) -> f64 {
        let shape = &self.shape;
        let mut cost = shape.base_ms / 1e3 + shape.entry_us * f64::from(n) / 1e6;
        if let Some(collapse) = &shape.collapse {
            let beyond = self.inside.saturating_sub(collapse.beyond);
            cost *= f64::from(beyond).mul_add(collapse.per_batch, 1.0);
        }
        cost * self.speed(now) * lognormal(&mut self.work, self.shape.jitter)
    }

    fn speed(&self, now: f64) -> f64 {
        let passed = self.shape.steps.iter().filter(|step| step.at_s <= now);
        passed.map(|step| step.factor).product()
    }

    /// When work of `seconds` that begins at `from` ends, a stall included.
    fn through(&self, from: f64, seconds: f64) -> f64 {
        let Some(stall) = &self.shape.stall else {
            return from + seconds;
        };
        let begins = pause_end(stall, from).unwrap_or(from);
        let next = (begins / stall.every_s)
            .floor()
            .mul_add(stall.every_s, stall.every_s);
        let end = begins + seconds;
        match end > next {
            true => end + stall.for_ms / 1e3,
            false => end,
        }
    }
}

/// Of mean 1, whatever the deviation of its logarithm.
fn lognormal(rng: &mut fastrand::Rng, deviation: f64) -> f64 {
    if deviation <= 0.0 {
        return 1.0;
    }
    let (u, v) = (1.0 - rng.f64(), rng.f64());
    let normal = (-2.0 * u.ln()).sqrt() * (TAU * v).cos();
    deviation
        .mul_add(normal, -deviation * deviation / 2.0)
        .exp()
}

/// The end of the pause that `now` falls into. The first begins after one
/// whole interval.
fn pause_end(pause: &Pause, now: f64) -> Option<f64> {
    let begins = (now / pause.every_s).floor() * pause.every_s;
    let end = begins + pause.for_ms / 1e3;
    (begins > 0.0 && now < end).then_some(end)
}
