//! Who listens on a port: which of several processes is the server, and whether they are of one server at all.
//! Blocking: it walks through /proc.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::process::{Stat, Unfound, pids};
use crate::sock_diag::Endpoint;

/// The oldest of those that hold a LISTEN socket there: of a pre-fork server that is the parent. systemd
/// keeps a copy of the sockets it activates; it is never the owner.
///
/// # Errors
/// If there is none, or it cannot be seen; or if there are several of which none can be told to be meant.
pub(super) fn find(end: Endpoint) -> Result<u32, Unfound> {
    let sockets = listening(end)?;
    let end = end.in_words();
    let Some(first) = sockets.first() else {
        return Err(format!("no process listens on {end}").into());
    };
    let (mut holders, mut systemd, mut hidden) = (Vec::new(), false, false);
    for pid in pids()? {
        match held(pid, &sockets) {
            Ok(held) if held.is_empty() => {}
            Ok(_) if is_systemd(pid) => systemd = true,
            Ok(held) => holders.extend(Stat::read(pid).ok().map(|stat| Holder { pid, stat, held })),
            Err(error) => hidden |= error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    match oldest(holders) {
        Some((pid, None)) => Ok(pid),
        Some((pid, Some(other))) => Err(format!(
            "processes {pid} and {other} listen on {end}, and have nothing to do with each other: find the one that is \
             meant by its address (listens = \"ADDRESS:PORT\"), pid_file or command"
        )
        .into()),
        None if systemd => {
            Err(format!("only systemd holds {end}: the service it activates does not run").into())
        }
        None if hidden => Err(Unfound::blind(
            format!(
                "{end} is held by uid {}, whose open files this node may not read",
                first.uid
            ),
            "run it as that user or give it CAP_SYS_PTRACE",
        )),
        None => Err(Unfound::blind(
            format!("{end} is held by no process that can be seen here"),
            "share its pid namespace",
        )),
    }
}

/// Who holds sockets that listen on the port.
struct Holder {
    pid: u32,
    stat: Stat,
    held: Vec<Socket>,
}

/// The oldest of them: the parent of a pre-fork server. Beside it one that is none of the same server's, if there is.
fn oldest(mut holders: Vec<Holder>) -> Option<(u32, Option<u32>)> {
    holders.sort_by_key(|holder| (holder.stat.start, holder.pid));
    let mut others = holders.into_iter();
    let first = others.next()?;
    let pid = first.pid;
    let (mut server, mut left) = (vec![first], others.collect::<Vec<_>>());
    // Whoever belongs to one that belongs to it, belongs to it.
    while let Some(next) = left
        .iter()
        .position(|one| server.iter().any(|other| one.belongs_to(other)))
    {
        server.push(left.remove(next));
    }
    Some((pid, left.first().map(|other| other.pid)))
}

impl Holder {
    /// They share a socket; or one descends from the other; or they are children of the same process and listen on the
    /// same address (SO_REUSEPORT).
    fn belongs_to(&self, other: &Self) -> bool {
        let shares = |same: fn(&Socket, &Socket) -> bool| {
            let mut pairs = self
                .held
                .iter()
                .flat_map(|a| other.held.iter().map(move |b| (a, b)));
            pairs.any(|(a, b)| same(a, b))
        };
        shares(|a, b| a.inode == b.inode)
            || self.descends_from(other.pid)
            || other.descends_from(self.pid)
            || (self.stat.parent == other.stat.parent && shares(|a, b| a.address == b.address))
    }

    fn descends_from(&self, ancestor: u32) -> bool {
        const DEEPEST: usize = 64;
        let up = |pid: &u32| Stat::read(*pid).ok().map(|stat| stat.parent);
        std::iter::successors(Some(self.stat.parent), up)
            .take(DEEPEST)
            .any(|pid| pid == ancestor)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    inode: u64,
    /// Its own end, as the kernel writes it.
    address: String,
    uid: u32,
}

/// LISTEN sockets there in our own network namespace.
fn listening(end: Endpoint) -> Result<Vec<Socket>, String> {
    let mut sockets = Vec::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let table = match fs::File::open(path) {
            Ok(file) => BufReader::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("cannot read {path}: {error}")),
        };
        let lines = table.lines().map_while(Result::ok);
        sockets.extend(lines.filter_map(|line| listener(&line, end)));
    }
    Ok(sockets)
}

pub(super) fn listener(line: &str, end: Endpoint) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let address = fields.next()?;
    let state = fields.nth(1)?;
    if state != "0A" || !end.matches(local(address)?) {
        return None;
    }
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(Socket {
        inode,
        address: address.to_owned(),
        uid,
    })
}

/// An address as the kernel writes it there: words of 32 bits, each as a number.
fn local(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok();
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?.to_ne_bytes()).into(),
        32 => {
            let mut bytes = [0; 16];
            for (at, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?.to_ne_bytes());
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// Whether this process holds a socket that listens there.
pub(super) fn holds(pid: u32, end: Endpoint) -> bool {
    listening(end).is_ok_and(|sockets| held(pid, &sockets).is_ok_and(|held| !held.is_empty()))
}

/// Those of the sockets that the process holds.
fn held(pid: u32, sockets: &[Socket]) -> io::Result<Vec<Socket>> {
    let wanted = |link: &Path| {
        let inode = link
            .to_str()
            .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'))?;
        sockets
            .iter()
            .find(|socket| inode.parse() == Ok(socket.inode))
            .cloned()
    };
    let mut held = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // Reading the links needs the same permission as the directory; a descriptor closed meanwhile is none.
        match fs::read_link(entry?.path()) {
            Ok(link) => held.extend(wanted(&link)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            Err(_) => {}
        }
    }
    Ok(held)
}

fn is_systemd(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_ascii_end() == b"systemd")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_told_from_a_connection() {
        let line = |state: &str| {
            format!(
                "  0: 0100007F:1F90 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 637 1 0 100 0 0 10 0"
            )
        };
        assert_eq!(
            listener(&line("0A"), Endpoint::port(8080)),
            Some(Socket {
                inode: 637,
                address: "0100007F:1F90".to_owned(),
                uid: 1000
            })
        );
        assert_eq!(listener(&line("01"), Endpoint::port(8080)), None);
        assert_eq!(listener(&line("0A"), Endpoint::port(80)), None);
        let at = |address: &str| Endpoint::from(address.parse::<SocketAddr>().unwrap());
        assert!(listener(&line("0A"), at("127.0.0.1:8080")).is_some());
        assert_eq!(listener(&line("0A"), at("0.0.0.0:8080")), None);
        let six = "  0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 0:0 0 33 0 9 1 0";
        assert!(listener(six, at("[::1]:8080")).is_some());
        assert_eq!(listener(six, at("[::]:8080")), None);
        let found = listener(six, Endpoint::port(8080)).unwrap();
        assert_eq!((found.inode, found.uid), (9, 33));
    }
}
