//! May I believe what I see? The node's trust in its links, its echoes and its own timers.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cause::Cause;
use super::event::{Link, LinkStatus, Role};
use super::snapshot::LinkView;
use super::time::Time;

/// The engine wants to be called this often, even if nothing happens.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// A tick later than this is a pause of our own.
const LATE: Duration = Duration::from_millis(500);
/// Heartbeats of ours that may be under way; more than that means that no echo returns anyway.
const UNDER_WAY: usize = 64;
/// So many late echoes in a row are worth telling: the bus is too slow to judge silence by it.
const LATE_ECHOES: u32 = 5;
/// A replica is left this often, to find out who the master is; twice as long after each time that it was in vain.
const RESOLVE_EVERY: Duration = Duration::from_secs(5);
/// The longest of these waits.
const RESOLVE_MAX: Duration = Duration::from_secs(60);

/// The node's trust in its bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BusState {
    /// No echo yet since the start.
    Starting,
    /// Links up, echoes returning: bus evidence counts.
    Trusted,
    /// Both links are down.
    BrokerUnreachable,
    /// The server refuses what the node needs.
    BusRefused,
    /// Only the pub link fails.
    SelfMute,
    /// Only the sub link fails, or echoes do not return.
    SelfDeaf,
    /// The server is a replica.
    WrongBroker,
}

impl BusState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Starting,
        Self::Trusted,
        Self::BrokerUnreachable,
        Self::BusRefused,
        Self::SelfMute,
        Self::SelfDeaf,
        Self::WrongBroker,
    ];

    /// As written in labels and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Trusted => "trusted",
            Self::BrokerUnreachable => "broker_unreachable",
            Self::BusRefused => "bus_refused",
            Self::SelfMute => "self_mute",
            Self::SelfDeaf => "self_deaf",
            Self::WrongBroker => "wrong_broker",
        }
    }
}

impl BusState {
    /// The cause that this state gives to what is held back by it.
    pub const fn cause(self) -> Option<Cause> {
        match self {
            Self::Starting | Self::Trusted => None,
            Self::BrokerUnreachable => Some(Cause::BrokerUnreachable),
            Self::BusRefused => Some(Cause::BusRefused),
            Self::SelfMute => Some(Cause::SelfMute),
            Self::SelfDeaf => Some(Cause::SelfDeaf),
            Self::WrongBroker => Some(Cause::WrongBroker),
        }
    }

    /// An outage: the bus itself was away or wrong, for everybody. Ends with `bus_settle`.
    const fn is_outage(self) -> bool {
        match self {
            Self::BrokerUnreachable | Self::BusRefused | Self::WrongBroker => true,
            Self::Starting | Self::Trusted | Self::SelfMute | Self::SelfDeaf => false,
        }
    }
}

impl fmt::Display for BusState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One link, as last reported.
#[derive(Clone, Debug)]
struct LinkState {
    /// `None`: nothing reported yet.
    status: Option<LinkStatus>,
    /// When it last came up.
    up_since: Time,
    replaced: u64,
    /// Its next loss is one that we asked for.
    asked_to_leave: bool,
}

impl LinkState {
    fn new() -> Self {
        Self {
            status: None,
            up_since: Time::ZERO,
            replaced: 0,
            asked_to_leave: false,
        }
    }

    fn up(&self) -> bool {
        matches!(self.status, Some(LinkStatus::Up { .. }))
    }

    fn view(&self) -> LinkView {
        let (role, detail) = match &self.status {
            Some(LinkStatus::Up { role, .. }) => (*role, None),
            Some(LinkStatus::Down { reason }) => (Role::Unknown, Some(reason.clone())),
            Some(LinkStatus::Refused { cure }) => (Role::Unknown, Some(cure.clone())),
            None => (Role::Unknown, Some("not connected yet".to_owned())),
        };
        LinkView {
            up: self.up(),
            role,
            detail,
            replaced: self.replaced,
        }
    }
}

/// How much silence our echoes have proven to be silence, so far: a clock that runs only while reception is
/// proven. A check remembers where it stood at the peer's last life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Coverage {
    proven: Duration,
    echoes: u64,
}

impl Coverage {
    /// We listened and heard, without a hole, for `length` since `earlier`.
    pub(super) fn spans(self, earlier: Self, length: Duration) -> bool {
        self.proven.saturating_sub(earlier.proven) + Duration::from_millis(1) >= length
    }
}

/// A heartbeat of ours that has not come back yet.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    slot: u64,
    sent: Time,
    /// The server took it. One that it did not take proves nothing about receiving.
    taken: bool,
}

/// What a change of trust asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// Something is worth telling.
    pub(super) tell: bool,
    /// The state is another one.
    pub(super) state: bool,
    /// Bus evidence counts again from now on, and only from now on.
    pub(super) regained: bool,
    /// This link is to be replaced.
    pub(super) replace: Option<(Link, Cause)>,
    /// Both are: the name must be resolved again.
    pub(super) resolve: bool,
}

/// The node's trust in itself.
#[derive(Clone, Debug)]
pub(super) struct SelfTrust {
    interval: Duration,
    settle: Duration,
    publishing: LinkState,
    subscribed: LinkState,
    under_way: VecDeque<UnderWay>,
    /// When the latest heartbeat that came back was sent.
    echoed: Option<Time>,
    /// The same, if it came back promptly and nothing broke the run of echoes since.
    run: Option<Time>,
    /// The slot of the last echo. Another one of the same slot was sent out of turn and proves no more silence:
    /// it would only put off what is pending.
    slot: Option<u64>,
    coverage: Coverage,
    /// Coverage that counts from then on. A server that was stopped runs one client's queue after the other
    /// (measured on 7.0.15): our echo may overtake a peer's heartbeat by a moment.
    pending: Option<(Coverage, Time)>,
    last_echo: Option<Time>,
    echo_took: Option<Duration>,
    /// Only echoes of heartbeats sent after this restore trust.
    trust_from: Time,
    deaf: bool,
    mute: bool,
    /// Echoes in a row that came back too late to prove anything.
    late_echoes: u32,
    /// Times in a row that the sub link was replaced and no echo came back over the new one either.
    replaced_in_vain: u32,
    /// When a link's role was last read.
    role_read: Option<Time>,
    state: BusState,
    since: Time,
    detail: String,
    settling_until: Option<Time>,
    /// An outage began and was not yet survived by an echo.
    outage: bool,
    /// When both links may be left again, and how long that wait was.
    resolved: Option<(Time, Duration)>,

    last_turn: Time,
    suspended: Option<Duration>,
    stalled_at: Option<Time>,
    stalls: u64,
}

impl SelfTrust {
    pub(super) fn new(interval: Duration, settle: Duration, now: Time) -> Self {
        Self {
            interval,
            settle,
            publishing: LinkState::new(),
            subscribed: LinkState::new(),
            under_way: VecDeque::new(),
            echoed: None,
            run: None,
            slot: None,
            coverage: Coverage::default(),
            pending: None,
            last_echo: None,
            echo_took: None,
            trust_from: now,
            deaf: false,
            mute: false,
            late_echoes: 0,
            replaced_in_vain: 0,
            role_read: None,
            state: BusState::Starting,
            since: now,
            detail: "no echo of our own heartbeat yet".to_owned(),
            settling_until: None,
            // A start may be part of an outage: a host that comes back brings everything up at once.
            outage: true,
            resolved: None,
            last_turn: now,
            suspended: None,
            stalled_at: None,
            stalls: 0,
        }
    }

    /// Another `bus_settle`; a settling time that has begun ends as it would have.
    pub(super) fn configure(&mut self, settle: Duration) {
        self.settle = settle;
    }

    pub(super) fn state(&self) -> BusState {
        self.state
    }

    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// Also on a link that the server refuses something: whether it still does, only the next heartbeat tells.
    pub(super) fn can_publish(&self) -> bool {
        matches!(
            self.publishing.status,
            Some(LinkStatus::Up { .. } | LinkStatus::Refused { .. })
        )
    }

    pub(super) fn settling_until(&self) -> Option<Time> {
        self.settling_until
    }

    pub(super) fn settling(&self, now: Time) -> bool {
        self.settling_until.is_some_and(|until| now < until)
    }

    /// When our last own pause ended.
    pub(super) fn stalled_at(&self) -> Option<Time> {
        self.stalled_at
    }

    /// Where the clock of proven reception stands at `now`; remembered with a peer's life.
    pub(super) fn mark(&self, now: Time) -> Coverage {
        let mut mark = self.pending.map_or(self.coverage, |(pending, _)| pending);
        if let Some(run) = self.run {
            // The stretch from our last echo to this life will be proven by the next echo, and is not silence.
            mark.proven += now.since(run);
        }
        mark
    }

    /// At least two heartbeats of ours, sent after `mark`, came back.
    pub(super) fn covers_suspicion(&self, mark: Coverage) -> bool {
        self.coverage.echoes >= mark.echoes + 2 && self.covers(mark, self.interval)
    }

    /// So much silence since `mark` is proven.
    pub(super) fn covers(&self, mark: Coverage, silence: Duration) -> bool {
        self.coverage.proven.saturating_sub(mark.proven) >= silence
    }

    /// A heartbeat of ours, sent at `at` or later, came back: what happened at `at` was not the bus's doing.
    pub(super) fn outlives(&self, at: Time) -> bool {
        self.echoed.is_some_and(|sent| sent >= at)
    }

    /// The bus could be trusted at `at` and ever since, it has settled, and a heartbeat sent after `at` came back.
    pub(super) fn worked_since(&self, at: Time, now: Time) -> bool {
        self.state == BusState::Trusted && self.since <= at && !self.settling(now) && self.outlives(at)
    }

    /// A link's role was read at `at` or later.
    pub(super) fn role_read_since(&self, at: Time) -> bool {
        self.role_read.is_some_and(|read| read >= at)
    }

    /// Messages were lost: the silence since the last echo is unproven.
    pub(super) fn lost(&mut self) {
        self.run = None;
    }

    /// Coverage that has become due counts from now on. True if there was any.
    pub(super) fn mature(&mut self, now: Time) -> bool {
        match self.pending {
            Some((coverage, due)) if now >= due => {
                self.coverage = coverage;
                self.pending = None;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Called first at every event: was the node running when it should have been? If not: until when it was, and
    /// for how long it was not.
    pub(super) fn turn(&mut self, now: Time, suspended: Option<Duration>) -> Option<(Time, Duration)> {
        let last = std::mem::replace(&mut self.last_turn, now);
        let late = now.since(last).saturating_sub(TICK);
        let mut stalled = (late > LATE).then_some(late);
        if let Some(suspended) = suspended {
            let before = self.suspended.replace(suspended).unwrap_or(suspended);
            let changed = suspended.abs_diff(before);
            if changed > LATE {
                stalled = Some(stalled.unwrap_or_default() + changed);
            }
        }
        if stalled.is_some() {
            self.stalled_at = Some(now);
            self.stalls += 1;
            // What was under way may have come and gone unread.
            self.under_way.clear();
            self.run = None;
        }
        stalled.map(|pause| (last, pause))
    }

    /// When [`Self::turn`] must be called next.
    pub(super) fn next_turn(&self) -> Time {
        let turn = self.last_turn + TICK;
        self.pending.map_or(turn, |(_, due)| due.min(turn))
    }

    /// A heartbeat of ours goes out.
    pub(super) fn sent(&mut self, slot: u64, now: Time) {
        if self.under_way.len() == UNDER_WAY {
            self.under_way.pop_front();
        }
        self.under_way.push_back(UnderWay {
            slot,
            sent: now,
            taken: false,
        });
    }

    /// The server took it; how many it says it gave it to.
    pub(super) fn taken(&mut self, slot: u64, receivers: u64, now: Time) -> Changed {
        let Some(beat) = self
            .under_way
            .iter_mut()
            .find(|beat| beat.slot == slot && !beat.taken)
        else {
            return Changed::default();
        };
        beat.taken = true;
        let sent = beat.sent;
        let plain = matches!(self.publishing.status, Some(LinkStatus::Up { plain: true, .. }));
        // Counts only where the server counts truly, and only for a subscription older than the message.
        if receivers == 0 && plain && self.subscribed.up() && self.subscribed.up_since < sent {
            self.deaf = true;
            return self.refresh(Some(Link::Sub), now);
        }
        Changed::default()
    }

    /// It did not: this beat proves nothing.
    pub(super) fn not_taken(&mut self, slot: u64) {
        self.under_way.retain(|beat| beat.slot != slot || beat.taken);
    }

    /// A heartbeat of ours came back.
    pub(super) fn echo(&mut self, slot: u64, now: Time) -> Changed {
        let Some(place) = self.under_way.iter().position(|beat| beat.slot == slot) else {
            return Changed::default();
        };
        let sent = self.under_way[place].sent;
        self.under_way.drain(..=place);
        self.last_echo = Some(now);
        self.echo_took = Some(now.since(sent));
        if sent < self.trust_from {
            return Changed::default();
        }
        self.mature(now);
        if self.slot.replace(slot) != Some(slot) {
            self.extend_run(sent, now);
        }
        self.echoed = Some(sent);
        self.deaf = false;
        self.mute = false;
        self.replaced_in_vain = 0;
        self.refresh(None, now)
    }

    /// A prompt echo proves the stretch since the one before; a late one proves an interruption.
    fn extend_run(&mut self, sent: Time, now: Time) {
        let prompt = now.since(sent) <= self.interval / 2;
        let mut coverage = self.pending.map_or(self.coverage, |(pending, _)| pending);
        if let Some(before) = self.run
            && prompt
            && sent.since(before) <= self.interval.saturating_mul(3) / 2
        {
            coverage.proven += sent.since(before);
        }
        coverage.echoes += 1;
        self.late_echoes = if prompt {
            0
        } else {
            self.late_echoes.saturating_add(1)
        };
        self.run = prompt.then_some(sent);
        self.pending = Some((coverage, now + self.interval / 4));
    }

    #[cfg(test)]
    pub(super) fn under_way_slots(&self) -> Vec<u64> {
        self.under_way.iter().map(|beat| beat.slot).collect()
    }

    /// A link's report.
    pub(super) fn link(&mut self, link: Link, status: LinkStatus, now: Time) -> Changed {
        let state = match link {
            Link::Pub => &mut self.publishing,
            Link::Sub => &mut self.subscribed,
        };
        let was_up = state.up();
        state.status = Some(status);
        let up = state.up();
        if up {
            self.role_read = Some(now);
        }
        if up && !was_up {
            state.up_since = now;
        }
        if was_up && !up {
            // A loss that was not our own doing may be an outage too short for both links to be down at once (a
            // restarted server): clients may exit of it. After a pause of our own too: it may have been one that
            // we slept through.
            let ours = std::mem::take(&mut state.asked_to_leave);
            self.outage |= !ours;
            // The next echo must have travelled on the new connections.
            self.under_way.clear();
            self.run = None;
        }
        self.refresh(None, now)
    }

    /// Time passed: is an echo missing, is the settling over?
    pub(super) fn tick(&mut self, now: Time) -> Changed {
        self.outage |= self.state.is_outage();
        if self.settling_until.is_some_and(|until| now >= until) {
            self.settling_until = None;
            return Changed {
                regained: true,
                ..Changed::default()
            };
        }
        let link = if self.echo_is_missing(now) {
            self.deaf = true;
            self.replaced_in_vain = self.replaced_in_vain.saturating_add(1);
            Some(Link::Sub)
        } else if self.nothing_is_taken(now) {
            self.mute = true;
            Some(Link::Pub)
        } else if self.state == BusState::WrongBroker {
            None
        } else {
            return Changed::default();
        };
        if link.is_some() {
            self.under_way.clear();
            self.run = None;
        }
        self.refresh(link, now)
    }

    /// The server took a heartbeat of ours, and it has not come back before the next but one is nearly due.
    fn echo_is_missing(&self, now: Time) -> bool {
        // A new connection helps against a dark one; against anything else, ever more of them are no help.
        let patience = 1 << self.replaced_in_vain.min(4);
        let overdue = self.interval.saturating_mul(3 * patience) / 2;
        self.subscribed.up()
            && self.under_way.iter().any(|beat| {
                beat.taken && now.since(beat.sent) >= overdue && self.subscribed.up_since <= beat.sent
            })
    }

    /// Both links answer their PING, and still nothing of ours goes round (a server under CLIENT PAUSE WRITE, as
    /// failovers use it, answers PING and holds PUBLISH).
    fn nothing_is_taken(&self, now: Time) -> bool {
        let last = [
            self.last_echo,
            self.stalled_at,
            Some(self.since),
            Some(self.publishing.up_since),
        ];
        let last = last.into_iter().flatten().max().unwrap_or(Time::ZERO);
        self.publishing.up()
            && self.subscribed.up()
            && self.state == BusState::Trusted
            && now.since(last) >= self.interval.saturating_mul(3)
    }

    /// Works out the state anew; the one place where it changes.
    fn refresh(&mut self, replace: Option<Link>, now: Time) -> Changed {
        let (state, detail) = self.judge();
        let mut changed = Changed::default();
        if let Some(link) = replace {
            changed.replace = Some((
                link,
                if link == Link::Sub {
                    Cause::SelfDeaf
                } else {
                    Cause::SelfMute
                },
            ));
            self.leave(link);
        }
        if state == BusState::WrongBroker && self.resolved.is_none_or(|(again, _)| now >= again) {
            let wait = self
                .resolved
                .map_or(RESOLVE_EVERY, |(_, wait)| wait.saturating_mul(2).min(RESOLVE_MAX));
            self.resolved = Some((now + wait, wait));
            changed.resolve = true;
        }
        // Trust comes back with an echo, not with a connection.
        let waits_for_echo = state == BusState::Trusted
            && self.state != BusState::Trusted
            && self.echoed.is_none_or(|sent| sent < self.trust_from);
        if waits_for_echo {
            return changed;
        }
        if state == self.state {
            changed.tell = state == BusState::Trusted && detail != self.detail;
            self.detail = detail;
            return changed;
        }
        changed.tell = true;
        changed.state = true;
        if state == BusState::Trusted {
            self.resolved = None;
            changed.regained = true;
            if std::mem::take(&mut self.outage) {
                self.settling_until = Some(now + self.settle);
            }
        } else {
            let outage = state.is_outage() || self.mute;
            self.outage |= self.settling(now) || outage;
            self.trust_from = now;
            self.echoed = None;
            self.run = None;
            self.settling_until = None;
        }
        self.since = now;
        self.state = state;
        self.detail = detail;
        changed
    }

    fn leave(&mut self, link: Link) {
        let state = match link {
            Link::Pub => &mut self.publishing,
            Link::Sub => &mut self.subscribed,
        };
        state.replaced += 1;
        state.asked_to_leave = state.up();
    }

    fn judge(&self) -> (BusState, String) {
        use LinkStatus::{Down, Refused, Up};
        let replica = "the server is a replica: point bus.url at the master";
        match (&self.publishing.status, &self.subscribed.status) {
            (Some(Refused { cure }), _) | (_, Some(Refused { cure })) => (BusState::BusRefused, cure.clone()),
            (None, _) | (_, None) => (BusState::Starting, self.detail.clone()),
            (Some(Down { reason }), Some(Down { .. })) => (BusState::BrokerUnreachable, reason.clone()),
            (
                Some(Up {
                    role: Role::Replica, ..
                }),
                _,
            )
            | (
                _,
                Some(Up {
                    role: Role::Replica, ..
                }),
            ) => (BusState::WrongBroker, replica.to_owned()),
            (Some(Down { reason }), Some(Up { .. })) => (BusState::SelfMute, reason.clone()),
            (Some(Up { .. }), Some(Down { reason })) => (BusState::SelfDeaf, reason.clone()),
            (Some(Up { .. }), Some(Up { .. })) if self.mute => (
                BusState::SelfMute,
                "the server answers and does not take our heartbeats".to_owned(),
            ),
            (Some(Up { .. }), Some(Up { .. })) if self.deaf => (
                BusState::SelfDeaf,
                "our own heartbeats do not come back".to_owned(),
            ),
            (Some(Up { .. }), Some(Up { .. })) if self.late_echoes >= LATE_ECHOES => (
                BusState::Trusted,
                "our echoes return, but later than half an interval: silence cannot be proven".to_owned(),
            ),
            (Some(Up { .. }), Some(Up { .. })) => (BusState::Trusted, "our echoes return".to_owned()),
        }
    }

    pub(super) fn view(&self, now: Time) -> super::snapshot::TrustView {
        super::snapshot::TrustView {
            bus: self.state,
            since: self.since,
            detail: self.detail.clone(),
            publishing: self.publishing.view(),
            subscribed: self.subscribed.view(),
            last_echo: self.last_echo,
            echo_took: self.echo_took,
            settling_until: self.settling_until.filter(|until| now < *until),
            stalled_until: self
                .stalled_at
                .map(|at| at + self.interval.saturating_mul(2))
                .filter(|until| now < *until),
            stalls: self.stalls,
        }
    }
}
