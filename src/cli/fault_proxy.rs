//! A TCP proxy that fails on request: for `defib demo`, and for tests with real servers.
//!
//! It knows each connection's name (from `CLIENT SETNAME` or `HELLO … SETNAME`), so that one link of a node can
//! be made dark while the other works. It knows nothing else of what it carries. A dark connection's bytes are
//! taken in and lost: nothing that was dark can come back to life, as after packet loss that TCP gave up on.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How far into a connection its name is looked for, in bytes.
const SNIFFED: usize = 2048;
const BACKLOG: u32 = 128;

/// Which connections a fault is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// All.
    All,
    /// Those whose name ends so: `:sub`. One that has no name yet is not meant.
    NameEndsWith(String),
}

impl Which {
    /// Connections whose name ends in `suffix`.
    pub fn ending(suffix: &str) -> Self {
        Self::NameEndsWith(suffix.to_owned())
    }

    fn means(&self, name: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::NameEndsWith(suffix) => name.is_some_and(|name| name.ends_with(suffix)),
        }
    }
}

/// Which way nothing passes any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Neither way.
    Both,
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// One connection, as [`FaultProxy::connections`] tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Counts up from 0.
    pub number: u64,
    /// What it called itself.
    pub name: Option<String>,
    /// Nothing passes, one way or both.
    pub dark: bool,
}

/// A running proxy. Dropping it ends every connection through it.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _task: Ending,
}

#[derive(Debug)]
struct Ending(tokio::task::JoinHandle<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
    /// Whether new connections are taken.
    open: watch::Sender<bool>,
    /// What was really done about it: the listener stands, or is gone.
    listening: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    connections: Vec<Connection>,
    /// Faults that new connections suffer too.
    lasting: Vec<(Which, Direction)>,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    name: Option<String>,
    fate: watch::Sender<Fate>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fate {
    to_server_dark: bool,
    to_client_dark: bool,
    cut: bool,
}

impl Fate {
    const fn darken(&mut self, direction: Direction) {
        self.to_server_dark |= matches!(direction, Direction::Both | Direction::ToServer);
        self.to_client_dark |= matches!(direction, Direction::Both | Direction::ToClient);
    }
}

impl FaultProxy {
    /// Listens on a free loopback port and passes everything on to `upstream`. Needs a tokio runtime.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream,
            state: Mutex::default(),
            open: watch::Sender::new(true),
            listening: watch::Sender::new(true),
        });
        let task = tokio::spawn(serve(listener, address, shared.clone()));
        Ok(Self {
            address,
            shared,
            _task: Ending(task),
        })
    }

    /// Where clients connect to.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes these connections dark: open, and nothing passes. With `new_ones_too`, also those that come later
    /// (as soon as their name is known), until [`Self::restore`]; otherwise a new connection works.
    pub fn silence(&self, which: &Which, direction: Direction, new_ones_too: bool) {
        let mut state = self.shared.state();
        for connection in &state.connections {
            if which.means(connection.name.as_deref()) {
                connection.fate.send_modify(|fate| fate.darken(direction));
            }
        }
        if new_ones_too {
            state.lasting.push((which.clone(), direction));
        }
    }

    /// Ends these connections.
    pub fn cut(&self, which: &Which) {
        for connection in &self.shared.state().connections {
            if which.means(connection.name.as_deref()) {
                connection.fate.send_modify(|fate| fate.cut = true);
            }
        }
    }

    /// Refuses new connections from now on; returns when it does so. The port stays ours.
    pub async fn refuse(&self) {
        self.set_open(false).await;
    }

    /// Ends every fault that new connections would suffer, and takes them again. Those that are dark stay dark.
    pub async fn restore(&self) {
        self.shared.state().lasting.clear();
        self.set_open(true).await;
    }

    /// The connections that stand, oldest first.
    pub fn connections(&self) -> Vec<Seen> {
        let state = self.shared.state();
        let seen = state.connections.iter().map(|connection| {
            let fate = *connection.fate.borrow();
            Seen {
                number: connection.number,
                name: connection.name.clone(),
                dark: fate.to_client_dark || fate.to_server_dark,
            }
        });
        seen.collect()
    }

    async fn set_open(&self, open: bool) {
        self.shared.open.send_replace(open);
        let mut listening = self.shared.listening.subscribe();
        let _ = listening.wait_for(|listening| *listening == open).await;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self) -> (u64, watch::Receiver<Fate>) {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        let fate = watch::Sender::new(Fate::default());
        let watching = fate.subscribe();
        for (which, direction) in &state.lasting {
            if which.means(None) {
                fate.send_modify(|fate| fate.darken(*direction));
            }
        }
        state.connections.push(Connection {
            number,
            name: None,
            fate,
        });
        (number, watching)
    }

    fn name(&self, number: u64, name: String) {
        let mut state = self.state();
        let State {
            connections, lasting, ..
        } = &mut *state;
        if let Some(connection) = connections.iter_mut().find(|c| c.number == number) {
            for (which, direction) in lasting {
                if which.means(Some(&name)) {
                    connection.fate.send_modify(|fate| fate.darken(*direction));
                }
            }
            connection.name = Some(name);
        }
    }

    fn leave(&self, number: u64) {
        self.state().connections.retain(|c| c.number != number);
    }
}

/// Bound, and not listening yet: a connection attempt is refused, and nobody else gets the port. With
/// SO_REUSEPORT, so that the next socket can be bound before the one before it is closed.
fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn serve(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>) {
    let mut open = shared.open.subscribe();
    let mut passing = JoinSet::new();
    let mut listener = Some(listener);
    let mut reserved = None;
    loop {
        let wanted = *open.borrow_and_update();
        if wanted && listener.is_none() {
            let socket: Option<TcpSocket> = reserved.take().or_else(|| bind(address).ok());
            listener = socket.and_then(|socket| socket.listen(BACKLOG).ok());
        } else if !wanted && listener.is_some() {
            reserved = bind(address).ok();
            listener = None;
        }
        shared.listening.send_replace(listener.is_some());
        tokio::select! {
            changed = open.changed() => if changed.is_err() {
                return;
            },
            accepted = accept(listener.as_ref()) => if let Ok((client, _)) = accepted {
                passing.spawn(pass(client, shared.clone()));
            },
            Some(_) = passing.join_next() => {}
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn pass(client: TcpStream, shared: Arc<Shared>) {
    let (number, fate) = shared.enter();
    // An error is an end like any other here.
    let _ = pass_bytes(client, &shared, number, fate).await;
    shared.leave(number);
}

async fn pass_bytes(
    mut client: TcpStream,
    shared: &Shared,
    number: u64,
    mut fate: watch::Receiver<Fate>,
) -> io::Result<()> {
    let mut server = TcpStream::connect(shared.upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut from_server) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    let mut beginning = Vec::new();
    let mut named = false;
    loop {
        tokio::select! {
            biased;
            changed = fate.changed() => if changed.is_err() || fate.borrow().cut {
                return Ok(());
            },
            count = client.read(&mut from_client) => {
                let bytes = &from_client[..count?];
                if bytes.is_empty() {
                    return Ok(());
                }
                if !named && beginning.len() < SNIFFED {
                    beginning.extend_from_slice(bytes);
                    if let Some(name) = name_in(&beginning) {
                        shared.name(number, name);
                        named = true;
                    }
                }
                if !fate.borrow().to_server_dark {
                    server.write_all(bytes).await?;
                }
            }
            count = server.read(&mut from_server) => {
                let bytes = &from_server[..count?];
                if bytes.is_empty() {
                    return Ok(());
                }
                if !fate.borrow().to_client_dark {
                    client.write_all(bytes).await?;
                }
            }
        }
    }
}

/// The string after `SETNAME`, once it has arrived completely.
fn name_in(beginning: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(beginning);
    let after = text.to_ascii_uppercase().find("SETNAME\r\n$")? + "SETNAME\r\n$".len();
    let (length, rest) = text.get(after..)?.split_once("\r\n")?;
    rest.get(..length.parse().ok()?).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends everything back.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                clients.spawn(async move {
                    let (mut read, mut write) = client.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn client(proxy: &FaultProxy, name: &str) -> TcpStream {
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let words = format!(
            "*3\r\n$6\r\nCLIENT\r\n$7\r\nsetname\r\n${}\r\n{name}\r\n",
            name.len()
        );
        exchange(&mut client, &words).await;
        client
    }

    async fn exchange(client: &mut TcpStream, words: &str) {
        client.write_all(words.as_bytes()).await.unwrap();
        let mut back = vec![0; words.len()];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(back, words.as_bytes());
    }

    #[tokio::test]
    async fn knows_names_and_silences_by_them() {
        let proxy = FaultProxy::start(echo().await).unwrap();
        let mut publisher = client(&proxy, "defib:a:pub").await;
        let mut subscriber = client(&proxy, "defib:a:sub").await;
        proxy.silence(&Which::ending(":sub"), Direction::Both, false);
        let seen: Vec<_> = proxy
            .connections()
            .into_iter()
            .map(|seen| (seen.name.unwrap(), seen.dark))
            .collect();
        assert_eq!(
            seen,
            [
                ("defib:a:pub".to_owned(), false),
                ("defib:a:sub".to_owned(), true)
            ]
        );
        exchange(&mut publisher, "still there").await;
        subscriber.write_all(b"anybody?").await.unwrap();
        let mut newer = client(&proxy, "defib:a:sub").await;
        exchange(&mut newer, "a new one works").await;
        let mut byte = [0];
        assert!(subscriber.try_read(&mut byte).is_err());
        proxy.cut(&Which::ending(":sub"));
        assert_eq!(subscriber.read(&mut byte).await.unwrap(), 0);
        assert_eq!(newer.read(&mut byte).await.unwrap(), 0);
        exchange(&mut publisher, "untouched").await;
    }

    #[tokio::test]
    async fn refuses_and_comes_back_on_the_same_port() {
        let proxy = FaultProxy::start(echo().await).unwrap();
        for _ in 0..3 {
            proxy.refuse().await;
            let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            proxy.restore().await;
            client(&proxy, "x").await;
        }
    }

    #[tokio::test]
    async fn a_lasting_silence_meets_new_connections_by_name() {
        let proxy = FaultProxy::start(echo().await).unwrap();
        proxy.silence(&Which::ending(":sub"), Direction::ToClient, true);
        client(&proxy, "defib:a:pub").await;
        let mut dark = TcpStream::connect(proxy.address()).await.unwrap();
        dark.write_all(b"*5\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$7\r\nSETNAME\r\n$11\r\ndefib:a:sub\r\n")
            .await
            .unwrap();
        while !proxy.connections().iter().any(|seen| seen.dark) {
            tokio::task::yield_now().await;
        }
        proxy.restore().await;
        client(&proxy, "defib:a:sub").await;
    }
}
