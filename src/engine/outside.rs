//! What two guards must ask of the outside: the blockers, and leave of the group. The engine cannot wait, so it says
//! what is to be asked, and goes on refusing until an answer is there. Then *all* guards are asked again: what was
//! leave a moment ago is given back if the world has moved on meanwhile.
//!
//! One question of each episode is under way at a time, and each answer has an end.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::decision::{Decision, What};
use super::event::{Incarnation, PeerId};
use super::guards::{GuardName, Refusal};
use super::heal::SLOT_SLACK;
use super::ladder::Step;
use super::ladder::does;
use super::settings::{Budget, GroupBudget, RemedySettings};
use super::time::Time;

/// How long an answer of the blockers is waited for, and how long their yes counts; both from the asking.
pub const BLOCKERS_LIFE: Duration = Duration::from_secs(15);
/// How long the group's answer is waited for.
pub const LEASE_PATIENCE: Duration = Duration::from_secs(3);
/// After a no, it is asked again so soon: what was in the way may be gone before its time.
const AGAIN: Duration = Duration::from_secs(5);

/// What the engine wants of the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Ask whether anything blocks a remedy for this peer. Answered by one
    /// [`Event::Blockers`](super::event::Event::Blockers).
    AskBlockers {
        /// Number of the question.
        number: u64,
        /// Whose.
        peer: PeerId,
    },
    /// Ask the group for leave. Answered by one [`Event::Lease`](super::event::Event::Lease); a leave that comes too late
    /// is given back.
    Reserve(Arc<Reservation>),
    /// Tell the group what becomes of what it gave leave for.
    Settle(Settlement),
}

/// What is asked of the group before a remedy that restarts: the lease, for one remedy on one life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The run of the node that asks, by its boot id.
    pub run: Arc<str>,
    /// Its number in that run: with it, nobody else's.
    pub number: u64,
    /// When it was decided to ask: before anything was sent.
    pub asked: Time,
    /// Who is to be healed.
    pub peer: PeerId,
    /// Its name.
    pub name: Arc<str>,
    /// What the group calls it.
    pub known_as: Arc<str>,
    /// The life that was condemned.
    pub incarnation: Incarnation,
    /// Rung of the ladder.
    pub rung: u16,
    /// What that rung does, by a name that stays when another one is put before it: a kind, `exec#2` of the second such.
    pub does: Arc<str>,
    /// How long it counts as down by our hand, unless that is ended before.
    pub lasting: Duration,
    /// What this peer may suffer, by whoever's hand.
    pub budget: Budget,
    /// What the group may suffer.
    pub group: GroupBudget,
    /// Peers that this node knows.
    pub peers: u32,
    /// A dry run: only look whether it would be granted.
    pub only_look: bool,
}

/// The group's answer to a [`Reservation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// Taken (or, of one that only looks, it would be).
    Granted {
        /// Fencing token of the group; 0 of one that only looks, and where there is no group to give one.
        token: u64,
    },
    /// Not now.
    Refused {
        /// What is in the way.
        by: InTheWay,
        /// In words that stay the same while the reason does.
        why: String,
        /// When it could change by itself, from now.
        after: Option<Duration>,
    },
    /// This rung was carried out on this life by another node, and it has let go of the peer since.
    Done {
        /// By whom, in words.
        why: String,
        /// When that is forgotten, from now.
        after: Option<Duration>,
    },
    /// Nobody knows: the group could not be asked, or refuses to be.
    Unavailable {
        /// Why, in words, with the cure where there is one.
        why: String,
        /// It could not be reached; false: it, or this node, is not as it must be, and stays so until somebody mends it.
        away: bool,
    },
}

/// Why the group says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InTheWay {
    /// Another node is at work on this peer.
    Healing,
    /// The peer's restarts are used up, by whoever's hand.
    Spent,
    /// The last restart of anybody was a moment ago, too many are down by our hand, or it is another node's turn.
    Others,
}

/// The blockers' answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockersAnswer {
    /// Nothing is in the way.
    Clear,
    /// Something is, or could not be found out.
    Blocked {
        /// Which blocker, and what it said.
        why: String,
    },
}

/// What becomes of something that was reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Of what.
    pub reservation: Arc<Reservation>,
    /// Its done-mark.
    pub mark: Mark,
    /// Nothing was touched: it is charged to nobody.
    pub refund: bool,
    /// The peer is no longer down by our hand.
    pub over: bool,
}

/// What becomes of a done-mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// As it is: it ends with the lease's time.
    Leave,
    /// The remedy was carried out: nobody does it again on this life.
    Keep,
    /// It may be tried again.
    Clear,
}

/// What one episode knows from outside.
#[derive(Clone, Debug, Default)]
pub(super) struct Outside {
    asked: Option<Asked>,
    /// The blockers are clear until then.
    clear_until: Option<Time>,
    /// Granted, and not used yet.
    leave: Option<Leave>,
    no: Option<No>,
    /// A heartbeat of ours that was sent after the condemnation has come back, while the bus could be trusted.
    pub(super) outlived: bool,
}

/// A question under way.
#[derive(Clone, Copy, Debug)]
struct Asked {
    guard: GuardName,
    number: u64,
    deadline: Time,
}

#[derive(Clone, Debug)]
struct Leave {
    reservation: Arc<Reservation>,
    token: u64,
}

/// The last no, and when it is asked again.
#[derive(Clone, Debug)]
struct No {
    guard: GuardName,
    why: String,
    until: Option<Time>,
    again: Time,
    away: bool,
}

impl Outside {
    /// Why `guard` refuses, by what it was told last.
    pub(super) fn no(&self, guard: GuardName, now: Time) -> Option<Refusal> {
        let no = self
            .no
            .as_ref()
            .filter(|no| no.guard == guard && now < no.again)?;
        Some(Refusal {
            guard,
            why: no.why.clone(),
            until: no.until,
        })
    }

    /// The group could not be reached a moment ago.
    pub(super) fn is_away(&self, now: Time) -> bool {
        let no = self.no.as_ref();
        no.is_some_and(|no| no.guard == GuardName::FleetLease && no.away && now < no.again)
    }

    pub(super) fn is_clear(&self, now: Time) -> bool {
        self.clear_until.is_some_and(|until| now < until)
    }

    pub(super) fn may(&self, incarnation: &Incarnation, rung: u16) -> bool {
        self.leave.as_ref().is_some_and(|leave| {
            leave.reservation.rung == rung && leave.reservation.incarnation == *incarnation
        })
    }

    fn refused(&mut self, guard: GuardName, why: String, until: Option<Time>, now: Time) {
        self.asked = None;
        self.no = Some(No {
            guard,
            why,
            until,
            again: until.map_or(now + AGAIN, |until| until.min(now + AGAIN)),
            away: false,
        });
    }

    fn answered(&mut self, guard: GuardName, number: u64) -> bool {
        let waited = self
            .asked
            .is_some_and(|asked| asked.guard == guard && asked.number == number);
        if waited {
            self.asked = None;
        }
        waited
    }
}

impl Engine {
    /// The guards at home permit it, and `refusal` is that of one which has to ask. Asks, unless that is under way.
    pub(super) fn ask_outside(
        &mut self,
        id: PeerId,
        refusal: Refusal,
        (rung, remedy, incarnation): (u16, &RemedySettings, Incarnation),
    ) {
        let now = self.now;
        let guard = refusal.guard;
        let Some(outside) = self.outside_mut(id) else {
            return;
        };
        match outside.asked {
            Some(asked) if now < asked.deadline => {}
            Some(_) => {
                let why = format!("no answer within {} s", patience(guard).as_secs());
                self.unavailable(id, guard, why, true);
                if let Some(no) = self.outside_mut(id).and_then(|outside| outside.no(guard, now)) {
                    self.refused(id, no);
                }
            }
            None => {
                // What an earlier run of this node still holds for it would be in the way.
                self.let_go(id);
                self.give_back_unused(id);
                self.questions += 1;
                let number = self.questions;
                if let Some(outside) = self.outside_mut(id) {
                    outside.asked = Some(Asked {
                        guard,
                        number,
                        deadline: now + patience(guard),
                    });
                }
                let errand = match guard {
                    GuardName::Blockers => Errand::AskBlockers { number, peer: id },
                    _ => Errand::Reserve(Arc::new(self.reservation(id, number, rung, remedy, incarnation))),
                };
                self.decisions.push_back(Decision::Errand(errand));
            }
        }
        // To ask is not to refuse: it is shown where nothing else is, and told to nobody.
        if let Some(episode) = self.peer_mut(id).and_then(|peer| peer.episode.as_mut())
            && episode.refusal.as_ref().is_none_or(|last| last.guard != guard)
        {
            episode.refusal = Some(refusal);
        }
    }

    fn reservation(
        &self,
        id: PeerId,
        number: u64,
        rung: u16,
        remedy: &RemedySettings,
        incarnation: Incarnation,
    ) -> Reservation {
        let of = &self.settings.peers[id.0 as usize];
        Reservation {
            run: Arc::clone(&self.settings.boot),
            number,
            asked: self.now,
            peer: id,
            name: Arc::clone(&of.name),
            known_as: Arc::clone(&of.known_as),
            incarnation,
            rung,
            does: does(&of.remedies, rung).into(),
            lasting: of
                .acts_within(remedy)
                .saturating_add(remedy.verify_within)
                .saturating_add(SLOT_SLACK),
            budget: of.budget,
            group: self.settings.group_budget,
            peers: u32::try_from(self.group.peers).unwrap_or(u32::MAX),
            only_look: self.settings.dry_run,
        }
    }

    pub(super) fn blockers_answered(&mut self, number: u64, id: PeerId, answer: BlockersAnswer) {
        let now = self.now;
        let Some(outside) = self.outside_mut(id) else {
            return;
        };
        let Some(asked) = outside.asked.filter(|asked| now < asked.deadline) else {
            return;
        };
        if !outside.answered(GuardName::Blockers, number) {
            return;
        }
        match answer {
            BlockersAnswer::Clear => {
                outside.no = None;
                // Its deadline is as far from the asking as a yes may count.
                outside.clear_until = Some(asked.deadline);
            }
            BlockersAnswer::Blocked { why } => outside.refused(GuardName::Blockers, why, None, now),
        }
        self.ask_again(id);
    }

    pub(super) fn lease_answered(&mut self, reservation: Arc<Reservation>, answer: LeaseAnswer) {
        let now = self.now;
        let id = reservation.peer;
        let late = now >= reservation.asked + LEASE_PATIENCE;
        let waited = !late
            && self
                .outside_mut(id)
                .is_some_and(|outside| outside.answered(GuardName::FleetLease, reservation.number));
        let taken = matches!(answer, LeaseAnswer::Granted { .. });
        let may_be_taken = matches!(answer, LeaseAnswer::Unavailable { away: true, .. });
        if may_be_taken || (taken && !waited) {
            self.give_back(Arc::clone(&reservation));
        }
        if !waited {
            return;
        }
        match answer {
            LeaseAnswer::Granted { token } => {
                if let Some(outside) = self.outside_mut(id) {
                    outside.no = None;
                    outside.leave = Some(Leave { reservation, token });
                }
            }
            LeaseAnswer::Refused { by, why, after } => {
                let until = after.map(|after| now + after);
                if let Some(outside) = self.outside_mut(id) {
                    outside.refused(GuardName::FleetLease, why, until, now);
                }
                if by == InTheWay::Spent && self.has_tried_enough(id) {
                    self.ask_again(id);
                    return self.give_up(id, "its restarts in the group are used up and it is still dead");
                }
            }
            LeaseAnswer::Done { why, after } => self.done_elsewhere(id, &reservation, why, after),
            LeaseAnswer::Unavailable { why, away } => self.unavailable(id, GuardName::FleetLease, why, away),
        }
        self.ask_again(id);
        // Not used at once: the world has moved on.
        self.give_back_unused(id);
    }

    /// The ladder goes on where the other node left it. Where it ends there, whoever left it gives up; a node that was only
    /// told so waits, because whoever can write in that server can say it.
    fn done_elsewhere(
        &mut self,
        id: PeerId,
        reservation: &Reservation,
        why: String,
        after: Option<Duration>,
    ) {
        let until = after.map(|after| self.now + after);
        let guard = GuardName::FleetLease;
        let (incarnation, rung) = (&reservation.incarnation, reservation.rung);
        let Some(peer) = self.peer_mut(id) else { return };
        let Some(episode) = &mut peer.episode else { return };
        let (number, wished) = (episode.id, episode.wish.is_some());
        if wished {
            return self.wish_refused(id, Refusal { guard, why, until });
        }
        let known = peer.ledger.is_done(incarnation, rung);
        if !known {
            peer.ledger.mark_done(incarnation.clone(), rung);
        }
        if self.goes_on(id) {
            let until = None;
            let refusal = Refusal { guard, why, until };
            let episode = number;
            self.notice(Some(id), What::Refused { episode, refusal });
            return self.saving.soon();
        }
        let now = self.now;
        let Some(peer) = self.peer_mut(id) else { return };
        if !known {
            peer.ledger.unmark(incarnation, rung);
        }
        if let Some(episode) = &mut peer.episode {
            episode.outside.refused(guard, why, until, now);
        }
    }

    /// A rung is left.
    fn goes_on(&self, id: PeerId) -> bool {
        let peer = self.peer(id);
        let step = peer.and_then(|peer| Some(self.step(id, peer, peer.episode.as_ref()?)));
        matches!(step, Some(Step::Rung(_)))
    }

    /// It was restarted from here in this episode as often as its budget permits at once. (What others did, and what a dry
    /// run seems to do, counts for nothing.)
    fn has_tried_enough(&self, id: PeerId) -> bool {
        let episode = self.peer(id).and_then(|peer| peer.episode.as_ref());
        let budget = self.settings.peers[id.0 as usize].budget;
        !self.settings.dry_run && episode.is_some_and(|episode| episode.restarts >= budget.count)
    }

    fn unavailable(&mut self, id: PeerId, guard: GuardName, why: String, away: bool) {
        let now = self.now;
        if let Some(outside) = self.outside_mut(id) {
            outside.refused(guard, why, None, now);
            if let Some(no) = &mut outside.no {
                no.away = away;
            }
        }
    }

    pub(super) fn ask_again(&mut self, id: PeerId) {
        // (Whom an operator wants restarted need not be condemned.)
        let wished = self.wishes.contains(&id).then_some(self.now);
        let condemned_at = self
            .peer(id)
            .and_then(|peer| peer.episode.as_ref())
            .and_then(|episode| episode.condemned_at);
        if let Some(condemned_at) = condemned_at.or(wished) {
            self.ask_for(id, condemned_at);
        }
    }

    fn give_back_unused(&mut self, id: PeerId) {
        if let Some(leave) = self.outside_mut(id).and_then(|outside| outside.leave.take()) {
            self.give_back(leave.reservation);
        }
    }

    /// What was asked of the outside was for another rung, perhaps: it is asked anew.
    pub(super) fn forget_answers(&mut self, id: PeerId) {
        self.give_back_unused(id);
        if let Some(outside) = self.outside_mut(id) {
            outside.asked = None;
            outside.no = None;
        }
    }

    /// What was asked of the outside is of no interest any more, and what it said neither.
    pub(super) fn forget_outside(&mut self, id: PeerId) {
        self.give_back_unused(id);
        if let Some(outside) = self.outside_mut(id) {
            *outside = Outside::default();
        }
    }

    fn give_back(&mut self, reservation: Arc<Reservation>) {
        if reservation.only_look {
            return;
        }
        self.decisions
            .push_back(Decision::Errand(Errand::Settle(Settlement {
                reservation,
                mark: Mark::Clear,
                refund: true,
                over: true,
            })));
    }

    fn outside_mut(&mut self, id: PeerId) -> Option<&mut Outside> {
        let episode = self.peer_mut(id)?.episode.as_mut()?;
        Some(&mut episode.outside)
    }

    /// The configuration is another: what was asked by the one before is asked again, and leave that is still to come is
    /// given back, as one that comes too late is.
    pub(super) fn forget_questions(&mut self) {
        for id in self.ids() {
            if let Some(outside) = self.outside_mut(id) {
                *outside = Outside {
                    leave: outside.leave.take(),
                    outlived: outside.outlived,
                    ..Outside::default()
                };
            }
        }
    }

    /// Uses the leave that the group gave: its fencing token, and what it holds from now on.
    pub(super) fn use_leave(&mut self, id: PeerId) -> Option<u64> {
        let episode = self.peer_mut(id)?.episode.as_mut()?;
        let leave = episode.outside.leave.take()?;
        episode.lease = (!leave.reservation.only_look).then_some(leave.reservation);
        Some(leave.token)
    }

    /// What becomes of the done-mark at the group, as of the one at home.
    pub(super) fn settle_mark(&mut self, id: PeerId, mark: Mark) {
        self.settle(id, mark, false, false);
    }

    /// The group need hold nothing for it any more.
    pub(super) fn let_go(&mut self, id: PeerId) {
        self.settle(id, Mark::Leave, false, true);
    }

    /// Nothing was touched: it is charged to nobody in the group, and the peer is not down by our hand.
    pub(super) fn undo_lease(&mut self, id: PeerId) {
        self.settle(id, Mark::Clear, true, true);
        self.free_slot(id);
    }

    /// Its peer is removed while a remedy is at work: the group goes on holding what it holds.
    pub(super) fn set_lease_aside(&mut self, id: PeerId) -> Option<Arc<Reservation>> {
        self.peer_mut(id)?.episode.as_mut()?.lease.take()
    }

    /// A remedy ended whose peer was removed meanwhile; what the group held for it had been set aside.
    pub(super) fn settle_retired(&mut self, reservation: Arc<Reservation>, acted: bool, touched: bool) {
        self.decisions
            .push_back(Decision::Errand(Errand::Settle(Settlement {
                reservation,
                mark: if acted { Mark::Keep } else { Mark::Clear },
                refund: !touched,
                over: true,
            })));
    }

    fn settle(&mut self, id: PeerId, mark: Mark, refund: bool, over: bool) {
        let Some(episode) = self.peer_mut(id).and_then(|peer| peer.episode.as_mut()) else {
            return;
        };
        let held = if over {
            episode.lease.take()
        } else {
            episode.lease.clone()
        };
        if let Some(reservation) = held {
            self.decisions
                .push_back(Decision::Errand(Errand::Settle(Settlement {
                    reservation,
                    mark,
                    refund,
                    over,
                })));
        }
    }
}

const fn patience(guard: GuardName) -> Duration {
    match guard {
        GuardName::Blockers => BLOCKERS_LIFE,
        _ => LEASE_PATIENCE,
    }
}
