//! `defib status`. Under construction.

use std::process::ExitCode;

use super::args::StatusArgs;
use super::exit;

/// Under construction.
pub fn execute(args: &StatusArgs) -> ExitCode {
    let _ = args;
    ExitCode::from(exit::INTERNAL)
}
