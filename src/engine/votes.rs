//! What votes do: ours go out with our heartbeats, those of others may confirm a silence before `dead_after`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::event::{Ballot, CheckId, Heartbeat, PeerId, Vote};
use super::evidence::Check;
use super::peer::Liveness;
use super::quorum::{Tally, Way};
use super::settings::{CheckKind, CheckSettings, Decides, Plane, Source};
use super::snapshot::{QuorumView, VotesView};
use super::time::Time;

impl Engine {
    /// Another node of the group spoke on the bus.
    pub(super) fn hear_votes(&mut self, beat: &Heartbeat) {
        self.take_votes(beat, Way::Bus);
    }

    /// Another node answered over HTTP. (One that ends says so on the bus, and is not asked for long.)
    pub(super) fn hear_answer(&mut self, beat: &Heartbeat) {
        let ours = beat.boot.as_ref() == Some(&self.settings.boot)
            || beat.node.as_ref() == Some(&self.settings.node);
        if !ours && !beat.goodbye {
            self.take_votes(beat, Way::Http);
        }
    }

    fn take_votes(&mut self, beat: &Heartbeat, way: Way) {
        if beat.group.as_ref() != Some(&self.settings.group) {
            return;
        }
        let peers = &self.peers;
        let life = |check: CheckId| peers.get(check.peer.0 as usize)?.incarnation.as_ref();
        let concerned = self.quorum.hear(beat, way, &self.settings.boot, self.now, life);
        for check in concerned {
            self.answer_if_asked(check);
            if self.quorum.votes_on(check) {
                self.ask |= !self.waiting.is_empty();
                self.judge(check.peer);
            }
        }
    }

    /// Another node asks over HTTP what this one knows of what it doubts.
    pub(super) fn doubted(&mut self, about: &Arc<str>, silent: Duration) {
        let checks = self.quorum.doubted(about, self.now - silent, self.now);
        for check in checks {
            self.answer_if_asked(check);
        }
    }

    /// Who hears what another one doubts says so at once.
    pub(super) fn answer_if_asked(&mut self, check: CheckId) {
        if let Some(theirs) = self.quorum.unanswered(check, self.now)
            && let Some(ours) = self.hears(check)
            && self.quorum.is_news(ours, theirs)
        {
            self.quorum.speak_soon();
        }
    }

    /// After a judgement: do we vote against it?
    pub(super) fn follow_votes(&mut self, id: PeerId) {
        let suspect = self
            .peer(id)
            .is_some_and(|peer| matches!(peer.liveness, Liveness::Suspect | Liveness::Dead));
        if !suspect && !self.quorum.votes() {
            return;
        }
        let against: Vec<(CheckId, bool)> = self
            .quorum
            .subjects_of(id)
            .map(|(check, subject)| (check, subject.accuses && self.accuses(check).is_some()))
            .collect();
        for (check, against) in against {
            self.quorum.vote(check, against);
        }
    }

    /// A silence that enough others see as well is death before `dead_after`: never before two of our echoes cover it,
    /// nor before whoever hears the peer could say so, nor while it may be but the first of many.
    pub(super) fn confirm_by_votes(&mut self, id: PeerId) {
        if !self.quorum.votes() || !self.settings.quorum.fast || self.breaker.is_tripped() {
            return;
        }
        let heard_out = |sent: Time| self.now >= sent + self.quorum.objection() && self.trust.outlives(sent);
        let checks: Vec<CheckId> = self
            .quorum
            .subjects_of(id)
            .map(|(check, _)| check)
            .filter(|check| self.quorum.voted(*check).is_some_and(heard_out))
            .collect();
        for check in checks {
            let silent = self
                .evidence(check)
                .is_some_and(|(of, evidence)| evidence.is_suspect_by_silence(self.light(of)));
            if !silent || !self.fails_directly(id) {
                continue;
            }
            let tally = self.tally_of(id, &BTreeSet::from([check.index]));
            if tally.agreed(self.settings.quorum.k).is_err() || !self.others_are_heard(check) {
                continue;
            }
            let by: Vec<&str> = tally.agree.iter().map(|name| &**name).collect();
            let by: Arc<str> = by.join(", ").into();
            if let Some(evidence) = self
                .peers
                .get_mut(id.0 as usize)
                .and_then(|peer| peer.checks.get_mut(usize::from(check.index)))
            {
                evidence.confirm(by);
                self.quorum.counts.confirmed += 1;
            }
        }
    }

    /// Every other remote peer that is heard at all was so since we voted against this one, or is too slow to be missed
    /// before this one is dead without votes. Else several may have been cut off at once, of which one is missed first: mass
    /// silence must have its chance to say so.
    fn others_are_heard(&self, check: CheckId) -> bool {
        let dead_at = self.evidence(check).and_then(|(_, of)| of.dead_at());
        let (Some(sent), Some(dead_at)) = (self.quorum.voted(check), dead_at) else {
            return false;
        };
        let others = self.settings.peers.iter().zip(&self.peers).zip((0..).map(PeerId));
        others
            .filter(|((of, peer), id)| !of.local && peer.liveness == Liveness::Alive && *id != check.peer)
            .all(|((of, peer), _)| {
                let checks = of.checks.iter().zip(&peer.checks);
                checks
                    .filter(|(of, _)| of.decides == Decides::Liveness && of.plane == Plane::Bus)
                    .filter_map(|(of, check)| Some((check.hears(self.light(of))?, check.suspect_at()?)))
                    .all(|(heard, missed)| heard >= sent || missed >= dead_at)
            })
    }

    /// Every check of ours that looks at the peer itself fails, or there is none.
    fn fails_directly(&self, id: PeerId) -> bool {
        let (Some(peer), Some(settings)) = (self.peer(id), self.settings.peers.get(id.0 as usize)) else {
            return false;
        };
        let looks = peer.checks.iter().zip(&settings.checks).filter(|(_, of)| {
            let direct = matches!(of.kind, CheckKind::Active { .. } | CheckKind::Process { .. });
            direct && of.plane == Plane::Local && of.decides == Decides::Liveness
        });
        looks.into_iter().all(|(check, of)| {
            let verdict = check.verdict(self.light(of));
            matches!(verdict.liveness, Liveness::Suspect | Liveness::Dead)
        })
    }

    /// How the others vote on these checks of a peer, together.
    pub(super) fn tally_of(&self, id: PeerId, checks: &BTreeSet<u16>) -> Tally {
        self.tally_at(id, checks, self.now)
    }

    fn tally_at(&self, id: PeerId, checks: &BTreeSet<u16>, now: Time) -> Tally {
        let silences = checks.iter().filter_map(|index| {
            let (_, evidence) = self.evidence(CheckId {
                peer: id,
                index: *index,
            })?;
            Some(evidence.silent_since())
        });
        let (live, known) = self.members(silences.max(), now);
        let mut tally = Tally {
            live,
            known,
            ..Tally::default()
        };
        for index in checks {
            let check = CheckId {
                peer: id,
                index: *index,
            };
            if let (Some(peer), Some((_, evidence))) = (self.peer(id), self.evidence(check)) {
                let (life, since) = (peer.incarnation.as_ref(), evidence.silent_since());
                tally.add(self.quorum.tally(check, life, since, now));
            }
        }
        tally
    }

    /// Nodes of the group: heard now, and after `since`; and known.
    fn members(&self, since: Option<Time>, now: Time) -> (usize, usize) {
        let expected = self
            .settings
            .peers
            .iter()
            .zip(&self.peers)
            .flat_map(|(of, peer)| {
                let checks = of.checks.iter().zip(&peer.checks);
                checks.filter_map(|(of, check)| match &of.kind {
                    CheckKind::Passive {
                        source: Source::Node(node),
                        ..
                    } if check.ever_passed && !check.has_left() => Some(Arc::clone(node)),
                    _ => None,
                })
            });
        self.quorum.members(expected, since, now)
    }

    /// What we say of what is doubted, by us or by others.
    pub(super) fn ballot(&mut self, slot: u64) -> Ballot {
        let mut votes: BTreeMap<Arc<str>, (Vote, Vec<CheckId>)> = BTreeMap::new();
        for check in self.quorum.own() {
            if let Some(vote) = self.vote_against(check) {
                let of = votes.entry(Arc::clone(&vote.about)).or_insert((vote, Vec::new()));
                of.1.push(check);
            }
        }
        self.quorum.spoke(self.now);
        for (about, theirs) in self.quorum.asked(self.now) {
            if !votes.contains_key(&about)
                && let Some(vote) = self.vote_for(&about, theirs)
            {
                votes.insert(about, (vote, Vec::new()));
            }
        }
        if votes.is_empty() {
            return Ballot::default();
        }
        let (votes, left_out) = self.quorum.fitting(votes);
        let mut ballot = Ballot {
            hears: self.quorum.hears(slot, self.now),
            votes: Vec::new(),
            left_out,
        };
        for (vote, checks) in votes {
            self.quorum.sent(&checks, self.now);
            if vote.liveness == Liveness::Alive {
                self.quorum.answered(&vote.about);
            }
            for check in checks {
                self.arm(check.peer);
            }
            ballot.votes.push(vote);
        }
        ballot
    }

    fn vote_against(&self, check: CheckId) -> Option<Vote> {
        let liveness = self.accuses(check)?;
        let (_, evidence) = self.evidence(check)?;
        self.vote(check, liveness, evidence.silent_since())
    }

    /// We hear it, and have done so since those who ask last did.
    fn vote_for(&self, about: &str, theirs: Time) -> Option<Vote> {
        let listeners = self.quorum.listeners(about).iter();
        let (check, heard) = listeners
            .filter_map(|check| Some((*check, self.hears(*check)?)))
            .max_by_key(|(_, heard)| *heard)?;
        self.quorum
            .is_news(heard, theirs)
            .then(|| self.vote(check, Liveness::Alive, heard))
            .flatten()
    }

    fn vote(&self, check: CheckId, liveness: Liveness, since: Time) -> Option<Vote> {
        let silent = self.now.since(since);
        Some(Vote {
            about: Arc::clone(&self.quorum.subject(check)?.about),
            liveness,
            incarnation: self.peer(check.peer)?.incarnation.clone(),
            silent_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn accuses(&self, check: CheckId) -> Option<Liveness> {
        let (of, evidence) = self.evidence(check)?;
        evidence.accuses(self.light(of))
    }

    fn hears(&self, check: CheckId) -> Option<Time> {
        let (of, evidence) = self.evidence(check)?;
        evidence.hears(self.light(of))
    }

    fn evidence(&self, check: CheckId) -> Option<(&CheckSettings, &Check)> {
        let of = self
            .settings
            .peers
            .get(check.peer.0 as usize)?
            .checks
            .get(usize::from(check.index))?;
        Some((of, self.peer(check.peer)?.check(check.index)?))
    }

    pub(super) fn quorum_view(&self, now: Time) -> QuorumView {
        let (live, known) = self.members(None, now);
        let counts = &self.quorum.counts;
        QuorumView {
            k: self.settings.quorum.k,
            live,
            known,
            heard: counts.heard,
            void: counts.void.clone(),
            confirmed: counts.confirmed,
        }
    }

    pub(super) fn votes_view(&self, id: PeerId, now: Time) -> Option<VotesView> {
        let subjects = self.quorum.subjects_of(id).map(|(check, _)| check);
        let checks: BTreeSet<u16> = subjects
            .filter(|check| self.quorum.votes_on(*check))
            .map(|check| check.index)
            .collect();
        if checks.is_empty() {
            return None;
        }
        let tally = self.tally_at(id, &checks, now);
        let doubts = checks.iter().filter_map(|index| {
            let check = CheckId {
                peer: id,
                index: *index,
            };
            let about = Arc::clone(&self.quorum.subject(check)?.about);
            Some((about, self.evidence(check)?.1.silent_since()))
        });
        Some(VotesView {
            doubts: doubts.collect(),
            agree: tally.agree.into_iter().collect(),
            hear_it: tally.hear_it.into_iter().collect(),
            void: tally.void,
            live: tally.live,
        })
    }

    /// A heartbeat out of turn, for what others should know now. (Its slot is the current one: it is no life of ours
    /// to them, and proves no silence to us.)
    pub(super) fn speak_if_due(&mut self) {
        if self.now >= self.quorum.speaks_at() {
            self.quorum.spoke(self.now);
            if !self.draining {
                self.publish(false);
            }
        }
    }
}
