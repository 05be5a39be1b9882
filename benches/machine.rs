//! The machine: which cores there are, what a process used of them, and what
//! to call it in a report. Read from `/proc`: the bench is for Linux.

use std::{collections::BTreeMap, fs, io, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What a process used of its cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CpuTime {
    /// On a core.
    pub(crate) running: Duration,
    /// Ready to run, and something else ran.
    pub(crate) waiting: Duration,
}

impl CpuTime {
    /// Of all threads of the calling process that have not ended.
    pub(crate) fn of_this_process() -> io::Result<Self> {
        let mut total = Self::default();
        for thread in fs::read_dir("/proc/self/task")? {
            // Nanoseconds on a core, nanoseconds ready, timeslices. A thread
            // that ends meanwhile has no file any more.
            let Ok(line) = fs::read_to_string(thread?.path().join("schedstat")) else {
                continue;
            };
            let mut nanos = line.split_ascii_whitespace().map(str::parse);
            if let (Some(Ok(running)), Some(Ok(waiting))) = (nanos.next(), nanos.next()) {
                total.running += Duration::from_nanos(running);
                total.waiting += Duration::from_nanos(waiting);
            }
        }
        Ok(total)
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            running: self.running.saturating_sub(earlier.running),
            waiting: self.waiting.saturating_sub(earlier.waiting),
        }
    }
}

/// The cores that this process may use.
pub(crate) fn allowed_cores() -> Result<Vec<usize>> {
    let status = fs::read_to_string("/proc/self/status").context("this bench needs Linux")?;
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .context("/proc/self/status has no Cpus_allowed_list")?;
    let mut cores = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cores.extend(first.parse::<usize>()?..=last.parse()?);
    }
    Ok(cores)
}

/// Where the figures come from; the groups' data is in `folder`.
pub(crate) fn description(folder: &Path) -> Result<BTreeMap<&'static str, String>> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models = cpuinfo
        .lines()
        .filter(|line| line.starts_with("model name"));
    let model = models.clone().next().and_then(|line| line.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let known = |text: &str| match text.trim() {
        "" => "not known".to_owned(),
        text => text.to_owned(),
    };
    Ok(BTreeMap::from([
        ("cpu", known(model.map_or("", |(_, model)| model))),
        ("cores", known(&models.count().to_string())),
        ("file system", known(&file_system(folder)?)),
        ("kernel", known(&kernel)),
        ("rustc", known(&first_line("rustc", "--version"))),
        ("h2load", known(&first_line("h2load", "--version"))),
    ]))
}

/// The kind of file system that `folder` is on: of the mounts above it, the
/// nearest, and of those in one place the last.
fn file_system(folder: &Path) -> Result<String> {
    let folder = folder.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let above = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        folder.starts_with(place).then_some((place.len(), kind))
    });
    let nearest = above.max_by_key(|(length, _)| *length);
    Ok(nearest.map_or_else(String::new, |(_, kind)| kind.to_owned()))
}

fn first_line(program: &str, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}
