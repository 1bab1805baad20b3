//! Who is there: nodes, their settings, the processes, and what each node watches.

use std::sync::Arc;
use std::time::Duration;

use super::rng::Rng;
use crate::engine::cause::Cause;
use crate::engine::event::ExpectationId;
use crate::engine::settings::{
    BackoffSettings, Bounds, BreakerSettings, Budget, CheckKind, CheckSettings, ChenSettings, Decides,
    DetectorSettings, FailAfter, GroupBudget, PeerSettings, PhiSettings, Plane, QuorumSettings, RemedyKind,
    RemedySettings, Settings, Source, WhenBusDown,
};

pub(super) const GROUP: &str = "defib:g";
const S: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) settle: Duration,
    /// How often a link's role is read.
    pub(super) role_every: Duration,
    /// The server counts receivers truly.
    pub(super) plain: bool,
    pub(super) nodes: Vec<NodePlan>,
    pub(super) processes: Vec<ProcessPlan>,
}

#[derive(Debug)]
pub(super) struct NodePlan {
    /// Without the boot id, which each run has for itself.
    pub(super) settings: Settings,
    /// What stands behind each configured peer.
    pub(super) watched: Vec<Watched>,
    /// Ahead of the world's clock by so much.
    pub(super) skew: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) target: Target,
    pub(super) checks: Vec<Look>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Process(usize),
    Node(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Process,
    Http,
    Channel,
    Node,
    Claim,
}

#[derive(Clone, Debug)]
pub(super) struct ProcessPlan {
    pub(super) name: Arc<str>,
    pub(super) home: usize,
    pub(super) channel: Arc<str>,
    pub(super) voice: Voice,
    /// Its health endpoint fails while the broker is away (livekit#4663).
    pub(super) health_needs_broker: bool,
    /// It beats only while the car is there.
    pub(super) needs_car: bool,
    /// Restarted by its own supervisor, after so long.
    pub(super) supervised: Option<Duration>,
    pub(super) on_outage: OnOutage,
    /// A probe looks at `/healthz/{peer}`.
    pub(super) probed: bool,
}

/// What it says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Voice {
    Booted,
    Uptime,
    Opaque,
}

/// What a client does when the broker goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnOutage {
    Stays,
    ExitsAtOnce,
    /// As a stock redis-py 8 `listen()` does: 6 to 7 s after Redis stopped.
    ExitsLate,
}

impl Scenario {
    pub(super) fn draw(rng: &mut Rng, nodes: Option<usize>) -> Self {
        let count = nodes.unwrap_or_else(|| 3 + rng.below(6)).clamp(1, 64);
        let processes = draw_processes(rng, count);
        let settle = Duration::from_secs(20 + 10 * rng.below(5) as u64);
        // Of its own, so that worlds which once failed stay what they were.
        let mut chooser = Rng::new(rng.clone().next());
        let mut nodes: Vec<NodePlan> = (0..count)
            .map(|node| draw_node(rng, node, count, settle, &processes))
            .collect();
        draw_detectors(&mut chooser, &mut nodes);
        draw_quorums(&mut chooser, &mut nodes);
        Self {
            settle,
            role_every: if rng.chance(50) { S } else { 5 * S },
            plain: rng.chance(85),
            nodes,
            processes,
        }
    }
}

impl Scenario {
    /// All ask the group's store; a process is one peer by one name, and one node's word is enough.
    pub(super) fn share(&mut self) {
        for node in &mut self.nodes {
            node.settings.fleet_asks = true;
            for (peer, of) in node.settings.peers.iter_mut().zip(&node.watched) {
                if let Target::Process(process) = of.target {
                    peer.name = Arc::clone(&self.processes[process].name);
                    peer.known_as = Arc::clone(&peer.name);
                }
                peer.single_observer = true;
            }
        }
    }
}

fn draw_processes(rng: &mut Rng, nodes: usize) -> Vec<ProcessPlan> {
    let mut processes = Vec::new();
    for home in 0..nodes {
        for place in 0..=rng.below(3) {
            let name: Arc<str> = format!("n{home}-{}", ["feed", "recorder", "pusher"][place]).into();
            processes.push(ProcessPlan {
                channel: format!("hb:{name}").into(),
                name,
                home,
                voice: [Voice::Booted, Voice::Booted, Voice::Uptime, Voice::Opaque][rng.below(4)],
                health_needs_broker: rng.chance(30),
                needs_car: rng.chance(15),
                supervised: rng.chance(35).then(|| rng.millis(50, 4_000)),
                on_outage: [OnOutage::Stays, OnOutage::ExitsAtOnce, OnOutage::ExitsLate][rng.below(3)],
                probed: rng.chance(20),
            });
        }
    }
    processes
}

fn draw_node(
    rng: &mut Rng,
    node: usize,
    nodes: usize,
    settle: Duration,
    processes: &[ProcessPlan],
) -> NodePlan {
    let mut peers = Vec::new();
    let mut watched = Vec::new();
    let mut add = |peer: PeerSettings, of: Watched| {
        peers.push(peer);
        watched.push(of);
    };
    for (index, process) in processes.iter().enumerate() {
        if process.home == node {
            let (peer, of) = local(rng, index, process);
            add(peer, of);
        } else if rng.chance(35) {
            let (peer, of) = remote_process(rng, index, process);
            add(peer, of);
        }
    }
    for other in (0..nodes).filter(|other| *other != node) {
        if rng.chance(75) {
            let (peer, of) = remote_node(rng, other);
            add(peer, of);
        }
    }
    let settings = Settings {
        node: format!("n{node}").into(),
        group: "g".into(),
        boot: "".into(),
        dry_run: rng.chance(4),
        interval: S,
        bus_settle: settle,
        group_channel: GROUP.into(),
        group_budget: GroupBudget::default(),
        fleet_asks: false,
        breaker: BreakerSettings::default(),
        quorum: QuorumSettings::default(),
        expectations: vec!["car".into()],
        peers,
    };
    NodePlan {
        settings,
        watched,
        skew: rng.millis(0, 10_000_000),
    }
}

fn local(rng: &mut Rng, index: usize, process: &ProcessPlan) -> (PeerSettings, Watched) {
    let mut looks = Vec::new();
    if rng.chance(85) {
        looks.push(Look::Process);
    }
    if rng.chance(60) {
        looks.push(Look::Http);
    }
    if looks.is_empty() || rng.chance(60) {
        looks.push(Look::Channel);
    }
    let kind = if process.probed {
        Some(RemedyKind::Healthz)
    } else {
        [
            Some(RemedyKind::Signal),
            Some(RemedyKind::Exec),
            Some(RemedyKind::Http),
            Some(RemedyKind::Log),
            None,
        ][rng.below(9) / 2]
    };
    let checks = looks
        .iter()
        .map(|look| check(rng, *look, process, &process.name))
        .collect();
    let mut settings = peer(rng, &process.name, checks, kind);
    settings.local = true;
    (
        settings,
        Watched {
            target: Target::Process(index),
            checks: looks,
        },
    )
}

fn remote_process(rng: &mut Rng, index: usize, process: &ProcessPlan) -> (PeerSettings, Watched) {
    let look = if process.needs_car || rng.chance(60) {
        Look::Claim
    } else {
        Look::Channel
    };
    let checks = vec![check(rng, look, process, &process.name)];
    let kind = [None, Some(RemedyKind::Exec), Some(RemedyKind::Http)][rng.below(3)];
    let name = format!("far-{}", process.name);
    (
        peer(rng, &name, checks, kind),
        Watched {
            target: Target::Process(index),
            checks: vec![look],
        },
    )
}

fn remote_node(rng: &mut Rng, other: usize) -> (PeerSettings, Watched) {
    let name = format!("n{other}");
    let check = CheckSettings {
        name: "heartbeat".into(),
        kind: passive(Source::Node(name.clone().into())),
        plane: Plane::Bus,
        decides: Decides::Liveness,
        grace: 10 * S,
        needs: None,
    };
    let kind = [None, Some(RemedyKind::Log), Some(RemedyKind::Http)][rng.below(3)];
    (
        peer(rng, &name, vec![check], kind),
        Watched {
            target: Target::Node(other),
            checks: vec![Look::Node],
        },
    )
}

fn peer(rng: &mut Rng, name: &str, checks: Vec<CheckSettings>, kind: Option<RemedyKind>) -> PeerSettings {
    let remedy = |kind| RemedySettings {
        kind,
        causes: Vec::new(),
        verify_within: 20 * S,
        act_within: 10 * S,
        restarts: kind.touches(),
        needs_life: false,
    };
    PeerSettings {
        name: name.into(),
        known_as: name.into(),
        local: false,
        grace: Duration::from_secs(5 + rng.below(6) as u64),
        leave_within: 300 * S,
        single_observer: rng.chance(75),
        blockers: false,
        when_bus_down: WhenBusDown::Hold,
        checks,
        remedies: kind.map(remedy).into_iter().collect(),
        backoff: BackoffSettings::default(),
        budget: Budget::default(),
        healthz_hold: 45 * S,
    }
}

/// Two of five passive checks learn how long a silence is too long.
fn draw_detectors(rng: &mut Rng, nodes: &mut [NodePlan]) {
    let checks = nodes
        .iter_mut()
        .flat_map(|node| &mut node.settings.peers)
        .flat_map(|peer| &mut peer.checks);
    for check in checks {
        if let CheckKind::Passive { detector, .. } = &mut check.kind {
            let bounds = Bounds {
                suspect_after: 6 * S,
                dead_after: 12 * S,
                window: [1, 10, 200][rng.below(3)],
                ..Bounds::at(S)
            };
            let (mut phi, mut chen) = (PhiSettings::at(S), ChenSettings::at(S));
            (phi.bounds, chen.bounds) = (bounds, bounds);
            *detector = match rng.below(5) {
                0 => DetectorSettings::Phi(phi),
                1 => DetectorSettings::Chen(chen),
                _ => *detector,
            };
        }
    }
}

/// Most votes are fast; some groups ask for three.
fn draw_quorums(rng: &mut Rng, nodes: &mut [NodePlan]) {
    let k = if rng.chance(80) { 2 } else { 3 };
    for node in nodes {
        node.settings.quorum.k = k;
        node.settings.quorum.fast = rng.chance(90);
    }
}

fn passive(source: Source) -> CheckKind {
    CheckKind::Passive {
        source,
        detector: DetectorSettings::default(),
        cause: Cause::PeerSilent,
    }
}

fn check(rng: &mut Rng, look: Look, process: &ProcessPlan, name: &Arc<str>) -> CheckSettings {
    let home: Arc<str> = format!("n{}", process.home).into();
    let (label, kind, plane) = match look {
        Look::Process => (
            "process",
            CheckKind::Process {
                fail_after: FailAfter { m: 2, n: 2 },
                interval: S,
            },
            Plane::Local,
        ),
        Look::Http => (
            "http",
            CheckKind::Active {
                fail_after: if rng.chance(50) {
                    FailAfter { m: 2, n: 3 }
                } else {
                    FailAfter::default()
                },
                interval: S,
                proves: &[Cause::PeerStuck],
            },
            Plane::Local,
        ),
        Look::Channel | Look::Node => (
            "heartbeat",
            passive(Source::Channels(vec![Arc::clone(&process.channel)])),
            Plane::Bus,
        ),
        Look::Claim => (
            "claim",
            passive(Source::Claim {
                node: home,
                peer: Arc::clone(name),
            }),
            Plane::Bus,
        ),
    };
    CheckSettings {
        name: label.into(),
        kind,
        plane,
        decides: Decides::Liveness,
        grace: 10 * S,
        needs: (look == Look::Channel && process.needs_car).then_some(ExpectationId(0)),
    }
}
