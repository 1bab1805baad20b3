//! After the faults: who lives is alive to everybody, and who does not is healed or accounted for.

use std::time::Duration;

use super::process::State;
use super::scenario::{Look, Target};
use super::world::{S, World};
use crate::engine::guards::GuardName;
use crate::engine::peer::Liveness;
use crate::engine::snapshot::{EpisodePhase, PeerView};

/// Links are back within 2.5 s, clients within 10 s, an echo follows within 2 s; a node that starts settles; then
/// a life shows itself within a fresh window and a claim.
const SHOWS: Duration = Duration::from_secs(25);
/// What is dead is condemned within this after the settling time, and one remedy is done and proven.
const HEALED: Duration = Duration::from_secs(60);

/// How long nothing goes wrong before the end.
pub(super) fn calm(settle: Duration) -> Duration {
    settle + SHOWS + HEALED + 60 * S
}

impl World {
    pub(super) fn finish(&mut self) {
        for node in 0..self.nodes.len() {
            let of = &self.nodes[node];
            let local = of.local(self.now);
            let Some(snapshot) = of.engine.as_ref().map(|engine| engine.snapshot(local)) else {
                self.violate(node, "end", "the node does not run".to_owned());
                return;
            };
            if snapshot.trust.bus != crate::engine::self_trust::BusState::Trusted {
                let detail = format!("all is well, and the bus is {}", snapshot.trust.bus);
                self.violate(node, "end_trust", detail);
            }
            for (peer, view) in snapshot.peers.iter().enumerate() {
                self.finish_peer(node, peer, view);
            }
        }
    }

    fn finish_peer(&mut self, node: usize, peer: usize, view: &PeerView) {
        let (healthy, since) = self.truth(node, peer);
        let lasting = self.now.since(since.max(self.calm_from));
        let bound = self.scenario.settle + SHOWS;
        if healthy {
            let well = view.liveness == Liveness::Alive && view.episode.is_none();
            if lasting >= bound && !well {
                let phase = view.episode.as_ref().map(|episode| &episode.phase);
                let detail = format!(
                    "{} is healthy since {since} and {}: {}; episode {phase:?}",
                    view.name, view.liveness, view.detail
                );
                self.violate(node, "living_are_alive", detail);
            }
            return;
        }
        if lasting < bound + HEALED || !self.can_see(node, peer) {
            return;
        }
        match self.explanation(node, peer, view) {
            Some(why) => *self.oracle.explained.entry(why).or_default() += 1,
            None => {
                let detail = format!(
                    "{} is ill since {since} and {}: {}; episode {:?}",
                    view.name, view.liveness, view.detail, view.episode
                );
                self.violate(node, "dead_are_healed", detail);
            }
        }
    }

    /// Whether any check can tell that something is wrong.
    fn can_see(&self, node: usize, peer: usize) -> bool {
        let looks = &self.nodes[node].watched[peer].checks;
        let Target::Process(process) = self.nodes[node].watched[peer].target else {
            return true;
        };
        if looks == &[Look::Claim] {
            let home = self.scenario.processes[process].home;
            return self.nodes[home]
                .owner_of(process)
                .is_some_and(|peer| self.can_see(home, peer));
        }
        // What has never passed on this node's account proves nothing there.
        let passed = &self.oracle.nodes[node].peers[peer].passed;
        let mut sees = looks.iter().zip(passed).filter(|(_, passed)| **passed);
        match self.processes[process].state {
            State::Running | State::Starting => sees.any(|(look, _)| *look != Look::Process),
            State::Stopped | State::Dead => true,
        }
    }

    /// Why an ill peer was not healed, in a word; `None`: no good reason.
    fn explanation(&self, node: usize, peer: usize, view: &PeerView) -> Option<&'static str> {
        if !self.oracle.nodes[node].peers[peer]
            .passed
            .iter()
            .any(|passed| *passed)
        {
            return Some("never_passed");
        }
        let Some(episode) = &view.episode else {
            let absent = view.liveness == Liveness::Unknown;
            return absent.then_some("unknown");
        };
        if view.liveness == Liveness::Unknown {
            return Some("unknown");
        }
        if view.remedies.is_empty() {
            return Some("no_remedy");
        }
        match (&episode.phase, &episode.refusal) {
            (EpisodePhase::GaveUp { .. }, _) => Some("gave_up"),
            (EpisodePhase::Acting { .. } | EpisodePhase::Verifying { .. }, _) => Some("being_healed"),
            (EpisodePhase::Waiting, Some(refusal)) => match refusal.guard {
                GuardName::SelfTrust | GuardName::BusSettle => None,
                guard => Some(guard.as_str()),
            },
            (EpisodePhase::Waiting | EpisodePhase::Suspected, _) => None,
        }
    }
}
