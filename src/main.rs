//! Parses the arguments, runs the command, exits with its code.

fn main() -> std::process::ExitCode {
    ferry::cli::main()
}
