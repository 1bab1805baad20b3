//! `defib demo`. Under construction.

use std::process::ExitCode;

use super::args::DemoArgs;
use super::exit;

/// Under construction.
pub fn execute(args: &DemoArgs) -> ExitCode {
    let _ = args;
    ExitCode::from(exit::INTERNAL)
}
