//! An engine with many peers, on a bus that works: what its events cost, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use defib::engine::Engine;
use defib::engine::cause::Cause;
use defib::engine::decision::Decision;
use defib::engine::event::{Body, Event, Heartbeat, Link, LinkStatus, Role};
use defib::engine::persist::Restored;
use defib::engine::settings::{
    BackoffSettings, BreakerSettings, Budget, CheckKind, CheckSettings, Decides, DetectorSettings,
    GroupBudget, PeerSettings, Plane, QuorumSettings, Settings, Source, WhenBusDown,
};
use defib::engine::time::Time;

use crate::crowd;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Whose messages are the peers' life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// Each peer has a channel of its own.
    Channel,
    /// All nodes of the group share one.
    Node,
}

/// The engine, its peers' next heartbeats, and the time.
pub(crate) struct Judge {
    engine: Engine,
    now: Time,
    /// Between two heartbeats of different peers: each peer sends one a second.
    step: Duration,
    group: Arc<str>,
    by: By,
    channels: Vec<Arc<str>>,
    beats: Vec<Heartbeat>,
    next: usize,
}

impl Judge {
    /// All peers have been heard twice, and nothing is under way.
    pub(crate) fn new(by: By, peers: usize) -> Self {
        Self::with(by, peers, DetectorSettings::default())
    }

    /// The same, by another detector.
    pub(crate) fn with(by: By, peers: usize, detector: DetectorSettings) -> Self {
        let settings = settings(by, peers, detector);
        let group = Arc::clone(&settings.group_channel);
        let now = Time::from_origin(SECOND);
        let mut judge = Self {
            engine: Engine::new(settings, &Restored::Missing, 1, now),
            now,
            step: SECOND / u32::try_from(peers).unwrap_or(u32::MAX),
            channels: match by {
                By::Channel => (0..peers).map(|index| channel(index).into()).collect(),
                By::Node => vec![Arc::clone(&group)],
            },
            group,
            by,
            beats: (0..peers).map(|index| crowd::beat(index, 1, 1000)).collect(),
            next: 0,
        };
        for link in Link::ALL {
            let status = LinkStatus::Up {
                role: Role::Master,
                plain: true,
            };
            judge.engine.handle(Event::Link { link, status }, now);
        }
        for _ in 0..2 * peers {
            judge.heartbeat();
        }
        judge
    }

    /// One heartbeat of the next peer, and whatever time and the bus bring meanwhile. The heartbeat is made here,
    /// as the bus edge does for each: its names are shared, not copied.
    pub(crate) fn heartbeat(&mut self) {
        self.now = self.now + self.step;
        let beat = &mut self.beats[self.next];
        let beat = {
            let slot = beat.slot.map(|slot| slot + 1);
            beat.slot = slot;
            beat.clone()
        };
        let channel = match self.by {
            By::Channel => Arc::clone(&self.channels[self.next]),
            By::Node => Arc::clone(&self.channels[0]),
        };
        self.next = (self.next + 1) % self.beats.len();
        let body = Body::Heartbeat(beat);
        self.engine.handle(Event::Message { channel, body }, self.now);
        while let Some(decision) = self.engine.poll_decision() {
            if let Decision::Publish(own) = decision {
                self.echo(own);
            }
        }
    }

    /// The bus took our heartbeat and gives it back.
    fn echo(&mut self, own: Heartbeat) {
        let slot = own.slot.unwrap_or_default();
        let receivers = 1;
        self.engine.handle(Event::Published { slot, receivers }, self.now);
        let channel = Arc::clone(&self.group);
        let body = Body::Heartbeat(own);
        self.engine.handle(Event::Message { channel, body }, self.now);
    }

    /// Peers that are held to be alive.
    pub(crate) fn alive(&self) -> usize {
        let snapshot = self.engine.snapshot(self.now);
        let alive =
            |peer: &&defib::engine::snapshot::PeerView| peer.liveness == defib::engine::peer::Liveness::Alive;
        snapshot.peers.iter().filter(alive).count()
    }
}

fn channel(index: usize) -> String {
    format!("heartbeat:{}", crowd::name(index))
}

fn settings(by: By, peers: usize, detector: DetectorSettings) -> Settings {
    Settings {
        node: "observer".into(),
        group: crowd::GROUP.into(),
        boot: "boot-of-the-observer".into(),
        dry_run: false,
        interval: SECOND,
        bus_settle: Duration::from_secs(60),
        group_channel: crowd::CHANNEL.into(),
        group_budget: GroupBudget::default(),
        fleet_asks: false,
        breaker: BreakerSettings::default(),
        quorum: QuorumSettings::default(),
        expectations: Vec::new(),
        peers: (0..peers).map(|index| peer(by, index, detector)).collect(),
    }
}

fn peer(by: By, index: usize, detector: DetectorSettings) -> PeerSettings {
    let source = match by {
        By::Channel => Source::Channels(vec![channel(index).into()]),
        By::Node => Source::Node(crowd::name(index).into()),
    };
    PeerSettings {
        name: crowd::name(index).into(),
        known_as: crowd::name(index).into(),
        local: false,
        grace: Duration::from_secs(10),
        leave_within: Duration::from_secs(300),
        single_observer: false,
        blockers: false,
        when_bus_down: WhenBusDown::Hold,
        checks: vec![CheckSettings {
            name: "heartbeat".into(),
            kind: CheckKind::Passive {
                source,
                detector,
                cause: Cause::PeerSilent,
            },
            plane: Plane::Bus,
            decides: Decides::Liveness,
            grace: Duration::from_secs(10),
            needs: None,
        }],
        remedies: Vec::new(),
        backoff: BackoffSettings::default(),
        budget: Budget::default(),
        healthz_hold: Duration::from_secs(45),
    }
}
