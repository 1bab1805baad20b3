//! `CLIENT LIST`, as far as it tells whose connection is whose, what it subscribed to, and when the server last wrote
//! to it.

use std::net::SocketAddr;
use std::time::Duration;

use super::dial::canonical;

/// Longest name that is kept, in bytes.
const MAX_NAME: usize = 256;

/// One line of `CLIENT LIST`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedClient {
    /// `id=`: never given again by that server process.
    pub id: u64,
    /// `addr=`, as written: the client's end, as the server sees it.
    pub addr: String,
    /// The same as an address; `None` for a Unix socket's path.
    pub address: Option<SocketAddr>,
    /// `name=`; often empty. Cut to 256 bytes.
    pub name: String,
    /// Channels, patterns and sharded channels together: `sub=`, `psub=`, `ssub=`.
    pub subscriptions: u64,
    /// `idle=`, whole seconds: since the server last read from it or *wrote to it*
    /// (`writeToClient` sets `lastinteraction`; so a quiet subscriber's grows, and a published-to one's does not).
    pub idle: Option<Duration>,
    /// `tot-net-out=` (Redis 8, Valkey 8): bytes that the server wrote to it so far.
    pub written: Option<u64>,
    /// Something waits in the server for room in its socket: `obl=` or `oll=` is not 0.
    pub waiting: bool,
}

/// A list, or what was wanted of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clients {
    /// Those that were wanted.
    pub(crate) wanted: Vec<ListedClient>,
    /// How long ago the one that came first connected, of all that are listed: so long this server has been up.
    pub(crate) oldest: Duration,
}

/// The lines whose address is `wanted`. Others cost nothing but the reading; a line that is none is left out.
pub(crate) fn parse(list: &[u8], wanted: impl Fn(SocketAddr) -> bool) -> Clients {
    let mut clients = Clients::default();
    for line in list.split(|byte| *byte == b'\n') {
        let Ok(line) = str::from_utf8(line.trim_ascii()) else {
            continue;
        };
        let age = field(line, "age").and_then(|age| age.parse().ok());
        clients.oldest = clients.oldest.max(Duration::from_secs(age.unwrap_or(0)));
        if field(line, "addr").and_then(address).is_some_and(&wanted) {
            clients.wanted.extend(client(line));
        }
    }
    clients
}

/// One line.
pub(crate) fn client(line: &str) -> Option<ListedClient> {
    let number = |name| field(line, name).and_then(|text| text.parse::<u64>().ok());
    let count = |name| number(name).unwrap_or(0);
    let addr = field(line, "addr")?;
    Some(ListedClient {
        id: number("id")?,
        addr: cut(addr),
        address: address(addr),
        name: cut(field(line, "name").unwrap_or_default()),
        subscriptions: count("sub")
            .saturating_add(count("psub"))
            .saturating_add(count("ssub")),
        idle: number("idle").map(Duration::from_secs),
        written: number("tot-net-out"),
        waiting: count("obl") > 0 || count("oll") > 0,
    })
}

fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let fields = line.split(' ');
    fields
        .filter_map(|field| field.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

fn address(text: &str) -> Option<SocketAddr> {
    text.parse().ok().map(canonical)
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(MAX_NAME);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REDIS_7: &str = "id=5 addr=127.0.0.1:43210 laddr=127.0.0.1:6379 fd=9 name=feed age=7 idle=2 flags=P db=0 \
                           sub=1 psub=2 ssub=3 multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=1024 rbp=0 \
                           obl=0 oll=0 omem=0 tot-mem=2000 events=r cmd=subscribe user=default redir=-1 resp=2";

    #[test]
    fn reads_what_servers_write() {
        let expected = ListedClient {
            id: 5,
            addr: "127.0.0.1:43210".into(),
            address: Some("127.0.0.1:43210".parse().unwrap()),
            name: "feed".into(),
            subscriptions: 6,
            idle: Some(Duration::from_secs(2)),
            written: None,
            waiting: false,
        };
        assert_eq!(client(REDIS_7), Some(expected.clone()));
        let valkey = REDIS_7.replace("oll=0", "oll=4") + " lib-name= lib-ver= tot-net-in=10 tot-net-out=77";
        let expected = ListedClient {
            written: Some(77),
            waiting: true,
            ..expected
        };
        assert_eq!(client(&valkey), Some(expected));
    }

    #[test]
    fn an_address_may_be_ipv6_or_a_path() {
        let v6 = client("id=1 addr=[::1]:5 name=").unwrap();
        assert_eq!(v6.address, Some("[::1]:5".parse().unwrap()));
        let mapped = client("id=1 addr=[::ffff:10.0.0.1]:5 name=").unwrap();
        assert_eq!(mapped.address, Some("10.0.0.1:5".parse().unwrap()));
        let unix = client("id=1 addr=/run/redis.sock:0 name=").unwrap();
        assert_eq!((unix.address, unix.idle), (None, None));
        assert_eq!(client("id=x addr=127.0.0.1:1"), None);
        assert_eq!(client("nonsense"), None);
    }

    #[test]
    fn only_the_wanted_lines_are_kept() {
        let list = format!("{REDIS_7}\r\nid=6 addr=127.0.0.1:1 name=\nid=7 addr=/x:0 name=\ngarbage\n");
        let wanted = "127.0.0.1:1".parse().unwrap();
        let found = parse(list.as_bytes(), |address| address == wanted);
        let ids: Vec<u64> = found.wanted.iter().map(|client| client.id).collect();
        assert_eq!(ids, [6]);
        assert_eq!(found.oldest, Duration::from_secs(7), "whosever it is");
        assert_eq!(parse(list.as_bytes(), |_| true).wanted.len(), 2);
        assert_eq!(
            parse(b"id=1 age=-5 addr=x\nage=x\n", |_| true),
            Clients::default()
        );
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(list in "[a-z=0-9: .\\n\\[\\]/é-]{0,200}") {
            parse(list.as_bytes(), |_| true);
        }
    }
}
