//! What the engines are told: two targets, and times so short that everything fits into a few passes.

use std::sync::Arc;
use std::time::Duration;

use crate::engine::cause::Cause;
use crate::engine::event::{Ballot, Heartbeat, Incarnation};
use crate::engine::settings::{
    BackoffSettings, BreakerSettings, Budget, CheckKind, CheckSettings, Decides, DetectorSettings, FailAfter,
    GroupBudget, PeerSettings, Plane, QuorumSettings, RemedyKind, RemedySettings, Settings, Source,
    WhenBusDown,
};
use crate::engine::time::Time;
use crate::world::Mutation;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

pub const NODES: usize = 3;
pub const TARGETS: usize = 2;
pub const CHANNEL: &str = "defib:g";
/// One step of the checker's clock.
pub const PASS: Duration = Duration::from_secs(2);
pub const SETTLE: Duration = Duration::from_secs(3);
pub const SPACING: Duration = Duration::from_secs(3);
pub const WINDOW: Duration = Duration::from_secs(60);
/// An executor begins nothing later than that after its grant.
pub const ACT_WITHIN: Duration = Duration::from_secs(2);
/// Restarts of one target in a window.
pub const COUNT: u32 = 2;
pub const CANARY: Duration = Duration::from_secs(6);
/// A silence is called so after that.
pub const SUSPECT: Duration = Duration::from_secs(2);

/// How the targets are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Containers of one machine that all three nodes look at: evidence that needs no bus.
    Local,
    /// Other nodes, known by their heartbeats: evidence from the bus alone. Both silent is mass silence.
    Remote,
}

pub fn name(target: usize) -> &'static str {
    ["a", "b"][target]
}

pub fn life(target: usize, number: u32) -> Incarnation {
    Incarnation(format!("boot:{}{number}", name(target)).into())
}

pub fn beat(target: usize, number: u32, now: Time) -> Heartbeat {
    let slot = now.as_nanos() / 1_000_000_000;
    Heartbeat {
        node: Some(name(target).into()),
        group: Some("g".into()),
        boot: Some(format!("{}{number}", name(target)).into()),
        slot: Some(slot),
        late_ms: Some(0),
        uptime_s: Some(slot as f64),
        interval_ms: Some(1000),
        goodbye: false,
        peers: Vec::new(),
        ballot: Ballot::default(),
    }
}

pub fn settings(kind: Kind, node: usize, mutation: Mutation) -> Settings {
    Settings {
        node: format!("node{node}").into(),
        group: "g".into(),
        boot: format!("run{node}").into(),
        dry_run: false,
        interval: S,
        bus_settle: SETTLE,
        group_channel: CHANNEL.into(),
        group_budget: GroupBudget {
            spacing: SPACING,
            down_percent: 5,
        },
        fleet_asks: !mutation.no_self_trust,
        breaker: BreakerSettings {
            window: if mutation.no_breaker { MS } else { 10 * S },
            min: 2,
            percent: 5,
            canary_after: CANARY,
        },
        quorum: QuorumSettings::default(),
        expectations: Vec::new(),
        peers: (0..TARGETS).map(|target| peer(kind, target, mutation)).collect(),
    }
}

fn peer(kind: Kind, target: usize, mutation: Mutation) -> PeerSettings {
    PeerSettings {
        name: name(target).into(),
        known_as: name(target).into(),
        local: kind == Kind::Local,
        grace: S,
        leave_within: 300 * S,
        // A remote one is restarted by the vote of two; one that trusts itself blindly asks nobody.
        single_observer: mutation.no_self_trust,
        when_bus_down: WhenBusDown::Hold,
        blockers: false,
        checks: vec![check(kind, target)],
        remedies: [RemedyKind::Exec, RemedyKind::Docker].map(remedy).into(),
        backoff: BackoffSettings {
            initial: S,
            max: 2 * S,
            reset_after: 600 * S,
        },
        budget: Budget {
            count: if mutation.no_floor { 2 * COUNT } else { COUNT },
            window: WINDOW,
        },
        healthz_hold: 45 * S,
    }
}

fn check(kind: Kind, target: usize) -> CheckSettings {
    let (kind, plane) = match kind {
        Kind::Local => (
            CheckKind::Active {
                fail_after: FailAfter { m: 1, n: 1 },
                interval: S,
                proves: &[Cause::PeerStuck],
            },
            Plane::Local,
        ),
        Kind::Remote => (
            CheckKind::Passive {
                source: Source::Node(Arc::from(name(target))),
                detector: DetectorSettings::Deadline {
                    suspect_after: SUSPECT,
                    dead_after: 3 * S,
                },
                cause: Cause::PeerSilent,
            },
            Plane::Bus,
        ),
    };
    CheckSettings {
        name: "check".into(),
        kind,
        plane,
        decides: Decides::Liveness,
        grace: S,
        needs: None,
    }
}

fn remedy(kind: RemedyKind) -> RemedySettings {
    RemedySettings {
        kind,
        causes: Vec::new(),
        verify_within: 2 * S,
        act_within: ACT_WITHIN,
        restarts: true,
        needs_life: false,
    }
}
