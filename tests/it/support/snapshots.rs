//! Snapshots made by hand, for what only shows them.

use std::sync::Arc;
use std::time::Duration;

use defib::engine::cause::Cause;
use defib::engine::event::{Incarnation, PeerId, Role};
use defib::engine::peer::Liveness;
use defib::engine::self_trust::BusState;
use defib::engine::settings::{
    BackoffSettings, BreakerSettings, Budget, Decides, GroupBudget, PeerSettings, Plane, QuorumSettings,
    RemedyKind, RemedySettings, Settings, WhenBusDown,
};
use defib::engine::snapshot::{
    CheckView, EpisodePhase, EpisodeView, HealthzView, LinkView, PeerView, QuorumView, Snapshot, TrustView,
};
use defib::engine::time::Time;

/// So many seconds after the clock's origin.
pub(crate) fn at(seconds: u64) -> Time {
    Time::from_origin(Duration::from_secs(seconds))
}

/// A node that trusts its bus and has run for 100 s, with these peers.
pub(crate) fn snapshot(peers: Vec<PeerView>) -> Snapshot {
    let link = LinkView {
        up: true,
        role: Role::Master,
        detail: None,
        replaced: 0,
    };
    Snapshot {
        at: at(100),
        node: "base-1".into(),
        group: "base-station".into(),
        boot: "b007".into(),
        uptime: Duration::from_secs(100),
        dry_run: false,
        draining: false,
        pause: None,
        trust: TrustView {
            bus: BusState::Trusted,
            since: at(1),
            detail: "echoes return".to_owned(),
            publishing: link.clone(),
            subscribed: link,
            last_echo: Some(at(100)),
            echo_took: Some(Duration::from_millis(1)),
            settling_until: None,
            stalled_until: None,
            stalls: 0,
        },
        mass_silence: None,
        quorum: QuorumView {
            k: 2,
            live: 1,
            known: 1,
            ..QuorumView::default()
        },
        reloads: 0,
        peers: (0u32..)
            .map(PeerId)
            .zip(peers)
            .map(|(id, peer)| PeerView { id, ..peer })
            .collect(),
    }
}

/// A local peer that is alive, with one `heartbeat` check and no remedy.
pub(crate) fn peer(name: &str) -> PeerView {
    PeerView {
        id: PeerId(0),
        name: name.into(),
        local: true,
        liveness: Liveness::Alive,
        since: at(10),
        cause: None,
        detail: String::new(),
        incarnation: Some(Incarnation("proc:b007:4711:99".into())),
        incarnations: 0,
        left: false,
        leave_overdue: false,
        ever_alive: true,
        started: true,
        ready: true,
        last_life: Some(at(99)),
        checks: vec![CheckView {
            name: "heartbeat".into(),
            plane: Plane::Bus,
            decides: Decides::Liveness,
            verdict: Liveness::Alive,
            cause: None,
            detail: "a heartbeat each second".to_owned(),
            last_pass: Some(at(99)),
            next: Some(at(101)),
        }],
        remedies: Vec::new(),
        pause: None,
        votes: None,
        episode: None,
        healthz: None,
        budget_left: 3,
        remedies_granted: 0,
    }
}

/// The same with a `healthz` remedy.
pub(crate) fn with_healthz(mut peer: PeerView) -> PeerView {
    peer.remedies = vec![RemedyKind::Healthz];
    peer.healthz = Some(HealthzView::default());
    peer
}

/// The same, dead for 40 s, waiting for the guards.
pub(crate) fn dead(mut peer: PeerView) -> PeerView {
    peer.liveness = Liveness::Dead;
    peer.since = at(60);
    peer.cause = Some(Cause::PeerStuck);
    "stopped by a signal (state T)".clone_into(&mut peer.detail);
    peer.last_life = Some(at(55));
    peer.ready = false;
    for check in &mut peer.checks {
        check.verdict = Liveness::Dead;
        check.cause = Some(Cause::PeerSilent);
        "silent for 45 s".clone_into(&mut check.detail);
        check.last_pass = Some(at(55));
    }
    peer.episode = Some(EpisodeView {
        id: 7,
        since: at(58),
        cause: Cause::PeerStuck,
        condemned_by: vec!["heartbeat".into()],
        phase: EpisodePhase::Waiting,
        remedies: 0,
        remedy: peer.remedies.first().copied(),
        refusal: None,
    });
    peer
}

/// The same, dead and pulsing until then.
pub(crate) fn pulsing(peer: PeerView, until: Time) -> PeerView {
    let mut peer = dead(with_healthz(peer));
    peer.healthz = Some(HealthzView {
        pulsing_until: Some(until),
    });
    peer
}

/// The settings of a node with the peers of this snapshot.
pub(crate) fn settings(snapshot: &Snapshot) -> Settings {
    Settings {
        node: Arc::clone(&snapshot.node),
        group: Arc::clone(&snapshot.group),
        boot: Arc::clone(&snapshot.boot),
        dry_run: snapshot.dry_run,
        interval: Duration::from_secs(1),
        bus_settle: Duration::from_secs(60),
        group_channel: "defib".into(),
        group_budget: GroupBudget::default(),
        fleet_asks: false,
        breaker: BreakerSettings::default(),
        quorum: QuorumSettings::default(),
        expectations: Vec::new(),
        peers: snapshot.peers.iter().map(peer_settings).collect(),
    }
}

fn peer_settings(peer: &PeerView) -> PeerSettings {
    let rung = |kind: &RemedyKind| RemedySettings {
        kind: *kind,
        causes: Vec::new(),
        verify_within: Duration::from_secs(60),
        act_within: Duration::from_secs(60),
        restarts: true,
        needs_life: false,
    };
    PeerSettings {
        name: Arc::clone(&peer.name),
        known_as: peer.name.clone(),
        local: peer.local,
        grace: Duration::from_secs(10),
        leave_within: Duration::from_secs(300),
        single_observer: false,
        blockers: false,
        when_bus_down: WhenBusDown::Hold,
        checks: Vec::new(),
        remedies: peer.remedies.iter().map(rung).collect(),
        backoff: BackoffSettings::default(),
        budget: Budget::default(),
        healthz_hold: Duration::from_secs(45),
    }
}
