//! The `tcp` check: does somebody take connections, and perhaps say the right thing?
//!
//! | what happened | what it says |
//! |---|---|
//! | connected; with `expect`, the text came | pass |
//! | refused, reset, or no connection in time | fail: nobody listens, or takes no connection |
//! | `expect`: something else came, or nothing in time | fail |
//! | the name is not resolved; no route; no descriptor or port of ours left; no permission | unknown |
//!
//! A Unix socket's path that is not there is nobody listening, if its directory is there.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;

use super::active::Prober;
use crate::engine::cause::Cause;
use crate::engine::event::Outcome;
use crate::engine::time::Clock;
use crate::telemetry::metrics::checks::CheckKind;

/// Bytes that are read for `expect` at most.
const MAX_READ: usize = 64 * 1024;
/// Characters of a wrong answer that are shown.
const SHOWN: usize = 80;

/// Where to connect, and what to expect there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Where.
    pub to: Target,
    /// Sent once connected.
    pub send: Option<String>,
    /// Must come then.
    pub expect: Option<Expected>,
}

/// Who should listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A name or address, and a port.
    Port(String, u16),
    /// A Unix socket (`SOCK_STREAM`).
    Unix(PathBuf),
}

/// What must come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// This.
    pub text: String,
    /// As the very first; else anywhere in the first 64 KiB.
    pub first: bool,
}

/// Connects.
pub(super) struct Connect {
    tcp: Tcp,
    clock: Arc<dyn Clock>,
}

impl Connect {
    pub(super) fn new(tcp: Tcp, clock: Arc<dyn Clock>) -> Self {
        Self { tcp, clock }
    }

    async fn try_all(&self, within: Duration) -> Result<(), Failed> {
        let began = self.clock.now();
        let left = || within.saturating_sub(self.clock.now().since(began));
        match &self.tcp.to {
            Target::Unix(path) => {
                let connected = timeout(within, UnixStream::connect(path)).await;
                let stream = connected
                    .map_err(|_| self.unconnected())?
                    .map_err(|error| self.refused_at_path(path, &error))?;
                self.talk(stream, left()).await
            }
            Target::Port(host, port) => {
                // Half of the time, so that a resolver that is slow is not taken for a server that is.
                let addresses = resolve(host, *port, within / 2).await?;
                let stream = self.reach(&addresses, left()).await?;
                self.talk(stream, left()).await
            }
        }
    }

    /// Each of a name's addresses gets its share of the time, so that a dark one does not hide the others.
    async fn reach(&self, addresses: &[SocketAddr], within: Duration) -> Result<TcpStream, Failed> {
        let began = self.clock.now();
        let mut failed = Failed::Unknown(format!("{} has no address", self.tcp.to));
        for (index, address) in addresses.iter().enumerate() {
            let left = within.saturating_sub(self.clock.now().since(began));
            let others = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            failed = match timeout(left / others, TcpStream::connect(address)).await {
                Ok(Ok(stream)) if is_our_own(&stream) => {
                    Failed::Fail(format!("nobody listens at {}", self.tcp.to))
                }
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => self.refused(&error),
                Err(_) => self.unconnected(),
            };
        }
        Err(failed)
    }

    fn unconnected(&self) -> Failed {
        Failed::Fail(format!("{} takes no connection in time", self.tcp.to))
    }

    fn refused(&self, error: &io::Error) -> Failed {
        let told = format!("cannot connect to {}: {error}", self.tcp.to);
        let theirs = matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::TimedOut
        );
        if theirs {
            Failed::Fail(told)
        } else {
            Failed::Unknown(told)
        }
    }

    fn refused_at_path(&self, path: &std::path::Path, error: &io::Error) -> Failed {
        let told = format!("cannot connect to {}: {error}", self.tcp.to);
        match error.kind() {
            io::ErrorKind::NotFound if path.parent().is_some_and(std::path::Path::is_dir) => {
                Failed::Fail(told)
            }
            // A Unix socket's queue of connections is full.
            io::ErrorKind::WouldBlock => Failed::Fail(format!("{} accepts no connection", self.tcp.to)),
            _ => self.refused(error),
        }
    }

    async fn talk(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        within: Duration,
    ) -> Result<(), Failed> {
        let mut got = Vec::new();
        match timeout(within, self.say_and_hear(stream, &mut got)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.unexpected(&got, "is silent")),
        }
    }

    async fn say_and_hear(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        got: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        let broken = |error: io::Error| Failed::Fail(format!("{} broke off: {error}", self.tcp.to));
        if let Some(text) = &self.tcp.send {
            stream.write_all(text.as_bytes()).await.map_err(broken)?;
            stream.flush().await.map_err(broken)?;
        }
        let Some(expected) = &self.tcp.expect else {
            return Ok(());
        };
        let mut part = [0; 4096];
        while got.len() < MAX_READ {
            let read = stream.read(&mut part).await.map_err(broken)?;
            got.extend_from_slice(&part[..read]);
            match expected.is_in(got) {
                Some(true) => return Ok(()),
                Some(false) => break,
                None if read == 0 => return Err(self.unexpected(got, "closed the connection")),
                None => {}
            }
        }
        Err(self.unexpected(got, "says something else"))
    }

    fn unexpected(&self, got: &[u8], how: &str) -> Failed {
        let place = &self.tcp.to;
        if got.is_empty() {
            return Failed::Fail(format!("{place} {how}"));
        }
        let text: String = String::from_utf8_lossy(got)
            .chars()
            .take(SHOWN)
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect();
        Failed::Fail(format!("{place} {how}: \"{text}\""))
    }
}

/// Why it did not pass.
enum Failed {
    Fail(String),
    Unknown(String),
}

impl Expected {
    /// `None`: more is needed to tell.
    fn is_in(&self, got: &[u8]) -> Option<bool> {
        let wanted = self.text.as_bytes();
        if !self.first {
            return got
                .windows(wanted.len())
                .any(|part| part == wanted)
                .then_some(true);
        }
        let common = wanted.len().min(got.len());
        if wanted[..common] != got[..common] {
            return Some(false);
        }
        (common == wanted.len()).then_some(true)
    }
}

async fn resolve(host: &str, port: u16, within: Duration) -> Result<Vec<SocketAddr>, Failed> {
    let failed = |why: String| Failed::Unknown(format!("cannot resolve {host}: {why}"));
    let found = timeout(within, lookup_host((host, port)))
        .await
        .map_err(|_| failed(format!("no answer within {within:?}")))?;
    Ok(found.map_err(|error| failed(error.to_string()))?.collect())
}

/// A connection to an ephemeral port of this machine where nobody listens can meet itself (a simultaneous open).
fn is_our_own(stream: &TcpStream) -> bool {
    stream
        .local_addr()
        .is_ok_and(|local| stream.peer_addr().is_ok_and(|peer| peer == local))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Port(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Prober for Connect {
    const KIND: CheckKind = CheckKind::Tcp;

    async fn look(&mut self, within: Duration) -> Outcome {
        match self.try_all(within).await {
            Ok(()) => Outcome::Pass,
            Err(Failed::Fail(detail)) => Outcome::Fail {
                cause: Cause::PeerStuck,
                detail,
            },
            Err(Failed::Unknown(detail)) => Outcome::Unknown { detail },
        }
    }
}
