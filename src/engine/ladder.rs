//! The ladder: which remedy is next. Mildest first; a rung that did not help in this episode is left behind.

use super::Engine;
use super::decision::What;
use super::episode::Episode;
use super::event::{Incarnation, PeerId};
use super::heal::SLOT_SLACK;
use super::peer::Peer;
use super::settings::{RemedyKind, RemedySettings};
use super::snapshot::EpisodePhase;

/// What the ladder says of a condemned peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// This rung.
    Rung(u16),
    /// Every rung for this cause has been tried on this life.
    Exhausted,
    /// Something was done in this episode, the peer has ended, and what is left acts only on what runs.
    Ended,
    /// There is none for this cause, or none that can be done for what has ended.
    None,
}

impl Engine {
    /// The remedy that is at work in this episode, or the next one.
    pub(super) fn rung_of<'a>(
        &'a self,
        id: PeerId,
        peer: &Peer,
        episode: &'a Episode,
    ) -> Option<&'a RemedySettings> {
        if let Some(remedy) = &episode.remedy {
            return Some(&remedy.granted);
        }
        let step = match &episode.wish {
            Some(wish) => Step::Rung(wish.rung),
            None => self.step(id, peer, episode),
        };
        let rung = match step {
            Step::Rung(rung) => rung,
            Step::Exhausted | Step::Ended | Step::None => return None,
        };
        self.settings
            .peers
            .get(id.0 as usize)?
            .remedies
            .get(usize::from(rung))
    }

    /// What the peer's ladder says.
    pub(super) fn step(&self, id: PeerId, peer: &Peer, episode: &Episode) -> Step {
        let Some(settings) = self.settings.peers.get(id.0 as usize) else {
            return Step::None;
        };
        let life = peer.life();
        next(&settings.remedies, episode, peer.exited, |rung| {
            peer.ledger.is_done(&life, rung)
        })
    }

    /// By the permission for what a rung is done. Evidence is kept right before the shock, so a capture waits until the
    /// remedy that follows it is permitted: it is of the moment, and not of an hour of backoff before it.
    pub(super) fn permitted_as(
        &self,
        id: PeerId,
        peer: &Peer,
        episode: &Episode,
        rung: u16,
    ) -> &RemedySettings {
        let remedies = &self.settings.peers[id.0 as usize].remedies;
        let asked = &remedies[usize::from(rung)];
        if asked.kind != RemedyKind::Capture {
            return asked;
        }
        let mut after = episode.clone();
        after.failed.insert(rung);
        while let Step::Rung(next) = self.step(id, peer, &after) {
            let follows = &remedies[usize::from(next)];
            match follows.kind {
                RemedyKind::Capture => after.failed.insert(next),
                kind if kind.tells() => break,
                _ => return follows,
            };
        }
        asked
    }

    /// Whether the rung, or what it is a capture before, touches the peer; and whether that restarts.
    pub(super) fn leads_to(&self, id: PeerId, rung: u16) -> (bool, bool) {
        let of = self
            .peer(id)
            .and_then(|peer| Some((peer, peer.episode.as_ref()?)));
        of.map_or((false, false), |(peer, episode)| {
            let remedy = self.permitted_as(id, peer, episode, rung);
            (remedy.kind.touches(), remedy.restarts)
        })
    }

    /// A capture is at work.
    pub(super) fn is_capturing(&self, id: PeerId) -> bool {
        self.peer(id)
            .and_then(|peer| peer.episode.as_ref()?.remedy.as_ref())
            .is_some_and(|remedy| remedy.granted.kind == RemedyKind::Capture)
    }

    /// Evidence was kept, or could not be. Either way there is nothing to verify and nothing to pay for, and the next
    /// rung follows at once: before anybody else is asked, whose turn this is not.
    pub(super) fn captured(&mut self, id: PeerId, outcome: &'static str, detail: String) {
        let Some(episode) = self.peer_mut(id).and_then(|peer| peer.episode.as_mut()) else {
            return;
        };
        let Some(remedy) = episode.remedy.take() else {
            return;
        };
        episode.failed.insert(remedy.rung);
        episode.phase = EpisodePhase::Waiting;
        let what = What::Acted {
            episode: episode.id,
            token: remedy.token,
            kind: RemedyKind::Capture,
            outcome,
            detail,
        };
        self.notice(Some(id), what);
        self.free_slot(id);
        self.breaker.canary_over(id);
        self.saving.soon();
        self.ask = true;
        self.judge(id);
        self.ask_again(id);
    }

    /// This life ended. Was a remedy at work on it that restarts nothing? Then it is the answer to that: some
    /// clients exit when their connection is cut, instead of making a new one (redis-py 5's `listen()`).
    pub(super) fn life_ended(&mut self, id: PeerId, life: &Incarnation) {
        if self.settings.dry_run {
            return;
        }
        let Some(episode) = self.peers[id.0 as usize].episode.as_mut() else {
            return;
        };
        let Some(remedy) = &mut episode.remedy else { return };
        let gentle = !remedy.granted.restarts && remedy.granted.kind.touches();
        if !gentle || remedy.incarnation != *life || remedy.ended {
            return;
        }
        match episode.phase {
            // Whether it was touched at all, its executor will say.
            EpisodePhase::Acting { .. } => remedy.ended = true,
            EpisodePhase::Verifying { .. } => self.exited_instead(id),
            EpisodePhase::Suspected | EpisodePhase::Waiting | EpisodePhase::GaveUp { .. } => {}
        }
    }

    /// The life that a remedy is waited for has come and ended as well: there is nothing left to verify, and the next rung
    /// need not wait for the rest of `verify_within`. (While an executor is at work it may do more; and whom its own
    /// supervisor brings back may yet prove itself.)
    pub(super) fn successor_ended(&mut self, id: PeerId) {
        let peer = &self.peers[id.0 as usize];
        let Some(Episode {
            phase: EpisodePhase::Verifying { .. },
            remedy: Some(remedy),
            ..
        }) = &peer.episode
        else {
            return;
        };
        if peer.exited && !peer.restarting && peer.incarnation.as_ref() != Some(&remedy.incarnation) {
            self.leave_rung(id);
        }
    }

    /// It was meant to restart nothing, and cost a life: said so, charged as a restart, and the next rung follows.
    pub(super) fn exited_instead(&mut self, id: PeerId) {
        let now = self.now;
        let settings = &self.settings.peers[id.0 as usize];
        let peer = &mut self.peers[id.0 as usize];
        let Some(episode) = &mut peer.episode else { return };
        let Some(remedy) = &episode.remedy else { return };
        let hold = remedy.granted.verify_within + SLOT_SLACK;
        let what = What::ExitedInstead {
            episode: episode.id,
            token: remedy.token,
            kind: remedy.granted.kind,
        };
        peer.ledger.charge(now + settings.budget.window);
        episode.restarted = true;
        episode.down_until = Some(now + hold);
        self.group.not_before = Some(now + self.settings.group_budget.spacing);
        self.notice(Some(id), what);
        self.leave_rung(id);
    }
}

/// What a rung does, by a name that stays the same when another kind is put before it.
pub(super) fn does(remedies: &[RemedySettings], rung: u16) -> String {
    let place = usize::from(rung);
    let Some(remedy) = remedies.get(place) else {
        return String::new();
    };
    let before = remedies[..place].iter().filter(|other| other.kind == remedy.kind);
    match before.count() {
        0 => remedy.kind.as_str().to_owned(),
        before => format!("{}#{}", remedy.kind.as_str(), before + 1),
    }
}

/// The rung for `episode`, of which life `done` tells the rungs that were carried out on it.
///
/// A rung that failed is not tried again in this episode while another is left. The last one is: a restart made a
/// new life, and that one has not had it. (How often, the budget says.)
///
/// What acts on something that runs is passed over while the peer has `exited`: it could only answer, again and again,
/// that nothing is there.
fn next(remedies: &[RemedySettings], episode: &Episode, exited: bool, done: impl Fn(u16) -> bool) -> Step {
    let usable = |rung: u16, remedy: &RemedySettings| {
        let told = !remedy.kind.touches() && episode.failed.contains(&rung);
        !told && !done(rung)
    };
    let mut last = None;
    let (mut passed_over, mut captured) = (false, false);
    for (rung, remedy) in (0u16..).zip(remedies) {
        if !remedy.is_for(episode.cause) {
            continue;
        }
        if exited && remedy.needs_life {
            passed_over = true;
            continue;
        }
        if !episode.failed.contains(&rung) && usable(rung, remedy) {
            return Step::Rung(rung);
        }
        if remedy.kind == RemedyKind::Capture {
            captured = true;
        } else {
            last = Some((rung, remedy));
        }
    }
    match last {
        Some((rung, remedy)) if usable(rung, remedy) => Step::Rung(rung),
        Some(_) => Step::Exhausted,
        None if captured && !passed_over => Step::Exhausted,
        None if passed_over && episode.remedies > 0 => Step::Ended,
        None => Step::None,
    }
}
