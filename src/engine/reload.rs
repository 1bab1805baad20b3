//! Another configuration while the node runs. Who is configured as before is not touched: evidence, episodes, grants in
//! flight and pauses go on. For the others all that limits what may be done next goes on; only evidence that was gathered
//! by other rules begins anew, and so a reload by itself condemns nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use super::Engine;
use super::beats::Routes;
use super::decision::What;
use super::event::{CheckId, ExpectationId, Opened, PeerId};
use super::evidence::{Check, Expectation};
use super::peer::Peer;
use super::settings::{PeerSettings, RemedySettings, Settings};
use super::snapshot::EpisodePhase;
use super::time::Time;

/// Names of a kind that are told; a log line has an end.
const TOLD: usize = 12;

/// Another configuration. Who was configured before has the same id in it.
#[derive(Clone, Debug)]
pub struct Reload {
    /// All of it. What a node cannot change while it runs (its name, its group, its boot, its interval and its channel)
    /// stays as it is.
    pub settings: Settings,
    /// Checks that look in another way than the one of that name did before, and not only at other times.
    pub checks_anew: BTreeSet<CheckId>,
    /// Expectations that are met by something else than before.
    pub expectations_anew: BTreeSet<ExpectationId>,
    /// Of each rung that is what a rung of before was: which one that was.
    pub rungs: BTreeMap<(PeerId, u16), u16>,
    /// The maintenance windows of another calendar that are open; `None`: the calendar is that of before.
    pub windows: Option<Vec<(u16, Opened)>>,
    /// Who asked.
    pub by: String,
}

/// Who is concerned, by id.
#[derive(Debug, Default)]
struct Change {
    added: Vec<PeerId>,
    removed: Vec<PeerId>,
    changed: Vec<PeerId>,
}

impl Reload {
    /// Where nothing is known but what the engine is told: a check of another kind or source looks in another way, and a
    /// rung is that of before if it is the same in everything.
    pub fn between(old: &Settings, settings: Settings, by: &str) -> Self {
        let mut rungs = BTreeMap::new();
        for (id, peer) in settings.peers() {
            let before = named(old, id, &peer.name).map_or(&[][..], |peer| &peer.remedies);
            let mut free: Vec<u16> = (0u16..).zip(before).map(|(rung, _)| rung).collect();
            for (rung, remedy) in (0u16..).zip(&peer.remedies) {
                let same = free.iter().position(|was| before[usize::from(*was)] == *remedy);
                if let Some(place) = same {
                    rungs.insert((id, rung), free.remove(place));
                }
            }
        }
        Self {
            settings,
            checks_anew: BTreeSet::new(),
            expectations_anew: BTreeSet::new(),
            rungs,
            windows: None,
            by: by.to_owned(),
        }
    }

    /// What it changes of `old`, in words: who is added, removed and changed.
    pub fn words(&self, old: &Settings) -> String {
        let node = node_wide(old) != node_wide(&self.settings) || self.windows.is_some();
        self.change_from(old).words(old, &self.settings, node)
    }

    /// The rung of now that was rung `was`.
    fn rung_now(&self, id: PeerId, was: u16) -> Option<u16> {
        let of_peer = self.rungs.range((id, 0)..=(id, u16::MAX));
        of_peer
            .filter(|(_, before)| **before == was)
            .map(|((_, rung), _)| *rung)
            .next()
    }

    fn change_from(&self, old: &Settings) -> Change {
        let mut change = Change::default();
        for (id, peer) in old.peers() {
            if named(&self.settings, id, &peer.name).is_none() {
                change.removed.push(id);
            }
        }
        for (id, peer) in self.settings.peers() {
            match named(old, id, &peer.name) {
                None => change.added.push(id),
                Some(before) => {
                    let rungs = (0u16..).zip(&peer.remedies);
                    let same = before == peer
                        && rungs
                            .map(|(rung, _)| rung)
                            .all(|rung| self.rungs.get(&(id, rung)) == Some(&rung))
                        && !self.checks_anew.iter().any(|check| check.peer == id);
                    if !same {
                        change.changed.push(id);
                    }
                }
            }
        }
        change
    }
}

/// Who stands at `id` under that name.
fn named<'s>(settings: &'s Settings, id: PeerId, name: &str) -> Option<&'s PeerSettings> {
    let peer = settings.peers.get(id.0 as usize)?;
    (*peer.name == *name).then_some(peer)
}

impl Change {
    fn words(&self, old: &Settings, new: &Settings, node: bool) -> String {
        let mut words = String::new();
        let kinds = [
            ("added", &self.added, new),
            ("removed", &self.removed, old),
            ("changed", &self.changed, new),
        ];
        for (kind, ids, of) in kinds.into_iter().filter(|(_, ids, _)| !ids.is_empty()) {
            let names: Vec<&str> = ids
                .iter()
                .take(TOLD)
                .filter_map(|id| of.peers.get(id.0 as usize))
                .map(|peer| &*peer.name)
                .collect();
            let more = ids.len().saturating_sub(TOLD);
            let separator = if words.is_empty() { "" } else { "; " };
            let _ = write!(words, "{separator}{kind}: {}", names.join(", "));
            if more > 0 {
                let _ = write!(words, " and {more} more");
            }
        }
        if node {
            words.push_str(if words.is_empty() {
                "what holds for all peers"
            } else {
                "; and what holds for all peers"
            });
        }
        if words.is_empty() {
            words.push_str("nothing that concerns a verdict");
        }
        words
    }
}

impl Engine {
    /// Takes another configuration at `now`.
    pub fn reload(&mut self, mut reload: Reload, now: Time) {
        self.now = self.now.max(now);
        if let Some((ran_until, pause)) = self.trust.turn(self.now, None) {
            self.stalled(ran_until, pause);
        }
        self.keep_what_stays(&mut reload.settings);
        let change = reload.change_from(&self.settings);
        for id in change.removed.iter().chain(&change.changed) {
            self.wish_outlived(*id);
        }
        if self.settings.dry_run != reload.settings.dry_run {
            for id in self.ids() {
                self.wish_outlived(id);
            }
        }
        for id in &change.removed {
            self.retire(*id, "it is configured no longer");
        }
        let old = std::mem::replace(&mut self.settings, reload.settings.clone());
        self.make_room();
        let (adapted, anew) = self.adapt_all(&change.changed, &old, &reload);
        for id in change.added.iter().copied().chain(anew.iter().copied()) {
            self.enlist(id);
        }
        self.take_node_wide(&old, &reload);
        self.follow_routes(&adapted, &change);
        self.quorum.reload(&self.settings);
        self.forget_questions();
        let calendar = reload.windows.is_some();
        if let Some(windows) = reload.windows.take() {
            self.take_calendar(windows);
        }
        self.reloads = self.reloads.saturating_add(1);
        let node = node_wide(&old) != node_wide(&self.settings) || calendar;
        let what = What::ConfigReloaded {
            by: reload.by,
            detail: change.words(&old, &self.settings, node),
        };
        self.notice(None, what);
        for id in self.ids() {
            self.judge(id);
        }
        self.drop_retired();
        self.ask = true;
        self.pass_time();
        self.save_now();
    }

    /// A configuration that was refused: said, and nothing else.
    pub fn reload_refused(&mut self, by: String, detail: String, now: Time) {
        self.now = self.now.max(now);
        self.notice(None, What::ConfigRefused { by, detail });
    }

    fn keep_what_stays(&self, settings: &mut Settings) {
        settings.node = Arc::clone(&self.settings.node);
        settings.group = Arc::clone(&self.settings.group);
        settings.boot = Arc::clone(&self.settings.boot);
        settings.group_channel = Arc::clone(&self.settings.group_channel);
        settings.interval = self.settings.interval;
        while settings.peers.len() < self.settings.peers.len() {
            settings.peers.push(PeerSettings::vacant());
        }
    }

    fn make_room(&mut self) {
        let now = self.now;
        let peers = self.settings.peers.len();
        self.peers
            .resize_with(peers, || Peer::new(&PeerSettings::vacant(), now));
        self.timers.make_room(peers);
    }

    /// Takes the changed ones over, and says which check each of their checks was. Those of whom another life is judged
    /// by now are retired, and returned to be enlisted anew.
    fn adapt_all(
        &mut self,
        changed: &[PeerId],
        old: &Settings,
        reload: &Reload,
    ) -> (BTreeMap<CheckId, CheckId>, Vec<PeerId>) {
        let (mut adapted, mut anew) = (BTreeMap::new(), Vec::new());
        for id in changed.iter().copied() {
            let before = &old.peers[id.0 as usize];
            if lives_source(before) != lives_source(&self.settings.peers[id.0 as usize])
                || self.lives_are_told_anew(id, reload)
            {
                // By what it was, not by what it is: indexes are those of before.
                let now = std::mem::replace(&mut self.settings.peers[id.0 as usize], before.clone());
                self.retire(id, "another life of it is judged by the new configuration");
                self.settings.peers[id.0 as usize] = now;
                self.retired
                    .renumber(&before.name, |rung| reload.rung_now(id, rung));
                anew.push(id);
            } else {
                self.adapt(id, before, reload, &mut adapted);
            }
        }
        (adapted, anew)
    }

    fn lives_are_told_anew(&self, id: PeerId, reload: &Reload) -> bool {
        let checks = self.settings.peers[id.0 as usize].checks.len();
        (0..u16::try_from(checks).unwrap_or(u16::MAX))
            .map(|index| CheckId { peer: id, index })
            .any(|check| self.takes_lives_from(check) && reload.checks_anew.contains(&check))
    }

    fn adapt(
        &mut self,
        id: PeerId,
        before: &PeerSettings,
        reload: &Reload,
        adapted: &mut BTreeMap<CheckId, CheckId>,
    ) {
        let (now, mark) = (self.now, self.trust.mark(self.now));
        let settings = self.settings.peers[id.0 as usize].clone();
        let Some(peer) = self.peers.get_mut(id.0 as usize) else {
            return;
        };
        let mut known: Vec<Option<Check>> = peer.checks.drain(..).map(Some).collect();
        let mut is_now: BTreeMap<u16, u16> = BTreeMap::new();
        for (index, of) in (0u16..).zip(&settings.checks) {
            let mut check = Check::new(of, settings.grace, now);
            let place = CheckId { peer: id, index };
            let was = before.checks.iter().position(|was| was.name == of.name);
            if let Some(was) = was
                && !reload.checks_anew.contains(&place)
                && before.checks[was].kind.looks_as(&of.kind)
                && let Some(old) = known[was].take()
            {
                check.follow(old, before.checks[was] == *of, now, mark);
                let was = u16::try_from(was).unwrap_or(u16::MAX);
                is_now.insert(was, index);
                adapted.insert(place, CheckId { peer: id, index: was });
            }
            peer.checks.push(check);
        }
        peer.renumber(&is_now, |rung| reload.rung_now(id, rung));
        peer.ledger.rewindow(before.budget.window, settings.budget.window);
        self.follow_ladder(id, before, &settings, reload);
    }

    /// An episode whose checks or rungs are others by now.
    fn follow_ladder(&mut self, id: PeerId, before: &PeerSettings, settings: &PeerSettings, reload: &Reload) {
        let is_new = |rung| !reload.rungs.contains_key(&(id, rung));
        let rejudged = before.checks != settings.checks;
        let Some(episode) = self.peer_mut(id).and_then(|peer| peer.episode.as_mut()) else {
            return;
        };
        let waits = !matches!(
            episode.phase,
            EpisodePhase::Acting { .. } | EpisodePhase::Verifying { .. }
        );
        let helps = |remedy: &RemedySettings| remedy.kind.touches() && remedy.is_for(episode.cause);
        let more = (0u16..)
            .zip(&settings.remedies)
            .any(|(rung, remedy)| is_new(rung) && helps(remedy));
        if more && matches!(episode.phase, EpisodePhase::GaveUp { .. }) {
            // It was given up for want of what there is now.
            episode.phase = EpisodePhase::Waiting;
        }
        episode.refusal = None;
        if rejudged && waits && episode.condemned.is_empty() {
            self.close_episode(id, "what condemned it is configured no longer");
        }
    }

    fn take_node_wide(&mut self, old: &Settings, reload: &Reload) {
        let now = self.now;
        self.group.peers = self.settings.peers().count();
        self.breaker.configure(self.settings.breaker);
        self.trust.configure(self.settings.bus_settle);
        let names = self.settings.expectations.clone();
        self.expectations.resize(names.len(), Expectation::default());
        for (index, name) in names.iter().enumerate() {
            let id = ExpectationId(u16::try_from(index).unwrap_or(u16::MAX));
            if old.expectations.get(index) != Some(name) || reload.expectations_anew.contains(&id) {
                self.expectations[index] = Expectation::default();
            }
        }
        match (old.dry_run, self.settings.dry_run) {
            (false, true) => self.begin_dry_run(),
            (true, false) => self.end_dry_run(now),
            (false, false) | (true, true) => {}
        }
        for id in self.ids() {
            if self.settings.peers[id.0 as usize].local
                && let Some(flip) = self.breaker.left(id, now)
            {
                self.breaker_flipped(flip);
            }
        }
    }

    /// From now on nothing is really done: what was, is laid aside.
    fn begin_dry_run(&mut self) {
        self.group.real_not_before = self.group.not_before;
        for id in self.ids() {
            self.withdraw_pulse_of(id);
            let peer = &mut self.peers[id.0 as usize];
            peer.real = Some(peer.ledger.clone());
        }
    }

    /// What a dry run would have done binds nobody. What was really done before it does; where that is not known, as
    /// little is done as at a start without a store.
    fn end_dry_run(&mut self, now: Time) {
        let mut untold = false;
        self.group.not_before = self.group.real_not_before.take();
        for id in self.ids() {
            let episode = self.peers[id.0 as usize].episode.as_ref();
            if episode.is_some_and(|episode| !matches!(episode.phase, EpisodePhase::Acting { .. })) {
                // What the group holds for it since before the dry run.
                self.let_go(id);
            }
            let peer = &mut self.peers[id.0 as usize];
            let real = peer.real.take();
            untold |= real.is_none() && !self.settings.peers[id.0 as usize].is_vacant();
            peer.ledger = real.unwrap_or_default();
            let Some(episode) = peer.episode.as_mut() else {
                continue;
            };
            if matches!(episode.phase, EpisodePhase::Acting { .. }) {
                // Begun before the dry run, and really at work.
                continue;
            }
            self.group.down.remove(&id);
            // A canary that nobody was.
            self.breaker.canary_over(id);
            episode.remedy = None;
            episode.remedies = 0;
            episode.attempts = 0;
            episode.failed.clear();
            episode.restarted = false;
            episode.healed_at = None;
            episode.refusal = None;
            episode.wish = None;
            if episode.phase != EpisodePhase::Suspected {
                episode.phase = EpisodePhase::Waiting;
            }
        }
        if untold {
            self.group.untold(now);
        }
    }

    fn follow_routes(&mut self, adapted: &BTreeMap<CheckId, CheckId>, change: &Change) {
        let changed: BTreeSet<PeerId> = change.changed.iter().chain(&change.added).copied().collect();
        let was = |check: CheckId| {
            if changed.contains(&check.peer) {
                adapted.get(&check).copied()
            } else {
                Some(check)
            }
        };
        let routes = std::mem::take(&mut self.routes);
        self.routes = Routes::new(&self.settings).following(routes, was);
        // Whose node is known by its heartbeats already is not told of that life again.
        for id in changed {
            let checks = self.settings.peers[id.0 as usize].checks.len();
            for index in 0..u16::try_from(checks).unwrap_or(u16::MAX) {
                let check = CheckId { peer: id, index };
                if !adapted.contains_key(&check)
                    && self.takes_lives_from(check)
                    && let Some(life) = self.routes.life_of(check)
                {
                    self.new_incarnation(id, life);
                }
            }
        }
    }
}

/// By which check a peer's lives are told apart.
fn lives_source(peer: &PeerSettings) -> Option<&str> {
    peer.life_teller()
        .and_then(|index| peer.checks.get(usize::from(index)))
        .map(|check| &*check.name)
}

/// What concerns every peer.
fn node_wide(settings: &Settings) -> Settings {
    Settings {
        peers: Vec::new(),
        ..settings.clone()
    }
}
