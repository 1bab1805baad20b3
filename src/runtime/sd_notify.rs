//! Telling systemd (or whoever set `NOTIFY_SOCKET`) that the node is up, lives, and ends: sd_notify(3).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engine::peer::Liveness;
use crate::engine::snapshot::Snapshot;
use crate::engine::time::{Clock, Time};
use crate::http::View;

/// A loop that has not turned for so long is taken for stuck: no watchdog message is sent. It turns every 250 ms.
pub const STUCK: Duration = Duration::from_secs(1);

/// Time between two looks at what STATUS= should say, where there is no watchdog.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// What the environment says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `NOTIFY_SOCKET`: a path, or `@` and an abstract name.
    pub socket: Option<OsString>,
    /// `WATCHDOG_USEC`.
    pub watchdog_usec: Option<String>,
    /// `WATCHDOG_PID`: whom the watchdog is meant for.
    pub watchdog_pid: Option<String>,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        Self {
            socket: std::env::var_os("NOTIFY_SOCKET"),
            watchdog_usec: std::env::var("WATCHDOG_USEC").ok(),
            watchdog_pid: std::env::var("WATCHDOG_PID").ok(),
        }
    }

    /// Time within which a watchdog message is expected; `None` if none is, or not from us.
    fn watchdog(&self) -> Option<Duration> {
        let meant_for_us = match &self.watchdog_pid {
            Some(pid) => pid.parse() == Ok(std::process::id()),
            None => true,
        };
        let usec = self.watchdog_usec.as_ref()?.parse().ok()?;
        (meant_for_us && usec > 0).then(|| Duration::from_micros(usec))
    }
}

/// The way to the service manager. Without one, everything here does nothing.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Opens the way. A socket that cannot be used is logged and done without.
    pub fn open(environment: &Environment) -> Self {
        let socket = environment.socket.as_ref().and_then(|name| match connect(name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!("cannot use NOTIFY_SOCKET={}: {error}", name.to_string_lossy());
                None
            }
        });
        let watchdog = environment.watchdog().filter(|_| socket.is_some());
        Self { socket, watchdog }
    }

    /// Everything is bound: whoever waits for the node may go on.
    pub fn ready(&self) {
        self.send("READY=1\nSTATUS=watching");
    }

    /// It reads its configuration again, until [`Self::ready`]. `monotonic` is what systemd asks for to tell which
    /// request that answers (`Type=notify-reload`).
    pub fn reloading(&self, monotonic: Duration) {
        self.send(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reading the configuration again",
            monotonic.as_micros()
        ));
    }

    /// The node ends, and says why.
    pub fn stopping(&self, why: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={}", one_line(why)));
    }

    /// Says what the node knows when it changes, and that it lives while its loop turns. A loop that is stuck gets no
    /// watchdog message: the service manager then ends the node.
    pub async fn run(
        self: Arc<Self>,
        view: watch::Receiver<Arc<View>>,
        alive: Arc<AtomicU64>,
        clock: Arc<dyn Clock>,
        cancel: CancellationToken,
    ) -> anyhow::Result<()> {
        if self.socket.is_none() {
            cancel.cancelled().await;
            return Ok(());
        }
        let every = self
            .watchdog
            .map_or(STATUS_EVERY, |within| (within / 2).max(Duration::from_millis(1)));
        let mut beats = tokio::time::interval(every);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut said = String::new();
        while cancel.run_until_cancelled(beats.tick()).await.is_some() {
            let turned = Time::from_nanos(alive.load(Ordering::Relaxed));
            if self.watchdog.is_some() && clock.now().since(turned) <= STUCK {
                self.send("WATCHDOG=1");
            }
            let status = view
                .borrow()
                .snapshot()
                .map_or_else(String::new, |snapshot| status(snapshot));
            if status != said {
                self.send(&format!("STATUS={status}"));
                said = status;
            }
        }
        Ok(())
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            tracing::debug!("cannot tell the service manager {message:?}: {error}");
        }
    }
}

fn connect(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => {
            return Err(io::Error::other(
                "it is neither a path nor @ and an abstract name",
            ));
        }
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold the loop.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

fn status(snapshot: &Snapshot) -> String {
    let alive = snapshot
        .peers
        .iter()
        .filter(|peer| peer.liveness == Liveness::Alive)
        .count();
    let status = format!(
        "{alive} of {} peers alive, bus {}",
        snapshot.peers.len(),
        snapshot.trust.bus
    );
    one_line(&status)
}

/// A newline would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watchdog(usec: &str, pid: Option<String>) -> Option<Duration> {
        let environment = Environment {
            socket: None,
            watchdog_usec: Some(usec.to_owned()),
            watchdog_pid: pid,
        };
        environment.watchdog()
    }

    #[test]
    fn the_watchdog_is_only_for_whom_it_is_meant() {
        let ours = std::process::id().to_string();
        assert_eq!(watchdog("2000000", None), Some(Duration::from_secs(2)));
        assert_eq!(watchdog("2000000", Some(ours)), Some(Duration::from_secs(2)));
        assert_eq!(watchdog("2000000", Some("1".to_owned())), None);
        assert_eq!(watchdog("0", None), None);
        assert_eq!(watchdog("soon", None), None);
    }

    #[test]
    fn a_socket_that_is_none_is_done_without() {
        for socket in ["", "relative", "/does/not/exist/\0"] {
            let notifier = Notifier::open(&Environment {
                socket: Some(OsString::from(socket)),
                ..Environment::default()
            });
            assert!(notifier.socket.is_none(), "{socket:?}");
            notifier.ready();
        }
    }
}
