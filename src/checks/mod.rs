//! Active checks and the owner watch: they look at this machine and report observations. No policy.

pub mod expectation;
pub mod http;
pub mod owner;

use std::time::Duration;

use crate::engine::event::{CheckId, ExpectationId, PeerId};
use crate::http_client::Question;

/// Everything that has to be run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The owner of each local peer that has one.
    pub owners: Vec<(PeerId, Owner, Option<CheckId>, Schedule)>,
    /// The `http` checks.
    pub http: Vec<(CheckId, Question, Schedule)>,
    /// The expectations: met while the question's answer passes.
    pub expectations: Vec<(ExpectationId, Question, Schedule)>,
}

/// How a peer's process is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// By number: that process, never a successor.
    Pid(u32),
    /// By the number in a file, read again when the process has ended or the file changed.
    PidFile(std::path::PathBuf),
    /// By a part of its command line (arguments joined by blanks); exactly one process must match.
    Command(String),
    /// By the TCP port it listens on.
    Listens(u16),
}

/// When a check runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Time between the starts of two runs. A run that is still going is never started twice.
    pub interval: Duration,
    /// Bound on one run; a run that exceeds it fails (for `http`) or is unknown.
    pub timeout: Duration,
}
