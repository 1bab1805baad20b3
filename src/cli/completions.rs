//! `defib completions`: a completion script, on standard output.

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;

use super::args::{Cli, CompletionsArgs};
use super::exit;

/// Writes the script. A reader that went away is no reason to panic, which clap's own writer would do.
pub fn execute(args: &CompletionsArgs) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "defib", &mut script);
    match std::io::stdout().write_all(&script) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(_) => ExitCode::from(exit::FAILED),
    }
}
