//! A restart that an operator asks for: through every guard in their order, answered once, proven by another life.
//!
//! A rung's `for` is not asked: it says which verdicts lead to that rung by themselves, and this is none.

use super::Engine;
use super::cause::Cause;
use super::decision::What;
use super::episode::{Episode, Wish};
use super::event::{PeerId, Restart, Which};
use super::evidence::Check;
use super::guards::Refusal;
use super::peer::{Liveness, Peer};
use super::settings::{RemedyKind, RemedySettings};
use super::snapshot::EpisodePhase;

impl Engine {
    pub(super) fn restart(&mut self, restart: Restart, by: String) {
        let id = restart.peer;
        let (Some(peer), Some(settings)) = (self.peer(id), self.settings.peers.get(id.0 as usize)) else {
            return self.answer(id, restart, by, None, "there is no such peer any more".to_owned());
        };
        let rung = match chosen(&settings.remedies, restart.rung) {
            Ok(rung) => rung,
            Err(why) => return self.answer(id, restart, by, None, why),
        };
        let kind = settings.remedies[usize::from(rung)].kind;
        if let Some(why) = cannot(peer, rung, &settings.remedies[usize::from(rung)]) {
            return self.answer(id, restart, by, Some(kind), why);
        }
        self.forget_answers(id);
        let now = self.now;
        let number = self.episodes.saturating_add(1);
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        let before = peer.episode.as_ref().map(|episode| episode.phase.clone());
        if before.is_none() {
            self.episodes = number;
        }
        let episode = peer
            .episode
            .get_or_insert_with(|| Episode::new(number, Cause::Operator, now));
        episode.phase = EpisodePhase::Waiting;
        episode.wish = Some(Wish {
            number: restart.number,
            by,
            rung,
            force: restart.force,
            before,
            answered: false,
        });
        self.wishes.insert(id);
        self.ask_for(id, now);
        self.arm(id);
    }

    /// Nothing can be asked of the guards.
    fn answer(&mut self, id: PeerId, restart: Restart, by: String, kind: Option<RemedyKind>, detail: String) {
        let what = What::Restart {
            number: restart.number,
            by,
            kind,
            force: restart.force,
            outcome: "impossible",
            episode: None,
            refusal: None,
            detail,
            within_ms: 0,
        };
        self.notice(Some(id), what);
    }

    /// A guard said no: that is the answer, and nothing waits for another.
    pub(super) fn wish_refused(&mut self, id: PeerId, refusal: Refusal) {
        let Some((wish, kind)) = self.take_wish(id) else {
            return;
        };
        self.undo_wish(id, wish.before);
        let what = What::Restart {
            number: wish.number,
            by: wish.by,
            kind,
            force: wish.force,
            outcome: "refused",
            episode: None,
            detail: refusal.why.clone(),
            refusal: Some(refusal),
            within_ms: 0,
        };
        self.notice(Some(id), what);
        // What came to pass while it waited for its answer.
        self.judge(id);
    }

    /// Its episode ends before anything could be done.
    pub(super) fn wish_is_moot(&mut self, id: PeerId) {
        if let Some((wish, kind)) = self.take_wish(id)
            && !wish.answered
        {
            let why =
                "what was in the way of it ended otherwise, and its episode with it: look, and ask again";
            self.answer_wish(id, wish, kind, why);
        }
    }

    /// Its peer is configured in another way, or no longer: what was asked for may be something else by now.
    pub(super) fn wish_outlived(&mut self, id: PeerId) {
        let waits = |episode: &Episode| episode.wish.as_ref().is_some_and(|wish| !wish.answered);
        let episode = self.peer(id).and_then(|peer| peer.episode.as_ref());
        if !episode.is_some_and(waits) {
            return;
        }
        let Some((wish, kind)) = self.take_wish(id) else {
            return;
        };
        self.undo_wish(id, wish.before.clone());
        self.answer_wish(id, wish, kind, "another configuration came meanwhile: ask again");
    }

    fn answer_wish(&mut self, id: PeerId, wish: Wish, kind: Option<RemedyKind>, why: &str) {
        let request = Restart {
            number: wish.number,
            peer: id,
            rung: Which::At(wish.rung),
            force: wish.force,
        };
        self.answer(id, request, wish.by, kind, why.to_owned());
    }

    /// The episode stands where it stood before it was asked for.
    fn undo_wish(&mut self, id: PeerId, before: Option<EpisodePhase>) {
        let episode = self.peer_mut(id).and_then(|peer| peer.episode.as_mut());
        match (before, episode) {
            (Some(before), Some(episode)) => episode.phase = before,
            // It was opened for this request, and nobody was told.
            (None, _) | (_, None) => self.drop_episode(id),
        }
    }

    /// Every guard permitted it, or had to.
    pub(super) fn wish_granted(&mut self, id: PeerId, remedy: &RemedySettings) {
        self.wishes.remove(&id);
        let act_within = self.settings.peers[id.0 as usize].acts_within(remedy);
        let Some(episode) = self.peer_mut(id).and_then(|peer| peer.episode.as_mut()) else {
            return;
        };
        let Some(wish) = episode.wish.as_mut().filter(|wish| !wish.answered) else {
            return;
        };
        wish.answered = true;
        let (wish, number, cause) = (wish.clone(), episode.id, episode.cause);
        if wish.before.is_none() {
            self.notice(
                Some(id),
                What::EpisodeOpened {
                    episode: number,
                    cause,
                },
            );
        }
        let within = act_within + remedy.verify_within;
        let what = What::Restart {
            number: wish.number,
            by: wish.by,
            kind: Some(remedy.kind),
            force: wish.force,
            outcome: "granted",
            episode: Some(number),
            refusal: None,
            detail: "every guard was asked".to_owned(),
            within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
        };
        self.notice(Some(id), what);
    }

    /// Its remedy ended without proof. Who is well otherwise is left alone; who is not is the ladder's from here on.
    pub(super) fn wish_failed(&mut self, id: PeerId) {
        if self.take_wish(id).is_none() {
            return;
        }
        let well = self
            .peer(id)
            .is_some_and(|peer| matches!(peer.liveness, Liveness::Alive | Liveness::Unknown));
        if well {
            let detail = "it was not restarted: no new life passed every check in time";
            self.close_episode(id, detail);
        } else {
            self.judge(id);
        }
    }

    fn take_wish(&mut self, id: PeerId) -> Option<(Wish, Option<RemedyKind>)> {
        self.wishes.remove(&id);
        let wish = self.peer_mut(id)?.episode.as_mut()?.wish.take()?;
        let ladder = &self.settings.peers.get(id.0 as usize)?.remedies;
        let kind = ladder.get(usize::from(wish.rung)).map(|remedy| remedy.kind);
        Some((wish, kind))
    }
}

/// The rung that is meant: one that restarts.
fn chosen(ladder: &[RemedySettings], which: Which) -> Result<u16, String> {
    let rungs = || (0u16..).zip(ladder);
    let restarting = || rungs().filter(|(_, remedy)| remedy.restarts);
    let named = || {
        let all: Vec<String> = restarting()
            .map(|(rung, remedy)| format!("{rung} ({})", remedy.kind.as_str()))
            .collect();
        if all.is_empty() {
            "its ladder has none that restarts it".to_owned()
        } else {
            format!("those that restart it are {}", all.join(", "))
        }
    };
    match which {
        Which::First => restarting().next().map(|(rung, _)| rung).ok_or_else(named),
        Which::Kind(kind) => restarting()
            .find(|(_, remedy)| remedy.kind == kind)
            .map(|(rung, _)| rung)
            .ok_or_else(|| format!("no `{}` of its ladder restarts it: {}", kind.as_str(), named())),
        Which::At(rung) => match ladder.get(usize::from(rung)) {
            Some(remedy) if remedy.restarts => Ok(rung),
            Some(remedy) => Err(format!(
                "remedy {rung} of its ladder ({}) restarts nothing: {}",
                remedy.kind.as_str(),
                named()
            )),
            None => Err(format!("its ladder has no remedy {rung}: {}", named())),
        },
    }
}

/// Why that rung cannot be asked for now.
fn cannot(peer: &Peer, rung: u16, remedy: &RemedySettings) -> Option<String> {
    let kind = remedy.kind.as_str();
    if let Some(episode) = &peer.episode {
        if episode.wish.is_some() {
            return Some("a restart that was asked for before is not over".to_owned());
        }
        match episode.phase {
            EpisodePhase::Acting { .. } => return Some("a remedy is being carried out on it".to_owned()),
            EpisodePhase::Verifying { .. } => {
                return Some("a remedy was carried out on it, and its proof of life is awaited".to_owned());
            }
            EpisodePhase::Suspected | EpisodePhase::Waiting | EpisodePhase::GaveUp { .. } => {}
        }
    }
    // A remedy is for a life; nothing here says that one is wanted.
    if peer.checks.iter().any(Check::is_stopped_on_purpose) {
        return Some("it was stopped on purpose: start it as it was stopped".to_owned());
    }
    if peer.checks.iter().any(Check::is_owner_absent) {
        return Some("nothing of it is there, and nobody saw it go: start it by its own means".to_owned());
    }
    if peer.exited && remedy.needs_life {
        return Some(format!("`{kind}` acts on what runs, and it has exited"));
    }
    if peer.ledger.is_done(&peer.life(), rung) {
        return Some(format!(
            "this very life was given `{kind}` already: what restarts is done once to a life"
        ));
    }
    None
}
