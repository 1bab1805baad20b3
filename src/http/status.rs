//! What `/api/v1/status` and `/api/v1/explain/{peer}` say in JSON: a small frame around the engine's snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::explain;
use super::view::View;
use crate::engine::decision::Notice;
use crate::engine::snapshot::{PeerView, Snapshot};
use crate::engine::time::Time;

/// The node at the moment of asking. Times are nanoseconds on the node's own clock: `now` minus a time is an age.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the answering node.
    pub version: String,
    /// When it was asked.
    pub now: Time,
    /// The event loop's last turn.
    pub loop_turned: Time,
    /// What is wrong with the configuration (`--on-bad-config=observe`); `None`: it is valid.
    pub config_error: Option<String>,
    /// What was wrong with the configuration that was refused last; `None`: what is in its file holds.
    #[serde(default)]
    pub config_refused: Option<String>,
    /// Requests of `/healthz` since the start, for each peer with a `healthz` remedy. 0: it is not wired.
    pub healthz_probes: BTreeMap<Arc<str>, u64>,
    /// What happens next, in words, for each peer of the snapshot in its order.
    pub next: Vec<String>,
    /// What the engine knows; `None` before its first snapshot.
    pub snapshot: Option<Arc<Snapshot>>,
}

/// One peer, explained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// When it was asked, on the node's own clock.
    pub now: Time,
    /// What happens next, in words.
    pub next: String,
    /// The whole explanation, as a person gets it.
    pub text: String,
    /// What was told of it in its open episode, or else in the last one, as far as that is kept.
    pub story: Vec<Entry>,
    /// What it was made from.
    pub peer: PeerView,
}

/// One thing that was told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When, on the node's own clock.
    pub at: Time,
    /// Its name, as in `/api/v1/events`.
    pub event: String,
    /// In words.
    pub text: String,
}

impl Entry {
    pub(super) fn of(notice: &Notice) -> Self {
        Self {
            at: notice.at,
            event: notice.what.name().to_owned(),
            text: notice.what.to_string(),
        }
    }
}

impl Status {
    pub(super) fn new(view: &View, loop_turned: Time, now: Time, probes: impl Fn(&str) -> u64) -> Self {
        let next = view.snapshot().map_or_else(Vec::new, |snapshot| {
            snapshot
                .peers
                .iter()
                .map(|peer| explain::next(peer, snapshot, now))
                .collect()
        });
        let wired = view.with_healthz().iter().map(|id| view.name(*id));
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now,
            loop_turned,
            config_error: view.config_error().map(str::to_owned),
            config_refused: view.refused().map(str::to_owned),
            healthz_probes: wired.map(|name| (name.into(), probes(name))).collect(),
            next,
            snapshot: view.snapshot().cloned(),
        }
    }
}
