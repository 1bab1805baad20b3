//! A lease that is kept, those who wait for what comes of its next request, and those who follow it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::lease::{Keeping, Lease, Phase};
use super::store::Anew;
use crate::engine::time::Time;
use crate::lease_desk::{Answer, Refusal, Reply, State};
use crate::telemetry::metrics::leases::{End, LeaseMetrics};

/// Askers of one key that may wait.
const WAITING: usize = 64;
/// Followers of one lease.
const FOLLOWERS: usize = 16;

/// A lease, and who wants to hear of it.
pub(super) struct Entry {
    pub(super) lease: Lease,
    asking: Vec<Asking>,
    followers: Vec<mpsc::Sender<Answer>>,
    /// What the followers were told last, without what time changes.
    told: Option<(State, Option<String>)>,
    /// What was logged and counted of it.
    recorded: Recorded,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Recorded {
    #[default]
    Nothing,
    Held,
    Ended,
}

/// Somebody who waits for what comes of the next request.
struct Asking {
    what: Want,
    since: Time,
    reply: Reply,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Take,
    Renew,
    Release,
}

impl Want {
    pub(super) const fn of(anew: Anew) -> Self {
        match anew {
            Anew::Yes => Self::Take,
            Anew::No => Self::Renew,
        }
    }
}

/// A request that is within every bound.
pub(super) struct Admitted {
    pub(super) token: Arc<str>,
    pub(super) taking: u64,
    pub(super) ttl: Duration,
    pub(super) keeping: Keeping,
    pub(super) anew: Anew,
}

impl Entry {
    pub(super) const fn new(lease: Lease) -> Self {
        Self {
            lease,
            asking: Vec::new(),
            followers: Vec::new(),
            told: None,
            recorded: Recorded::Nothing,
        }
    }

    /// Over, and nobody is to be told of it any more.
    pub(super) fn may_be_forgotten(&self) -> bool {
        self.lease.is_over() && !self.lease.is_lost() && self.asking.is_empty()
    }

    /// Tells the sender what becomes of it.
    pub(super) fn follow(&mut self, tell: mpsc::Sender<Answer>) {
        self.followers.retain(|follower| !follower.is_closed());
        if self.followers.len() < FOLLOWERS && !self.lease.is_over() {
            self.followers.push(tell);
        }
    }

    /// Somebody asks for a key that is kept, or was lost, here. `Err`: the answer, if it is known already.
    pub(super) fn asked_again(&mut self, admitted: &Admitted, now: Time) -> Result<Want, Answer> {
        let lease = &mut self.lease;
        let ours = lease.claim.token == admitted.token;
        match lease.phase {
            Phase::Over(..) if ours => Err(lease.view(now)),
            Phase::Held if ours => {
                if lease.asked_again(admitted.ttl, admitted.keeping.clone(), admitted.anew, now) {
                    let token = Some(Arc::clone(&admitted.token));
                    let state = State::Renewed;
                    return Err(Answer {
                        state,
                        token,
                        ..lease.view(now)
                    });
                }
                Ok(Want::Renew)
            }
            Phase::Taking if ours => {
                lease.asked_again(admitted.ttl, admitted.keeping.clone(), admitted.anew, now);
                Ok(Want::of(admitted.anew))
            }
            Phase::Held => Err(lease.view(now)),
            Phase::Releasing(..) if ours => Err(lease.view(now)),
            Phase::Taking | Phase::Releasing(..) | Phase::Others(_) | Phase::Refused(_) | Phase::Over(..) => {
                let why = "another holder's request for it has not ended yet; ask again in a moment";
                Err(Answer::new(State::Unknown, &lease.claim.key).because(why))
            }
        }
    }

    pub(super) fn wait(&mut self, what: Want, since: Time, reply: Reply) {
        self.asking.retain(|asking| !asking.reply.is_closed());
        if self.asking.len() >= WAITING {
            let why = "too many ask for this lease at once; ask again in a moment";
            let _ = reply.send(Err(Refusal::TooMany(why.to_owned())));
            return;
        }
        self.asking.push(Asking { what, since, reply });
    }

    /// What a request that was sent at `sent` means for who asked before it.
    pub(super) fn reply(&mut self, sent: Time, now: Time) {
        let view = self.lease.view(now);
        let releasing = matches!(self.lease.phase, Phase::Releasing(..));
        let over = self.lease.is_over();
        for asking in std::mem::take(&mut self.asking) {
            let early = asking.since > sent && !over;
            // A release is answered by a release, not by what was under way before it.
            let owed = releasing && asking.what == Want::Release && view.unconfirmed_for_ms.is_none();
            if early || owed {
                self.asking.push(asking);
                continue;
            }
            // Whoever asked may have gone.
            let _ = asking.reply.send(Ok(self.answer_to(asking.what, view.clone())));
        }
    }

    fn answer_to(&self, what: Want, view: Answer) -> Answer {
        let token = Some(Arc::clone(&self.lease.claim.token));
        match (&self.lease.phase, what) {
            (Phase::Held, Want::Take | Want::Renew) => {
                let state = match (view.unconfirmed_for_ms, what) {
                    (Some(_), _) => State::Unknown,
                    (None, Want::Renew) => State::Renewed,
                    (None, _) => State::Acquired,
                };
                Answer { state, token, ..view }
            }
            (Phase::Taking, _) => Answer { token, ..view },
            // What was to be renewed, and is another's or nobody's, is lost.
            (Phase::Others(_), Want::Renew) => {
                Answer::new(State::Lost, &view.key).because("the key has another value, or is gone")
            }
            _ => view,
        }
    }

    /// In the log and the metrics, once.
    pub(super) fn record(&mut self, metrics: &LeaseMetrics, now: Time) {
        let (key, view) = (&*self.lease.claim.key, || self.lease.view(now));
        match (self.recorded, &self.lease.phase) {
            (Recorded::Nothing, Phase::Held) => {
                self.recorded = Recorded::Held;
                let fencing_token = view().fencing_token;
                tracing::info!(lease = key, fencing_token, "the lease is held");
            }
            (Recorded::Held, Phase::Releasing(end, _) | Phase::Over(end, _)) => {
                metrics.ended(*end);
                match end {
                    End::Gone | End::Expired | End::PeerDead => {
                        let why = view().reason.unwrap_or_default();
                        tracing::warn!(lease = key, "the lease is lost: {why}");
                    }
                    End::Released | End::PeerExited | End::Drained => {
                        tracing::info!(lease = key, why = end.as_str(), "the lease is given back");
                    }
                }
                self.recorded = Recorded::Ended;
            }
            _ => {}
        }
    }

    pub(super) fn is_followed_and_held(&self) -> bool {
        let holder = self.lease.keeping == Keeping::Holder && self.lease.phase == Phase::Held;
        holder && self.followers.iter().any(|follower| !follower.is_closed())
    }

    /// Tells the followers what has changed. Whoever does not read is not told any more.
    pub(super) fn tell(&mut self, draining: bool, now: Time) {
        if self.followers.is_empty() {
            return;
        }
        let mut view = self.lease.view(now);
        if draining && self.lease.phase == Phase::Held {
            view.state = State::Ending;
            view.reason = Some("the node drains: end, and give it back".to_owned());
        }
        let news = (view.state, view.reason.clone());
        if self.told.as_ref() != Some(&news) {
            self.told = Some(news);
            self.followers
                .retain(|follower| follower.try_send(view.clone()).is_ok());
        }
        if self.lease.is_over() {
            self.followers.clear();
        }
    }
}
