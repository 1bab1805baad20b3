//! What peers say of themselves to this machine's edges: life, failure, and that they leave on purpose.
//!
//! Leaving is a fact of the peer, not of the check that heard it: while it drains, its probes fail and its messages
//! stop, and none of that is a failure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::decision::What;
use super::event::{CheckId, Incarnation, Next, PeerId, Report, Word};
use super::evidence::{Check, Why};
use super::peer::Peer;
use super::persist::PersistedLeaving;
use super::settings::Decides;
use super::time::Time;

/// Lives before the one that is judged that are told apart.
const EARLIER_LIVES: usize = 4;
/// Signs of life of an earlier life, with none of the current one in between, until it is held to be the one that lives.
const FRESH_AGAIN: u8 = 3;

/// A peer said that it leaves on purpose.
#[derive(Clone, Debug)]
pub(super) struct Leaving {
    /// Its life, if it was known.
    life: Option<Incarnation>,
    detail: Arc<str>,
    since: Time,
    /// How long ago that was then: more than nothing only if an earlier run of this node heard it.
    before: Duration,
    /// Names of the checks that heard it.
    heard_by: BTreeSet<Arc<str>>,
    /// It is told that it is still there after all the time that it has for that.
    pub(super) overdue: bool,
}

/// A life before the one that is judged. It may still drain.
#[derive(Clone, Debug)]
pub(super) struct Earlier {
    life: Incarnation,
    /// It said that it leaves.
    left: bool,
    fresh: u8,
}

impl Leaving {
    /// It was `life` that said it. If it is not known who did, it was the first one that is shown since, and no other.
    pub(super) fn is_of(&mut self, life: &Incarnation) -> bool {
        self.life.get_or_insert_with(|| life.clone()) == life
    }

    fn age(&self, now: Time) -> Duration {
        self.before.saturating_add(now.since(self.since))
    }

    pub(super) fn persisted(&self, now: Time) -> PersistedLeaving {
        PersistedLeaving {
            life: self.life.clone(),
            detail: self.detail.to_string(),
            age: self.age(now),
            heard_by: self.heard_by.iter().map(ToString::to_string).collect(),
        }
    }

    pub(super) fn restored(kept: &PersistedLeaving, elapsed: Duration, now: Time) -> Self {
        Self {
            life: kept.life.clone(),
            detail: kept.detail.as_str().into(),
            since: now,
            before: kept.age.saturating_add(elapsed),
            heard_by: kept.heard_by.iter().map(|name| name.as_str().into()).collect(),
            overdue: false,
        }
    }
}

impl Word {
    /// Said by the peer itself, of itself.
    const fn is_of_the_peer(&self) -> bool {
        match self {
            Self::Life { .. } | Self::Running | Self::Failed { .. } | Self::Leaving { .. } => true,
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
            if self.is_earlier(id, life, &word) {
                return;
            }
            self.succeed(id.peer, life);
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
        if other {
            // An earlier life's words, or the first ones of a life that its owner has yet to show.
            return;
        }
        check.said.words(says);
        match word {
            Word::Life { up, next } => self.lives(id, up, next),
            Word::Running => {
                if self.heard_it_leave(id) {
                    self.lives(id, true, Next::AsBefore);
                }
            }
            Word::Failed { cause, detail } => {
                check.said.fail(cause, now, detail);
                self.saving.soon();
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

    /// Lives may overlap: a process that drains goes on speaking beside its successor, and is not the peer any more.
    /// Unless the successor has gone, or fell silent, and it is the earlier one that goes on.
    fn is_earlier(&mut self, id: CheckId, life: &Incarnation, word: &Word) -> bool {
        let now = self.now;
        let Some(peer) = self.peer_mut(id.peer) else {
            return false;
        };
        if peer.incarnation.as_ref() == Some(life) {
            peer.earlier.iter_mut().for_each(|earlier| earlier.fresh = 0);
            return false;
        }
        let gone = peer
            .check(id.index)
            .is_none_or(|check| check.is_gone_or_overdue(now));
        let Some(earlier) = peer.earlier.iter_mut().find(|earlier| earlier.life == *life) else {
            return false;
        };
        match word {
            Word::Leaving { .. } => earlier.left = true,
            Word::Life { up, .. } if gone && (*up || !earlier.left) => {
                earlier.fresh += 1;
                return earlier.fresh < FRESH_AGAIN;
            }
            _ => {}
        }
        true
    }

    /// `life` is the one that is judged from now on.
    fn succeed(&mut self, id: PeerId, life: &Incarnation) {
        if let Some(peer) = self.peer_mut(id)
            && let Some(before) = peer.incarnation.clone().filter(|before| before != life)
        {
            peer.earlier.retain(|earlier| earlier.life != *life);
            let left = peer.leaving.is_some();
            let earlier = Earlier {
                life: before,
                left,
                fresh: 0,
            };
            peer.earlier.insert(0, earlier);
            peer.earlier.truncate(EARLIER_LIVES);
        }
        self.new_incarnation(id, life.clone());
    }

    fn heard_it_leave(&self, id: CheckId) -> bool {
        let name = self.check_name(id);
        let leaving = self.peer(id.peer).and_then(|peer| peer.leaving.as_ref());
        leaving
            .zip(name)
            .is_some_and(|(leaving, name)| leaving.heard_by.contains(name))
    }

    fn check_name(&self, id: CheckId) -> Option<&Arc<str>> {
        let peer = self.settings.peers.get(id.peer.0 as usize)?;
        Some(&peer.checks.get(usize::from(id.index))?.name)
    }

    /// Who said that it leaves, and is still there after the time that it has for that, is told of, once. It is
    /// never healed: whoever asked for its end must not get a restart.
    pub(super) fn tell_overdue(&mut self, id: PeerId) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        let within = self.settings.peers[id.0 as usize].leave_within;
        let stopped = peer.checks.iter().any(Check::is_stopped_on_purpose);
        let seen = peer.last_life();
        let Some(leaving) = peer
            .leaving
            .as_mut()
            .filter(|leaving| !leaving.overdue && !stopped)
        else {
            return;
        };
        if seen.is_some_and(|seen| seen >= leaving.since && leaving.age(seen) >= within) {
            leaving.overdue = true;
            let for_ms = u64::try_from(leaving.age(now).as_millis()).unwrap_or(u64::MAX);
            self.notice(Some(id), What::LeaveOverdue { for_ms });
        }
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
        let kept = check.said.failed().is_some();
        let another_pace = check.said.pace(next);
        check.said.hears();
        check.life(now, mark, None);
        let overdue = now + check.fresh_window();
        if another_pace || kept {
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
        let before = peer.leaving.as_ref();
        let first = before.is_none();
        let mut heard_by = before.map(|before| before.heard_by.clone()).unwrap_or_default();
        heard_by.extend(self.check_name(id).cloned());
        let leaving = Leaving {
            life: peer.incarnation.clone().or(life),
            detail,
            since: before.map_or(self.now, |before| before.since),
            before: before.map(|before| before.before).unwrap_or_default(),
            heard_by,
            overdue: before.is_some_and(|before| before.overdue),
        };
        let exited = peer.exited;
        self.peers[id.peer.0 as usize].leave(leaving);
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
            .is_some_and(|remedy| Some(&remedy.incarnation) == current && remedy.granted.kind.touches())
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
