//! What the documents say exists: metrics, tests that keep promises, paths.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{File, words};

/// Begins like a metric and is none.
const NOT_METRICS: [&str; 1] = [
    "ferry_impatient", // a leg of `ferry demo --output json`
];

/// What a scrape adds to a histogram's name.
const SERIES: [&str; 3] = ["_bucket", "_sum", "_count"];

/// The folders whose paths a document may name, and must then be right about.
const FOLDERS: [&str; 9] = [
    "src/",
    "tests/",
    "benches/",
    "docs/",
    "deploy/",
    "policies/",
    "proto/",
    "scripts/",
    ".ci/",
];

fn is_document(file: &File) -> bool {
    let root = !file.path.contains('/') && file.path.ends_with(".md");
    root || file.path.starts_with("docs/") || file.path.starts_with("deploy/")
}

/// Metrics in documents, dashboards and alerts that `names.rs` does not have.
pub(super) fn metrics(files: &[File]) -> Vec<String> {
    let is_names = |file: &&File| file.path == "src/telemetry/names.rs";
    let names = files.iter().find(is_names).map_or("", |file| &file.text);
    let known: BTreeSet<&str> = quoted(names, '"')
        .filter(|name| name.starts_with("ferry_"))
        .collect();
    let exists = |name: &str| {
        let bare = SERIES.iter().find_map(|series| name.strip_suffix(series));
        known.contains(name) || bare.is_some_and(|bare| known.contains(bare))
    };
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| is_document(file)) {
        for (number, line) in file.text.lines().enumerate() {
            let named = words(line).filter(|word| word.starts_with("ferry_"));
            for name in named.filter(|name| !NOT_METRICS.contains(name) && !exists(name)) {
                faults.push(format!(
                    "{}:{}: `{name}` is no metric of src/telemetry/names.rs",
                    file.path,
                    number + 1
                ));
            }
        }
    }
    faults
}

/// Promises of the README whose test does not exist; each row names at least one.
pub(super) fn promises(files: &[File]) -> Vec<String> {
    kept(files, "README.md", "## What ferry promises")
}

/// Hazards whose test does not exist; each row names one, or says that what
/// the hazard belongs to is not built.
pub(super) fn hazards(files: &[File]) -> Vec<String> {
    kept(files, "docs/hazards.md", "## The hazards and their tests")
}

/// Guards whose test does not exist; each row names one.
pub(super) fn guards(files: &[File]) -> Vec<String> {
    kept(files, "docs/security.md", "## The guards and their tests")
}

/// What a row says where there is nothing yet that could be tested.
const NOT_BUILT: &str = "*not built*";

/// Rows of the table under `heading` that name no test, or none that exists.
fn kept(files: &[File], path: &str, heading: &str) -> Vec<String> {
    let Some(document) = files.iter().find(|file| file.path == path) else {
        return vec![format!("{path}: is missing")];
    };
    let tests = tests(files);
    let table: Vec<&str> = rows(&document.text, heading);
    if table.is_empty() {
        return vec![format!("{path}: has no table under `{heading}`")];
    }
    let mut faults = Vec::new();
    for row in table {
        let named: Vec<&str> = quoted(row, '`')
            .filter(|name| name.matches('_').count() > 1)
            .collect();
        if named.is_empty() && !row.contains(NOT_BUILT) {
            faults.push(format!("{path}: no test keeps this promise: {row}"));
        }
        let faulty = named.iter().filter_map(|name| untested(&tests, name, row));
        faults.extend(faulty.map(|why| format!("{path}: {why}")));
    }
    faults
}

/// Sentences in back quotes, in any document, that name no test that is run.
pub(super) fn spoken_tests(files: &[File]) -> Vec<String> {
    let tests = tests(files);
    let is_sentence = |name: &&str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        name.chars().all(plain) && name.matches('_').count() > 2 && !name.starts_with("ferry_")
    };
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (number, line) in file.text.lines().enumerate() {
            let named = quoted(line, '`').filter(is_sentence);
            let faulty = named.filter_map(|name| untested(&tests, name, line));
            faults.extend(faulty.map(|why| format!("{}:{}: {why}", file.path, number + 1)));
        }
    }
    faults
}

/// Why `name` keeps no promise in the line that names it. A test that is run by
/// hand alone keeps it where the line names what runs it.
fn untested(tests: &BTreeMap<&str, Run>, name: &str, line: &str) -> Option<String> {
    match tests.get(name) {
        None => Some(format!("there is no test `{name}`")),
        Some(Run::ByHand) if !line.contains("make ") => Some(format!(
            "the test `{name}` is ignored; name the `make` target that runs it beside it"
        )),
        Some(_) => None,
    }
}

/// When a test is run.
#[derive(Clone, Copy)]
enum Run {
    Always,
    /// It is ignored unless it is asked for.
    ByHand,
}

/// The tests among the functions: those with a test's attribute.
fn tests(files: &[File]) -> BTreeMap<&str, Run> {
    let mut tests = BTreeMap::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        // Of the attributes of the function that is to come.
        let (mut is_test, mut run) = (false, Run::Always);
        for line in file.text.lines().map(str::trim) {
            if line.starts_with("#[ignore") {
                run = Run::ByHand;
            } else if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some(name) = function_name(line) {
                if is_test {
                    tests.insert(name, run);
                }
                (is_test, run) = (false, Run::Always);
            }
        }
    }
    tests
}

fn function_name(line: &str) -> Option<&str> {
    let mut names = words(line).skip_while(|word| ["pub", "async", "crate"].contains(word));
    (names.next()? == "fn").then(|| names.next())?
}

/// The rows below the head of the table under `heading`.
fn rows<'a>(document: &'a str, heading: &str) -> Vec<&'a str> {
    let mut lines = document.lines();
    lines.by_ref().find(|line| *line == heading);
    lines
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .collect()
}

/// Paths that a document names and that are not there: those in back quotes,
/// and the drawn tree that begins with a line `src/`.
pub(super) fn paths(files: &[File]) -> Vec<String> {
    let exists = |path: &str| {
        let folder = format!("{}/", path.trim_end_matches('/'));
        files
            .iter()
            .any(|file| file.path == path || file.path.starts_with(&folder))
    };
    let mut faults = Vec::new();
    for file in files
        .iter()
        .filter(|file| is_document(file) && file.path.ends_with(".md"))
    {
        let spoken = quoted(&file.text, '`')
            .filter(|name| is_path(name))
            .map(str::to_owned);
        let linked = links(&file.text)
            .filter(|name| is_path(name))
            .map(str::to_owned);
        let drawn = drawn_tree(&file.text).into_iter();
        for path in spoken
            .chain(linked)
            .chain(drawn)
            .filter(|path| !exists(path))
        {
            faults.push(format!("{}: there is no `{path}`", file.path));
        }
    }
    faults
}

fn is_path(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    name.chars().all(plain) && FOLDERS.iter().any(|folder| name.starts_with(folder))
}

/// `(target)` of every Markdown link.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("](").filter_map(|(at, mark)| {
        let rest = &text[at + mark.len()..];
        rest.split([')', '#', '\n']).next()
    })
}

/// The paths of a tree drawn by indentation, two spaces a level: the first
/// word of a line is a name, `a.rs b.rs` are two, the rest is prose.
fn drawn_tree(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut folders: Vec<String> = Vec::new();
    let lines = text.lines().skip_while(|line| !line.starts_with("src/"));
    for line in lines.take_while(|line| !line.starts_with("```")) {
        let depth = (line.len() - line.trim_start().len()) / 2;
        folders.truncate(depth);
        let is_name = |word: &&str| word.ends_with('/') || word.ends_with(".rs");
        for name in line.split_whitespace().take_while(is_name) {
            paths.push(format!("{}{name}", folders.concat()));
            if name.ends_with('/') {
                folders.push(name.to_owned());
            }
        }
    }
    paths
}

/// What stands between two `quote`s on one line.
fn quoted(text: &str, quote: char) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(move |line| line.split(quote).skip(1).step_by(2))
}

mod tests {
    use super::*;

    const NAMES: (&str, &str) = (
        "src/telemetry/names.rs",
        "pub const A: &str = \"ferry_batch_entries\";",
    );

    const TESTS: &str = "\
        #[tokio::test(start_paused = true)]\nasync fn a_kept_promise() {}\n\
        #[test]\nfn a_long_kept_promise() {}\n\
        fn one_that_helps() {}\nfn a_helper_of_the_tests() {}\n\
        #[test]\n#[ignore = \"long\"]\nfn one_by_hand() {}\n\
        #[test]\n#[ignore = \"long\"]\nfn a_promise_kept_by_hand() {}\n";

    fn tree(files: &[(&str, &str)]) -> Vec<File> {
        files
            .iter()
            .map(|(path, text)| File::new(path, text))
            .collect()
    }

    #[test]
    fn a_metric_that_does_not_exist_is_refused() {
        let planted = concat!("rate(ferry_", "batches_bucket[1m])");
        for path in ["deploy/a.yaml", "docs/a.md", "README.md"] {
            assert_eq!(metrics(&tree(&[NAMES, (path, planted)])).len(), 1, "{path}");
        }
        let known = "rate(ferry_batch_entries_bucket[1m])";
        assert_eq!(metrics(&tree(&[NAMES, ("deploy/a.yaml", known)])).len(), 0);
    }

    #[test]
    fn a_promise_without_its_test_is_refused() {
        let readme = |row: &str| {
            format!(
                "## What ferry promises\n\n| promise | test |\n|---|---|\n{row}\n\n## Next\n| x | `no_such_test` |\n"
            )
        };
        let test = ("tests/a.rs", TESTS);
        let faults = |row: &str| promises(&tree(&[("README.md", &readme(row)), test])).len();
        assert_eq!(faults("| one | `a_broken_promise` |"), 1);
        assert_eq!(faults("| one | it is tested |"), 1);
        assert_eq!(faults(""), 1);
        assert_eq!(faults("| one | `a_kept_promise` |"), 0);
        assert_eq!(faults("| one | `one_that_helps` |"), 1);
        assert_eq!(faults("| one | `one_by_hand` |"), 1);
        assert_eq!(faults("| one | `one_by_hand` (`make chaos`) |"), 0);
    }

    #[test]
    fn a_test_that_a_document_names_and_that_is_not_run_is_refused() {
        let faults = |line: &str| {
            let files = [("docs/groups.md", line), ("tests/a.rs", TESTS)];
            spoken_tests(&tree(&files)).len()
        };
        assert_eq!(faults("held by `a_kept_promise_that_is_not`"), 1);
        assert_eq!(faults("held by `a_long_kept_promise`"), 0);
        assert_eq!(faults("held by `a_helper_of_the_tests`"), 1);
        assert_eq!(faults("held by `a_promise_kept_by_hand`"), 1);
        assert_eq!(faults("held by `a_promise_kept_by_hand` (`make crash`)"), 0);
        assert_eq!(faults("counted in `ferry_a_b_total`, key `max_a_b`"), 0);
    }

    #[test]
    fn a_hazard_without_its_test_is_refused_unless_it_is_not_built() {
        let test = ("tests/a.rs", TESTS);
        let faults = |row: &str| {
            let text = format!("## The hazards and their tests\n\n| h | t |\n|---|---|\n{row}\n");
            hazards(&tree(&[("docs/hazards.md", &text), test])).len()
        };
        assert_eq!(faults("| one | `a_broken_promise` |"), 1);
        assert_eq!(
            faults("| one | `a_broken_promise`, the rest *not built* |"),
            1
        );
        assert_eq!(faults("| one | soon |"), 1);
        assert_eq!(faults("| one | *not built* |"), 0);
        assert_eq!(
            faults("| one | `a_kept_promise`, the rest *not built* |"),
            0
        );
    }

    #[test]
    fn a_path_that_does_not_exist_is_refused() {
        let faults = |text: &str| {
            paths(&tree(&[
                ("ARCHITECTURE.md", text),
                ("src/batch/window.rs", ""),
            ]))
        };
        assert_eq!(faults("see `src/gone.rs`").len(), 1);
        assert_eq!(faults("see [it](docs/gone.md#part)").len(), 1);
        assert_eq!(
            faults("```\nsrc/   floor\n  batch/\n    gone.rs window.rs  0\n```\n"),
            ["ARCHITECTURE.md: there is no `src/batch/gone.rs`"]
        );
        assert!(faults("`src/batch/` and `src/batch/window.rs` and `cargo test`").is_empty());
    }
}
