//! Every command that the README tells a newcomer to type is tried. What ends
//! at once is run as printed; what runs until it is ended, or for minutes, is
//! taken as far as is cheap: `ferry proxy` to its effective configuration,
//! `make` to what it would run. A command of another kind fails the test, so
//! that none is added untried.

use std::{
    fs,
    process::{Command, Output},
};

/// The lines after `$ ` in the README's console blocks.
fn commands() -> Vec<String> {
    let root = crate::support::root();
    let readme = fs::read_to_string(root.join("README.md")).expect("it ships with ferry");
    let lines = readme.lines().filter_map(|line| line.strip_prefix("$ "));
    lines.map(str::to_owned).collect()
}

/// Run from the checkout's top, as the README means it.
fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .current_dir(crate::support::root())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

#[test]
fn every_command_of_the_readme_is_one_that_works() {
    let commands = commands();
    assert!(commands.len() >= 4, "{commands:?}");
    for command in commands {
        let words: Vec<_> = command.split_whitespace().collect();
        let output = match words.as_slice() {
            ["ferry", flags @ ..] if flags.first() == Some(&"proxy") => {
                let flags = [flags, &["--print-config"]].concat();
                run(env!("CARGO_BIN_EXE_ferry"), &flags)
            }
            ["ferry", flags @ ..] if flags.first() == Some(&"check") => {
                run(env!("CARGO_BIN_EXE_ferry"), flags)
            }
            ["make", targets @ ..] => run("make", &[&["--dry-run"], targets].concat()),
            _ => panic!("{command}: say in this test how it is tried"),
        };
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {told}");
    }
}
