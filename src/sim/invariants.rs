//! The invariants of each step: what is checked when an engine tells something.

use std::time::Duration;

use super::node::Node;
use super::oracle::{Charge, UNTOLD};
use super::process::State;
use super::scenario::{Look, Target, Voice, Watched};
use super::world::{MS, World};
use crate::engine::cause::Cause;
use crate::engine::decision::{Grant, Notice, What};
use crate::engine::event::Incarnation;
use crate::engine::peer::Liveness;
use crate::engine::self_trust::BusState;
use crate::engine::settings::{PeerSettings, RemedyKind};
use crate::engine::snapshot::{PeerView, Snapshot};
use crate::engine::time::Time;

/// Two intervals: the least window in which a node judges nobody after a pause of its own.
const FRESH: Duration = Duration::from_secs(2);
/// A peer that has been healthy for so long is known to be: by local looks, or over the bus (a beat a second,
/// three steady ones after a suspension, up to 3.5 s of delay, a claim on top of all).
const KNOWN_LOCALLY: Duration = Duration::from_secs(5);
const KNOWN_BY_BUS: Duration = Duration::from_secs(15);
/// A vote counts 3 s after it was heard, and is up to 3.5 s on its way, or waits for as long as a node sleeps unnoticed.
const VOTE_LASTS: Duration = Duration::from_secs(8);
/// No message of a silent sender is under way any more, nor fresh.
const LONG_SILENT: Duration = Duration::from_secs(12);

impl World {
    pub(super) fn judge_notice(&mut self, node: usize, peer: Option<usize>, notice: &Notice) {
        let Some(peer) = peer else { return };
        let now = self.now;
        if let What::Liveness { to, detail, .. } = &notice.what {
            let of = &mut self.oracle.nodes[node].peers[peer];
            let doubts = matches!(to, Liveness::Suspect | Liveness::Dead);
            if of.doubts || doubts {
                of.doubted = Some(now);
            }
            of.doubts = doubts;
            if detail.ends_with(" as well") {
                self.check_early(node, peer);
            }
        }
        match &notice.what {
            What::Liveness {
                to: Liveness::Dead,
                cause,
                ..
            } => {
                let of = &mut self.oracle.nodes[node];
                let before = of.peers[peer].dead_at.unwrap_or(of.started);
                // Never shorter than what the engine may take for its life.
                of.peers[peer].lived = Some(now.since(before));
                of.peers[peer].dead_at = Some(now);
                if *cause == Some(Cause::PeerExited) {
                    // It lived again, and what came has ended as well: the remedy is over.
                    of.down.remove(&peer);
                }
                self.check_doubt(node, peer, "false_death");
            }
            What::Liveness {
                to: Liveness::Alive, ..
            } => self.check_life(node, peer),
            What::Liveness {
                to: Liveness::Suspect,
                ..
            } => self.check_doubt(node, peer, "false_suspicion"),
            What::Liveness {
                from: Liveness::Alive,
                to: Liveness::Unknown,
                ..
            } => self.check_pause(node, peer),
            What::Granted { token, kind, .. } => self.check_grant(node, peer, *token, *kind),
            What::Acted {
                token, kind, outcome, ..
            } => self.acted(node, peer, *token, *kind, outcome),
            What::Recovered { .. } | What::GaveUp { .. } | What::EpisodeClosed { .. } => {
                self.oracle.nodes[node].down.remove(&peer);
            }
            _ => {}
        }
    }

    fn acted(&mut self, node: usize, peer: usize, token: u64, kind: RemedyKind, outcome: &str) {
        let verify = self.nodes[node].settings.peers[peer].remedies[0].verify_within;
        let now = self.now;
        let of = &mut self.oracle.nodes[node];
        match outcome {
            "fenced" | "not_acted" => {
                of.down.remove(&peer);
                // A pulse that is withdrawn may have been seen already.
                if kind != RemedyKind::Healthz {
                    of.peers[peer].charges.retain(|charge| charge.token != token);
                }
            }
            _ => {
                if let Some(until) = of.down.get_mut(&peer) {
                    *until = now + verify;
                }
            }
        }
        let current = of.peers[peer].current.take();
        if let Some((granted, incarnation, write)) = current
            && granted == token
            && outcome == "acted"
        {
            of.peers[peer].used.push((incarnation, 0, write));
        }
    }

    /// The truth about a peer, since when the node and whoever speaks for the peer could both know it.
    fn knowable(&self, node: usize, peer: usize) -> (bool, Time) {
        let (healthy, since) = self.truth(node, peer);
        let speaker = self.speaker(node, peer);
        let ran = self.nodes[node].changed.max(self.nodes[speaker].changed);
        // Who speaks only while the car is on is heard only from then on.
        let spoke = if self.needs_car(node, peer) {
            self.car_on
        } else {
            since
        };
        (healthy, since.max(ran).max(spoke))
    }

    /// `false_death`, `false_suspicion`: nobody who is healthy, and whose messages were not lost, is doubted.
    fn check_doubt(&mut self, node: usize, peer: usize, invariant: &'static str) {
        let (healthy, since) = self.knowable(node, peer);
        let known = self.now.since(since) >= self.known_after(node, peer);
        let outages = &self.oracle.outages;
        let unknowable = outages.iter().any(|outage| outage.unknown_to(node, self.now));
        // A hiccup of the broker can cost its speaker's link: a beat or two, never a life.
        let hiccup = invariant == "false_suspicion" && self.troubled_lately();
        let excused = self.tainted(node, peer) || self.fails_with_bus(node, peer) || unknowable || hiccup;
        if healthy && known && !excused {
            let name = self.nodes[node].settings.peers[peer].name.clone();
            let detail = format!("{name} is healthy since {since}");
            self.violate(node, invariant, detail);
        }
    }

    fn troubled_lately(&self) -> bool {
        let last = self.oracle.outages.back();
        last.is_some_and(|outage| outage.end.is_none_or(|end| self.now < end + KNOWN_BY_BUS))
    }

    /// `pause_changes`: within the fresh window after a pause of its own a node takes nobody's life back who has
    /// been healthy all the while.
    fn check_pause(&mut self, node: usize, peer: usize) {
        let of = &self.oracle.nodes[node];
        let Some(stalled) = of.stalled.filter(|stalled| self.now < *stalled + FRESH) else {
            return;
        };
        let Some(paused) = of.frozen.back().map(|(from, _)| *from) else {
            return;
        };
        if self.needs_car(node, peer) || of.peers[peer].forgotten {
            return;
        }
        let long_before = paused - KNOWN_BY_BUS;
        let (healthy, since) = self.truth(node, peer);
        let settled = self.scenario.settle + KNOWN_BY_BUS;
        let outage = self
            .oracle
            .outages
            .iter()
            .any(|outage| outage.end.is_none_or(|end| end + settled > paused));
        let speaker = &self.nodes[self.speaker(node, peer)];
        let spoke =
            speaker.changed < long_before && speaker.healthy(self.now) && speaker.troubled < long_before;
        let heard = of.started < long_before && self.nodes[node].troubled < long_before;
        if healthy && since < long_before && spoke && heard && !outage && !self.tainted(node, peer) {
            let name = self.nodes[node].settings.peers[peer].name.clone();
            let detail =
                format!("{name} is healthy since {since}; a pause from {paused} to {stalled} changed that");
            self.violate(node, "pause_changes", detail);
        }
    }

    fn needs_car(&self, node: usize, peer: usize) -> bool {
        match self.nodes[node].watched[peer].target {
            Target::Process(process) => self.scenario.processes[process].needs_car,
            Target::Node(_) => false,
        }
    }

    /// Its health endpoint tells of the broker: a local fact, if not one about the peer.
    fn fails_with_bus(&self, node: usize, peer: usize) -> bool {
        match self.nodes[node].watched[peer].target {
            Target::Process(process) => self.scenario.processes[process].health_needs_broker,
            Target::Node(_) => false,
        }
    }

    fn known_after(&self, node: usize, peer: usize) -> Duration {
        let local = |look: &Look| matches!(look, Look::Process | Look::Http);
        if self.nodes[node].watched[peer].checks.iter().all(local) {
            KNOWN_LOCALLY
        } else {
            KNOWN_BY_BUS
        }
    }

    /// `resurrection`: messages of the past make nobody alive who has been silent for long.
    fn check_life(&mut self, node: usize, peer: usize) {
        let booted = match self.nodes[node].watched[peer].target {
            Target::Process(process) => self.scenario.processes[process].voice == Voice::Booted,
            Target::Node(_) => true,
        };
        let by_messages = self.nodes[node].watched[peer].checks.iter();
        let by_messages = by_messages
            .clone()
            .all(|look| matches!(look, Look::Channel | Look::Node));
        let (healthy, since) = self.truth(node, peer);
        // Who has not heard it before cannot tell the old from the new.
        let heard_before = self.oracle.nodes[node].started + LONG_SILENT < since;
        // After a pause of its own it reads what was said before.
        let since = since.max(self.nodes[node].changed);
        if healthy || !booted || !by_messages || !heard_before || self.now.since(since) < LONG_SILENT {
            return;
        }
        if self.is_muted_only(node, peer) {
            return;
        }
        let name = self.nodes[node].settings.peers[peer].name.clone();
        let detail = format!("{name} is silent since {since} and held to be alive");
        self.violate(node, "resurrection", detail);
    }

    /// A node behind a bad link lives, and some of what it says may come through.
    fn is_muted_only(&self, node: usize, peer: usize) -> bool {
        match self.nodes[node].watched[peer].target {
            Target::Node(other) => {
                let of = &self.nodes[other];
                of.engine.is_some() && of.frozen_until().is_none()
            }
            Target::Process(_) => false,
        }
    }

    /// Whether an own heartbeat that was sent after the condemnation had been taken before `begin`: what follows
    /// from it could not be known otherwise.
    fn excused(&self, node: usize, peer: usize, begin: Time) -> bool {
        let of = &self.oracle.nodes[node];
        of.peers[peer].dead_at.is_some_and(|dead_at| {
            of.echoes
                .iter()
                .any(|echo| echo.sent >= dead_at && echo.taken <= begin && echo.came <= self.now)
        })
    }

    fn check_grant(&mut self, node: usize, peer: usize, token: u64, kind: RemedyKind) {
        let of = &self.nodes[node];
        let local = of.local(self.now);
        let Some(snapshot) = of.engine.as_ref().map(|engine| engine.snapshot(local)) else {
            return;
        };
        let Some(view) = snapshot.peers.get(peer).cloned() else {
            return;
        };
        self.check_trust(node, peer, &snapshot, &view);
        self.check_permission(node, peer, kind, &view);
        self.check_truth(node, peer, &view);
        self.check_bounds(node, peer, token, kind, &view);
        if kind.touches() {
            self.check_leave(node, peer, token);
        }
    }

    /// Nothing is done by a node that cannot know: `unknown`, `self_distrust`, `own_stall`, `outage`, `start`.
    fn check_trust(&mut self, node: usize, peer: usize, snapshot: &Snapshot, view: &PeerView) {
        if view.liveness != Liveness::Dead {
            let detail = format!("{} is {}", view.name, view.liveness);
            self.violate(node, "unknown", detail);
        }
        if snapshot.trust.bus != BusState::Trusted {
            self.violate(
                node,
                "self_distrust",
                format!("the bus is {}", snapshot.trust.bus),
            );
        }
        let of = &self.oracle.nodes[node];
        if let Some(stalled) = of.stalled.filter(|stalled| self.now < *stalled + FRESH) {
            self.violate(node, "own_stall", format!("it runs again since {stalled} only"));
        }
        let settle = self.scenario.settle;
        let first = self.oracle.nodes[node].first_echo;
        if first.is_none_or(|first| self.now < first + settle) {
            self.violate(node, "start", format!("its first echo came at {first:?}"));
        }
        let mut outages = self.oracle.outages.iter();
        let of = &self.oracle.nodes[node];
        let forbidden = outages.find_map(|outage| {
            outage.forbids(
                (node, of),
                self.now,
                settle,
                self.excused(node, peer, outage.begin),
            )
        });
        if let Some(outage) = forbidden {
            self.violate(node, "outage", format!("{} is healed: {outage}", view.name));
        }
    }

    /// `paused`, `draining`, `dry_run`, `quorum`, `never_passed`, `grace`.
    fn check_permission(&mut self, node: usize, peer: usize, kind: RemedyKind, view: &PeerView) {
        let now = self.now;
        let of = &self.oracle.nodes[node];
        let pauses = [of.paused, of.peers[peer].paused];
        if pauses.iter().flatten().any(|pause| now < pause.until) {
            self.violate(node, "paused", format!("{} is healed", view.name));
        }
        if self.oracle.nodes[node].draining {
            self.violate(node, "draining", format!("{} is healed", view.name));
        }
        if self.nodes[node].settings.dry_run {
            self.violate(node, "dry_run", format!("{} is healed", view.name));
        }
        self.check_quorum(node, peer, kind, view);
        if kind.tells() {
            return;
        }
        let settings = &self.nodes[node].settings.peers[peer];
        let condemned = view.episode.iter().flat_map(|episode| &episode.condemned_by);
        let passed = condemned.clone().any(|name| {
            let check = settings.checks.iter().position(|check| check.name == *name);
            check.is_some_and(|check| self.oracle.nodes[node].peers[peer].passed[check])
        });
        let (exited, young) = self.exited_or_young(node, peer, settings.grace);
        if !passed && !exited {
            let detail = format!("{}: no check that condemns it ever passed", view.name);
            self.violate(node, "never_passed", detail);
        }
        if young && !exited {
            self.violate(node, "grace", format!("{} has only begun to live", view.name));
        }
    }

    /// `quorum`: a remote peer is restarted only if others doubted it as well, a moment ago at the earliest.
    fn check_quorum(&mut self, node: usize, peer: usize, kind: RemedyKind, view: &PeerView) {
        let of = &self.nodes[node];
        let settings = &of.settings.peers[peer];
        if settings.local || settings.single_observer || kind.tells() {
            return;
        }
        let target = of.watched[peer].target;
        let lately = |at: Time| self.now < at + VOTE_LASTS;
        // (Whose owner is not watched may be anywhere.)
        let votes = |watched: &Watched, settings: &PeerSettings| {
            watched.target == target && !(settings.local && watched.checks.contains(&Look::Process))
        };
        let doubts = |other: usize| {
            let (of, record) = (&self.nodes[other], &self.oracle.nodes[other]);
            let watched = of.watched.iter().zip(&of.settings.peers).zip(&record.peers);
            let mut remote = watched.filter(|((watched, peer), _)| votes(watched, peer));
            let runs = of.engine.is_some() || lately(of.changed);
            runs && remote.any(|(_, record)| record.doubts || record.doubted.is_some_and(lately))
        };
        let others = (0..self.nodes.len()).filter(|other| *other != node && Target::Node(*other) != target);
        let agree = 1 + others.filter(|other| doubts(*other)).count();
        let k = usize::from(self.nodes[node].settings.quorum.k);
        if agree < k {
            let detail = format!("{} is remote: {agree} of {k} observers doubt it", view.name);
            self.violate(node, "quorum", detail);
        }
    }

    /// `early`: nobody who is healthy is confirmed dead by votes while a node without any trouble of its own hears it,
    /// and hears those that vote.
    fn check_early(&mut self, node: usize, peer: usize) {
        let (healthy, since) = self.knowable(node, peer);
        let clean = |of: &Node, now: Time| of.troubled + KNOWN_BY_BUS < now || of.troubled == Time::ZERO;
        let us = &self.nodes[node];
        let told = us.lie.only_forgets(self.now) && clean(us, self.now);
        if !healthy || self.now.since(since) < KNOWN_BY_BUS || !told || self.troubled_lately() {
            return;
        }
        let (target, look) = (us.watched[peer].target, us.watched[peer].checks[0]);
        let hears = |other: usize| {
            let of = &self.nodes[other];
            let calm = of.changed + KNOWN_BY_BUS < self.now && of.healthy(self.now);
            let truthful = of.lie.until == Time::ZERO || of.lie.until + KNOWN_BY_BUS < self.now;
            let Some(engine) = of
                .engine
                .as_ref()
                .filter(|_| calm && truthful && clean(of, self.now))
            else {
                return false;
            };
            let watched = of
                .watched
                .iter()
                .position(|watched| watched.target == target && watched.checks == [look]);
            let view = engine.snapshot(of.local(self.now));
            let trusted = view.trust.bus == BusState::Trusted;
            trusted && watched.is_some_and(|peer| view.peers[peer].liveness == Liveness::Alive)
        };
        if let Some(other) = (0..self.nodes.len()).find(|other| *other != node && hears(*other)) {
            let name = self.nodes[node].settings.peers[peer].name.clone();
            let detail = format!("{name} is healthy since {since}, and n{other} hears it");
            self.violate(node, "early", detail);
        }
    }

    /// Truly exited; begun so recently that it is in its grace. Of processes that are held by their node.
    fn exited_or_young(&self, node: usize, peer: usize, grace: Duration) -> (bool, bool) {
        match self.nodes[node].watched[peer].target {
            Target::Process(process) if self.nodes[node].watches_owner(peer) => {
                let of = &self.processes[process];
                // The owner watch takes a moment to find it.
                let seen = self.now > of.born + 100 * MS;
                (of.state == State::Dead, seen && self.now < of.born + grace)
            }
            Target::Process(_) | Target::Node(_) => (false, false),
        }
    }

    /// `healthy_peer`: who is healed is truly ill, and not only unheard.
    fn check_truth(&mut self, node: usize, peer: usize, view: &PeerView) {
        let (healthy, since) = self.knowable(node, peer);
        if healthy && self.now.since(since) >= self.known_after(node, peer) && !self.tainted(node, peer) {
            let detail = format!(
                "{} is healthy since {since} and healed ({})",
                view.name, view.detail
            );
            self.violate(node, "healthy_peer", detail);
        }
    }

    /// `backoff`, `budget`, `group_spacing`, `down_by_our_hand`, `repeated_rung`.
    fn check_bounds(&mut self, node: usize, peer: usize, token: u64, kind: RemedyKind, view: &PeerView) {
        let now = self.now;
        let settings = self.nodes[node].settings.peers[peer].clone();
        let write = self.oracle.nodes[node].writes + 1;
        let incarnation = view
            .incarnation
            .clone()
            .unwrap_or_else(|| Incarnation("none".into()));
        self.oracle.nodes[node].peers[peer].current = Some((token, incarnation.clone(), write));
        if !kind.touches() {
            return; // It touches nothing, and nothing bounds it but its episode.
        }
        let of_peer = self.oracle.nodes[node].peers[peer].clone();
        if of_peer.not_before.is_some_and(|(until, _)| now < until) {
            let detail = format!("{} before {:?}", view.name, of_peer.not_before);
            self.violate(node, "backoff", detail);
        }
        if of_peer
            .used
            .iter()
            .any(|(life, rung, _)| *life == incarnation && *rung == 0)
        {
            let detail = format!("{}: this rung was carried out on {incarnation} before", view.name);
            self.violate(node, "repeated_rung", detail);
        }
        let of = &mut self.oracle.nodes[node].peers[peer];
        if of
            .lived
            .take()
            .is_some_and(|lived| lived >= settings.backoff.reset_after)
        {
            of.level = 0;
        }
        let wait = settings
            .backoff
            .initial
            .saturating_mul(1 << of.level.min(20))
            .min(settings.backoff.max);
        of.not_before = Some((now + wait, write));
        of.level += 1;
        of.charges
            .retain(|charge| now.since(charge.at) < settings.budget.window);
        let spent = of.charges.len();
        of.charges.push(Charge {
            at: now,
            token,
            write,
        });
        self.check_budget(node, peer, spent);
        self.check_group(node, peer, write, kind);
    }

    fn check_budget(&mut self, node: usize, peer: usize, spent: usize) {
        let settings = &self.nodes[node].settings.peers[peer];
        let (name, count, window) = (
            settings.name.clone(),
            settings.budget.count,
            settings.budget.window,
        );
        let of = &self.oracle.nodes[node];
        let young = self.now.since(of.started);
        let limit = match (of.untold, of.corrupt) {
            (true, _) if young < UNTOLD => count.min(1),
            (_, true) if young < window && !of.peers[peer].forgotten => 0,
            _ => count,
        };
        if spent >= limit as usize {
            let detail = format!("{name}: {spent} restarts of {limit} in {window:?} before this one");
            self.violate(node, "budget", detail);
        }
    }

    fn check_group(&mut self, node: usize, peer: usize, write: u64, kind: RemedyKind) {
        let now = self.now;
        let settings = &self.nodes[node].settings;
        let (spacing, of_all) = (settings.group_budget.spacing, settings.peers.len());
        let limit = (of_all * usize::from(settings.group_budget.down_percent) / 100).max(1);
        let remedy = &settings.peers[peer].remedies[0];
        let act_within = if kind == RemedyKind::Healthz {
            settings.peers[peer].healthz_hold
        } else {
            remedy.act_within
        };
        let until = now + act_within + remedy.verify_within;
        let of = &mut self.oracle.nodes[node];
        let last = of.restarted.replace((now, write));
        let down = of
            .down
            .iter()
            .filter(|(other, until)| **other != peer && now < **until)
            .count();
        of.down.insert(peer, until);
        if let Some((last, _)) = last.filter(|(last, _)| now.since(*last) < spacing) {
            self.violate(node, "group_spacing", format!("the last restart was at {last}"));
        }
        if down >= limit {
            self.violate(node, "down_by_our_hand", format!("{down} are down already"));
        }
    }

    /// What an executor is handed is what was told to have been granted.
    pub(super) fn check_rung(&mut self, node: usize, peer: usize, grant: &Grant) {
        let current = self.oracle.nodes[node].peers[peer].current.clone();
        let told = current
            .is_some_and(|(token, incarnation, _)| token == grant.token && incarnation == grant.incarnation);
        if !told && !self.nodes[node].settings.dry_run {
            let detail = format!("token {} on {}", grant.token, grant.incarnation);
            self.violate(node, "untold_grant", detail);
        }
    }
}
