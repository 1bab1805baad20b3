//! Taking snapshots.

use std::sync::Arc;

use super::Engine;
use super::event::PeerId;
use super::guards;
use super::operate::Maintained;
use super::peer::{Liveness, Pause};
use super::settings::{Decides, RemedyKind};
use super::snapshot::{CheckView, EpisodeView, HealthzView, MassSilenceView, PauseView, PeerView, Snapshot};
use super::time::Time;

impl Engine {
    /// What is known at `now`. Costs time in proportion to the number of peers: taken when something changed,
    /// not at each event.
    pub fn snapshot(&self, now: Time) -> Snapshot {
        let now = now.max(self.now);
        Snapshot {
            at: now,
            node: Arc::clone(&self.settings.node),
            group: Arc::clone(&self.settings.group),
            boot: Arc::clone(&self.settings.boot),
            uptime: now.since(self.started),
            dry_run: self.settings.dry_run,
            draining: self.draining,
            pause: self
                .node_pause
                .as_ref()
                .map(Pause::view)
                .or_else(|| self.window_of_all().map(Maintained::view)),
            trust: self.trust.view(now),
            mass_silence: self
                .breaker
                .tripped()
                .map(|(since, members, canary, canary_at)| MassSilenceView {
                    since,
                    members: members.into_iter().filter_map(|id| self.name(id)).collect(),
                    canary: canary.and_then(|id| self.name(id)),
                    canary_at: canary.is_none().then_some(canary_at),
                }),
            quorum: self.quorum_view(now),
            reloads: self.reloads,
            peers: self
                .settings
                .peers()
                .filter_map(|(id, _)| self.peer_view(id, now))
                .collect(),
        }
    }

    fn name(&self, id: PeerId) -> Option<Arc<str>> {
        self.settings
            .peers
            .get(id.0 as usize)
            .map(|peer| Arc::clone(&peer.name))
    }

    fn peer_view(&self, id: PeerId, now: Time) -> Option<PeerView> {
        let peer = self.peer(id)?;
        let settings = self.settings.peers.get(id.0 as usize)?;
        let checks: Vec<CheckView> = settings
            .checks
            .iter()
            .zip(&peer.checks)
            .map(|(of, check)| {
                let verdict = check.verdict(self.light(of));
                let next = check.next_change(now);
                CheckView {
                    name: Arc::clone(&of.name),
                    plane: of.plane,
                    decides: of.decides,
                    verdict: verdict.liveness,
                    cause: verdict.cause,
                    detail: check.words(verdict, now),
                    last_pass: check.last_pass,
                    next: (next < Time::MAX).then_some(next),
                }
            })
            .collect();
        let unready = checks
            .iter()
            .any(|check| check.decides == Decides::Readiness && check.verdict == Liveness::Dead);
        let deciding = settings
            .checks
            .iter()
            .zip(&peer.checks)
            .filter(|(of, _)| of.decides == Decides::Liveness);
        let pulses = settings
            .remedies
            .iter()
            .any(|remedy| remedy.kind == RemedyKind::Healthz);
        Some(PeerView {
            id,
            name: Arc::clone(&settings.name),
            local: settings.local,
            liveness: peer.liveness,
            since: peer.since,
            cause: peer.cause.filter(|_| peer.liveness != Liveness::Alive),
            detail: self.words(id),
            incarnation: peer.incarnation.clone(),
            left: deciding.clone().any(|(_, check)| check.has_left()),
            leave_overdue: peer.leaving.as_ref().is_some_and(|leaving| leaving.overdue),
            incarnations: peer.incarnations,
            ever_alive: peer.ever_alive(),
            started: deciding.clone().all(|(_, check)| check.started(now)),
            ready: !unready,
            last_life: peer.last_life(),
            checks,
            remedies: settings.remedies.iter().map(|remedy| remedy.kind).collect(),
            pause: peer
                .pause
                .as_ref()
                .map(Pause::view)
                .or_else(|| self.window_of(id).map(Maintained::view)),
            votes: self.votes_view(id, now),
            episode: peer.episode.as_ref().map(|episode| EpisodeView {
                id: episode.id,
                since: episode.opened,
                cause: episode.cause,
                condemned_by: episode
                    .condemned
                    .iter()
                    .filter_map(|index| settings.checks.get(usize::from(*index)))
                    .map(|check| Arc::clone(&check.name))
                    .collect(),
                phase: episode.phase.clone(),
                remedies: episode.remedies,
                remedy: self.rung_of(id, peer, episode).map(|rung| rung.kind),
                refusal: episode.refusal.clone(),
            }),
            healthz: pulses.then(|| HealthzView {
                pulsing_until: peer.pulse_until.filter(|until| now < *until),
            }),
            budget_left: guards::peer_budget_left(peer, settings, &self.group, now),
            remedies_granted: peer.granted,
        })
    }
}

impl Maintained {
    fn view(&self) -> PauseView {
        PauseView {
            reason: self.reason.to_string(),
            by: "a maintenance window".to_owned(),
            until: Some(self.until),
        }
    }
}

impl Pause {
    fn view(&self) -> PauseView {
        PauseView {
            reason: self.reason.clone(),
            by: self.by.clone(),
            until: self.until,
        }
    }
}
