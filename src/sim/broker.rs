//! The one broker, its ways of being away, and what its subscriptions do to messages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::node::{Arrival, Echo};
use super::scenario::GROUP;
use super::world::{Happening, OnlyIf, S, WireId, World};
use crate::engine::event::{Body, Event, Link, LinkStatus, Role};
use crate::engine::time::Time;

/// Old messages that a lying bus may tell again.
const HISTORY: usize = 200;

#[derive(Debug)]
pub(super) struct Broker {
    pub(super) up: bool,
    /// It neither answers nor closes anything (SIGSTOP, a partition).
    pub(super) silent: Option<u64>,
    /// PUBLISH is held and PING answered (CLIENT PAUSE WRITE).
    pub(super) held: bool,
    pub(super) role: Role,
    /// Its clients go over to another server.
    pub(super) leaving: bool,
    /// What clients sent meanwhile.
    pub(super) backlog: Vec<Parcel>,
    history: VecDeque<Parcel>,
}

/// A message on its way to the broker.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub(super) sender: Sender,
    pub(super) channel: Arc<str>,
    pub(super) body: Body,
    pub(super) sent: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sender {
    Process(usize),
    Node {
        node: usize,
        run: u32,
        epoch: u64,
        slot: u64,
    },
}

/// One of a node's connections.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    /// As the node sees it.
    pub(super) up: bool,
    /// As it is.
    pub(super) alive: bool,
    /// What is sent on it is lost.
    pub(super) dark: bool,
    /// No connection can be made before.
    pub(super) path_dark_until: Time,
    pub(super) epoch: u64,
    pub(super) in_flight: Vec<u64>,
    pub(super) delay: Duration,
    pub(super) next: Time,
}

impl Broker {
    pub(super) fn new() -> Self {
        Self {
            up: true,
            silent: None,
            held: false,
            role: Role::Master,
            leaving: false,
            backlog: Vec::new(),
            history: VecDeque::new(),
        }
    }

    pub(super) fn answers(&self) -> bool {
        self.up && self.silent.is_none()
    }

    /// Nothing is wrong with it as a whole.
    pub(super) fn is_well(&self) -> bool {
        self.answers() && !self.held && !self.leaving
    }
}

impl Wire {
    pub(super) fn new() -> Self {
        Self {
            up: false,
            alive: false,
            dark: false,
            path_dark_until: Time::ZERO,
            epoch: 0,
            in_flight: Vec::new(),
            delay: Duration::ZERO,
            next: Time::ZERO,
        }
    }
}

pub(super) const fn place(link: Link) -> usize {
    match link {
        Link::Pub => 0,
        Link::Sub => 1,
    }
}

impl World {
    pub(super) fn broker_away_for(&self, length: Duration) -> bool {
        let since = self.oracle.outages.back().map_or(self.now, |outage| outage.begin);
        !self.broker.answers() && self.now.since(since) >= length
    }

    pub(super) fn wire(&self, node: usize, link: Link) -> &Wire {
        &self.nodes[node].wires[place(link)]
    }

    pub(super) fn wire_mut(&mut self, node: usize, link: Link) -> &mut Wire {
        &mut self.nodes[node].wires[place(link)]
    }

    pub(super) fn wire_id(&self, node: usize, link: Link) -> WireId {
        WireId {
            node,
            run: self.nodes[node].run,
            link,
            epoch: self.wire(node, link).epoch,
        }
    }

    /// The node will notice within `within` that this connection is gone.
    pub(super) fn lose(&mut self, node: usize, link: Link, within: Duration, only_if: OnlyIf) {
        let wire = self.wire_id(node, link);
        self.after(within, Happening::Lost { wire, only_if });
    }

    pub(super) fn lost(&mut self, id: WireId, only_if: OnlyIf) {
        let of = &self.nodes[id.node];
        let current = of.wires[place(id.link)].epoch == id.epoch && of.run == id.run;
        if !current || !of.wires[place(id.link)].up {
            return;
        }
        if let Some(until) = of.frozen_until() {
            let at = until + self.rng.millis(1, 30);
            self.queue.put(at, Happening::Lost { wire: id, only_if });
            return;
        }
        let holds = match only_if {
            OnlyIf::Always => true,
            OnlyIf::Silent(silence) => self.broker.silent == Some(silence),
            OnlyIf::Dark => of.wires[place(id.link)].dark,
        };
        if !holds {
            return;
        }
        let wire = self.wire_mut(id.node, id.link);
        wire.up = false;
        wire.alive = false;
        wire.epoch += 1;
        let unanswered = std::mem::take(&mut wire.in_flight);
        for slot in unanswered {
            self.deliver_to(
                id.node,
                Duration::ZERO,
                Arrival::of(Event::PublishFailed { slot }),
            );
        }
        let reason = "connection lost".to_owned();
        let status = LinkStatus::Down { reason };
        self.deliver_to(
            id.node,
            Duration::ZERO,
            Arrival::of(Event::Link {
                link: id.link,
                status,
            }),
        );
        let again = self.rng.millis(2, 300);
        let wire = self.wire_id(id.node, id.link);
        self.after(again, Happening::Try { wire });
    }

    pub(super) fn try_wire(&mut self, id: WireId) {
        let of = &self.nodes[id.node];
        let wire = &of.wires[place(id.link)];
        if of.run != id.run || wire.epoch != id.epoch || wire.up || of.engine.is_none() {
            return;
        }
        if let Some(until) = of.frozen_until() {
            let at = until + self.rng.millis(1, 30);
            return self.queue.put(at, Happening::Try { wire: id });
        }
        if !self.broker.answers() || self.now < wire.path_dark_until {
            let again = self.rng.millis(100, 2_000);
            return self.after(again, Happening::Try { wire: id });
        }
        let wire = self.wire_mut(id.node, id.link);
        wire.up = true;
        wire.alive = true;
        wire.dark = false;
        self.tell_role(id);
        let every = self.scenario.role_every;
        self.after(every, Happening::Role { wire: id });
    }

    pub(super) fn read_role(&mut self, id: WireId) {
        let of = &self.nodes[id.node];
        let wire = &of.wires[place(id.link)];
        if of.run != id.run || wire.epoch != id.epoch || !wire.up {
            return;
        }
        if let Some(until) = of.frozen_until() {
            let at = until + self.rng.millis(1, 30);
            return self.queue.put(at, Happening::Role { wire: id });
        }
        if wire.alive && !wire.dark && self.broker.answers() {
            self.tell_role(id);
        }
        let every = self.scenario.role_every;
        self.after(every, Happening::Role { wire: id });
    }

    fn tell_role(&mut self, id: WireId) {
        let status = LinkStatus::Up {
            role: self.broker.role,
            plain: self.scenario.plain,
        };
        let arrival = Arrival {
            over: Some((id.link, id.epoch)),
            ..Arrival::of(Event::Link {
                link: id.link,
                status,
            })
        };
        let latency = self.rng.millis(0, 1);
        self.deliver_to(id.node, latency, arrival);
    }

    /// A node wants its heartbeat published.
    pub(super) fn publish(&mut self, node: usize, beat: crate::engine::event::Heartbeat) {
        let slot = beat.slot.unwrap_or_default();
        let (run, wire) = (self.nodes[node].run, self.wire(node, Link::Pub));
        let (epoch, delay) = (wire.epoch, wire.delay);
        if !wire.up || wire.in_flight.len() >= 2 {
            return self.deliver_to(node, Duration::ZERO, Arrival::of(Event::PublishFailed { slot }));
        }
        let (alive, dark) = (wire.alive, wire.dark);
        self.wire_mut(node, Link::Pub).in_flight.push(slot);
        if !alive {
            return self.lose(node, Link::Pub, Duration::from_micros(200), OnlyIf::Always);
        }
        if dark {
            return;
        }
        let parcel = Parcel {
            sender: Sender::Node {
                node,
                run,
                epoch,
                slot,
            },
            channel: GROUP.into(),
            body: Body::Heartbeat(beat),
            sent: self.now,
        };
        let latency = self.rng.millis(0, 2) + delay;
        self.after(latency, Happening::AtBroker(parcel));
    }

    pub(super) fn at_broker(&mut self, parcel: Parcel) {
        if !self.broker.up {
            return;
        }
        if self.broker.silent.is_some() || self.broker.held {
            self.broker.backlog.push(parcel);
            return;
        }
        self.carry(parcel);
    }

    /// A server that was stopped runs one client's queue after the other.
    pub(super) fn run_backlog(&mut self) {
        let backlog = std::mem::take(&mut self.broker.backlog);
        let mut senders: Vec<(u8, usize)> = Vec::new();
        let of = |sender: Sender| match sender {
            Sender::Process(process) => (0, process),
            Sender::Node { node, .. } => (1, node),
        };
        for parcel in &backlog {
            if !senders.contains(&of(parcel.sender)) {
                senders.push(of(parcel.sender));
            }
        }
        self.rng.shuffle(&mut senders);
        for sender in senders {
            for parcel in backlog.iter().filter(|parcel| of(parcel.sender) == sender) {
                self.carry(parcel.clone());
            }
        }
    }

    fn carry(&mut self, parcel: Parcel) {
        if let Sender::Process(process) = parcel.sender
            && self.processes[process].moved
        {
            return;
        }
        if self.broker.history.len() == HISTORY {
            self.broker.history.pop_front();
        }
        self.broker.history.push_back(parcel.clone());
        let mut receivers = 0;
        for node in 0..self.nodes.len() {
            if self.wire(node, Link::Sub).alive && self.nodes[node].engine.is_some() {
                receivers += 1;
                if self.nodes[node].listens_to(&parcel.channel) {
                    self.fan_out(node, &parcel);
                }
            }
        }
        if let Sender::Node {
            node,
            run,
            epoch,
            slot,
        } = parcel.sender
        {
            let current = self.nodes[node].run == run && self.wire(node, Link::Pub).epoch == epoch;
            if current && self.wire(node, Link::Pub).alive && !self.wire(node, Link::Pub).dark {
                self.wire_mut(node, Link::Pub)
                    .in_flight
                    .retain(|in_flight| *in_flight != slot);
                let arrival = Arrival {
                    over: Some((Link::Pub, epoch)),
                    ..Arrival::of(Event::Published { slot, receivers })
                };
                let latency = self.rng.millis(0, 2);
                self.deliver_to(node, latency, arrival);
            }
        }
    }

    fn fan_out(&mut self, node: usize, parcel: &Parcel) {
        let of = &mut self.nodes[node];
        if of.wires[1].dark || of.lie.forgets.as_ref() == Some(&parcel.channel) {
            return;
        }
        if self.now < of.overflow_until {
            of.overflowed += 1;
            return;
        }
        if of.lie.loss > 0 && self.rng.chance(of.lie.loss) {
            return;
        }
        let reorders = of.lie.reorders;
        let mut at = self.now + self.rng.millis(0, 2);
        if reorders {
            at = at + self.rng.millis(0, 1_500);
        } else {
            let wire = self.wire_mut(node, Link::Sub);
            at = (at + wire.delay).max(wire.next);
            wire.next = at;
        }
        self.pass_on(node, parcel, at);
    }

    fn pass_on(&mut self, node: usize, parcel: &Parcel, at: Time) {
        let own = matches!(parcel.sender, Sender::Node { node: from, run, .. }
            if from == node && run == self.nodes[node].run);
        let arrival = Arrival {
            event: Event::Message {
                channel: Arc::clone(&parcel.channel),
                body: parcel.body.clone(),
            },
            over: Some((Link::Sub, self.wire(node, Link::Sub).epoch)),
            echo: own.then_some(Echo {
                sent: parcel.sent,
                taken: self.now,
                came: at,
            }),
        };
        let run = self.nodes[node].run;
        self.queue.put(
            at,
            Happening::Arrive {
                node,
                run,
                what: arrival,
            },
        );
    }

    /// A lying bus tells something old again.
    pub(super) fn replay(&mut self, node: usize, lie: u64) {
        if self.nodes[node].lie.serial != lie {
            return;
        }
        let next = self.rng.millis(100, 900);
        self.after(next, Happening::Replay { node, lie });
        let mut place = self.rng.below(self.broker.history.len());
        // What a silent sender said last is told again more often: that is the lie that matters. (Its past told again in
        // order and at its pace would be a sender whose clock was set back, and that one must be believed.)
        if self.rng.chance(50) {
            let silent = |parcel: &Parcel| match parcel.sender {
                Sender::Process(process) => !self.processes[process].healthy(),
                Sender::Node { node, .. } => !self.nodes[node].healthy(self.now),
            };
            place = self.broker.history.iter().rposition(silent).unwrap_or(place);
        }
        let Some(parcel) = self.broker.history.get(place).cloned() else {
            return;
        };
        let ready = self.wire(node, Link::Sub).alive && self.broker.answers();
        if ready && self.nodes[node].listens_to(&parcel.channel) && self.now.since(parcel.sent) > S {
            let parcel = Parcel {
                sender: Sender::Node {
                    node: usize::MAX,
                    run: 0,
                    epoch: 0,
                    slot: 0,
                },
                ..parcel
            };
            self.pass_on(node, &parcel, self.now);
        }
    }
}
