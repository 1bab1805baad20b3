//! The bus: two links to Redis, or to the embedded broker, and what travels on them.
//!
//! Turns messages into events and decisions into messages. Knows nothing of peers, checks or remedies.

pub mod embedded;
pub mod heartbeat;
pub mod redis;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::event::{Heartbeat, Link};

/// Everything the bus needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What is on the other end.
    pub backend: Backend,
    /// Names the connections: `defib:<node>:pub` and `defib:<node>:sub`.
    pub node: Arc<str>,
    /// Our own heartbeats go out here.
    pub publish_channel: Arc<str>,
    /// Channels to subscribe to, the group's own among them.
    pub channels: Vec<Arc<str>>,
    /// Time between in-band PINGs, and each one's deadline. The interval of our heartbeats; default 1 s.
    pub interval: Duration,
    /// Bound on connecting, the TLS handshake included. Default 1 s... 5 s.
    pub connect_timeout: Duration,
}

/// What is on the other end.
#[derive(Clone, Debug, PartialEq)]
pub enum Backend {
    /// A Redis (or Valkey) server.
    Redis(redis::Endpoint),
    /// The broker inside this process; with `listen`, other processes of this machine can join by RESP.
    Embedded {
        /// A loopback address; `None`: in-process only.
        listen: Option<SocketAddr>,
    },
}

/// What the event loop asks of the bus.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Publish now, or drop and report `PublishFailed`; nothing is queued up during an outage.
    Publish(Heartbeat),
    /// Drop that link's connection and make a new one at once (no backoff for the first try).
    Replace(Link),
}
