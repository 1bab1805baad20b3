//! A server that sends something to everybody, all the time, and clients of it that do what they are told.

use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Between two messages.
const PERIOD: Duration = Duration::from_millis(20);

/// The server. It ends, with its connections, when this is dropped.
pub(crate) struct Feed {
    pub(crate) address: SocketAddr,
    sends_to: Arc<Mutex<Vec<Connection>>>,
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Connection {
    stream: TcpStream,
    quiet: bool,
}

impl Feed {
    pub(crate) fn start(address: impl Into<IpAddr>) -> Self {
        Self::on(TcpListener::bind((address.into(), 0)).unwrap())
    }

    pub(crate) fn on(listener: TcpListener) -> Self {
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (sends_to, ended) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (of, until) = (Arc::clone(&sends_to), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                round(&listener, &of);
                std::thread::sleep(PERIOD);
            }
        });
        Self {
            address,
            sends_to,
            ended,
            thread: Some(thread),
        }
    }

    /// From now on nothing is sent on the connections that there are; new ones are served.
    pub(crate) fn go_dark(&self) {
        for connection in self.sends_to.lock().unwrap().iter_mut() {
            connection.quiet = true;
        }
    }

    /// How many connections have been accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.sends_to.lock().unwrap().len()
    }
}

fn round(listener: &TcpListener, sends_to: &Mutex<Vec<Connection>>) {
    let mut all = sends_to.lock().unwrap();
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(true).unwrap();
        all.push(Connection { stream, quiet: false });
    }
    for connection in all.iter_mut().filter(|connection| !connection.quiet) {
        // A queue that is full, or an end that is gone, is the client's business.
        let sent = connection.stream.write(b"ten bytes.");
        connection.quiet = sent.is_err_and(|error| error.kind() != ErrorKind::WouldBlock);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

// Without single quotes: a shell may have to quote it.
const CLIENT: &str = r#"
import socket, sys, time

host, port, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
connection = socket.create_connection((host, port))
while True:
    try:
        if not connection.recv(1 if how == "slow" else 65536):
            raise OSError("the end")
    except OSError:
        if how == "exits":
            sys.exit(1)
        if how == "sulks":
            connection.close()
            time.sleep(600)
        time.sleep(0.05)
        connection = socket.create_connection((host, port))
    if how == "slow":
        time.sleep(0.02)
"#;

/// The words of a client: it `reads`, is `slow`, or `exits` or `sulks` instead of connecting again as the others do.
pub(crate) fn client(server: SocketAddr, how: &str) -> Vec<String> {
    let (host, port) = (server.ip().to_string(), server.port().to_string());
    ["python3", "-c", CLIENT, &host, &port, how]
        .map(str::to_owned)
        .to_vec()
}
