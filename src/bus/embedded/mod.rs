//! The broker inside this process: Redis pub/sub for one machine, without a Redis.
//!
//! It speaks as much RESP2 and RESP3 as publishers, subscribers and `redis-cli` need, and nothing is stored. It is for
//! **one machine**: it has no authentication, so it listens on loopback only, and it ends with its node. Past one
//! machine, or where messages must survive the node, the bus is a Redis server.
//!
//! Everything a client can make it keep is bounded by [`Limits`]. Nothing here reads a clock.

mod commands;
mod glob;
mod hub;
mod listener;
mod session;
pub(crate) mod wire;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::DuplexStream;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use listener::Listener;

use crate::telemetry::metrics::broker::BrokerMetrics;
use hub::{Hub, Origin, SharedHub};
use session::Session;

/// What one end of an in-process connection may write before the other reads, in bytes.
const DUPLEX_BYTES: usize = 64 * 1024;

/// What clients may make the broker keep, and how long it may be busy for one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections over the listener; default 256. Further ones are told so and closed. In-process connections are
    /// not counted: a flood from outside must not lock the node out of its own bus.
    pub clients: usize,
    /// Longest request on the wire, in bytes; default 1 MiB. A longer one ends the connection at its header.
    pub request_bytes: usize,
    /// Most arguments of one request, the command's name included; default 1,024. More end the connection.
    pub arguments: usize,
    /// Longest name of a channel, a pattern or a client, in bytes; default 256. Longer ones get an error.
    pub name_bytes: usize,
    /// Channels and patterns of one client; default 1,024. More get an error.
    pub subscriptions: usize,
    /// Different patterns of all clients; default 256.
    pub patterns: usize,
    /// All different patterns together, in bytes; default 8 KiB. Each PUBLISH is matched against all of them, in at most
    /// `pattern_bytes * name_bytes` steps: some milliseconds if they are made to be slow.
    pub pattern_bytes: usize,
    /// What may wait for a subscriber that does not read, in bytes (64 are added for each message); default 1 MiB.
    /// A single larger message still goes to one that keeps up. Past it the client is disconnected, as by Redis.
    pub queued_bytes: usize,
    /// The same for all clients over the listener together; default 16 MiB. Past it the one for whom most waits is
    /// disconnected.
    pub queued_bytes_in_all: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 256,
            request_bytes: 1024 * 1024,
            arguments: 1024,
            name_bytes: 256,
            subscriptions: 1024,
            patterns: 256,
            pattern_bytes: 8 * 1024,
            queued_bytes: 1024 * 1024,
            queued_bytes_in_all: 16 * 1024 * 1024,
        }
    }
}

/// The broker. Cheap to clone; its in-process connections end with the last clone.
#[derive(Clone, Debug)]
pub struct Broker {
    hub: SharedHub,
    local: Arc<Mutex<JoinSet<()>>>,
}

impl Broker {
    /// A broker without clients.
    pub fn new(limits: Limits, metrics: BrokerMetrics) -> Self {
        Self {
            hub: SharedHub::new(Hub::new(limits, metrics)),
            local: Arc::default(),
        }
    }

    /// A connection from inside this process, as good as a TCP connection to the listener.
    ///
    /// The broker's end is a task on the current tokio runtime. Outside of one nobody could serve it, and the stream is
    /// at its end from the start.
    pub fn connect(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(DUPLEX_BYTES);
        let mut sessions = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = sessions.try_join_next() {
            listener::report(ended);
        }
        if let (Ok(runtime), Some(session)) =
            (Handle::try_current(), Session::admit(&self.hub, Origin::Local))
        {
            sessions.spawn_on(session.serve(ours, CancellationToken::new()), &runtime);
        }
        theirs
    }
}

#[cfg(test)]
mod tests;
