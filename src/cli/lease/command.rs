//! The command of a lease: started so that it ends with whoever holds the lease for it, signalled, waited for.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{ExitCode, ExitStatus};

use anyhow::Context;
use rustix::process::{
    Pid, PidfdFlags, Signal, getppid, kill_process, kill_process_group, pidfd_open,
    set_parent_process_death_signal,
};
use tokio::process::{Child, Command};

use crate::cli::args::LeaseCommandArgs;
use crate::cli::{exit, say_error};
use crate::owner_table::wait_exit;

/// As in shells.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// A command that runs.
pub(super) struct Running {
    child: Child,
    id: Pid,
    pidfd: OwnedFd,
    /// It has a process group of its own. Not at a terminal, where only the group in the foreground may read.
    group: bool,
}

impl Running {
    /// Starts it by way of [`become_it`].
    pub(super) fn start(words: &[OsString], key: &str, fencing_token: Option<u64>) -> anyhow::Result<Self> {
        let group = !std::io::stdin().is_terminal();
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["lease-command", &std::process::id().to_string(), "--"])
            .args(words)
            .kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            // The admin token, among others.
            if name.to_string_lossy().to_ascii_uppercase().starts_with("DEFIB_") {
                command.env_remove(name);
            }
        }
        command.env("DEFIB_LEASE", key);
        if let Some(fencing_token) = fencing_token {
            command.env("DEFIB_FENCING_TOKEN", fencing_token.to_string());
        }
        if group {
            command.process_group(0);
        }
        let child = command.spawn().context("cannot start the command")?;
        let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let id = id.context("the command has no process number")?;
        Ok(Self {
            child,
            id,
            pidfd: pidfd_open(id, PidfdFlags::empty()).context("cannot watch the command")?,
            group,
        })
    }

    /// Waits for its end; it is not reaped yet.
    pub(super) async fn exited(&self) -> anyhow::Result<()> {
        wait_exit(&self.pidfd).await.context("cannot watch the command")
    }

    /// Its exit code, as shells show it. `all`: whatever it left in its group is killed.
    pub(super) async fn reap(&mut self, all: bool) -> anyhow::Result<u8> {
        if all && self.group {
            // Not reaped yet, so that the number of the group is nobody else's.
            self.signal(Signal::KILL);
        }
        let status = self.child.wait().await.context("cannot wait for the command")?;
        Ok(code(status))
    }

    /// A signal that this process got. At a terminal the command got what was typed itself.
    pub(super) fn hand_on(&self, number: i32) {
        let Some(signal) = Signal::from_named_raw(number) else {
            return;
        };
        if self.group || !matches!(signal, Signal::INT | Signal::QUIT) {
            self.signal(signal);
        }
    }

    /// Asks it to end. A stopped one hears it once it goes on, so it does.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
    }

    /// Ends it.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // The only way to fail is that nobody is left.
        let _ = if self.group {
            kill_process_group(self.id, signal)
        } else {
            kill_process(self.id, signal)
        };
    }
}

/// This process becomes the command. The kernel kills it with its parent: a holder that was killed cannot renew, and
/// nothing else would end what runs on without the lease. (What the command starts itself is not killed so.)
pub fn become_it(args: &LeaseCommandArgs) -> ExitCode {
    let Some((program, arguments)) = args.command.split_first() else {
        return ExitCode::from(exit::USAGE);
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        say_error(&format!("defib: cannot tie the command to its lease: {error}"));
        return ExitCode::from(exit::INTERNAL);
    }
    // It may have died before.
    if getppid().map(Pid::as_raw_pid) != Some(args.parent) {
        return ExitCode::from(exit::LOST);
    }
    let error = std::process::Command::new(program).args(arguments).exec();
    say_error(&format!(
        "defib: cannot start {}: {error}",
        program.to_string_lossy()
    ));
    ExitCode::from(match error.kind() {
        std::io::ErrorKind::NotFound => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    })
}

/// The exit code of who was ended by this signal, as shells show it.
pub(super) fn ended_by(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, Some(signal)) => ended_by(signal),
        (None, None) => exit::INTERNAL,
    }
}
