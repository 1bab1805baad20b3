//! The command line: one file a command. Parses, dispatches, and turns results into exit codes.

pub mod admin;
mod api;
pub mod args;
pub mod beat;
pub mod check_config;
pub mod completions;
pub mod demo;
pub mod doctor;
pub mod drill;
pub mod explain;
pub mod fault_proxy;
mod follow;
pub mod history;
pub mod init;
pub mod lease;
pub mod notify;
pub mod probe;
pub mod record;
mod redis;
pub mod restart;
pub mod run;
pub mod sim;
pub mod simulate;
pub mod status;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

/// The exit codes, as the help text lists them.
pub mod exit {
    /// Done; a probe passes.
    pub const OK: u8 = 0;
    /// Not done; a probe fails.
    pub const FAILED: u8 = 1;
    /// Wrong usage (clap's own); a drill that was refused.
    pub const USAGE: u8 = 2;
    /// A lease was not had (`EX_UNAVAILABLE`); its command was not started.
    pub const NOT_HELD: u8 = 69;
    /// An internal error (`EX_SOFTWARE`).
    pub const INTERNAL: u8 = 70;
    /// The network namespace is orphaned (`EX_TEMPFAIL`): a new start joins the new one.
    pub const ORPHANED: u8 = 75;
    /// A lease was lost (`EX_PROTOCOL`); its command was ended.
    pub const LOST: u8 = 76;
    /// The configuration is wrong (`EX_CONFIG`).
    pub const CONFIG: u8 = 78;
    /// A second signal forced the end.
    pub const FORCED: u8 = 130;
}

/// The binary's `main`.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::execute(&args),
        Command::CheckConfig(args) => check_config::execute(&args),
        Command::Init(args) => init::execute(&args),
        Command::Doctor(args) => doctor::execute(&args),
        Command::Status(args) => status::execute(&args),
        Command::Explain(args) => explain::execute(&args),
        Command::History(args) => history::execute(&args),
        Command::Pause(args) => admin::pause(&args),
        Command::Resume(args) => admin::resume(&args),
        Command::Restart(args) => restart::execute(&args),
        Command::Forget(args) => admin::forget(&args),
        Command::Drain(args) => admin::drain(&args),
        Command::Reload(args) => admin::reload(&args),
        Command::Lease(args) => lease::execute(&args),
        Command::LeaseCommand(args) => lease::command::become_it(&args),
        Command::Notify(args) => notify::execute(&args),
        Command::Beat(args) => beat::execute(&args),
        Command::Probe(command) => probe::execute(&command),
        Command::Drill(args) => drill::execute(&args),
        Command::Demo(args) => demo::execute(&args),
        Command::Record(args) => record::execute(&args),
        Command::Simulate(args) => simulate::execute(&args),
        Command::Sim(args) => sim::execute(&args),
        Command::Completions(args) => completions::execute(&args),
    }
}

/// Writes a line to standard output. A reader that went away (`| head`) is no reason to panic.
pub(crate) fn say(text: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::from(exit::OK),
        Err(_) => ExitCode::from(exit::FAILED),
    }
}

/// Writes a line to standard error, if anybody reads it.
pub(crate) fn say_error(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
