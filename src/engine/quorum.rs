//! The other observers of the group: whom we hear, who hears us, and what they say of what is suspected.
//!
//! Here is what was said and what it is worth. What is done about it is `votes`' business, and the guard's. Votes make
//! nothing dead that this node does not suspect itself, by silence that its own echoes cover.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::beats::{Heard, Sender, planned_interval};
use super::event::{Ballot, CheckId, Heartbeat, Incarnation, PeerId, Vote};
use super::peer::Liveness;
use super::settings::{
    CheckKind, CheckSettings, Decides, PeerSettings, Plane, QuorumSettings, Settings, Source,
};
use super::time::Time;

/// Nodes that are remembered besides those that the configuration names. Whoever can publish can invent names: past
/// this, the one that has been silent for longest makes room, if it is not heard any more.
const MAX_OBSERVERS: usize = 256;
/// A node that fell silent without a goodbye is counted as one of the group for so long: a half that was cut off must
/// not take itself for the whole.
const REMEMBERED: Duration = Duration::from_secs(3_600);

/// Why a vote counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Void {
    /// In a heartbeat that was late, repeated, or of an earlier life of the voter.
    Stale,
    /// The voter does not say that it hears us.
    Deaf,
    /// About another life than the one that we judge, or none is named.
    Incarnation,
    /// The voter is the peer's own node, whose word is its claim.
    OwnNode,
    /// Nothing here listens to what it is about.
    Unwatched,
}

impl Void {
    /// Every reason.
    pub const ALL: [Self; 5] = [
        Self::Stale,
        Self::Deaf,
        Self::Incarnation,
        Self::OwnNode,
        Self::Unwatched,
    ];

    /// As written in labels and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Deaf => "deaf",
            Self::Incarnation => "incarnation",
            Self::OwnNode => "own_node",
            Self::Unwatched => "unwatched",
        }
    }
}

impl fmt::Display for Void {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What was counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Votes against a peer that were heard, each time.
    pub(super) heard: u64,
    /// Those of them that counted for nothing.
    pub(super) void: BTreeMap<Void, u64>,
    /// Silences that votes confirmed before `dead_after`.
    pub(super) confirmed: u64,
}

/// How the others vote on one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// They hold it suspect or dead, as we do.
    pub(super) agree: BTreeSet<Arc<str>>,
    /// They have heard it since we last did.
    pub(super) hear_it: BTreeSet<Arc<str>>,
    /// Their votes count for nothing.
    pub(super) void: BTreeMap<Arc<str>, Void>,
    /// Nodes of the group that are heard now and were since it fell silent, this one among them.
    pub(super) live: usize,
    /// Nodes of the group that were heard, and neither said goodbye nor were forgotten; this one among them.
    pub(super) known: usize,
}

/// Why it is not agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Somebody hears it.
    Heard,
    /// Too few agree.
    Votes,
    /// Those that we hear may be the smaller half of a group that was cut in two.
    Majority,
}

impl Tally {
    /// Whether this node and those that agree with it are enough.
    pub(super) fn agreed(&self, k: u8) -> Result<(), Missing> {
        if !self.hear_it.is_empty() {
            return Err(Missing::Heard);
        }
        if 1 + self.agree.len() < usize::from(k) {
            return Err(Missing::Votes);
        }
        if 2 * self.live <= self.known {
            return Err(Missing::Majority);
        }
        Ok(())
    }

    pub(super) fn add(&mut self, other: Self) {
        self.agree.extend(other.agree);
        self.hear_it.extend(other.hear_it);
        self.void.extend(other.void);
    }
}

/// What a check listens to, by a name that is the same on every node.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) about: Arc<str>,
    /// The node whose own word about it is no vote.
    node: Option<Arc<str>>,
    /// This node may vote against it: not about an application whose owner it watches.
    pub(super) accuses: bool,
}

/// Another node of the group, as an observer.
#[derive(Clone, Debug, Default)]
struct Observer {
    sender: Sender,
    boot: Option<Arc<str>>,
    /// Its last fresh heartbeat: its slot, and when it came.
    fresh: Option<(u64, Time)>,
    hears_us: Option<Time>,
    words: BTreeMap<Arc<str>, Word>,
}

#[derive(Clone, Debug)]
struct Word {
    liveness: Liveness,
    life: Option<Incarnation>,
    /// When the subject last gave it a sign of life, by our clock.
    life_at: Time,
    until: Time,
}

/// How a heartbeat came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Bus,
    /// It was fetched.
    Http,
}

/// What somebody wants to know.
#[derive(Clone, Copy, Debug)]
struct Asked {
    until: Time,
    /// When it last heard it itself.
    life_at: Time,
    /// We have said since that we hear it.
    answered: bool,
}

/// The observers, their votes and ours.
#[derive(Clone, Debug)]
pub(super) struct Quorum {
    pub(super) settings: QuorumSettings,
    node: Arc<str>,
    interval: Duration,
    subjects: BTreeMap<CheckId, Subject>,
    listeners: BTreeMap<Arc<str>, Vec<CheckId>>,
    /// Nodes that the configuration names: their word is heard, however many others there are.
    named: BTreeSet<Arc<str>>,
    observers: BTreeMap<Arc<str>, Observer>,
    /// The same of what they answered over HTTP: apart, so that no answer makes a life, a lateness or a majority on the bus.
    answers: BTreeMap<Arc<str>, Observer>,
    /// Whom we vote against, and when that first went out.
    own: BTreeMap<CheckId, Option<Time>>,
    asked: BTreeMap<Arc<str>, Asked>,
    /// There is something to say that cannot wait for the next heartbeat.
    urgent: bool,
    spoken: Option<Time>,
    /// The last vote of a ballot that did not hold all: the next one begins after it.
    told_up_to: Option<Arc<str>>,
    pub(super) counts: Counts,
}

impl Quorum {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut subjects = BTreeMap::new();
        let mut listeners: BTreeMap<Arc<str>, Vec<CheckId>> = BTreeMap::new();
        for (peer, of) in settings.peers() {
            for (index, check) in (0u16..).zip(&of.checks) {
                if let Some(subject) = Subject::of(of, check) {
                    let id = CheckId { peer, index };
                    listeners.entry(Arc::clone(&subject.about)).or_default().push(id);
                    subjects.insert(id, subject);
                }
            }
        }
        let named = subjects.values().filter_map(|subject| subject.node.clone());
        Self {
            settings: settings.quorum,
            node: Arc::clone(&settings.node),
            interval: settings.interval,
            named: named.collect(),
            subjects,
            listeners,
            observers: BTreeMap::new(),
            answers: BTreeMap::new(),
            own: BTreeMap::new(),
            asked: BTreeMap::new(),
            urgent: false,
            spoken: None,
            told_up_to: None,
            counts: Counts::default(),
        }
    }

    /// The same observers under another configuration. Whom we suspected by a check that listens to the same as before, we
    /// suspect.
    pub(super) fn reload(&mut self, settings: &Settings) {
        let new = Self::new(settings);
        self.settings = new.settings;
        let old = std::mem::replace(&mut self.subjects, new.subjects);
        self.listeners = new.listeners;
        self.named = new.named;
        let about = |of: &BTreeMap<CheckId, Subject>, check: &CheckId| {
            of.get(check).map(|subject| Arc::clone(&subject.about))
        };
        self.own
            .retain(|check, _| about(&self.subjects, check) == about(&old, check));
    }

    /// What two nodes hear at the same moment they do not date to the same moment.
    fn slack(&self) -> Duration {
        self.interval / 2
    }

    /// How long others have to contradict, once they were told whom we suspect. (What is asked for over HTTP takes a question,
    /// a heartbeat out of turn there, and another question, a quarter of an interval each at most; and a first question
    /// that nobody answers is given up after an interval.)
    pub(super) fn objection(&self) -> Duration {
        if self.settings.asks {
            2 * self.interval
        } else {
            self.interval / 2
        }
    }

    pub(super) fn subjects_of(&self, peer: PeerId) -> impl Iterator<Item = (CheckId, &Subject)> {
        let place = |index| CheckId { peer, index };
        self.subjects
            .range(place(0)..=place(u16::MAX))
            .map(|(id, subject)| (*id, subject))
    }

    pub(super) fn listeners(&self, about: &str) -> &[CheckId] {
        self.listeners.get(about).map_or(&[], Vec::as_slice)
    }

    /// Opens or ends our own vote against it.
    pub(super) fn vote(&mut self, check: CheckId, against: bool) {
        if !against {
            self.own.remove(&check);
        } else if let Entry::Vacant(place) = self.own.entry(check) {
            place.insert(None);
            self.urgent = true;
        }
    }

    /// We vote against it.
    pub(super) fn votes_on(&self, check: CheckId) -> bool {
        self.own.contains_key(&check)
    }

    /// We vote against somebody.
    pub(super) fn votes(&self) -> bool {
        !self.own.is_empty()
    }

    /// What we held against others was of before a pause of our own.
    pub(super) fn withdraw_all(&mut self) {
        self.own.clear();
    }

    /// When our vote against it went out, if there is one and it did.
    pub(super) fn voted(&self, check: CheckId) -> Option<Time> {
        self.own.get(&check).copied().flatten()
    }

    /// When votes may confirm the silence of this peer, if we voted on it. After the first look, which may have come
    /// before everybody else was heard, it is looked again and again.
    pub(super) fn next_look(&self, peer: PeerId, now: Time) -> Option<Time> {
        let votes = self.subjects_of(peer).filter_map(|(check, _)| self.voted(check));
        let looks = votes.map(|sent| sent + self.objection());
        looks
            .map(|first| {
                if first > now {
                    first
                } else {
                    now + self.interval / 4
                }
            })
            .min()
    }

    /// As many of `votes` as one heartbeat holds: objections that nobody was told yet, then votes of which that is true,
    /// then the others, from where the heartbeat before left off. The rest is counted; what is new in it is said soon.
    pub(super) fn fitting(
        &mut self,
        mut votes: BTreeMap<Arc<str>, (Vote, Vec<CheckId>)>,
    ) -> (Vec<(Vote, Vec<CheckId>)>, u32) {
        // No heartbeat holds it: nothing can ever be said of it.
        votes.retain(|_, (vote, _)| vote.written() <= Ballot::MAX_BYTES);
        let all = votes.len();
        let (mut objections, mut news, mut known) = (Vec::new(), Vec::new(), Vec::new());
        for (about, (vote, checks)) in votes {
            let told = self.asked.get(&about).is_none_or(|asked| asked.answered);
            match vote.liveness {
                Liveness::Alive if !told => objections.push((vote, checks)),
                Liveness::Alive => known.push((vote, checks)),
                _ if checks.iter().any(|check| self.voted(*check).is_none()) => news.push((vote, checks)),
                _ => known.push((vote, checks)),
            }
        }
        let next = known.partition_point(|(vote, _)| Some(&vote.about) <= self.told_up_to.as_ref());
        known.rotate_left(next);
        let new = objections.len() + news.len();
        let mut room = Ballot::MAX_BYTES;
        let mut taken = Vec::new();
        let in_turn = objections.into_iter().chain(news).chain(known);
        for (place, (vote, checks)) in in_turn.enumerate() {
            let Some(left) = room
                .checked_sub(vote.written())
                .filter(|_| taken.len() < Ballot::MAX_VOTES)
            else {
                break;
            };
            room = left;
            if place >= new {
                self.told_up_to = Some(Arc::clone(&vote.about));
            }
            taken.push((vote, checks));
        }
        self.urgent |= taken.len() < new;
        let left_out = all - taken.len();
        (taken, u32::try_from(left_out).unwrap_or(u32::MAX))
    }

    pub(super) fn speak_soon(&mut self) {
        self.urgent = true;
    }

    /// When a heartbeat out of turn is due, if one is.
    pub(super) fn speaks_at(&self) -> Time {
        match self.spoken {
            _ if !self.urgent => Time::MAX,
            None => Time::ZERO,
            Some(spoken) => spoken + self.interval / 4,
        }
    }

    /// A heartbeat goes out, or cannot.
    pub(super) fn spoke(&mut self, now: Time) {
        self.urgent = false;
        self.spoken = Some(now);
    }

    /// Our votes go out.
    pub(super) fn sent(&mut self, checks: &[CheckId], now: Time) {
        for check in checks {
            if let Some(sent) = self.own.get_mut(check) {
                sent.get_or_insert(now);
            }
        }
    }

    pub(super) fn own(&self) -> impl Iterator<Item = CheckId> {
        self.own.keys().copied()
    }

    pub(super) fn subject(&self, check: CheckId) -> Option<&Subject> {
        self.subjects.get(&check)
    }

    /// What others want to know of, and when the first of them last heard it.
    pub(super) fn asked(&mut self, now: Time) -> Vec<(Arc<str>, Time)> {
        self.asked.retain(|_, asked| now < asked.until);
        let asked = self.asked.iter();
        asked
            .map(|(about, asked)| (Arc::clone(about), asked.life_at))
            .collect()
    }

    /// The same of what `check` listens to, if we have not said yet that we hear it.
    pub(super) fn unanswered(&self, check: CheckId, now: Time) -> Option<Time> {
        if self.asked.is_empty() {
            return None;
        }
        let asked = self.asked.get(&self.subjects.get(&check)?.about)?;
        (now < asked.until && !asked.answered).then_some(asked.life_at)
    }

    /// We say that we hear it.
    pub(super) fn answered(&mut self, about: &str) {
        if let Some(asked) = self.asked.get_mut(about) {
            asked.answered = true;
        }
    }

    /// A life of ours at `life_at` is news to somebody who last heard it at `theirs`.
    pub(super) fn is_news(&self, life_at: Time, theirs: Time) -> bool {
        life_at > theirs + self.slack()
    }

    /// Names of nodes that we hear; with more than a ballot holds, others at each slot.
    pub(super) fn hears(&self, slot: u64, now: Time) -> Vec<Arc<str>> {
        let all = self.observers.iter().chain(&self.answers);
        let heard: BTreeSet<&Arc<str>> = all
            .filter(|(_, of)| self.is_live(of, now))
            .map(|(name, _)| name)
            .collect();
        let turns = heard.len().div_ceil(Ballot::MAX_HEARS).max(1);
        let turn = usize::try_from(slot).unwrap_or(0) % turns;
        heard
            .into_iter()
            .skip(turn * Ballot::MAX_HEARS)
            .take(Ballot::MAX_HEARS)
            .map(Arc::clone)
            .collect()
    }

    /// It left for good, as its goodbye or an operator says.
    pub(super) fn forget(&mut self, node: &str) {
        self.observers.remove(node);
        self.answers.remove(node);
    }

    /// Takes in another node's heartbeat. Returns those of our checks that it votes on. `life` is the one that we judge;
    /// `own` our boot.
    pub(super) fn hear<'a>(
        &mut self,
        beat: &Heartbeat,
        way: Way,
        own: &str,
        now: Time,
        life: impl Fn(CheckId) -> Option<&'a Incarnation>,
    ) -> Vec<CheckId> {
        let (Some(name), Some(boot), Some(slot), Some(_)) =
            (&beat.node, &beat.boot, beat.slot, beat.interval_ms)
        else {
            return Vec::new();
        };
        let brought = self
            .observers
            .get(name)
            .filter(|of| of.boot.as_ref() == Some(boot));
        let brought = brought.and_then(|of| of.fresh).filter(|_| way == Way::Http);
        let lifetime = self.settings.lifetime;
        // What the bus has brought already is as old as that, whenever it is answered.
        let since = brought.filter(|(last, _)| *last == slot).map(|(_, at)| at);
        let outlived = since.is_some_and(|at| now.since(at) >= lifetime);
        if outlived || brought.is_some_and(|(last, _)| slot < last) || !self.make_room(way, name, now) {
            return Vec::new();
        }
        let heard_at = since.unwrap_or(now);
        let observer = self.of(way).entry(Arc::clone(name)).or_default();
        let fresh = match observer.sender.hear(beat, own, now) {
            Heard::Life(_) if beat.goodbye => {
                self.forget(name);
                return Vec::new();
            }
            Heard::Life(_) => {
                if observer.boot.as_ref() != Some(boot) {
                    *observer = Observer {
                        sender: std::mem::take(&mut observer.sender),
                        boot: Some(Arc::clone(boot)),
                        ..Observer::default()
                    };
                }
                observer.fresh = Some((slot, heard_at));
                // (What the bus has brought already proves no life.)
                since.is_none()
            }
            Heard::Stale if observer.repeats(boot, slot, now, lifetime) => false,
            Heard::Stale => {
                let votes = beat.ballot.votes.iter().filter(|vote| accuses(vote)).count() as u64;
                self.counts.heard += votes;
                if votes > 0 {
                    *self.counts.void.entry(Void::Stale).or_default() += votes;
                }
                return Vec::new();
            }
        };
        // (What was asked for may have gone out an interval ago.)
        let said_at = match way {
            Way::Bus => now,
            Way::Http => since.unwrap_or_else(|| now - planned_interval(beat)),
        };
        let mut concerned = self.take_ballot((way, name), &beat.ballot, (said_at, heard_at), life);
        match way {
            // What comes on the bus is no older than any answer was.
            Way::Bus if fresh => concerned.extend(self.outdated(name)),
            Way::Http if fresh => concerned.extend(self.lives(name, said_at, now)),
            Way::Bus | Way::Http => {}
        }
        concerned
    }

    fn of(&mut self, way: Way) -> &mut BTreeMap<Arc<str>, Observer> {
        match way {
            Way::Bus => &mut self.observers,
            Way::Http => &mut self.answers,
        }
    }

    /// What this node answered last says nothing any more: the bus brings it again. On which checks that was.
    fn outdated(&mut self, name: &Arc<str>) -> Vec<CheckId> {
        let answered = self.answers.remove(name).unwrap_or_default().words;
        let checks = answered.keys().flat_map(|about| self.listeners(about));
        checks.copied().collect()
    }

    /// A node that answers with a heartbeat which it had not sent before lives, whatever the bus brings of it.
    fn lives(&mut self, name: &Arc<str>, said_at: Time, now: Time) -> Vec<CheckId> {
        let about: Arc<str> = format!("node:{name}").into();
        let checks = self.listeners(&about).to_vec();
        let word = Word {
            liveness: Liveness::Alive,
            life: None,
            life_at: said_at,
            until: now + self.settings.lifetime,
        };
        if !checks.is_empty()
            && let Some(observer) = self.answers.get_mut(name)
        {
            observer.words.insert(about, word);
        }
        checks
    }

    fn take_ballot<'a>(
        &mut self,
        (way, name): (Way, &Arc<str>),
        ballot: &Ballot,
        (said_at, now): (Time, Time),
        life: impl Fn(CheckId) -> Option<&'a Incarnation>,
    ) -> Vec<CheckId> {
        let (node, lifetime) = (Arc::clone(&self.node), self.settings.lifetime);
        let Some(observer) = self.of(way).get_mut(name) else {
            return Vec::new();
        };
        if ballot.hears.contains(&node) {
            observer.hears_us = Some(now);
        }
        if ballot.left_out == 0 && !observer.words.is_empty() {
            // (But for what its own answer has shown of it, which only time takes back.)
            let itself = format!("node:{name}");
            observer
                .words
                .retain(|about, _| way == Way::Http && **about == *itself);
        }
        let mut concerned = Vec::new();
        for vote in ballot.votes.iter().take(Ballot::MAX_VOTES) {
            let against = accuses(vote);
            self.counts.heard += u64::from(against);
            let Some(checks) = self.listeners.get(&vote.about) else {
                if against {
                    *self.counts.void.entry(Void::Unwatched).or_default() += 1;
                }
                continue;
            };
            let life_at = said_at - Duration::from_millis(vote.silent_ms);
            let word = Word {
                liveness: vote.liveness,
                life: vote.incarnation.clone(),
                life_at,
                until: now + lifetime,
            };
            let observers = match way {
                Way::Bus => &self.observers,
                Way::Http => &self.answers,
            };
            for check in checks {
                let worth = observers.get(name).zip(self.subjects.get(check));
                let void = worth
                    .and_then(|(of, subject)| of.void(&word, name, subject, life(*check), now, lifetime));
                if let Some(void) = void.filter(|_| against) {
                    *self.counts.void.entry(void).or_default() += 1;
                }
                concerned.push(*check);
            }
            if against {
                self.ask(&vote.about, life_at, now);
            }
            if let Some(observer) = self.of(way).get_mut(name) {
                observer.words.insert(Arc::clone(&vote.about), word);
            }
        }
        concerned
    }

    /// Somebody asks of it who is not heard here. Which of our checks listen to it.
    pub(super) fn doubted(&mut self, about: &Arc<str>, life_at: Time, now: Time) -> Vec<CheckId> {
        let checks = self.listeners(about).to_vec();
        if !checks.is_empty() {
            self.ask(about, life_at, now);
        }
        checks
    }

    /// Somebody wants to know of it.
    fn ask(&mut self, about: &Arc<str>, life_at: Time, now: Time) {
        let until = now + self.settings.lifetime;
        let new = Asked {
            until,
            life_at,
            answered: false,
        };
        let asked = self.asked.entry(Arc::clone(about)).or_insert(new);
        if now >= asked.until {
            *asked = new;
        }
        asked.until = until;
        asked.life_at = asked.life_at.min(life_at);
    }

    fn make_room(&mut self, way: Way, name: &str, now: Time) -> bool {
        let observers = match way {
            Way::Bus => &mut self.observers,
            Way::Http => &mut self.answers,
        };
        if observers.contains_key(name) || self.named.contains(name) {
            return true;
        }
        let strangers = || observers.iter().filter(|(name, _)| !self.named.contains(*name));
        if strangers().count() < MAX_OBSERVERS {
            return true;
        }
        let lifetime = self.settings.lifetime;
        let quietest = strangers().min_by_key(|(_, of)| of.fresh.map(|(_, at)| at));
        match quietest {
            Some((quietest, of)) if !of.heard_within(now, lifetime) => {
                let quietest = Arc::clone(quietest);
                observers.remove(&quietest);
                true
            }
            Some(_) | None => false,
        }
    }

    fn is_live(&self, of: &Observer, now: Time) -> bool {
        of.heard_within(now, self.settings.lifetime)
    }

    /// Nodes of the group: heard now on the bus, and after `since`; and known. `expected` are those that the configuration names and
    /// that were heard once, perhaps by an earlier run of this node.
    pub(super) fn members(
        &self,
        expected: impl Iterator<Item = Arc<str>>,
        since: Option<Time>,
        now: Time,
    ) -> (usize, usize) {
        // Who fell silent together with the peer may be beyond the same cut, and is still fresh when we suspect it.
        let after = since.map_or(Time::ZERO, |since| since + self.interval);
        let heard = |of: &&Observer| self.is_live(of, now) && of.fresh.is_some_and(|(_, at)| at >= after);
        let live = self.observers.values().filter(heard).count();
        // Who answers is known and not heard: two halves of a bus that was cut must not each take itself for the whole.
        let remembered = self.observers.iter().chain(&self.answers);
        let known: BTreeSet<Arc<str>> = remembered
            .filter(|(_, of)| of.heard_within(now, REMEMBERED))
            .map(|(name, _)| Arc::clone(name))
            .chain(expected)
            .collect();
        (1 + live, 1 + known.len())
    }

    /// How the others vote on what `check` listens to. `life` is the one that we judge, `life_at` its last sign of life
    /// here.
    pub(super) fn tally(
        &self,
        check: CheckId,
        life: Option<&Incarnation>,
        life_at: Time,
        now: Time,
    ) -> Tally {
        let mut tally = Tally::default();
        let Some(subject) = self.subjects.get(&check) else {
            return tally;
        };
        for (name, of) in self.observers.iter().chain(&self.answers) {
            let word = of.words.get(&subject.about).filter(|word| now < word.until);
            let Some(word) = word else { continue };
            if word.liveness == Liveness::Alive {
                if self.is_news(word.life_at, life_at) {
                    tally.hear_it.insert(Arc::clone(name));
                }
                continue;
            }
            match of.void(word, name, subject, life, now, self.settings.lifetime) {
                None => {
                    tally.agree.insert(Arc::clone(name));
                }
                Some(void) => {
                    tally.void.insert(Arc::clone(name), void);
                }
            }
        }
        // (What a node said one way does not make its word of the other way worthless.)
        tally.void.retain(|name, _| !tally.agree.contains(name));
        tally
    }
}

impl Observer {
    fn heard_within(&self, now: Time, lifetime: Duration) -> bool {
        self.fresh.is_some_and(|(_, at)| now.since(at) < lifetime)
    }

    /// Said out of turn: in the slot of its last fresh heartbeat.
    fn repeats(&self, boot: &Arc<str>, slot: u64, now: Time, lifetime: Duration) -> bool {
        self.boot.as_ref() == Some(boot)
            && self
                .fresh
                .is_some_and(|(last, at)| last == slot && now.since(at) < lifetime)
    }

    /// Why this vote against `subject` counts for nothing, if it does.
    fn void(
        &self,
        word: &Word,
        name: &Arc<str>,
        subject: &Subject,
        life: Option<&Incarnation>,
        now: Time,
        lifetime: Duration,
    ) -> Option<Void> {
        if subject.node.as_ref() == Some(name) {
            return Some(Void::OwnNode);
        }
        if word.life.is_none() || word.life.as_ref() != life {
            return Some(Void::Incarnation);
        }
        let hears_us = self.hears_us.is_some_and(|at| now.since(at) < lifetime);
        if !hears_us || !self.heard_within(now, lifetime) {
            return Some(Void::Deaf);
        }
        None
    }
}

impl Subject {
    /// What of a peer others can vote on: what comes over the bus, and decides whether it lives.
    fn of(peer: &PeerSettings, check: &CheckSettings) -> Option<Self> {
        let CheckKind::Passive { source, .. } = &check.kind else {
            return None;
        };
        if check.plane != Plane::Bus || check.decides != Decides::Liveness {
            return None;
        }
        let (about, node) = match source {
            Source::Channels(channels) => (format!("channel:{}", channels.join(",")), None),
            Source::Node(node) => (format!("node:{node}"), Some(node)),
            Source::Claim { node, peer } => (format!("claim:{node}/{peer}"), Some(node)),
            Source::Reported { .. } => return None,
        };
        let owned = peer
            .checks
            .iter()
            .any(|check| matches!(check.kind, CheckKind::Process { .. }));
        Some(Self {
            about: about.into(),
            node: node.cloned(),
            accuses: !owned,
        })
    }
}

fn accuses(vote: &Vote) -> bool {
    matches!(vote.liveness, Liveness::Suspect | Liveness::Dead)
}
