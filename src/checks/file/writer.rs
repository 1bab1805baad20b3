//! The process that wrote the file: does it still run, and can it be the one that is meant?

use std::time::Duration;

use super::Pid;
use crate::checks::process::{self, SLACK};
use crate::owner_table::LiveOwner;

/// What a heartbeat says of its writer, and what was seen of the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) pid: u32,
    /// Its content is another than at the last look; at the first, it is not.
    pub(super) changed: bool,
    /// Whose file it is.
    pub(super) uid: u32,
    /// When it was written, at the latest.
    pub(super) written: Duration,
}

/// What is known of the process behind the number.
#[derive(Debug)]
pub(super) struct Writer {
    rule: Pid,
    known: Option<(u32, Known)>,
    /// The number is one of another pid namespace.
    foreign: bool,
}

#[derive(Clone, Debug)]
enum Known {
    Runs(LiveOwner),
    Gone(String),
}

impl Writer {
    pub(super) fn new(rule: Pid) -> Self {
        Self {
            rule,
            known: None,
            foreign: rule == Pid::Ignored || process::alone_in_pid_namespace(),
        }
    }

    /// The word for its end, if it has ended. What cannot be told is no end.
    pub(super) fn gone(&mut self, claim: Claim) -> Option<String> {
        let own = std::process::id() == claim.pid;
        if self.foreign || own {
            return None;
        }
        let known = self.known.take().filter(|(pid, _)| *pid == claim.pid);
        let known = match known.map(|(_, known)| known) {
            Some(Known::Runs(live)) if !live.exited() => Some(Known::Runs(live)),
            Some(Known::Gone(why)) if !claim.changed => Some(Known::Gone(why)),
            // It wrote its last heartbeat, and ended; or somebody else of the same number writes now.
            Some(Known::Runs(_)) if !claim.changed => Some(Known::Gone(ended(claim.pid))),
            Some(Known::Runs(_)) => match Self::find(claim) {
                Found::Plausible(live) => Some(Known::Runs(live)),
                Found::Younger(_) | Found::Nobody | Found::Unclear => Some(Known::Gone(ended(claim.pid))),
            },
            Some(Known::Gone(_)) => match Self::find(claim) {
                Found::Plausible(live) => Some(Known::Runs(live)),
                Found::Younger(_) | Found::Nobody | Found::Unclear => {
                    // Nobody writes after his end.
                    self.foreign = true;
                    None
                }
            },
            None => self.meet(claim),
        };
        self.known = known.map(|known| (claim.pid, known));
        match &self.known {
            Some((_, Known::Gone(why))) => Some(why.clone()),
            Some((_, Known::Runs(_))) | None => None,
        }
    }

    /// A number that was not known before.
    fn meet(&self, claim: Claim) -> Option<Known> {
        let pid = claim.pid;
        match (self.rule, Self::find(claim)) {
            (Pid::Always, Found::Plausible(live)) => Some(Known::Runs(live)),
            (Pid::Always, Found::Younger(by)) => Some(Known::Gone(format!(
                "process {pid} began {by:.0?} after it was written: it is another one"
            ))),
            (Pid::Always, Found::Nobody) => Some(Known::Gone(format!("there is no process {pid}"))),
            // It runs and it writes: by now it is hardly a namesake in another namespace.
            (Pid::Seen, Found::Plausible(live))
                if claim.changed && process::uid_of(pid) == Some(claim.uid) =>
            {
                Some(Known::Runs(live))
            }
            (Pid::Seen | Pid::Ignored, _) | (Pid::Always, Found::Unclear) => None,
        }
    }

    fn find(claim: Claim) -> Found {
        let live = match process::hold_number(claim.pid) {
            Ok(Some(live)) => live,
            Ok(None) => return Found::Nobody,
            Err(_) => return Found::Unclear,
        };
        let Some(began) = process::began(live.pid) else {
            return Found::Unclear;
        };
        match began.checked_sub(claim.written) {
            Some(by) if by > SLACK => Found::Younger(by),
            Some(_) | None => Found::Plausible(live),
        }
    }

    /// Waits for the end of a process that is known to run. If it cannot be waited for (no descriptor is left), the
    /// next look sees it.
    pub(super) async fn ends(&self) {
        if let Some((_, Known::Runs(live))) = &self.known
            && live.wait_exit().await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}

enum Found {
    Plausible(LiveOwner),
    /// It began so long after the file was written.
    Younger(Duration),
    Nobody,
    Unclear,
}

fn ended(pid: u32) -> String {
    format!("process {pid} has ended")
}
