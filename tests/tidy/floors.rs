//! The floors: who may import whom. A file imports its own floor or a lower
//! one, from ferry and from other crates alike; the pure cores (floor 0) touch
//! nothing that a test would have to fake. Imports are found by a scan of the
//! text, which is enough for `use` lists and for paths written out in place;
//! what a macro would hide is left to review.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{File, words};

/// Longest match wins: a file's own row, else its folder's. A file at the top
/// of `src/` needs a row of its own.
const FLOORS: &[(&str, u8)] = &[
    ("src/lib.rs", 3),
    ("src/main.rs", 3),
    ("src/stack.rs", 3),
    ("src/stack/", 3),
    ("src/accept/", 2),
    ("src/accept/frame.rs", 0),
    ("src/accept/frames.rs", 0),
    ("src/accept/guards.rs", 0),
    ("src/accept/inflate.rs", 1),
    ("src/accept/metadata.rs", 1),
    ("src/accept/route.rs", 0),
    ("src/accept/status.rs", 1),
    ("src/accept/turn.rs", 0),
    ("src/forward.rs", 2),
    ("src/health.rs", 2),
    ("src/batch/", 0),
    ("src/batch/bell.rs", 1),
    ("src/batch/callers.rs", 1),
    ("src/batch/entry.rs", 1),
    ("src/batch/flight.rs", 1),
    ("src/batch/place.rs", 1),
    ("src/batch/queue.rs", 1),
    ("src/batch/refuse.rs", 1),
    ("src/batch/service.rs", 1),
    ("src/batch/worker.rs", 1),
    ("src/limit/", 0),
    ("src/limit/permit.rs", 1),
    ("src/limit/service.rs", 1),
    ("src/wire/", 0),
    ("src/transport/", 2),
    ("src/upstream/", 2),
    ("src/upstream/balance.rs", 0),
    ("src/raft/", 2),
    ("src/raft/command/", 0),
    ("src/raft/keys.rs", 0),
    ("src/meta/", 2),
    ("src/reply.rs", 1),
    ("src/policy/", 2),
    ("src/policy/fault.rs", 0),
    ("src/policy/keys.rs", 0),
    ("src/policy/keys_guards.rs", 0),
    ("src/policy/keys_method.rs", 0),
    ("src/policy/keys_node.rs", 0),
    ("src/policy/tree.rs", 1),
    ("src/policy/section.rs", 1),
    ("src/policy/units.rs", 0),
    ("src/telemetry/", 1),
    ("src/telemetry/admin.rs", 2),
    ("src/telemetry/clients.rs", 2),
    ("src/telemetry/collector.rs", 2),
    ("src/telemetry/controls.rs", 2),
    ("src/telemetry/names.rs", 0),
    ("src/telemetry/page.rs", 2),
    ("src/telemetry/plan.rs", 2),
    ("src/telemetry/saving.rs", 2),
    ("src/telemetry/sending.rs", 2),
    ("src/telemetry/traces.rs", 2),
    ("src/cli/", 3),
];

/// What `build.rs` generates: messages and the services that carry them.
const GENERATED: (&str, u8) = ("src/lib.rs", 2);

/// The other crates that a floor may use, beside those of the floors below;
/// floor 2 may use any but the command line's.
const CRATES: [&[&str]; 2] = [
    &["bytes", "serde", "thiserror"],
    &[
        "flate2", // bytes to bytes
        "futures_util",
        "http",
        "http_body", // the trait alone
        "pin_project_lite",
        "prometheus",
        "serde_yaml",
        "tokio",
        "tonic", // its `Status` alone: the table from error to status
        "tower",
        "tracing",
    ],
];

/// Crates that belong to the command line and to nothing below it.
const CLI_CRATES: [&str; 7] = [
    "anyhow",
    "clap",
    "clap_complete",
    "clap_mangen",
    "comfy_table",
    "hdrhistogram",
    "indicatif",
];

/// (importer, imported, why): pairs that no floor would forbid.
const STRANGERS: [(&str, &str, &str); 3] = [
    (
        "src/batch/",
        "src/raft/",
        "batching serves any tower service",
    ),
    (
        "src/limit/",
        "src/raft/",
        "limiting serves any tower service",
    ),
    (
        "src/limit/",
        "src/batch/",
        "the limit stands below the window, and alone too",
    ),
];

/// What no pure core may name, each as it stands in code.
const IMPURE: [&str; 16] = [
    "Instant::now",
    "SystemTime",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::io",
    "Mutex",
    "RwLock",
    "Condvar",
    "async fn",
    ".await",
    "println!",
    "eprintln!",
    "disallowed_methods",
];

/// Every import from a higher floor, a stranger, or a crate of another floor.
pub(super) fn imports(files: &[File]) -> Vec<String> {
    let tree = Tree::of(files);
    let crates = dependencies(files);
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.is_source()) {
        let Some(floor) = floor_of(&file.path) else {
            faults.push(format!(
                "{}: has no floor; give it a row in tests/tidy/floors.rs",
                file.path
            ));
            continue;
        };
        for import in &tree.imports[file.path.as_str()] {
            let fault = match import.first().map(String::as_str) {
                Some("crate") => tree.fault(file, floor, import),
                Some(name) => crate_fault(&crates, file, floor, name).map(str::to_owned),
                None => None,
            };
            faults.extend(fault.map(|why| format!("{}: {}: {why}", file.path, import.join("::"))));
        }
    }
    faults.sort();
    faults.dedup();
    faults
}

/// Every clock, lock, socket, log or suspension in a file of floor 0.
pub(super) fn purity(files: &[File]) -> Vec<String> {
    let pure = |file: &&File| file.is_source() && floor_of(&file.path) == Some(0);
    let mut faults = Vec::new();
    for file in files.iter().filter(pure) {
        for (number, line) in file.code().lines().enumerate() {
            for name in IMPURE.iter().filter(|name| line.contains(*name)) {
                faults.push(format!(
                    "{}:{}: `{name}` on floor 0; take what it gives as an argument",
                    file.path,
                    number + 1
                ));
            }
        }
    }
    faults
}

fn floor_of(path: &str) -> Option<u8> {
    FLOORS
        .iter()
        .filter(|(prefix, _)| path == *prefix || prefix.ends_with('/') && path.starts_with(prefix))
        .max_by_key(|(prefix, _)| prefix.len())
        .map(|(_, floor)| *floor)
}

fn crate_fault(
    crates: &BTreeSet<String>,
    file: &File,
    floor: u8,
    name: &str,
) -> Option<&'static str> {
    let in_cli = file.path.starts_with("src/cli/") || file.path == "src/main.rs";
    if CLI_CRATES.contains(&name) {
        return (!in_cli).then_some("belongs to the command line");
    }
    let allowed = CRATES.iter().take(usize::from(floor) + 1);
    let known = crates.contains(name);
    (known && floor < 2 && !allowed.flat_map(|list| list.iter()).any(|c| *c == name))
        .then_some("is a crate of a higher floor")
}

/// The crates that Cargo.toml names, as code spells them.
fn dependencies(files: &[File]) -> BTreeSet<String> {
    let manifest = files.iter().find(|file| file.path == "Cargo.toml");
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.map_or("", |file| &file.text).lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if let (true, Some((name, _))) = (inside, line.split_once(" = ")) {
            names.insert(name.replace('-', "_"));
        }
    }
    names
}

/// The modules of `src/`, to follow a path to the file that defines it.
struct Tree<'a> {
    /// What each file imports, read once.
    imports: BTreeMap<&'a str, Vec<Vec<String>>>,
}

impl<'a> Tree<'a> {
    fn of(files: &'a [File]) -> Self {
        let sources = files.iter().filter(|file| file.is_source());
        Self {
            imports: sources
                .map(|file| (file.path.as_str(), imports_of(file)))
                .collect(),
        }
    }

    fn fault(&self, file: &File, floor: u8, import: &[String]) -> Option<String> {
        let (target, above) = self.resolve(import, 0)?;
        // A folder's `mod.rs` lists what the folder offers, from any floor.
        let own = module_of(&file.path);
        let lists = file.path.ends_with("mod.rs") || file.path == "src/lib.rs";
        if target == file.path || lists && import[1..].starts_with(&own) {
            return None;
        }
        let stranger = STRANGERS
            .iter()
            .find(|(from, to, _)| file.path.starts_with(from) && target.starts_with(to));
        if let Some((_, _, why)) = stranger {
            return Some(format!("is in {target}: {why}"));
        }
        (above > floor)
            .then(|| format!("is in {target} on floor {above}, and this is floor {floor}"))
    }

    /// The file that defines `import` (which begins with `crate`), and its floor.
    fn resolve(&self, import: &[String], depth: usize) -> Option<(String, u8)> {
        let mut path = "src/lib.rs".to_owned();
        let mut rest = &import[1..];
        let mut module = "src".to_owned();
        while let Some(name) = rest.first() {
            let leaf = format!("{module}/{name}.rs");
            let folder = format!("{module}/{name}/mod.rs");
            if self.imports.contains_key(leaf.as_str()) {
                path = leaf;
            } else if self.imports.contains_key(folder.as_str()) {
                path = folder;
            } else {
                break;
            }
            module = format!("{module}/{name}");
            rest = &rest[1..];
        }
        if path == GENERATED.0 && rest.first().is_some_and(|name| name == "proto") {
            return Some((path, GENERATED.1));
        }
        if let (Some(name), true) = (rest.first(), depth < 4) {
            let listed = self.imports.get(path.as_str())?;
            let same = |found: &&Vec<String>| found[0] == "crate" && found.last() == Some(name);
            if let Some(found) = listed.iter().find(same)
                && found.as_slice() != import
            {
                return self.resolve(found, depth + 1);
            }
        }
        let floor = floor_of(&path)?;
        Some((path, floor))
    }
}

/// `src/batch/window.rs` is `["batch", "window"]`; `src/batch/mod.rs` is `["batch"]`.
fn module_of(path: &str) -> Vec<String> {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let names = inner
        .split('/')
        .filter(|name| !["mod", "lib", "main"].contains(name));
    names.map(str::to_owned).collect()
}

/// Every path that `file` imports or writes out, from `crate` or a crate's
/// name; `super`, `self` and a sibling module's name are resolved.
fn imports_of(file: &File) -> Vec<Vec<String>> {
    let code = file.code();
    let mut found = Vec::new();
    let mut rest = String::with_capacity(code.len());
    let mut at = 0;
    while let Some(start) = next_use(&code, at) {
        let end = code[start..].find(';').map_or(code.len(), |n| start + n);
        expand(&code[start + "use ".len()..end], &[], &mut found);
        rest.push_str(&code[at..start]);
        at = end;
    }
    rest.push_str(&code[at..]);
    found.extend(paths_in(&rest));
    let own = module_of(&file.path);
    let siblings = modules_in(&code);
    found
        .into_iter()
        .map(|path| absolute(path, &own, &siblings))
        .collect()
}

/// The next `use` that begins a statement.
fn next_use(code: &str, from: usize) -> Option<usize> {
    code[from..]
        .match_indices("use ")
        .map(|(at, _)| from + at)
        .find(|at| {
            let before = code[..*at].trim_end_matches([' ', '\t']);
            before.is_empty()
                || before.ends_with(['\n', ';', '{', '}', ')'])
                || before.ends_with("pub")
        })
}

/// Writes a `use` tree out into its paths; `a as b` is `a`.
fn expand(tree: &str, prefix: &[String], found: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or(tree);
        let names = words(path).filter(|name| *name != "self" || prefix.is_empty());
        found.push(
            prefix
                .iter()
                .cloned()
                .chain(names.map(str::to_owned))
                .collect(),
        );
        return;
    };
    let head = words(&tree[..open]).map(str::to_owned);
    let prefix: Vec<String> = prefix.iter().cloned().chain(head).collect();
    let inner = tree[open + 1..].trim_end();
    let inner = inner.strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut from) = (0, 0);
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&inner[from..at], &prefix, found);
                from = at + 1;
            }
            _ => {}
        }
    }
    if !inner[from..].trim().is_empty() {
        expand(&inner[from..], &prefix, found);
    }
}

/// Paths of two names and more that are written out in code.
fn paths_in(code: &str) -> Vec<Vec<String>> {
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    code.split(|c: char| !part(c))
        .filter(|token| token.contains("::") && !token.starts_with("::"))
        .map(|token| words(token).map(str::to_owned).collect::<Vec<_>>())
        .filter(|path| path.len() > 1 && path[0].starts_with(|c: char| c.is_lowercase()))
        .collect()
}

/// The modules that this file declares: their names begin a path in it.
fn modules_in(code: &str) -> Vec<String> {
    let declared = code.lines().filter_map(|line| {
        let line = line
            .trim()
            .trim_start_matches("pub ")
            .trim_start_matches("pub(crate) ");
        line.strip_prefix("mod ")?.strip_suffix(';')
    });
    declared.map(str::to_owned).collect()
}

fn absolute(path: Vec<String>, own: &[String], siblings: &[String]) -> Vec<String> {
    let mut base = own.to_vec();
    let mut rest = path.as_slice();
    match path.first().map(String::as_str) {
        Some("ferry") => (base, rest) = (Vec::new(), &path[1..]),
        Some("self") => rest = &path[1..],
        Some("super") => {
            while rest.first().is_some_and(|name| name == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        Some(name) if siblings.iter().any(|module| module == name) => {}
        _ => return path,
    }
    let root = std::iter::once("crate".to_owned());
    root.chain(base).chain(rest.iter().cloned()).collect()
}

mod tests {
    use super::*;

    const MANIFEST: &str = "[dependencies]\nbytes = \"1\"\ntokio = { version = \"1\" }\nrocksdb = \"1\"\nclap = \"4\"\n";

    fn faults(files: &[(&str, &str)]) -> Vec<String> {
        let mut all = vec![File::new("Cargo.toml", MANIFEST)];
        all.extend(files.iter().map(|(path, text)| File::new(path, text)));
        imports(&all)
    }

    /// Checks that a file with `text` at `path`, among a small tree, is refused.
    #[track_caller]
    fn refused(path: &str, text: &str) {
        let mut tree = vec![
            (
                "src/batch/mod.rs",
                "mod window;\npub use worker::Run;\nmod worker;\npub struct Here;",
            ),
            ("src/batch/worker.rs", "use tokio::select;\npub struct Run;"),
            ("src/raft/mod.rs", "pub mod group;"),
            ("src/raft/group.rs", "use rocksdb::DB;\npub struct Group;"),
            ("src/cli/mod.rs", "use clap::Parser;"),
        ];
        assert_eq!(
            faults(&tree),
            Vec::<String>::new(),
            "the small tree is clean"
        );
        tree.retain(|(planted, _)| *planted != path);
        tree.push((path, text));
        let faults = faults(&tree);
        assert!(
            faults.iter().any(|fault| fault.starts_with(path)),
            "{text} in {path} was let through: {faults:?}"
        );
    }

    #[test]
    fn an_import_from_a_higher_floor_is_refused() {
        refused("src/batch/window.rs", "use crate::raft::group::Group;");
        refused("src/batch/window.rs", "use crate::batch::worker::Run;");
        refused("src/batch/window.rs", "use super::worker::Run;");
        refused("src/accept/server.rs", "use crate::cli;");
        refused("src/accept/server.rs", "use crate::{batch, cli::{self}};");
    }

    #[test]
    fn a_name_listed_by_mod_rs_stands_where_it_is_defined() {
        refused("src/batch/window.rs", "use crate::batch::Run;");
        refused("src/batch/window.rs", "use super::{Here, Run};");
    }

    #[test]
    fn a_path_written_out_in_place_is_an_import() {
        refused(
            "src/batch/window.rs",
            "fn f() { crate::raft::group::start(); }",
        );
        refused("src/batch/window.rs", "fn f() { tokio::spawn(async {}); }");
    }

    #[test]
    fn batching_and_limiting_never_import_raft() {
        refused("src/batch/service.rs", "use crate::raft;");
        refused("src/limit/service.rs", "use crate::raft::group;");
    }

    #[test]
    fn a_crate_of_a_higher_floor_is_refused() {
        refused("src/batch/window.rs", "use tokio::sync::oneshot;");
        refused("src/batch/service.rs", "use rocksdb::DB;");
        refused("src/raft/group.rs", "use clap::Parser;");
    }

    #[test]
    fn a_file_without_a_floor_is_refused() {
        refused("src/surprise.rs", "");
    }

    #[test]
    fn imports_of_the_same_floor_and_below_are_welcome() {
        let tree = [
            (
                "src/batch/window.rs",
                "use std::time::Instant;\nuse bytes::Bytes;\nuse crate::wire::scan;",
            ),
            (
                "src/wire/scan.rs",
                "#[cfg(test)]\nmod tests { use tokio::test; }",
            ),
            (
                "src/batch/mod.rs",
                "pub mod window;\npub mod worker;\npub use worker::Run;",
            ),
            (
                "src/batch/worker.rs",
                "use super::window::Window;\nuse tokio::select;\npub struct Run;",
            ),
            (
                "src/stack.rs",
                "use crate::{batch::Run, wire};\nuse rocksdb::DB;",
            ),
        ];
        assert_eq!(faults(&tree), Vec::<String>::new());
    }

    #[test]
    fn a_clock_or_a_lock_on_floor_0_is_refused() {
        for planted in [
            "let now = Instant::now();",
            "use std::sync::Mutex;",
            "async fn f() {}",
        ] {
            let planted = File::new("src/wire/scan.rs", planted);
            assert_eq!(purity(&[planted]).len(), 1);
        }
        let spoken = File::new("src/wire/scan.rs", "// Instant::now\nfn f(now: Instant) {}");
        let higher = File::new("src/batch/worker.rs", "async fn f() { Instant::now(); }");
        assert_eq!(purity(&[spoken, higher]), Vec::<String>::new());
    }
}
