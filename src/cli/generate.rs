//! `ferry completions` and `ferry man`: what a shell and a manual know of the
//! flags, made from the flags themselves, so that neither can fall behind.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;

/// The argument of `ferry completions`.
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell that is to complete
    #[arg(value_enum)]
    shell: Shell,
}

/// The argument of `ferry man`.
#[derive(Debug, clap::Args)]
pub(super) struct Man {
    /// The command that the page is about, such as cluster status; none for all
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

impl Completions {
    /// Prints the shell's script.
    ///
    /// # Errors
    /// If stdout cannot be written to.
    pub(super) fn run(self) -> Result<ExitCode> {
        print(&script(self.shell))
    }
}

impl Man {
    /// Prints the page as roff, for `man -l -` or a packager.
    ///
    /// # Errors
    /// If there is no such command, or stdout cannot be written to.
    pub(super) fn run(self) -> Result<ExitCode> {
        let mut command = super::command();
        command.build();
        let mut about = &command;
        for name in &self.command {
            let found = about.find_subcommand(name);
            about = found
                .with_context(|| format!("{name}: no such command; ferry --help lists them"))?;
        }
        print(&page(about)?)
    }
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "ferry", &mut script);
    script
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}

fn print(bytes: &[u8]) -> Result<ExitCode> {
    io::stdout().lock().write_all(bytes).context("stdout")?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each command and its own flags.
    fn flags(command: &Command, into: &mut Vec<(Command, Vec<String>)>) {
        let own = command.get_arguments().filter_map(|arg| arg.get_long());
        let own = own.map(|long| long.to_owned()).collect();
        into.push((command.clone(), own));
        for command in command.get_subcommands() {
            flags(command, into);
        }
    }

    #[test]
    fn completions_and_manual_pages_know_every_flag_of_every_command() {
        let mut commands = Vec::new();
        flags(&crate::cli::command(), &mut commands);
        assert!(commands.len() > 8, "it walks into the commands");
        let scripts = [Shell::Bash, Shell::Zsh, Shell::Fish]
            .map(|shell| String::from_utf8(script(shell)).expect("a script is text"));
        for (command, flags) in commands {
            let page = String::from_utf8(page(&command).expect("memory takes it"));
            let page = page.expect("a page is text").replace("\\-", "-");
            for flag in flags {
                let command = command.get_name();
                assert!(
                    page.contains(&format!("--{flag}")),
                    "{command} --{flag}: {page}"
                );
                // Fish writes a long flag as `-l flag`.
                let known = |script: &String| {
                    script.contains(&format!("--{flag}")) || script.contains(&format!("-l {flag}"))
                };
                assert!(scripts.iter().all(known), "{command} --{flag}");
            }
        }
    }
}
