//! Lengths, first lines, names and leftovers: what can be seen in one file.

use super::source::{File, words};

/// Beyond this a file of `src/` has two jobs. (The aim is 100–400 lines.)
const SOURCE_LINES: usize = 450;
/// Tests repeat themselves more, and are read one at a time.
const TEST_LINES: usize = 700;

/// A type whose name ends like this says nothing of what it is.
const EMPTY_TYPES: [&str; 7] = [
    "Manager", "Handler", "Helper", "Helpers", "Util", "Utils", "Inner",
];
/// A function whose name begins like this says nothing of what it does.
const EMPTY_VERBS: [&str; 3] = ["process_", "handle_", "get_"];
/// Names that say nothing at all, for functions and modules.
const EMPTY_NAMES: [&str; 9] = [
    "process", "handle", "get_all", "data", "info", "util", "utils", "helpers", "common",
];

/// Split, so that this file does not find itself.
const LEFTOVERS: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("HA", "CK:"),
    concat!("todo", "!("),
    concat!("unimple", "mented!("),
];

/// Where a developer's or a build machine's own folders are.
const MACHINE_PATHS: [&str; 5] = [
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Use", "rs/"),
    concat!("/wo", "rk/"),
    concat!("/opt/", "wheels"),
];

/// The hosts that a committed file may name in a URL, beside loopback, names
/// reserved for examples, and addresses filled in later (`http://{…}`).
const PUBLIC_HOSTS: [&str; 12] = [
    "apache.org",
    "docs.kernel.org",
    "docs.rs",
    "github.com",
    "grpc.io",
    "json-schema.org",
    "keepachangelog.com",
    "kubernetes.io",
    "prometheus.io",
    "rustup.rs",
    "semver.org",
    "w3.org",
];

/// Files that are longer than a reader's patience.
pub(super) fn lengths(files: &[File]) -> Vec<String> {
    let bound = |file: &File| match file {
        _ if !file.path.ends_with(".rs") => None,
        _ if file.is_source() => Some(SOURCE_LINES),
        _ => Some(TEST_LINES),
    };
    let long = |file: &File| {
        let (lines, bound) = (file.text.lines().count(), bound(file)?);
        (lines > bound).then(|| {
            format!(
                "{}: {lines} lines: at most {bound}; it has two jobs",
                file.path
            )
        })
    };
    files.iter().filter_map(long).collect()
}

/// Rust files that do not begin with `//!`.
pub(super) fn reasons(files: &[File]) -> Vec<String> {
    let rust = files.iter().filter(|file| file.path.ends_with(".rs"));
    rust.filter(|file| !file.text.starts_with("//! "))
        .map(|file| format!("{}: must begin with its reason, `//! …`", file.path))
        .collect()
}

/// Names that say nothing, where the name is ours to choose: not in an `impl`
/// of somebody else's trait.
pub(super) fn names(files: &[File]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files.iter().filter(|file| file.is_source()) {
        let code = file.code();
        let mut foreign_until: Option<usize> = None;
        let mut depth = 0_usize;
        for (number, line) in code.lines().enumerate() {
            let opens_foreign = opens_foreign_impl(&code, number, line);
            if foreign_until.is_none() && opens_foreign {
                foreign_until = Some(depth);
            }
            if let Some(name) = empty_name(line, foreign_until.is_some()) {
                faults.push(format!(
                    "{}:{}: `{name}` says nothing; see the words in ARCHITECTURE.md",
                    file.path,
                    number + 1
                ));
            }
            depth = (depth + line.matches('{').count()).saturating_sub(line.matches('}').count());
            let closed = line.contains('}') && foreign_until.is_some_and(|outer| depth <= outer);
            if closed && !opens_foreign {
                foreign_until = None;
            }
        }
    }
    faults
}

/// Whether `line` begins an `impl Trait for Type`, whose head may take lines.
fn opens_foreign_impl(code: &str, number: usize, line: &str) -> bool {
    let line = line.trim_start();
    if !(line.starts_with("impl ") || line.starts_with("impl<")) {
        return false;
    }
    let head = code
        .lines()
        .skip(number)
        .take_while(|line| !line.trim_start().starts_with("fn "));
    let head: String = head.flat_map(|line| [line, " "]).collect();
    let head = head.split('{').next().unwrap_or_default();
    head.replace("for<", "").contains(" for ")
}

fn empty_name(line: &str, foreign: bool) -> Option<&str> {
    let mut names = words(line)
        .skip_while(|word| ["pub", "crate", "super", "async", "const", "unsafe"].contains(word));
    let (kind, name) = (names.next()?, names.next()?);
    let empty = match kind {
        "struct" | "enum" | "trait" | "type" | "union" => {
            name == "Context" || EMPTY_TYPES.iter().any(|end| name.ends_with(end))
        }
        "fn" if !foreign => {
            EMPTY_NAMES.contains(&name) || EMPTY_VERBS.iter().any(|verb| name.starts_with(verb))
        }
        "mod" => EMPTY_NAMES.contains(&name),
        _ => false,
    };
    empty.then_some(name)
}

/// Work that somebody put off.
pub(super) fn leftovers(files: &[File]) -> Vec<String> {
    found(files, &LEFTOVERS, "do it or file it")
}

/// Paths and hosts of one machine, and of package registries.
pub(super) fn places(files: &[File]) -> Vec<String> {
    let mut faults = found(files, &MACHINE_PATHS, "is one machine's path");
    for file in files.iter().filter(|file| file.path != "Cargo.lock") {
        for (number, line) in file.text.lines().enumerate() {
            for host in hosts(line).filter(|host| !may_be_named(host)) {
                faults.push(format!(
                    "{}:{}: the host `{host}` is not one that tests/tidy/words.rs knows as public",
                    file.path,
                    number + 1
                ));
            }
        }
    }
    let lock = files.iter().find(|file| file.path == "Cargo.lock");
    let sources = lock.into_iter().flat_map(|lock| lock.text.lines());
    let default = concat!(
        "source = \"registry+https://github.com/rust-lang/crates",
        ".io-index\""
    );
    for line in sources.filter(|line| line.starts_with("source = ") && *line != default) {
        faults.push(format!("Cargo.lock: {line}: not the default registry"));
    }
    faults
}

fn found(files: &[File], patterns: &[&str], why: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files {
        for (number, line) in file.text.lines().enumerate() {
            for pattern in patterns.iter().filter(|pattern| line.contains(*pattern)) {
                faults.push(format!("{}:{}: `{pattern}`: {why}", file.path, number + 1));
            }
        }
    }
    faults
}

/// The hosts of the URLs in `line`, without ports.
fn hosts(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("://").map(|(at, mark)| {
        let rest = &line[at + mark.len()..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-');
        &rest[..end.unwrap_or(rest.len())]
    })
}

fn may_be_named(host: &str) -> bool {
    let local = host.starts_with("127.") || ["", "localhost", "0.0.0.0"].contains(&host);
    // A name without a dot is a service beside ours, not a place in the world.
    let nearby = !host.contains('.');
    let example =
        host.ends_with(".example") || host.starts_with("example.") || host.ends_with(".svc");
    let public = PUBLIC_HOSTS.iter().any(|known| {
        host.strip_suffix(known)
            .is_some_and(|sub| sub.is_empty() || sub.ends_with('.'))
    });
    local || nearby || example || public
}

mod tests {
    use super::*;

    fn one(path: &str, text: &str) -> Vec<File> {
        vec![File::new(path, text)]
    }

    #[test]
    fn a_file_past_its_bound_is_refused() {
        let lines = |n: usize| "//\n".repeat(n);
        assert_eq!(lengths(&one("src/a.rs", &lines(451))).len(), 1);
        assert_eq!(lengths(&one("tests/a.rs", &lines(701))).len(), 1);
        assert_eq!(lengths(&one("src/a.rs", &lines(450))).len(), 0);
        assert_eq!(lengths(&one("src/a/tests.rs", &lines(451))).len(), 0);
        assert_eq!(lengths(&one("Cargo.lock", &lines(9_000))).len(), 0);
    }

    #[test]
    fn a_file_without_its_reason_is_refused() {
        assert_eq!(
            reasons(&one("src/a.rs", "use std::fmt;\n//! late")).len(),
            1
        );
        assert_eq!(reasons(&one("src/a.rs", "//! Owns a.\n")).len(), 0);
    }

    #[test]
    fn a_name_that_says_nothing_is_refused() {
        for planted in [
            "pub struct BatchManager;",
            "enum Context {}",
            "pub(crate) async fn handle_call() {}",
            "fn get_limit(&self) {}",
            "impl Batch { fn data(&self) {} }\nfn data() {}",
            "pub mod utils;",
            "impl Drop for A {\n    fn drop(&mut self) {}\n}\nfn process_it() {}",
            "impl<T> B<T>\nwhere\n    T: Send,\n{\n    fn get_it() {}\n}",
        ] {
            assert_eq!(names(&one("src/a.rs", planted)).len(), 1, "{planted}");
        }
    }

    #[test]
    fn a_name_that_a_foreign_trait_dictates_is_let_through() {
        let text = "impl<C> RaftLogReader<C> for Store\nwhere\n    C: Config,\n{\n    \
                    async fn get_log_state(&mut self) {\n        let a = 1;\n    }\n}\n\
                    // fn data() {}\npub struct Window;\nfn seal() {}\n";
        assert_eq!(names(&one("src/a.rs", text)), Vec::<String>::new());
    }

    #[test]
    fn a_leftover_is_refused_in_any_file() {
        for planted in LEFTOVERS {
            assert_eq!(leftovers(&one("deploy/a.yaml", planted)).len(), 1);
        }
        assert_eq!(leftovers(&one("docs/a.md", "nothing to do")).len(), 0);
    }

    #[test]
    fn a_machine_path_or_an_unknown_host_is_refused() {
        for planted in MACHINE_PATHS {
            assert_eq!(places(&one("Makefile", planted)).len(), 1);
        }
        let url = |host: &str| format!("see https{}{host}/x", "://");
        assert_eq!(places(&one("a.md", &url("mirror.corp.net:8080"))).len(), 1);
        assert_eq!(places(&one("a.md", &url("evilgithub.com"))).len(), 1);
        for host in [
            "127.0.0.1:9901",
            "www.apache.org",
            "github.com",
            "{address}",
            "node-1:1228",
        ] {
            assert_eq!(places(&one("a.md", &url(host))), Vec::<String>::new());
        }
        let other = format!(
            "source = \"registry+https{}mirror.corp.net/index\"\n",
            "://"
        );
        assert_eq!(places(&one("Cargo.lock", &other)).len(), 1);
    }
}
