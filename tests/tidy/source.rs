//! Reads the checkout, and reduces Rust to what the checks look at: the code,
//! without comments, without what stands in quotes, without test modules.

use std::{fs, path::Path};

/// One committed text file.
pub(super) struct File {
    /// Relative to the checkout, with `/`.
    pub(super) path: String,
    pub(super) text: String,
}

impl File {
    pub(super) fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    /// Whether this is production Rust: under `src/`, and no test module in a
    /// file of its own (`tests.rs`, `tests/…`).
    pub(super) fn is_source(&self) -> bool {
        let test = self.path.ends_with("/tests.rs") || self.path.contains("/tests/");
        self.path.starts_with("src/") && self.path.ends_with(".rs") && !test
    }

    /// The production code alone, line for line: see [`code_of`].
    pub(super) fn code(&self) -> String {
        code_of(&self.text)
    }
}

/// Never committed, so never read: version control, builds, data, caches.
const SKIPPED: [&str; 5] = [".git", "target", "ferry-data", "__pycache__", ".venv"];

/// Every text file under `root`; what is not UTF-8 is no text.
pub(super) fn read_tree(root: &Path) -> Vec<File> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).expect("the checkout is readable");
        for entry in entries {
            let entry = entry.expect("the checkout is readable");
            if SKIPPED.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            let path = entry.path();
            if entry.file_type().expect("a file has a type").is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let relative = path.strip_prefix(root).expect("found below the root");
                files.push(File::new(&relative.to_string_lossy(), &text));
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// Blanks comments, string and character literals, and everything from the
/// first `#[cfg(test)]` that opens a module; keeps every line break, so that
/// line numbers stay true.
pub(super) fn code_of(text: &str) -> String {
    let bare = blank_comments_and_quotes(text);
    let Some(tests) = test_module(&bare) else {
        return bare;
    };
    let mut code = bare[..tests].to_owned();
    code.extend(bare[tests..].chars().filter(|c| *c == '\n'));
    code
}

/// Where the test module begins: tests stand last in a file.
fn test_module(bare: &str) -> Option<usize> {
    bare.match_indices("#[cfg(test)]")
        .map(|(at, _)| at)
        .find(|at| {
            let rest = bare[*at + "#[cfg(test)]".len()..].trim_start();
            rest.starts_with("mod ") || rest.starts_with("pub(crate) mod ")
        })
}

fn blank_comments_and_quotes(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => end_of_line(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => end_of_block(&chars, at),
            '"' => end_of_string(&chars, at),
            'r' if !follows_word(&chars, at) => end_of_raw_string(&chars, at).unwrap_or(at),
            '\'' => end_of_char(&chars, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(
                chars[at..end]
                    .iter()
                    .map(|c| if *c == '\n' { '\n' } else { ' ' }),
            );
            at = end;
        }
    }
    out
}

/// `br"…"` is a raw string as `r"…"` is; `for` ends in an `r` that is none.
fn follows_word(chars: &[char], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).map(|i| chars[i]);
    let word = |c: char| c.is_alphanumeric() || c == '_';
    match before(1) {
        Some('b') => before(2).is_some_and(word),
        Some(c) => word(c),
        None => false,
    }
}

fn end_of_line(chars: &[char], at: usize) -> usize {
    let length = chars[at..].iter().position(|c| *c == '\n');
    length.map_or(chars.len(), |n| at + n)
}

fn end_of_block(chars: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut at = at;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], at: usize) -> usize {
    let mut at = at + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

fn end_of_raw_string(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    let open = at + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes =
        |i: &usize| chars[*i] == '"' && (1..=hashes).all(|n| chars.get(i + n) == Some(&'#'));
    let quote = (open + 1..chars.len()).find(closes);
    Some(quote.map_or(chars.len(), |i| i + 1 + hashes))
}

/// A character literal; a lifetime is none.
fn end_of_char(chars: &[char], at: usize) -> Option<usize> {
    if chars.get(at + 1) == Some(&'\\') {
        let close = chars[at + 3..].iter().take(10).position(|c| *c == '\'')?;
        return Some(at + 3 + close + 1);
    }
    (chars.get(at + 2) == Some(&'\'')).then_some(at + 3)
}

/// The words of `line`: letters, digits and underscores.
pub(super) fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_quotes_and_tests_are_no_code() {
        let text = "//! use a;\nuse b; // use c;\n/* use d;\n/* e */ */ let s = \"use \\\" f\";\n\
                    let r = r#\"use \"g\"#; let c = '\"'; fn x<'a>(y: &'a str) {}\n\
                    #[cfg(test)]\nmod tests { use h; }\n";
        let code = code_of(text);
        assert_eq!(code.lines().count(), text.lines().count());
        for gone in ["use a", "use c", "use d", "use \\", "use \"g", "use h"] {
            assert!(!code.contains(gone), "{gone} is left in {code}");
        }
        for kept in ["use b;", "let s =", "let r =", "fn x<'a>(y: &'a str)"] {
            assert!(code.contains(kept), "{kept} is gone from {code}");
        }
    }

    #[test]
    fn a_test_only_import_is_not_the_end_of_the_code() {
        assert!(code_of("#[cfg(test)]\nuse a;\nuse b;\n").contains("use b"));
    }
}
