//! One lease: when it is renewed, how long it is certainly held, and when it is over. Time is an argument; nothing here
//! waits or asks anybody.

use std::sync::Arc;
use std::time::Duration;

use super::margin;
use super::store::{Anew, Claim, Done, Step};
use crate::engine::cause::Cause;
use crate::engine::event::{Incarnation, PeerId};
use crate::engine::peer::Liveness;
use crate::engine::snapshot::PeerView;
use crate::engine::time::Time;
use crate::lease_desk::{Answer, HeldBy, State};
use crate::redis_client::failure::Failure;
use crate::telemetry::metrics::leases::End;

/// Whom a lease is kept for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Keeping {
    /// For whoever asks again within its time.
    Holder,
    /// For this life of a peer.
    Peer {
        id: PeerId,
        name: Arc<str>,
        /// The first that is seen; `None`: none yet.
        life: Option<Incarnation>,
        /// Why it is not renewed, if it is not.
        withheld: Option<&'static str>,
    },
}

/// What a peer's state means for its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fitness {
    /// It is renewed. Unknown is not dead, and suspect not yet.
    Renew,
    /// It is not, and ends by itself.
    Withhold(&'static str),
    /// It is given back at once.
    Ended,
}

/// Reads a peer's state.
pub(super) fn fitness(peer: &PeerView, life: Option<&Incarnation>) -> Fitness {
    let another = |life: &Incarnation| peer.incarnation.as_ref().is_some_and(|now| now != life);
    match (peer.liveness, peer.cause) {
        (Liveness::Dead, Some(Cause::PeerExited)) => Fitness::Ended,
        _ if life.is_some_and(another) => Fitness::Ended,
        (Liveness::Dead, _) => Fitness::Withhold("its peer is dead"),
        (Liveness::Unknown, _) if peer.left => Fitness::Withhold("its peer was stopped, or left"),
        (Liveness::Unknown | Liveness::Suspect | Liveness::Alive, _) => Fitness::Renew,
    }
}

/// Where a lease stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Asked for; whether it was had is not known yet.
    Taking,
    /// Held until [`Lease::held_until`] at least.
    Held,
    /// To be given back.
    Releasing(End, Time),
    /// Somebody else has it, and it was never ours.
    Others(Option<Duration>),
    /// The server refuses, so that it was certainly not taken; whether it is free is not known.
    Refused(String),
    /// It was held, and is not any more.
    Over(End, Time),
}

/// One lease.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) claim: Claim,
    ttl: Duration,
    pub(super) keeping: Keeping,
    pub(super) phase: Phase,
    /// Whether it may be taken if it is nobody's.
    anew: Anew,
    fence: Option<u64>,
    /// Certainly held until then.
    held_until: Time,
    /// When its holder asked last.
    asked: Time,
    /// When the last request that succeeded was sent.
    confirmed: Option<Time>,
    /// Since when requests fail, and why.
    trouble: Option<(Time, String)>,
    /// A request went unanswered: it may have been carried out, or will be.
    unanswered: bool,
    /// The next request, unless one is under way.
    next: Time,
    calling: bool,
}

impl Lease {
    pub(super) fn new(claim: Claim, ttl: Duration, keeping: Keeping, anew: Anew, now: Time) -> Self {
        Self {
            claim,
            ttl,
            keeping,
            phase: Phase::Taking,
            anew,
            fence: None,
            held_until: Time::ZERO,
            asked: now,
            confirmed: None,
            trouble: None,
            unanswered: false,
            next: now,
            calling: false,
        }
    }

    /// Its holder asks again. True if what is known is so fresh that Redis need not be asked.
    pub(super) fn asked_again(&mut self, ttl: Duration, keeping: Keeping, anew: Anew, now: Time) -> bool {
        let fresh = self.trouble.is_none()
            && self.ttl == ttl
            && self.confirmed.is_some_and(|at| now.since(at) < ttl / 30);
        self.keeping = match (keeping, &self.keeping) {
            // The life that it was taken for stays the one that it is kept for.
            (Keeping::Peer { id, .. }, Keeping::Peer { id: same, .. }) if id == *same => self.keeping.clone(),
            (keeping, _) => keeping,
        };
        self.ttl = ttl;
        self.asked = now;
        if anew == Anew::Yes {
            self.anew = anew;
        }
        if !fresh {
            self.next = now;
        }
        fresh && self.phase == Phase::Held
    }

    /// When time alone will change it.
    pub(super) fn changes_at(&self) -> Time {
        match self.phase {
            Phase::Taking => self.asked + self.ttl,
            Phase::Held => self.held_until,
            Phase::Releasing(_, until) => until,
            Phase::Others(_) | Phase::Refused(_) | Phase::Over(..) => Time::MAX,
        }
    }

    /// When its next request is due; `None`: none is, or one is under way.
    pub(super) fn call_due(&self) -> Option<Time> {
        let may = matches!(self.phase, Phase::Taking | Phase::Held | Phase::Releasing(..));
        (may && !self.calling).then_some(self.next)
    }

    /// What time alone has changed. To be asked before anything is said of it: this node may have been stopped.
    pub(super) fn pass(&mut self, now: Time) {
        match self.phase {
            // Whoever wanted it has stopped asking. It may have been taken all the same.
            Phase::Taking if now >= self.asked + self.ttl => self.release(End::Released, now),
            Phase::Held if now >= self.held_until => self.over(End::Expired, now),
            Phase::Releasing(end, until) if now >= until => self.over(end, now),
            _ => {}
        }
    }

    /// The request that is due, and how long it may take. [`Self::answered`] must follow.
    pub(super) fn step(&mut self, now: Time) -> Option<(Step, Duration)> {
        if self.call_due()? > now {
            return None;
        }
        let claim = self.claim.clone();
        let step = match self.phase {
            Phase::Taking => Step::Take(claim, self.wanted(now)?, self.anew),
            Phase::Held => Step::Extend(claim, self.wanted(now)?),
            Phase::Releasing(..) => Step::Release(claim),
            Phase::Others(_) | Phase::Refused(_) | Phase::Over(..) => return None,
        };
        self.calling = true;
        let within = (self.ttl / 6).clamp(Duration::from_millis(100), Duration::from_secs(1));
        Some((step, within))
    }

    /// How long it is to last from now on: whole for a peer, and for a holder from when it asked last.
    fn wanted(&mut self, now: Time) -> Option<Duration> {
        let wanted = match &self.keeping {
            Keeping::Holder => (self.asked + self.ttl).since(now),
            Keeping::Peer { withheld: None, .. } => self.ttl,
            Keeping::Peer { .. } => Duration::ZERO,
        };
        let whole = Duration::from_millis(u64::try_from(wanted.as_millis()).unwrap_or(u64::MAX));
        if whole.is_zero() {
            self.next = Time::MAX;
            return None;
        }
        Some(whole)
    }

    /// What came of a request that was sent at `sent`.
    pub(super) fn answered(&mut self, step: &Step, sent: Time, result: Result<Done, Failure>, now: Time) {
        self.calling = false;
        self.next = if self.asked > sent {
            now
        } else {
            (sent + self.ttl / 3).max(now)
        };
        let done = match result {
            Ok(done) => done,
            Err(Failure::Refused { cure }) if self.phase == Phase::Taking && !self.unanswered => {
                self.phase = Phase::Refused(cure);
                return;
            }
            Err(failure) => {
                self.unanswered |= matches!(failure, Failure::Down { .. });
                let since = self.trouble.as_ref().map_or(now, |(since, _)| *since);
                self.trouble = Some((since, failure.into_text()));
                if matches!(self.phase, Phase::Releasing(..)) {
                    self.next = now + (self.ttl / 3).min(Duration::from_secs(1));
                }
                return self.pass(now);
            }
        };
        self.trouble = None;
        self.confirmed = Some(sent);
        match (&self.phase, done, step) {
            (Phase::Releasing(..), Done::Taken(_) | Done::Extended, _) => self.next = now,
            // One that went unanswered may have been this one.
            (Phase::Releasing(..), Done::Gone | Done::Others(_), _) if !self.unanswered => {
                self.over(End::Gone, now);
            }
            (Phase::Releasing(end, _), _, _) => self.over(*end, now),
            (Phase::Taking, Done::Taken(fence), Step::Take(_, lasting, _)) => {
                self.fence = Some(fence);
                self.phase = Phase::Held;
                self.held(sent, *lasting);
            }
            (Phase::Taking, Done::Others(ends), _) => self.phase = Phase::Others(ends),
            (Phase::Held, Done::Extended, Step::Extend(_, lasting)) => self.held(sent, *lasting),
            (Phase::Taking | Phase::Held, _, _) => self.over(End::Gone, now),
            _ => {}
        }
        self.pass(now);
    }

    fn held(&mut self, sent: Time, lasting: Duration) {
        let until = sent + lasting.saturating_sub(margin(lasting));
        self.held_until = self.held_until.max(until);
    }

    /// To be given back, unless it is over already.
    pub(super) fn release(&mut self, end: End, now: Time) {
        if matches!(self.phase, Phase::Taking | Phase::Held) {
            self.phase = Phase::Releasing(end, now + self.ttl);
            self.next = now;
        }
    }

    fn over(&mut self, end: End, now: Time) {
        let withheld = matches!(
            &self.keeping,
            Keeping::Peer {
                withheld: Some(_),
                ..
            }
        );
        let end = if end == End::Expired && withheld {
            End::PeerDead
        } else {
            end
        };
        self.phase = Phase::Over(end, now);
    }

    /// What the engine says of its peer now.
    pub(super) fn peer_is(&mut self, view: &PeerView, now: Time) {
        let Keeping::Peer { life, withheld, .. } = &mut self.keeping else {
            return;
        };
        let fitness = fitness(view, life.as_ref());
        if life.is_none() {
            life.clone_from(&view.incarnation);
        }
        match fitness {
            Fitness::Renew if withheld.is_some() => {
                *withheld = None;
                self.next = self.next.min(now);
            }
            Fitness::Renew => {}
            Fitness::Withhold(why) => *withheld = Some(why),
            Fitness::Ended => self.release(End::PeerExited, now),
        }
    }

    /// A reload took its peer away: it is renewed no more, and ends by itself.
    pub(super) fn peer_is_unknown(&mut self) {
        if let Keeping::Peer { withheld, .. } = &mut self.keeping {
            *withheld = Some("its peer is configured no longer");
        }
    }

    /// Its peer's number and name.
    pub(super) const fn peer(&self) -> Option<(PeerId, &Arc<str>)> {
        match &self.keeping {
            Keeping::Holder => None,
            Keeping::Peer { id, name, .. } => Some((*id, name)),
        }
    }

    /// There is nothing more to be done for it.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(..) | Phase::Others(_) | Phase::Refused(_))
    }

    /// Over for another reason than that its holder gave it back: its token never gets it again.
    pub(super) const fn is_lost(&self) -> bool {
        matches!(self.phase, Phase::Over(end, _) if !matches!(end, End::Released))
    }

    /// What is said of it, to anybody. [`Self::pass`] must have been asked.
    pub(super) fn view(&self, now: Time) -> Answer {
        let key = &self.claim.key;
        let mut answer = match &self.phase {
            Phase::Taking => Answer::new(State::Unknown, key).because(match &self.trouble {
                Some((_, why)) => format!("it is not known whether it was taken: {why}"),
                None => "it is being taken".to_owned(),
            }),
            Phase::Held => self.held_view(now),
            Phase::Releasing(..) => Answer::new(State::Unknown, key).because(match &self.trouble {
                Some((_, why)) => format!("it is given back, which Redis has not confirmed: {why}"),
                None => "it is being given back".to_owned(),
            }),
            Phase::Others(ends) => others(key, *ends),
            Phase::Refused(why) => Answer::new(State::Unknown, key).because(why.clone()),
            Phase::Over(End::Released, _) => Answer::new(State::Free, key),
            Phase::Over(end, _) => Answer::new(State::Lost, key).because(self.why_lost(*end)),
        };
        if let Some((since, _)) = &self.trouble {
            answer.unconfirmed_for_ms = Some(millis(now.since(self.confirmed.unwrap_or(*since))));
        }
        answer
    }

    fn held_view(&self, now: Time) -> Answer {
        let (peer, withheld) = match &self.keeping {
            Keeping::Peer { name, withheld, .. } => (Some(Arc::clone(name)), *withheld),
            Keeping::Holder => (None, None),
        };
        let trouble = self.trouble.as_ref().map(|(_, why)| why.clone());
        Answer {
            held_by: Some(HeldBy::ThisNode),
            fencing_token: self.fence,
            held_for_ms: Some(millis(self.held_until.since(now))),
            ttl_ms: Some(millis(self.ttl)),
            peer,
            reason: trouble.or_else(|| withheld.map(|why| format!("it is not renewed: {why}"))),
            ..Answer::new(State::Held, &self.claim.key)
        }
    }

    fn why_lost(&self, end: End) -> String {
        let trouble = self.trouble.as_ref().map(|(_, why)| why.as_str());
        match (end, trouble) {
            (End::Gone, _) => "the key has another value, or is gone".to_owned(),
            (End::PeerExited, _) => "its peer has exited: it is given back".to_owned(),
            (End::PeerDead, _) => "its peer is dead or has left: it was not renewed".to_owned(),
            (End::Drained, _) => "the node drains: it is given back".to_owned(),
            (End::Released, _) => "it was given back".to_owned(),
            (End::Expired, Some(why)) => format!("it could not be renewed in time: {why}"),
            (End::Expired, None) => "its holder did not renew it in time".to_owned(),
        }
    }
}

/// Somebody else's.
pub(super) fn others(key: &Arc<str>, ends: Option<Duration>) -> Answer {
    Answer {
        held_by: Some(HeldBy::SomebodyElse),
        ends_in_ms: ends.map(millis),
        ..Answer::new(State::Held, key)
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
