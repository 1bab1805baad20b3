//! A Redis whose subscriber is the bottleneck: a relay in front of a real server that, when told to, pours recorded
//! messages into the subscriber's connection as fast as its socket takes them. (A server that really publishes spends
//! more on a message than any of its subscribers does, and on two cores all of them then look alike.)

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context;

/// What is written at once, in bytes, at least. Whole messages: in between, the server's own answers go through.
const CHUNK: usize = 64 * 1024;

/// Relays as long as the process lives; every connection ends with either end of it.
pub(crate) struct Flood {
    address: SocketAddr,
    subscribed: Receiver<Subscriber>,
}

/// A connection that has subscribed.
struct Subscriber {
    to: Arc<Client>,
    resp3: bool,
}

/// Written to by two threads. The lock alone would let the one that pours have it always, and a node that hears no
/// echo for a second and a half makes a new connection.
struct Client {
    stream: Mutex<TcpStream>,
    /// Answers of the server that wait for their turn.
    answers: AtomicUsize,
}

impl Client {
    fn stream(&self) -> std::sync::MutexGuard<'_, TcpStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, bytes: &[u8]) -> std::io::Result<()> {
        self.answers.fetch_add(1, Ordering::SeqCst);
        let written = self.stream().write_all(bytes);
        self.answers.fetch_sub(1, Ordering::SeqCst);
        written
    }

    fn pour(&self, bytes: &[u8]) -> std::io::Result<()> {
        while self.answers.load(Ordering::SeqCst) > 0 {
            thread::yield_now();
        }
        self.stream().write_all(bytes)
    }
}

impl Flood {
    /// In front of `server`.
    pub(crate) fn before(server: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let (tell, subscribed) = channel();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let _ = relay(client, server, tell.clone());
            }
        });
        Ok(Self { address, subscribed })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Pours `bodies`, as messages on `channel`, into the connection that subscribed last; one in RESP3, if there is one
    /// (a node also tries whether it may subscribe, in RESP2, on a connection that it closes again).
    pub(crate) fn pour(&self, channel: &str, bodies: &[Vec<u8>]) -> anyhow::Result<()> {
        let subscriber = self
            .subscribed
            .try_iter()
            .max_by_key(|subscriber| subscriber.resp3);
        let subscriber = subscriber.context("nobody subscribed")?;
        let kind = if subscriber.resp3 { '>' } else { '*' };
        let head = format!("{kind}3\r\n$7\r\nmessage\r\n${}\r\n{channel}\r\n", channel.len());
        let mut chunk = Vec::with_capacity(2 * CHUNK);
        let mut bodies = bodies.iter().peekable();
        while let Some(body) = bodies.next() {
            chunk.extend_from_slice(head.as_bytes());
            write!(chunk, "${}\r\n", body.len())?;
            chunk.extend_from_slice(body);
            chunk.extend_from_slice(b"\r\n");
            if chunk.len() >= CHUNK || bodies.peek().is_none() {
                subscriber.to.pour(&chunk)?;
                chunk.clear();
            }
        }
        Ok(())
    }
}

fn relay(client: TcpStream, server: SocketAddr, tell: Sender<Subscriber>) -> anyhow::Result<()> {
    let server = TcpStream::connect(server)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let mut from_server = server;
    let to_client = Arc::new(Client {
        stream: Mutex::new(client),
        answers: AtomicUsize::new(0),
    });
    let pour_to = Arc::clone(&to_client);
    thread::spawn(move || {
        let mut resp3 = false;
        while let Some(asked) = some(&mut from_client) {
            let says = |word: &[u8]| asked.windows(word.len()).any(|part| part == word);
            if says(b"HELLO\r\n$1\r\n") {
                resp3 = says(b"HELLO\r\n$1\r\n3");
            }
            if says(b"SUBSCRIBE") {
                let to = Arc::clone(&pour_to);
                let _ = tell.send(Subscriber { to, resp3 });
            }
            if to_server.write_all(&asked).is_err() {
                break;
            }
        }
        let _ = to_server.shutdown(Shutdown::Both);
    });
    thread::spawn(move || {
        while let Some(answered) = some(&mut from_server) {
            if to_client.answer(&answered).is_err() {
                break;
            }
        }
        let _ = to_client.stream().shutdown(Shutdown::Both);
    });
    Ok(())
}

/// What has arrived; `None` at the end. Questions and answers are far shorter than the buffer, so that a piece never
/// ends within one.
fn some(from: &mut TcpStream) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 64 * 1024];
    let length = from.read(&mut buffer).ok().filter(|length| *length > 0)?;
    buffer.truncate(length);
    Some(buffer)
}
