//! The kernel's own view of TCP sockets (`ss -ti`), by netlink's `sock_diag`: what an application cannot hide, read
//! without privilege and without asking it. A leaf. It sees only this process's network namespace.
//!
//! - [`dump`] lists sockets; the kernel filters, so that the cost is that of what is asked for.
//! - [`Whose`] and [`sockets_of`] tell one owner's sockets from those of its neighbours; a [`Lookout`] does it again
//!   and again, at the cost of a dump, which [`Rounds`] share.
//! - [`destroy`] ends exactly one connection, told by its cookie.
//!
//! A dump is no snapshot: the kernel walks its table in pieces, and a socket can be left out when another one of
//! the same hash bucket ends between two pieces. So absence from a single dump proves nothing.

mod call;
mod lookout;
mod round;
#[cfg(test)]
mod tests;
mod whose;
pub(crate) mod wire;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use call::{can_destroy, count, destroy, dump, dump_within, own_cookie};
pub use lookout::Lookout;
pub use round::Rounds;
pub use whose::{Whose, cgroup_of, shares_network, sockets_of};

/// Most sockets that one [`dump`] keeps (about 3 MB); what is beyond is counted out by [`Dump::truncated`].
pub const MAX_SOCKETS: usize = 20_000;

/// What the kernel calls a socket for as long as the machine runs: never given to another one. The same number as
/// `SO_COOKIE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie(pub u64);

/// Which table of the kernel a socket is in. A dual-stack server's sockets are `V6` also where their addresses
/// are IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

/// One connection, by everything that the kernel needs to find it again. Compare [`SocketId::cookie`] to know
/// whether two are the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId {
    /// The kernel's table.
    pub family: Family,
    /// Our end. IPv4 in IPv6 (`::ffff:127.0.0.1`) is written as IPv4, as Redis writes it in `CLIENT LIST`.
    pub local: SocketAddr,
    /// The other end; port 0 while listening.
    pub remote: SocketAddr,
    /// The interface it is bound to; 0: to none.
    pub interface: u32,
    /// Which one it is, for ever.
    pub cookie: Cookie,
}

/// A TCP socket's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Open in both directions.
    Established,
    /// Connecting.
    SynSent,
    /// Being connected to.
    SynRecv,
    /// We closed, the end is not acknowledged.
    FinWait1,
    /// We closed, the other end has not.
    FinWait2,
    /// Over; kept against stray packets.
    TimeWait,
    /// Not connected.
    Close,
    /// The other end closed, the application has not.
    CloseWait,
    /// Both closed, ours is not acknowledged.
    LastAck,
    /// Waiting for connections.
    Listen,
    /// Both closed at once.
    Closing,
}

/// A set of [`State`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States(u32);

/// One TCP socket, as it was when the kernel came by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Which.
    pub id: SocketId,
    /// Its state.
    pub state: State,
    /// Bytes that arrived and were not read by the application (while listening: connections not yet accepted).
    /// A FIN that was not read counts as one byte more.
    pub recv_q: u32,
    /// Bytes that were written and are not acknowledged (while listening: the bound of `recv_q`).
    pub send_q: u32,
    /// Effective user at the time it was made.
    pub uid: u32,
    /// As in `socket:[…]` under `/proc/<pid>/fd`; 0: no process holds it (closed, or not yet accepted).
    pub inode: u32,
    /// Id of the cgroup (version 2) of the process that made it, at that time; of an accepted one, that of its
    /// listener. `None`: a kernel before 5.9 or without cgroups.
    pub cgroup: Option<u64>,
    /// What TCP counts; `None` where there is no more than an address (`TIME_WAIT`, `SYN_RECV`).
    pub tcp: Option<Tcp>,
}

/// What `TCP_INFO` says of a connection, as far as it tells life from silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Time since data last arrived, to the millisecond (kernel ticks: 1 to 10 ms); since the connection was made
    /// if none ever did. A bare acknowledgement or a keepalive is not data.
    pub last_data_recv: Duration,
    /// Bytes received in order, since the connection was made (Linux 4.1).
    pub bytes_received: u64,
    /// Bytes of ours that the other end acknowledged (Linux 4.1).
    pub bytes_acked: u64,
}

/// Which sockets to list. Everything in it is asked of the kernel, so that only what matches crosses over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// In one of these states.
    pub states: States,
    /// Whose other end is one of these; empty: any. Addresses in IPv6 also match as IPv4.
    pub remote: Vec<Endpoint>,
    /// Whose own end is one of these; empty: any.
    pub local: Vec<Endpoint>,
}

/// An address, a port, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `None`: any address.
    pub ip: Option<IpAddr>,
    /// `None`: any port.
    pub port: Option<u16>,
}

/// What was listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// IPv4 first; no cookie twice.
    pub sockets: Vec<Socket>,
    /// There were more than [`MAX_SOCKETS`]: absence from the list proves nothing.
    pub truncated: bool,
    /// Those that were left out because they are somebody else's, as far as they are ESTABLISHED.
    pub others: BTreeSet<Cookie>,
}

/// What came of [`destroy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destroyed {
    /// The connection was reset: its owner reads ECONNABORTED, the other end gets a RST if it can be reached.
    Yes,
    /// No such socket any more. Nothing was touched, a later connection with the same addresses included: the
    /// kernel compares the cookie.
    Gone,
}

/// Why the kernel did not answer, or could not be asked. Always `unknown`, never a verdict.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The call failed.
    #[error("{}{}", self.reason(), self.cure().map(|cure| format!(" ({cure})")).unwrap_or_default())]
    Call {
        /// "open a socket", "list TCP sockets", …
        doing: &'static str,
        /// What the kernel said.
        error: std::io::Error,
    },
    /// What came back was no answer to what was asked.
    #[error("the kernel's sock_diag answer cannot be read: {0}")]
    Malformed(String),
    /// The table changed under the walk, each time that it was tried.
    #[error("the kernel's table of sockets changed while it was read, {0} times over")]
    Interrupted(u32),
    /// No answer in time.
    #[error("the kernel's table of sockets was not read within {0:?}")]
    TimedOut(Duration),
}

impl Socket {
    /// Bytes that the application has read so far: what arrived, without what still waits. It never falls; while
    /// it stands still and [`Socket::recv_q`] is not 0, nobody reads. `None` where TCP counts nothing.
    pub fn read_so_far(&self) -> Option<u64> {
        let tcp = self.tcp?;
        Some(tcp.bytes_received.saturating_sub(u64::from(self.recv_q)))
    }
}

impl State {
    /// Every state, beside its number in the kernel (`TCP_ESTABLISHED` …).
    const NUMBERS: [(u8, Self); 12] = [
        (1, Self::Established),
        (2, Self::SynSent),
        (3, Self::SynRecv),
        (4, Self::FinWait1),
        (5, Self::FinWait2),
        (6, Self::TimeWait),
        (7, Self::Close),
        (8, Self::CloseWait),
        (9, Self::LastAck),
        (10, Self::Listen),
        (11, Self::Closing),
        // TCP_NEW_SYN_RECV
        (12, Self::SynRecv),
    ];

    fn from_number(number: u8) -> Option<Self> {
        let found = Self::NUMBERS.into_iter().find(|&(n, _)| n == number);
        found.map(|(_, state)| state)
    }

    fn bits(self) -> u32 {
        let numbers = Self::NUMBERS.into_iter().filter(|&(_, state)| state == self);
        numbers.fold(0, |bits, (number, _)| bits | 1 << number)
    }
}

impl<const N: usize> From<[State; N]> for States {
    fn from(states: [State; N]) -> Self {
        Self(states.into_iter().fold(0, |bits, state| bits | state.bits()))
    }
}

impl States {
    /// Every state.
    pub fn all() -> Self {
        Self(
            State::NUMBERS
                .into_iter()
                .fold(0, |bits, (number, _)| bits | 1 << number),
        )
    }

    /// True if the state is one of these.
    pub fn contains(self, state: State) -> bool {
        self.0 & state.bits() != 0
    }
}

impl Filter {
    /// ESTABLISHED, towards one of these. No endpoint: towards anybody.
    pub fn established_to(remote: Vec<Endpoint>) -> Self {
        Self {
            states: [State::Established].into(),
            remote,
            local: Vec::new(),
        }
    }

    /// ESTABLISHED, accepted on (or made from) one of these local ports.
    pub fn established_on(ports: &[u16]) -> Self {
        Self {
            states: [State::Established].into(),
            remote: Vec::new(),
            local: ports.iter().copied().map(Endpoint::port).collect(),
        }
    }

    /// LISTEN on this port, on whatever address.
    pub fn listening(port: u16) -> Self {
        Self::listening_at(Endpoint::port(port))
    }

    /// Whoever listens there.
    pub fn listening_at(end: Endpoint) -> Self {
        Self {
            states: [State::Listen].into(),
            remote: Vec::new(),
            local: vec![end],
        }
    }

    /// Whether a socket is one of those asked for.
    pub fn matches(&self, socket: &Socket) -> bool {
        let any = |of: &[Endpoint], address| of.is_empty() || of.iter().any(|end| end.matches(address));
        self.states.contains(socket.state)
            && any(&self.remote, socket.id.remote)
            && any(&self.local, socket.id.local)
    }
}

impl Endpoint {
    /// This port, whatever the address.
    pub const fn port(port: u16) -> Self {
        Self {
            ip: None,
            port: Some(port),
        }
    }

    /// For people: `port 9080`, or the address with the port.
    pub fn in_words(self) -> String {
        match (self.ip, self.port) {
            (None, Some(port)) => format!("port {port}"),
            _ => self.to_string(),
        }
    }

    /// Whether an address is this one.
    pub fn matches(self, address: SocketAddr) -> bool {
        self.ip
            .is_none_or(|ip| ip.to_canonical() == address.ip().to_canonical())
            && self.port.is_none_or(|port| port == address.port())
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self {
            ip: Some(address.ip()),
            port: Some(address.port()),
        }
    }
}

impl fmt::Display for Endpoint {
    /// `10.0.0.5:5432`, `[fd00::5]:5432`, `*:5432`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ip, self.port) {
            (Some(ip), Some(port)) => write!(f, "{}", SocketAddr::new(ip, port)),
            (Some(ip), None) => write!(f, "{ip}"),
            (None, Some(port)) => write!(f, "*:{port}"),
            (None, None) => f.write_str("*"),
        }
    }
}

impl fmt::Display for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Display for SocketId {
    /// `127.0.0.1:40112 -> 127.0.0.1:6379`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.local, self.remote)
    }
}

impl Error {
    /// What went wrong, without what to do about it.
    pub fn reason(&self) -> String {
        match self {
            Self::Call { doing, error } => format!("cannot {doing} by netlink sock_diag: {error}"),
            Self::Malformed(_) | Self::Interrupted(_) | Self::TimedOut(_) => self.to_string(),
        }
    }

    /// What to do about it, where that is known.
    pub fn cure(&self) -> Option<&'static str> {
        use rustix::io::Errno;
        let Self::Call { error, .. } = self else {
            return None;
        };
        Some(match Errno::from_io_error(error)? {
            Errno::AFNOSUPPORT => "allow AF_NETLINK, in RestrictAddressFamilies= or in the seccomp profile",
            Errno::PROTONOSUPPORT => "use a kernel with CONFIG_INET_DIAG",
            Errno::NOENT => "load the kernel's tcp_diag: `modprobe tcp_diag` on the host",
            Errno::OPNOTSUPP => "use a kernel with CONFIG_INET_DIAG_DESTROY",
            Errno::PERM | Errno::ACCESS => {
                "give it CAP_NET_ADMIN in this network namespace: in a container `cap_add: [NET_ADMIN]` and \
                 `user: root`, since other users do not get what is added; or its seccomp profile forbids netlink"
            }
            _ => return None,
        })
    }
}
