//! Notifications: what happens to an episode, told to a receiver of people's own, by HTTP. An edge: it listens to the
//! engine's notices and decides nothing.
//!
//! ```text
//! notices ──▶ Teller ──▶ Outbox of each target ──▶ Courier ──POST──▶ receiver
//! (broadcast,  (what each    (bounded; coalesced       (signs, retries
//!  may lag)     episode is)    while it is slow)         under a bound)
//! ```
//!
//! The loop never waits for it: notices are broadcast, and who lags behind loses some and is told how many; the open
//! episodes are then taken from the next snapshot.

mod alert;
mod courier;
mod desk;
mod message;
mod outbox;
mod preflight;
mod sign;
mod story;
mod teller;
pub mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use crate::engine::decision::Notice;
use crate::engine::snapshot::Snapshot;
use crate::engine::time::Clock;
use crate::secret::Secret;
use crate::task::Task;
use crate::telemetry::metrics::notify::NotifyMetrics;
use template::{Escape, Template};

pub use courier::{Told, test};
pub use desk::Desk;
pub use message::Event;
pub use preflight::preflight;

/// The targets, in the order of the configuration.
pub type Settings = Vec<Target>;

/// One receiver.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its name: of the configuration, and a label of metrics.
    pub name: Arc<str>,
    /// What it understands.
    pub kind: Kind,
    /// Where it is. A secret: whoever knows the URL of a chat's hook may write there.
    pub url: Secret,
    /// Sent with each message.
    pub headers: Vec<(String, Secret)>,
    /// Sent as `Authorization: Bearer …`.
    pub bearer: Option<Secret>,
    /// Each message is signed with it (HMAC-SHA256).
    pub hmac: Option<Secret>,
    /// What it is told. What ends an alert is told to an Alertmanager in any case.
    pub events: BTreeSet<Event>,
    /// Of which peers; `None`: of all.
    pub peers: Option<BTreeSet<Arc<str>>>,
    /// Bound on one attempt, from resolving the name to the head of the answer. Default 5 s.
    pub timeout: Duration,
    /// A message is given up on after so long. Default 15 min.
    pub retry_for: Duration,
}

/// What a receiver understands.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// JSON of any form, one message each.
    Json {
        /// Its form; `None`: an object of all words.
        template: Option<Template>,
        /// What the words must not be taken for.
        escape: Escape,
    },
    /// Prometheus Alertmanager's API v2.
    Alertmanager {
        /// An open episode is told again this often; its alert ends by itself four times as long after the last. Default 1 min.
        resend: Duration,
    },
}

impl Target {
    fn wants(&self, peer: Option<&str>) -> bool {
        match (&self.peers, peer) {
            (Some(peers), Some(peer)) => peers.contains(peer),
            (Some(_), None) | (None, _) => true,
        }
    }
}

/// Who tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Sender {
    /// This node.
    pub node: Arc<str>,
    /// Its group.
    pub group: Arc<str>,
    /// Id of this run: part of each message's id.
    pub boot: Arc<str>,
    /// Remedies are decided and not carried out.
    pub dry_run: bool,
}

/// What the notifications take from their surroundings.
pub struct Surroundings {
    /// Who tells.
    pub sender: Sender,
    /// Every notice from now on.
    pub notices: broadcast::Receiver<Arc<Notice>>,
    /// The same snapshots as everybody's.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// The node's clock.
    pub clock: Arc<dyn Clock>,
    /// For jitter.
    pub seed: u64,
    /// A shutdown takes no longer.
    pub deadline: Duration,
    /// Of this edge.
    pub metrics: NotifyMetrics,
}

/// The tasks that tell, and the desk at which a `notify` rung asks; nothing without a target.
pub fn tasks(settings: Settings, around: Surroundings) -> (Vec<Task>, Desk) {
    teller::tasks(settings, around)
}
