//! `defib probe`. Under construction.

use std::process::ExitCode;

use super::args::ProbeCommand;
use super::exit;

/// Under construction.
pub fn execute(args: &ProbeCommand) -> ExitCode {
    let _ = args;
    ExitCode::from(exit::INTERNAL)
}
