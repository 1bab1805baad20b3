//! What survives a restart of the node. Only durations are written, no points in time: another run has
//! another clock. `store` puts it on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cause::Cause;
use super::event::{Incarnation, Next};
use super::settings::RemedyKind;

/// Version of this format. A store of another version is refused as corrupt.
pub const VERSION: u32 = 1;

/// Everything that is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Persisted {
    /// [`VERSION`].
    pub version: u32,
    /// The last fencing token given out.
    pub token: u64,
    /// Number of the last episode.
    pub episode: u64,
    /// Written by a dry run: its budgets and done-marks are shadows and bind only another dry run.
    pub dry_run: bool,
    /// What is left of the time in which nobody of the group may be restarted.
    pub group_wait: Option<Duration>,
    /// The pause of the whole node.
    pub pause: Option<PersistedPause>,
    /// By name: the configuration may have changed in between.
    pub peers: BTreeMap<String, PersistedPeer>,
}

/// What is kept of one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersistedPeer {
    /// For each restart by our hand, what is left until it no longer counts.
    pub restarts: Vec<Duration>,
    /// How often its backoff has doubled.
    pub backoff_level: u32,
    /// What is left of its backoff.
    pub backoff: Option<Duration>,
    /// Lives on which a rung has been used: (incarnation, rung). Bounded; the oldest go first.
    pub done: Vec<(Incarnation, u16)>,
    /// What the rungs were, by their numbers; empty where none is named here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ladder: Vec<RemedyKind>,
    /// Names of the checks that have ever passed.
    pub passed: Vec<String>,
    /// The life that a remedy was taking down when this was written: if nothing runs after the restart of the
    /// node, that was our hand and not somebody's purpose.
    pub healing: Option<Incarnation>,
    /// It said that it leaves on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<PersistedLeaving>,
    /// By the name of the check: what the peer told it of itself.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub told: BTreeMap<String, PersistedTold>,
    /// The open episode.
    pub episode: Option<PersistedEpisode>,
    /// Its own pause.
    pub pause: Option<PersistedPause>,
    /// It is not configured, and has not been for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<Duration>,
}

/// A peer said that it leaves on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersistedLeaving {
    /// Its life, if it is known.
    pub life: Option<Incarnation>,
    /// What it said.
    pub detail: String,
    /// How long ago.
    #[serde(default)]
    pub age: Duration,
    /// Names of the checks that heard it.
    #[serde(default)]
    pub heard_by: Vec<String>,
}

/// What a peer told of itself, and will not tell twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersistedTold {
    /// The life that it holds for, if it is known.
    pub life: Option<Incarnation>,
    /// How long its silence is no failure.
    pub next: Next,
    /// It said that it had failed, and nothing of its life since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<PersistedFailure>,
}

/// A peer said that it failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersistedFailure {
    /// What that means.
    pub cause: Cause,
    /// What it said.
    pub detail: String,
}

/// An episode that was open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersistedEpisode {
    /// Its number.
    pub id: u64,
    /// Age of its opening.
    pub age: Duration,
    /// Its cause.
    pub cause: Cause,
    /// Remedies carried out.
    pub remedies: u32,
    /// Those of them that restart.
    #[serde(default)]
    pub restarts: u32,
    /// Rungs that were tried in it and did not help.
    #[serde(default)]
    pub failed: BTreeSet<u16>,
    /// It had been given up.
    pub gave_up: bool,
    /// The life and the rung of a remedy that is at work. Whether it gets done if this node ends now, nobody will know:
    /// it may be done again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_work: Option<(Incarnation, u16)>,
    /// What the group holds for its last remedy, to be let go as the episode ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<PersistedLease>,
}

/// What the group holds for a remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersistedLease {
    /// The run of the node that took it, by its boot id.
    pub run: Arc<str>,
    /// Its number in that run.
    pub number: u64,
    /// What the group calls the peer.
    pub known_as: Arc<str>,
    /// The life that it was granted for.
    pub incarnation: Incarnation,
    /// And the rung.
    pub rung: u16,
    /// What that rung does.
    #[serde(default)]
    pub does: Arc<str>,
}

/// A pause that was in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersistedPause {
    /// Why.
    pub reason: String,
    /// Who asked.
    pub by: String,
    /// What is left of it; `None`: until resumed.
    pub left: Option<Duration>,
}

/// What the store found at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// Nothing was there: a first start, or a lost disk. One restart for each peer in the first 10 min.
    Missing,
    /// Something was there and could not be read. Every budget counts as spent.
    Corrupt,
    /// As written, so long ago.
    Found(Box<Persisted>, Duration),
}
