//! `defib explain`. Under construction.

use std::process::ExitCode;

use super::args::ExplainArgs;
use super::exit;

/// Under construction.
pub fn execute(args: &ExplainArgs) -> ExitCode {
    let _ = args;
    ExitCode::from(exit::INTERNAL)
}
