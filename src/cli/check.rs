//! `ferry check`: validates policy files with the loader that the sidecar uses.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;

use crate::policy::{self, Faults, Policy};

/// Most bytes of a pipe: more than a policy may have, which is told as that.
const PIPED_MAX: u64 = 2 << 20;

/// The flags of `ferry check`.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The policy files
    #[arg(required_unless_present = "schema", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print the JSON Schema of policy files, for editors, and check nothing
    #[arg(long, conflicts_with = "files")]
    schema: bool,
    /// How the result is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Plans to stdout and faults to stderr, for people.
    Text,
    /// One list to stdout, for editors and CI.
    Json,
}

/// What is printed of one file.
#[derive(Debug, serde::Serialize)]
struct Checked {
    file: String,
    ok: bool,
    /// The policy in words; none for one that is refused.
    plan: Option<String>,
    faults: Vec<FoundFault>,
}

/// A fault and its place, which is missing where it is the file as a whole.
#[derive(Debug, serde::Serialize)]
struct FoundFault {
    line: Option<u64>,
    column: Option<u64>,
    message: String,
}

impl Checked {
    fn of(path: &Path) -> Self {
        let read = read(path);
        let faults = read.as_ref().err().map(|faults| &faults.faults[..]);
        let faults = faults.unwrap_or_default().iter();
        Self {
            file: path.display().to_string(),
            ok: read.is_ok(),
            faults: faults
                .map(|fault| FoundFault {
                    line: fault.at.map(|at| at.line),
                    column: fault.at.map(|at| at.column),
                    message: fault.what.clone(),
                })
                .collect(),
            plan: read.ok().map(|policy| policy::describe(&policy)),
        }
    }
}

/// The policy at `path`, with files with which its TLS can be spoken.
fn read(path: &Path) -> Result<Policy, Faults> {
    let policy = match piped(path) {
        Ok(Some(yaml)) => Policy::load(&yaml, path)?,
        // Whatever is wrong with it, the policy's own reader says.
        Ok(None) | Err(_) => Policy::read(path)?,
    };
    match policy.tls_faults() {
        faults if faults.is_empty() => Ok(policy),
        faults => Err(Faults {
            origin: path.display().to_string(),
            faults,
        }),
    }
}

/// What stands in a pipe, `ferry check /dev/stdin` for one; `None` of any other
/// file. It is read once, which is enough here and not where a policy is watched.
fn piped(path: &Path) -> io::Result<Option<String>> {
    if !fs::metadata(path)?.file_type().is_fifo() {
        return Ok(None);
    }
    let mut yaml = String::new();
    File::open(path)?
        .take(PIPED_MAX)
        .read_to_string(&mut yaml)?;
    Ok(Some(yaml))
}

impl Check {
    /// Prints each method's plan, or every fault with line and column.
    ///
    /// # Errors
    /// If stdout cannot be written to.
    pub(super) fn run(self) -> Result<ExitCode> {
        if self.schema {
            super::print_json(&policy::schema())?;
            return Ok(ExitCode::SUCCESS);
        }
        if self.format == Format::Json {
            let checked: Vec<_> = self.files.iter().map(|path| Checked::of(path)).collect();
            super::print_json(&checked)?;
            let ok = checked.iter().all(|checked| checked.ok);
            return Ok(if ok {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        let mut code = ExitCode::SUCCESS;
        for path in &self.files {
            match read(path) {
                Ok(policy) => print!("{}: ok\n{}", path.display(), policy::describe(&policy)),
                Err(faults) => {
                    eprintln!("{faults}");
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    }
}
