//! `defib run`. Under construction.

use std::process::ExitCode;

use super::args::RunArgs;
use super::exit;

/// Under construction.
pub fn execute(args: &RunArgs) -> ExitCode {
    let _ = args;
    ExitCode::from(exit::INTERNAL)
}
