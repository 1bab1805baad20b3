//! A node: its engine and event loop, the edges that look at the machine, its pauses, its crashes, its store.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::broker::Wire;
use super::executor::Mode;
use super::oracle::NOTICEABLE;
use super::process::State;
use super::scenario::{GROUP, Look, Scenario, Target, Watched};
use super::world::{Happening, Line, MS, OnlyIf, S, World};
use crate::engine::Engine;
use crate::engine::cause::Cause;
use crate::engine::decision::{Decision, What};
use crate::engine::event::{
    CheckId, Event, ExpectationId, Link, LinkStatus, Observation, Outcome, OwnerSeen, PeerId, Role,
};
use crate::engine::persist::{Persisted, Restored};
use crate::engine::reload::Reload;
use crate::engine::settings::{CheckKind, Settings, Source};
use crate::engine::time::Time;

pub(super) struct Node {
    pub(super) settings: Settings,
    pub(super) watched: Vec<Watched>,
    channels: BTreeSet<Arc<str>>,
    pub(super) run: u32,
    pub(super) engine: Option<Engine>,
    pub(super) started: Time,
    skew: Duration,
    suspended: Duration,
    frozen: Option<Frozen>,
    inbox: VecDeque<Arrival>,
    wake: u64,
    /// Turns of the loop, counted by the second.
    pub(super) turns: (u64, u64),
    pub(super) wires: [Wire; 2],
    pub(super) lie: Lie,
    pub(super) overflow_until: Time,
    pub(super) overflowed: u64,
    pub(super) mode: Mode,
    /// Its checks cannot measure.
    pub(super) blind: bool,
    pub(super) store: Store,
    /// Its health, as others could know it, last changed then.
    pub(super) changed: Time,
    /// Its own link to the broker is at fault until then.
    pub(super) muted_until: Time,
    pub(super) draining: bool,
    /// Until when something was wrong with its own links, its queue or its checks.
    pub(super) troubled: Time,
}

#[derive(Clone, Copy, Debug)]
struct Frozen {
    serial: u64,
    since: Time,
    until: Time,
    suspended: bool,
}

/// What the bus tells this node is not what was said.
#[derive(Debug, Default)]
pub(super) struct Lie {
    pub(super) serial: u64,
    pub(super) loss: u64,
    pub(super) reorders: bool,
    pub(super) forgets: Option<Arc<str>>,
    /// What it hears may be wrong until then, and for a while after.
    pub(super) until: Time,
}

impl Lie {
    /// Nothing but a channel that it forgot is wrong with what it hears, now and lately.
    pub(super) fn only_forgets(&self, now: Time) -> bool {
        let told_before = self.until == Time::ZERO || now > self.until + 20 * S;
        told_before || (self.forgets.is_some() && self.loss == 0 && !self.reorders)
    }
}

/// The last writes, the latest last, with their numbers.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) writes: VecDeque<(u64, Time, Persisted)>,
    pub(super) number: u64,
}

/// Something that reaches the event loop.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) event: Event,
    /// The connection on which it comes; if that is gone, so is this.
    pub(super) over: Option<(Link, u64)>,
    /// It is one of the node's own heartbeats.
    pub(super) echo: Option<Echo>,
}

/// The way of one own heartbeat: sent, taken by the broker, come back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Echo {
    pub(super) sent: Time,
    pub(super) taken: Time,
    pub(super) came: Time,
}

impl Arrival {
    pub(super) fn of(event: Event) -> Self {
        Self {
            event,
            over: None,
            echo: None,
        }
    }
}

pub(super) fn peer_id(peer: usize) -> PeerId {
    PeerId(u32::try_from(peer).unwrap_or(u32::MAX))
}

impl Node {
    pub(super) fn new(scenario: &Arc<Scenario>, node: usize) -> Self {
        let plan = &scenario.nodes[node];
        let mut channels = BTreeSet::from([Arc::from(GROUP)]);
        for peer in &plan.settings.peers {
            for check in &peer.checks {
                if let CheckKind::Passive {
                    source: Source::Channels(of),
                    ..
                } = &check.kind
                {
                    channels.extend(of.iter().cloned());
                }
            }
        }
        Self {
            settings: plan.settings.clone(),
            watched: plan.watched.clone(),
            channels,
            run: 0,
            engine: None,
            started: Time::ZERO,
            skew: plan.skew,
            suspended: Duration::ZERO,
            frozen: None,
            inbox: VecDeque::new(),
            wake: 0,
            turns: (0, 0),
            wires: [Wire::new(), Wire::new()],
            lie: Lie::default(),
            overflow_until: Time::ZERO,
            overflowed: 0,
            mode: Mode::Works,
            blind: false,
            store: Store::default(),
            changed: Time::ZERO,
            muted_until: Time::ZERO,
            draining: false,
            troubled: Time::ZERO,
        }
    }

    pub(super) fn listens_to(&self, channel: &Arc<str>) -> bool {
        self.channels.contains(channel)
    }

    /// The local peer that `process` is to it.
    pub(super) fn owner_of(&self, process: usize) -> Option<usize> {
        self.watched
            .iter()
            .zip(&self.settings.peers)
            .position(|(of, peer)| of.target == Target::Process(process) && peer.local)
    }

    pub(super) fn watches_owner(&self, peer: usize) -> bool {
        self.watched[peer].checks.contains(&Look::Process)
    }

    pub(super) fn frozen_until(&self) -> Option<Time> {
        self.frozen.map(|frozen| frozen.until)
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.frozen.is_some_and(|frozen| frozen.suspended)
    }

    pub(super) fn local(&self, at: Time) -> Time {
        at + self.skew - self.suspended
    }

    fn global(&self, local: Time) -> Time {
        local + self.suspended - self.skew
    }

    /// The truth about it, as far as others can know.
    pub(super) fn healthy(&self, now: Time) -> bool {
        self.engine.is_some() && self.frozen.is_none() && !self.draining && now >= self.muted_until
    }
}

impl World {
    pub(super) fn deliver_to(&mut self, node: usize, after: Duration, what: Arrival) {
        if self.nodes[node].engine.is_none() {
            return;
        }
        let run = self.nodes[node].run;
        self.after(after, Happening::Arrive { node, run, what });
    }

    pub(super) fn arrive(&mut self, node: usize, run: u32, what: Arrival) {
        let of = &mut self.nodes[node];
        if of.run != run || of.engine.is_none() {
            return;
        }
        if of.frozen.is_some() {
            of.inbox.push_back(what);
            return;
        }
        // What time alone has changed comes first.
        self.tick_if_due(node);
        self.hand_over(node, what);
    }

    fn hand_over(&mut self, node: usize, what: Arrival) {
        let of = &mut self.nodes[node];
        if let Some((link, epoch)) = what.over
            && of.wires[super::broker::place(link)].epoch != epoch
        {
            return;
        }
        if of.overflowed > 0 && self.now >= of.overflow_until {
            let count = std::mem::take(&mut of.overflowed);
            self.handle(node, Event::Lost { count });
        }
        if let Some(echo) = what.echo {
            self.oracle.echoed(
                node,
                Echo {
                    came: self.now,
                    ..echo
                },
            );
        }
        self.note(node, &what);
        self.handle(node, what.event);
    }

    /// What the oracle must know of an event to judge what follows.
    fn note(&mut self, node: usize, what: &Arrival) {
        let now = self.now;
        match &what.event {
            Event::Link {
                status: LinkStatus::Up { role, .. },
                ..
            } => self.oracle.role(node, *role == Role::Replica, now),
            Event::Observation(Observation {
                check,
                outcome: Outcome::Pass,
                ..
            }) => self
                .oracle
                .passed(node, check.peer.0 as usize, usize::from(check.index)),
            Event::Message { channel, .. } => self.note_message(node, channel, what),
            Event::Operator { request, .. } => self.oracle.operator(node, request, now),
            _ => {}
        }
    }

    fn note_message(&mut self, node: usize, channel: &Arc<str>, what: &Arrival) {
        for peer in 0..self.nodes[node].settings.peers.len() {
            for check in 0..self.nodes[node].settings.peers[peer].checks.len() {
                let CheckKind::Passive { source, .. } =
                    &self.nodes[node].settings.peers[peer].checks[check].kind
                else {
                    continue;
                };
                let beat = match &what.event {
                    Event::Message {
                        body: crate::engine::event::Body::Heartbeat(beat),
                        ..
                    } => Some(beat),
                    _ => None,
                };
                let heard = match source {
                    Source::Channels(channels) => channels.contains(channel),
                    Source::Node(name) => beat.is_some_and(|beat| beat.node.as_ref() == Some(name)),
                    Source::Claim { node, peer } => beat.is_some_and(|beat| {
                        beat.node.as_ref() == Some(node) && beat.peers.iter().any(|claim| claim.name == *peer)
                    }),
                    Source::Reported { .. } => false,
                };
                if heard {
                    self.oracle.passed(node, peer, check);
                }
            }
        }
    }

    /// Hands one event to the engine, carries out what it decides, and sets the alarm.
    fn handle(&mut self, node: usize, event: Event) {
        self.engine_does(node, |engine, local| engine.handle(event, local));
    }

    /// Another configuration of a node that runs.
    pub(super) fn reload(&mut self, node: usize, settings: Settings) {
        if self.nodes[node].frozen.is_some() {
            return;
        }
        self.tick_if_due(node);
        self.engine_does(node, |engine, local| {
            let reload = Reload::between(engine.settings(), settings, "simulation");
            engine.reload(reload, local);
        });
    }

    fn engine_does(&mut self, node: usize, act: impl FnOnce(&mut Engine, Time)) {
        let of = &mut self.nodes[node];
        let local = of.local(self.now);
        let Some(engine) = &mut of.engine else { return };
        act(engine, local);
        let mut decisions = Vec::new();
        while let Some(decision) = engine.poll_decision() {
            decisions.push(decision);
        }
        let next = engine.poll_timeout();
        let peers = of.settings.peers.len();
        if decisions.len() > 16 + 12 * peers {
            let count = decisions.len();
            self.violate(node, "bounded_work", format!("{count} decisions of one event"));
        }
        if next <= local {
            self.violate(
                node,
                "bounded_work",
                "poll_timeout is not later than now".to_owned(),
            );
        }
        for decision in decisions {
            self.carry_out(node, decision);
        }
        self.set_alarm(node, next);
    }

    fn set_alarm(&mut self, node: usize, next: Time) {
        // The loop keeps its ticks a millisecond apart, and is woken a moment late.
        let late = if self.rng.chance(2) { 60_000 } else { 400 };
        let late = Duration::from_micros(self.rng.next() % late);
        let of = &mut self.nodes[node];
        of.wake += 1;
        let at = of.global(next).max(self.now + MS) + late;
        let wake = of.wake;
        self.queue.put(at, Happening::Wake { node, wake });
    }

    pub(super) fn wake(&mut self, node: usize, wake: u64) {
        let of = &mut self.nodes[node];
        if of.wake != wake || of.frozen.is_some() || of.engine.is_none() {
            return;
        }
        let second = self.now.as_nanos() / 1_000_000_000;
        of.turns = if of.turns.0 == second {
            (second, of.turns.1 + 1)
        } else {
            (second, 1)
        };
        if of.turns.1 > 200 {
            let detail = "more than 200 ticks in a second".to_owned();
            self.violate(node, "bounded_work", detail);
        }
        self.tick(node);
    }

    fn tick(&mut self, node: usize) {
        let suspended = self.nodes[node].suspended;
        self.handle(node, Event::Tick { suspended });
    }

    fn tick_if_due(&mut self, node: usize) {
        let of = &self.nodes[node];
        if of
            .engine
            .as_ref()
            .is_some_and(|engine| engine.poll_timeout() <= of.local(self.now))
        {
            self.tick(node);
        }
    }

    fn carry_out(&mut self, node: usize, decision: Decision) {
        match decision {
            Decision::Publish(beat) => self.publish(node, beat),
            Decision::ReplaceLink { link, .. } => {
                self.tell(format!("n{node} replaces its {} link", link.as_str()));
                if self.wire(node, link).up {
                    self.lose(node, link, MS, OnlyIf::Always);
                } else {
                    let wire = self.wire_id(node, link);
                    self.after(MS, Happening::Try { wire });
                }
            }
            Decision::Heal(grant) => self.heal(node, grant),
            Decision::Errand(errand) => self.run_errand(node, errand),
            Decision::Persist(persisted) => {
                let store = &mut self.nodes[node].store;
                store.number += 1;
                store.writes.push_back((store.number, self.now, persisted));
                if store.writes.len() > 2 {
                    store.writes.pop_front();
                }
                self.oracle.written(node, store.number);
            }
            Decision::Notice(notice) => {
                self.line(Line::Node(self.now, node, notice.clone()));
                let peer = notice
                    .peer
                    .as_ref()
                    .and_then(|name| self.nodes[node].settings.peer_id(name))
                    .map(|id| id.0 as usize);
                if matches!(notice.what, What::Granted { .. }) {
                    self.oracle.granted += 1;
                }
                self.judge_notice(node, peer, &notice);
            }
        }
    }

    /// A node starts, with what its store holds.
    pub(super) fn start(&mut self, node: usize) {
        if let Some(until) = self.nodes[node].frozen_until() {
            return self.queue.put(until + 2 * MS, Happening::Start { node });
        }
        if self.nodes[node].engine.is_some() {
            return;
        }
        let of = &mut self.nodes[node];
        of.run += 1;
        of.settings.boot = format!("boot-n{node}-{}", of.run).into();
        of.started = self.now;
        of.changed = self.now;
        of.frozen = None;
        of.draining = false;
        of.inbox.clear();
        of.overflowed = 0;
        let restored = self.restored(node);
        let seed = self.rng.next();
        let of = &mut self.nodes[node];
        let local = of.local(self.now);
        let engine = Engine::new(of.settings.clone(), &restored, seed, local);
        let next = engine.poll_timeout();
        of.engine = Some(engine);
        let run = of.run;
        self.tell(format!("n{node} starts its run {run}"));
        self.oracle.started(node, self.now);
        self.set_alarm(node, next);
        self.start_edges(node, run);
    }

    fn restored(&mut self, node: usize) -> Restored {
        let first = self.nodes[node].run == 1;
        let writes = &self.nodes[node].store.writes;
        let choice = if first || self.calm { 0 } else { self.rng.below(10) };
        let kept = match choice {
            0..=5 => writes.back(),
            6 | 7 => writes.front(),
            _ => None,
        };
        let (kind, restored) = match (choice, kept.cloned()) {
            (9, _) if !first => {
                self.oracle.restored(node, super::oracle::Kept::Corrupt, self.now);
                ("corrupt", Restored::Corrupt)
            }
            (_, Some((number, at, persisted))) => {
                self.oracle
                    .restored(node, super::oracle::Kept::Until(number), self.now);
                for (peer, of) in self.nodes[node].settings.peers.iter().enumerate() {
                    let healing = persisted
                        .peers
                        .get(&*of.name)
                        .and_then(|kept| kept.healing.as_ref());
                    self.oracle.taking_down(node, peer, healing);
                }
                ("found", Restored::Found(Box::new(persisted), self.now.since(at)))
            }
            (_, None) if first && self.rng.chance(80) => {
                self.oracle
                    .restored(node, super::oracle::Kept::Until(0), self.now);
                ("empty", Restored::Found(Box::default(), Duration::ZERO))
            }
            (_, None) => {
                self.oracle.restored(node, super::oracle::Kept::Missing, self.now);
                ("missing", Restored::Missing)
            }
        };
        self.tell(format!("n{node}'s store: {kind}"));
        restored
    }

    fn start_edges(&mut self, node: usize, run: u32) {
        for link in Link::ALL {
            let epoch = self.wire(node, link).epoch + 1;
            let delay = self.wire(node, link).delay;
            let path_dark_until = self.wire(node, link).path_dark_until;
            *self.wire_mut(node, link) = Wire {
                epoch,
                delay,
                path_dark_until,
                ..Wire::new()
            };
            let wire = self.wire_id(node, link);
            let within = self.rng.millis(1, 20);
            self.after(within, Happening::Try { wire });
        }
        for peer in 0..self.nodes[node].watched.len() {
            for check in 0..self.nodes[node].watched[peer].checks.len() {
                let within = self.rng.millis(1, 1_000);
                match self.nodes[node].watched[peer].checks[check] {
                    Look::Process => {
                        self.after(MS, Happening::Owner { node, run, peer });
                        self.after(
                            within,
                            Happening::Look {
                                node,
                                run,
                                peer,
                                check,
                            },
                        );
                    }
                    Look::Http => self.after(
                        within,
                        Happening::Http {
                            node,
                            run,
                            peer,
                            check,
                        },
                    ),
                    Look::Channel | Look::Node | Look::Claim => {}
                }
            }
        }
        self.after(MS, Happening::Car { node, run });
    }

    /// The node's process ends without a word.
    pub(super) fn crash(&mut self, node: usize, run: u32) {
        let of = &mut self.nodes[node];
        if of.run != run || of.engine.is_none() {
            return;
        }
        if let Some(frozen) = of.frozen.filter(|frozen| frozen.suspended) {
            let awake = frozen.until + MS;
            return self.queue.put(awake, Happening::Crash { node, run });
        }
        of.engine = None;
        of.frozen = None;
        of.changed = self.now;
        of.inbox.clear();
        for wire in &mut of.wires {
            wire.up = false;
            wire.alive = false;
            wire.epoch += 1;
        }
        self.tell(format!("n{node} ends its run {run}"));
    }

    /// It does not run for so long; suspended: nor does its machine.
    pub(super) fn freeze(&mut self, node: usize, length: Duration, suspended: bool) {
        let serial = self.serial();
        let of = &mut self.nodes[node];
        if of.frozen.is_some() || of.engine.is_none() {
            return;
        }
        of.frozen = Some(Frozen {
            serial,
            since: self.now,
            until: self.now + length,
            suspended,
        });
        of.changed = self.now;
        if suspended {
            for process in 0..self.processes.len() {
                if self.scenario.processes[process].home == node {
                    self.alter(process, |of| of.asleep = true);
                }
            }
        }
        let word = if suspended { "is suspended" } else { "is stopped" };
        self.tell(format!("n{node} {word} for {length:?}"));
        self.after(length, Happening::Thaw { node, freeze: serial });
    }

    pub(super) fn thaw(&mut self, node: usize, freeze: u64) {
        let of = &mut self.nodes[node];
        let Some(frozen) = of.frozen.filter(|frozen| frozen.serial == freeze) else {
            return;
        };
        of.frozen = None;
        of.changed = self.now;
        let length = self.now.since(frozen.since);
        self.oracle.frozen(node, frozen.since, self.now);
        if frozen.suspended {
            of.suspended += length;
            self.wake_processes(node, length);
        }
        self.tell(format!("n{node} runs again"));
        let noticed = if frozen.suspended { 510 * MS } else { 760 * MS };
        if length > noticed {
            self.oracle.stalled(node, self.now);
        }
        self.tick(node);
        while let Some(what) = self.nodes[node].inbox.pop_front() {
            self.hand_over(node, what);
        }
        // Who was away for long may have been thrown out.
        if length > 20 * S && self.rng.chance(30) {
            for link in Link::ALL {
                self.lose(node, link, MS, OnlyIf::Always);
            }
        }
    }

    /// Its owner watch is another one: what runs is found by it.
    pub(super) fn find_again(&mut self, node: usize, peer: usize) {
        let run = self.nodes[node].run;
        if self.nodes[node].watches_owner(peer) {
            if let Target::Process(process) = self.nodes[node].watched[peer].target {
                self.processes[process].held = None;
            }
            self.after(MS, Happening::Owner { node, run, peer });
        }
    }

    pub(super) fn find_owner(&mut self, node: usize, run: u32, peer: usize) {
        let of = &self.nodes[node];
        if of.run != run || of.engine.is_none() {
            return;
        }
        let Target::Process(process) = of.watched[peer].target else {
            return;
        };
        if self.processes[process].state != State::Dead {
            let life = self.processes[process].life;
            return self.seen(process, life);
        }
        let detail = "no process matches".to_owned();
        let seen = OwnerSeen::Absent { detail };
        let peer = peer_id(peer);
        self.deliver_to(node, Duration::ZERO, Arrival::of(Event::Owner { peer, seen }));
    }

    /// Where a check's next run stands while its node does not run.
    fn put_off(&mut self, node: usize, run: u32, happening: Happening) -> Option<Happening> {
        let of = &self.nodes[node];
        if of.run != run || of.engine.is_none() {
            return None;
        }
        if let Some(until) = of.frozen_until() {
            let at = until + self.rng.millis(0, 20);
            self.queue.put(at, happening);
            return None;
        }
        Some(happening)
    }

    pub(super) fn look(&mut self, node: usize, run: u32, peer: usize, check: usize) {
        let Some(next) = self.put_off(
            node,
            run,
            Happening::Look {
                node,
                run,
                peer,
                check,
            },
        ) else {
            return;
        };
        self.after(S, next);
        let Target::Process(process) = self.nodes[node].watched[peer].target else {
            return;
        };
        let outcome = match self.processes[process].state {
            State::Dead => return,
            State::Stopped => Outcome::Fail {
                cause: Cause::PeerStuck,
                detail: "stopped by a signal (state T)".to_owned(),
            },
            State::Starting | State::Running => Outcome::Pass,
        };
        self.observe(node, peer, check, outcome, Duration::ZERO);
    }

    pub(super) fn http(&mut self, node: usize, run: u32, peer: usize, check: usize) {
        let Some(next) = self.put_off(
            node,
            run,
            Happening::Http {
                node,
                run,
                peer,
                check,
            },
        ) else {
            return;
        };
        self.after(S, next);
        let Target::Process(process) = self.nodes[node].watched[peer].target else {
            return;
        };
        let fail = |detail: &str| Outcome::Fail {
            cause: Cause::PeerStuck,
            detail: detail.to_owned(),
        };
        let of = &self.processes[process];
        let needs_broker = self.scenario.processes[process].health_needs_broker;
        let (outcome, took) = match of.state {
            _ if self.nodes[node].blind => (
                Outcome::Unknown {
                    detail: "status 403".to_owned(),
                },
                2 * MS,
            ),
            State::Dead | State::Starting => (fail("connection refused"), MS),
            State::Stopped => (fail("no answer within 1 s"), S),
            State::Running if of.stuck => (fail("status 503"), 2 * MS),
            State::Running if needs_broker && (!of.connected || self.broker_away_for(NOTICEABLE)) => {
                (fail("status 503: the broker is away"), 2 * MS)
            }
            State::Running => (Outcome::Pass, 2 * MS),
        };
        self.observe(node, peer, check, outcome, took);
    }

    fn observe(&mut self, node: usize, peer: usize, check: usize, outcome: Outcome, took: Duration) {
        let began = self.nodes[node].local(self.now);
        let observation = Observation {
            check: CheckId {
                peer: peer_id(peer),
                index: u16::try_from(check).unwrap_or_default(),
            },
            began,
            outcome,
        };
        self.deliver_to(node, took, Arrival::of(Event::Observation(observation)));
    }

    pub(super) fn ask_car(&mut self, node: usize, run: u32) {
        let Some(next) = self.put_off(node, run, Happening::Car { node, run }) else {
            return;
        };
        self.after(S, next);
        let met = (!self.rng.chance(1) || self.calm).then_some(self.car);
        let id = ExpectationId(0);
        self.deliver_to(node, 2 * MS, Arrival::of(Event::Expectation { id, met }));
    }
}
