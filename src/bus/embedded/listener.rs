//! The broker's door for other processes of this machine.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::Broker;
use super::hub::Origin;
use super::session::Session;

/// A peer whose network namespace went away sends no FIN; the kernel finds out after about 90 s.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);
/// Between tries when the process has no file descriptor left for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// A bound loopback port. Connections wait in the kernel's backlog until [`Listener::run`].
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    local_addr: SocketAddr,
}

impl Listener {
    /// Binds `addr`; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// `InvalidInput` if `addr` is not a loopback address: the broker has no authentication, and one machine's end is
    /// the end of it. Otherwise the kernel's refusal, with the address.
    pub async fn bind(addr: SocketAddr) -> io::Result<Self> {
        if !addr.ip().to_canonical().is_loopback() {
            let text = format!(
                "cannot listen on {addr}: the embedded broker is for one machine; give it a loopback address \
                 (127.0.0.1 or ::1), or use a Redis server for more than one machine"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let context = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("the embedded broker cannot listen on {addr}: {error}"),
            )
        };
        let socket = TcpListener::bind(addr).await.map_err(context)?;
        let local_addr = socket.local_addr().map_err(context)?;
        Ok(Self { socket, local_addr })
    }

    /// Where it listens: the real port if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves clients until `cancel`, then gives them half a second to take what is queued for them, and closes the
    /// port. The broker itself, and its in-process connections, go on. Never fails: refused connections are counted
    /// and logged.
    pub async fn run(self, broker: Broker, cancel: CancellationToken) -> anyhow::Result<()> {
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                Some(ended) = sessions.join_next() => report(ended),
                (stream, addr) = self.accept() => {
                    match Session::admit(&broker.hub, Origin::Remote(addr, self.local_addr)) {
                        Some(session) => drop(sessions.spawn(session.serve(stream, cancel.clone()))),
                        None => refuse(stream).await,
                    }
                }
            }
        }
        drop(self.socket);
        while let Some(ended) = sessions.join_next().await {
            report(ended);
        }
        Ok(())
    }

    async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.socket.accept().await.and_then(prepare) {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(%error, "the embedded broker cannot accept a connection; trying again in 1 s");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn prepare((stream, addr): (TcpStream, SocketAddr)) -> io::Result<(TcpStream, SocketAddr)> {
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
    Ok((stream, addr))
}

/// As Redis words it. A new socket's buffer is empty, so this does not wait for the client.
async fn refuse(mut stream: TcpStream) {
    tracing::debug!("refused a connection: the embedded broker is full");
    let _ = stream.write_all(b"-ERR max number of clients reached\r\n").await;
}

pub(super) fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a session of the embedded broker crashed; its client was disconnected");
    }
}
