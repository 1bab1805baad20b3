//! Judging a peer: its checks' verdicts become one liveness and one cause, and what changes is told.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Engine;
use super::breaker::Flip;
use super::cause::Cause;
use super::decision::What;
use super::episode::Episode;
use super::event::{CheckId, Incarnation, OwnerSeen, PeerId};
use super::evidence::{Check, Light, Verdict, Why};
use super::peer::{Liveness, Peer};
use super::self_trust::TICK;
use super::settings::{CheckKind, CheckSettings, Decides};
use super::snapshot::EpisodePhase;
use super::time::Time;

/// All verdicts of a peer, made one.
struct Judged {
    liveness: Liveness,
    cause: Option<Cause>,
    because: Option<(u16, Verdict)>,
    /// Checks that condemn it; or, if none does, that suspect it.
    against: BTreeSet<u16>,
    /// Its silence is not covered by echoes yet.
    uncovered: bool,
}

impl Engine {
    pub(super) fn light(&self, check: &CheckSettings) -> Light<'_> {
        let expectation = check.needs.map(|id| {
            self.expectations
                .get(usize::from(id.0))
                .copied()
                .unwrap_or_default()
        });
        Light {
            now: self.now,
            trust: &self.trust,
            expectation,
        }
    }

    /// A check's verdict as it stood when this node last ran.
    pub(super) fn verdict_at(&self, id: CheckId, at: Time) -> Option<Verdict> {
        let settings = self
            .settings
            .peers
            .get(id.peer.0 as usize)?
            .checks
            .get(usize::from(id.index))?;
        let check = self.peer(id.peer)?.check(id.index)?;
        Some(check.verdict(Light {
            now: at,
            ..self.light(settings)
        }))
    }

    /// Judges `id` anew and sees to what follows.
    pub(super) fn judge(&mut self, id: PeerId) {
        self.confirm_by_votes(id);
        let Some(judged) = self.judged(id) else { return };
        if judged.uncovered {
            self.uncovered.insert(id);
        } else {
            self.uncovered.remove(&id);
        }
        self.tell_liveness(id, &judged);
        self.tell_overdue(id);
        self.tell_breaker(id);
        self.follow_episode(id, judged.liveness, judged.against);
        self.follow_votes(id);
        self.arm(id);
    }

    fn judged(&self, id: PeerId) -> Option<Judged> {
        let settings = self.settings.peers.get(id.0 as usize)?;
        let peer = self.peer(id)?;
        let mut judged = Judged {
            liveness: Liveness::Unknown,
            cause: None,
            because: None,
            against: BTreeSet::new(),
            uncovered: false,
        };
        // The weightiest word counts: dead, then suspect, then alive; among equals the cause that explains most
        // (their order in `Cause` is that of the design's table), then the first check.
        let rank = |liveness: Liveness| match liveness {
            Liveness::Unknown => 0,
            Liveness::Alive => 1,
            Liveness::Suspect => 2,
            Liveness::Dead => 3,
        };
        for (index, (check, of)) in (0u16..).zip(peer.checks.iter().zip(&settings.checks)) {
            if of.decides != Decides::Liveness {
                continue;
            }
            let verdict = check.verdict(self.light(of));
            judged.uncovered |= matches!(verdict.why, Why::Uncovered | Why::EmptyWindow)
                || (verdict.liveness == Liveness::Suspect && verdict.why == Why::Silent);
            let (new, old) = (rank(verdict.liveness), rank(judged.liveness));
            let explains_more = || match (verdict.cause, judged.cause) {
                (Some(new), Some(old)) => new < old,
                (Some(_), None) => true,
                (None, _) => false,
            };
            if new > old {
                judged.against.clear();
            }
            if new >= old && new >= 2 {
                judged.against.insert(index);
            }
            if judged.because.is_none() || new > old || (new == old && explains_more()) {
                judged.liveness = verdict.liveness;
                judged.cause = verdict.cause;
                judged.because = Some((index, verdict));
            }
        }
        Some(judged)
    }

    fn tell_liveness(&mut self, id: PeerId, judged: &Judged) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        let from = peer.liveness;
        let to = from.next(judged.liveness);
        let was_held = peer.because.is_some_and(|(_, verdict)| verdict.is_held());
        if to == judged.liveness {
            peer.cause = judged.cause;
            peer.because = judged.because;
        }
        if from == to {
            return;
        }
        peer.liveness = to;
        peer.since = now;
        peer.enter(to, now);
        let reset_after = self.settings.peers[id.0 as usize].backoff.reset_after;
        if to == Liveness::Dead && peer.lived_for.is_some_and(|lived| lived >= reset_after) {
            self.forget_gentle_marks(id);
        }
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        let is_held = peer.because.is_some_and(|(_, verdict)| verdict.is_held());
        // The bus has its own notice: a hundred peers that are held by it, or come back with it, need none.
        if (is_held && to == Liveness::Unknown)
            || (was_held && from == Liveness::Unknown && to == Liveness::Alive)
        {
            return;
        }
        let (cause, detail) = (peer.cause, self.words(id));
        self.notice(
            Some(id),
            What::Liveness {
                from,
                to,
                cause,
                detail,
            },
        );
    }

    /// The grounds of a peer's liveness, in words.
    pub(super) fn words(&self, id: PeerId) -> String {
        let Some(peer) = self.peer(id) else {
            return String::new();
        };
        let Some((index, verdict)) = peer.because else {
            return "no check decides".to_owned();
        };
        let name = &self.settings.peers[id.0 as usize].checks[usize::from(index)].name;
        let words = peer
            .check(index)
            .map(|check| check.words(verdict, self.now))
            .unwrap_or_default();
        format!("{name}: {words}")
    }

    fn tell_breaker(&mut self, id: PeerId) {
        let now = self.now;
        let Some(peer) = self.peers.get(id.0 as usize) else {
            return;
        };
        if self.settings.peers[id.0 as usize].local {
            return;
        }
        let flip = match (peer.liveness, peer.cause) {
            (Liveness::Alive, _) => self.breaker.alive(id, now),
            (Liveness::Suspect | Liveness::Dead, Some(Cause::PeerSilent)) => self.breaker.silent(id, now),
            (Liveness::Unknown, _) if peer.because.is_some_and(|(_, verdict)| verdict.has_left()) => {
                self.breaker.left(id, now)
            }
            (Liveness::Suspect | Liveness::Dead | Liveness::Unknown, _) => self.breaker.explained(id, now),
        };
        if let Some(flip) = flip {
            self.breaker_flipped(flip);
        }
    }

    pub(super) fn breaker_flipped(&mut self, flip: Flip) {
        self.ask = true;
        let what = match flip {
            Flip::Tripped { silent, of } => What::MassSilenceTripped { silent, of },
            Flip::Ended => What::MassSilenceEnded,
        };
        self.notice(None, what);
    }

    /// Opens, condemns, freezes or closes the episode, as the new liveness asks for.
    fn follow_episode(&mut self, id: PeerId, judged: Liveness, against: BTreeSet<u16>) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        let (liveness, cause) = (peer.liveness, peer.cause);
        let gone = peer.because.is_some_and(|(_, verdict)| verdict.ends_episodes());
        match liveness {
            Liveness::Suspect | Liveness::Dead => {
                let Some(cause) = cause.filter(|cause| cause.lies_in_peer()) else {
                    return;
                };
                if peer.episode.is_none() {
                    self.episodes = self.episodes.saturating_add(1);
                    let episode = self.episodes;
                    peer.episode = Some(Episode::new(episode, cause, now));
                    self.notice(Some(id), What::EpisodeOpened { episode, cause });
                    self.saving.soon();
                }
                let peer = &mut self.peers[id.0 as usize];
                let Some(episode) = &mut peer.episode else { return };
                if episode.is_waiting() {
                    episode.cause = cause;
                    episode.condemned.extend(&against);
                }
                episode.against = against;
                if liveness == Liveness::Dead && episode.phase == EpisodePhase::Suspected {
                    episode.phase = EpisodePhase::Waiting;
                }
                if judged == Liveness::Dead && episode.condemned_at.is_none() {
                    episode.condemned_at = Some(now);
                    self.waiting.insert((now, id));
                    self.ask = true;
                }
            }
            Liveness::Alive if self.is_moot(id) => {
                self.withdraw_pulse_of(id);
                self.close_moot(id, "what condemned it is not expected any more");
            }
            Liveness::Alive => {
                self.try_close(id);
                self.proven(id);
            }
            Liveness::Unknown => {
                // A pulse that rests on what is held, or gone, is withdrawn. Nothing else is forgotten by a blip. (An
                // operator's rests on his word.)
                let wished = self
                    .peer(id)
                    .and_then(|peer| peer.episode.as_ref()?.wish.as_ref());
                if gone || wished.is_none() {
                    self.withdraw_pulse_of(id);
                }
                if gone {
                    let detail = self.words(id);
                    self.close_moot(id, &detail);
                }
            }
        }
        // Condemned anew after a hold: only echoes from now on prove that it was not the bus. (And who is still held to
        // be dead because another check suspects it is condemned by none: a suspicion permits no remedy.)
        if let Some(peer) = self.peers.get_mut(id.0 as usize)
            && judged != Liveness::Dead
            && let Some(episode) = &mut peer.episode
            && let Some(condemned_at) = episode.condemned_at.take()
        {
            self.waiting.remove(&(condemned_at, id));
            episode.refusal = None;
            self.forget_outside(id);
        }
    }

    /// Nobody expects any of the checks that condemned it to pass now.
    fn is_moot(&self, id: PeerId) -> bool {
        let (Some(peer), Some(settings)) = (self.peer(id), self.settings.peers.get(id.0 as usize)) else {
            return false;
        };
        let ended = |index: &u16| {
            let (check, of) = (peer.check(*index), settings.checks.get(usize::from(*index)));
            check
                .zip(of)
                .is_some_and(|(check, of)| check.verdict(self.light(of)).ends_episodes())
        };
        peer.episode
            .as_ref()
            .is_some_and(|episode| !episode.condemned.is_empty() && episode.condemned.iter().all(ended))
    }

    /// Unless an executor is still at work: then once it is done.
    fn close_moot(&mut self, id: PeerId, detail: &str) {
        let acting = self
            .peer(id)
            .and_then(|peer| peer.episode.as_ref())
            .is_some_and(|episode| matches!(episode.phase, EpisodePhase::Acting { .. }));
        if !acting {
            self.close_episode(id, detail);
        }
    }

    /// What the owner watch saw.
    pub(super) fn owner(&mut self, id: PeerId, seen: OwnerSeen) {
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        match seen {
            OwnerSeen::Running(incarnation) => {
                let first = std::mem::take(&mut peer.absent) && peer.incarnation.is_none();
                if first || peer.checks.iter().any(Check::is_stopped_on_purpose) {
                    // Nothing ran before it, or on purpose: what failed until now was not this life, or not a failure.
                    self.begin_life(id);
                }
                self.new_incarnation(id, incarnation);
                let peer = &mut self.peers[id.0 as usize];
                peer.taken_down = None;
                for check in &mut peer.checks {
                    check.owner_running();
                }
            }
            OwnerSeen::Exited(incarnation) => return self.owner_exited(id, incarnation, false),
            OwnerSeen::Restarting(incarnation) => return self.owner_exited(id, incarnation, true),
            OwnerSeen::Unseen { detail } => {
                for check in &mut peer.checks {
                    check.owner_unseen(&detail);
                }
            }
            OwnerSeen::Stopped { detail } => {
                if let Some(incarnation) = peer.taken_down.take() {
                    return self.owner_taken_down(id, incarnation);
                }
                peer.exited = false;
                peer.restarting = false;
                for check in &mut peer.checks {
                    check.owner_stopped(&detail);
                }
            }
            OwnerSeen::Absent { detail } => {
                if let Some(incarnation) = peer.taken_down.take() {
                    return self.owner_taken_down(id, incarnation);
                }
                peer.absent = true;
                for check in &mut peer.checks {
                    check.owner_absent(detail.clone());
                }
            }
        }
        self.judge(id);
    }

    /// A remedy of ours was taking it down when this node ended: that exit is our doing, and what was done to this
    /// life was not done to the end.
    fn owner_taken_down(&mut self, id: PeerId, incarnation: Incarnation) {
        if let Some(peer) = self.peer_mut(id) {
            peer.ledger.done.retain(|(life, _)| *life != incarnation);
        }
        self.owner_exited(id, incarnation, false);
    }

    fn owner_exited(&mut self, id: PeerId, incarnation: Incarnation, restarting: bool) {
        let paused = self.node_pause.is_some() || self.draining;
        let Some(peer) = self.peer_mut(id) else { return };
        if peer
            .incarnation
            .as_ref()
            .is_some_and(|current| *current != incarnation)
        {
            return; // An earlier life's end; the current one is another.
        }
        if peer
            .leaving
            .as_mut()
            .is_some_and(|leaving| leaving.is_of(&incarnation))
        {
            peer.incarnation = Some(incarnation);
            return self.left_on_purpose(id);
        }
        // What was on its way back and did not make it ended when it went, not now.
        let known = peer.restarting && peer.exited;
        // Nobody stops on purpose what our remedy is at work on.
        let touching = peer.episode.as_ref().and_then(Episode::touching);
        let ours = touching.is_some_and(|remedy| remedy.incarnation == incarnation);
        let news = !peer.exited;
        peer.incarnation = Some(incarnation);
        peer.exited = true;
        peer.restarting = restarting;
        peer.exited_under_pause = if known {
            peer.exited_under_pause
        } else {
            (paused || peer.pause.is_some()) && !ours
        };
        for check in &mut peer.checks {
            check.owner_exited(restarting);
        }
        if let Some(life) = peer.incarnation.clone() {
            self.life_ended(id, &life);
        }
        self.successor_ended(id);
        if news {
            self.condemn_anew(id);
        }
        self.ask = true;
        self.judge(id);
    }

    /// What was condemned before the bus failed may have exited because of that: an exit needs an echo of its own.
    fn condemn_anew(&mut self, id: PeerId) {
        let now = self.now;
        let Some(episode) = self.peer_mut(id).and_then(|peer| peer.episode.as_mut()) else {
            return;
        };
        episode.outside.outlived = false;
        if let Some(before) = episode.condemned_at.replace(now) {
            self.waiting.remove(&(before, id));
            self.waiting.insert((now, id));
        } else {
            episode.condemned_at = None;
        }
    }

    /// A peer's alarm went off.
    pub(super) fn peer_due(&mut self, id: PeerId) {
        self.judge(id);
        self.episode_due(id);
        let now = self.now;
        let ended = |until: Option<Time>| until.is_some_and(|until| now >= until);
        if self
            .peer(id)
            .is_some_and(|peer| peer.pause.as_ref().is_some_and(|pause| ended(pause.until)))
        {
            self.end_pause(Some(id), "clock");
        }
        self.arm(id);
    }

    /// Sets the peer's alarm to whatever may happen to it next by the passing of time.
    pub(super) fn arm(&mut self, id: PeerId) {
        if let Some(next) = self.next_change(id) {
            self.timers.arm(id, next);
        }
    }

    fn next_change(&self, id: PeerId) -> Option<Time> {
        let peer = self.peer(id)?;
        let checks = peer.checks.iter().map(|check| check.next_change(self.now)).min();
        let pause = peer.pause.as_ref().and_then(|pause| pause.until);
        // A deadline that was set for now is looked at next.
        let soon = self.now + Duration::from_nanos(1);
        let episode = peer
            .episode
            .as_ref()
            .and_then(Episode::next_change)
            .map(|at| at.max(soon));
        let suspect = peer.liveness == Liveness::Suspect;
        let votes = suspect.then(|| self.quorum.next_look(id, self.now)).flatten();
        let next = [checks, pause, episode, peer.pulse_until, votes];
        next.into_iter().flatten().filter(|at| *at > self.now).min()
    }

    /// Life puts deadlines off without moving the alarms. Those that would go off before the next tick are moved now:
    /// a node that is idle is not woken by each of its peers.
    pub(super) fn postpone_alarms(&mut self) {
        let mut timers = std::mem::take(&mut self.timers);
        timers.postpone(self.now + 2 * TICK, |id| self.next_change(id));
        self.timers = timers;
    }

    /// Whether every check that must prove a recovery has done so.
    pub(super) fn is_proven(&self, id: PeerId) -> bool {
        let (Some(peer), Some(settings)) = (self.peer(id), self.settings.peers.get(id.0 as usize)) else {
            return false;
        };
        let Some(episode) = &peer.episode else { return true };
        let from = episode.healed_at.unwrap_or(episode.opened);
        // After a restart everything must work again that ever did, not only what showed the failure.
        let restarted = episode.restarted;
        let granted = episode.remedy.as_ref().map(|remedy| &remedy.incarnation);
        let same_life = granted.is_some() && granted == peer.incarnation.as_ref();
        // Who is restarted at an operator's word may have passed every check all the time: only another life proves it.
        if episode.wish.is_some() && (granted.is_none() || same_life) {
            return false;
        }
        (0u16..)
            .zip(peer.checks.iter().zip(&settings.checks))
            .all(|(index, (check, of))| {
                let verdict = check.verdict(self.light(of));
                let condemned = episode.condemned.contains(&index);
                let must = (condemned && !verdict.ends_episodes())
                    || (restarted
                        && of.decides == Decides::Liveness
                        && check.ever_passed
                        && !verdict.cannot_prove());
                let process = matches!(of.kind, CheckKind::Process { .. });
                // (It said all that it had to say in this life, perhaps before the remedy had ended.)
                let no_more = check.said.promises_nothing() && !(restarted && same_life);
                !must || no_more || check.passed_since(from) || (process && !condemned && !peer.exited)
            })
    }
}

impl Engine {
    /// Life that resets a backoff begins once nothing has to be proven.
    fn proven(&mut self, id: PeerId) {
        let now = self.now;
        if let Some(peer) = self.peer_mut(id)
            && peer.episode.is_none()
        {
            peer.alive_since.get_or_insert(now);
        }
    }
}

impl Peer {
    /// Bookkeeping of a change of liveness.
    fn enter(&mut self, to: Liveness, now: Time) {
        match to {
            // (A life that has not proven itself yet counts from its proof on: see `proven`.)
            Liveness::Alive if self.episode.is_none() => self.alive_since = self.alive_since.or(Some(now)),
            Liveness::Alive | Liveness::Suspect | Liveness::Dead => {}
            Liveness::Unknown => return,
        }
        if to == Liveness::Dead {
            self.lived_for = self.alive_since.take().map(|since| now.since(since));
        }
    }

    /// Alive, and nothing is going on: further life changes nothing.
    pub(super) fn is_quietly_alive(&self) -> bool {
        self.liveness == Liveness::Alive && self.episode.is_none()
    }
}
