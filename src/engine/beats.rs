//! Heartbeats: our own on their schedule, and whose life the others' are.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::decision::{Decision, What};
use super::detector::Sent;
use super::episode::Episode;
use super::event::{Ballot, Body, CheckId, Heartbeat, Incarnation, PeerClaim, PeerId};
use super::pace::{Beat, Pace};
use super::settings::{CheckKind, PeerSettings, Settings, Source};
use super::time::Time;

/// Names to places in a list. Only looked up, never walked, with a hasher that is the same in every run. What is
/// looked up comes from outside; what is in it, from the configuration alone: no stranger can make it slow.
type Lookup = HashMap<Arc<str>, usize, BuildHasherDefault<std::hash::DefaultHasher>>;

/// A duplicate node name is told this often.
const DUPLICATE_EVERY: Duration = Duration::from_secs(60);
/// Earlier lives of a node that are remembered, to tell a straggler from a new life.
const EARLIER_BOOTS: usize = 4;
/// So many fresh beats in a row, with none of the life that seemed to succeed it, and an earlier life is the
/// current one after all.
const FRESH_AGAIN: u8 = 3;

/// Our own heartbeats.
#[derive(Clone, Debug)]
pub(super) struct OwnBeats {
    started: Time,
    next: Time,
    last_sent: Option<Time>,
}

impl OwnBeats {
    pub(super) fn new(now: Time) -> Self {
        Self {
            started: now,
            next: now,
            last_sent: None,
        }
    }

    pub(super) fn next_due(&self) -> Time {
        self.next
    }
}

/// Whose life a message is. One look-up by name a message; from there on, places in lists.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    channels: Lookup,
    /// Who listens to each channel.
    listeners: Vec<Vec<Listener>>,
    /// Of each check that listens to channels.
    senders: Vec<Sender>,
    names: Lookup,
    nodes: Vec<Node>,
    duplicate_told: Option<Time>,
    /// The highest number that was given to a life without a name.
    lives: u64,
}

/// A check that listens to a channel. Its sender is one, on however many channels.
#[derive(Clone, Copy, Debug)]
struct Listener {
    check: CheckId,
    sender: usize,
}

/// Another node of the group.
#[derive(Clone, Debug, Default)]
struct Node {
    sender: Sender,
    checks: Vec<CheckId>,
    claims: Vec<(Arc<str>, CheckId)>,
}

/// Who sends on a channel, or for a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Sender {
    boot: Option<Arc<str>>,
    pace: Option<Pace>,
    earlier: Vec<Earlier>,
    /// Beats in a row of a lower uptime, in a life that names no boot.
    behind: u8,
    lives: u64,
}

/// A life that another one seemed to succeed.
#[derive(Clone, Debug)]
struct Earlier {
    boot: Arc<str>,
    pace: Option<Pace>,
    /// Fresh beats in a row since then.
    fresh: u8,
}

/// What one heartbeat says of its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Fresh life; a new one if an incarnation is named.
    Life(Option<Incarnation>),
    /// Late, repeated, or of an earlier life.
    Stale,
}

impl Routes {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut routes = Self::default();
        for (peer, of) in settings.peers() {
            for (index, check) in (0u16..).zip(&of.checks) {
                let id = CheckId { peer, index };
                let CheckKind::Passive { source, .. } = &check.kind else {
                    continue;
                };
                match source {
                    Source::Channels(channels) => routes.listen(channels, id),
                    Source::Node(node) => routes.node(node).checks.push(id),
                    Source::Claim { node, peer } => routes.node(node).claims.push((Arc::clone(peer), id)),
                    Source::Reported { .. } => {}
                }
            }
        }
        routes
    }

    /// These, with what the ones of before know of the senders: of each check, which one it `was`.
    pub(super) fn following(mut self, mut old: Self, was: impl Fn(CheckId) -> Option<CheckId>) -> Self {
        self.duplicate_told = old.duplicate_told;
        // No name of a life is given twice, whoever comes and goes.
        let lives = old
            .senders
            .iter()
            .chain(old.nodes.iter().map(|node| &node.sender));
        self.lives = lives.map(|sender| sender.lives).fold(old.lives, u64::max);
        let senders = old.listeners.iter().flatten();
        let senders: BTreeMap<CheckId, usize> = senders.map(|heard| (heard.check, heard.sender)).collect();
        let listeners: BTreeMap<usize, CheckId> = self
            .listeners
            .iter()
            .flatten()
            .map(|heard| (heard.sender, heard.check))
            .collect();
        for (place, sender) in self.senders.iter_mut().enumerate() {
            let known = listeners.get(&place).and_then(|check| senders.get(&was(*check)?));
            match known {
                Some(known) => *sender = std::mem::take(&mut old.senders[*known]),
                None => sender.lives = self.lives,
            }
        }
        for (name, place) in &self.names {
            let node = &mut self.nodes[*place];
            let heard = node
                .checks
                .iter()
                .chain(node.claims.iter().map(|(_, check)| check));
            let newcomers = heard.copied().any(|check| was(check).is_none());
            match old.names.get(name) {
                // Who listens for the first time can be told of a life only if it has a name.
                Some(known) if !newcomers || old.nodes[*known].sender.boot.is_some() => {
                    node.sender = std::mem::take(&mut old.nodes[*known].sender);
                }
                Some(_) | None => node.sender.lives = self.lives,
            }
        }
        self
    }

    /// The life that the node which this check listens to was last heard in, as far as it names one.
    pub(super) fn life_of(&self, check: CheckId) -> Option<Incarnation> {
        let node = self.nodes.iter().find(|node| node.checks.contains(&check))?;
        let boot = node.sender.boot.as_ref()?;
        Some(Incarnation(format!("boot:{boot}").into()))
    }

    fn listen(&mut self, channels: &[Arc<str>], check: CheckId) {
        let sender = self.senders.len();
        self.senders.push(Sender::default());
        for channel in channels {
            place(&mut self.channels, &mut self.listeners, channel).push(Listener { check, sender });
        }
    }

    fn node(&mut self, name: &Arc<str>) -> &mut Node {
        place(&mut self.names, &mut self.nodes, name)
    }
}

/// What `list` holds under that name; made if it is new.
fn place<'a, T: Default>(places: &mut Lookup, list: &'a mut Vec<T>, name: &Arc<str>) -> &'a mut T {
    let place = *places.entry(Arc::clone(name)).or_insert(list.len());
    if place == list.len() {
        list.push(T::default());
    }
    &mut list[place]
}

impl Sender {
    /// `own` tells lives apart that name no boot, and must differ between runs of this node.
    pub(super) fn hear(&mut self, beat: &Heartbeat, own: &str, now: Time) -> Heard {
        if let Some(boot) = &beat.boot
            && self.boot.as_ref() != Some(boot)
        {
            if let Some(place) = self.earlier.iter().position(|life| life.boot == *boot) {
                return self.hear_earlier(place, beat, now);
            }
            let pace = sender_clock(beat).map(|clock| Pace::first(clock, now));
            self.succeed(Arc::clone(boot), pace);
            return Heard::Life(Some(Incarnation(format!("boot:{boot}").into())));
        }
        let Some(clock) = sender_clock(beat) else {
            return Heard::Life(None);
        };
        let interval = planned_interval(beat);
        let by_uptime = self.boot.is_none();
        match &mut self.pace {
            None => {
                self.pace = Some(Pace::first(clock, now));
                Heard::Life(by_uptime.then(|| self.next_life(own)))
            }
            Some(pace) if by_uptime && pace.is_succeeded_by(clock, now) => {
                *pace = Pace::first(clock, now);
                Heard::Life(Some(self.next_life(own)))
            }
            // Two writers on one channel: life all the same, and no new one. If the one that is ahead is not
            // heard any more, it was another life (whose last beats came late, after a pause of our own).
            Some(pace) if by_uptime && pace.is_behind(clock) => {
                self.behind += 1;
                if self.behind < FRESH_AGAIN {
                    return Heard::Life(None);
                }
                self.behind = 0;
                *pace = Pace::first(clock, now);
                Heard::Life(Some(self.next_life(own)))
            }
            // Out of turn: its slot has been used by a regular heartbeat already, and it may come late.
            Some(pace) if beat.goodbye && !pace.is_past(clock) => Heard::Life(None),
            Some(pace) => {
                self.behind = 0;
                match pace.beat(clock, now, interval) {
                    Beat::Fresh => Heard::Life(None),
                    Beat::Late => Heard::Stale,
                }
            }
        }
    }

    fn succeed(&mut self, boot: Arc<str>, pace: Option<Pace>) {
        let pace = std::mem::replace(&mut self.pace, pace);
        if let Some(boot) = self.boot.replace(boot) {
            self.earlier.insert(0, Earlier { boot, pace, fresh: 0 });
            self.earlier.truncate(EARLIER_BOOTS);
        }
    }

    /// A straggler of an earlier life, or proof that this life never ended: one old message told again (to a
    /// node that has not heard that old life before) must not silence the living for good.
    fn hear_earlier(&mut self, place: usize, beat: &Heartbeat, now: Time) -> Heard {
        let interval = planned_interval(beat);
        let current_is_silent = self
            .pace
            .as_ref()
            .is_none_or(|pace| now.since(pace.arrival()) > interval.saturating_mul(2));
        let life = &mut self.earlier[place];
        let (Some(clock), Some(pace)) = (sender_clock(beat), &mut life.pace) else {
            return Heard::Stale;
        };
        if pace.beat(clock, now, interval) == Beat::Late || !current_is_silent {
            life.fresh = 0;
            return Heard::Stale;
        }
        life.fresh += 1;
        if life.fresh < FRESH_AGAIN {
            return Heard::Stale;
        }
        let life = self.earlier.remove(place);
        let incarnation = Incarnation(format!("boot:{}", life.boot).into());
        self.succeed(life.boot, life.pace);
        Heard::Life(Some(incarnation))
    }

    fn next_life(&mut self, own: &str) -> Incarnation {
        self.lives += 1;
        Incarnation(format!("life:{own}:{}", self.lives).into())
    }
}

pub(super) fn planned_interval(beat: &Heartbeat) -> Duration {
    Duration::from_millis(beat.interval_ms.unwrap_or(1_000).clamp(1, 3_600_000))
}

/// What it tells of its sender's schedule.
fn schedule(beat: &Heartbeat) -> Option<Sent> {
    let (slot, _) = (beat.slot?, beat.interval_ms?);
    Some(Sent {
        slot,
        interval: planned_interval(beat),
        late: Duration::from_millis(beat.late_ms.unwrap_or_default()),
    })
}

/// The sender's own clock: its schedule's slot, else its uptime.
fn sender_clock(beat: &Heartbeat) -> Option<Duration> {
    if let (Some(slot), Some(interval)) = (beat.slot, beat.interval_ms) {
        return Some(Duration::from_millis(slot.saturating_mul(interval.max(1))));
    }
    beat.uptime_s
        .and_then(|uptime| Duration::try_from_secs_f64(uptime).ok())
}

impl Engine {
    /// Publishes the heartbeat of the current slot if its time has come. Slots that were missed stay missed.
    pub(super) fn beat_if_due(&mut self) {
        if self.now >= self.own.next && !self.draining {
            let slot = self.slot();
            self.publish(false);
            let interval = u64::try_from(self.settings.interval.as_nanos()).unwrap_or(u64::MAX);
            let next = interval.saturating_mul(slot.saturating_add(1));
            self.own.next = self.own.started + Duration::from_nanos(next);
        } else if self.draining {
            self.own.next = Time::MAX;
        }
    }

    fn slot(&self) -> u64 {
        let interval = self.settings.interval.as_nanos().max(1);
        u64::try_from(self.now.since(self.own.started).as_nanos() / interval).unwrap_or(u64::MAX)
    }

    /// A heartbeat out of turn, to find out at once whether the bus works. (Its slot is the current one: others
    /// take it for a repetition.)
    pub(super) fn probe_bus(&mut self, since: Time) {
        if self.own.last_sent.is_none_or(|sent| sent < since) {
            self.publish(false);
        }
    }

    pub(super) fn publish(&mut self, goodbye: bool) {
        if !self.trust.can_publish() {
            return;
        }
        let slot = self.slot();
        let late = self.now.since(self.own.next.min(self.now));
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let beat = Heartbeat {
            node: Some(Arc::clone(&self.settings.node)),
            group: Some(Arc::clone(&self.settings.group)),
            boot: Some(Arc::clone(&self.settings.boot)),
            slot: Some(slot),
            late_ms: Some(millis(late)),
            uptime_s: Some(self.now.since(self.started).as_secs_f64()),
            interval_ms: Some(millis(self.settings.interval)),
            goodbye,
            peers: self.claims(),
            ballot: if goodbye {
                Ballot::default()
            } else {
                self.ballot(slot)
            },
        };
        self.own.last_sent = Some(self.now);
        self.trust.sent(slot, self.now);
        self.decisions.push_back(Decision::Publish(beat));
    }

    fn claims(&self) -> Vec<PeerClaim> {
        let local = self
            .settings
            .peers
            .iter()
            .zip(&self.peers)
            .filter(|(settings, _)| settings.local);
        local
            .map(|(settings, peer)| PeerClaim {
                name: Arc::clone(&settings.name),
                liveness: peer.liveness,
                incarnation: peer.incarnation.clone(),
            })
            .collect()
    }

    /// A message on a channel.
    pub(super) fn message(&mut self, channel: &Arc<str>, body: Body) {
        let beat = match body {
            Body::Heartbeat(beat) => Some(beat),
            Body::Opaque => None,
        };
        if let Some(beat) = &beat
            && beat.boot.as_ref() == Some(&self.settings.boot)
        {
            // Ours: proof that we hear, and nobody's life. Where we do not publish, somebody else has said it again.
            if let Some(slot) = beat.slot
                && *channel == self.settings.group_channel
            {
                let changed = self.trust.echo(slot, self.now);
                self.trust_changed(changed);
                self.ask |= !self.waiting.is_empty();
            }
            return;
        }
        self.life_on_channel(channel, beat.as_ref());
        if let Some(beat) = beat
            && *channel == self.settings.group_channel
        {
            self.node_beat(&beat);
        }
    }

    fn life_on_channel(&mut self, channel: &str, beat: Option<&Heartbeat>) {
        let Some(&channel) = self.routes.channels.get(channel) else {
            return;
        };
        let goodbye = beat.is_some_and(|beat| beat.goodbye);
        let sent = beat.and_then(schedule);
        for place in 0..self.routes.listeners[channel].len() {
            let Listener { check, sender } = self.routes.listeners[channel][place];
            let heard = match beat {
                Some(beat) => self.routes.senders[sender].hear(beat, &self.settings.boot, self.now),
                None => Heard::Life(None),
            };
            self.heard(check, heard, goodbye, sent);
        }
    }

    fn node_beat(&mut self, beat: &Heartbeat) {
        let Some(name) = &beat.node else { return };
        if *name == self.settings.node {
            self.duplicate(name);
            return;
        }
        self.hear_votes(beat);
        let Some(&node) = self.routes.names.get(name) else {
            return;
        };
        let heard = self.routes.nodes[node]
            .sender
            .hear(beat, &self.settings.boot, self.now);
        if heard == Heard::Stale {
            return;
        }
        for place in 0..self.routes.nodes[node].checks.len() {
            let check = self.routes.nodes[node].checks[place];
            self.heard(check, heard.clone(), beat.goodbye, schedule(beat));
        }
        for place in 0..self.routes.nodes[node].claims.len() {
            let (peer, check) = &self.routes.nodes[node].claims[place];
            let claim = beat.peers.iter().find(|claim| claim.name == *peer);
            self.claimed(*check, claim, beat.goodbye, schedule(beat));
        }
    }

    fn heard(&mut self, id: CheckId, heard: Heard, goodbye: bool, sent: Option<Sent>) {
        let Heard::Life(incarnation) = heard else { return };
        if goodbye {
            return self.leave(id);
        }
        if let Some(incarnation) = incarnation
            && self.takes_lives_from(id)
        {
            self.new_incarnation(id.peer, incarnation);
        }
        let (now, mark) = (self.now, self.trust.mark(self.now));
        let Some(peer) = self.peers.get_mut(id.peer.0 as usize) else {
            return;
        };
        let Some(check) = peer.checks.get_mut(usize::from(id.index)) else {
            return;
        };
        let first = check.last_pass.is_none();
        check.life(now, mark, sent);
        let overdue = now + check.fresh_window();
        self.answer_if_asked(id);
        let peer = &self.peers[id.peer.0 as usize];
        // What was alive and goes on living needs no judgement: its alarm finds the new deadline, or is moved to it, if
        // what was learned makes that an earlier one.
        if first || !peer.is_quietly_alive() {
            self.judge(id.peer);
        } else {
            self.timers.arm(id.peer, overdue);
        }
    }

    fn claimed(&mut self, id: CheckId, claim: Option<&PeerClaim>, goodbye: bool, sent: Option<Sent>) {
        if goodbye {
            return self.leave(id);
        }
        if let Some(incarnation) = claim.and_then(|claim| claim.incarnation.clone())
            && self.takes_lives_from(id)
        {
            self.new_incarnation(id.peer, incarnation);
        }
        let now = self.now;
        let liveness = claim.map_or(super::peer::Liveness::Unknown, |claim| claim.liveness);
        if let Some(peer) = self.peer_mut(id.peer)
            && let Some(check) = peer.checks.get_mut(usize::from(id.index))
        {
            check.claimed(liveness, now, sent);
            self.judge(id.peer);
        }
    }

    fn leave(&mut self, id: CheckId) {
        // Whom our own remedy takes down says goodbye too: that is nobody's purpose but ours.
        let ours = self.peer(id.peer).is_some_and(|peer| {
            peer.episode
                .as_ref()
                .and_then(Episode::taking_down)
                .is_some_and(|life| peer.incarnation.as_ref() == Some(life))
        });
        if ours {
            return;
        }
        if let Some(peer) = self.peer_mut(id.peer)
            && let Some(check) = peer.checks.get_mut(usize::from(id.index))
        {
            check.leave(super::evidence::Why::Left);
            self.notice(Some(id.peer), What::Goodbye);
            self.judge(id.peer);
        }
    }

    /// Which of a peer's checks tells its lives apart is fixed by the configuration.
    pub(super) fn takes_lives_from(&self, id: CheckId) -> bool {
        let peer = self.settings.peers.get(id.peer.0 as usize);
        peer.and_then(PeerSettings::life_teller) == Some(id.index)
    }

    fn duplicate(&mut self, name: &Arc<str>) {
        if self
            .routes
            .duplicate_told
            .is_some_and(|told| self.now.since(told) < DUPLICATE_EVERY)
        {
            return;
        }
        self.routes.duplicate_told = Some(self.now);
        self.notice(
            None,
            What::DuplicateNode {
                node: Arc::clone(name),
            },
        );
    }

    /// Another life of `peer` is there.
    pub(super) fn new_incarnation(&mut self, id: PeerId, incarnation: Incarnation) {
        let now = self.now;
        let Some(peer) = self.peer_mut(id) else { return };
        peer.exited = false;
        peer.restarting = false;
        peer.exited_under_pause = false;
        if peer.incarnation.as_ref() == Some(&incarnation) {
            return;
        }
        match peer.incarnation.replace(incarnation.clone()) {
            None => {
                for check in &mut peer.checks {
                    check.first_life(now, &incarnation);
                }
                if peer
                    .leaving
                    .as_mut()
                    .is_some_and(|leaving| !leaving.is_of(&incarnation))
                {
                    self.begin_life(id);
                }
            }
            Some(before) => {
                peer.incarnations += 1;
                self.life_ended(id, &before);
                self.begin_life(id);
            }
        }
        self.recall(id, &incarnation);
        self.notice(Some(id), What::Incarnation { incarnation });
        self.end_pulse_of(id);
        self.saving.soon();
    }

    /// What was seen of `id` so far was not of the life that begins now.
    pub(super) fn begin_life(&mut self, id: PeerId) {
        let (now, mark) = (self.now, self.trust.mark(self.now));
        let grace = self.settings.peers[id.0 as usize].grace;
        let Some(peer) = self.peer_mut(id) else { return };
        let left = peer.leaving.take().is_some();
        for check in &mut peer.checks {
            check.new_life(now, mark);
        }
        peer.grace_until = now + grace;
        if left {
            // Else a restart of the node would bring its purpose back.
            self.saving.soon();
        }
    }
}
