//! The engine in virtual time: an input and a time give the full list of what follows.

mod ladder;
mod owner;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::cause::Cause;
use super::decision::{Decision, Grant, What};
use super::event::{
    Body, CheckId, Event, ExpectationId, Heartbeat, Incarnation, Link, LinkStatus, Observation,
    OperatorRequest, Outcome, OwnerSeen, PeerClaim, PeerId, RemedyOutcome, Role,
};
use super::guards::GuardName;
use super::peer::Liveness;
use super::persist::{Persisted, Restored};
use super::self_trust::BusState;
use super::settings::{
    BackoffSettings, BreakerSettings, Budget, CheckKind, CheckSettings, Decides, DetectorSettings, FailAfter,
    GroupBudget, PeerSettings, Plane, RemedyKind, RemedySettings, Settings, Source,
};
use super::snapshot::{EpisodePhase, PeerView};
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
        restarts: kind != RemedyKind::Log,
    }
}

fn peer(name: &str, local: bool, checks: Vec<CheckSettings>, kind: Option<RemedyKind>) -> PeerSettings {
    PeerSettings {
        name: name.into(),
        local,
        grace: 5 * S,
        single_observer: true,
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
        breaker: BreakerSettings::default(),
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

#[test]
fn silence_becomes_suspicion_and_death_and_a_beat_ends_both() {
    let mut world = World::settled(settings(vec![peer(
        "feed",
        true,
        vec![heartbeat_check("hb")],
        None,
    )]));
    assert_eq!(world.liveness(0), Liveness::Unknown, "never seen is not dead");
    world.beat("hb");
    assert_eq!(world.liveness(0), Liveness::Alive);
    world.run(1_900 * MS);
    assert_eq!(world.liveness(0), Liveness::Alive);
    world.run(1_400 * MS);
    assert_eq!(
        world.liveness(0),
        Liveness::Suspect,
        "suspect after 2 s, covered by two echoes at 3.25 s at the latest"
    );
    world.run(3_000 * MS);
    assert_eq!(
        world.liveness(0),
        Liveness::Dead,
        "dead after 5 s, covered at 6.25 s at the latest"
    );
    assert_eq!(world.view(0).cause, Some(Cause::PeerSilent));
    world.beat("hb");
    assert_eq!(world.liveness(0), Liveness::Alive);
    assert!(world.saw("feed: recovered by itself"), "{:?}", world.notices);
}

#[test]
fn s02_data_on_the_channel_is_life_of_the_peer_that_owns_it() {
    let mut world = World::settled(settings(vec![
        peer("feed", true, vec![heartbeat_check("hb")], None),
        peer("data", true, vec![heartbeat_check("can_messages")], None),
    ]));
    world.beat("hb");
    world.beats("can_messages");
    world.run(10 * S);
    assert_eq!(
        world.liveness(0),
        Liveness::Dead,
        "the producer of heartbeats is reported separately"
    );
    assert_eq!(world.liveness(1), Liveness::Alive);
    assert_eq!(world.engine.trust.state(), BusState::Trusted);
}

#[test]
fn a_witnessed_exit_is_healed_once_an_echo_outlives_it() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 3);
    world.exits(0, "a");
    assert_eq!(world.liveness(0), Liveness::Dead);
    assert_eq!(world.view(0).cause, Some(Cause::PeerExited));
    assert!(
        world.grants.is_empty(),
        "not before the bus is known to have outlived it"
    );
    let at = world.now;
    world.run(5 * MS);
    assert_eq!(world.grants.len(), 1, "{:?}", world.notices);
    assert!(
        world.grants[0].0.since(at) <= 2 * MS,
        "a heartbeat out of turn asks the bus at once"
    );
    assert!(world.grants[0].1.exited);
    world.running(0, "b");
    world.looks(0, 0, 1);
    assert_eq!(world.liveness(0), Liveness::Alive);
    assert!(world.saw("app: recovered, proven"), "{:?}", world.notices);
}

#[test]
fn an_exit_that_outruns_the_news_of_the_outage_restarts_nothing() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 3);
    world.run(10 * MS);
    world.bus = false;
    world.exits(0, "a");
    world.run(9 * MS);
    world.links(false);
    world.run(420 * S);
    assert_eq!(world.liveness(0), Liveness::Dead, "a local exit is never hidden");
    assert_eq!(
        world.refusal(0),
        Some(GuardName::SelfTrust),
        "{:#?}",
        world.notices
    );
    world.outage(false);
    world.run(20 * S);
    assert_eq!(world.refusal(0), Some(GuardName::BusSettle));
    assert!(world.grants.is_empty());
    world.run(20 * S);
    assert_eq!(
        world.grants.len(),
        1,
        "what is still gone after the settling time is healed"
    );
}

#[test]
fn s08_an_outage_of_seven_minutes_judges_nobody() {
    let mut world = World::settled(settings(vec![
        peer("feed", true, vec![heartbeat_check("hb")], Some(RemedyKind::Exec)),
        peer("http", true, vec![http_check()], Some(RemedyKind::Healthz)),
    ]));
    world.beats("hb");
    world.observe(1, 0, Outcome::Pass);
    world.running(1, "a");
    world.run(10 * S);
    world.observe(1, 0, Outcome::Pass);
    world.outage(true);
    world.run(10 * S);
    assert_eq!(world.liveness(0), Liveness::Unknown);
    assert_eq!(world.view(0).cause, Some(Cause::BrokerUnreachable));
    for _ in 0..41 {
        // A health endpoint that fails because Redis is away (livekit#4663).
        world.fail(1, 0);
        world.run(10 * S);
    }
    assert_eq!(world.view(1).healthz.unwrap().pulsing_until, None);
    world.outage(false);
    world.run(5 * S);
    assert_eq!(world.liveness(0), Liveness::Alive, "the view is whole within 5 s");
    world.run(40 * S);
    assert!(world.grants.is_empty(), "{:?}", world.grants);
}

#[test]
fn s05_nothing_is_published_while_the_link_is_down() {
    let mut world = World::settled(settings(Vec::new()));
    world.outage(true);
    world.due.clear();
    world.run(10 * S);
    assert!(world.due.is_empty());
}

#[test]
fn s07_a_deaf_subscription_is_replaced_and_blames_nobody() {
    let mut world = World::settled(settings(vec![peer(
        "feed",
        true,
        vec![heartbeat_check("hb")],
        None,
    )]));
    world.beats("hb");
    world.run(5 * S);
    let dark = world.now;
    world.bus = false;
    // The server takes our heartbeats and gives them to another subscriber: nothing comes back.
    for _ in 0..30 {
        world.run(100 * MS);
        let slots: Vec<u64> = world.engine.trust.under_way_slots();
        for slot in slots {
            world.feed(Event::Published { slot, receivers: 1 });
        }
    }
    let (at, link) = world.replaced[0];
    assert_eq!(link, Link::Sub);
    assert!(at.since(dark) <= 2_700 * MS, "{:?}", at.since(dark));
    assert_eq!(world.engine.trust.state(), BusState::SelfDeaf);
    assert_ne!(world.liveness(0), Liveness::Dead);
    assert_ne!(world.liveness(0), Liveness::Suspect);
    world.link(Link::Sub, false);
    world.bus = true;
    world.link(Link::Sub, true);
    world.run(3 * S);
    assert_eq!(world.engine.trust.state(), BusState::Trusted);
    assert!(
        !world.engine.trust.settling(world.now),
        "our own replacement is no outage"
    );
    assert_eq!(world.liveness(0), Liveness::Alive);
}

#[test]
fn nobody_receives_our_heartbeat_means_deaf_at_once_on_a_plain_server() {
    let mut world = World::settled(settings(Vec::new()));
    world.bus = false;
    world.run(1_100 * MS);
    let slot = world.engine.trust.under_way_slots()[0];
    world.feed(Event::Published { slot, receivers: 0 });
    assert_eq!(world.engine.trust.state(), BusState::SelfDeaf);
    assert_eq!(world.replaced.len(), 1);
}

#[test]
fn s31_own_pauses_change_no_verdict_and_judging_goes_on_within_3_s() {
    for pause in [200 * MS, 3 * S, 60 * S] {
        let mut world = World::settled(settings(vec![
            peer("alive", true, vec![heartbeat_check("hb")], None),
            peer("dead", true, vec![heartbeat_check("other")], None),
        ]));
        world.beats("hb");
        world.beat("other");
        world.run(20 * S);
        assert_eq!(
            (world.liveness(0), world.liveness(1)),
            (Liveness::Alive, Liveness::Dead)
        );
        let told = world.notices.len();
        world.now = world.now + pause;
        world.due.clear();
        world.run(2 * S);
        let changed: Vec<_> = world.notices[told..]
            .iter()
            .filter(|(_, notice)| notice.contains("->"))
            .collect();
        assert!(changed.is_empty(), "{pause:?}: {changed:?}");
        assert_eq!(
            (world.liveness(0), world.liveness(1)),
            (Liveness::Alive, Liveness::Dead),
            "{pause:?}"
        );
        world.beating.clear();
        world.run(7 * S);
        assert_eq!(world.liveness(0), Liveness::Dead, "{pause:?}: it judges again");
    }
}

#[test]
fn s31_a_constant_offset_of_boottime_is_no_pause_and_a_change_is() {
    let mut world = World::new(settings(Vec::new()));
    world.suspended = 3_600 * S;
    world.run(5 * S);
    assert!(!world.saw("stopped or starved"));
    world.suspended = 3_700 * S;
    world.run(5 * S);
    assert!(
        world.saw("this node was stopped or starved for 100000 ms"),
        "{:?}",
        world.notices
    );
}

#[test]
fn s10_a_check_outside_its_expectation_is_unknown_and_inside_it_counts() {
    let mut data = heartbeat_check("can");
    data.needs = Some(ExpectationId(0));
    let mut world = World::settled(settings(vec![peer("data", true, vec![data], None)]));
    let car = |world: &mut World, met| {
        world.feed(Event::Expectation {
            id: ExpectationId(0),
            met,
        });
    };
    car(&mut world, Some(true));
    world.beat("can");
    car(&mut world, Some(false));
    world.run(60 * S);
    assert_eq!(world.liveness(0), Liveness::Unknown);
    assert!(world.view(0).detail.contains("not expected"));
    car(&mut world, Some(true));
    world.run(S);
    assert_eq!(
        world.liveness(0),
        Liveness::Unknown,
        "the silence of before does not count"
    );
    world.run(7 * S);
    assert_eq!(world.liveness(0), Liveness::Dead);
    car(&mut world, None);
    assert_eq!(world.liveness(0), Liveness::Unknown);
}

#[test]
fn s13_a_peer_that_stays_dead_is_given_up_at_its_budget_with_growing_backoff() {
    let mut world = World::settled(settings(vec![peer(
        "app",
        true,
        vec![process_check(), heartbeat_check("hb")],
        Some(RemedyKind::Exec),
    )]));
    world.running(0, "life 0");
    world.beat("hb");
    world.run(3 * S);
    let mut lives = 0;
    for _ in 0..900 {
        // Each restart makes a new life that never beats.
        if world.grants.len() > lives {
            lives = world.grants.len();
            world.running(0, &format!("life {lives}"));
        }
        world.run(S);
    }
    assert_eq!(world.grants.len(), 3, "{:#?}", world.notices);
    assert!(
        world.saw("app: given up after 3 remedies"),
        "{:#?}",
        world.notices
    );
    assert!(matches!(
        world.view(0).episode.unwrap().phase,
        EpisodePhase::GaveUp { .. }
    ));
    let gaps: Vec<Duration> = world
        .grants
        .windows(2)
        .map(|pair| pair[1].0.since(pair[0].0))
        .collect();
    assert!(
        gaps[0] >= 10 * S && gaps[1] >= 20 * S,
        "backoff doubles: {gaps:?}"
    );
    // It is still watched, and re-armed by its own recovery.
    world.beats("hb");
    world.running(0, "by hand");
    world.looks(0, 0, 3);
    assert!(world.view(0).episode.is_none(), "{:#?}", world.notices);
}

#[test]
fn s14_ten_remote_peers_at_once_are_mass_silence_and_healed_one_by_one() {
    let mut peers: Vec<PeerSettings> = Vec::new();
    for index in 0..10 {
        let name = format!("p{index}");
        peers.push(peer(
            &name,
            false,
            vec![heartbeat_check(&name)],
            Some(RemedyKind::Exec),
        ));
    }
    let mut world = World::settled(settings(peers));
    for index in 0..10 {
        world.uptime(&format!("p{index}"), 100.0);
    }
    world.run(240 * S);
    assert!(world.saw("fell silent together"), "{:?}", world.notices);
    assert!(world.grants.is_empty());
    assert_eq!(world.refusal(3), Some(GuardName::MassSilence));
    world.run(80 * S);
    assert_eq!(world.grants.len(), 1, "one canary");
    let canary = world.grants[0].1.name.clone();
    let channel = canary.to_string();
    world.uptime(&channel, 0.5);
    world.beats(&channel);
    world.run(15 * S);
    assert_eq!(
        world.grants.len(),
        2,
        "the next once the first is verified: {:#?}",
        world.notices
    );
}

#[test]
fn s14_local_peers_at_once_are_serialised_by_the_groups_budget() {
    let mut peers = Vec::new();
    for index in 0..10 {
        peers.push(peer(
            &format!("p{index}"),
            true,
            vec![process_check()],
            Some(RemedyKind::Exec),
        ));
    }
    let mut world = World::settled(settings(peers));
    for index in 0..10 {
        world.running(index, "a");
    }
    world.run(3 * S);
    for index in 0..10 {
        world.exits(index, "a");
    }
    world.run(5 * S);
    assert_eq!(world.grants.len(), 1, "max(1, 5 % of 10) down by our hand");
}

#[test]
fn s15_a_peer_in_its_grace_is_not_restarted_again() {
    let mut app = peer(
        "app",
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::Exec),
    );
    app.grace = 30 * S;
    app.remedies[0].verify_within = S;
    app.backoff.initial = S;
    let mut world = World::settled(settings(vec![app]));
    world.running(0, "a");
    world.observe(0, 1, Outcome::Pass);
    world.run(S);
    world.fail(0, 1);
    world.run(S);
    world.fail(0, 1);
    world.run(5 * S);
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
    world.running(0, "b");
    for _ in 0..20 {
        world.run(S);
        world.fail(0, 1);
    }
    assert_eq!(world.grants.len(), 1, "in its grace: {:#?}", world.notices);
}

#[test]
fn s15_a_falling_uptime_is_a_new_incarnation_and_jitter_or_a_second_writer_is_not() {
    let mut world = World::settled(settings(vec![peer(
        "feed",
        true,
        vec![heartbeat_check("hb")],
        None,
    )]));
    world.uptime("hb", 100.0);
    world.run(S);
    world.uptime("hb", 100.9);
    world.run(S);
    world.uptime("hb", 50.0);
    world.run(S);
    assert_eq!(
        world.view(0).incarnations,
        0,
        "a second writer, older than the first one's last beat"
    );
    world.run(4 * S);
    world.uptime("hb", 1.0);
    assert_eq!(world.view(0).incarnations, 1);
}

#[test]
fn s35_a_pause_judges_and_does_nothing_survives_a_restart_and_expires() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.feed(Event::Operator {
        request: OperatorRequest::Pause {
            peer: None,
            reason: "deploy".into(),
            lasting: Some(60 * S),
        },
        by: "uid 0".into(),
    });
    world.run(10 * S);
    let kept = world.persisted.clone().unwrap();
    let mut world = World::restored(process_peer(), &Restored::Found(Box::new(kept), 20 * S));
    world.run(39 * S);
    assert!(world.engine.node_pause.is_some());
    world.run(2 * S);
    assert!(world.saw("resume by clock"), "{:?}", world.notices);
    assert!(world.engine.node_pause.is_none());
}

#[test]
fn what_exits_during_a_pause_is_on_purpose() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.feed(Event::Operator {
        request: OperatorRequest::Pause {
            peer: Some(PeerId(0)),
            reason: "by hand".into(),
            lasting: Some(60 * S),
        },
        by: "uid 0".into(),
    });
    world.exits(0, "a");
    world.run(10 * S);
    assert_eq!(world.liveness(0), Liveness::Dead, "still judged");
    assert_eq!(world.refusal(0), Some(GuardName::Paused));
    world.run(600 * S);
    assert_eq!(world.refusal(0), Some(GuardName::Grace));
    assert!(world.grants.is_empty());
}

#[test]
fn s36_a_dry_run_decides_the_same_and_does_nothing() {
    let mut dry = process_peer();
    dry.dry_run = true;
    let mut world = World::settled(dry);
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.run(60 * S);
    assert!(world.grants.is_empty());
    assert!(
        world.saw("app: dry run: would do exec for peer_exited"),
        "{:?}",
        world.notices
    );
    let shown = world
        .whats
        .iter()
        .filter(|(_, what)| matches!(what, What::WouldHeal { .. }))
        .count();
    assert_eq!(shown, 1, "once, not at each asking");
    assert!(
        world.persisted.unwrap().dry_run,
        "its budgets bind only another dry run"
    );
}

#[test]
fn a_peer_that_was_never_alive_is_not_restarted() {
    let mut world = World::settled(settings(vec![peer(
        "app",
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::Exec),
    )]));
    world.running(0, "a");
    for _ in 0..30 {
        world.run(S);
        world.fail(0, 1);
    }
    assert_eq!(world.liveness(0), Liveness::Dead);
    assert_eq!(world.refusal(0), Some(GuardName::Grace));
    assert!(world.grants.is_empty());
}

#[test]
fn a_pulse_lasts_until_a_new_life_or_its_hold() {
    let app = || {
        settings(vec![peer(
            "app",
            true,
            vec![process_check(), http_check()],
            Some(RemedyKind::Healthz),
        )])
    };
    let sick = || {
        let mut world = World::settled(app());
        world.running(0, "a");
        world.observe(0, 1, Outcome::Pass);
        for _ in 0..3 {
            world.run(S);
            world.fail(0, 1);
        }
        world.run(S);
        assert!(
            world.view(0).healthz.unwrap().pulsing_until.is_some(),
            "{:?}",
            world.notices
        );
        world
    };
    let mut world = sick();
    world.running(0, "b");
    assert_eq!(world.view(0).healthz.unwrap().pulsing_until, None);
    world.run(S);
    world.observe(0, 0, Outcome::Pass);
    world.observe(0, 1, Outcome::Pass);
    assert!(world.saw("app: recovered, proven"), "{:?}", world.notices);

    let mut world = sick();
    world.run(46 * S);
    assert_eq!(
        world.view(0).healthz.unwrap().pulsing_until,
        None,
        "never for ever"
    );
    assert!(world.saw("is its probe wired?"), "{:?}", world.notices);
}

#[test]
fn what_a_remedy_took_down_before_the_node_died_is_healed_after() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.outcome = None;
    world.run(2 * S);
    assert_eq!(world.grants.len(), 1);
    let kept = world.persisted.clone().unwrap();
    assert_eq!(kept.peers["app"].healing, Some(Incarnation("a".into())));
    let mut world = World::restored(process_peer(), &Restored::Found(Box::new(kept), S));
    world.feed(Event::Owner {
        peer: PeerId(0),
        seen: OwnerSeen::Absent {
            detail: "none".into(),
        },
    });
    assert_eq!(world.liveness(0), Liveness::Dead);
    assert_eq!(world.view(0).cause, Some(Cause::PeerExited));
    world.run(60 * S);
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
}

#[test]
fn an_absent_owner_that_nobody_saw_exit_is_unknown() {
    let mut world = World::settled(process_peer());
    world.feed(Event::Owner {
        peer: PeerId(0),
        seen: OwnerSeen::Absent {
            detail: "no process".into(),
        },
    });
    world.run(60 * S);
    assert_eq!(world.liveness(0), Liveness::Unknown);
    assert!(world.grants.is_empty());
}

#[test]
fn s40_a_replica_blames_nobody_and_is_left() {
    let mut world = World::settled(settings(vec![peer(
        "feed",
        true,
        vec![heartbeat_check("hb")],
        None,
    )]));
    world.beats("hb");
    world.run(5 * S);
    world.up = [false; 2];
    world.feed(Event::Link {
        link: Link::Pub,
        status: LinkStatus::Up {
            role: Role::Replica,
            plain: true,
        },
    });
    assert_eq!(world.engine.trust.state(), BusState::WrongBroker);
    assert_eq!(world.replaced.len(), 2, "both are resolved again");
    world.beating.clear();
    world.run(30 * S);
    assert_eq!(world.liveness(0), Liveness::Unknown);
    world.links(true);
    world.run(3 * S);
    assert_eq!(world.engine.trust.state(), BusState::Trusted);
    assert!(world.engine.trust.settling(world.now), "{:#?}", world.notices);
}

#[test]
fn refused_names_the_cure_and_holds() {
    let mut world = World::settled(settings(Vec::new()));
    world.feed(Event::Link {
        link: Link::Pub,
        status: LinkStatus::Refused {
            cure: "ACL SETUSER defib &defib:*".into(),
        },
    });
    let trust = world.engine.snapshot(world.now).trust;
    assert_eq!(trust.bus, BusState::BusRefused);
    assert!(trust.detail.contains("ACL SETUSER"));
}

#[test]
fn s05_a_refused_heartbeat_is_followed_by_the_next_or_nobody_would_learn_of_the_cure() {
    let mut world = World::settled(settings(Vec::new()));
    world.feed(Event::Link {
        link: Link::Pub,
        status: LinkStatus::Refused {
            cure: "ACL SETUSER defib +publish".into(),
        },
    });
    world.bus = false;
    world.due.clear();
    world.run(4 * S);
    assert!(!world.due.is_empty(), "nothing is published any more");
    assert_eq!(world.engine.trust.state(), BusState::BusRefused);
    world.bus = true;
    world.run(2 * S);
    world.link(Link::Pub, true);
    world.run(2 * S);
    assert_eq!(world.engine.trust.state(), BusState::Trusted);
}

#[test]
fn corrupt_counts_as_spent_and_missing_allows_one() {
    let mut world = World::restored(process_peer(), &Restored::Corrupt);
    assert_eq!(world.view(0).budget_left, 0);
    world.run(700 * S);
    assert_eq!(world.view(0).budget_left, 3);
    let world = World::restored(process_peer(), &Restored::Missing);
    assert_eq!(world.view(0).budget_left, 1);
}

#[test]
fn drain_says_goodbye_and_heals_nothing() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.feed(Event::Operator {
        request: OperatorRequest::Drain,
        by: "SIGTERM".into(),
    });
    let goodbyes = world
        .due
        .iter()
        .filter(
            |(_, event)| matches!(event, Event::Message { body: Body::Heartbeat(beat), .. } if beat.goodbye),
        )
        .count();
    assert_eq!(goodbyes, 1);
    assert!(world.engine.snapshot(world.now).draining);
    world.exits(0, "a");
    world.run(30 * S);
    assert!(world.grants.is_empty());
}

#[test]
fn a_fenced_remedy_costs_nothing_but_time() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.outcome = Some(RemedyOutcome::Fenced {
        detail: "newer".into(),
    });
    world.exits(0, "a");
    world.run(S);
    assert_eq!(world.grants.len(), 1);
    assert_eq!(world.view(0).budget_left, 3);
    assert_eq!(world.refusal(0), Some(GuardName::Backoff));
    world.run(30 * S);
    assert!(
        world.grants.len() >= 2,
        "it may be tried again: {:?}",
        world.notices
    );
}

#[test]
fn time_that_goes_back_is_not_believed() {
    let mut world = World::settled(settings(vec![peer(
        "feed",
        true,
        vec![heartbeat_check("hb")],
        None,
    )]));
    world.beat("hb");
    world.engine.handle(
        Event::Tick {
            suspended: Duration::ZERO,
        },
        Time::ZERO,
    );
    world.drain();
    assert_eq!(world.liveness(0), Liveness::Alive);
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

#[test]
fn a_goodbye_in_the_slot_of_the_last_heartbeat_is_heard() {
    let mut world = World::settled(settings(vec![peer(
        "them",
        false,
        vec![node_check("them")],
        Some(RemedyKind::Exec),
    )]));
    for slot in 1..=3 {
        world.feed(node_beat("them", "b", slot, false));
        world.run(S);
    }
    // As `drain` sends it: out of turn, in the slot that its regular heartbeat has used already.
    world.feed(node_beat("them", "b", 3, true));
    world.run(60 * S);
    assert_eq!(world.liveness(0), Liveness::Unknown, "{:#?}", world.notices);
    assert!(world.saw("them: said goodbye"));
    assert!(world.grants.is_empty(), "{:?}", world.grants);
    world.feed(node_beat("them", "b", 2, false));
    assert_eq!(
        world.liveness(0),
        Liveness::Unknown,
        "a straggler takes no goodbye back"
    );
    world.feed(node_beat("them", "c", 1, false));
    assert_eq!(world.liveness(0), Liveness::Alive, "a new life does");
}

#[test]
fn what_a_dry_run_gave_up_or_seemed_to_take_down_binds_no_real_run() {
    let mut dry = process_peer();
    dry.dry_run = true;
    let mut world = World::settled(dry);
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.run(2 * S);
    let acting = world.persisted.clone().unwrap();
    world.run(60 * S);
    assert!(world.saw("given up"), "{:?}", world.notices);
    let gave_up = world.persisted.clone().unwrap();

    let mut world = World::restored(process_peer(), &Restored::Found(Box::new(acting), S));
    world.feed(Event::Owner {
        peer: PeerId(0),
        seen: OwnerSeen::Absent {
            detail: "none".into(),
        },
    });
    world.run(60 * S);
    assert_eq!(
        world.liveness(0),
        Liveness::Unknown,
        "a dry run took nothing down: what is not there was stopped by somebody else"
    );

    let mut world = World::restored(process_peer(), &Restored::Found(Box::new(gave_up), S));
    assert_eq!(
        world.view(0).episode,
        None,
        "what was given up in a dry run was never tried"
    );
    world.run(40 * S);
    world.exits(0, "b");
    world.run(2 * S);
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
}

#[test]
fn a_rung_is_used_once_for_each_life_and_then_given_up_loudly() {
    let app = peer(
        "app",
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::Signal),
    );
    let mut world = World::settled(settings(vec![app]));
    world.running(0, "a");
    for episode in 1..=2 {
        world.observe(0, 0, Outcome::Pass);
        world.observe(0, 1, Outcome::Pass);
        world.run(6 * S);
        for _ in 0..2 {
            world.fail(0, 1);
            world.run(S);
        }
        assert_eq!(
            world.grants.len(),
            1,
            "once is enough for one life: {:#?}",
            world.notices
        );
        assert_eq!(world.saw("app: given up"), episode == 2, "{:#?}", world.notices);
        for _ in 0..4 {
            world.observe(0, 0, Outcome::Pass);
            world.observe(0, 1, Outcome::Pass);
            world.run(S);
        }
        assert!(world.view(0).episode.is_none(), "re-armed by its own recovery");
        world.run(20 * S);
    }
}

#[test]
fn who_never_came_back_after_an_outage_is_looked_at_until_he_is_dead() {
    let mut check = heartbeat_check("hb");
    if let CheckKind::Passive { detector, .. } = &mut check.kind {
        *detector = DetectorSettings::Deadline {
            suspect_after: 2 * S,
            dead_after: 2_100 * MS,
        };
    }
    let mut world = World::settled(settings(vec![peer("feed", true, vec![check], None)]));
    world.beat("hb");
    world.run(500 * MS);
    world.outage(true);
    world.run(60 * S);
    world.outage(false);
    world.run(120 * S);
    assert_eq!(world.liveness(0), Liveness::Dead, "{:#?}", world.notices);
}

#[test]
fn a_check_that_never_passed_or_is_not_expected_has_no_say_in_a_remedy() {
    // `http` never passed; `heartbeat` condemned too, for a moment, and came back.
    let mut app = peer(
        "app",
        true,
        vec![process_check(), http_check(), heartbeat_check("hb")],
        Some(RemedyKind::Exec),
    );
    app.single_observer = true;
    let mut world = World::settled(settings(vec![app]));
    world.running(0, "a");
    world.beat("hb");
    world.feed(Event::Operator {
        request: OperatorRequest::Pause {
            peer: None,
            reason: "deploy".into(),
            lasting: Some(30 * S),
        },
        by: "uid 0".into(),
    });
    for second in 0..60 {
        world.run(S);
        world.fail(0, 1);
        if second > 20 {
            world.beat("hb");
        }
    }
    assert_eq!(world.liveness(0), Liveness::Dead);
    assert!(world.grants.is_empty(), "{:#?}", world.notices);

    // `data` condemned too while the car was on; now it is off, and `http` condemns alone.
    let mut data = heartbeat_check("can");
    data.needs = Some(ExpectationId(0));
    let app = peer(
        "app",
        true,
        vec![process_check(), http_check(), data],
        Some(RemedyKind::Exec),
    );
    let mut world = World::settled(settings(vec![app]));
    let car = |world: &mut World, met| {
        world.feed(Event::Expectation {
            id: ExpectationId(0),
            met: Some(met),
        });
    };
    car(&mut world, true);
    world.running(0, "a");
    world.beat("can");
    world.observe(0, 1, Outcome::Pass);
    world.feed(Event::Operator {
        request: OperatorRequest::Pause {
            peer: None,
            reason: "deploy".into(),
            lasting: Some(20 * S),
        },
        by: "uid 0".into(),
    });
    for second in 0..60 {
        world.run(S);
        car(&mut world, second < 8);
        if second > 5 {
            world.fail(0, 1);
        } else {
            world.observe(0, 1, Outcome::Pass);
        }
    }
    assert!(!world.grants.is_empty(), "{:#?}", world.notices);
}

#[test]
fn what_nobody_saw_exit_is_not_restarted_for_its_silence() {
    let mut world = World::settled(settings(vec![peer(
        "app",
        true,
        vec![process_check(), heartbeat_check("hb")],
        Some(RemedyKind::Exec),
    )]));
    world.running(0, "a");
    world.beat("hb");
    world.looks(0, 0, 2);
    world.feed(Event::Owner {
        peer: PeerId(0),
        seen: OwnerSeen::Absent {
            detail: "no process".into(),
        },
    });
    world.run(60 * S);
    assert_eq!(world.liveness(0), Liveness::Dead);
    assert!(world.grants.is_empty(), "{:#?}", world.notices);
    assert_eq!(world.refusal(0), Some(GuardName::Grace));
}

#[test]
fn failures_in_the_grace_do_not_count_when_it_ends() {
    let mut world = World::settled(settings(vec![peer("app", true, vec![http_check()], None)]));
    world.observe(0, 0, Outcome::Pass);
    world.running(0, "a");
    world.running(0, "b");
    for _ in 0..9 {
        world.run(S);
        world.fail(0, 0);
    }
    world.run(1_500 * MS);
    assert_ne!(
        world.liveness(0),
        Liveness::Dead,
        "it may come up in its tenth second"
    );
    world.fail(0, 0);
    assert_ne!(world.liveness(0), Liveness::Dead);
    world.run(S);
    world.fail(0, 0);
    assert_eq!(world.liveness(0), Liveness::Dead, "two of three, after the grace");
}

#[test]
fn the_first_life_that_is_seen_has_its_grace_too() {
    let app = || {
        settings(vec![peer(
            "app",
            true,
            vec![process_check(), http_check()],
            Some(RemedyKind::Exec),
        )])
    };
    let mut world = World::settled(app());
    world.running(0, "a");
    world.observe(0, 1, Outcome::Pass);
    world.run(2 * S);
    let kept = world.engine.persisted();
    // The node was restarted while the app was stopped; an hour later somebody starts it.
    let mut world = World::restored(app(), &Restored::Found(Box::new(kept), S));
    world.run(3_600 * S);
    world.running(0, "b");
    for _ in 0..9 {
        world.run(S);
        world.fail(0, 1);
    }
    assert!(world.grants.is_empty(), "it is starting: {:#?}", world.notices);
}

#[test]
fn a_restarted_peer_is_not_proven_by_its_process_alone() {
    let mut world = World::settled(settings(vec![peer(
        "app",
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::Exec),
    )]));
    world.running(0, "a");
    world.observe(0, 1, Outcome::Pass);
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.run(S);
    assert_eq!(world.grants.len(), 1);
    world.running(0, "b");
    for _ in 0..12 {
        world.run(900 * MS);
        world.observe(0, 0, Outcome::Pass);
        assert!(!world.saw("app: recovered"), "{:#?}", world.notices);
        world.fail(0, 1);
    }
}

#[test]
fn an_absurd_store_or_setting_is_no_panic() {
    let mut app = process_peer();
    app.peers[0].backoff.max = Duration::MAX;
    let mut kept = Persisted {
        token: u64::MAX,
        episode: u64::MAX,
        group_wait: Some(Duration::MAX),
        ..Persisted::default()
    };
    let episode = super::persist::PersistedEpisode {
        id: u64::MAX,
        age: Duration::MAX,
        cause: Cause::PeerExited,
        remedies: u32::MAX,
        failed: [7, u16::MAX].into(),
        gave_up: false,
    };
    kept.peers.insert(
        "app".into(),
        super::persist::PersistedPeer {
            restarts: vec![Duration::MAX],
            backoff_level: u32::MAX,
            backoff: Some(Duration::MAX),
            episode: Some(episode),
            ..Default::default()
        },
    );
    let found = Restored::Found(Box::new(kept), S);
    let mut world = World::restored(app, &found);
    world.engine.group.not_before = None;
    world.engine.peers[0].ledger = super::peer::Ledger::default();
    world.run(40 * S);
    for life in ["a", "b"] {
        world.running(0, life);
        world.looks(0, 0, 2);
        world.exits(0, life);
        world.run(2 * S);
    }
    assert!(!world.grants.is_empty(), "{:#?}", world.notices);

    let mut slow = process_peer();
    slow.interval = Duration::MAX;
    slow.bus_settle = Duration::MAX;
    World::new(slow).run(5 * S);
}

#[test]
fn a_short_interval_beats_for_longer_than_a_u32_of_slots() {
    let mut fast = settings(Vec::new());
    fast.interval = MS;
    let mut world = World::settled(fast);
    world.now = world.now + Duration::from_secs(u64::from(u32::MAX / 1_000) + 10);
    world.run(10 * MS);
    assert!(world.engine.poll_timeout() < world.now + S);
    let next = world.engine.own.next_due();
    assert!(next <= world.now + MS, "{next}");
}

/// A peer whose `/healthz` answers 503 just now.
fn pulsing() -> World {
    let mut world = World::settled(settings(vec![peer(
        "app",
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::Healthz),
    )]));
    world.running(0, "a");
    world.observe(0, 1, Outcome::Pass);
    for _ in 0..3 {
        world.run(S);
        world.fail(0, 1);
    }
    world.run(S);
    assert!(world.view(0).healthz.unwrap().pulsing_until.is_some());
    world
}

#[test]
fn a_pause_takes_a_pulse_back() {
    for whom in [None, Some(PeerId(0))] {
        let mut world = pulsing();
        world.feed(Event::Operator {
            request: OperatorRequest::Pause {
                peer: whom,
                reason: "hands off".into(),
                lasting: None,
            },
            by: "uid 0".into(),
        });
        assert_eq!(world.view(0).healthz.unwrap().pulsing_until, None);
        world.run(S);
        assert_eq!(world.refusal(0), Some(GuardName::Paused));
    }
}

#[test]
fn who_recovers_by_himself_during_his_pulse_is_not_killed() {
    let mut world = pulsing();
    for _ in 0..3 {
        world.run(S);
        world.observe(0, 0, Outcome::Pass);
        world.observe(0, 1, Outcome::Pass);
    }
    assert_eq!(world.liveness(0), Liveness::Alive);
    assert_eq!(world.view(0).healthz.unwrap().pulsing_until, None);
    assert!(world.saw("app: recovered"), "{:#?}", world.notices);
}

#[test]
fn a_remedy_that_is_verified_at_once_does_not_wait_for_ever() {
    let mut app = process_peer();
    app.dry_run = true;
    app.peers[0].remedies[0].verify_within = Duration::ZERO;
    let mut world = World::settled(app);
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.run(5 * S);
    let phase = world.view(0).episode.unwrap().phase;
    assert!(!matches!(phase, EpisodePhase::Verifying { .. }), "{phase:?}");
    assert!(world.engine.group.down.is_empty(), "the slot is not kept");
}

#[test]
fn who_was_forgotten_and_is_heard_again_can_be_healed() {
    let mut world = World::settled(settings(vec![peer(
        "app",
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::Exec),
    )]));
    world.running(0, "a");
    world.observe(0, 1, Outcome::Pass);
    world.feed(Event::Operator {
        request: OperatorRequest::Forget { peer: PeerId(0) },
        by: "uid 0".into(),
    });
    world.observe(0, 0, Outcome::Pass);
    world.observe(0, 1, Outcome::Pass);
    for _ in 0..10 {
        world.run(S);
        world.fail(0, 1);
    }
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
}

#[test]
fn a_peer_that_comes_back_does_not_have_everybody_else_asked_for_at_once() {
    // 10,000 recoveries after a mass silence, each asking for all that still wait, would be 50 million questions.
    let mut peers = Vec::new();
    for index in 0..20 {
        let name = format!("p{index}");
        peers.push(peer(
            &name,
            false,
            vec![heartbeat_check(&name)],
            Some(RemedyKind::Exec),
        ));
    }
    let mut world = World::settled(settings(peers));
    for index in 0..20 {
        world.uptime(&format!("p{index}"), 100.0);
    }
    world.run(60 * S);
    assert_eq!(world.engine.waiting.len(), 20);
    world.feed(Event::Operator {
        request: OperatorRequest::Resume { peer: None },
        by: "test".into(),
    });
    let asked = world.engine.asked_at;
    assert_eq!(asked, world.now);
    world.now = world.now + MS;
    for index in 0..10 {
        world.uptime(&format!("p{index}"), 0.1);
    }
    assert_eq!(world.engine.waiting.len(), 10);
    assert_eq!(world.engine.asked_at, asked);
    world.run(250 * MS);
    assert_ne!(world.engine.asked_at, asked, "and yet soon");
}

#[test]
fn an_episode_does_not_wait_for_a_check_that_nobody_expects_or_that_decides_nothing() {
    let app = || {
        let mut shown = heartbeat_check("can");
        shown.needs = Some(ExpectationId(0));
        let mut data = shown.clone();
        shown.name = "shown".into();
        shown.decides = Decides::Nothing;
        data.name = "data".into();
        settings(vec![peer("app", true, vec![process_check(), data, shown], None)])
    };
    let car = |world: &mut World, met| {
        world.feed(Event::Expectation {
            id: ExpectationId(0),
            met: Some(met),
        });
    };
    let mut world = World::settled(app());
    world.running(0, "a");
    car(&mut world, true);
    world.beat("can");
    world.run(10 * S);
    assert_eq!(world.liveness(0), Liveness::Dead);
    let kept = world.engine.persisted();
    car(&mut world, false);
    world.looks(0, 0, 2);
    assert_eq!(world.liveness(0), Liveness::Alive, "it runs");
    assert_eq!(world.view(0).episode, None);
    assert!(
        world.saw("app: episode closed"),
        "not recovered: {:?}",
        world.notices
    );

    let mut world = World::restored(app(), &Restored::Found(Box::new(kept), S));
    world.running(0, "a");
    car(&mut world, false);
    world.looks(0, 0, 50);
    assert_eq!(world.view(0).episode, None, "{:#?}", world.notices);
}

#[test]
fn a_goodbye_that_our_own_remedy_caused_is_no_purpose() {
    let mut check = node_check("them");
    if let CheckKind::Passive { source, .. } = &mut check.kind {
        *source = Source::Claim {
            node: "them".into(),
            peer: "app".into(),
        };
    }
    let mut world = World::settled(settings(vec![peer(
        "app",
        false,
        vec![check],
        Some(RemedyKind::Exec),
    )]));
    world.outcome = None;
    let mut slot = 0;
    let mut says = |world: &mut World, liveness, goodbye| {
        slot += 1;
        let Event::Message { channel, body } = node_beat("them", "b", slot, goodbye) else {
            unreachable!()
        };
        let Body::Heartbeat(mut beat) = body else {
            unreachable!()
        };
        beat.peers.push(PeerClaim {
            name: "app".into(),
            liveness,
            incarnation: Some(Incarnation("a".into())),
        });
        world.feed(Event::Message {
            channel,
            body: Body::Heartbeat(beat),
        });
        world.run(S);
    };
    says(&mut world, Liveness::Alive, false);
    for _ in 0..4 {
        says(&mut world, Liveness::Dead, false);
    }
    assert_eq!(world.grants.len(), 1, "{:#?}", world.notices);
    // The restart takes the node beside it along, which says goodbye; and both come back as they were.
    says(&mut world, Liveness::Dead, true);
    assert!(!world.saw("app: said goodbye"), "{:#?}", world.notices);
    assert!(world.view(0).episode.is_some());
}

#[test]
fn heartbeats_out_of_turn_do_not_put_off_the_proof_of_silence() {
    let mut peers = vec![peer("feed", true, vec![heartbeat_check("hb")], None)];
    peers.push(peer(
        "looping",
        true,
        vec![process_check()],
        Some(RemedyKind::Exec),
    ));
    let mut world = World::settled(settings(peers));
    world.outcome = Some(RemedyOutcome::NotActed {
        detail: "refused".into(),
    });
    world.beat("hb");
    for life in 0..100 {
        world.running(1, &format!("{life}"));
        world.run(50 * MS);
        world.exits(1, &format!("{life}"));
        world.run(50 * MS);
    }
    assert_eq!(
        world.liveness(0),
        Liveness::Dead,
        "a crash loop elsewhere hides nobody"
    );
}

#[test]
fn a_dark_link_that_new_connections_do_not_cure_is_replaced_ever_more_slowly() {
    let mut world = World::settled(settings(Vec::new()));
    world.bus = false;
    for _ in 0..1_200 {
        world.run(100 * MS);
        for slot in world.engine.trust.under_way_slots() {
            world.feed(Event::Published { slot, receivers: 1 });
        }
    }
    let gaps: Vec<Duration> = world
        .replaced
        .windows(2)
        .map(|pair| pair[1].0.since(pair[0].0))
        .collect();
    assert!(world.replaced.len() < 12, "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= 40 * S), "and without end: {gaps:?}");
}

#[test]
fn a_log_rung_is_logged_once_an_episode_and_costs_no_backoff() {
    let mut world = World::settled(settings(vec![peer(
        "app",
        true,
        vec![process_check()],
        Some(RemedyKind::Log),
    )]));
    world.running(0, "a");
    world.looks(0, 0, 2);
    world.exits(0, "a");
    world.run(120 * S);
    assert_eq!(world.grants.len(), 1);
    assert!(
        world.saw("given up"),
        "nothing is left to try: {:?}",
        world.notices
    );
    world.running(0, "b");
    world.looks(0, 0, 3);
    world.exits(0, "b");
    world.run(S);
    assert_eq!(world.grants.len(), 2);
}

#[test]
fn a_forged_boot_does_not_make_the_true_one_a_straggler_for_ever() {
    let mut node = heartbeat_check("-");
    node.kind = CheckKind::Passive {
        source: Source::Node("other".into()),
        detector: DetectorSettings::default(),
        cause: Cause::PeerSilent,
    };
    let mut world = World::settled(settings(vec![peer("other", false, vec![node], None)]));
    let beat = |world: &mut World, boot: &str, slot: u64| {
        let beat = Heartbeat {
            node: Some("other".into()),
            group: Some("g".into()),
            boot: Some(boot.into()),
            slot: Some(slot),
            late_ms: None,
            uptime_s: None,
            interval_ms: Some(1_000),
            goodbye: false,
            peers: Vec::new(),
        };
        world.feed(Event::Message {
            channel: "defib:g".into(),
            body: Body::Heartbeat(beat),
        });
        world.run(S);
    };
    for slot in 0..5 {
        beat(&mut world, "true", slot);
    }
    beat(&mut world, "forged", 0);
    for slot in 6..20 {
        beat(&mut world, "true", slot);
    }
    assert_eq!(world.liveness(0), Liveness::Alive, "{:?}", world.notices);
    assert!(!world.saw("-> dead"), "{:?}", world.notices);
}

#[test]
fn a_process_that_appears_where_none_was_is_not_judged_by_what_failed_before_it() {
    let mut one = peer(
        "app",
        true,
        vec![process_check(), http_check()],
        Some(RemedyKind::Exec),
    );
    one.grace = 8 * S;
    let mut kept = Persisted::default();
    kept.peers.entry("app".to_owned()).or_default().passed = vec!["http".to_owned()];
    let mut world = World::restored(
        settings(vec![one]),
        &Restored::Found(Box::new(kept), Duration::ZERO),
    );
    let detail = "no process matches".to_owned();
    world.feed(Event::Owner {
        peer: PeerId(0),
        seen: OwnerSeen::Absent { detail },
    });
    for _ in 0..60 {
        world.fail(0, 1);
        world.run(S);
    }
    assert_eq!(world.liveness(0), Liveness::Dead);
    world.running(0, "a");
    world.fail(0, 1);
    world.run(7 * S);
    assert!(world.grants.is_empty(), "it has only begun: {:?}", world.notices);
}

#[test]
fn an_outage_that_a_paused_node_slept_through_is_settled_too() {
    let mut world = World::settled(process_peer());
    world.running(0, "a");
    world.looks(0, 0, 3);
    // Stopped for 50 s; the broker was restarted meanwhile, and the peer's client exited of it.
    world.now = world.now + 50 * S;
    world.feed(Event::Tick {
        suspended: Duration::ZERO,
    });
    world.exits(0, "a");
    world.links(false);
    world.due.clear();
    world.links(true);
    world.run(25 * S);
    assert_eq!(world.refusal(0), Some(GuardName::BusSettle));
    assert!(world.grants.is_empty(), "{:?}", world.notices);
    world.run(10 * S);
    assert_eq!(world.grants.len(), 1);
}

#[test]
fn one_replayed_beat_of_an_earlier_boot_does_not_silence_the_living_for_good() {
    let mut far = heartbeat_check("unused");
    far.kind = CheckKind::Passive {
        source: Source::Node("far".into()),
        detector: DetectorSettings::default(),
        cause: Cause::PeerSilent,
    };
    let mut world = World::settled(settings(vec![peer("far", false, vec![far], None)]));
    let beat = |boot: &str, slot: u64| Event::Message {
        channel: "defib:g".into(),
        body: Body::Heartbeat(Heartbeat {
            node: Some("far".into()),
            group: None,
            boot: Some(boot.into()),
            slot: Some(slot),
            late_ms: None,
            uptime_s: None,
            interval_ms: Some(1_000),
            goodbye: false,
            peers: Vec::new(),
        }),
    };
    for slot in 0..5 {
        world.feed(beat("now", slot));
        world.run(S);
    }
    world.feed(beat("before", 900));
    for slot in 5..15 {
        world.feed(beat("now", slot));
        world.run(S);
    }
    assert_eq!(world.liveness(0), Liveness::Alive, "{:?}", world.notices);
    assert_eq!(world.view(0).incarnation, Some(Incarnation("boot:now".into())));
    // Stragglers of an earlier life while the current one beats are still none.
    for slot in 15..25 {
        world.feed(beat("now", slot));
        world.feed(beat("before", 901 + slot));
        world.run(S);
    }
    assert_eq!(world.view(0).incarnation, Some(Incarnation("boot:now".into())));
}

#[test]
fn a_falling_uptime_that_came_late_is_another_life_once_the_old_one_is_silent() {
    let mut world = World::settled(settings(vec![peer(
        "feed",
        true,
        vec![heartbeat_check("hb")],
        None,
    )]));
    for up in 100..105 {
        world.uptime("hb", f64::from(up));
        world.run(S);
    }
    let before = world.view(0).incarnation;
    // A pause of our own: the last beats of one life and the first of the next are read at once.
    world.now = world.now + 20 * S;
    world.feed(Event::Tick {
        suspended: Duration::ZERO,
    });
    world.uptime("hb", 110.0);
    for up in 5..200 {
        world.uptime("hb", f64::from(up));
        world.run(S);
        assert_eq!(world.liveness(0), Liveness::Alive, "at {up}: {:?}", world.notices);
    }
    assert_ne!(world.view(0).incarnation, before);
}

fn claimed_peer() -> Settings {
    let mut claim = heartbeat_check("unused");
    claim.kind = CheckKind::Passive {
        source: Source::Claim {
            node: "far".into(),
            peer: "app".into(),
        },
        detector: DetectorSettings::default(),
        cause: Cause::PeerSilent,
    };
    settings(vec![peer("app", false, vec![claim], None)])
}

fn claims_alive(slot: u64) -> Event {
    Event::Message {
        channel: "defib:g".into(),
        body: Body::Heartbeat(Heartbeat {
            node: Some("far".into()),
            group: None,
            boot: Some("boot-far".into()),
            slot: Some(slot),
            late_ms: None,
            uptime_s: None,
            interval_ms: Some(1_000),
            goodbye: false,
            peers: vec![PeerClaim {
                name: "app".into(),
                liveness: Liveness::Alive,
                incarnation: Some(Incarnation("a".into())),
            }],
        }),
    }
}

#[test]
fn the_end_of_settling_takes_no_claimed_life_back() {
    let mut world = World::new(claimed_peer());
    for slot in 0..60 {
        world.feed(claims_alive(slot));
        world.run(S);
    }
    let changes = world
        .whats
        .iter()
        .filter(|(_, what)| matches!(what, What::Liveness { .. }));
    assert_eq!(changes.count(), 1, "{:?}", world.notices);
}

#[test]
fn s31_a_settling_time_that_ends_during_an_own_pause_changes_no_verdict() {
    let mut world = World::new(claimed_peer());
    for slot in 0..20 {
        world.feed(claims_alive(slot));
        world.run(S);
    }
    world.now = world.now + 40 * S;
    world.feed(Event::Tick {
        suspended: Duration::ZERO,
    });
    assert_eq!(world.liveness(0), Liveness::Alive, "{:?}", world.notices);
}
