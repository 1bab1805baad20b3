//! Running a command without a shell, in a process group of its own, which ends with its time. A leaf: the `exec`
//! remedy and the `exec` check use it. It knows nothing of what a command is for, nor what its end means.
//!
//! What it starts in the background stays in its group and is ended by the time-out too; but what leaves the
//! group (`setsid`, a daemon, a unit started by systemctl) is out of reach and lives on. A background process
//! must not keep the command's own output: the pipe is closed shortly after the command's end, and writing to it
//! is then an error.

mod output;
mod program;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, kill_process_group, pidfd_open, prlimit};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::owner_table::wait_exit;
use output::{Tally, pump};
pub use program::runnable;

/// Between SIGTERM and SIGKILL to a group whose time is up.
const POLITE: Duration = Duration::from_secs(2);
/// For a killed process to be gone; one in an uninterruptible wait takes longer, and is left.
const KILLED: Duration = Duration::from_secs(5);
/// For the rest of the output after the command's end: somebody else may hold the pipe open for ever.
const REST: Duration = Duration::from_millis(250);
/// Longest last line that is shown, in characters.
const SHOWN: usize = 200;
/// What belongs to this node's own supervisor, not to a child.
const NOT_INHERITED: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

/// What a command needs to work at all, and no secret is kept in.
const HARMLESS: [&str; 9] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
];

/// A command that is ready to be started.
#[derive(Debug)]
pub struct Prepared {
    command: Command,
    /// Most bytes of a file that it writes.
    largest: Option<u64>,
}

/// What came of a command that was started.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub ended: Ended,
    /// The last line it printed, of stderr if it printed there: without control characters, 200 of its own at most.
    pub last: String,
    /// Bytes of its output that were read and dropped.
    pub dropped: u64,
}

/// How a command ended.
#[derive(Debug)]
pub enum Ended {
    /// By itself.
    Itself(ExitStatus),
    /// By us, its time being up.
    Killed,
    /// Not even by SIGKILL. Its pidfd tells when it is gone.
    Unkillable(OwnedFd),
    /// It could not be waited for.
    Lost(io::Error),
}

/// Which of its streams a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// As in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

impl Prepared {
    /// Program and arguments, with these variables. Of our own environment the command gets neither those named
    /// `DEFIB_…`, nor those in `scrub`, nor what our own supervisor told us.
    #[must_use]
    pub fn new(argv: &[String], env: &[(&str, &str)], scrub: &[String]) -> Self {
        let mut command = base(argv);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().to_ascii_uppercase().starts_with("DEFIB_") {
                command.env_remove(name);
            }
        }
        for name in NOT_INHERITED.into_iter().chain(scrub.iter().map(String::as_str)) {
            command.env_remove(name);
        }
        command.envs(env.iter().copied());
        Self {
            command,
            largest: None,
        }
    }

    /// The same, for what must not show what this node's environment holds: of that it gets no more than where programs and
    /// home are, and the language.
    #[must_use]
    pub fn apart(argv: &[String], env: &[(&str, &str)], scrub: &[String]) -> Self {
        let mut command = base(argv);
        let harmless = |name: &str| HARMLESS.contains(&name) || name.starts_with("LC_");
        let inherited = std::env::vars_os().filter(|(name, _)| {
            name.to_str()
                .is_some_and(|name| harmless(name) && scrub.iter().all(|secret| secret != name))
        });
        command.env_clear().envs(inherited).envs(env.iter().copied());
        Self {
            command,
            largest: None,
        }
    }

    /// What it prints goes into these files, and is not read by us. No file that it writes gets larger than this.
    #[must_use]
    pub fn into_files(mut self, out: File, err: File, largest: u64) -> Self {
        self.command.stdout(out).stderr(err);
        self.largest = Some(largest);
        self
    }

    /// Runs it until it ends, or for `limit` and then until it is ended; its lines go to `log`, bounded. Dropping
    /// the future ends its process group at once.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn run(mut self, limit: Duration, log: impl Fn(Stream, &str)) -> io::Result<Ran> {
        let child = self.command.spawn()?;
        if let Some(largest) = self.largest {
            bound(&child, largest);
        }
        let (out, err) = (Tally::default(), Tally::default());
        let ended = supervise(child, limit, &log, &out, &err).await;
        let last = match err.last() {
            none if none.is_empty() => out.last(),
            last => last,
        };
        Ok(Ran {
            ended,
            last: last.chars().take(SHOWN).collect(),
            dropped: out.dropped() + err.dropped(),
        })
    }
}

/// In a process group of its own, and ended with its future.
fn base(argv: &[String]) -> Command {
    let (program, arguments) = argv.split_first().map_or(("", &[][..]), |(program, arguments)| {
        (program.as_str(), arguments)
    });
    let mut command = Command::new(program);
    command
        .args(arguments)
        .process_group(0)
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A write beyond it ends the command (SIGXFSZ). What it started before this is not bound: whoever must be sure looks at
/// what is there, too.
fn bound(child: &Child, largest: u64) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    // (Nobody's number would be our own.)
    let Some(pid) = pid else { return };
    let limit = Rlimit {
        current: Some(largest),
        maximum: Some(largest),
    };
    // It fails if it has ended.
    let _ = prlimit(Some(pid), Resource::Fsize, limit);
}

async fn supervise(
    mut child: Child,
    limit: Duration,
    log: &impl Fn(Stream, &str),
    out: &Tally,
    err: &Tally,
) -> Ended {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let group = match Group::of(&child) {
        Ok(group) => group,
        Err(error) => return Ended::Lost(error),
    };
    let printing = async {
        tokio::join!(
            pump(stdout, out, |line| log(Stream::Stdout, line)),
            pump(stderr, err, |line| log(Stream::Stderr, line)),
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
            return group.left();
        }
    }
    // Its end may have been read already: what is over is never over again.
    if !printing.is_terminated() {
        let _ = timeout(REST, printing).await;
    }
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
    fn of(child: &Child) -> io::Result<Self> {
        let id = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        let id = id.ok_or_else(|| io::Error::other("the command has no process number"))?;
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

    /// It does not end; who waits for it may go on without us.
    fn left(self) -> Ended {
        match self.leader.try_clone() {
            Ok(leader) => Ended::Unkillable(leader),
            Err(error) => Ended::Lost(error),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.ours {
            self.signal(Signal::KILL);
        }
    }
}
