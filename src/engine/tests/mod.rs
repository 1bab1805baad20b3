//! The engine in virtual time: an input and a time give the full list of what follows.
//! Here is the world in which it is asked; each file beside this one asks about one theme.

mod captures;
mod detectors;
mod doubts;
mod episodes;
mod evidence;
mod guards;
mod healing;
mod ladder;
mod leaving;
mod ledger;
mod lives;
mod mass_silence;
mod operators;
mod outside;
mod owner;
mod persist;
mod proof;
mod reload;
mod reports;
mod self_trust;
mod silence;
mod trust;
mod votes;
mod words;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::cause::Cause;
use super::decision::{Decision, Grant, What};
use super::event::{
    Ballot, Body, CheckId, Event, Heartbeat, Incarnation, Link, LinkStatus, Next, Observation, Outcome,
    OwnerSeen, PeerId, RemedyOutcome, Report, Role, Word,
};
use super::guards::GuardName;
use super::outside::Errand;
use super::peer::Liveness;
use super::persist::{Persisted, Restored};
use super::self_trust::BusState;
use super::settings::{
    BackoffSettings, BreakerSettings, Budget, CheckKind, CheckSettings, Decides, DetectorSettings, FailAfter,
    GroupBudget, PeerSettings, Plane, QuorumSettings, RemedyKind, RemedySettings, Settings, Source,
    WhenBusDown,
};
use super::snapshot::PeerView;
use super::time::Time;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn heartbeat_check(channel: &str) -> CheckSettings {
    CheckSettings {
        name: "heartbeat".into(),
        kind: CheckKind::Passive {
            source: Source::Channels(vec![channel.into()]),
            detector: DetectorSettings::default(),
            cause: Cause::PeerSilent,
        },
        plane: Plane::Bus,
        decides: Decides::Liveness,
        grace: 10 * S,
        needs: None,
    }
}

fn http_check() -> CheckSettings {
    CheckSettings {
        name: "http".into(),
        kind: CheckKind::Active {
            fail_after: FailAfter { m: 2, n: 3 },
            interval: S,
            proves: &[Cause::PeerStuck],
        },
        plane: Plane::Local,
        decides: Decides::Liveness,
        grace: 10 * S,
        needs: None,
    }
}

fn process_check() -> CheckSettings {
    CheckSettings {
        name: "process".into(),
        kind: CheckKind::Process {
            fail_after: FailAfter { m: 2, n: 2 },
            interval: S,
        },
        plane: Plane::Local,
        decides: Decides::Liveness,
        grace: 10 * S,
        needs: None,
    }
}

fn remedy(kind: RemedyKind) -> RemedySettings {
    RemedySettings {
        kind,
        causes: Vec::new(),
        verify_within: 20 * S,
        act_within: 30 * S,
        restarts: kind.touches(),
        needs_life: false,
    }
}

fn peer(name: &str, local: bool, checks: Vec<CheckSettings>, kind: Option<RemedyKind>) -> PeerSettings {
    PeerSettings {
        name: name.into(),
        known_as: name.into(),
        local,
        grace: 5 * S,
        leave_within: 300 * S,
        single_observer: true,
        blockers: false,
        when_bus_down: WhenBusDown::Hold,
        checks,
        remedies: kind.map(remedy).into_iter().collect(),
        backoff: BackoffSettings::default(),
        budget: Budget::default(),
        healthz_hold: 45 * S,
    }
}

fn settings(peers: Vec<PeerSettings>) -> Settings {
    Settings {
        node: "us".into(),
        group: "g".into(),
        boot: "boot-us".into(),
        dry_run: false,
        interval: S,
        bus_settle: 30 * S,
        group_channel: "defib:g".into(),
        group_budget: GroupBudget {
            spacing: 10 * S,
            down_percent: 5,
        },
        fleet_asks: false,
        breaker: BreakerSettings::default(),
        quorum: QuorumSettings::default(),
        expectations: vec!["car".into()],
        peers,
    }
}

/// An engine, a bus that behaves as told, and a clock.
struct World {
    engine: Engine,
    now: Time,
    /// Answers PUBLISH and echoes.
    bus: bool,
    /// Links that are up have their role read each second, as the edge does.
    up: [bool; 2],
    role_due: Time,
    beating: Vec<(Duration, String, Time)>,
    due: VecDeque<(Time, Event)>,
    notices: Vec<(Time, String)>,
    whats: Vec<(Time, What)>,
    grants: Vec<(Time, Grant)>,
    persisted: Option<Persisted>,
    /// What an executor answers, at once.
    outcome: Option<RemedyOutcome>,
    replaced: Vec<(Time, Link)>,
    published: Vec<(Time, Heartbeat)>,
    /// What the outside was asked and told.
    errands: Vec<(Time, Errand)>,
    suspended: Duration,
}

impl World {
    fn new(settings: Settings) -> Self {
        Self::restored(settings, &Restored::Found(Box::default(), Duration::ZERO))
    }

    fn restored(settings: Settings, restored: &Restored) -> Self {
        let now = Time::from_origin(1_000 * S);
        let mut world = Self {
            engine: Engine::new(settings, restored, 7, now),
            now,
            bus: true,
            up: [false; 2],
            role_due: now,
            beating: Vec::new(),
            due: VecDeque::new(),
            notices: Vec::new(),
            whats: Vec::new(),
            grants: Vec::new(),
            persisted: None,
            outcome: Some(RemedyOutcome::Acted {
                detail: "done".into(),
            }),
            replaced: Vec::new(),
            published: Vec::new(),
            errands: Vec::new(),
            suspended: Duration::ZERO,
        };
        world.links(true);
        world
    }

    /// A world whose bus has settled.
    fn settled(settings: Settings) -> Self {
        let settle = settings.bus_settle;
        let mut world = Self::new(settings);
        world.run(settle + 5 * S);
        assert_eq!(world.engine.trust.state(), BusState::Trusted);
        assert!(!world.engine.trust.settling(world.now));
        world
    }

    fn links(&mut self, up: bool) {
        for link in Link::ALL {
            self.link(link, up);
        }
    }

    fn link(&mut self, link: Link, up: bool) {
        self.up[usize::from(link == Link::Sub)] = up;
        let status = if up {
            LinkStatus::Up {
                role: Role::Master,
                plain: true,
            }
        } else {
            LinkStatus::Down {
                reason: "gone".into(),
            }
        };
        self.feed(Event::Link { link, status });
    }

    fn outage(&mut self, on: bool) {
        self.bus = !on;
        self.links(!on);
    }

    fn feed(&mut self, event: Event) {
        self.engine.handle(event, self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(decision) = self.engine.poll_decision() {
            if let Decision::Publish(beat) = &decision {
                self.published.push((self.now, beat.clone()));
            }
            match decision {
                Decision::Publish(beat) if self.bus => {
                    let slot = beat.slot.unwrap();
                    self.due
                        .push_back((self.now + MS, Event::Published { slot, receivers: 1 }));
                    let channel: Arc<str> = "defib:g".into();
                    self.due.push_back((
                        self.now + MS,
                        Event::Message {
                            channel,
                            body: Body::Heartbeat(beat),
                        },
                    ));
                }
                Decision::Publish(beat) => {
                    self.due.push_back((
                        self.now + S,
                        Event::PublishFailed {
                            slot: beat.slot.unwrap(),
                        },
                    ));
                }
                Decision::ReplaceLink { link, .. } => self.replaced.push((self.now, link)),
                Decision::Heal(grant) => {
                    if let Some(outcome) = self.outcome.clone() {
                        self.due.push_back((
                            self.now + MS,
                            Event::RemedyEnded {
                                token: grant.token,
                                outcome,
                            },
                        ));
                    }
                    self.grants.push((self.now, grant));
                }
                Decision::Errand(errand) => self.errands.push((self.now, errand)),
                Decision::Persist(persisted) => self.persisted = Some(persisted),
                Decision::Notice(notice) => {
                    let who = notice.peer.as_deref().unwrap_or("-").to_owned();
                    self.notices.push((notice.at, format!("{who}: {}", notice.what)));
                    self.whats.push((notice.at, notice.what));
                }
            }
        }
    }

    /// Lets time pass, with everything that is due in it.
    fn run(&mut self, length: Duration) {
        let end = self.now + length;
        loop {
            self.due.make_contiguous().sort_by_key(|(at, _)| *at);
            let event = self.due.front().map_or(Time::MAX, |(at, _)| *at);
            let beat = self
                .beating
                .iter()
                .map(|(_, _, next)| *next)
                .min()
                .unwrap_or(Time::MAX);
            let role = if self.up == [true; 2] {
                self.role_due
            } else {
                Time::MAX
            };
            let next = self.engine.poll_timeout().min(event).min(beat).min(role);
            if next > end {
                self.now = end;
                self.feed(Event::Tick {
                    suspended: self.suspended,
                });
                return;
            }
            self.now = self.now.max(next);
            if role <= next {
                self.role_due = self.now + S;
                self.links(true);
            } else if event <= next {
                if let Some((_, event)) = self.due.pop_front() {
                    self.feed(event);
                }
            } else if beat <= next {
                for index in 0..self.beating.len() {
                    let (every, channel, at) = self.beating[index].clone();
                    if at <= self.now {
                        self.beating[index].2 = at + every;
                        if self.bus {
                            self.beat(&channel);
                        }
                    }
                }
            } else {
                self.feed(Event::Tick {
                    suspended: self.suspended,
                });
            }
        }
    }

    /// A foreign writer's message without identity.
    fn beat(&mut self, channel: &str) {
        self.feed(Event::Message {
            channel: channel.into(),
            body: Body::Opaque,
        });
    }

    fn uptime(&mut self, channel: &str, uptime: f64) {
        let beat = Heartbeat {
            node: None,
            group: None,
            boot: None,
            slot: None,
            late_ms: None,
            uptime_s: Some(uptime),
            interval_ms: None,
            goodbye: false,
            peers: Vec::new(),
            ballot: Ballot::default(),
        };
        self.feed(Event::Message {
            channel: channel.into(),
            body: Body::Heartbeat(beat),
        });
    }

    fn beats(&mut self, channel: &str) {
        self.beating.push((S, channel.to_owned(), self.now + 300 * MS));
    }

    fn running(&mut self, id: u32, life: &str) {
        self.feed(Event::Owner {
            peer: PeerId(id),
            seen: OwnerSeen::Running(Incarnation(life.into())),
        });
    }

    fn exits(&mut self, id: u32, life: &str) {
        self.feed(Event::Owner {
            peer: PeerId(id),
            seen: OwnerSeen::Exited(Incarnation(life.into())),
        });
    }

    fn observe(&mut self, id: u32, index: u16, outcome: Outcome) {
        let check = CheckId {
            peer: PeerId(id),
            index,
        };
        self.feed(Event::Observation(Observation {
            check,
            began: self.now,
            outcome,
        }));
    }

    fn fail(&mut self, id: u32, index: u16) {
        self.observe(
            id,
            index,
            Outcome::Fail {
                cause: Cause::PeerStuck,
                detail: "status 503".into(),
            },
        );
    }

    fn view(&self, id: usize) -> PeerView {
        self.engine.snapshot(self.now).peers[id].clone()
    }

    fn liveness(&self, id: usize) -> Liveness {
        self.view(id).liveness
    }

    fn refusal(&self, id: usize) -> Option<GuardName> {
        self.view(id)
            .episode
            .and_then(|episode| episode.refusal)
            .map(|refusal| refusal.guard)
    }

    fn saw(&self, words: &str) -> bool {
        self.notices.iter().any(|(_, notice)| notice.contains(words))
    }

    /// Feeds passing looks of the owner watch, as its edge does each second.
    fn looks(&mut self, id: u32, index: u16, times: u32) {
        for _ in 0..times {
            self.run(S);
            self.observe(id, index, Outcome::Pass);
        }
    }
}

fn process_peer() -> Settings {
    settings(vec![peer(
        "app",
        true,
        vec![process_check()],
        Some(RemedyKind::Exec),
    )])
}

/// A heartbeat as another node of the group sends it.
fn node_beat(node: &str, boot: &str, slot: u64, goodbye: bool) -> Event {
    Event::Message {
        channel: "defib:g".into(),
        body: Body::Heartbeat(Heartbeat {
            node: Some(node.into()),
            group: Some("g".into()),
            boot: Some(boot.into()),
            slot: Some(slot),
            late_ms: Some(0),
            uptime_s: Some(slot as f64),
            interval_ms: Some(1_000),
            goodbye,
            peers: Vec::new(),
            ballot: Ballot::default(),
        }),
    }
}

fn node_check(node: &str) -> CheckSettings {
    let mut check = heartbeat_check("");
    if let CheckKind::Passive { source, .. } = &mut check.kind {
        *source = Source::Node(node.into());
    }
    check
}
