//! `defib check-config`: one line if the configuration is right, every mistake if it is not, and on request in words
//! what it means.

use std::process::ExitCode;

use super::args::CheckConfigArgs;
use super::exit;
use crate::config::explain;

/// Prints the verdict: on standard output if it is right, on standard error if it is not.
pub fn execute(args: &CheckConfigArgs) -> ExitCode {
    let config = match args.config.load(false) {
        Ok(config) => config,
        Err(report) => {
            super::say_error(&report.to_string());
            return ExitCode::from(exit::CONFIG);
        }
    };
    let mut text = explain::verdict(&config);
    if args.explain {
        text.push('\n');
        text.push_str(&explain::explain(&config));
    }
    super::say(text.trim_end())
}
