//! Requests and answers as bytes. The crates know the messages; the filter program (`INET_DIAG_REQ_BYTECODE`) and
//! the cgroup id are not in them.
//!
//! The program is a list of conditions, each with two jumps, counted in bytes from itself (linux/inet_diag.h;
//! `inet_diag_bc_run` runs it, `inet_diag_bc_audit` refuses a wrong one). One that ends exactly at the end of the
//! program has matched, one that jumps four bytes past it has not. A condition's jump on success is a single byte,
//! so that a long list needs a jump of its own behind each condition, as `ss` does it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroI32;
use std::time::Duration;

use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable, Nla as _,
};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{self, ExtensionFlags, InetRequest, InetResponse, StateFlags};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, SOCK_DESTROY, SOCK_DIAG_BY_FAMILY, SockDiagMessage,
};

use super::{Cookie, Endpoint, Family, Filter, Socket, SocketId, State, States, Tcp};

/// Attribute of a request: the program.
const INET_DIAG_REQ_BYTECODE: u16 = 1;
/// Attribute of an answer: the cgroup's id.
const INET_DIAG_CGROUP_ID: u16 = 21;
const INET_DIAG_BC_JMP: u8 = 1;
const INET_DIAG_BC_S_COND: u8 = 7;
const INET_DIAG_BC_D_COND: u8 = 8;
/// Length of an operation without what follows it.
const OP: usize = 4;
/// Beyond this many conditions nothing is filtered in the kernel: its jumps are 16 bits wide.
const MAX_CONDITIONS: usize = 256;

/// A request, ready to be sent.
pub(super) fn dump_request(family: Family, filter: &Filter, sequence: u32) -> Vec<u8> {
    let inet = InetRequest {
        family: number(family),
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::INFO,
        states: state_flags(filter.states),
        socket_id: any_socket(family),
    };
    let program = program(filter);
    request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, inet, program, sequence)
}

/// Asks for the end of exactly this connection.
pub(super) fn destroy_request(id: &SocketId, sequence: u32) -> Vec<u8> {
    let address = |address: SocketAddr| match (id.family, address.ip()) {
        (Family::V6, IpAddr::V4(ip)) => IpAddr::V6(ip.to_ipv6_mapped()),
        (_, ip) => ip,
    };
    let socket_id = inet::SocketId {
        source_port: id.local.port(),
        destination_port: id.remote.port(),
        source_address: address(id.local),
        destination_address: address(id.remote),
        interface_id: id.interface,
        cookie: cookie_bytes(id.cookie),
    };
    let inet = InetRequest {
        family: number(id.family),
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: state_flags(States::all()),
        socket_id,
    };
    request(SOCK_DESTROY, NLM_F_ACK, inet, Vec::new(), sequence)
}

/// What a datagram of the kernel's answer holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) sockets: Vec<Socket>,
    /// The answer is complete. `Some(Err)`: by an error number of the kernel.
    pub(crate) end: Option<Result<(), NonZeroI32>>,
    /// The table changed under the kernel's walk.
    pub(crate) interrupted: bool,
}

/// Reads one datagram. Messages that answer another request are left out.
///
/// # Errors
/// In words: what cannot be read.
pub(crate) fn read(mut bytes: &[u8], sequence: u32) -> Result<Piece, String> {
    let mut piece = Piece::default();
    while !bytes.is_empty() && piece.end.is_none() {
        let message =
            NetlinkMessage::<SockDiagMessage>::deserialize(bytes).map_err(|error| format!("{error}"))?;
        let length = usize::try_from(message.header.length).map_err(|error| format!("{error}"))?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        if message.header.sequence_number != sequence {
            continue;
        }
        piece.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(answer)) => {
                piece.sockets.push(socket(*answer)?);
            }
            NetlinkPayload::Done(done) => piece.end = Some(NonZeroI32::new(done.code).map_or(Ok(()), Err)),
            NetlinkPayload::Error(error) => piece.end = Some(error.code.map_or(Ok(()), Err)),
            NetlinkPayload::Overrun(_) => return Err("the kernel says that answers were lost".into()),
            _ => {}
        }
    }
    Ok(piece)
}

fn socket(answer: InetResponse) -> Result<Socket, String> {
    let header = answer.header;
    let family = match header.family {
        AF_INET => Family::V4,
        AF_INET6 => Family::V6,
        other => return Err(format!("address family {other}")),
    };
    let end = |ip: IpAddr, port| SocketAddr::new(ip.to_canonical(), port);
    let id = header.socket_id;
    let (mut cgroup, mut tcp) = (None, None);
    for attribute in answer.nlas {
        match attribute {
            Nla::TcpInfo(info) => tcp = tcp_info(&info),
            Nla::Other(other) if other.kind() == INET_DIAG_CGROUP_ID => cgroup = u64_of(&other),
            _ => {}
        }
    }
    Ok(Socket {
        id: SocketId {
            family,
            local: end(id.source_address, id.source_port),
            remote: end(id.destination_address, id.destination_port),
            interface: id.interface_id,
            cookie: cookie(id.cookie),
        },
        state: State::from_number(header.state).ok_or_else(|| format!("TCP state {}", header.state))?,
        recv_q: header.recv_queue,
        send_q: header.send_queue,
        uid: header.uid,
        inode: header.inode,
        cgroup,
        tcp,
    })
}

/// `struct tcp_info` grows at its end with each kernel and never moves a field. `None`: older than Linux 4.1.
fn tcp_info(info: &[u8]) -> Option<Tcp> {
    let word = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    Some(Tcp {
        last_data_recv: Duration::from_millis(word(52)?.into()),
        bytes_acked: long(120)?,
        bytes_received: long(128)?,
    })
}

fn u64_of(attribute: &DefaultNla) -> Option<u64> {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    Some(u64::from_ne_bytes(value.try_into().ok()?))
}

/// Two words, the low one first, each in the machine's own order.
fn cookie(bytes: [u8; 8]) -> Cookie {
    Cookie(low_first(u64::from_ne_bytes(bytes)))
}

fn cookie_bytes(cookie: Cookie) -> [u8; 8] {
    low_first(cookie.0).to_ne_bytes()
}

const fn low_first(number: u64) -> u64 {
    if cfg!(target_endian = "big") {
        number.rotate_left(32)
    } else {
        number
    }
}

const fn number(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

fn state_flags(states: States) -> StateFlags {
    StateFlags::from_bits_retain(states.0)
}

fn any_socket(family: Family) -> inet::SocketId {
    match family {
        Family::V4 => inet::SocketId::new_v4(),
        Family::V6 => inet::SocketId::new_v6(),
    }
}

/// The message and the attribute behind it.
struct Request {
    kind: u16,
    inet: InetRequest,
    program: Option<DefaultNla>,
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.inet.buffer_len() + self.program.as_ref().map_or(0, Emitable::buffer_len)
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (inet, rest) = buffer.split_at_mut(self.inet.buffer_len());
        self.inet.emit(inet);
        if let Some(program) = &self.program {
            program.emit(rest);
        }
    }
}

fn request(kind: u16, flags: u16, inet: InetRequest, program: Vec<u8>, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let program = (!program.is_empty()).then(|| DefaultNla::new(INET_DIAG_REQ_BYTECODE, program));
    let request = Request { kind, inet, program };
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// "(one of `local`) and (one of `remote`)"; empty when every socket matches.
fn program(filter: &Filter) -> Vec<u8> {
    if filter.local.len() + filter.remote.len() > MAX_CONDITIONS {
        return Vec::new();
    }
    let remote = one_of(INET_DIAG_BC_D_COND, &filter.remote, 0);
    let mut program = one_of(INET_DIAG_BC_S_COND, &filter.local, remote.len());
    program.extend(remote);
    program
}

/// Goes on behind itself if one of the conditions holds, else past the end of the program, of which `behind` bytes
/// follow.
fn one_of(code: u8, ends: &[Endpoint], behind: usize) -> Vec<u8> {
    let conditions: Vec<Vec<u8>> = ends.iter().map(|&end| condition(end)).collect();
    let mut left: usize = conditions.iter().map(|c| OP + c.len()).sum();
    // A jump behind each but the last.
    left += conditions.len().saturating_sub(1) * OP;
    let mut program = Vec::with_capacity(left);
    for (index, condition) in conditions.iter().enumerate() {
        let length = OP + condition.len();
        let last = index + 1 == conditions.len();
        let otherwise = if last { left + behind + OP } else { length + OP };
        program.extend(operation(code, length, otherwise));
        program.extend_from_slice(condition);
        left -= length;
        if !last {
            program.extend(operation(INET_DIAG_BC_JMP, OP, left));
            left -= OP;
        }
    }
    program
}

/// `struct inet_diag_bc_op`. Everything fits: a condition has 28 bytes at most, and there are [`MAX_CONDITIONS`].
fn operation(code: u8, yes: usize, no: usize) -> [u8; OP] {
    let [low, high] = u16::try_from(no).unwrap_or_default().to_ne_bytes();
    [code, u8::try_from(yes).unwrap_or_default(), low, high]
}

/// `struct inet_diag_hostcond`.
fn condition(end: Endpoint) -> Vec<u8> {
    const AF_UNSPEC: u8 = 0;
    let (family, address) = match end.ip.map(|ip| ip.to_canonical()) {
        None => (AF_UNSPEC, Vec::new()),
        Some(IpAddr::V4(ip)) => (AF_INET, ip.octets().to_vec()),
        Some(IpAddr::V6(ip)) => (AF_INET6, Ipv6Addr::octets(&ip).to_vec()),
    };
    let prefix = u8::try_from(address.len() * 8).unwrap_or_default();
    let port = end.port.map_or(-1, i32::from);
    let mut bytes = vec![family, prefix, 0, 0];
    bytes.extend(port.to_ne_bytes());
    bytes.extend(address);
    bytes
}
