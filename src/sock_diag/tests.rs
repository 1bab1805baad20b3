//! Against the running kernel, on sockets of the test's own. Every dump is filtered by a port that only this test
//! has, so that neighbours do not matter.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use proptest::prelude::*;

use super::*;
use crate::sock_diag::wire;

/// A listener and one connection to it.
struct Pair {
    listener: TcpListener,
    near: TcpStream,
    far: TcpStream,
}

impl Pair {
    fn on(address: impl Into<IpAddr>) -> Self {
        let listener = TcpListener::bind((address.into(), 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = listener.accept().unwrap().0;
        Self { listener, near, far }
    }

    fn server(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// What the kernel says of `near`.
    fn near(&self) -> Socket {
        let cookie = own_cookie(&self.near).unwrap();
        let to = Filter::established_to(vec![self.server().into()]);
        let found = dump(&to).unwrap().sockets;
        found
            .into_iter()
            .find(|socket| socket.id.cookie == cookie)
            .unwrap()
    }
}

fn until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("waited in vain");
}

fn may_destroy() -> bool {
    match can_destroy() {
        Ok(()) => true,
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            false
        }
    }
}

#[test]
fn a_connection_is_told_with_all_that_is_known_of_it() {
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let mut pair = Pair::on(address);
        pair.far.write_all(b"twelve bytes").unwrap();
        until(|| pair.near().recv_q == 12);
        let seen = pair.near();
        assert_eq!(seen.id.local, pair.near.local_addr().unwrap());
        assert_eq!(seen.id.remote, pair.server());
        assert_eq!(seen.id.family == Family::V6, address.is_ipv6());
        assert_eq!(seen.state, State::Established);
        assert_eq!(seen.uid, rustix::process::geteuid().as_raw());
        let fd = rustix::fs::fstat(&pair.near).unwrap();
        assert_eq!(u64::from(seen.inode), fd.st_ino);
        let tcp = seen.tcp.unwrap();
        assert_eq!((tcp.bytes_received, seen.read_so_far()), (12, Some(0)));
        assert!(tcp.last_data_recv < Duration::from_secs(60));

        let mut five = [0; 5];
        pair.near.read_exact(&mut five).unwrap();
        let seen = pair.near();
        assert_eq!((seen.recv_q, seen.read_so_far()), (7, Some(5)));
        pair.near.write_all(b"abc").unwrap();
        until(|| pair.near().tcp.unwrap().bytes_acked >= 3);
    }
}

#[test]
fn ipv4_in_an_ipv6_socket_is_written_and_found_as_ipv4() {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let near = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let far = listener.accept().unwrap().0;
    let from = near.local_addr().unwrap();
    for to in [from.ip(), IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped())] {
        let end = Endpoint {
            ip: Some(to),
            port: Some(from.port()),
        };
        let found = dump(&Filter::established_to(vec![end])).unwrap().sockets;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].id.remote, from);
        assert_eq!(found[0].id.family, Family::V6);
        assert_eq!(found[0].id.cookie, own_cookie(&far).unwrap());
    }
    if may_destroy() {
        let found = dump(&Filter::established_to(vec![from.into()])).unwrap().sockets;
        assert_eq!(destroy(&found[0].id).unwrap(), Destroyed::Yes);
        assert!((&far).read(&mut [0]).is_err());
    }
}

#[test]
fn the_filter_takes_states_both_ends_and_long_lists() {
    let pair = Pair::on(Ipv4Addr::LOCALHOST);
    let other = Pair::on(Ipv4Addr::LOCALHOST);
    let cookies = |filter: &Filter| -> Vec<Cookie> {
        dump(filter)
            .unwrap()
            .sockets
            .iter()
            .map(|socket| socket.id.cookie)
            .collect()
    };
    let [near, far] = [&pair.near, &pair.far].map(|end| own_cookie(end).unwrap());
    let (client, server) = (pair.near.local_addr().unwrap(), pair.server());

    assert_eq!(cookies(&Filter::established_on(&[server.port()])), [far]);
    assert_eq!(cookies(&Filter::established_to(vec![client.into()])), [far]);
    let listening = Filter::listening(server.port());
    assert_eq!(cookies(&listening), [own_cookie(&pair.listener).unwrap()]);
    assert_eq!(count(&listening).unwrap(), 1);
    let mut either = Filter::established_on(&[server.port()]);
    either.states = [State::Listen, State::Established].into();
    assert_eq!(cookies(&either).len(), 2);
    either.states = States::all();
    assert_eq!(cookies(&either).len(), 2);

    // Both ends at once, each one of several, in every order, of both families.
    let never = |port| Endpoint {
        ip: Some(IpAddr::V6(Ipv6Addr::from(0x2001_0db8_u128 << 96))),
        port: Some(port),
    };
    let both = |local: Vec<Endpoint>, remote: Vec<Endpoint>| Filter {
        states: [State::Established].into(),
        local,
        remote,
    };
    for (own, their) in [(client, server), (server, client)] {
        let wanted = if own == client { near } else { far };
        for at in [0, 1, 40] {
            let mut local: Vec<Endpoint> = (1..40).map(never).collect();
            let mut remote: Vec<Endpoint> = (1..40).map(never).collect();
            local.insert(at.min(39), own.into());
            remote.insert(at.min(39), their.into());
            assert_eq!(cookies(&both(local.clone(), remote.clone())), [wanted], "at {at}");
            local.retain(|end| *end != own.into());
            assert_eq!(cookies(&both(local, remote)), []);
        }
    }
    // More than the kernel's program can hold: filtered here instead.
    let mut many: Vec<Endpoint> = (1..500).map(never).collect();
    many.push(server.into());
    assert_eq!(cookies(&both(Vec::new(), many)), [near]);
    drop(other);
}

#[test]
fn a_long_list_comes_in_pieces_and_no_connection_twice() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let ends: Vec<TcpStream> = (0..300)
        .flat_map(|_| {
            let near = TcpStream::connect(address).unwrap();
            [near, listener.accept().unwrap().0]
        })
        .collect();
    let seen = dump(&Filter::established_on(&[address.port()])).unwrap();
    let cookies: std::collections::BTreeSet<_> = seen.sockets.iter().map(|socket| socket.id.cookie).collect();
    assert_eq!(
        (seen.sockets.len(), cookies.len(), seen.truncated),
        (300, 300, false)
    );
    assert_eq!(count(&Filter::established_to(vec![address.into()])).unwrap(), 300);
    drop(ends);
}

#[test]
fn a_reset_ends_one_connection_and_never_a_later_one() {
    if !may_destroy() {
        return;
    }
    let pair = Pair::on(Ipv4Addr::LOCALHOST);
    let second = TcpStream::connect(pair.server()).unwrap();
    let (mut second_far, _) = pair.listener.accept().unwrap();
    let condemned = pair.near().id;
    assert_eq!(destroy(&condemned).unwrap(), Destroyed::Yes);
    let error = (&pair.near).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
    assert_eq!(destroy(&condemned).unwrap(), Destroyed::Gone);

    // Another connection with the very same addresses.
    drop(pair.near);
    drop(pair.far);
    let again = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    again.set_reuse_address(true).unwrap();
    again.bind(&condemned.local.into()).unwrap();
    again.connect(&condemned.remote.into()).unwrap();
    let (mut again_far, from) = pair.listener.accept().unwrap();
    assert_eq!(from, condemned.local);
    assert_eq!(destroy(&condemned).unwrap(), Destroyed::Gone);
    for (far, near) in [(&mut second_far, second), (&mut again_far, again.into())] {
        far.write_all(b"x").unwrap();
        (&near).read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn the_sockets_of_a_process_and_its_children_are_told_from_others() {
    let pair = Pair::on(Ipv4Addr::LOCALHOST);
    let filter = Filter::established_to(vec![pair.server().into()]);
    let near = own_cookie(&pair.near).unwrap();
    let of = |whose: &Whose| sockets_of(whose, dump(&filter).unwrap());
    let ours = of(&Whose::Process(std::process::id())).unwrap().sockets;
    assert_eq!(ours.iter().map(|s| s.id.cookie).collect::<Vec<_>>(), [near]);
    // This process's own are never a peer's.
    assert_eq!(of(&Whose::Namespace).unwrap().sockets, []);

    // A child that inherited the socket, below another one that closed it.
    let fd = rustix::io::dup(&pair.near).unwrap();
    let script = "exec 3<&0 </dev/null; sh -c 'echo; read x <&3' & exec 3<&- >/dev/null; wait";
    let child = std::process::Command::new("sh")
        .args(["-c", script])
        .stdin(std::process::Stdio::from(fd))
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.take().unwrap()),
        &mut String::new(),
    )
    .unwrap();
    let held = of(&Whose::Process(child.id())).unwrap().sockets;
    assert_eq!(held.iter().map(|s| s.id.cookie).collect::<Vec<_>>(), [near]);
    child.kill().unwrap();
    child.wait().unwrap();

    let stranger = std::process::Command::new("sleep").arg("600").spawn();
    let mut stranger = stranger.unwrap();
    assert_eq!(of(&Whose::Process(stranger.id())).unwrap().sockets, []);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(
        of(&Whose::Process(stranger.id()))
            .unwrap_err()
            .contains("has ended")
    );
}

#[tokio::test]
async fn what_was_found_out_twice_is_believed_until_there_is_another_connection() {
    let pair = Pair::on(Ipv4Addr::LOCALHOST);
    let filter = Filter::established_to(vec![pair.server().into()]);
    let of_us = Whose::Process(std::process::id());
    let (mut lookout, rounds) = (Lookout::default(), Rounds::default());
    let mut look = async |whose: &Whose| {
        let look = lookout.look(&rounds, whose.clone(), filter.clone(), Duration::from_secs(60));
        let seen = look.await;
        let cookies = seen.map(|dump| dump.sockets.iter().map(|s| s.id.cookie).collect::<Vec<_>>());
        (cookies, lookout.answers_left())
    };
    let near = own_cookie(&pair.near).unwrap();
    let (seen, left) = look(&of_us).await;
    assert_eq!((seen, left), (Ok(vec![near]), 0));
    let (seen, left) = look(&of_us).await;
    assert_eq!(seen, Ok(vec![near]));
    assert!(left > 0);
    assert_eq!(look(&of_us).await, (Ok(vec![near]), left - 1));

    // A connection that is gone changes nothing for the others; a new one is looked for at once.
    let second = TcpStream::connect(pair.server()).unwrap();
    let mut both = vec![near, own_cookie(&second).unwrap()];
    both.sort_unstable();
    let (seen, left) = look(&of_us).await;
    assert_eq!(left, 0);
    assert_eq!(
        seen.map(|mut seen| {
            seen.sort_unstable();
            seen
        }),
        Ok(both)
    );
    let _ = look(&of_us).await;
    second.shutdown(std::net::Shutdown::Both).unwrap();
    let left = look(&of_us).await.1;
    assert_eq!(look(&of_us).await, (Ok(vec![near]), left - 1));

    // Nothing of it is believed of somebody else.
    assert_eq!(look(&Whose::Namespace).await, (Ok(vec![]), 0));
    for _ in 0..left + 3 {
        assert_eq!(look(&of_us).await.0, Ok(vec![near]));
    }
    // From memory or not, it is told who else is connected.
    let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    for _ in 0..3 {
        let whose = Whose::Process(stranger.id());
        let seen = lookout
            .look(&rounds, whose, filter.clone(), Duration::from_secs(60))
            .await;
        let seen = seen.unwrap();
        assert_eq!((seen.sockets, seen.others), (vec![], [near].into()));
    }
    assert!(lookout.answers_left() > 0);
    stranger.kill().unwrap();
    stranger.wait().unwrap();

    let nobody = Whose::Process(u32::MAX);
    let look = lookout.look(&rounds, nobody, filter, Duration::from_secs(60));
    assert!(look.await.unwrap_err().contains("has ended"));
}

#[test]
fn who_cannot_be_told_apart_is_not_told() {
    let pair = Pair::on(Ipv4Addr::LOCALHOST);
    let filter = Filter::established_to(vec![pair.server().into()]);
    let of = |whose: &Whose| sockets_of(whose, dump(&filter).unwrap());
    // The listener is this very process.
    let refused = of(&Whose::Listener(Endpoint::port(pair.server().port()))).unwrap_err();
    assert!(
        refused.contains("shares its cgroup") || refused.contains("Linux 5.9"),
        "{refused}"
    );
    assert!(
        of(&Whose::Listener(Endpoint::port(1)))
            .unwrap_err()
            .contains("nobody listens on port 1")
    );
    assert_eq!(of(&Whose::Cgroups([u64::MAX].into())).unwrap().sockets, []);
}

#[test]
fn errors_say_what_to_do() {
    let of = |number| Error::Call {
        doing: "reset a connection",
        error: std::io::Error::from_raw_os_error(number),
    };
    assert!(of(1).to_string().contains("cap_add"));
    assert!(of(95).to_string().contains("CONFIG_INET_DIAG_DESTROY"));
    assert!(of(97).to_string().contains("RestrictAddressFamilies"));
    assert!(of(2).to_string().contains("modprobe tcp_diag"));
}

proptest! {
    #[test]
    fn any_answer_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = wire::read(&bytes, 1);
    }

    /// A real message, cut or with bytes changed.
    #[test]
    fn any_damage_is_survived(cut in 0_usize..200, at in 0_usize..200, byte: u8) {
        let mut bytes = answer(1);
        if let Some(old) = bytes.get_mut(at) {
            *old = byte;
        }
        bytes.truncate(cut);
        let _ = wire::read(&bytes, 1);
    }
}

/// A message as the kernel sends it: one socket, with a TCP_INFO and a cgroup.
fn answer(sequence: u32) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes.extend([2, 1, 0, 0, 0x1f, 0x90, 0x18, 0xeb, 127, 0, 0, 1]);
    bytes.extend([0; 12]);
    bytes.extend([127, 0, 0, 2]);
    bytes.extend([0; 12]);
    bytes.extend([0; 4]);
    bytes.extend(0x0000_0002_0000_0001_u64.to_le_bytes());
    bytes.extend([0_u32, 5, 6, 7, 8].map(u32::to_ne_bytes).as_flattened());
    let mut info = vec![0; 136];
    info[52..56].copy_from_slice(&1500_u32.to_ne_bytes());
    info[128..136].copy_from_slice(&9_u64.to_ne_bytes());
    for (kind, value) in [(2_u16, info), (21, 77_u64.to_ne_bytes().to_vec())] {
        let length = u16::try_from(value.len() + 4).unwrap();
        bytes.extend(length.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
    }
    let length = u32::try_from(bytes.len()).unwrap();
    bytes[0..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&20_u16.to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    bytes
}

#[test]
fn an_answer_is_read_to_the_byte() {
    let piece = wire::read(&answer(1), 1).unwrap();
    let expected = Socket {
        id: SocketId {
            family: Family::V4,
            local: "127.0.0.1:8080".parse().unwrap(),
            remote: "127.0.0.2:6379".parse().unwrap(),
            interface: 0,
            cookie: Cookie(0x0000_0002_0000_0001),
        },
        state: State::Established,
        recv_q: 5,
        send_q: 6,
        uid: 7,
        inode: 8,
        cgroup: Some(77),
        tcp: Some(Tcp {
            last_data_recv: Duration::from_millis(1500),
            bytes_received: 9,
            bytes_acked: 0,
        }),
    };
    assert_eq!(piece.sockets, [expected]);
    assert_eq!(piece.end, None);
    // An answer to somebody else's question, and a table that changed.
    assert_eq!(wire::read(&answer(2), 1).unwrap().sockets, []);
    let mut interrupted = answer(1);
    interrupted[6] = 16;
    assert!(wire::read(&interrupted, 1).unwrap().interrupted);
}
