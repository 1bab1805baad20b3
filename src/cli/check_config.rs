//! `defib check_config`. Under construction.

use std::process::ExitCode;

use super::args::CheckConfigArgs;
use super::exit;

/// Under construction.
pub fn execute(args: &CheckConfigArgs) -> ExitCode {
    let _ = args;
    ExitCode::from(exit::INTERNAL)
}
