//! The task that keeps the leases: takes questions, makes one request at a time, and tells whoever follows. What a
//! lease needs is in `lease`; how long anything may wait is bounded here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, OptionFuture};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::entry::{Admitted, Entry, Want};
use super::lease::{Fitness, Keeping, Lease, Phase, fitness, others};
use super::local::Local;
use super::pace::Pace;
use super::redis::Remote;
use super::store::{Anew, Claim, Done, Step, Store, outcome};
use super::{DEFAULT_TTL, FENCE, MAX_KEY, MAX_TOKEN, MIN_TTL, Settings, Surroundings};
use crate::engine::event::PeerId;
use crate::engine::time::Time;
use crate::lease_desk::{Answer, Ask, Refusal, Reply, State, Take, follower};
use crate::redis_client::failure::Failure;
use crate::telemetry::metrics::leases::{Call, End};

/// Questions about keys that are not kept here that may wait.
const WAITING: usize = 64;
/// How long a request may take that is made for no lease of ours.
const STRAY: Duration = Duration::from_secs(1);
/// How long a token that lost its lease is told so.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Keeps the leases of one node.
pub struct Keeper {
    settings: Settings,
    around: Surroundings,
    /// Away while a request is under way.
    store: Option<Store>,
    calling: Option<BoxFuture<'static, Called>>,
    entries: BTreeMap<Arc<str>, Entry>,
    strays: VecDeque<Stray>,
    pace: Pace,
    last_taking: u64,
    draining: Option<Draining>,
}

/// A request for a key that is not kept here.
struct Stray {
    step: Step,
    since: Time,
    reply: Reply,
}

/// Everything is given back.
struct Draining {
    /// What has a follower is kept so long, for its holder to end.
    polite_until: Time,
    done: Vec<oneshot::Sender<()>>,
}

/// A request that came back.
struct Called {
    store: Store,
    step: Step,
    sent: Time,
    result: Result<Done, Failure>,
    /// `None`: it was made for a lease that is kept here.
    stray: Option<Reply>,
}

impl Keeper {
    /// Keeps nothing yet, and has connected to nothing.
    pub fn new(settings: Settings, around: Surroundings) -> Self {
        let store = match &around.redis {
            Some(server) => Store::Remote(Box::new(Remote::new(server.clone(), &settings.prefixes))),
            None => Store::Local(Local::new(Arc::clone(&around.clock))),
        };
        Self {
            pace: Pace::full(around.clock.now()),
            settings,
            around,
            store: Some(store),
            calling: None,
            entries: BTreeMap::new(),
            strays: VecDeque::new(),
            last_taking: 0,
            draining: None,
        }
    }

    /// Keeps leases until cancelled. What is still held then ends by itself.
    pub async fn run(mut self, cancel: CancellationToken) -> anyhow::Result<()> {
        loop {
            let now = self.around.clock.now();
            self.pass(now);
            self.begin_call(now);
            let wait = self.due(now).since(now);
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                Some(called) = OptionFuture::from(self.calling.as_mut()) => {
                    self.calling = None;
                    self.called(called);
                }
                changed = self.around.snapshots.changed() => {
                    changed.context("nobody tells of the peers any more")?;
                    self.peers_changed();
                }
                asked = self.around.asked.recv() => {
                    let ask = asked.context("nobody can ask for a lease any more")?;
                    self.asked(ask);
                }
                // Waiting counts on after a sleep of the machine, and the clock is asked then; it may only be late.
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// When there is something to do again, if nothing happens before; a minute from now at the latest.
    fn due(&self, now: Time) -> Time {
        let leases = self.entries.values().map(|entry| &entry.lease);
        let changes = leases.clone().map(Lease::changes_at);
        let calls = leases
            .filter_map(Lease::call_due)
            .filter(|_| self.store.is_some());
        let polite = self.draining.as_ref().map(|draining| draining.polite_until);
        let polite = polite.filter(|_| self.entries.values().any(Entry::is_followed_and_held));
        let due = changes.chain(calls).chain(polite).min();
        due.unwrap_or(Time::MAX).min(now + Duration::from_secs(60))
    }

    /// What time has changed, and who is to be told of it.
    fn pass(&mut self, now: Time) {
        let over = self
            .draining
            .as_ref()
            .is_some_and(|draining| now >= draining.polite_until);
        for entry in self.entries.values_mut() {
            if over {
                entry.lease.release(End::Drained, now);
            }
            entry.lease.pass(now);
        }
        self.settle(now);
    }

    /// Tells followers, forgets what is over, and sees whether a drain is done.
    fn settle(&mut self, now: Time) {
        let draining = self.draining.is_some();
        for entry in self.entries.values_mut() {
            entry.tell(draining, now);
            entry.record(&self.around.metrics, now);
        }
        self.entries.retain(|_, entry| !entry.may_be_forgotten());
        self.forget_lost(now);
        let held = self
            .entries
            .values()
            .filter(|entry| entry.lease.phase == Phase::Held);
        self.around.metrics.held(held.count());
        let kept = self.kept();
        if let Some(draining) = &mut self.draining
            && kept == 0
        {
            for done in draining.done.drain(..) {
                // Whoever waited has gone.
                let _ = done.send(());
            }
        }
    }

    /// Leases that are not over.
    fn kept(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| !entry.lease.is_over())
            .count()
    }

    fn forget_lost(&mut self, now: Time) {
        let lost_at = |entry: &Entry| match entry.lease.phase {
            Phase::Over(_, at) => Some(at),
            _ => None,
        };
        self.entries
            .retain(|_, entry| lost_at(entry).is_none_or(|at| now.since(at) < REMEMBERED));
        let mut lost: Vec<(Time, Arc<str>)> = self
            .entries
            .iter()
            .filter_map(|(key, entry)| Some((lost_at(entry)?, Arc::clone(key))))
            .collect();
        lost.sort_unstable();
        let over = lost.len().saturating_sub(self.settings.max);
        for (_, key) in lost.into_iter().take(over) {
            self.entries.remove(&key);
        }
    }

    /// The most overdue request, if none is under way.
    fn begin_call(&mut self, now: Time) {
        if self.store.is_none() {
            return;
        }
        // Who has stopped waiting to see keeps no renewal waiting. A release is made all the same.
        self.strays
            .retain(|stray| !stray.reply.is_closed() || matches!(stray.step, Step::Release(_)));
        let mut due: Vec<(Time, Arc<str>)> = self
            .entries
            .iter()
            .filter_map(|(key, entry)| Some((entry.lease.call_due()?, Arc::clone(key))))
            .filter(|(at, _)| *at <= now)
            .collect();
        due.sort_unstable();
        let oldest_stray = self.strays.front().map(|stray| stray.since);
        for (at, key) in due {
            if oldest_stray.is_some_and(|since| since < at) {
                break;
            }
            let step = self.entries.get_mut(&key).and_then(|entry| entry.lease.step(now));
            if let Some((step, within)) = step {
                return self.call(step, within, None);
            }
        }
        if let Some(stray) = self.strays.pop_front() {
            self.call(stray.step, STRAY, Some(stray.reply));
        }
    }

    fn call(&mut self, step: Step, within: Duration, stray: Option<Reply>) {
        let Some(mut store) = self.store.take() else {
            return;
        };
        let clock = Arc::clone(&self.around.clock);
        let calling = async move {
            // Before anything of it is sent: its effect cannot be earlier.
            let sent = clock.now();
            let result = store.run(&step, within).await;
            Called {
                store,
                step,
                sent,
                result,
                stray,
            }
        };
        self.calling = Some(calling.boxed());
    }

    fn called(&mut self, called: Called) {
        let Called {
            store,
            step,
            sent,
            result,
            stray,
        } = called;
        self.store = Some(store);
        let now = self.around.clock.now();
        self.around
            .metrics
            .called(step.call(), outcome(&result), now.since(sent));
        if let Some(reply) = stray {
            // Whoever asked may have gone.
            let _ = reply.send(Ok(told(&step, result)));
            return;
        }
        let Some(claim) = step.claim() else { return };
        let entry = self.entries.get_mut(&claim.key);
        // Another token may have the key by now.
        let Some(entry) = entry.filter(|entry| entry.lease.claim == *claim) else {
            return;
        };
        log_trouble(step.call(), &result);
        entry.lease.answered(&step, sent, result, now);
        entry.reply(sent, now);
    }

    fn peers_changed(&mut self) {
        let now = self.around.clock.now();
        let Some(snapshot) = self.around.snapshots.borrow_and_update().clone() else {
            return;
        };
        for entry in self.entries.values_mut() {
            let Some((id, name)) = entry.lease.peer() else {
                continue;
            };
            match snapshot.peer(id).filter(|view| view.name == *name) {
                Some(view) => entry.lease.peer_is(view, now),
                None => entry.lease.peer_is_unknown(),
            }
        }
    }

    fn asked(&mut self, ask: Ask) {
        let now = self.around.clock.now();
        // This node may have been stopped since it looked last: nothing is said before that is known.
        self.pass(now);
        match ask {
            Ask::Take(key, take, reply) => self.take(key, take, reply, now),
            Ask::Release(key, token, reply) => self.release(key, token, reply, now),
            Ask::Look(key, reply) => self.look(key, reply, now),
            Ask::List(reply) => {
                let all = self.entries.values().filter(|entry| !entry.lease.is_over());
                // Whoever asked may have gone.
                let _ = reply.send(all.map(|entry| entry.lease.view(now)).collect());
            }
            Ask::Follow(key, reply) => self.follow(&key, reply, now),
            Ask::Drain(within, done) => self.drain(within, done, now),
        }
        self.settle(now);
    }

    fn take(&mut self, key: Arc<str>, take: Take, reply: Reply, now: Time) {
        match self.admitted(&key, take, now) {
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
            }
            Ok(admitted) => self.take_admitted(key, admitted, reply, now),
        }
    }

    /// Nothing is asked of Redis for what is out of bounds.
    fn admitted(&mut self, key: &Arc<str>, take: Take, now: Time) -> Result<Admitted, Refusal> {
        self.permitted(key, now)?;
        if self.draining.is_some() {
            return Err(Refusal::Unavailable(
                "the node drains: it takes and renews no lease".to_owned(),
            ));
        }
        let ttl = take.ttl.unwrap_or(DEFAULT_TTL.min(self.settings.max_ttl));
        if !(MIN_TTL..=self.settings.max_ttl).contains(&ttl) {
            return Err(Refusal::Invalid(format!(
                "`ttl` must be from {} to {} (leases.max_ttl)",
                humantime::format_duration(MIN_TTL),
                humantime::format_duration(self.settings.max_ttl)
            )));
        }
        let token: Arc<str> = match take.token {
            Some(token) => {
                fit_token(&token)?;
                token.into()
            }
            None if take.renew => {
                return Err(Refusal::Invalid("`renew` needs the `token`".to_owned()));
            }
            None => self.random_id()?,
        };
        let keeping = self.keeping(take.peer, now)?;
        Ok(Admitted {
            token,
            taking: self.next_taking(),
            ttl,
            keeping,
            anew: if take.renew { Anew::No } else { Anew::Yes },
        })
    }

    fn permitted(&mut self, key: &str, now: Time) -> Result<(), Refusal> {
        if key.len() > MAX_KEY || key.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Refusal::Invalid(format!(
                "a key has at most {MAX_KEY} bytes, and no blanks"
            )));
        }
        if key.ends_with(FENCE) {
            return Err(Refusal::Invalid(format!(
                "a key that ends with {FENCE} is where the fencing token of another one is kept"
            )));
        }
        let fits = |prefix: &String| key.len() > prefix.len() && key.starts_with(prefix.as_str());
        if !self.settings.prefixes.iter().any(fits) {
            return Err(Refusal::Forbidden(format!(
                "the key begins with none of leases.prefixes: {}",
                self.settings.prefixes.join(", ")
            )));
        }
        if !self.pace.take(now) {
            return Err(Refusal::TooMany(
                "requests for leases come too fast: 50 a second in the long run".to_owned(),
            ));
        }
        Ok(())
    }

    fn keeping(&self, peer: Option<(PeerId, Arc<str>)>, now: Time) -> Result<Keeping, Refusal> {
        let Some((id, name)) = peer else {
            return Ok(Keeping::Holder);
        };
        let snapshot = self.around.snapshots.borrow();
        let view = snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.peer(id))
            .filter(|view| view.name == name);
        let life = view.and_then(|view| view.incarnation.clone());
        match view.map(|view| fitness(view, None)) {
            Some(Fitness::Ended) => Err(Refusal::PeerDead(format!(
                "no lease is taken for {name}: it has exited"
            ))),
            Some(Fitness::Withhold(why)) => {
                Err(Refusal::PeerDead(format!("no lease is taken for {name}: {why}")))
            }
            Some(Fitness::Renew) | None => {
                tracing::debug!(peer = &*name, at = %now, "a lease is kept for a peer");
                Ok(Keeping::Peer {
                    id,
                    name,
                    life,
                    withheld: None,
                })
            }
        }
    }

    /// Greater than all before, also across a restart of the node unless its clock is set back.
    fn next_taking(&mut self) -> u64 {
        let wall = u64::try_from(self.around.clock.wall().as_micros()).unwrap_or(0);
        self.last_taking = wall.max(self.last_taking + 1);
        self.last_taking
    }

    fn random_id(&self) -> Result<Arc<str>, Refusal> {
        let bytes = (self.around.random)()
            .map_err(|error| Refusal::Unavailable(format!("cannot get random bytes for a token: {error}")))?;
        Ok(format!("{:032x}", u128::from_be_bytes(bytes)).into())
    }

    fn take_admitted(&mut self, key: Arc<str>, admitted: Admitted, reply: Reply, now: Time) {
        let lost = |entry: &Entry| entry.lease.is_lost() && entry.lease.claim.token != admitted.token;
        if self.entries.get(&key).is_some_and(lost) {
            self.entries.remove(&key);
        }
        let kept = self.kept();
        let answer = match self.entries.get_mut(&key) {
            Some(entry) => match entry.asked_again(&admitted, now) {
                Ok(want) => {
                    entry.wait(want, now, reply);
                    return;
                }
                Err(answer) => Ok(answer),
            },
            None if kept >= self.settings.max => Err(Refusal::TooMany(format!(
                "this node keeps {kept} leases already (leases.max)"
            ))),
            None => {
                let claim = Claim {
                    key: Arc::clone(&key),
                    token: admitted.token,
                    taking: admitted.taking,
                };
                let anew = admitted.anew;
                let mut entry = Entry::new(Lease::new(claim, admitted.ttl, admitted.keeping, anew, now));
                entry.wait(Want::of(anew), now, reply);
                self.entries.insert(key, entry);
                return;
            }
        };
        // Whoever asked may have gone.
        let _ = reply.send(answer);
    }

    fn release(&mut self, key: Arc<str>, token: String, reply: Reply, now: Time) {
        let admitted = self.permitted(&key, now).and_then(|()| fit_token(&token));
        if let Err(refusal) = admitted {
            let _ = reply.send(Err(refusal));
            return;
        }
        // However late it arrives, it ends nothing that is taken after it.
        let taking = self.next_taking();
        let entry = self.entries.get_mut(&key);
        match entry.filter(|entry| *entry.lease.claim.token == *token && !entry.lease.is_lost()) {
            Some(entry) => {
                entry.lease.release(End::Released, now);
                entry.wait(Want::Release, now, reply);
            }
            None => {
                let claim = Claim {
                    key,
                    token: token.into(),
                    taking,
                };
                self.stray(Step::Release(claim), reply, now);
            }
        }
    }

    fn look(&mut self, key: Arc<str>, reply: Reply, now: Time) {
        if let Err(refusal) = self.permitted(&key, now) {
            let _ = reply.send(Err(refusal));
            return;
        }
        match self.entries.get(&key).map(|entry| &entry.lease) {
            Some(lease) if !lease.is_over() => {
                let _ = reply.send(Ok(lease.view(now)));
            }
            _ => self.stray(Step::Look(key), reply, now),
        }
    }

    fn stray(&mut self, step: Step, reply: Reply, since: Time) {
        // Whoever has stopped waiting is not asked for.
        self.strays.retain(|stray| !stray.reply.is_closed());
        if self.strays.len() >= WAITING {
            let _ = reply.send(Err(Refusal::TooMany(
                "too many requests for leases wait already; ask again in a moment".to_owned(),
            )));
            return;
        }
        self.strays.push_back(Stray { step, since, reply });
    }

    fn follow(
        &mut self,
        key: &Arc<str>,
        reply: oneshot::Sender<(Answer, mpsc::Receiver<Answer>)>,
        now: Time,
    ) {
        let (tell, told) = follower();
        let answer = match self.entries.get_mut(key) {
            Some(entry) => {
                entry.follow(tell);
                entry.lease.view(now)
            }
            None => Answer::new(State::Unknown, key).because("this node does not keep it"),
        };
        let _ = reply.send((answer, told));
    }

    fn drain(&mut self, within: Duration, done: oneshot::Sender<()>, now: Time) {
        let draining = self.draining.get_or_insert_with(|| Draining {
            polite_until: now + within / 2,
            done: Vec::new(),
        });
        draining.done.push(done);
        for entry in self.entries.values_mut() {
            if !entry.is_followed_and_held() {
                entry.lease.release(End::Drained, now);
            }
        }
    }
}

fn fit_token(token: &str) -> Result<(), Refusal> {
    let fits = (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    if fits {
        return Ok(());
    }
    Err(Refusal::Invalid(format!(
        "`token` must be 1 to {MAX_TOKEN} printable ASCII characters without blanks"
    )))
}

/// What came of a request for a key that is not kept here.
fn told(step: &Step, result: Result<Done, Failure>) -> Answer {
    let (Step::Take(Claim { key, .. }, ..)
    | Step::Extend(Claim { key, .. }, _)
    | Step::Release(Claim { key, .. })
    | Step::Look(key)) = step;
    match result {
        Ok(Done::Others(ends)) => others(key, ends),
        Ok(Done::Gone) => Answer::new(State::Lost, key)
            .because("the key has another value, or is gone; nothing was deleted"),
        Ok(_) => Answer::new(State::Free, key),
        Err(failure) => Answer::new(State::Unknown, key).because(failure.into_text()),
    }
}

fn log_trouble(call: Call, result: &Result<Done, Failure>) {
    match result {
        Ok(_) => {}
        Err(Failure::Refused { cure }) => tracing::warn!("a lease: {call:?} is refused: {cure}"),
        Err(Failure::Down { reason, .. }) => tracing::debug!("a lease: {call:?}: {reason}"),
    }
}
