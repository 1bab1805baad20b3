//! What the engine shows: plain data, taken at one moment, for endpoints, tables and explanations.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cause::Cause;
use super::event::{Incarnation, PeerId, Role};
use super::guards::Refusal;
use super::peer::Liveness;
pub use super::quorum::Void;
use super::self_trust::BusState;
use super::settings::{Decides, Plane, RemedyKind};
use super::time::Time;

/// The node as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When it was taken.
    pub at: Time,
    /// This node.
    pub node: Arc<str>,
    /// Its group.
    pub group: Arc<str>,
    /// Id of this run.
    pub boot: Arc<str>,
    /// Since the engine started.
    pub uptime: Duration,
    /// Remedies are decided and not carried out.
    pub dry_run: bool,
    /// An operator asked to drain, or the node is shutting down.
    pub draining: bool,
    /// The pause of the whole node.
    pub pause: Option<PauseView>,
    /// The node's trust in itself and its bus.
    pub trust: TrustView,
    /// Mass silence, while it holds.
    pub mass_silence: Option<MassSilenceView>,
    /// The other observers of the group.
    pub quorum: QuorumView,
    /// How often the configuration was changed since the start.
    #[serde(default)]
    pub reloads: u64,
    /// All peers, by their ids: in the order in which they were first configured.
    pub peers: Vec<PeerView>,
}

impl Snapshot {
    /// That peer, if it is configured.
    pub fn peer(&self, id: PeerId) -> Option<&PeerView> {
        let place = self.peers.binary_search_by_key(&id, |peer| peer.id).ok()?;
        self.peers.get(place)
    }
}

/// The node's trust in itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrustView {
    /// The bus.
    pub bus: BusState,
    /// Since when.
    pub since: Time,
    /// In words; names the cure where there is one.
    pub detail: String,
    /// The pub link.
    pub publishing: LinkView,
    /// The sub link.
    pub subscribed: LinkView,
    /// When the last echo came back.
    pub last_echo: Option<Time>,
    /// From sending to receiving it.
    pub echo_took: Option<Duration>,
    /// No remedy on bus evidence before this.
    pub settling_until: Option<Time>,
    /// A pause of our own is so recent that nobody is judged before this.
    pub stalled_until: Option<Time>,
    /// Pauses of our own, since the start.
    pub stalls: u64,
}

/// One link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkView {
    /// It is up.
    pub up: bool,
    /// What its server says it is.
    pub role: Role,
    /// Why it is down or refused.
    pub detail: Option<String>,
    /// Times it was replaced because the engine asked.
    pub replaced: u64,
}

/// Mass silence, while it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MassSilenceView {
    /// Since when.
    pub since: Time,
    /// Who is silent.
    pub members: Vec<Arc<str>>,
    /// Who may be healed now, as a canary.
    pub canary: Option<Arc<str>>,
    /// When a canary may be healed, if none may now.
    pub canary_at: Option<Time>,
}

/// The group as an observer, and what was counted of its votes since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumView {
    /// So many observers must agree.
    pub k: u8,
    /// Nodes of the group that are heard now, this one among them.
    pub live: usize,
    /// Nodes of the group that are known: heard once, and neither gone with a goodbye nor forgotten.
    pub known: usize,
    /// Votes against a peer that were heard, each time.
    pub heard: u64,
    /// Those of them that counted for nothing, by the reason.
    pub void: BTreeMap<Void, u64>,
    /// Silences that votes confirmed before `dead_after`.
    pub confirmed: u64,
}

/// How the group votes on a peer that this node suspects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VotesView {
    /// Nodes that say the same as this one.
    pub agree: Vec<Arc<str>>,
    /// Nodes that have heard it since this one last did.
    pub hear_it: Vec<Arc<str>>,
    /// Nodes whose vote counts for nothing, and why.
    pub void: BTreeMap<Arc<str>, Void>,
    /// Nodes of the group that are heard now, and were after it fell silent; this one among them.
    pub live: usize,
    /// What this node suspects of it, as votes name it, and since when it is silent.
    #[serde(default)]
    pub doubts: BTreeMap<Arc<str>, Time>,
}

/// A pause in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseView {
    /// Why.
    pub reason: String,
    /// Who asked.
    pub by: String,
    /// When it ends by itself; `None`: until resumed.
    pub until: Option<Time>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its number on this node; not told outside.
    #[serde(skip)]
    pub id: PeerId,
    /// Its name.
    pub name: Arc<str>,
    /// It has an owner or a check on this machine.
    pub local: bool,
    /// The verdict.
    pub liveness: Liveness,
    /// Since when.
    pub since: Time,
    /// Why, when it is not alive.
    pub cause: Option<Cause>,
    /// In words.
    pub detail: String,
    /// The life that is judged.
    pub incarnation: Option<Incarnation>,
    /// It was stopped on purpose, said goodbye, or was forgotten, and has not come back.
    pub left: bool,
    /// It said that it leaves, and was still there after `leave_within`.
    pub leave_overdue: bool,
    /// Other lives seen since the start.
    pub incarnations: u64,
    /// Any check has ever passed (or, after a restart of the node, is known to have).
    pub ever_alive: bool,
    /// First pass seen, or grace over: what `/startupz/{peer}` answers.
    pub started: bool,
    /// Every check that decides readiness passes (`unknown` does not unready).
    pub ready: bool,
    /// The last sign of life of any check.
    pub last_life: Option<Time>,
    /// Its checks.
    pub checks: Vec<CheckView>,
    /// Its ladder.
    pub remedies: Vec<RemedyKind>,
    /// Its own pause.
    pub pause: Option<PauseView>,
    /// How the group votes on it, while this node says that it is suspect or dead.
    pub votes: Option<VotesView>,
    /// The open episode, or one given up.
    pub episode: Option<EpisodeView>,
    /// The pulse of `/healthz/{peer}`; `None` if it has no `healthz` remedy.
    pub healthz: Option<HealthzView>,
    /// What is left of its budget.
    pub budget_left: u32,
    /// Remedies that were granted, since the start.
    pub remedies_granted: u64,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckView {
    /// Its name.
    pub name: Arc<str>,
    /// Where it looks.
    pub plane: Plane,
    /// What it may change.
    pub decides: Decides,
    /// `unknown`, `alive`, `suspect` or `dead`, by this check alone.
    pub verdict: Liveness,
    /// Why, when it is not alive.
    pub cause: Option<Cause>,
    /// In words.
    pub detail: String,
    /// Its last pass.
    pub last_pass: Option<Time>,
    /// When it will next be judged, if nothing happens before.
    pub next: Option<Time>,
}

/// An episode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpisodeView {
    /// Its number.
    pub id: u64,
    /// When it began.
    pub since: Time,
    /// What is held to be the cause.
    pub cause: Cause,
    /// Names of the checks that condemned the peer.
    pub condemned_by: Vec<Arc<str>>,
    /// Where it stands.
    pub phase: EpisodePhase,
    /// Remedies carried out in it.
    pub remedies: u32,
    /// The remedy that is at work, or would be next; `None` if none is left, or none is for this cause.
    pub remedy: Option<RemedyKind>,
    /// The guard that refused last, and what it said.
    pub refusal: Option<Refusal>,
}

/// Where an episode stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum EpisodePhase {
    /// Suspicion, not condemned yet.
    Suspected,
    /// Condemned; waiting for the guards' permission.
    Waiting,
    /// A remedy is being carried out.
    Acting {
        /// Its fencing token.
        token: u64,
        /// Since when.
        since: Time,
    },
    /// A remedy was carried out; the peer's own proof of life is awaited.
    Verifying {
        /// Until when.
        until: Time,
    },
    /// No remedy is left. Still watched.
    GaveUp {
        /// Since when.
        since: Time,
    },
}

/// The pulse of `/healthz/{peer}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthzView {
    /// It answers 503 now, until this at the latest.
    pub pulsing_until: Option<Time>,
}
