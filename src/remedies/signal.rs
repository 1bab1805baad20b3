//! The `signal` remedy: to exactly the process that was condemned, through the pidfd whose start time was read.

use std::fmt;
use std::fs;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Signal as Kernel, pidfd_send_signal};

use super::fence::Found;
use super::{Passed, Signal, not_acted};
use crate::engine::event::RemedyOutcome;
use crate::owner_table::LiveOwner;

const NAMES: [(&str, Kernel); 31] = [
    ("HUP", Kernel::HUP),
    ("INT", Kernel::INT),
    ("QUIT", Kernel::QUIT),
    ("ILL", Kernel::ILL),
    ("TRAP", Kernel::TRAP),
    ("ABRT", Kernel::ABORT),
    ("BUS", Kernel::BUS),
    ("FPE", Kernel::FPE),
    ("KILL", Kernel::KILL),
    ("USR1", Kernel::USR1),
    ("SEGV", Kernel::SEGV),
    ("USR2", Kernel::USR2),
    ("PIPE", Kernel::PIPE),
    ("ALRM", Kernel::ALARM),
    ("TERM", Kernel::TERM),
    ("STKFLT", Kernel::STKFLT),
    ("CHLD", Kernel::CHILD),
    ("CONT", Kernel::CONT),
    ("STOP", Kernel::STOP),
    ("TSTP", Kernel::TSTP),
    ("TTIN", Kernel::TTIN),
    ("TTOU", Kernel::TTOU),
    ("URG", Kernel::URG),
    ("XCPU", Kernel::XCPU),
    ("XFSZ", Kernel::XFSZ),
    ("VTALRM", Kernel::VTALARM),
    ("PROF", Kernel::PROF),
    ("WINCH", Kernel::WINCH),
    ("IO", Kernel::IO),
    ("PWR", Kernel::POWER),
    ("SYS", Kernel::SYS),
];

/// Not a signal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a signal: write a name such as SIGTERM or TERM, or a number from 1 to 31")]
pub struct SignalError(String);

impl Signal {
    /// Reads `SIGTERM`, `TERM` (any case) or `15`.
    ///
    /// # Errors
    /// If it is none of the named signals. Real-time signals have no fixed meaning and are not taken.
    pub fn parse(text: &str) -> Result<Self, SignalError> {
        let upper = text.trim().to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = upper.parse::<i32>().ok();
        NAMES
            .iter()
            .find(|(known, kernel)| *known == name || Some(kernel.as_raw()) == number)
            .map(|(_, kernel)| Self(kernel.as_raw()))
            .ok_or_else(|| SignalError(text.chars().take(32).collect()))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, kernel)| kernel.as_raw() == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

pub(super) async fn send(
    found: &Found,
    signal: Signal,
    then: Option<(Duration, Signal)>,
    passed: Passed<'_>,
) -> RemedyOutcome {
    let live = match found {
        Found::Process(live) => live,
        Found::Ended => return not_acted("already gone: there is nothing to signal"),
        Found::Listener(why) => {
            return not_acted(&format!(
                "its process cannot be signalled, only its LISTEN socket is known: {why}"
            ));
        }
        Found::NoProcess => return not_acted("no process of this peer is known: `signal` needs an owner"),
    };
    passed.act();
    if let Err(refused) = send_once(live, signal) {
        return refused;
    }
    let pid = live.pid;
    let Some((after, second)) = then else {
        return acted(format!("{signal} sent to process {pid}"));
    };
    match tokio::time::timeout(after, live.wait_exit()).await {
        Ok(Ok(())) => acted(format!("{signal} sent to process {pid}, which ended")),
        Ok(Err(error)) => RemedyOutcome::Failed {
            detail: format!("{signal} sent to process {pid}, then its end could not be waited for: {error}"),
        },
        Err(_) => match send_once(live, second) {
            Ok(()) => acted(format!(
                "{signal} sent to process {pid}; still there after {after:?}, so {second} too"
            )),
            Err(RemedyOutcome::NotActed { .. }) if live.exited() => {
                acted(format!("{signal} sent to process {pid}, which ended"))
            }
            Err(RemedyOutcome::NotActed { detail }) => RemedyOutcome::Failed {
                detail: format!(
                    "{signal} sent to process {pid}; still there after {after:?}; {second}: {detail}"
                ),
            },
            Err(other) => other,
        },
    }
}

fn send_once(live: &LiveOwner, signal: Signal) -> Result<(), RemedyOutcome> {
    let pid = live.pid;
    let Some(kernel) = Kernel::from_named_raw(signal.0) else {
        return Err(not_acted(&format!("{signal} is not a signal")));
    };
    if pid == std::process::id() {
        return Err(not_acted("it is this defib itself"));
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    // Only now: while the pidfd's process had not ended, the number was its own.
    if live.exited() {
        return Err(not_acted("already gone: it has ended meanwhile"));
    }
    let refused = match status {
        Ok(status) => needless(&status, pid, signal).or_else(|| refusal(&status, pid, signal)),
        Err(error) => Some(format!(
            "cannot read /proc/{pid}/status, so whether it may be signalled: {error}"
        )),
    };
    if let Some(refused) = refused {
        return Err(not_acted(&refused));
    }
    pidfd_send_signal(&*live.pidfd, kernel).map_err(|error| match error {
        Errno::SRCH => not_acted("already gone: it has ended meanwhile"),
        Errno::PERM => not_acted(&format!(
            "not permitted to signal process {pid}: run defib as its user or with CAP_KILL"
        )),
        error => not_acted(&format!("cannot signal process {pid}: {error}")),
    })
}

/// SIGCONT is for a stopped process. Another one would only be told that it was continued, which some act upon.
fn needless(status: &str, pid: u32, signal: Signal) -> Option<String> {
    let state = status
        .lines()
        .find_map(|line| line.strip_prefix("State:"))?
        .trim();
    (signal.0 == Kernel::CONT.as_raw() && !state.starts_with('T'))
        .then(|| format!("process {pid} is not stopped (state {state}): there is nothing to continue"))
}

/// Why pid 1 of a pid namespace should not get this signal. The kernel drops what it does not handle, silently,
/// when it comes from inside; and from outside, a SIGKILL ends every process of that namespace with it.
pub(super) fn refusal(status: &str, pid: u32, signal: Signal) -> Option<String> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|line| line.trim_start_matches(':').trim())
    };
    let innermost = field("NSpid").and_then(|pids| pids.split_ascii_whitespace().next_back()?.parse().ok());
    if innermost.unwrap_or(pid) != 1 || signal.0 == Kernel::CONT.as_raw() {
        return None;
    }
    if signal.0 == Kernel::KILL.as_raw() || signal.0 == Kernel::STOP.as_raw() {
        return Some(format!(
            "process {pid} is pid 1 of its pid namespace, which {signal} must not hit"
        ));
    }
    let handled = field("SigCgt").and_then(|mask| u64::from_str_radix(mask, 16).ok());
    let bit = u32::try_from(signal.0 - 1).ok().and_then(|n| 1u64.checked_shl(n));
    match (handled, bit) {
        (Some(handled), Some(bit)) if handled & bit != 0 => None,
        _ => Some(format!(
            "process {pid} is pid 1 of its pid namespace and does not handle {signal}: the kernel would drop it; \
             run it under an init (docker --init, tini)"
        )),
    }
}

fn acted(detail: String) -> RemedyOutcome {
    RemedyOutcome::Acted { detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["SIGTERM", "sigterm", "TERM", "term", " 15 "] {
            assert_eq!(Signal::parse(text), Ok(Signal(15)), "{text}");
        }
        for (name, kernel) in NAMES {
            let signal = Signal(kernel.as_raw());
            assert_eq!(Signal::parse(name), Ok(signal));
            assert_eq!(Signal::parse(&signal.to_string()), Ok(signal));
            assert_eq!(Signal::parse(&signal.0.to_string()), Ok(signal));
        }
        for text in ["", "0", "-9", "32", "64", "SIG", "SIGSIGTERM", "SIGRTMIN", "9.0"] {
            assert!(Signal::parse(text).is_err(), "{text}");
        }
        assert_eq!(Signal(40).to_string(), "signal 40");
    }

    #[test]
    fn sigcont_is_for_the_stopped() {
        let status = |state: &str| format!("Name:\tx\nState:\t{state}\nPid:\t77\n");
        let (cont, term) = (Signal(18), Signal(15));
        assert_eq!(needless(&status("T (stopped)"), 77, cont), None);
        assert!(needless(&status("S (sleeping)"), 77, cont).is_some());
        assert!(needless(&status("t (tracing stop)"), 77, cont).is_some());
        assert_eq!(needless(&status("S (sleeping)"), 77, term), None);
        assert_eq!(needless("", 77, cont), None);
    }

    #[test]
    fn pid_1_of_a_namespace_gets_only_what_it_handles() {
        let status =
            |nspid: &str, caught: &str| format!("Name:\tx\nPid:\t77\nNSpid:\t{nspid}\nSigCgt:\t{caught}\n");
        let (term, kill, stop, cont) = (Signal(15), Signal(9), Signal(19), Signal(18));
        let handles_term = "0000000000004000";
        let handles_all = "ffffffffffffffff";
        let refuses = |text: &str, pid, signal| refusal(text, pid, signal).is_some();

        assert!(refuses(&status("77\t1", "0"), 77, term));
        assert!(!refuses(&status("77\t1", handles_term), 77, term));
        assert!(refuses(&status("77\t1", handles_term), 77, Signal(14)));
        assert!(refuses(&status("77\t1", handles_term), 77, Signal(16)));
        assert!(refuses(&status("77\t1", handles_all), 77, kill));
        assert!(refuses(&status("77\t1", handles_all), 77, stop));
        assert!(!refuses(&status("77\t1", "0"), 77, cont));
        assert!(refuses(&status("1", "0"), 1, term));
        // Not pid 1 anywhere, or only of a namespace around its own.
        assert!(!refuses(&status("77\t5", "0"), 77, kill));
        assert!(!refuses(&status("1\t5", "0"), 1, kill));
        // No NSpid line (before Linux 4.1), no mask, garbage.
        assert!(!refuses("Name:\tx\n", 77, kill));
        assert!(refuses("Name:\tx\n", 1, term));
        assert!(refuses("NSpid:\t77 1\nSigCgt:\tzz\n", 77, term));
    }
}
