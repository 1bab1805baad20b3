//! What peers say of themselves to this machine's edges: life, failure, and that they leave on purpose.
//!
//! Leaving is a fact of the peer, not of the check that heard it: while it drains, its probes fail and its messages
//! stop, and none of that is a failure.

use std::sync::Arc;

use super::Engine;
use super::decision::What;
use super::event::{CheckId, Incarnation, Next, PeerId, Report, Word};
use super::evidence::{Check, Why};
use super::peer::Peer;
use super::persist::PersistedLeaving;
use super::settings::Decides;

/// A peer said that it leaves on purpose.
#[derive(Clone, Debug)]
pub(super) struct Leaving {
    /// Its life, if it was known.
    life: Option<Incarnation>,
    detail: Arc<str>,
}

impl Leaving {
    /// It was `life` that said it. If it is not known who did, it was the first one that is shown since, and no other.
    pub(super) fn is_of(&mut self, life: &Incarnation) -> bool {
        self.life.get_or_insert_with(|| life.clone()) == life
    }

    pub(super) fn persisted(&self) -> PersistedLeaving {
        PersistedLeaving {
            life: self.life.clone(),
            detail: self.detail.to_string(),
        }
    }

    pub(super) fn restored(kept: &PersistedLeaving) -> Self {
        Self {
            life: kept.life.clone(),
            detail: kept.detail.as_str().into(),
        }
    }
}

impl Word {
    /// Said by the peer itself, of itself.
    const fn is_of_the_peer(&self) -> bool {
        match self {
            Self::Life { .. } | Self::Failed { .. } | Self::Leaving { .. } => true,
            Self::Note | Self::Deaf { .. } | Self::Hears => false,
        }
    }
}

impl Engine {
    pub(super) fn reported(&mut self, report: Report) {
        let Report {
            check: id,
            life,
            says,
            word,
        } = report;
        let takes_lives = self.takes_lives_from(id);
        if takes_lives
            && word.is_of_the_peer()
            && let Some(life) = &life
        {
            self.new_incarnation(id.peer, life.clone());
        }
        let now = self.now;
        let Some(peer) = self.peer_mut(id.peer) else {
            return;
        };
        let other = life.is_some() && peer.incarnation.is_some() && peer.incarnation != life;
        let Some(check) = peer.checks.get_mut(usize::from(id.index)) else {
            return;
        };
        match (&life, &word) {
            (Some(life), Word::Life { next, .. }) => check.said.heard(life.clone(), now, *next, says.clone()),
            (Some(life), Word::Note) => check.said.noted(life, says.as_ref()),
            _ => {}
        }
        if other && !takes_lives {
            // An earlier life's last words, or the first ones of a life that its owner has yet to show.
            return;
        }
        check.said.words(says);
        match word {
            Word::Life { up, next } => self.lives(id, up, next),
            Word::Failed { cause, detail } => {
                check.said.fail(cause, now, detail);
                self.judge(id.peer);
            }
            Word::Leaving { detail } => self.leaves(id, life, detail.into()),
            Word::Note => {}
            Word::Deaf { detail } => {
                check.said.deaf(detail);
                self.judge(id.peer);
            }
            Word::Hears => {
                if check.said.hears() {
                    let mark = self.trust.mark(now);
                    self.peers[id.peer.0 as usize].checks[usize::from(id.index)].restart_window(now, mark);
                }
                self.judge(id.peer);
            }
        }
    }

    /// A check that decides nothing silences and wakes no others.
    fn decides(&self, id: CheckId) -> bool {
        self.settings
            .peers
            .get(id.peer.0 as usize)
            .and_then(|peer| peer.checks.get(usize::from(id.index)))
            .is_some_and(|check| check.decides == Decides::Liveness)
    }

    fn lives(&mut self, id: CheckId, up: bool, next: Next) {
        // (Whom its owner shows as stopped, only its owner brings back: this word may be a late one.)
        let leaving = self.peer(id.peer).is_some_and(|peer| {
            peer.leaving.is_some() && !peer.checks.iter().any(Check::is_stopped_on_purpose)
        });
        if up && leaving && self.decides(id) {
            self.begin_life(id.peer);
        }
        let (now, mark) = (self.now, self.trust.mark(self.now));
        let Some(peer) = self.peers.get_mut(id.peer.0 as usize) else {
            return;
        };
        let Some(check) = peer.checks.get_mut(usize::from(id.index)) else {
            return;
        };
        let first = check.last_pass.is_none();
        let another_pace = check.said.pace(next);
        check.said.hears();
        check.life(now, mark, None);
        let overdue = now + check.fresh_window();
        if another_pace {
            self.saving.soon();
        }
        // What was alive and goes on living needs no judgement: its alarm finds the new deadline, or is moved to it.
        if first || another_pace || !peer.is_quietly_alive() {
            self.judge(id.peer);
        } else {
            self.timers.arm(id.peer, overdue);
        }
    }

    fn leaves(&mut self, id: CheckId, life: Option<Incarnation>, detail: Arc<str>) {
        let Some(peer) = self.peer(id.peer) else { return };
        // Whom our own remedy takes down leaves too, and who has failed does not go on purpose.
        let failed = (0u16..).zip(&peer.checks).any(|(index, check)| {
            let of = CheckId { index, ..id };
            self.decides(of) && check.said.failed().is_some()
        });
        if failed || !self.decides(id) || self.is_our_doing(peer) {
            return;
        }
        let first = peer.leaving.is_none();
        let life = peer.incarnation.clone().or(life);
        let exited = peer.exited;
        self.peers[id.peer.0 as usize].leave(Leaving { life, detail });
        self.saving.soon();
        if first {
            self.notice(Some(id.peer), What::Goodbye);
        }
        if exited {
            // The owner watch was faster than its last words.
            self.left_on_purpose(id.peer);
        } else {
            self.judge(id.peer);
        }
    }

    /// A remedy of ours is at work on this life. Also one that is not meant to end it: a client whose connection is
    /// cut may well take its leave in good order.
    fn is_our_doing(&self, peer: &Peer) -> bool {
        let Some(episode) = peer.episode.as_ref().filter(|_| !self.settings.dry_run) else {
            return false;
        };
        let current = peer.incarnation.as_ref();
        // Begun by an earlier run of this node: which life runs now is perhaps not known yet.
        let taken_down = peer.taken_down.as_ref();
        if taken_down.is_some_and(|life| current.is_none_or(|current| current == life)) {
            return true;
        }
        episode
            .remedy
            .as_ref()
            .is_some_and(|remedy| Some(&remedy.incarnation) == current && !remedy.granted.kind.tells())
    }

    /// Its exit was witnessed, and it had said that it would leave.
    pub(super) fn left_on_purpose(&mut self, id: PeerId) {
        let Some(peer) = self.peer_mut(id) else { return };
        let Some(Leaving { detail, .. }) = peer.leaving.clone() else {
            return;
        };
        peer.exited = false;
        peer.restarting = false;
        for check in &mut peer.checks {
            check.owner_stopped(&detail);
        }
        self.judge(id);
    }

    /// What `life` said before its owner showed it counts now.
    pub(super) fn recall(&mut self, id: PeerId, life: &Incarnation) {
        let mark = self.trust.mark(self.now);
        let Some(peer) = self.peer_mut(id) else { return };
        for check in &mut peer.checks {
            if check.last_pass.is_none()
                && let Some(at) = check.said.recall(life)
            {
                check.life(at, mark, None);
            }
        }
    }
}

impl Peer {
    /// It said that it leaves: nothing of it is expected from now on.
    pub(super) fn leave(&mut self, leaving: Leaving) {
        for check in &mut self.checks {
            check.leave_on_purpose(&leaving.detail);
        }
        self.leaving = Some(leaving);
    }
}

impl Check {
    fn leave_on_purpose(&mut self, detail: &Arc<str>) {
        self.leave(Why::Leaving);
        self.said.leaving(Arc::clone(detail));
    }
}
