//! From condemned to healed: asking the guards, granting, and watching for the proof.

use std::time::Duration;

use super::Engine;
use super::decision::{Decision, Grant, What};
use super::episode::{Episode, Remedy};
use super::event::{Incarnation, PeerId, RemedyOutcome};
use super::guards::{self, Asked, GuardName, Refusal};
use super::ladder::Step;
use super::outside::Mark;
use super::peer::Liveness;
use super::self_trust::BusState;
use super::settings::{Plane, RemedyKind, RemedySettings};
use super::snapshot::EpisodePhase;
use super::time::Time;

/// So many fences, and the rung is left for the next.
const FENCES: u8 = 3;
/// A slot "down by our hand" is held so much longer than `verify_within`, then freed in any case.
pub(super) const SLOT_SLACK: Duration = Duration::from_secs(10);

impl Engine {
    /// Asks for every condemned peer, the longest-condemned first. One restart makes the group's budget say no
    /// to the rest by itself.
    pub(super) fn ask_guards(&mut self) {
        for (since, id) in self.waiting.clone() {
            self.note_outlived(id, since);
            self.ask_for(id, since);
        }
        // An answer from outside may never come.
        for id in self.wishes.clone() {
            let episode = self.peer(id).and_then(|peer| peer.episode.as_ref());
            let wish = episode.and_then(|episode| episode.wish.as_ref());
            if wish.is_some_and(|wish| !wish.answered) {
                self.ask_for(id, self.now);
            } else {
                self.wishes.remove(&id);
            }
        }
    }

    /// What was condemned then is not the bus's doing, whatever becomes of the bus from now on.
    fn note_outlived(&mut self, id: PeerId, condemned_at: Time) {
        let worked = self.trust.worked_since(condemned_at, self.now);
        if worked && let Some(episode) = self.peer_mut(id).and_then(|peer| peer.episode.as_mut()) {
            episode.outside.outlived = true;
        }
    }

    pub(super) fn ask_for(&mut self, id: PeerId, condemned_at: Time) {
        let Some(peer) = self.peer(id) else { return };
        let Some(episode) = &peer.episode else { return };
        let wish = episode.wish.as_ref().map(|wish| wish.rung);
        if episode.phase != EpisodePhase::Waiting || (peer.liveness != Liveness::Dead && wish.is_none()) {
            return;
        }
        let settings = &self.settings.peers[id.0 as usize];
        let incarnation = peer.life();
        let rung = match wish.map_or_else(|| self.step(id, peer, episode), Step::Rung) {
            Step::Rung(rung) => rung,
            // Nothing was done, so nothing was tried in vain.
            Step::Exhausted | Step::Ended if self.settings.dry_run => {
                let refusal = Refusal {
                    guard: GuardName::DryRun,
                    why: "everything else permitted it; whether it would have helped is not known".to_owned(),
                    until: None,
                };
                return self.refused(id, refusal);
            }
            Step::Exhausted => {
                let why = "every remedy for this cause was carried out on this life already";
                return self.give_up(id, why);
            }
            Step::Ended => {
                let why = "it has exited, and what is left of its ladder acts only on what runs";
                return self.give_up(id, why);
            }
            Step::None => return,
        };
        let Some(remedy) = settings.remedies.get(usize::from(rung)).cloned() else {
            // An operator asked for it, and the ladder is another by now.
            return self.wish_failed(id);
        };
        let permitted_as = self.permitted_as(id, peer, episode, rung);
        let asked = Asked {
            now: self.now,
            settings: &self.settings,
            trust: &self.trust,
            breaker: &self.breaker,
            group: &self.group,
            node_pause: self.node_pause.as_ref(),
            window: self.window_of(id),
            draining: self.draining,
            id,
            peer,
            peer_settings: settings,
            episode,
            rung,
            remedy: permitted_as,
            keeps: remedy.kind == RemedyKind::Capture,
            expectations: &self.expectations,
            tally: &|| self.tally_of(id, &episode.against),
        };
        match guards::permit(&asked) {
            Ok(()) => self.grant(id, rung, &remedy, incarnation, false),
            Err(refusal) if refusal.guard == GuardName::DryRun && wish.is_none() => {
                self.refused(id, refusal);
                self.grant(id, rung, &remedy, incarnation, true);
            }
            Err(refusal) if self.must_ask(id, refusal.guard) => {
                self.ask_outside(id, refusal, (rung, &remedy, incarnation));
            }
            Err(refusal) if wish.is_some() => self.wish_refused(id, refusal),
            Err(refusal) => {
                let spent = refusal.guard == GuardName::Budget
                    && episode.remedies > 0
                    && guards::peer_budget_left(peer, settings, &self.group, self.now) == 0;
                let unproven = refusal.guard == GuardName::SelfTrust
                    && self.trust.state() == BusState::Trusted
                    && !self.trust.outlives(condemned_at);
                self.refused(id, refusal);
                if spent && !self.settings.dry_run {
                    self.give_up(id, "its restarts are used up and it is still dead");
                } else if unproven {
                    self.probe_bus(condemned_at);
                }
            }
        }
    }

    /// The refusal is only for want of an answer from outside.
    fn must_ask(&self, id: PeerId, guard: GuardName) -> bool {
        let episode = self.peer(id).and_then(|peer| peer.episode.as_ref());
        matches!(guard, GuardName::Blockers | GuardName::FleetLease)
            && episode.is_some_and(|episode| episode.outside.no(guard, self.now).is_none())
    }

    pub(super) fn refused(&mut self, id: PeerId, refusal: Refusal) {
        let Some(episode) = self.peer_mut(id).and_then(|peer| peer.episode.as_mut()) else {
            return;
        };
        let same = episode
            .refusal
            .as_ref()
            .is_some_and(|last| last.guard == refusal.guard && last.why == refusal.why);
        let (number, told) = (episode.id, episode.is_told());
        episode.refusal = Some(refusal.clone());
        if !same && told {
            self.notice(
                Some(id),
                What::Refused {
                    episode: number,
                    refusal,
                },
            );
        }
    }

    fn grant(
        &mut self,
        id: PeerId,
        rung: u16,
        remedy: &RemedySettings,
        incarnation: Incarnation,
        dry_run: bool,
    ) {
        let now = self.now;
        // (A capture leaves it for what it comes before.)
        let leave = if remedy.kind == RemedyKind::Capture {
            None
        } else {
            self.use_leave(id)
        };
        let of_group = leave.unwrap_or_default();
        self.tokens = self.tokens.saturating_add(1).max(of_group);
        let token = self.tokens;
        let (touches, restarts) = self.leads_to(id, rung);
        if touches {
            self.breaker.healing(id);
        }
        self.charge(id, remedy);
        if restarts && remedy.kind == RemedyKind::Capture {
            // One permission is used by one peer: others wait until it is restarted, or is not.
            let until = now + self.settings.peers[id.0 as usize].acts_within(remedy);
            self.group.down.insert(id, until);
        }
        let settings = &self.settings.peers[id.0 as usize];
        let (name, act_within) = (settings.name.clone(), settings.acts_within(remedy));
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        if remedy.kind.touches() {
            peer.ledger.mark_done(incarnation.clone(), rung);
        }
        let exited = peer.exited;
        let Some(episode) = &mut peer.episode else { return };
        let (number, cause, kind) = (episode.id, episode.cause, remedy.kind);
        // (What is kept before an attempt belongs to it.)
        let attempt = episode.attempts + 1;
        if kind != RemedyKind::Capture {
            episode.attempts = attempt;
        }
        episode.phase = EpisodePhase::Acting { token, since: now };
        episode.remedy = Some(Remedy {
            token,
            rung,
            granted: remedy.clone(),
            incarnation: incarnation.clone(),
            lost_at: now + act_within,
            ended: false,
            restarted_before: episode.restarted,
        });
        episode.restarted |= remedy.restarts;
        episode.restarts += u32::from(remedy.restarts);
        if !dry_run {
            peer.granted += u64::from(kind != RemedyKind::Capture);
            episode.refusal = None;
        }
        let grant = Grant {
            token,
            peer: id,
            name,
            incarnation,
            exited,
            rung,
            kind,
            cause,
            attempt,
            until: now + act_within,
        };
        if dry_run {
            self.notice(
                Some(id),
                What::WouldHeal {
                    episode: number,
                    kind,
                    cause,
                },
            );
            self.acted(id, "dry_run", "nothing was done".to_owned());
            return;
        }
        self.wish_granted(id, remedy);
        self.notice(
            Some(id),
            What::Granted {
                episode: number,
                token,
                kind,
                cause,
                attempt,
            },
        );
        // Written down before it is done: a node that dies in between must know that it may have acted.
        self.save_now();
        if kind == RemedyKind::Healthz {
            self.peers[id.0 as usize].pulse_until = Some(now + act_within);
            self.arm(id);
        } else {
            self.decisions.push_back(Decision::Heal(grant));
            self.arm(id);
        }
    }

    fn charge(&mut self, id: PeerId, remedy: &RemedySettings) {
        let now = self.now;
        let settings = &self.settings.peers[id.0 as usize];
        let (backoff, window) = (settings.backoff, settings.budget.window);
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        if !remedy.kind.touches() {
            return;
        }
        if peer.lived_for.is_some_and(|lived| lived >= backoff.reset_after) {
            peer.ledger.level = 0;
        }
        peer.lived_for = None;
        let doubled = backoff.initial.saturating_mul(1 << peer.ledger.level.min(20));
        let wait = doubled.min(backoff.max);
        peer.ledger.level = peer.ledger.level.saturating_add(1);
        let jitter =
            wait.mul_f64(0.25 * fraction(self.seed, id, peer.granted + u64::from(peer.ledger.level)));
        peer.ledger.not_before = Some(now + wait + jitter);
        peer.ledger.expire(now);
        if remedy.restarts {
            peer.ledger.charge(now + window);
            self.group.not_before = Some(now + self.settings.group_budget.spacing);
            self.group.down.insert(id, Time::MAX);
        }
    }

    /// An executor's answer. One that nobody waits for any more is dropped.
    pub(super) fn remedy_ended(&mut self, token: u64, outcome: RemedyOutcome) {
        let waits = |episode: &Episode| matches!(episode.phase, EpisodePhase::Acting { token: at_work, .. } if at_work == token);
        let Some(id) = self.ids().find(|id| {
            self.peer(*id)
                .and_then(|peer| peer.episode.as_ref())
                .is_some_and(waits)
        }) else {
            self.retired_remedy_ended(token, &outcome);
            return;
        };
        match outcome {
            RemedyOutcome::Acted { detail } => self.acted(id, "acted", detail),
            RemedyOutcome::Failed { detail } => {
                self.unmark(id);
                self.acted(id, "failed", detail);
            }
            RemedyOutcome::Fenced { detail } => self.not_acted(id, "fenced", detail),
            RemedyOutcome::NotActed { detail } => self.not_acted(id, "not_acted", detail),
        }
    }

    /// It did not do what it should: the same rung may be tried again on this life, under backoff and budget.
    fn unmark(&mut self, id: PeerId) {
        let Some(peer) = self.peer_mut(id) else { return };
        let remedy = peer.episode.as_ref().and_then(|episode| episode.remedy.clone());
        if let Some(Remedy {
            rung, incarnation, ..
        }) = remedy
        {
            peer.ledger.unmark(&incarnation, rung);
            self.settle_mark(id, Mark::Clear);
        }
    }

    /// A remedy ended; from now on the peer's own proof of life counts.
    fn acted(&mut self, id: PeerId, outcome: &'static str, detail: String) {
        if self.is_capturing(id) {
            return self.captured(id, outcome, detail);
        }
        let now = self.now;
        let Some(episode) = self.peer_mut(id).and_then(|peer| peer.episode.as_mut()) else {
            return;
        };
        let Some(remedy) = &episode.remedy else { return };
        let (kind, verify_within) = (remedy.granted.kind, remedy.granted.verify_within);
        let (number, token, ended, restarts) =
            (episode.id, remedy.token, remedy.ended, remedy.granted.restarts);
        let done = (remedy.incarnation.clone(), remedy.rung);
        episode.remedies = episode.remedies.saturating_add(1);
        episode.healed_at = Some(now);
        episode.phase = EpisodePhase::Verifying {
            until: now + verify_within,
        };
        self.notice(
            Some(id),
            What::Acted {
                episode: number,
                token,
                kind,
                outcome,
                detail,
            },
        );
        if restarts {
            let slot_ends = now + verify_within + SLOT_SLACK;
            self.group.down.insert(id, slot_ends);
        }
        // (One that failed was unmarked before, unless nobody knows how far it got.)
        if self.peers[id.0 as usize].ledger.is_done(&done.0, done.1) {
            self.settle_mark(id, Mark::Keep);
        }
        if ended {
            self.exited_instead(id);
        } else if self.peers[id.0 as usize].exited {
            self.successor_ended(id);
        }
        self.saving.soon();
        self.judge(id);
    }

    /// Nothing was touched: nothing is charged but the backoff, and the group's distance between two restarts.
    fn not_acted(&mut self, id: PeerId, outcome: &'static str, detail: String) {
        if self.is_capturing(id) {
            return self.captured(id, outcome, detail);
        }
        self.undo_lease(id);
        self.unmark(id);
        let now = self.now;
        self.breaker.healing_failed(id, now);
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        let Some(episode) = &mut peer.episode else { return };
        let Some(remedy) = episode.remedy.take() else {
            return;
        };
        // A fence says that the world has moved on, not that this rung is of no use; but not again and again.
        episode.fenced += 1;
        if outcome != "fenced" || episode.fenced >= FENCES {
            episode.failed.insert(remedy.rung);
            episode.fenced = 0;
        }
        if remedy.granted.restarts {
            peer.ledger.refund();
            episode.restarts = episode.restarts.saturating_sub(1);
        }
        episode.phase = EpisodePhase::Waiting;
        episode.restarted = remedy.restarted_before;
        let what = What::Acted {
            episode: episode.id,
            token: remedy.token,
            kind: remedy.granted.kind,
            outcome,
            detail,
        };
        self.notice(Some(id), what);
        self.saving.soon();
        self.ask = true;
        self.wish_failed(id);
        self.judge(id);
    }

    /// Deadlines of an episode.
    pub(super) fn episode_due(&mut self, id: PeerId) {
        let now = self.now;
        let Some(peer) = self.peer(id) else { return };
        if peer.pulse_until.is_some_and(|until| now >= until) {
            return self.end_pulse(
                id,
                "no new life appeared while /healthz answered 503: is its probe wired?",
            );
        }
        let Some(episode) = &peer.episode else { return };
        match episode.phase {
            EpisodePhase::Acting { .. }
                if episode
                    .remedy
                    .as_ref()
                    .is_some_and(|remedy| now >= remedy.lost_at) =>
            {
                self.acted(id, "failed", "its executor did not answer in time".to_owned());
            }
            EpisodePhase::Verifying { until } if now >= until => self.verify_ended(id),
            EpisodePhase::Acting { .. }
            | EpisodePhase::Verifying { .. }
            | EpisodePhase::Suspected
            | EpisodePhase::Waiting
            | EpisodePhase::GaveUp { .. } => {}
        }
    }

    fn verify_ended(&mut self, id: PeerId) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        let Some(episode) = &mut peer.episode else { return };
        let on_bus = |index: &u16| {
            peer.checks
                .get(usize::from(*index))
                .is_some_and(|check| check.plane() == Plane::Bus)
        };
        let blind = self.trust.state() != BusState::Trusted || self.trust.settling(now);
        if blind && episode.condemned.iter().any(on_bus) {
            // The proof cannot be heard now. (The slot is not held for it.)
            episode.phase = EpisodePhase::Verifying {
                until: now + SLOT_SLACK,
            };
            return self.arm(id);
        }
        self.leave_rung(id);
    }

    /// The remedy that was at work did not help.
    pub(super) fn leave_rung(&mut self, id: PeerId) {
        let now = self.now;
        let Some(episode) = self.peer_mut(id).and_then(|peer| peer.episode.as_mut()) else {
            return;
        };
        episode.phase = EpisodePhase::Waiting;
        episode
            .failed
            .extend(episode.remedy.take().map(|remedy| remedy.rung));
        self.free_slot(id);
        self.breaker.healing_failed(id, now);
        self.ask = true;
        self.saving.soon();
        self.wish_failed(id);
    }

    /// The remedy at work takes it down no longer; who exited in answer to an earlier one of this episode stays down by
    /// our hand for that one's time.
    pub(super) fn free_slot(&mut self, id: PeerId) {
        self.let_go(id);
        let held = self
            .peer(id)
            .and_then(|peer| peer.episode.as_ref())
            .and_then(|episode| episode.down_until)
            .filter(|until| self.now < *until);
        match held {
            Some(until) => self.group.down.insert(id, until),
            None => self.group.down.remove(&id),
        };
    }

    /// An own pause: deadlines that ran meanwhile are put off by its length.
    pub(super) fn extend_episode(&mut self, id: PeerId, pause: Duration) {
        let Some(peer) = self.peer_mut(id) else { return };
        if let Some(until) = &mut peer.pulse_until {
            *until = *until + pause;
        }
        let Some(episode) = &mut peer.episode else { return };
        if let EpisodePhase::Verifying { until } = &mut episode.phase {
            *until = *until + pause;
        }
        if let Some(remedy) = &mut episode.remedy {
            remedy.lost_at = remedy.lost_at + pause;
        }
    }

    /// It is alive: does that end its episode?
    pub(super) fn try_close(&mut self, id: PeerId) {
        let Some(episode) = self.peer(id).and_then(|peer| peer.episode.as_ref()) else {
            return;
        };
        // A pulse is only asked for: who proves himself meanwhile is spared. An executor cannot be called back.
        let acting = matches!(episode.phase, EpisodePhase::Acting { .. });
        let pulses = self.peer(id).is_some_and(|peer| peer.pulse_until.is_some());
        if (acting && !pulses) || !self.is_proven(id) {
            return;
        }
        let (number, remedies, opened) = (episode.id, episode.remedies, episode.opened);
        let after_ms = u64::try_from(self.now.since(opened).as_millis()).unwrap_or(u64::MAX);
        self.notice(
            Some(id),
            What::Recovered {
                episode: number,
                remedies,
                after_ms,
            },
        );
        self.drop_episode(id);
    }

    /// It was well for long: what touched this life without ending it may be tried on it another time. (What restarts
    /// is done once to a life, come what may.)
    pub(super) fn forget_gentle_marks(&mut self, id: PeerId) {
        let (Some(peer), Some(settings)) = (
            self.peers.get_mut(id.0 as usize),
            self.settings.peers.get(id.0 as usize),
        ) else {
            return;
        };
        let restarts = |rung: u16| {
            settings
                .remedies
                .get(usize::from(rung))
                .is_none_or(|remedy| remedy.restarts)
        };
        peer.ledger.done.retain(|(_, rung)| restarts(*rung));
    }

    /// The episode ends without recovery.
    pub(super) fn close_episode(&mut self, id: PeerId, detail: &str) {
        let Some(episode) = self.peer(id).and_then(|peer| peer.episode.as_ref()) else {
            return;
        };
        if episode.is_told() {
            let episode = episode.id;
            self.notice(
                Some(id),
                What::EpisodeClosed {
                    episode,
                    detail: detail.to_owned(),
                },
            );
        }
        self.drop_episode(id);
    }

    pub(super) fn drop_episode(&mut self, id: PeerId) {
        self.forget_outside(id);
        if let Some(episode) = self.peer_mut(id).and_then(|peer| peer.episode.as_mut()) {
            // Whom our hand took down is up again, or nobody's business any more.
            episode.down_until = None;
        }
        self.free_slot(id);
        self.breaker.canary_over(id);
        self.wish_is_moot(id);
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        if let Some(condemned_at) = peer.episode.take().and_then(|episode| episode.condemned_at) {
            self.waiting.remove(&(condemned_at, id));
        }
        peer.pulse_until = None;
        self.saving.soon();
    }

    pub(super) fn give_up(&mut self, id: PeerId, detail: &str) {
        let now = self.now;
        self.free_slot(id);
        self.breaker.healing_failed(id, now);
        let Some(episode) = self.peer_mut(id).and_then(|peer| peer.episode.as_mut()) else {
            return;
        };
        episode.phase = EpisodePhase::GaveUp { since: now };
        let (number, remedies) = (episode.id, episode.remedies);
        self.notice(
            Some(id),
            What::GaveUp {
                episode: number,
                remedies,
                detail: detail.to_owned(),
            },
        );
        self.saving.soon();
    }

    /// A new life appeared: if a pulse was asking for it, that has done its work.
    pub(super) fn end_pulse_of(&mut self, id: PeerId) {
        if self
            .peer_mut(id)
            .is_some_and(|peer| peer.pulse_until.take().is_some())
        {
            self.acted(id, "acted", "a new life appeared".to_owned());
        }
    }

    fn end_pulse(&mut self, id: PeerId, detail: &str) {
        if self
            .peer_mut(id)
            .is_some_and(|peer| peer.pulse_until.take().is_some())
        {
            self.unmark(id);
            self.acted(id, "failed", detail.to_owned());
        }
    }

    /// What a pulse rests on is on hold, or nothing may be done now: it is taken back. What was charged stays charged: the probe may have
    /// counted already.
    pub(super) fn withdraw_pulse_of(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        if peer.pulse_until.take().is_none() {
            return;
        }
        self.unmark(id);
        self.free_slot(id);
        self.breaker.healing_failed(id, self.now);
        self.saving.soon();
        let Some(episode) = self.peers[id.0 as usize].episode.as_mut() else {
            return;
        };
        episode.phase = EpisodePhase::Waiting;
        let Some(remedy) = episode.remedy.take() else {
            return;
        };
        let what = What::Acted {
            episode: episode.id,
            token: remedy.token,
            kind: RemedyKind::Healthz,
            outcome: "not_acted",
            detail: "withdrawn: nothing may be done to it now".to_owned(),
        };
        self.notice(Some(id), what);
        self.wish_failed(id);
    }
}

impl Episode {
    /// When its phase could change by the passing of time alone.
    pub(super) fn next_change(&self) -> Option<Time> {
        match self.phase {
            EpisodePhase::Verifying { until } => Some(until),
            EpisodePhase::Acting { .. } => self.remedy.as_ref().map(|remedy| remedy.lost_at),
            EpisodePhase::Suspected | EpisodePhase::Waiting | EpisodePhase::GaveUp { .. } => None,
        }
    }
}

/// A number in 0..1 that depends on nothing but its arguments: jitter must not depend on the order of events.
fn fraction(seed: u64, id: PeerId, attempt: u64) -> f64 {
    // SplitMix64's finaliser (Steele, Lea, Flood 2014).
    let mut z = seed
        .wrapping_add(u64::from(id.0).wrapping_mul(0x9E37_79B9_7F4A_7C15))
        .wrapping_add(attempt.wrapping_mul(0xD1B5_4A32_D192_ED03));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 53) as f64
}
