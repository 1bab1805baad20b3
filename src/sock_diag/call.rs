//! Asking the kernel. It answers within the call itself, so that nothing here waits for anybody; what it costs is
//! time of our own (a walk through its table), which is why [`dump_within`] takes a thread.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroI32;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::wire::{self, Piece};
use super::{Cookie, Destroyed, Dump, Error, Family, Filter, MAX_SOCKETS, Socket};

/// The kernel fills as much of it as it can at a time; more than 32 KiB it never does.
const BUFFER: usize = 32 * 1024;
/// Bound on the wait for a piece of an answer that is always there at once.
const PATIENCE: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};
/// Most pieces of one answer: a hundred sockets and more fit into each.
const MAX_PIECES: u32 = 100_000;
/// How often a walk that the kernel calls interrupted is begun again.
const TRIES: u32 = 3;
/// Of the first question on a socket.
const SEQUENCE: u32 = 1;
const DUMPING: &str = "list TCP sockets";

/// Lists the sockets that the filter asks for, IPv4 and IPv6. Blocking: 0.1 ms for a few, some ms where there are
/// thousands (see `docs/measurements.md`).
///
/// # Errors
/// See [`Error`]; none of them says anything about any socket.
pub fn dump(filter: &Filter) -> Result<Dump, Error> {
    again(|| {
        let mut dump = Dump::default();
        walk(filter, &mut |socket| {
            if dump.sockets.len() < MAX_SOCKETS {
                dump.sockets.push(socket);
            } else {
                dump.truncated = true;
            }
        })?;
        Ok(dump)
    })
}

/// Counts the sockets that the filter asks for, however many; keeps none.
///
/// # Errors
/// See [`Error`].
pub fn count(filter: &Filter) -> Result<u64, Error> {
    again(|| {
        let mut count = 0;
        walk(filter, &mut |_| count += 1)?;
        Ok(count)
    })
}

/// [`dump`] on a thread of its own, for the event loop's thread.
///
/// # Errors
/// See [`Error`].
pub async fn dump_within(filter: Filter, within: Duration) -> Result<Dump, Error> {
    let walk = tokio::task::spawn_blocking(move || dump(&filter));
    match tokio::time::timeout(within, walk).await {
        Ok(Ok(dumped)) => dumped,
        Ok(Err(error)) => Err(failed(DUMPING)(io::Error::other(error))),
        Err(_) => Err(Error::TimedOut(within)),
    }
}

/// Resets exactly this connection (`SOCK_DESTROY`). The kernel compares the cookie, so that a later connection
/// with the same addresses is never hit, however much time has passed since it was listed.
///
/// # Errors
/// [`Error::Call`] with EPERM without CAP_NET_ADMIN, with EOPNOTSUPP on a kernel without INET_DIAG_DESTROY.
pub fn destroy(id: &super::SocketId) -> Result<Destroyed, Error> {
    const DOING: &str = "reset a connection";
    let netlink = open(DOING)?;
    ask(&netlink, &wire::destroy_request(id, SEQUENCE), DOING)?;
    let mut buffer = vec![0; BUFFER];
    for _ in 0..MAX_PIECES {
        return match next(&netlink, &mut buffer, SEQUENCE, DOING)?.end {
            None => continue,
            Some(Ok(())) => Ok(Destroyed::Yes),
            Some(Err(number)) => match errno(number) {
                error if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(Destroyed::Gone),
                error => Err(failed(DOING)(error)),
            },
        };
    }
    Err(Error::Malformed("no acknowledgement among many answers".into()))
}

/// Whether [`destroy`] would work: tried on a connection of our own, made for it on the loopback interface.
/// Blocking, for less than a millisecond.
///
/// # Errors
/// What is missing, with its cure.
pub fn can_destroy() -> Result<(), Error> {
    let doing = "make a connection of our own to try a reset on";
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed(doing))?;
    let address = listener.local_addr().map_err(failed(doing))?;
    let client = TcpStream::connect(address).map_err(failed(doing))?;
    let own = find(&client, address)?;
    match destroy(&own.id)? {
        Destroyed::Yes => Ok(()),
        Destroyed::Gone => Err(Error::Malformed(
            "a connection of our own was listed and is not there".into(),
        )),
    }
}

/// A socket of our own, as the kernel lists it.
fn find(own: &TcpStream, to: SocketAddr) -> Result<Socket, Error> {
    let cookie = own_cookie(own).map_err(failed("read the cookie of a socket"))?;
    let listed = dump(&Filter::established_to(vec![to.into()]))?.sockets;
    let found = listed.into_iter().find(|socket| socket.id.cookie == cookie);
    found.ok_or_else(|| Error::Malformed("a connection of our own is not listed".into()))
}

/// The cookie of one of our own sockets, by which it is found in a dump.
///
/// # Errors
/// Those of `getsockopt(SO_COOKIE)`.
pub fn own_cookie(socket: impl AsFd) -> io::Result<Cookie> {
    Ok(Cookie(sockopt::socket_cookie(socket)?))
}

fn again<T>(mut try_once: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    for _ in 1..TRIES {
        match try_once() {
            Err(Error::Interrupted(_)) => {}
            ended => return ended,
        }
    }
    try_once()
}

fn walk(filter: &Filter, each: &mut impl FnMut(Socket)) -> Result<(), Error> {
    let netlink = open(DUMPING)?;
    let mut buffer = vec![0; BUFFER];
    for (sequence, family) in (SEQUENCE..).zip([Family::V4, Family::V6]) {
        ask(&netlink, &wire::dump_request(family, filter, sequence), DUMPING)?;
        read_all(&netlink, &mut buffer, sequence, filter, each)?;
    }
    Ok(())
}

fn read_all(
    netlink: &OwnedFd,
    buffer: &mut [u8],
    sequence: u32,
    filter: &Filter,
    each: &mut impl FnMut(Socket),
) -> Result<(), Error> {
    let mut before = None;
    for _ in 0..MAX_PIECES {
        let piece = next(netlink, buffer, sequence, DUMPING)?;
        if piece.interrupted {
            return Err(Error::Interrupted(TRIES));
        }
        for socket in piece.sockets {
            // The kernel filtered already; a socket may have moved on in between. Where a walk is taken up again,
            // the last one may be told twice.
            let twice = before.replace(socket.id.cookie) == Some(socket.id.cookie);
            if !twice && filter.matches(&socket) {
                each(socket);
            }
        }
        match piece.end {
            None => {}
            Some(Ok(())) => return Ok(()),
            Some(Err(number)) => return Err(failed(DUMPING)(errno(number))),
        }
    }
    Err(Error::Malformed(format!("no end after {MAX_PIECES} pieces")))
}

fn open(doing: &'static str) -> Result<OwnedFd, Error> {
    rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )
    .map_err(|error| failed(doing)(error.into()))
}

/// Without an address it goes to the kernel.
fn ask(netlink: &OwnedFd, request: &[u8], doing: &'static str) -> Result<(), Error> {
    let sent = rustix::net::send(netlink, request, SendFlags::empty());
    sent.map(drop).map_err(|error| failed(doing)(error.into()))
}

/// The next piece of the answer that comes from the kernel itself.
fn next(netlink: &OwnedFd, buffer: &mut [u8], sequence: u32, doing: &'static str) -> Result<Piece, Error> {
    loop {
        // The kernel has answered before `send` returns.
        let received = rustix::net::recvfrom(netlink, &mut *buffer, RecvFlags::TRUNC | RecvFlags::DONTWAIT);
        let (_, length, from) = match received {
            Err(Errno::AGAIN) => {
                wait(netlink, doing)?;
                continue;
            }
            Err(Errno::INTR) => continue,
            received => received.map_err(|error| failed(doing)(error.into()))?,
        };
        let sender = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
        if sender.is_none_or(|sender| sender.pid() != 0) {
            continue;
        }
        let bytes = buffer
            .get(..length)
            .ok_or_else(|| Error::Malformed(format!("{length} bytes in one piece")))?;
        return wire::read(bytes, sequence).map_err(Error::Malformed);
    }
}

/// Until there is something to read.
fn wait(netlink: &OwnedFd, doing: &'static str) -> Result<(), Error> {
    let mut fds = [PollFd::new(netlink, PollFlags::IN)];
    match poll(&mut fds, Some(&PATIENCE)) {
        Ok(0) => Err(failed(doing)(io::ErrorKind::TimedOut.into())),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(failed(doing)(error.into())),
    }
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::Call { doing, error }
}

/// Netlink tells error numbers below zero.
fn errno(number: NonZeroI32) -> io::Error {
    io::Error::from_raw_os_error(number.get().saturating_neg())
}
