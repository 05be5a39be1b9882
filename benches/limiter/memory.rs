//! What fixed limits did, remembered from one command to the next: the
//! oracle's sweep takes ten times as long as the rule that is measured against
//! it, and does not change when that rule does.
//!
//! A remembered run is taken only if everything that determines it is word
//! for word the same (plant, load, batch, length, segments, seed) *and* it was
//! made by this very executable. `--keep-oracle` is content with the same text
//! of the sources that such a run uses, so that a change to the default rule
//! costs no new sweep. Whatever cannot be read is run again.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fmt::Write as _,
    fs,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use super::oracle::Part;

/// To be raised when what a remembered line means changes.
const FORMAT: u32 = 1;

/// What a fixed limit's run uses: the window, the count, and the simulator.
const SOURCES: &[&str] = &[
    include_str!("../../src/batch/window.rs"),
    include_str!("../../src/batch/pace.rs"),
    include_str!("../../src/batch/latency.rs"),
    include_str!("../../src/batch/distinct.rs"),
    include_str!("../../src/limit/limiter.rs"),
    include_str!("../../src/limit/rule.rs"),
    include_str!("../../src/limit/fixed.rs"),
    include_str!("sim.rs"),
    include_str!("plant.rs"),
    include_str!("load.rs"),
    include_str!("scenario.rs"),
    include_str!("trace.rs"),
    include_str!("oracle.rs"),
    include_str!("../../Cargo.lock"),
];

/// A folder of remembered runs.
#[derive(Debug)]
pub(crate) struct Memory {
    /// `None`: nothing is remembered.
    folder: Option<PathBuf>,
    executable: u64,
    sources: u64,
    keep: bool,
    written: AtomicU64,
}

impl Memory {
    /// `asked` is what the command line says: a folder, `off`, or nothing.
    pub(crate) fn new(asked: Option<&Path>, keep: bool) -> Self {
        let executable = std::env::current_exe().ok();
        let own = executable.as_deref().and_then(|path| fs::read(path).ok());
        // …/target/release/deps/limiter-….
        let usual = executable
            .as_deref()
            .and_then(|path| path.ancestors().nth(3));
        let folder = match asked {
            Some(path) if path == Path::new("off") => None,
            Some(path) => Some(path.to_owned()),
            None => usual.map(|target| target.join("limiter-oracle")),
        };
        Self::at(
            folder.filter(|_| own.is_some()),
            hash_of(&own.unwrap_or_default()),
            hash_of(SOURCES),
            keep,
        )
    }

    fn at(folder: Option<PathBuf>, executable: u64, sources: u64, keep: bool) -> Self {
        Self {
            folder,
            executable,
            sources,
            keep,
            written: AtomicU64::new(0),
        }
    }

    /// The runs of fixed limits that `key` determines.
    pub(crate) fn open(&self, key: String) -> Fixed<'_> {
        let file = self.folder.as_ref();
        let file = file.map(|folder| folder.join(format!("{:016x}", hash_of(&key))));
        let text = file.as_ref().and_then(|file| fs::read_to_string(file).ok());
        let runs = text.and_then(|text| self.read(&text, &key));
        Fixed {
            memory: self,
            key,
            file,
            runs: runs.unwrap_or_default(),
            made: 0,
        }
    }

    fn made_by(&self) -> String {
        format!("{FORMAT} {:016x} {:016x}", self.executable, self.sources)
    }

    fn read(&self, text: &str, key: &str) -> Option<BTreeMap<u32, Vec<Part>>> {
        let mut lines = text.lines();
        let own = self.made_by();
        let made_by = lines.next()?;
        // The same format and the same sources, whatever the executable is.
        let ends = |text: &str| {
            Some((
                text.split_once(' ')?.0.to_owned(),
                text.rsplit_once(' ')?.1.to_owned(),
            ))
        };
        let trusted = made_by == own || self.keep && ends(made_by)? == ends(&own)?;
        if !trusted || lines.next()? != key {
            return None;
        }
        let mut runs: BTreeMap<u32, Vec<Part>> = BTreeMap::new();
        for line in lines {
            let (limit, part) = part(line)?;
            runs.entry(limit).or_default().push(part);
        }
        Some(runs)
    }

    /// A memory that cannot be written costs time, and nothing else.
    fn write(&self, folder: &Path, file: &Path, text: &str) {
        let turn = self.written.fetch_add(1, Ordering::Relaxed);
        let fresh = folder.join(format!("fresh-{}-{turn}", std::process::id()));
        let written = fs::create_dir_all(folder)
            .and_then(|()| fs::write(&fresh, text))
            // Whole or not at all: another run may be reading.
            .and_then(|()| fs::rename(&fresh, file));
        if let Err(error) = written {
            eprintln!("{}: not remembered: {error}", file.display());
        }
    }
}

/// What fixed limits do under one load with one seed: remembered, or run now.
#[derive(Debug)]
pub(crate) struct Fixed<'a> {
    memory: &'a Memory,
    key: String,
    file: Option<PathBuf>,
    runs: BTreeMap<u32, Vec<Part>>,
    made: usize,
}

impl Fixed<'_> {
    /// What `limit` did in each segment.
    pub(crate) fn parts(&mut self, limit: u32, run: impl FnOnce() -> Vec<Part>) -> &[Part] {
        self.runs.entry(limit).or_insert_with(|| {
            self.made += 1;
            run()
        })
    }

    /// Keeps what was run now; whether nothing had to be.
    pub(crate) fn close(self) -> bool {
        if self.made > 0
            && let (Some(folder), Some(file)) = (&self.memory.folder, &self.file)
        {
            self.memory.write(folder, file, &self.text());
        }
        self.made == 0
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.memory.made_by(), self.key);
        for (limit, parts) in &self.runs {
            for part in parts {
                let figures = [part.throughput, part.latency, part.p99, part.mean_limit];
                let _ = write!(text, "{limit}");
                for figure in figures.iter().chain(&part.bins) {
                    // Debug prints what parses to the same bits.
                    let _ = write!(text, " {figure:?}");
                }
                text.push('\n');
            }
        }
        text
    }
}

fn part(line: &str) -> Option<(u32, Part)> {
    let mut words = line.split(' ');
    let limit = words.next()?.parse().ok()?;
    let figures: Result<Vec<f64>, _> = words.map(str::parse).collect();
    let figures = figures.ok()?;
    let [throughput, latency, p99, mean_limit, bins @ ..] = figures.as_slice() else {
        return None;
    };
    let part = Part {
        throughput: *throughput,
        latency: *latency,
        p99: *p99,
        mean_limit: *mean_limit,
        bins: bins.to_vec(),
    };
    Some((limit, part))
}

/// No key is trusted by its hash alone, and nobody forges an executable here.
fn hash_of(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[allow(dead_code, unused_imports)] // of no use to the bench, which has no harness
mod tests {
    use super::*;

    fn found(throughput: f64) -> Vec<Part> {
        let part = Part {
            throughput,
            latency: 0.1 + 0.2,
            bins: vec![1.0 / 3.0, 0.0],
            ..Part::default()
        };
        vec![part.clone(), part]
    }

    /// The throughput of a limit of 7, which would now be `otherwise`, and
    /// whether it was remembered.
    fn throughput(memory: &Memory, key: &str, otherwise: f64) -> (f64, bool) {
        let mut fixed = memory.open(key.into());
        let throughput = fixed.parts(7, || found(otherwise))[1].throughput;
        (throughput, fixed.close())
    }

    #[test]
    fn a_run_is_remembered_to_the_last_bit() {
        let folder = tempfile::tempdir().expect("a folder");
        let memory = Memory::at(Some(folder.path().into()), 1, 1, false);
        let mut fixed = memory.open("a key".into());
        fixed.parts(7, || found(1e5 / 7.0));
        fixed.parts(9, || found(0.1));
        assert!(!fixed.close());
        let mut fixed = memory.open("a key".into());
        let parts = fixed.parts(7, || unreachable!("it is remembered"));
        assert_eq!(format!("{parts:?}"), format!("{:?}", found(1e5 / 7.0)));
        let parts = fixed.parts(9, || unreachable!("it is remembered"));
        assert_eq!(format!("{parts:?}"), format!("{:?}", found(0.1)));
        assert!(fixed.close());
    }

    #[test]
    fn a_run_of_another_executable_or_of_something_else_is_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |executable, sources, keep| {
            Memory::at(Some(folder.path().into()), executable, sources, keep)
        };
        assert_eq!(throughput(&at(1, 1, false), "key", 1.0), (1.0, false));
        assert_eq!(throughput(&at(1, 1, false), "key", 2.0), (1.0, true));
        assert_eq!(throughput(&at(1, 1, false), "other key", 2.0), (2.0, false));
        // Another executable: only with its leave, and of the same sources.
        assert_eq!(throughput(&at(2, 1, true), "key", 3.0), (1.0, true));
        assert_eq!(throughput(&at(2, 2, true), "key", 4.0), (4.0, false));
        assert_eq!(throughput(&at(3, 2, false), "key", 5.0), (5.0, false));
    }

    #[test]
    fn a_key_is_compared_and_not_only_its_hash() {
        let folder = tempfile::tempdir().expect("a folder");
        let memory = Memory::at(Some(folder.path().into()), 1, 1, false);
        throughput(&memory, "key", 1.0);
        for entry in fs::read_dir(folder.path()).expect("the folder") {
            let path = entry.expect("its file").path();
            let text = fs::read_to_string(&path).expect("its text");
            fs::write(&path, text.replace("\nkey\n", "\nyek\n")).expect("another key");
        }
        assert_eq!(throughput(&memory, "key", 2.0), (2.0, false));
    }

    #[test]
    fn what_cannot_be_read_is_run_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let memory = Memory::at(Some(folder.path().into()), 1, 1, false);
        throughput(&memory, "key", 1.0);
        for entry in fs::read_dir(folder.path()).expect("the folder") {
            let path = entry.expect("its file").path();
            let text = fs::read_to_string(&path).expect("its text");
            fs::write(&path, text.replace("0.0", "zero")).expect("spoilt");
        }
        assert_eq!(throughput(&memory, "key", 2.0), (2.0, false));
    }
}
