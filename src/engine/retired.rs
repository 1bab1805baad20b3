//! What is kept of peers that are configured no longer. Who comes back within a day is held to what was done to it, as
//! after a restart of the node: to take a peer out of the configuration and put it back gives it no budget.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::decision::What;
use super::episode::Remedy;
use super::event::{Incarnation, PeerId, RemedyOutcome};
use super::heal::SLOT_SLACK;
use super::outside::Reservation;
use super::peer::Peer;
use super::persist::PersistedPeer;
use super::settings::{PeerSettings, RemedyKind};
use super::snapshot::EpisodePhase;
use super::time::Time;

/// So long; more than any budget's window in use.
const KEPT_FOR: Duration = Duration::from_secs(86_400);
/// So many; the oldest go first.
const KEPT: usize = 1024;

/// Peers that were removed.
#[derive(Clone, Debug, Default)]
pub(super) struct Retired {
    records: BTreeMap<String, Record>,
    /// Remedies that were at work when their peer was removed, by token.
    at_work: BTreeMap<u64, AtWork>,
    /// The store could not be read then: of whoever is enlisted, every restart counts as spent.
    pub(super) spent_at: Option<Time>,
}

/// What was known of one, and when.
#[derive(Clone, Debug)]
struct Record {
    kept: PersistedPeer,
    at: Time,
}

/// A remedy whose peer is no longer there.
#[derive(Clone, Debug)]
struct AtWork {
    name: Arc<str>,
    episode: u64,
    rung: u16,
    kind: RemedyKind,
    restarts: bool,
    incarnation: Incarnation,
    lost_at: Time,
    /// What the group holds for it.
    lease: Option<Arc<Reservation>>,
}

impl Retired {
    fn keep(&mut self, name: &str, kept: PersistedPeer, now: Time) {
        if kept.is_nothing() {
            return;
        }
        self.records.insert(name.to_owned(), Record { kept, at: now });
        self.drop_old(now);
    }

    /// Its rungs are others by now; what is kept names them by their numbers of today.
    pub(super) fn renumber(&mut self, name: &str, rung_now: impl Fn(u16) -> Option<u16>) {
        let Some(Record { kept, .. }) = self.records.get_mut(name) else {
            return;
        };
        kept.ladder.clear();
        let done = std::mem::take(&mut kept.done).into_iter();
        kept.done = done
            .filter_map(|(life, rung)| Some((life, rung_now(rung)?)))
            .collect();
        if let Some(episode) = &mut kept.episode {
            episode.failed = episode.failed.iter().filter_map(|rung| rung_now(*rung)).collect();
            let at_work = episode.at_work.take();
            episode.at_work = at_work.and_then(|(life, rung)| Some((life, rung_now(rung)?)));
        }
    }

    /// How the remedy ends that is at work on it is heard in this run, or was: its mark tells.
    fn mark_tells(&mut self, name: &str) {
        let record = self.records.get_mut(name);
        if let Some(episode) = record.and_then(|record| record.kept.episode.as_mut()) {
            episode.at_work = None;
        }
    }

    fn drop_old(&mut self, now: Time) {
        self.records
            .retain(|_, record| record.removed_for(now) < KEPT_FOR);
        while self.records.len() > KEPT {
            let oldest = self
                .records
                .iter()
                .max_by_key(|(name, record)| (record.removed_for(now), name.as_str()));
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else {
                return;
            };
            self.records.remove(&oldest);
        }
    }

    /// What an earlier run of this node knew of a peer that it is not told to watch.
    pub(super) fn restore(&mut self, name: &str, kept: &PersistedPeer, elapsed: Duration, now: Time) {
        let mut kept = kept.clone().aged(elapsed);
        kept.removed.get_or_insert(elapsed);
        self.keep(name, kept, now);
    }

    /// For the store.
    pub(super) fn persisted(&self, now: Time) -> impl Iterator<Item = (String, PersistedPeer)> {
        let young = self
            .records
            .iter()
            .filter(move |(_, record)| record.removed_for(now) < KEPT_FOR);
        young.map(move |(name, record)| (name.clone(), record.kept.clone().aged(now.since(record.at))))
    }
}

impl Record {
    fn removed_for(&self, now: Time) -> Duration {
        let before = self.kept.removed.unwrap_or_default();
        before.saturating_add(now.since(self.at))
    }
}

impl PersistedPeer {
    /// Nothing that binds or is to be told.
    fn is_nothing(&self) -> bool {
        let removed = self.removed;
        *self
            == Self {
                removed,
                ..Self::default()
            }
    }

    /// The same, so much later.
    fn aged(mut self, by: Duration) -> Self {
        let left = |left: Duration| Some(left.saturating_sub(by)).filter(|left| !left.is_zero());
        self.restarts = self.restarts.into_iter().filter_map(left).collect();
        self.backoff = self.backoff.and_then(left);
        self.removed = self.removed.map(|age| age.saturating_add(by));
        if let Some(episode) = &mut self.episode {
            episode.age = episode.age.saturating_add(by);
        }
        self.pause = self.pause.and_then(|mut pause| {
            if let Some(time) = pause.left {
                pause.left = Some(left(time)?);
            }
            Some(pause)
        });
        self
    }
}

impl Engine {
    /// It is not configured any more: nothing is judged or done, and what was done is kept by its name.
    pub(super) fn retire(&mut self, id: PeerId, why: &str) {
        let now = self.now;
        let Some((settings, peer)) = self.settings.peers.get(id.0 as usize).zip(self.peer(id)) else {
            return;
        };
        let name = Arc::clone(&settings.name);
        let acting = peer.episode.as_ref().and_then(|episode| {
            let remedy = episode.remedy.as_ref()?;
            let acting = matches!(episode.phase, EpisodePhase::Acting { .. })
                && remedy.granted.kind != RemedyKind::Healthz;
            acting.then(|| AtWork::of(&name, episode.id, remedy))
        });
        // Before the record is made: who comes back must not let go of what a remedy at work stands on.
        let lease = acting.as_ref().and_then(|_| self.set_lease_aside(id));
        if let Some((settings, peer)) = self.settings.peers.get(id.0 as usize).zip(self.peer(id)) {
            let mut kept = peer.persisted(settings, now);
            kept.removed = Some(Duration::ZERO);
            self.retired.keep(&name, kept, now);
        }
        self.close_episode(id, why);
        if let Some((token, mut at_work)) = acting {
            // Its executor cannot be called back: whom it restarts is down by our hand until it ends.
            if at_work.restarts {
                let until = at_work.lost_at + SLOT_SLACK;
                self.group.retired.insert(token, until);
            }
            at_work.lease = lease;
            self.retired.at_work.insert(token, at_work);
        }
        if let Some(flip) = self.breaker.left(id, now) {
            self.breaker_flipped(flip);
        }
        self.uncovered.remove(&id);
        self.peers[id.0 as usize] = Peer::new(&PeerSettings::vacant(), now);
    }

    /// It is configured (again): held to what is known of that name.
    pub(super) fn enlist(&mut self, id: PeerId) {
        let now = self.now;
        let Some(settings) = self.settings.peers.get(id.0 as usize) else {
            return;
        };
        let mut peer = Peer::new(settings, now);
        let at_work = self.retired.at_work.values();
        let at_work = at_work.filter(|remedy| remedy.name == settings.name);
        let lost_at = at_work.map(|remedy| remedy.lost_at).max();
        if lost_at.is_some() {
            self.retired.mark_tells(&settings.name);
        }
        if let Some(record) = self.retired.records.remove(&*settings.name) {
            peer.restore(id, settings, &record.kept, true, now.since(record.at), now);
        } else if let Some(spent_at) = self.retired.spent_at {
            peer.ledger.spend(settings.budget, spent_at, now);
        }
        if let Some(lost_at) = lost_at {
            // What was begun before it was removed may still be at work.
            peer.ledger.not_before = peer.ledger.not_before.max(Some(lost_at));
        }
        // Nobody knows whether it has only begun to live.
        peer.grace_until = now + settings.grace;
        self.peers[id.0 as usize] = peer;
    }

    /// The answer of a remedy whose peer was removed meanwhile, if it is one.
    pub(super) fn retired_remedy_ended(&mut self, token: u64, outcome: &RemedyOutcome) {
        let Some(remedy) = self.retired.at_work.remove(&token) else {
            return;
        };
        self.group.retired.remove(&token);
        self.retired.mark_tells(&remedy.name);
        let (outcome, detail, touched) = match outcome {
            RemedyOutcome::Acted { detail } => ("acted", detail, true),
            RemedyOutcome::Failed { detail } => ("failed", detail, true),
            RemedyOutcome::Fenced { detail } => ("fenced", detail, false),
            RemedyOutcome::NotActed { detail } => ("not_acted", detail, false),
        };
        if let Some(lease) = remedy.lease.clone() {
            self.settle_retired(lease, outcome == "acted", touched);
        }
        if outcome != "acted" {
            self.take_back(&remedy, touched);
        }
        let what = What::Acted {
            episode: remedy.episode,
            token,
            kind: remedy.kind,
            outcome,
            detail: detail.clone(),
        };
        self.notice_of(Some(remedy.name), what);
        self.saving.soon();
    }

    /// It did not do what it should: in the record, or of who has come back since.
    fn take_back(&mut self, remedy: &AtWork, touched: bool) {
        let refund = remedy.restarts && !touched;
        if let Some(record) = self.retired.records.get_mut(&*remedy.name) {
            record
                .kept
                .done
                .retain(|(life, rung)| *life != remedy.incarnation || *rung != remedy.rung);
            if refund {
                record.kept.restarts.pop();
            }
        } else if let Some(id) = self.settings.peer_id(&remedy.name)
            && let Some(peer) = self.peer_mut(id)
        {
            peer.ledger.unmark(&remedy.incarnation, remedy.rung);
            if refund {
                peer.ledger.refund();
            }
        }
    }

    /// What can no longer be answered is not waited for.
    pub(super) fn drop_retired(&mut self) {
        let now = self.now;
        self.retired.drop_old(now);
        self.retired
            .at_work
            .retain(|_, remedy| now.since(remedy.lost_at) < KEPT_FOR);
        self.group.retired.retain(|_, until| now < *until);
    }
}

impl AtWork {
    fn of(name: &Arc<str>, episode: u64, remedy: &Remedy) -> (u64, Self) {
        let at_work = Self {
            name: Arc::clone(name),
            episode,
            rung: remedy.rung,
            kind: remedy.granted.kind,
            restarts: remedy.granted.restarts,
            incarnation: remedy.incarnation.clone(),
            lost_at: remedy.lost_at,
            lease: None,
        };
        (remedy.token, at_work)
    }
}
