//! `defib pause`, `resume`, `forget`, `drain`. Under construction.

use std::process::ExitCode;

use super::args::{DrainArgs, ForgetArgs, PauseArgs, ResumeArgs};
use super::exit;

/// Under construction.
pub fn pause(args: &PauseArgs) -> ExitCode {
    let _ = args;
    ExitCode::from(exit::INTERNAL)
}

/// Under construction.
pub fn resume(args: &ResumeArgs) -> ExitCode {
    let _ = args;
    ExitCode::from(exit::INTERNAL)
}

/// Under construction.
pub fn forget(args: &ForgetArgs) -> ExitCode {
    let _ = args;
    ExitCode::from(exit::INTERNAL)
}

/// Under construction.
pub fn drain(args: &DrainArgs) -> ExitCode {
    let _ = args;
    ExitCode::from(exit::INTERNAL)
}
