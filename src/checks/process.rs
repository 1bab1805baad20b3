//! Finding a peer's process and taking hold of it; or, where it cannot be seen, its LISTEN socket. Blocking: it walks
//! through /proc, so it runs on a thread of its own (reading a command line can even wait for the other process's
//! memory lock).

use std::fmt;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Owner, listener, port};
use crate::engine::event::Incarnation;
use crate::heartbeat_file::{self, Beat, Unread};
use crate::owner_table::{Held, LiveOwner, exited};
use crate::sock_diag::Endpoint;

/// Most bytes of a command line that are compared.
const MAX_COMMAND: u64 = 64 * 1024;
/// Most bytes of a pid file that are read; its first line holds the number (postgres writes more below it).
const MAX_PID_FILE: u64 = 256;

/// Finds one peer's process, by its rule, again and again. It remembers what would otherwise let a stranger in
/// who got the number of an ended process.
#[derive(Debug)]
pub(super) struct Finder {
    owner: Owner,
    known: Mutex<Option<Known>>,
}

/// What a number stood for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    /// Of the pid file that named it; `None` for [`Owner::Pid`].
    file: Option<FileVersion>,
    /// The life it stood for; `None`: there was none.
    life: Option<Incarnation>,
}

/// Changes whenever a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileVersion {
    inode: (u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Why no process was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unfound {
    /// There is none now, as far as can be seen.
    Absent(String),
    /// There may be one: this node could not see it, or must not believe what points at it.
    Blind { reason: String, cure: String },
}

impl Unfound {
    pub(super) fn blind(reason: impl Into<String>, cure: impl Into<String>) -> Self {
        Self::Blind {
            reason: reason.into(),
            cure: cure.into(),
        }
    }
}

impl From<String> for Unfound {
    fn from(why: String) -> Self {
        Self::Absent(why)
    }
}

impl fmt::Display for Unfound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(why) => f.write_str(why),
            Self::Blind { reason, cure } => write!(f, "{reason}: {cure}"),
        }
    }
}

/// A process that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named {
    pid: u32,
    file: Option<FileVersion>,
}

impl Finder {
    pub(super) fn new(owner: Owner) -> Self {
        Self {
            owner,
            known: Mutex::new(None),
        }
    }

    /// True if the process can change while the one before still runs: only a file says so.
    pub(super) fn may_move(&self) -> bool {
        matches!(self.owner, Owner::PidFile(_) | Owner::HeartbeatFile(_))
    }

    /// Finds the owner and takes hold of it: by a pidfd, or, of one that listens and whose process is out of sight,
    /// by its LISTEN socket.
    ///
    /// # Errors
    /// In words for people: what was looked for, and what to do.
    pub(super) fn hold(&self) -> Result<Held, String> {
        match (self.find(), self.owner.listens_on()) {
            (Ok(live), _) => Ok(Held::Process(live)),
            (Err(unseen @ Unfound::Blind { .. }), Some(end)) => {
                let why = unseen.to_string();
                match listener::find(end, &why) {
                    Ok(Some(listener)) => Ok(Held::Listener(listener)),
                    Ok(None) => Err(why),
                    Err(error) => Err(format!("{why}; nor can its LISTEN socket be seen: {error}")),
                }
            }
            (Err(unfound), _) => Err(unfound.to_string()),
        }
    }

    /// Takes hold of the process by a pidfd, and tells absence from blindness.
    pub(super) fn find(&self) -> Result<LiveOwner, Unfound> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Owner::Pid(pid) = self.owner
            && known.is_none()
            && Stat::read(pid).map_or_else(|e| e.kind() == io::ErrorKind::NotFound, |stat| stat.state == 'Z')
        {
            *known = Some(Known {
                file: None,
                life: None,
            });
        }
        let named = find(&self.owner)?;
        let live = take(named.pid, || still(&self.owner, named))?;
        let found = Known {
            file: named.file,
            life: Some(live.incarnation.clone()),
        };
        // (A heartbeat file changes all the time; whoever is younger than it is not named by it.)
        let by_number = matches!(self.owner, Owner::Pid(_) | Owner::PidFile(_));
        match &*known {
            // The same word, another life: the number was given away in between.
            Some(before) if by_number && before.file == found.file && before.life != found.life => {
                Err(Unfound::Absent(format!(
                    "process {} is a later one of the same number, not the one that was meant",
                    named.pid
                )))
            }
            _ => {
                *known = Some(found);
                Ok(live)
            }
        }
    }
}

/// What `/proc/<pid>/stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// `R`, `S`, `D`, `T`, `t`, `Z`, …
    pub(super) state: char,
    /// The number of its parent; 0 if that is in another pid namespace.
    pub(super) parent: u32,
    /// In clock ticks since the machine's boot.
    pub(super) start: u64,
}

impl Stat {
    pub(super) fn read(pid: u32) -> io::Result<Self> {
        let text = fs::read(format!("/proc/{pid}/stat"))?;
        Self::parse(&text)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc stat line"))
    }

    /// The second field is the process's own choice and may hold blanks, newlines and `)`: the last `)` ends it.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let end = line.iter().rposition(|&byte| byte == b')')?;
        let rest = std::str::from_utf8(&line[end + 1..]).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        // Fields 5 to 21 lie between the parent (4) and the start time (22).
        let start = fields.nth(17)?.parse().ok()?;
        Some(Self { state, parent, start })
    }
}

/// The text of a process's incarnation.
///
/// # Errors
/// If this machine's boot id cannot be read.
pub(super) fn incarnation(pid: u32, start: u64) -> Result<Incarnation, String> {
    Ok(Incarnation(format!("proc:{}:{pid}:{start}", boot()?).into()))
}

/// For how many seconds a process has run.
///
/// # Errors
/// If /proc does not tell.
pub fn uptime_of(pid: u32) -> io::Result<f64> {
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc/uptime");
    let text = fs::read_to_string("/proc/uptime")?;
    let machine: f64 = text
        .split_ascii_whitespace()
        .next()
        .and_then(|seconds| seconds.parse().ok())
        .ok_or_else(unreadable)?;
    let start = Stat::read(pid)?.start as f64 / rustix::param::clock_ticks_per_second() as f64;
    Ok((machine - start).max(0.0))
}

/// This machine's boot id.
///
/// # Errors
/// If it cannot be read.
pub(super) fn boot() -> Result<&'static str, String> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if BOOT.get().is_none() {
        let path = "/proc/sys/kernel/random/boot_id";
        let id = fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
        BOOT.get_or_init(|| id.trim().to_owned());
    }
    Ok(BOOT.get().map_or("", String::as_str))
}

/// Takes hold of the very life that was seen before, by whoever saw it.
///
/// # Errors
/// In words, if it has ended, if it was no process, or if it was one of another machine or pid namespace.
pub fn hold_again(seen: &Incarnation) -> Result<LiveOwner, String> {
    let pid = seen
        .0
        .strip_prefix("proc:")
        .and_then(|rest| rest.split(':').nth(1)?.parse().ok());
    let pid: u32 = pid.ok_or_else(|| format!("{seen} is no process that could be held"))?;
    let live = take(pid, || true).map_err(|unfound| unfound.to_string())?;
    if live.incarnation == *seen {
        Ok(live)
    } else {
        Err(format!("process {pid} here is not the one that was seen"))
    }
}

/// Takes hold of this process. `still`: whether it is the one that is meant, asked while it is held.
pub(super) fn take(pid: u32, still: impl Fn() -> bool) -> Result<LiveOwner, Unfound> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let number = number.ok_or_else(|| format!("{pid} is not a process number"))?;
    let pidfd = pidfd_open(number, PidfdFlags::empty()).map_err(|error| match error {
        Errno::SRCH => Unfound::Absent(format!("there is no process {pid}")),
        Errno::INVAL | Errno::NOENT => Unfound::Absent(format!("{pid} is a thread, not a process")),
        Errno::NOSYS => Unfound::blind("this kernel has no pidfd_open", "Linux 5.3 or newer is needed"),
        Errno::PERM => Unfound::blind(
            format!("may not take hold of process {pid} (pidfd_open)"),
            "permit pidfd_open in the seccomp profile",
        ),
        error => Unfound::Absent(format!("cannot take hold of process {pid} (pidfd_open): {error}")),
    })?;
    let stat = Stat::read(pid).map_err(|error| format!("cannot read /proc/{pid}/stat: {error}"))?;
    let found_still = still();
    if exited(&pidfd) {
        return Err(format!("process {pid} has ended").into());
    }
    if !found_still {
        return Err(format!("process {pid} changed while it was looked at").into());
    }
    Ok(LiveOwner {
        incarnation: incarnation(pid, stat.start)?,
        pid,
        pidfd: Arc::new(pidfd),
    })
}

/// A /proc of another pid namespace (a host's, mounted into a container) has other numbers than `pidfd_open`.
pub(super) fn own_proc() -> Result<(), Unfound> {
    let own = std::process::id().to_string();
    if fs::read_link("/proc/self").ok().as_deref() == Some(Path::new(&own)) {
        return Ok(());
    }
    Err(Unfound::blind(
        "/proc is not that of this node's pid namespace",
        "mount it, or share the namespace",
    ))
}

fn find(owner: &Owner) -> Result<Named, Unfound> {
    let own = std::process::id();
    own_proc()?;
    let alone = |pid| Named { pid, file: None };
    let named = match owner {
        Owner::Pid(pid) => alone(*pid),
        Owner::PidFile(path) => by_pid_file(path)?,
        Owner::HeartbeatFile(path) => alone(by_heartbeat_file(path)?),
        Owner::Command(part) => alone(by_command(part)?),
        Owner::Listens(port) => alone(port::find(Endpoint::port(*port))?),
        Owner::ListensAt(address) => alone(port::find((*address).into())?),
    };
    match named.pid {
        0 => Err("0 is not a process number".to_owned().into()),
        pid if pid == own => Err(format!("process {pid} is this defib itself").into()),
        _ => Ok(named),
    }
}

/// Whether what the process was found by still holds.
fn still(owner: &Owner, named: Named) -> bool {
    let pid = named.pid;
    match owner {
        Owner::Pid(_) => true,
        Owner::PidFile(path) => by_pid_file(path).is_ok_and(|again| again == named),
        Owner::HeartbeatFile(path) => by_heartbeat_file(path).is_ok_and(|again| again == pid),
        Owner::Command(part) => command(pid).is_some_and(|line| line.contains(part)),
        Owner::Listens(port) => port::holds(pid, Endpoint::port(*port)),
        Owner::ListensAt(address) => port::holds(pid, (*address).into()),
    }
}

/// A heartbeat file names its writer, in the writer's own pid namespace: this node's, says who configures it so.
fn by_heartbeat_file(path: &Path) -> Result<u32, Unfound> {
    let shown = format!("heartbeat file {}", path.display());
    let content = heartbeat_file::read(path).map_err(|why| match why {
        Unread::Refused(why) => Unfound::blind(format!("{shown}: {why}"), "let this node's user read it"),
        why => Unfound::Absent(format!("{shown}: {why}")),
    })?;
    let beat = Beat::parse(&content.bytes).map_err(|why| format!("{shown}: {why}"))?;
    let host = heartbeat_file::hostname();
    if let Some(other) = beat.hostname().filter(|other| *other != host) {
        let other: String = other.chars().take(64).collect();
        return Err(Unfound::blind(
            format!("{shown} was written on host {other:?}, and this is {host:?}"),
            "run this node beside it, or watch it without an owner",
        ));
    }
    let pid = match beat.pid() {
        Ok(Some(pid)) => pid,
        Ok(None) => return Err(format!("{shown} names no process: it has no `pid`").into()),
        Err(why) => return Err(format!("{shown}: {why}").into()),
    };
    believed(&shown, &content.meta, pid)?;
    match began(pid).and_then(|began| began.checked_sub(content.modified())) {
        Some(by) if by > SLACK => Err(Unfound::Absent(format!(
            "{shown}: process {pid} began {by:.0?} after it was written: it is another one"
        ))),
        Some(_) | None => Ok(pid),
    }
}

/// How much later than a file a process may seem to have begun that wrote it: the wall clock is slewed.
pub(super) const SLACK: Duration = Duration::from_secs(1);

/// When a process began, since 1970 and by today's wall clock: up to a second early. `None`: it cannot be told.
pub(super) fn began(pid: u32) -> Option<Duration> {
    let ticks = Stat::read(pid).ok()?.start;
    let since_boot = ticks.checked_mul(1000)? / rustix::param::clock_ticks_per_second().max(1);
    let stat = BufReader::new(fs::File::open("/proc/stat").ok()?);
    let boot = stat
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())?;
    Some(Duration::from_secs(boot) + Duration::from_millis(since_boot))
}

/// Takes hold of a process by its number alone. `None`: there is none, or it has ended.
///
/// # Errors
/// If that cannot be told.
pub(super) fn hold_number(pid: u32) -> Result<Option<LiveOwner>, String> {
    let unfound = match own_proc().and_then(|()| take(pid, || true)) {
        Ok(live) => return Ok(Some(live)),
        Err(unfound) => unfound.to_string(),
    };
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    match number.map(|number| pidfd_open(number, PidfdFlags::empty())) {
        Some(Err(Errno::SRCH)) => Ok(None),
        Some(Ok(pidfd)) if exited(&pidfd) => Ok(None),
        _ => Err(unfound),
    }
}

/// Pid 1 here is a defib: as a rule nothing but its own children has a number in this namespace.
pub(super) fn alone_in_pid_namespace() -> bool {
    let program = |pid: &str| fs::read_link(format!("/proc/{pid}/exe")).ok();
    std::process::id() == 1 || program("self").is_some_and(|own| program("1") == Some(own))
}

/// A file is somebody's word about whom to kill. It is believed if root or this node's own user wrote it, or if it
/// names a process of its writer's; and never if everybody may write it.
fn believed(shown: &str, meta: &fs::Metadata, pid: u32) -> Result<(), Unfound> {
    if meta.mode() & 0o002 != 0 {
        return Err(Unfound::blind(
            format!("{shown} may be written by everybody"),
            "chmod o-w it",
        ));
    }
    let writer = meta.uid();
    let trusted = writer == 0 || writer == rustix::process::geteuid().as_raw();
    if !trusted && uid_of(pid).is_some_and(|uid| uid != writer) {
        return Err(Unfound::blind(
            format!("{shown} belongs to uid {writer} and names process {pid} of another user"),
            "not believed; let root or the process's own user write it",
        ));
    }
    Ok(())
}

fn by_pid_file(path: &Path) -> Result<Named, Unfound> {
    let shown = path.display();
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => Unfound::blind(
            format!("pid file {shown}: {error}"),
            format!("let uid {} read it", rustix::process::geteuid().as_raw()),
        ),
        _ => Unfound::Absent(format!("pid file {shown}: {error}")),
    };
    // O_NONBLOCK: a pipe in its place must not hold us.
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::CLOEXEC).bits()).unwrap_or(0);
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(format!("pid file {shown} is not a regular file").into());
    }
    let mut text = Vec::new();
    file.take(MAX_PID_FILE).read_to_end(&mut text).map_err(failed)?;
    let pid =
        parse_pid(&text).ok_or_else(|| format!("pid file {shown} does not begin with a process number"))?;
    believed(&format!("pid file {shown}"), &meta, pid)?;
    let version = FileVersion {
        inode: (meta.dev(), meta.ino()),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    };
    Ok(Named {
        pid,
        file: Some(version),
    })
}

fn parse_pid(text: &[u8]) -> Option<u32> {
    let line = text.split(|&byte| byte == b'\n').next()?.trim_ascii();
    if line.is_empty() || !line.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let pid: i32 = std::str::from_utf8(line).ok()?.parse().ok()?;
    u32::try_from(pid).ok().filter(|&pid| pid > 0)
}

pub(super) fn uid_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    uids.split_ascii_whitespace().next()?.parse().ok()
}

fn by_command(part: &str) -> Result<u32, String> {
    if part.is_empty() {
        return Err("an empty text is part of every command line".into());
    }
    let own = std::process::id();
    let mut found = pids()?.filter(|&pid| pid != own && command(pid).is_some_and(|line| line.contains(part)));
    let first = found
        .next()
        .ok_or_else(|| format!("no process has {part:?} in its command line"))?;
    match found.count() {
        0 => Ok(first),
        more => Err(format!(
            "{} processes match {part:?} in their command lines: use a longer part, pid_file or listens",
            more + 1
        )),
    }
}

fn command(pid: u32) -> Option<String> {
    let mut line = Vec::new();
    let file = fs::File::open(format!("/proc/{pid}/cmdline")).ok()?;
    file.take(MAX_COMMAND).read_to_end(&mut line).ok()?;
    let text = String::from_utf8_lossy(&line);
    Some(text.trim_end_matches('\0').replace('\0', " "))
}

pub(super) fn pids() -> Result<impl Iterator<Item = u32>, String> {
    let entries = fs::read_dir("/proc").map_err(|error| format!("cannot read /proc: {error}"))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::{Child, Command, Stdio};

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn sleeper() -> Ended {
        Ended(Command::new("sleep").arg("600").spawn().unwrap())
    }

    proptest! {
        #[test]
        fn any_comm_is_read_past(comm in proptest::collection::vec(any::<u8>(), 0..64), state in "[RSDTtZXI]", parent: u32, start: u64) {
            let mut line = b"77 (".to_vec();
            line.extend_from_slice(&comm);
            line.extend_from_slice(format!(") {state} {parent} {}{start} 9 9\n", "1 ".repeat(17)).as_bytes());
            let state = state.chars().next().unwrap();
            prop_assert_eq!(Stat::parse(&line), Some(Stat { state, parent, start }));
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = Stat::parse(&bytes);
            let _ = parse_pid(&bytes);
            let _ = port::listener(&String::from_utf8_lossy(&bytes), Endpoint::port(80));
        }
    }

    #[test]
    fn a_stat_line_that_is_cut_off_is_no_stat() {
        for line in ["", "77", "77 (x)", "77 (x) S 1 2 3", ") S"] {
            assert_eq!(Stat::parse(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn a_process_is_not_fooled_by_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let evil = dir.path().join("x) Z 1 (y");
        std::os::unix::fs::symlink("/bin/sleep", &evil).unwrap();
        let child = Ended(Command::new(&evil).arg("600").spawn().unwrap());
        let stat = Stat::read(child.0.id()).unwrap();
        assert_ne!(stat.state, 'Z');
        assert!(stat.start > 1);
    }

    #[test]
    fn a_pid_file_holds_one_number() {
        assert_eq!(parse_pid(b"42"), Some(42));
        assert_eq!(parse_pid(b" 42 \r\nmore\n"), Some(42));
        for bad in [
            "",
            "\n42",
            "0",
            "-1",
            "+1",
            "4294967297",
            "2147483648",
            "99999999999999999999999",
            "1e3",
            "0x10",
            "42 43",
            "४२",
        ] {
            assert_eq!(parse_pid(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn hostile_pid_files_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let hold = || Finder::new(Owner::PidFile(path.clone())).hold();
        assert!(hold().unwrap_err().contains("No such file"));
        for (text, why) in [
            (std::process::id().to_string(), "defib itself"),
            ("0".into(), "does not begin with a process number"),
            ("-1".into(), "does not begin with a process number"),
            ("99999999999".into(), "does not begin with a process number"),
            ("2147483647".into(), "there is no process 2147483647"),
        ] {
            fs::write(&path, &text).unwrap();
            let error = hold().unwrap_err();
            assert!(error.contains(why), "{text}");
        }
        fs::write(&path, vec![b'1'; 1 << 20]).unwrap();
        assert!(hold().unwrap_err().contains("does not begin"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(hold().unwrap_err().contains("not a regular file"));
        fs::remove_dir(&path).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        assert!(hold().unwrap_err().contains("not a regular file"));
    }

    #[test]
    fn a_pid_file_of_somebody_else_is_believed_about_their_own_processes_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let child = sleeper();
        fs::write(&path, child.0.id().to_string()).unwrap();
        let finder = Finder::new(Owner::PidFile(path.clone()));
        assert_eq!(finder.find().unwrap().pid, child.0.id());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(finder.hold().unwrap_err().contains("chmod o-w"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            assert!(finder.hold().unwrap_err().contains("not believed"));
        }
    }

    #[test]
    fn a_number_is_one_process_for_ever() {
        let child = sleeper();
        let finder = Finder::new(Owner::Pid(child.0.id()));
        let live = finder.find().unwrap();
        assert_eq!(finder.find().unwrap().incarnation, live.incarnation);
        drop(child);
        assert!(live.exited());
        assert!(finder.hold().is_err());

        // The same number in another's hands: as if it had been given away again; or had been free at first.
        let other = sleeper();
        for life in [Some(live.incarnation), None] {
            let stranger = Finder {
                owner: Owner::Pid(other.0.id()),
                known: Mutex::new(Some(Known { file: None, life })),
            };
            assert!(
                stranger
                    .hold()
                    .unwrap_err()
                    .contains("a later one of the same number")
            );
        }
    }

    #[test]
    fn a_stale_pid_file_does_not_name_who_got_the_number_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let child = sleeper();
        fs::write(&path, child.0.id().to_string()).unwrap();
        let finder = Finder::new(Owner::PidFile(path.clone()));
        let live = finder.find().unwrap();
        // As if the life before had been another one, of the same number.
        let before = Incarnation("proc:x:1:1".into());
        finder.known.lock().unwrap().as_mut().unwrap().life = Some(before);
        assert!(
            finder
                .hold()
                .unwrap_err()
                .contains("a later one of the same number")
        );
        // Written again, it is somebody's word again.
        let new = dir.path().join("new");
        fs::write(&new, child.0.id().to_string()).unwrap();
        fs::rename(&new, &path).unwrap();
        assert_eq!(finder.find().unwrap().incarnation, live.incarnation);
    }

    #[test]
    fn a_zombie_has_ended() {
        let mut child = Command::new("true").spawn().unwrap();
        let live = Finder::new(Owner::Pid(child.id()));
        while Stat::read(child.id()).unwrap().state != 'Z' {
            std::thread::yield_now();
        }
        assert!(live.hold().unwrap_err().contains("has ended"));
        child.wait().unwrap();
    }

    #[test]
    fn what_changes_between_the_look_and_the_hold_is_not_held() {
        let child = sleeper();
        assert!(take(child.0.id(), || true).is_ok());
        assert!(
            take(child.0.id(), || false)
                .unwrap_err()
                .to_string()
                .contains("changed")
        );
        assert!(take(0, || true).is_err());
        assert!(take(u32::MAX, || true).is_err());
    }

    #[test]
    fn exactly_one_command_line_must_match() {
        let mark = format!("defib-test-{}-one", std::process::id());
        let start = || {
            let shell = format!("read x # {mark}");
            let mut sh = Command::new("sh");
            let child = Ended(sh.args(["-c", &shell]).stdin(Stdio::piped()).spawn().unwrap());
            // In the middle of its exec, a process has no command line for a moment.
            while command(child.0.id()).is_none_or(|line| !line.contains(&mark)) {
                std::thread::yield_now();
            }
            child
        };
        let finder = Finder::new(Owner::Command(mark.clone()));
        assert!(finder.hold().unwrap_err().contains("no process has"));
        let first = start();
        assert_eq!(finder.find().unwrap().pid, first.0.id());
        let _second = start();
        assert!(finder.hold().unwrap_err().contains("2 processes match"));
        assert!(Finder::new(Owner::Command(String::new())).hold().is_err());
    }

    #[test]
    fn threads_are_not_processes() {
        let (tx, rx) = std::sync::mpsc::channel();
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tx.send(rustix::thread::gettid().as_raw_pid()).unwrap();
            let _ = wait.recv();
        });
        let tid = u32::try_from(rx.recv().unwrap()).unwrap();
        assert!(take(tid, || true).unwrap_err().to_string().contains("a thread"));
        drop(end);
        thread.join().unwrap();
    }
}
