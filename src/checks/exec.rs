//! The `exec` check: a command of the user's own says how the peer is, by its exit code, as plugins for Nagios do.
//!
//! What the command cannot tell is unknown: that it does not start (126 and 127 are a shell's words for that), that
//! it dies of a signal, and, unless the configuration says otherwise, that its time is up: a hanging disk hangs it,
//! too.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::Duration;

use super::Place;
use super::active::Prober;
use crate::command::{Ended, Prepared, Ran};
use crate::engine::cause::Cause;
use crate::engine::event::Outcome;
use crate::owner_table::{Holding, OwnerTable, exited};
use crate::telemetry::metrics::checks::CheckKind;

/// What a shell says of a command that it cannot execute, and of one that it does not find.
const NOT_RUN: [i32; 2] = [126, 127];

/// A command, and what its end means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// Program and arguments; no shell.
    pub argv: Vec<String>,
    /// Exit codes that pass. Default 0.
    pub pass: Vec<u8>,
    /// Exit codes by which it says that it does not know. Default 3, as Nagios has it. Every other one fails.
    pub unknown: Vec<u8>,
    /// A command whose time is up fails. Default false: unknown.
    pub late_fails: bool,
}

/// Runs it.
pub(super) struct Command {
    exec: Exec,
    place: Place,
    owners: OwnerTable,
    scrub: Arc<[String]>,
    /// One that not even SIGKILL ended: no other is started beside it.
    lingers: Option<OwnedFd>,
}

impl Command {
    pub(super) fn new(exec: Exec, place: Place, owners: OwnerTable, scrub: Arc<[String]>) -> Self {
        Self {
            exec,
            place,
            owners,
            scrub,
            lingers: None,
        }
    }

    fn prepare(&self) -> Prepared {
        let pid = match self.owners.get(self.place.id.peer) {
            Holding::Live(live) => Some(live.pid.to_string()),
            Holding::Unwatched | Holding::Nothing | Holding::Listening(_) => None,
        };
        let mut env = vec![
            ("DEFIB_PEER", self.place.peer.as_str()),
            ("DEFIB_CHECK", self.place.check.as_str()),
        ];
        env.extend(pid.as_deref().map(|pid| ("DEFIB_PID", pid)));
        Prepared::new(&self.exec.argv, &env, &self.scrub)
    }

    fn judge(&mut self, program: &str, ran: Ran, within: Duration) -> Outcome {
        let said = match ran.last {
            last if last.is_empty() => String::new(),
            last => format!(": {last}"),
        };
        match ran.ended {
            Ended::Itself(status) => match status.code() {
                Some(code) => self.exec.coded(program, code, &said),
                None => {
                    let signal = status.signal().unwrap_or_default();
                    unknown(format!("{program} died of signal {signal}{said}"))
                }
            },
            Ended::Killed => self.exec.late(format!(
                "{program} did not end within {within:?}: its process group was ended{said}"
            )),
            Ended::Unkillable(leader) => {
                self.lingers = Some(leader);
                unknown(format!(
                    "{program} did not end within {within:?}, and SIGKILL does not end it either"
                ))
            }
            Ended::Lost(error) => unknown(format!(
                "{program} was started and could not be waited for: {error}"
            )),
        }
    }
}

impl Exec {
    fn coded(&self, program: &str, code: i32, said: &str) -> Outcome {
        let among = |codes: &[u8]| codes.iter().any(|known| i32::from(*known) == code);
        let detail = format!("{program} ended with status {code}{said}");
        if among(&self.pass) {
            Outcome::Pass
        } else if among(&self.unknown) || NOT_RUN.contains(&code) {
            unknown(detail)
        } else {
            fail(detail)
        }
    }

    fn late(&self, detail: String) -> Outcome {
        if self.late_fails {
            fail(detail)
        } else {
            unknown(detail)
        }
    }
}

fn fail(detail: String) -> Outcome {
    Outcome::Fail {
        cause: Cause::PeerStuck,
        detail,
    }
}

fn unknown(detail: String) -> Outcome {
    Outcome::Unknown { detail }
}

impl Prober for Command {
    const KIND: CheckKind = CheckKind::Exec;

    async fn look(&mut self, within: Duration) -> Outcome {
        let program = self.exec.argv.first().cloned().unwrap_or_default();
        if self.lingers.as_ref().is_some_and(|leader| !exited(leader)) {
            return unknown(format!(
                "{program} of an earlier run still cannot be ended: no other is started beside it"
            ));
        }
        self.lingers = None;
        let (peer, check) = (self.place.peer.clone(), self.place.check.clone());
        let running = self.prepare().run(within, |stream, line| {
            tracing::debug!(peer, check, stream = stream.as_str(), "{line}");
        });
        match running.await {
            Ok(ran) => self.judge(&program, ran, within),
            Err(error) => unknown(format!("cannot start {program}: {error}")),
        }
    }
}
