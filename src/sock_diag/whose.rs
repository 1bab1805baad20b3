//! Whose socket is it? Under host networking, and in a pod, a network namespace holds the sockets of many: a
//! neighbour's must never be blamed on the peer.
//!
//! Two things tell them apart: the descriptors of a process (`/proc/<pid>/fd`), and the cgroup in which a socket was
//! made, which the kernel lists beside it. A container is a cgroup, and so is a unit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::call::{dump, own_cookie};
use super::{Cookie, Dump, Endpoint, Filter, Socket, State};

/// By what an owner's sockets are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Held by this process or by one that descends from it (the workers of a pre-fork server).
    Process(u32),
    /// Made in one of these cgroups: see [`cgroup_of`].
    Cgroups(BTreeSet<u64>),
    /// Made in the cgroup of the socket that listens there: for an owner whose process cannot be seen.
    Listener(Endpoint),
    /// Nobody's in particular: everybody's in this network namespace but our own. Only if they are all of one
    /// cgroup.
    Namespace,
}

/// The listed sockets that are this owner's. Blocking: it may read `/proc`. Called right after the dump.
///
/// # Errors
/// Why that cannot be told, with its cure: then nothing at all is known of the owner's sockets.
pub fn sockets_of(whose: &Whose, dump: Dump) -> Result<Dump, String> {
    let truncated = dump.truncated;
    let sockets = dump.sockets;
    let mut others = established(&sockets);
    let sockets: Vec<Socket> = match whose {
        Whose::Process(pid) => {
            let held = held_below(*pid, &sockets)?;
            keep(sockets, |socket| held.contains(&socket.inode))
        }
        Whose::Cgroups(ids) => {
            told_apart(&sockets)?;
            keep(sockets, |socket| {
                socket.cgroup.is_some_and(|id| ids.contains(&id))
            })
        }
        Whose::Listener(end) => {
            let id = cgroup_of_listener(*end)?;
            told_apart(&sockets)?;
            keep(sockets, |socket| socket.cgroup == Some(id))
        }
        Whose::Namespace => {
            let own =
                held_by(std::process::id(), &sockets).map_err(|error| format!("/proc/self/fd: {error}"))?;
            let others = keep(sockets, |socket| !own.contains(&socket.inode));
            of_one_cgroup(&others)?;
            others
        }
    };
    for socket in &sockets {
        others.remove(&socket.id.cookie);
    }
    Ok(Dump {
        sockets,
        truncated,
        others,
    })
}

/// The connections among these.
pub(super) fn established<'s>(sockets: impl IntoIterator<Item = &'s Socket>) -> BTreeSet<Cookie> {
    let sockets = sockets.into_iter();
    let established = sockets.filter(|socket| socket.state == State::Established);
    established.map(|socket| socket.id.cookie).collect()
}

/// The ids of the cgroup of a process and of those below it: a container's, or a unit's.
///
/// # Errors
/// In words, with the cure: cgroup version 1, another cgroup namespace, not mounted here.
pub fn cgroup_of(pid: u32) -> Result<BTreeSet<u64>, String> {
    same_namespace(pid)?;
    let file = format!("/proc/{pid}/cgroup");
    let lines = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    let path = lines.lines().find_map(|line| line.strip_prefix("0::/"));
    let path = path.ok_or("this machine has cgroups of version 1 only: sockets carry no id of theirs")?;
    if path.starts_with("../") || path == ".." {
        return Err(
            "its cgroup lies outside of this node's cgroup namespace: run the node with `cgroup: host`"
                .into(),
        );
    }
    let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(|root| Path::new(root).join(path))
        .find(|cgroup| is_members(cgroup, pid))
        .ok_or_else(|| {
            format!(
                "cgroup /{path} is not to be found under /sys/fs/cgroup: mount the host's there, read-only"
            )
        })?;
    if path.is_empty() {
        return Err("it runs in the root cgroup, with everybody who has none of their own".into());
    }
    below(root)
}

/// True if the process is in this cgroup: a mount of another namespace has other paths.
fn is_members(cgroup: &Path, pid: u32) -> bool {
    let members = fs::read_to_string(cgroup.join("cgroup.procs"));
    members.is_ok_and(|pids| pids.lines().any(|line| line.parse() == Ok(pid)))
}

/// The inode of a cgroup's directory is its id (on 64-bit machines, where an inode's number holds it).
fn below(root: PathBuf) -> Result<BTreeSet<u64>, String> {
    const MOST: usize = 4096;
    let mut ids = BTreeSet::new();
    let mut left = vec![root];
    while let Some(directory) = left.pop() {
        let failed = |error: io::Error| format!("{}: {error}", directory.display());
        ids.insert(fs::metadata(&directory).map_err(failed)?.ino());
        if ids.len() > MOST {
            return Err(format!("more than {MOST} cgroups below one"));
        }
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            // Removed meanwhile, with all that was in it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        left.extend(entries.filter_map(|entry| {
            let entry = entry.ok()?;
            entry.file_type().ok()?.is_dir().then(|| entry.path())
        }));
    }
    Ok(ids)
}

fn keep(mut sockets: Vec<Socket>, mine: impl Fn(&Socket) -> bool) -> Vec<Socket> {
    sockets.retain(mine);
    sockets
}

fn told_apart(sockets: &[Socket]) -> Result<(), String> {
    if sockets.iter().any(|socket| socket.cgroup.is_none()) {
        return Err(
            "this kernel does not tell the cgroup of a socket: Linux 5.9 with cgroup 2 is needed".into(),
        );
    }
    Ok(())
}

/// Refuses what cannot be one owner's.
pub(super) fn of_one_cgroup(sockets: &[Socket]) -> Result<(), String> {
    let cgroups: BTreeSet<_> = sockets.iter().map(|socket| socket.cgroup).collect();
    match cgroups.len() {
        0 | 1 => Ok(()),
        several => Err(format!(
            "these sockets are of {several} containers or units in one network namespace: give the peer an owner"
        )),
    }
}

/// The cgroup in which the listener there was made, if it says anything.
fn cgroup_of_listener(end: Endpoint) -> Result<u64, String> {
    let (asked, end) = (Filter::listening_at(end), end.in_words());
    let listeners = dump(&asked).map_err(|error| error.to_string())?.sockets;
    if listeners.is_empty() {
        return Err(format!("nobody listens on {end} in this network namespace"));
    }
    told_apart(&listeners)?;
    let ids: BTreeSet<u64> = listeners.iter().filter_map(|socket| socket.cgroup).collect();
    let &[id] = ids.iter().collect::<Vec<_>>().as_slice() else {
        return Err(format!(
            "{end} is listened on by {} containers or units",
            ids.len()
        ));
    };
    // Id 1 is the root: everybody who has none of their own. Ours: the peer was not told from this node.
    if *id == 1 || own_cgroup() == Some(*id) {
        return Err(format!(
            "who listens on {end} shares its cgroup with this node, so its sockets cannot be told from \
             others': let its process be seen (`pid: \"service:…\"`, or shareProcessNamespace)"
        ));
    }
    Ok(*id)
}

/// The cgroup of this process, as the kernel writes it beside a socket of ours (no mount needed, unlike its path).
fn own_cgroup() -> Option<u64> {
    static OWN: OnceLock<Option<u64>> = OnceLock::new();
    *OWN.get_or_init(|| {
        let own = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        let cookie = own_cookie(&own).ok()?;
        let listed = dump(&Filter::listening(own.local_addr().ok()?.port())).ok()?;
        listed
            .sockets
            .into_iter()
            .find(|socket| socket.id.cookie == cookie)?
            .cgroup
    })
}

/// The inodes, of those listed, that the process or one of its descendants holds.
fn held_below(pid: u32, sockets: &[Socket]) -> Result<BTreeSet<u32>, String> {
    same_namespace(pid)?;
    let mut held = BTreeSet::new();
    for pid in descendants(pid)? {
        match held_by(pid, sockets) {
            Ok(inodes) => held.extend(inodes),
            // It ended meanwhile, and its sockets with it.
            Err(error) if ended(&error) => {}
            Err(error) => return Err(unreadable(&format!("/proc/{pid}/fd"), &error)),
        }
    }
    Ok(held)
}

fn held_by(pid: u32, sockets: &[Socket]) -> io::Result<BTreeSet<u32>> {
    // 0 is nobody's.
    let listed: BTreeSet<u32> = sockets
        .iter()
        .map(|socket| socket.inode)
        .filter(|&inode| inode != 0)
        .collect();
    let mut held = BTreeSet::new();
    if listed.is_empty() {
        return Ok(held);
    }
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let link = match fs::read_link(entry?.path()) {
            Ok(link) => link,
            // Closed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let inode = link
            .to_str()
            .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        held.extend(inode.filter(|inode| listed.contains(inode)));
    }
    Ok(held)
}

/// The process, its children, theirs, and so on, by one reading of /proc.
fn descendants(pid: u32) -> Result<BTreeSet<u32>, String> {
    let entries = fs::read_dir("/proc").map_err(|error| format!("/proc: {error}"))?;
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in entries.map_while(Result::ok) {
        let child: Option<u32> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(child) = child
            && let Some(parent) = parent(child)
        {
            children.entry(parent).or_default().push(child);
        }
    }
    let mut found = BTreeSet::new();
    let mut left = vec![pid];
    while let Some(pid) = left.pop() {
        if found.insert(pid) {
            left.extend(children.get(&pid).into_iter().flatten());
        }
    }
    Ok(found)
}

/// The fourth field; the second may hold blanks and `)`, so that the last `)` ends it.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn same_namespace(pid: u32) -> Result<(), String> {
    if shares_network(pid)? {
        return Ok(());
    }
    Err(format!(
        "process {pid} runs in another network namespace: share it with `network_mode: \"service:…\"`"
    ))
}

/// Whether this process runs in this thread's network namespace.
///
/// # Errors
/// In words, with the cure, if that is not to be seen.
pub fn shares_network(pid: u32) -> Result<bool, String> {
    let namespace = |of: &str| {
        let path = format!("/proc/{of}/ns/net");
        match fs::metadata(&path) {
            Ok(meta) => Ok((meta.dev(), meta.ino())),
            Err(error) if ended(&error) => Err(format!("process {of} has ended")),
            Err(error) => Err(unreadable(&path, &error)),
        }
    };
    Ok(namespace(&pid.to_string())? == namespace("thread-self")?)
}

fn ended(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::SRCH))
}

fn unreadable(path: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{path} may not be read: run the node as that process's user, or give it CAP_SYS_PTRACE")
        }
        _ => format!("{path}: {error}"),
    }
}
