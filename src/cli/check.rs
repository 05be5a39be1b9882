//! `ferry check`: validates policy files with the loader that the sidecar uses.

use std::{path::PathBuf, process::ExitCode};

use crate::policy::{self, Policy};

/// The flags of `ferry check`.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The policy files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Check {
    /// Prints each method's plan, or every fault with line and column.
    pub(super) fn run(self) -> ExitCode {
        let mut code = ExitCode::SUCCESS;
        for path in &self.files {
            match Policy::read(path) {
                Ok(policy) => print!("{}: ok\n{}", path.display(), policy::describe(&policy)),
                Err(faults) => {
                    eprintln!("{faults}");
                    code = ExitCode::FAILURE;
                }
            }
        }
        code
    }
}
