//! Where a flag's value is from: the command line, else the environment, else
//! its default.
//!
//! Each flag of each command has a variable that is named by a rule and not by
//! hand, so that none is forgotten: `ferry proxy --policy` is
//! `FERRY_PROXY_POLICY`. The command is part of the name because Kubernetes
//! gives containers variables such as `FERRY_PORT` wherever a service is
//! called ferry. Their values are never in a help text or a manual page.

use std::path::Path;

use clap::{ArgMatches, Command, parser::ValueSource};

use crate::policy::{self, Faults};

/// A flag, what it is set to and by whom.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    flag: String,
    value: Option<String>,
    from: String,
    is_chosen: bool,
}

impl Setting {
    /// Whether somebody set it: on the command line, or in the environment.
    pub(super) const fn is_chosen(&self) -> bool {
        self.is_chosen
    }
}

impl std::fmt::Display for Setting {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.value.as_deref().unwrap_or("-");
        write!(out, "--{} {value} ({})", self.flag, self.from)
    }
}

/// `command`, with a variable for each flag that has none yet.
pub(super) fn with_variables(command: Command) -> Command {
    below(command, "FERRY")
}

fn below(command: Command, prefix: &str) -> Command {
    let command = command.mut_args(|arg| {
        let name = arg.get_long().map(|long| variable(prefix, long));
        match name {
            Some(name) if arg.get_env().is_none() => arg.env(name).hide_env_values(true),
            _ => arg.hide_env_values(true),
        }
    });
    let names = command.get_subcommands().map(Command::get_name);
    let names: Vec<_> = names.map(str::to_owned).collect();
    names.into_iter().fold(command, |command, name| {
        let prefix = variable(prefix, &name);
        command.mut_subcommand(name, |command| below(command, &prefix))
    })
}

fn variable(prefix: &str, name: &str) -> String {
    let name = name.to_ascii_uppercase().replace('-', "_");
    format!("{prefix}_{name}")
}

/// The flags of `command` as `matches` has them, in the order of its help.
pub(super) fn settings(command: &Command, matches: &ArgMatches) -> Vec<Setting> {
    let flags = command.get_arguments().filter_map(|arg| {
        let flag = arg.get_long()?.to_owned();
        let id = arg.get_id().as_str();
        let raw = matches.get_raw(id);
        let value = raw.map(|raw| {
            let parts = raw.map(|part| part.to_string_lossy());
            parts.collect::<Vec<_>>().join(",")
        });
        let variable = arg.get_env().unwrap_or_default().to_string_lossy();
        let source = matches.value_source(id);
        let is_chosen = matches!(
            source,
            Some(ValueSource::CommandLine | ValueSource::EnvVariable)
        );
        let from = match source {
            Some(ValueSource::CommandLine) => "command line".to_owned(),
            Some(ValueSource::EnvVariable) => format!("environment, {variable}"),
            Some(_) => "default".to_owned(),
            None => format!("not set, nor {variable}"),
        };
        Some(Setting {
            flag,
            value,
            from,
            is_chosen,
        })
    });
    flags.collect()
}

/// What would be in force and why: the flags with where they are from, the keys
/// that `file` sets with their lines, and `in_force`, what is made of them all.
/// Secrets are named by their files and never read out.
///
/// # Errors
/// If the file, which was read before, can no longer be.
pub(super) fn effective(
    settings: &[Setting],
    file: Option<&Path>,
    in_force: &str,
) -> Result<String, Faults> {
    let settings: String = settings.iter().map(|one| format!("  {one}\n")).collect();
    let set = match file {
        None => String::new(),
        Some(path) => {
            let keys = policy::origins(path)?;
            let keys: String = keys.iter().map(|key| format!("  {key}\n")).collect();
            format!(
                "set in {}, all else is as by default:\n{keys}",
                path.display()
            )
        }
    };
    Ok(format!(
        "flags, then environment, then the file:\n{settings}{set}in force:\n{in_force}"
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn variables(command: &Command, into: &mut Vec<String>) {
        for arg in command
            .get_arguments()
            .filter(|arg| arg.get_long().is_some())
        {
            let name = arg
                .get_env()
                .unwrap_or_else(|| panic!("{arg} has no variable"));
            into.push(name.to_string_lossy().into_owned());
        }
        for command in command.get_subcommands() {
            variables(command, into);
        }
    }

    #[test]
    fn every_flag_of_every_command_has_a_variable_of_its_own() {
        let mut names = Vec::new();
        variables(&crate::cli::command(), &mut names);
        assert!(names.iter().all(|name| name.starts_with("FERRY_")));
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        for name in ["FERRY_PROXY_POLICY", "FERRY_NODE_DATA_DIR", "FERRY_NODE"] {
            assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
        }
    }
}
