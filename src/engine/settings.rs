//! What the engine is told once, at its start: already validated, so nothing here can be wrong.
//!
//! `config` builds these from the configuration file; tests and the simulation build them directly.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cause::Cause;
use super::event::{ExpectationId, PeerId};

/// The whole of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// This node's name.
    pub node: Arc<str>,
    /// The group it belongs to.
    pub group: Arc<str>,
    /// Random id of this run of the node.
    pub boot: Arc<str>,
    /// Every remedy is decided, recorded and not carried out.
    pub dry_run: bool,
    /// Time between our own heartbeats. Default 1 s.
    pub interval: Duration,
    /// How long after an outage nothing is done on bus evidence. Default 60 s.
    pub bus_settle: Duration,
    /// The channel on which nodes of the group publish and listen.
    pub group_channel: Arc<str>,
    /// How many remedies that restart the whole group may suffer.
    pub group_budget: GroupBudget,
    /// Somebody keeps the group's budgets, and is asked before each restart. False: this node is the whole group.
    pub fleet_asks: bool,
    /// Mass silence: when it trips and how it ends.
    pub breaker: BreakerSettings,
    /// The votes of other observers.
    pub quorum: QuorumSettings,
    /// Names of the expectations, indexed by [`ExpectationId`]; empty where a reload left a gap.
    pub expectations: Vec<Arc<str>>,
    /// The peers, indexed by [`PeerId`]. Where a reload left a gap, [`PeerSettings::vacant`].
    pub peers: Vec<PeerSettings>,
}

impl Settings {
    /// Ids and settings of all peers; the gaps are left out.
    pub fn peers(&self) -> impl Iterator<Item = (PeerId, &PeerSettings)> {
        let all = (0u32..).map(PeerId).zip(&self.peers);
        all.filter(|(_, peer)| !peer.is_vacant())
    }

    /// The nodes whose heartbeats a check waits for, each as often as one does.
    pub fn watched_nodes(&self) -> impl Iterator<Item = &Arc<str>> {
        let checks = self.peers.iter().flat_map(|peer| &peer.checks);
        checks.filter_map(|check| match &check.kind {
            CheckKind::Passive {
                source: Source::Node(node) | Source::Claim { node, .. },
                ..
            } => Some(node),
            _ => None,
        })
    }

    /// The peer of that name.
    pub fn peer_id(&self, name: &str) -> Option<PeerId> {
        self.peers()
            .find(|(_, peer)| &*peer.name == name)
            .map(|(id, _)| id)
    }
}

/// One peer.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerSettings {
    /// Its name: of the configuration, unique.
    pub name: Arc<str>,
    /// What the group calls it: two nodes that call a peer alike watch the same one. Its name, unless each node (or
    /// machine, or namespace) has one of its own.
    pub known_as: Arc<str>,
    /// It has an owner or a check on this machine. A remote peer is known by the bus alone.
    pub local: bool,
    /// After a new incarnation appears (or a remedy ended), how long its failures are ignored until its first
    /// pass. Default 10 s.
    pub grace: Duration,
    /// Who said that it leaves and is still there after so long is told of, and left alone. Default 5 min.
    pub leave_within: Duration,
    /// One observer is enough to heal this *remote* peer. Default false.
    pub single_observer: bool,
    /// Something outside may block its remedies: it is asked before each.
    pub blockers: bool,
    /// What may be done to it while the bus is away. Default hold.
    pub when_bus_down: WhenBusDown,
    /// The checks, indexed by [`CheckId::index`](super::event::CheckId::index).
    pub checks: Vec<CheckSettings>,
    /// The ladder, mildest first.
    pub remedies: Vec<RemedySettings>,
    /// Waiting time between remedies.
    pub backoff: BackoffSettings,
    /// Remedies that restart, for this peer.
    pub budget: Budget,
    /// How long `/healthz/{peer}` may answer 503 for one pulse. Default 45 s.
    pub healthz_hold: Duration,
}

impl PeerSettings {
    /// What stands in place of a peer that was removed while the node ran: nobody, watched by nothing.
    pub fn vacant() -> Self {
        Self {
            name: "".into(),
            known_as: "".into(),
            local: false,
            grace: Duration::ZERO,
            leave_within: Duration::ZERO,
            single_observer: false,
            blockers: false,
            when_bus_down: WhenBusDown::Hold,
            checks: Vec::new(),
            remedies: Vec::new(),
            backoff: BackoffSettings::default(),
            budget: Budget::default(),
            healthz_hold: Duration::ZERO,
        }
    }

    /// How long `remedy` may be at work on it before it counts as lost.
    pub(super) fn acts_within(&self, remedy: &RemedySettings) -> Duration {
        if remedy.kind == RemedyKind::Healthz {
            self.healthz_hold
        } else {
            remedy.act_within
        }
    }

    /// Which of its checks tells its lives apart: that of its owner, else what an edge of this machine was told by the
    /// peer, else what another node claims of it, else the first check that hears it.
    pub(super) fn life_teller(&self) -> Option<u16> {
        let rank = |kind: &CheckKind| match kind {
            CheckKind::Process { .. } => 0,
            CheckKind::Passive {
                source: Source::Reported { names_lives: true },
                ..
            } => 1,
            CheckKind::Passive {
                source: Source::Claim { .. },
                ..
            } => 2,
            CheckKind::Passive {
                source: Source::Node(_),
                ..
            } => 3,
            CheckKind::Passive {
                source: Source::Channels(_),
                ..
            } => 4,
            CheckKind::Active { .. }
            | CheckKind::Passive {
                source: Source::Reported { names_lives: false },
                ..
            } => 5,
        };
        let all = (0u16..).zip(&self.checks);
        all.min_by_key(|(index, check)| (rank(&check.kind), *index))
            .map(|(index, _)| index)
    }

    /// It is nobody.
    pub fn is_vacant(&self) -> bool {
        self.name.is_empty()
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckSettings {
    /// Its key in the configuration.
    pub name: Arc<str>,
    /// How its evidence comes about.
    pub kind: CheckKind,
    /// Bus checks are held while the bus cannot be trusted; local ones stand on their own.
    pub plane: Plane,
    /// What its verdict may change.
    pub decides: Decides,
    /// Failures are ignored after the start until the first pass, or until this has gone by. Default 10 s.
    pub grace: Duration,
    /// The expectation outside of which it says `unknown(not_expected)`.
    pub needs: Option<ExpectationId>,
}

/// How a check's evidence comes about.
#[derive(Clone, Debug, PartialEq)]
pub enum CheckKind {
    /// Life arrives by itself, and silence is what fails.
    Passive {
        /// Whose messages are life.
        source: Source,
        /// When silence becomes suspicion, and death.
        detector: DetectorSettings,
        /// What that silence means. `peer_silent` unless the check knows better.
        cause: Cause,
    },
    /// An edge runs it and reports observations.
    Active {
        /// How many failures of how many runs condemn.
        fail_after: FailAfter,
        /// Time between runs. Default 1 s.
        interval: Duration,
        /// What its failures can mean.
        proves: &'static [Cause],
    },
    /// The owner watch: a witnessed exit condemns at once; other observations (stopped) go by `fail_after`.
    Process {
        /// How many failures of how many looks condemn a process that exists.
        fail_after: FailAfter,
        /// Time between looks. Default 1 s.
        interval: Duration,
    },
}

impl CheckKind {
    /// The evidence comes from the same source, whatever is concluded from it.
    pub(super) fn looks_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Passive { source: one, .. }, Self::Passive { source: other, .. }) => one == other,
            (Self::Active { .. }, Self::Active { .. }) | (Self::Process { .. }, Self::Process { .. }) => true,
            (Self::Passive { .. } | Self::Active { .. } | Self::Process { .. }, _) => false,
        }
    }

    /// The peer itself reports to it, and may tell it its own pace.
    pub(super) const fn is_told(&self) -> bool {
        matches!(
            self,
            Self::Passive {
                source: Source::Reported { .. },
                ..
            }
        )
    }
}

/// Whose messages are life to a passive check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Messages on these channels; on a peer's own channel any body counts.
    Channels(Vec<Arc<str>>),
    /// Heartbeats of that node on the group channel: "the node is alive".
    Node(Arc<str>),
    /// What that node says of a peer of its own: "the application is alive".
    Claim {
        /// The node that watches it.
        node: Arc<str>,
        /// Its name there.
        peer: Arc<str>,
    },
    /// What the peer says of itself to an edge of this machine ([`Report`](super::event::Report)). Timed by our own
    /// clock; no echo is needed to believe its silence.
    Reported {
        /// The edge can tell its lives apart.
        names_lives: bool,
    },
}

/// When silence becomes suspicion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DetectorSettings {
    /// Fixed bounds on the age of the last life.
    Deadline {
        /// Default 2 s; at least twice the interval of our own heartbeats.
        suspect_after: Duration,
        /// Default 5 s; more than `suspect_after`.
        dead_after: Duration,
    },
    /// Learned: silence that is too improbable for this peer.
    Phi(PhiSettings),
    /// Learned: silence that lasts too long beyond the expected arrival.
    Chen(ChenSettings),
}

/// What holds for a detector that learns, whatever it has learned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// The interval of our own heartbeats. Nothing is suspect before two, nothing dead before five of it or of the
    /// sender's, whichever is longer.
    pub interval: Duration,
    /// Silence of this length is suspicious in any case, and until there is a sample. Default 10 s.
    pub suspect_after: Duration,
    /// And of this length, death. Default 30 s; more than `suspect_after`.
    pub dead_after: Duration,
    /// Heartbeats that are remembered, 4 bytes each; 1 ..= 1,000. Default 200.
    pub window: u16,
}

/// The phi accrual detector (Hayashibara, Défago, Yared, Katayama 2004). Phi is -log10 of the probability that a
/// heartbeat still comes after so long a silence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PhiSettings {
    /// See there.
    pub bounds: Bounds,
    /// From this phi on it is suspicious; 0.5 ..= 300. Default 8.
    pub suspect: f64,
    /// From this phi on it is death; more than `suspect`. Default 16.
    pub dead: f64,
    /// Arrivals are held to spread by at least so much. Default a tenth of the interval.
    pub min_deviation: Duration,
    /// A pause that is acceptable in any case, added to what is expected. Default one interval.
    pub pause: Duration,
}

/// Chen's detector NFD-E (Chen, Toueg, Aguilera 2002): a constant margin beyond the expected arrival.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChenSettings {
    /// See there.
    pub bounds: Bounds,
    /// Later than expected by so much is suspicious. Default one and a half intervals.
    pub margin: Duration,
    /// And by so much, death; more than `margin`. Default four intervals.
    pub dead_margin: Duration,
}

/// Which view of the world a check has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plane {
    /// Reads Redis; worth nothing while the bus cannot be trusted.
    Bus,
    /// Reads this machine; a broker outage neither hides nor makes its facts.
    Local,
}

/// What a check's verdict may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decides {
    /// The peer's liveness (and its readiness).
    Liveness,
    /// Only `/readyz/{peer}`.
    Readiness,
    /// Nothing: shown and exported.
    Nothing,
}

/// "m of n": m failures among the last n runs condemn. Unknown runs count for neither side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailAfter {
    /// Failures that condemn; 1 ..= n.
    pub m: u8,
    /// Runs looked at; 1 ..= 64.
    pub n: u8,
}

/// Waiting time between remedies of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffSettings {
    /// After the first remedy. Default 10 s.
    pub initial: Duration,
    /// Upper bound, reached by doubling. Default 300 s.
    pub max: Duration,
    /// Verified life of this length starts it anew. Default 10 min.
    pub reset_after: Duration,
}

/// So many remedies that restart in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Default 3.
    pub count: u32,
    /// Default 10 min.
    pub window: Duration,
}

/// What may be done while the bus is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenBusDown {
    /// Nothing. The default.
    #[default]
    Hold,
    /// What exited, and was seen to, while the bus still worked is healed under this node's own budgets.
    Local,
}

/// What the group as a whole may suffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupBudget {
    /// At least this long between two restarts. Default 10 s.
    pub spacing: Duration,
    /// At most max(1, this share of the peers) down by our hand at once, in percent. Default 5.
    pub down_percent: u8,
}

/// Mass silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Suspicions within this count as together. Default 60 s.
    pub window: Duration,
    /// More than max(`min`, `percent` of the remote peers) trip it. Default 2.
    pub min: u32,
    /// See `min`. Default 5.
    pub percent: u8,
    /// How long all is held before one canary is healed. Default 5 min.
    pub canary_after: Duration,
}

/// The votes of other observers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumSettings {
    /// So many observers, this node among them, must agree before a remote peer is restarted; 2 ..= 32. Default 2.
    pub k: u8,
    /// So many may also shorten `dead_after`. Default true.
    pub fast: bool,
    /// A vote counts for so long after it was heard, and a node is heard for so long after its heartbeat; at least
    /// twice the interval of heartbeats. Default 3 s.
    pub lifetime: Duration,
    /// Others are asked over HTTP, too, and have two intervals to contradict instead of half of one. Default false.
    pub asks: bool,
}

/// One rung of a ladder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemedySettings {
    /// What it does.
    pub kind: RemedyKind,
    /// Causes it is for; empty: every cause that lies in the peer.
    pub causes: Vec<Cause>,
    /// How long the peer has for its own proof of life after the remedy ended. Default 60 s.
    pub verify_within: Duration,
    /// How long the execution may last before it is taken for failed (a lost executor must not hold the
    /// peer for ever).
    pub act_within: Duration,
    /// It makes a new incarnation: charged to the budgets. False for what only tells (and for a drain).
    pub restarts: bool,
    /// It acts on something that runs: the ladder passes it over for a life that has ended.
    pub needs_life: bool,
}

impl RemedySettings {
    /// Whether it may follow this cause.
    pub fn is_for(&self, cause: Cause) -> bool {
        self.causes.is_empty() || self.causes.contains(&cause)
    }
}

/// What a remedy does; the executors live in `remedies`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemedyKind {
    /// 503 on `/healthz/{peer}` for a bounded time, for a probe to see.
    Healthz,
    /// A signal to the fenced process.
    Signal,
    /// A command without a shell.
    Exec,
    /// A request, then a wait for a condition.
    Http,
    /// A restart, start or kill by the Docker engine.
    Docker,
    /// A restart, start or kill by systemd.
    Systemd,
    /// `CLIENT KILL` of the very connections that a `subscription` check condemned.
    ClientKill,
    /// The end of exactly the connections that a check condemned.
    SocketReset,
    /// A line in the log.
    Log,
    /// A message to people.
    Notify,
    /// Evidence is kept; the next rung follows at once, whatever came of it.
    Capture,
}

impl RemedyKind {
    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::Healthz,
        Self::Signal,
        Self::Exec,
        Self::Http,
        Self::Docker,
        Self::Systemd,
        Self::ClientKill,
        Self::SocketReset,
        Self::Log,
        Self::Notify,
        Self::Capture,
    ];

    /// As written in configuration, labels and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthz => "healthz",
            Self::Signal => "signal",
            Self::Exec => "exec",
            Self::Http => "http",
            Self::Docker => "docker",
            Self::Systemd => "systemd",
            Self::ClientKill => "client_kill",
            Self::SocketReset => "socket_reset",
            Self::Log => "log",
            Self::Notify => "notify",
            Self::Capture => "capture",
        }
    }

    /// It is meant to change something: it is charged, marked as done, and proven by the peer's own life.
    pub const fn touches(self) -> bool {
        !self.tells() && !matches!(self, Self::Capture)
    }

    /// It only tells somebody: no guard of an act is asked, and nothing is charged.
    pub const fn tells(self) -> bool {
        match self {
            Self::Log | Self::Notify => true,
            Self::Healthz
            | Self::Signal
            | Self::Exec
            | Self::Http
            | Self::Docker
            | Self::Systemd
            | Self::ClientKill
            | Self::SocketReset
            | Self::Capture => false,
        }
    }
}

impl Default for FailAfter {
    fn default() -> Self {
        Self { m: 3, n: 3 }
    }
}

impl Default for DetectorSettings {
    fn default() -> Self {
        Self::Deadline {
            suspect_after: Duration::from_secs(2),
            dead_after: Duration::from_secs(5),
        }
    }
}

impl Bounds {
    /// The defaults at that interval.
    pub fn at(interval: Duration) -> Self {
        Self {
            interval,
            suspect_after: interval.saturating_mul(10),
            dead_after: interval.saturating_mul(30),
            window: 200,
        }
    }
}

impl PhiSettings {
    /// The defaults at that interval.
    pub fn at(interval: Duration) -> Self {
        Self {
            bounds: Bounds::at(interval),
            suspect: 8.0,
            dead: 16.0,
            min_deviation: interval / 10,
            pause: interval,
        }
    }
}

impl ChenSettings {
    /// The defaults at that interval.
    pub fn at(interval: Duration) -> Self {
        Self {
            bounds: Bounds::at(interval),
            margin: interval.saturating_mul(3) / 2,
            dead_margin: interval.saturating_mul(4),
        }
    }
}

impl Default for BackoffSettings {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(10),
            max: Duration::from_secs(300),
            reset_after: Duration::from_secs(600),
        }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            count: 3,
            window: Duration::from_secs(600),
        }
    }
}

impl Default for GroupBudget {
    fn default() -> Self {
        Self {
            spacing: Duration::from_secs(10),
            down_percent: 5,
        }
    }
}

impl Default for QuorumSettings {
    fn default() -> Self {
        Self {
            k: 2,
            fast: true,
            lifetime: Duration::from_secs(3),
            asks: false,
        }
    }
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(60),
            min: 2,
            percent: 5,
            canary_after: Duration::from_secs(300),
        }
    }
}
