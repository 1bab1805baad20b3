//! The judge. Pure: it has no clock, no I/O, no tasks and no randomness but a seed that is passed in.
//!
//! Its whole face is [`Engine::handle`], [`Engine::poll_timeout`], [`Engine::poll_decision`] and
//! [`Engine::snapshot`]. The runtime hands it one event at a time with the time at which it happened, drains the
//! decisions, and sleeps until the timeout. Nothing in here can wait.

pub mod cause;
pub mod decision;
pub mod detector;
pub mod event;
pub mod guards;
pub mod peer;
pub mod persist;
pub mod reload;
pub mod self_trust;
pub mod settings;
pub mod snapshot;
pub mod time;

mod beats;
mod breaker;
mod episode;
mod evidence;
mod heal;
mod judge;
mod ladder;
mod operate;
pub mod outside;
mod pace;
mod quorum;
mod report;
mod restore;
mod retired;
mod said;
#[cfg(test)]
mod tests;
mod timers;
mod view;
mod votes;
mod wish;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use beats::{OwnBeats, Routes};
use breaker::Breaker;
use decision::{Decision, Notice, What};
use event::{CheckId, Event, ExpectationId, Link, Observation, PeerId};
use evidence::Expectation;
use guards::GroupLedger;
use operate::Maintained;
use peer::{Pause, Peer};
use persist::Restored;
use quorum::Quorum;
use restore::Saving;
use retired::Retired;
use self_trust::{Changed, SelfTrust, TICK};
use settings::Settings;
use time::Time;
use timers::Timers;

/// The engine of one node.
#[derive(Clone, Debug)]
pub struct Engine {
    settings: Settings,
    started: Time,
    now: Time,
    seed: u64,

    trust: SelfTrust,
    breaker: Breaker,
    quorum: Quorum,
    expectations: Vec<Expectation>,
    peers: Vec<Peer>,
    timers: Timers,
    routes: Routes,
    own: OwnBeats,
    /// Silent peers whose silence our echoes do not cover yet: looked at again with each echo.
    uncovered: BTreeSet<PeerId>,

    group: GroupLedger,
    node_pause: Option<Pause>,
    /// Restarts that operators asked for and that have no answer yet.
    wishes: BTreeSet<PeerId>,
    /// The maintenance windows that are open.
    maintenance: BTreeMap<u16, Maintained>,
    draining: bool,
    /// Condemned, and waiting for permission; the longest-condemned first.
    waiting: BTreeSet<(Time, PeerId)>,
    /// Something happened that may change a guard's mind, and cannot wait for the next turn.
    ask: bool,
    asked_at: Time,
    tokens: u64,
    episodes: u64,
    /// Notices so far.
    told: u64,
    /// Questions that were asked of the outside.
    questions: u64,

    /// What is kept of those that are configured no longer.
    retired: Retired,
    reloads: u64,
    saving: Saving,
    decisions: VecDeque<Decision>,
}

impl Engine {
    /// An engine that starts at `now`. `seed` feeds the jitter of backoffs and nothing else.
    pub fn new(settings: Settings, restored: &Restored, seed: u64, now: Time) -> Self {
        let mut engine = Self {
            started: now,
            now,
            seed,
            trust: SelfTrust::new(settings.interval, settings.bus_settle, now),
            breaker: Breaker::new(settings.breaker),
            quorum: Quorum::new(&settings),
            expectations: vec![Expectation::default(); settings.expectations.len()],
            peers: settings.peers.iter().map(|peer| Peer::new(peer, now)).collect(),
            timers: Timers::new(settings.peers.len()),
            routes: Routes::new(&settings),
            own: OwnBeats::new(now),
            uncovered: BTreeSet::new(),
            group: GroupLedger::of(&settings),
            node_pause: None,
            wishes: BTreeSet::new(),
            maintenance: BTreeMap::new(),
            draining: false,
            waiting: BTreeSet::new(),
            ask: false,
            asked_at: now,
            tokens: 0,
            episodes: 0,
            told: 0,
            retired: Retired::default(),
            reloads: 0,
            questions: 0,
            saving: Saving::default(),
            decisions: VecDeque::new(),
            settings,
        };
        engine.restore(restored, now);
        for id in engine.ids() {
            engine.arm(id);
        }
        engine
    }

    /// Takes in one event that happened at `now`. `now` never goes back; if it does, the latest is used.
    pub fn handle(&mut self, event: Event, now: Time) {
        self.now = self.now.max(now);
        let now = self.now;
        let suspended = match event {
            Event::Tick { suspended } => Some(suspended),
            _ => None,
        };
        // First of all: was this node running at all? Whatever the event tells is worth less if it was not.
        if let Some((ran_until, pause)) = self.trust.turn(now, suspended) {
            self.stalled(ran_until, pause);
        }
        self.take_in(event);
        self.pass_time();
        if suspended.is_some() {
            self.postpone_alarms();
        }
        // By time, not by ticks: a busy node may get none. And not for each peer that comes back: a thousand that
        // do so together would have each other asked for a million times.
        if self.ask || now.since(self.asked_at) >= TICK {
            self.ask = false;
            self.asked_at = now;
            self.ask_guards();
        }
        self.save_if_due();
    }

    fn take_in(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Tick { .. } => {}
            Event::Link { link, status } => {
                let changed = self.trust.link(link, status, now);
                self.ask = true;
                self.trust_changed(changed);
            }
            Event::Published { slot, receivers } => {
                let changed = self.trust.taken(slot, receivers, now);
                self.trust_changed(changed);
            }
            Event::PublishFailed { slot } => self.trust.not_taken(slot),
            Event::Message { channel, body } => self.message(&channel, body),
            Event::Answered(beat) => self.hear_answer(&beat),
            Event::Doubted { about, silent } => self.doubted(&about, silent),
            Event::Lost { .. } => self.trust.lost(),
            Event::Observation(observation) => self.observation(observation),
            Event::Report(report) => self.reported(report),
            Event::Owner { peer, seen } => self.owner(peer, seen),
            Event::Expectation { id, met } => self.expectation(id, met),
            Event::RemedyEnded { token, outcome } => self.remedy_ended(token, outcome),
            Event::Blockers { number, peer, answer } => self.blockers_answered(number, peer, answer),
            Event::Lease { reservation, answer } => self.lease_answered(reservation, answer),
            Event::Maintenance { window, open } => self.maintain(window, open),
            Event::Operator { request, by } => self.operator(request, by),
        }
    }

    /// Everything that is due by now.
    fn pass_time(&mut self) {
        let now = self.now;
        if !self.draining {
            // (Who has said goodbye sends nothing more, and misses no echo of it.)
            let changed = self.trust.tick(now);
            self.trust_changed(changed);
        }
        if self.trust.mature(now) {
            // In the order of their ids: which silence is judged first must not depend on anything else.
            for id in std::mem::take(&mut self.uncovered) {
                self.judge(id);
            }
        }
        if let Some(flip) = self.breaker.tick(now) {
            self.breaker_flipped(flip);
        }
        self.beat_if_due();
        while let Some(id) = self.timers.pop_due(now) {
            self.peer_due(id);
        }
        self.speak_if_due();
        if self
            .node_pause
            .as_ref()
            .is_some_and(|pause| pause.until.is_some_and(|until| now >= until))
        {
            self.end_pause(None, "clock");
        }
    }

    /// When [`Event::Tick`] must be handed in at the latest.
    pub fn poll_timeout(&self) -> Time {
        self.trust
            .next_turn()
            .min(self.own.next_due())
            .min(self.timers.next())
            .min(self.quorum.speaks_at())
            .max(self.now + std::time::Duration::from_nanos(1))
    }

    /// The next thing to do, until there is none.
    pub fn poll_decision(&mut self) -> Option<Decision> {
        self.decisions.pop_front()
    }

    /// Its settings, as it was last given them.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn ids(&self) -> impl Iterator<Item = PeerId> + use<> {
        (0..u32::try_from(self.peers.len()).unwrap_or(u32::MAX)).map(PeerId)
    }

    fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(id.0 as usize)
    }

    fn peer_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(id.0 as usize)
    }

    fn notice(&mut self, peer: Option<PeerId>, what: What) {
        let peer = peer
            .and_then(|id| self.settings.peers.get(id.0 as usize))
            .map(|peer| Arc::clone(&peer.name));
        self.notice_of(peer, what);
    }

    fn notice_of(&mut self, peer: Option<Arc<str>>, what: What) {
        self.told = self.told.saturating_add(1);
        self.decisions.push_back(Decision::Notice(Notice {
            n: self.told,
            at: self.now,
            peer,
            what,
        }));
    }

    /// This node was not running for `pause`: nobody is judged by what it missed.
    fn stalled(&mut self, ran_until: Time, pause: std::time::Duration) {
        let for_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.notice(None, What::Stalled { for_ms });
        let now = self.now;
        let mark = self.trust.mark(now);
        self.quorum.withdraw_all();
        for id in self.ids() {
            for index in 0..self.settings.peers[id.0 as usize].checks.len() {
                let check = CheckId {
                    peer: id,
                    index: u16::try_from(index).unwrap_or(u16::MAX),
                };
                let verdict = self.verdict_at(check, ran_until);
                if let Some(peer) = self.peer_mut(id)
                    && let (Some(verdict), Some(check)) = (verdict, peer.checks.get_mut(index))
                {
                    check.freeze(verdict, now, mark);
                }
            }
            self.extend_episode(id, pause);
            self.arm(id);
        }
    }

    fn trust_changed(&mut self, changed: Changed) {
        if let Some((link, cause)) = changed.replace {
            self.decisions.push_back(Decision::ReplaceLink { link, cause });
        }
        if changed.resolve {
            let cause = cause::Cause::WrongBroker;
            self.decisions
                .extend(Link::ALL.map(|link| Decision::ReplaceLink { link, cause }));
        }
        if changed.tell {
            let (state, detail) = (self.trust.state(), self.trust.detail().to_owned());
            self.notice(None, What::Bus { state, detail });
        }
        if changed.regained {
            let mark = self.trust.mark(self.now);
            for peer in &mut self.peers {
                for check in &mut peer.checks {
                    if check.plane() == settings::Plane::Bus {
                        check.restart_window(self.now, mark);
                    }
                }
            }
        }
        if changed.state || changed.regained {
            for id in self.ids() {
                self.judge(id);
            }
            self.ask = true;
        }
    }

    fn observation(
        &mut self,
        Observation {
            check,
            began,
            outcome,
        }: Observation,
    ) {
        let now = self.now;
        if let Some(known) = self
            .peer_mut(check.peer)
            .and_then(|peer| peer.checks.get_mut(usize::from(check.index)))
        {
            known.observed(outcome, began, now);
            self.judge(check.peer);
        }
    }

    fn expectation(&mut self, id: ExpectationId, met: Option<bool>) {
        let Some(known) = self.expectations.get_mut(usize::from(id.0)) else {
            return;
        };
        let before = std::mem::replace(known, Expectation { met, at: self.now }).met;
        self.ask = true;
        if before == met {
            return;
        }
        let mark = self.trust.mark(self.now);
        for peer in self.ids() {
            let mut concerned = false;
            for index in 0..self.settings.peers[peer.0 as usize].checks.len() {
                if self.settings.peers[peer.0 as usize].checks[index].needs == Some(id) {
                    concerned = true;
                    if met == Some(true) {
                        self.peers[peer.0 as usize].checks[index].expected_anew(self.now, mark);
                    }
                }
            }
            if concerned {
                self.judge(peer);
            }
        }
    }
}
