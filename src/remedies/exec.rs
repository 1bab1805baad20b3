//! The `exec` remedy: a command without a shell, in a process group of its own, which ends with its time.
//!
//! What it starts in the background stays in its group and is ended by the time-out too; but what leaves the
//! group (`setsid`, a daemon, a unit started by systemctl) is out of reach and lives on. A background process
//! must not keep the command's own output: the pipe is closed shortly after the command's end, and writing to it
//! is then an error.

use std::os::fd::OwnedFd;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::Passed;
use super::output::{Tally, pump};
use crate::engine::decision::Grant;
use crate::engine::event::RemedyOutcome;
use crate::owner_table::wait_exit;

/// Between SIGTERM and SIGKILL to a group whose time is up.
const POLITE: Duration = Duration::from_secs(2);
/// For a killed process to be gone; one in an uninterruptible wait takes longer, and is left.
const KILLED: Duration = Duration::from_secs(5);
/// For the rest of the output after the command's end: somebody else may hold the pipe open for ever.
const REST: Duration = Duration::from_millis(250);
/// What belongs to this node's own supervisor, not to a child.
const NOT_INHERITED: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

pub(super) async fn run(
    argv: &[String],
    limit: Duration,
    grant: &Grant,
    scrub: &[String],
    passed: Passed<'_>,
) -> RemedyOutcome {
    let Some(program) = argv.first() else {
        return not_acted("the command is empty".to_owned());
    };
    let mut command = compose(argv, grant, scrub);
    let metrics = passed.executors.metrics.clone();
    passed.act();
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return not_acted(format!("cannot start {program}: {error}")),
    };
    let (out, err) = (Tally::default(), Tally::default());
    let ended = supervise(child, limit, grant, &out, &err).await;
    metrics.dropped(out.dropped() + err.dropped());
    let last = match err.last() {
        none if none.is_empty() => out.last(),
        last => last,
    };
    told(program, limit, ended, &last)
}

/// How a command ended.
enum Ended {
    /// By itself.
    Itself(ExitStatus),
    /// By us, its time being up.
    Killed,
    /// Not even by SIGKILL.
    Unkillable,
    /// It could not be waited for.
    Lost(std::io::Error),
}

fn compose(argv: &[String], grant: &Grant, scrub: &[String]) -> Command {
    let (program, arguments) = argv.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    let mut command = Command::new(program);
    command
        .args(arguments)
        .process_group(0)
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().to_ascii_uppercase().starts_with("DEFIB_") {
            command.env_remove(name);
        }
    }
    for name in NOT_INHERITED.into_iter().chain(scrub.iter().map(String::as_str)) {
        command.env_remove(name);
    }
    command
        .env("DEFIB_PEER", &*grant.name)
        .env("DEFIB_CAUSE", grant.cause.as_str())
        .env("DEFIB_INCARNATION", &*grant.incarnation.0)
        .env("DEFIB_FENCING_TOKEN", grant.token.to_string())
        .env("DEFIB_ATTEMPT", grant.attempt.to_string());
    command
}

async fn supervise(mut child: Child, limit: Duration, grant: &Grant, out: &Tally, err: &Tally) -> Ended {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let group = match Group::of(&child) {
        Ok(group) => group,
        Err(error) => return Ended::Lost(error),
    };
    let peer = &*grant.name;
    let printing = async {
        tokio::join!(
            pump(stdout, out, |line| tracing::info!(
                peer,
                stream = "stdout",
                "{line}"
            )),
            pump(stderr, err, |line| tracing::info!(
                peer,
                stream = "stderr",
                "{line}"
            )),
        );
    };
    let mut printing = pin!(printing.fuse());
    let in_time = beside(timeout(limit, wait_exit(&group.leader)), &mut printing).await;
    if in_time.is_err() {
        group.signal(Signal::TERM);
        let _ = beside(timeout(POLITE, wait_exit(&group.leader)), &mut printing).await;
        // Also when the leader has obeyed: others of its group may not have. It is not reaped yet, so the
        // number of the group cannot have passed to anybody else.
        group.signal(Signal::KILL);
        if beside(timeout(KILLED, wait_exit(&group.leader)), &mut printing)
            .await
            .is_err()
        {
            return Ended::Unkillable;
        }
    }
    let _ = timeout(REST, printing).await;
    group.let_go();
    match (child.wait().await, in_time) {
        (Err(error), _) | (_, Ok(Err(error))) => Ended::Lost(error),
        (Ok(status), Ok(Ok(()))) => Ended::Itself(status),
        (Ok(_), Err(_)) => Ended::Killed,
    }
}

/// Waits for `work` while the output is read.
async fn beside<T>(
    work: impl Future<Output = T>,
    printing: &mut (impl FusedFuture<Output = ()> + Unpin),
) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = &mut *printing, if !printing.is_terminated() => {}
        }
    }
}

/// The process group of a command whose leader is not reaped. Dropped in the middle (this node is shutting
/// down), it is ended.
struct Group {
    id: Pid,
    leader: OwnedFd,
    ours: bool,
}

impl Group {
    fn of(child: &Child) -> std::io::Result<Self> {
        let id = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        let id = id.ok_or_else(|| std::io::Error::other("the command has no process number"))?;
        Ok(Self {
            id,
            leader: pidfd_open(id, PidfdFlags::empty())?,
            ours: true,
        })
    }

    fn signal(&self, signal: Signal) {
        // The only way to fail is that nobody is left.
        let _ = kill_process_group(self.id, signal);
    }

    fn let_go(mut self) {
        self.ours = false;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.ours {
            self.signal(Signal::KILL);
        }
    }
}

fn told(program: &str, limit: Duration, ended: Ended, last: &str) -> RemedyOutcome {
    let tail: String = last.chars().take(200).collect();
    let said = if tail.is_empty() {
        String::new()
    } else {
        format!("; it said last: {tail}")
    };
    let detail = match ended {
        Ended::Itself(status) if status.success() => {
            return RemedyOutcome::Acted {
                detail: format!("{program} ended with status 0"),
            };
        }
        Ended::Itself(status) => format!("{program} ended with {status}{said}"),
        Ended::Killed => format!("{program} did not end within {limit:?}: its process group was ended{said}"),
        Ended::Unkillable => {
            format!("{program} did not end within {limit:?}, and SIGKILL does not end it either")
        }
        Ended::Lost(error) => format!("{program} was started and could not be waited for: {error}"),
    };
    RemedyOutcome::Failed { detail }
}

fn not_acted(detail: String) -> RemedyOutcome {
    RemedyOutcome::NotActed { detail }
}
