//! Leases for applications: keys in Redis (or, on the embedded bus, in this process) that one holder has for a time.
//! This node takes, renews and gives them back, and says what it knows. It judges no peer: whether the one that a lease
//! is kept for lives is the engine's word, read from its snapshots.
//!
//! What holds it together:
//!
//! - **Its holder believes in the end of a lease before Redis does.** Time is counted from before a request was sent,
//!   less a [`margin`], and goes on while the machine sleeps.
//! - **No request can shorten or end what a later one has given**, however late it arrives: an extension only ever
//!   lengthens, and a release ends no later taking than its own (`store.rs`).
//! - **What could not be found out is `unknown`**: neither free nor lost.
//! - Nothing is written to disk. After a restart of the node its leases end by themselves, or their holders ask again.

mod entry;
mod keeper;
mod lease;
mod local;
mod pace;
pub mod preflight;
mod redis;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::engine::snapshot::Snapshot;
use crate::engine::time::Clock;
use crate::lease_desk::Ask;
use crate::redis_client::Server;
use crate::telemetry::metrics::leases::LeaseMetrics;

pub use keeper::Keeper;
pub use preflight::preflight;

/// The shortest lease: below it a scheduler's hiccup would lose it.
pub const MIN_TTL: Duration = Duration::from_secs(1);
/// What is asked for where no time is named.
pub const DEFAULT_TTL: Duration = Duration::from_secs(60);
/// Longest key, in bytes.
pub const MAX_KEY: usize = 512;
/// Longest token, in bytes.
pub const MAX_TOKEN: usize = 256;
/// The end of the key beside each lease that keeps its fencing token.
pub const FENCE: &str = ":fence";

/// What is permitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// No key is taken that begins with none of them. Empty: there are no leases.
    pub prefixes: Vec<String>,
    /// Longest time of a lease. Default 1 h.
    pub max_ttl: Duration,
    /// Leases that this node keeps at once. Default 64.
    pub max: usize,
}

/// What the keeper needs of the node.
pub struct Surroundings {
    /// Where the leases are; `None`: in this process.
    pub redis: Option<Server>,
    /// Goes on while the machine sleeps.
    pub clock: Arc<dyn Clock>,
    /// Makes what nobody can guess.
    pub random: fn() -> std::io::Result<[u8; 16]>,
    /// What the engine knows of the peers.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// What applications ask.
    pub asked: mpsc::Receiver<Ask>,
    /// For what is counted.
    pub metrics: LeaseMetrics,
}

/// What clocks may differ by within `ttl`: a hundredth and 2 ms, as in Redlock.
pub fn margin(ttl: Duration) -> Duration {
    ttl / 100 + Duration::from_millis(2)
}
