//! What survives a restart of the node: taken out, and taken in again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::decision::Decision;
use super::episode::Episode;
use super::event::PeerId;
use super::outside::Reservation;
use super::peer::{Pause, Peer};
use super::persist::{
    Persisted, PersistedEpisode, PersistedLease, PersistedPause, PersistedPeer, Restored, VERSION,
};
use super::report::Leaving;
use super::settings::{Decides, GroupBudget, PeerSettings, RemedyKind, RemedySettings};
use super::snapshot::EpisodePhase;
use super::time::Time;

/// What is not urgent is written this often at most.
const EVERY: Duration = Duration::from_secs(1);

/// When to write.
#[derive(Clone, Debug, Default)]
pub(super) struct Saving {
    wanted: bool,
    last: Option<Time>,
}

impl Saving {
    /// Something changed that is to be kept.
    pub(super) fn soon(&mut self) {
        self.wanted = true;
    }
}

impl Engine {
    pub(super) fn save_if_due(&mut self) {
        if self.saving.wanted && self.saving.last.is_none_or(|last| self.now.since(last) >= EVERY) {
            self.save_now();
        }
    }

    /// Before something is done that must not be forgotten.
    pub(super) fn save_now(&mut self) {
        self.saving = Saving {
            wanted: false,
            last: Some(self.now),
        };
        let persisted = self.persisted();
        self.decisions.push_back(Decision::Persist(persisted));
    }

    /// What is to be kept, as of now. The runtime also asks for it at its end.
    pub fn persisted(&self) -> Persisted {
        let now = self.now;
        let peers = self.settings.peers.iter().zip(&self.peers);
        Persisted {
            version: VERSION,
            token: self.tokens,
            episode: self.episodes,
            dry_run: self.settings.dry_run,
            group_wait: self
                .group
                .not_before
                .map(|until| until.since(now))
                .filter(|left| !left.is_zero()),
            pause: self.node_pause.as_ref().map(|pause| pause.persisted(now)),
            peers: peers
                .map(|(settings, peer)| (settings.name.to_string(), peer.persisted(settings, now)))
                .filter(|(_, peer)| *peer != PersistedPeer::default())
                .chain(self.retired.persisted(now))
                .collect(),
        }
    }

    pub(super) fn restore(&mut self, restored: &Restored, now: Time) {
        match restored {
            Restored::Missing => self.group.untold(now),
            Restored::Corrupt => {
                self.retired.spent_at = Some(now);
                for (peer, settings) in self.peers.iter_mut().zip(&self.settings.peers) {
                    peer.ledger.spend(settings.budget, now, now);
                }
            }
            Restored::Found(persisted, elapsed) => self.restore_found(persisted, *elapsed, now),
        }
    }

    fn restore_found(&mut self, persisted: &Persisted, elapsed: Duration, now: Time) {
        let left = |left: Duration| left.saturating_sub(elapsed);
        // (Beyond it there would soon be no greater one.)
        self.tokens = persisted.token.min(u64::MAX / 2);
        self.episodes = persisted.episode;
        self.node_pause = persisted
            .pause
            .as_ref()
            .and_then(|pause| Pause::restored(pause, elapsed, now));
        // A dry run's budgets and remedies are shadows: they bind only another dry run.
        let binding = persisted.dry_run == self.settings.dry_run;
        if !binding && !self.settings.dry_run {
            // What was really done before the dry run is no longer known.
            self.group.untold(now);
        }
        if binding {
            self.group.not_before = persisted.group_wait.map(|wait| now + left(wait));
        }
        for (id, (peer, settings)) in (0..)
            .map(PeerId)
            .zip(self.peers.iter_mut().zip(&self.settings.peers))
        {
            if let Some(kept) = persisted.peers.get(&*settings.name) {
                peer.restore(id, settings, kept, binding, elapsed, now);
            }
        }
        let others = persisted.peers.iter().filter(|_| binding);
        for (name, kept) in others.filter(|(name, _)| self.settings.peer_id(name).is_none()) {
            self.retired.restore(name, kept, elapsed, now);
        }
    }
}

impl Peer {
    pub(super) fn persisted(&self, settings: &PeerSettings, now: Time) -> PersistedPeer {
        let passed = settings
            .checks
            .iter()
            .zip(&self.checks)
            .filter(|(_, check)| check.ever_passed);
        let told = self.episode.as_ref().filter(|episode| episode.is_told());
        let marked = !self.ledger.done.is_empty() || told.is_some_and(|episode| !episode.failed.is_empty());
        let ladder = settings.remedies.iter().map(|remedy| remedy.kind);
        let healing = self.episode.as_ref().and_then(Episode::taking_down).cloned();
        PersistedPeer {
            restarts: self.ledger.left(now),
            backoff_level: self.ledger.level,
            backoff: self
                .ledger
                .not_before
                .map(|until| until.since(now))
                .filter(|left| !left.is_zero()),
            done: self.ledger.done.iter().cloned().collect(),
            ladder: ladder.filter(|_| marked).collect(),
            passed: passed.map(|(settings, _)| settings.name.to_string()).collect(),
            healing,
            leaving: self.leaving.as_ref().map(|leaving| leaving.persisted(now)),
            told: settings
                .checks
                .iter()
                .zip(&self.checks)
                .filter_map(|(of, check)| Some((of.name.to_string(), check.said.persisted(self)?)))
                .collect(),
            episode: told.map(|episode| PersistedEpisode {
                id: episode.id,
                age: now.since(episode.opened),
                cause: episode.cause,
                remedies: episode.remedies,
                restarts: episode.restarts,
                failed: episode.failed.clone(),
                gave_up: matches!(episode.phase, EpisodePhase::GaveUp { .. }),
                at_work: episode.at_work(),
                lease: episode.lease.as_deref().map(PersistedLease::of),
            }),
            pause: self.pause.as_ref().map(|pause| pause.persisted(now)),
            removed: None,
        }
    }

    pub(super) fn restore(
        &mut self,
        id: PeerId,
        settings: &PeerSettings,
        kept: &PersistedPeer,
        binding: bool,
        elapsed: Duration,
        now: Time,
    ) {
        let rung_now = |was| rung_now(&kept.ladder, &settings.remedies, was);
        if binding {
            for left in &kept.restarts {
                // Never longer than the window of today: a hostile or an older file must not bind for ever.
                let left = left.saturating_sub(elapsed).min(settings.budget.window);
                if !left.is_zero() {
                    self.ledger.charge(now + left);
                }
            }
            self.ledger.level = kept.backoff_level;
            let wait = kept.backoff.map(|wait| {
                wait.saturating_sub(elapsed)
                    .min(settings.backoff.max.saturating_mul(2))
            });
            self.ledger.not_before = wait.map(|wait| now + wait);
            for (incarnation, rung) in &kept.done {
                self.ledger.mark_done(incarnation.clone(), *rung);
            }
            if let Some((incarnation, rung)) = kept.episode.as_ref().and_then(|kept| kept.at_work.as_ref()) {
                self.ledger.unmark(incarnation, *rung);
            }
            self.ledger.renumber(rung_now);
            self.taken_down.clone_from(&kept.healing);
        }
        self.pause = kept
            .pause
            .as_ref()
            .and_then(|pause| Pause::restored(pause, elapsed, now));
        let mut passed = BTreeSet::new();
        for (index, (check, of)) in (0u16..).zip(self.checks.iter_mut().zip(&settings.checks)) {
            check.ever_passed = kept.passed.iter().any(|name| **name == *of.name);
            // (By today's configuration the name may be that of a check to which nobody tells anything.)
            if let Some(told) = kept.told.get(&*of.name)
                && of.kind.is_told()
            {
                check.said.restore(told, now);
            }
            if check.ever_passed && of.decides == Decides::Liveness {
                passed.insert(index);
            }
        }
        if let Some(leaving) = &kept.leaving {
            self.leave(Leaving::restored(leaving, elapsed, now));
        }
        self.episode = kept.episode.as_ref().filter(|_| binding).map(|kept| {
            let mut episode = Episode::new(kept.id, kept.cause, now - kept.age.saturating_add(elapsed));
            episode.remedies = kept.remedies;
            episode.restarts = kept.restarts;
            episode.failed = kept.failed.iter().filter_map(|was| rung_now(*was)).collect();
            // What condemned it is not written down: all that decides and ever passed must pass again.
            episode.condemned = passed;
            episode.healed_at = (kept.remedies > 0).then_some(now);
            if kept.gave_up {
                episode.phase = EpisodePhase::GaveUp { since: now };
            }
            let lease = kept.lease.as_ref();
            episode.lease = lease.map(|lease| Arc::new(lease.restored(id, settings, now)));
            episode
        });
    }
}

/// Which rung does today what `was` did in the ladder of before: the one of its kind, of several that at the same place
/// among them.
fn rung_now(before: &[RemedyKind], now: &[RemedySettings], was: u16) -> Option<u16> {
    if before.is_empty() {
        return Some(was);
    }
    let kind = *before.get(usize::from(was))?;
    let place = before[..usize::from(was)]
        .iter()
        .filter(|other| **other == kind)
        .count();
    let same = (0u16..).zip(now).filter(|(_, remedy)| remedy.kind == kind);
    same.map(|(rung, _)| rung).nth(place)
}

impl PersistedLease {
    fn of(held: &Reservation) -> Self {
        Self {
            run: Arc::clone(&held.run),
            number: held.number,
            known_as: Arc::clone(&held.known_as),
            incarnation: held.incarnation.clone(),
            rung: held.rung,
            does: Arc::clone(&held.does),
        }
    }

    /// To be settled, and no more: how much of it is left, only the group knows.
    fn restored(&self, id: PeerId, settings: &PeerSettings, now: Time) -> Reservation {
        Reservation {
            run: Arc::clone(&self.run),
            number: self.number,
            asked: now,
            peer: id,
            name: Arc::clone(&settings.name),
            known_as: Arc::clone(&self.known_as),
            incarnation: self.incarnation.clone(),
            rung: self.rung,
            does: Arc::clone(&self.does),
            lasting: Duration::ZERO,
            budget: settings.budget,
            group: GroupBudget::default(),
            peers: 0,
            only_look: false,
        }
    }
}

impl Pause {
    fn persisted(&self, now: Time) -> PersistedPause {
        PersistedPause {
            reason: self.reason.clone(),
            by: self.by.clone(),
            left: self.until.map(|until| until.since(now)),
        }
    }

    fn restored(kept: &PersistedPause, elapsed: Duration, now: Time) -> Option<Self> {
        let left = kept.left.map(|left| left.saturating_sub(elapsed));
        if left.is_some_and(|left| left.is_zero()) {
            return None;
        }
        Some(Self {
            reason: kept.reason.clone(),
            by: kept.by.clone(),
            until: left.map(|left| now + left),
        })
    }
}
