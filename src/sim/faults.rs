//! What goes wrong, at random; and the end of it.

use std::time::Duration;

use super::executor::Mode;
use super::node::Arrival;
use super::oracle::OutageKind;
use super::process::State;
use super::world::{Happening, MS, OnlyIf, S, World};
use crate::engine::event::{Event, Link, OperatorRequest, Role};
use crate::engine::settings::PeerSettings;
use crate::engine::time::Time;

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    BrokerDown,
    BrokerSilent(u64),
    /// Clients' own time-outs pass while it is silent.
    SilentForLong(u64),
    /// It knows by now that it is a replica.
    Master,
    Demoted,
    Held,
    Stopped {
        process: usize,
        life: u64,
    },
    Stuck {
        process: usize,
        life: u64,
    },
    Delay {
        node: usize,
        link: Link,
    },
    Lie {
        node: usize,
        lie: u64,
    },
    Mode {
        node: usize,
    },
    Blind {
        node: usize,
    },
    Car,
}

type Injector = fn(&mut World);

/// Their names, and how often each is drawn.
const FAULTS: [(&str, usize, Injector); 28] = [
    ("process_crash", 12, World::crash_process),
    ("process_stop", 6, World::stop_process),
    ("process_stuck", 6, World::stick_process),
    ("processes_crash_together", 2, World::crash_processes),
    ("flapping_process", 2, World::flap),
    ("broker_down", 6, World::broker_down),
    ("broker_down_for_long", 1, World::broker_down_for_long),
    ("broker_silent", 6, World::broker_silent),
    ("broker_restarted_fast", 5, World::broker_restart),
    ("broker_demoted", 5, World::demote),
    ("publish_hangs", 3, World::hold),
    ("client_killed", 4, World::kill_link),
    ("sub_dark", 4, World::darken_sub),
    ("pub_dark", 3, World::darken_pub),
    ("sub_delay", 4, World::delay_sub),
    ("pub_delay", 2, World::delay_pub),
    ("message_loss", 3, World::lose_messages),
    ("queue_overflow", 3, World::overflow),
    ("lying_bus", 4, World::lie),
    ("channel_forgotten", 3, World::forget_channel),
    ("node_stopped", 7, World::stop_node),
    ("node_suspended", 3, World::suspend_node),
    ("node_crash", 5, World::crash_node),
    ("executor", 6, World::break_executor),
    ("check_blind", 2, World::blind),
    ("expectation", 3, World::toggle_car),
    ("operator", 5, World::operate),
    ("reload", 6, World::reconfigure),
];

impl World {
    pub(super) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let total = FAULTS.iter().map(|(_, weight, _)| weight).sum();
        let mut draw = self.rng.below(total);
        for (name, weight, inject) in FAULTS {
            if draw < weight {
                *self.faults.entry(name).or_default() += 1;
                inject(self);
                break;
            }
            draw -= weight;
        }
        // Alone, or on top of one another.
        let next = if self.rng.chance(25) {
            self.rng.millis(0, 3_000)
        } else {
            self.rng.millis(2_000, 45_000)
        };
        self.after(next, Happening::Fault);
    }

    /// At most until the faults end.
    fn lasting(&mut self, low: u64, high: u64) -> Duration {
        let left = self.calm_from.since(self.now);
        self.rng.millis(low, high).min(left)
    }

    fn any_process(&mut self) -> usize {
        self.rng.below(self.processes.len())
    }

    fn any_node(&mut self) -> usize {
        self.rng.below(self.nodes.len())
    }

    fn crash_process(&mut self) {
        let process = self.any_process();
        if !self.processes[process].asleep {
            self.kill(process, "it crashed");
        }
    }

    fn crash_processes(&mut self) {
        for _ in 0..2 + self.rng.below(4) {
            self.crash_process();
        }
    }

    fn flap(&mut self) {
        let process = self.any_process();
        let mut after = Duration::ZERO;
        let life = self.processes[process].life;
        for later in 0..4 {
            after += self.rng.millis(1_000, 15_000);
            let (life, why) = (life + later, "it crashed again");
            self.after(after, Happening::Exit { process, life, why });
        }
    }

    fn stop_process(&mut self) {
        let process = self.any_process();
        if self.processes[process].state != State::Running {
            return;
        }
        self.alter(process, |of| of.state = State::Stopped);
        let name = self.scenario.processes[process].name.clone();
        self.tell(format!("{name} is stopped"));
        let life = self.processes[process].life;
        if self.rng.chance(60) {
            let lasting = self.lasting(200, 30_000);
            self.after(lasting, Happening::End(End::Stopped { process, life }));
        }
    }

    fn stick_process(&mut self) {
        let process = self.any_process();
        self.alter(process, |of| of.stuck = true);
        let name = self.scenario.processes[process].name.clone();
        self.tell(format!("{name} is stuck"));
        let life = self.processes[process].life;
        if self.rng.chance(50) {
            let lasting = self.lasting(500, 30_000);
            self.after(lasting, Happening::End(End::Stuck { process, life }));
        }
    }

    fn every_wire(&mut self, mut of: impl FnMut(&mut Self, usize, Link)) {
        for node in 0..self.nodes.len() {
            for link in Link::ALL {
                of(self, node, link);
            }
        }
    }

    fn broker_down(&mut self) {
        let lasting = self.lasting(300, 90_000);
        self.broker_goes(lasting, 50);
    }

    fn broker_down_for_long(&mut self) {
        let lasting = self.lasting(60_000, 420_000);
        self.broker_goes(lasting, 50);
    }

    fn broker_goes(&mut self, lasting: Duration, noticed_within: u64) {
        if !self.broker.is_well() {
            return;
        }
        self.tell(format!("the broker is gone for {lasting:?}"));
        self.broker.up = false;
        self.broker.backlog.clear();
        self.oracle.outage(OutageKind::Away, self.now);
        self.every_wire(|world, node, link| {
            world.wire_mut(node, link).alive = false;
            let within = world.rng.millis(0, noticed_within);
            world.lose(node, link, within, OnlyIf::Always);
        });
        self.clients_lose_broker(Duration::ZERO);
        self.after(lasting, Happening::End(End::BrokerDown));
    }

    /// So fast that the nodes see one link down, and up again, before the other.
    fn broker_restart(&mut self) {
        if !self.broker.is_well() {
            return;
        }
        let lasting = self.rng.millis(1, 60);
        self.tell(format!("the broker is restarted within {lasting:?}"));
        self.broker.up = false;
        self.oracle.outage(OutageKind::Away, self.now);
        let pub_first = self.rng.chance(50);
        self.every_wire(|world, node, link| {
            world.wire_mut(node, link).alive = false;
            let first = (link == Link::Pub) == pub_first;
            let within = if first {
                world.rng.millis(0, 20)
            } else {
                world.rng.millis(350, 1_500)
            };
            world.lose(node, link, within, OnlyIf::Always);
        });
        self.clients_lose_broker(Duration::ZERO);
        self.after(lasting, Happening::End(End::BrokerDown));
    }

    fn broker_silent(&mut self) {
        if !self.broker.is_well() {
            return;
        }
        let lasting = if self.rng.chance(40) {
            self.lasting(300, 3_000)
        } else {
            self.lasting(3_000, 40_000)
        };
        let serial = self.serial();
        self.tell(format!("the broker is silent for {lasting:?}"));
        self.broker.silent = Some(serial);
        self.oracle.outage(OutageKind::Silent, self.now);
        self.every_wire(|world, node, link| {
            let within = world.rng.millis(1_000, 2_000);
            world.lose(node, link, within, OnlyIf::Silent(serial));
        });
        self.after(3 * S, Happening::End(End::SilentForLong(serial)));
        self.after(lasting, Happening::End(End::BrokerSilent(serial)));
    }

    fn demote(&mut self) {
        if !self.broker.is_well() {
            return;
        }
        // Shorter ones may pass between two readings of the role.
        let lasting = self.rng.millis(6_500, 60_000);
        if self.now + lasting > self.calm_from {
            return;
        }
        self.tell(format!("the broker is demoted for {lasting:?}"));
        self.oracle.outage(OutageKind::Replica, self.now);
        self.broker.leaving = true;
        // Clients are told who the new master is before the old one knows that it is none any more.
        self.move_clients(true);
        let known = self.rng.millis(0, 1_000);
        self.after(known, Happening::End(End::Master));
        self.after(lasting, Happening::End(End::Demoted));
    }

    fn move_clients(&mut self, away: bool) {
        let spread = if self.rng.chance(50) { 50 } else { 2_000 };
        for process in 0..self.processes.len() {
            let within = self.rng.millis(0, spread);
            self.after(within, Happening::Moved { process, away });
        }
    }

    fn hold(&mut self) {
        if !self.broker.is_well() {
            return;
        }
        let lasting = self.lasting(500, 20_000);
        self.tell(format!("PUBLISH hangs for {lasting:?}"));
        self.broker.held = true;
        self.oracle.outage(OutageKind::Held, self.now);
        self.after(lasting, Happening::End(End::Held));
    }

    fn kill_link(&mut self) {
        let node = self.any_node();
        let link = if self.rng.chance(50) { Link::Pub } else { Link::Sub };
        self.tell(format!("n{node}'s {} client is killed", link.as_str()));
        self.wire_mut(node, link).alive = false;
        self.lose(node, link, MS, OnlyIf::Always);
        self.mute(node, 6 * S);
        self.trouble(node, 6 * S);
    }

    /// Something of its own is wrong for so long.
    fn trouble(&mut self, node: usize, lasting: Duration) {
        let of = &mut self.nodes[node];
        of.troubled = of.troubled.max(self.now + lasting);
    }

    fn mute(&mut self, node: usize, lasting: Duration) {
        let of = &mut self.nodes[node];
        of.muted_until = of.muted_until.max(self.now + lasting);
    }

    fn darken_sub(&mut self) {
        self.darken(Link::Sub);
    }

    fn darken_pub(&mut self) {
        self.darken(Link::Pub);
    }

    fn darken(&mut self, link: Link) {
        let node = self.any_node();
        let lasting = self.lasting(2_000, 40_000);
        let path = self.rng.chance(50);
        self.trouble(node, lasting);
        let answers_ping = link == Link::Sub && self.rng.chance(50);
        self.tell(format!("n{node}'s {} link is dark", link.as_str()));
        let until = self.now + lasting;
        let wire = self.wire_mut(node, link);
        wire.dark = true;
        if path {
            wire.path_dark_until = until;
        }
        if !answers_ping {
            let within = self.rng.millis(1_000, 2_000);
            self.lose(node, link, within, OnlyIf::Dark);
        }
        if link == Link::Pub {
            self.mute(node, lasting + 8 * S);
        }
    }

    fn delay_sub(&mut self) {
        self.delay(Link::Sub);
    }

    fn delay_pub(&mut self) {
        self.delay(Link::Pub);
    }

    fn delay(&mut self, link: Link) {
        let node = self.any_node();
        let lasting = self.lasting(2_000, 40_000);
        let delay = self.rng.millis(50, 3_500);
        self.trouble(node, lasting);
        self.tell(format!("n{node}'s {} link is {delay:?} late", link.as_str()));
        self.wire_mut(node, link).delay = delay;
        if link == Link::Pub {
            self.mute(node, lasting + 10 * S);
        }
        self.after(lasting, Happening::End(End::Delay { node, link }));
    }

    fn lose_messages(&mut self) {
        let loss = 10 + self.rng.next() % 85;
        let (node, _) = self.lie_to();
        self.nodes[node].lie.loss = loss;
    }

    fn lie(&mut self) {
        let (node, lie) = self.lie_to();
        match self.rng.below(3) {
            0 => {
                let process = self.any_process();
                let channel = self.scenario.processes[process].channel.clone();
                self.nodes[node].lie.forgets = Some(channel);
            }
            1 => self.nodes[node].lie.reorders = true,
            _ => self.after(MS, Happening::Replay { node, lie }),
        }
    }

    /// Some of those that listen to a process are deaf to it, and to nothing else, at the same time.
    fn forget_channel(&mut self) {
        let process = self.any_process();
        let channel = self.scenario.processes[process].channel.clone();
        for node in 0..self.nodes.len() {
            if self.nodes[node].listens_to(&channel) && self.rng.chance(60) {
                self.lie_to_node(node);
                self.nodes[node].lie.forgets = Some(channel.clone());
            }
        }
    }

    fn lie_to(&mut self) -> (usize, u64) {
        let node = self.any_node();
        self.lie_to_node(node)
    }

    fn lie_to_node(&mut self, node: usize) -> (usize, u64) {
        let lasting = self.lasting(3_000, 60_000);
        let serial = self.serial();
        self.tell(format!("the bus lies to n{node} for {lasting:?}"));
        let of = &mut self.nodes[node].lie;
        of.serial = serial;
        of.until = of.until.max(self.now + lasting);
        self.after(lasting, Happening::End(End::Lie { node, lie: serial }));
        (node, serial)
    }

    fn overflow(&mut self) {
        let node = self.any_node();
        let lasting = self.lasting(20, 6_000);
        self.tell(format!("n{node} drops what it hears for {lasting:?}"));
        self.trouble(node, lasting);
        let of = &mut self.nodes[node];
        of.overflow_until = self.now + lasting;
    }

    fn stop_node(&mut self) {
        let node = self.any_node();
        let lasting = match self.rng.below(4) {
            0 => self.lasting(150, 900),
            1 => self.lasting(50, 300),
            2 => self.lasting(2_500, 3_500),
            _ => self.lasting(20_000, 70_000),
        };
        self.freeze(node, lasting, false);
    }

    fn suspend_node(&mut self) {
        let node = self.any_node();
        let lasting = match self.rng.below(3) {
            0 => self.lasting(200, 1_000),
            1 => self.lasting(4_000, 8_000),
            _ => self.lasting(60_000, 400_000),
        };
        self.freeze(node, lasting, true);
    }

    fn crash_node(&mut self) {
        let node = self.any_node();
        let run = self.nodes[node].run;
        self.crash(node, run);
        let lasting = self.lasting(500, 40_000);
        self.after(lasting, Happening::Start { node });
    }

    fn break_executor(&mut self) {
        let node = self.any_node();
        let mode = self.rng.pick(&Mode::BAD).unwrap_or(Mode::Works);
        self.nodes[node].mode = mode;
        let lasting = self.lasting(10_000, 200_000);
        self.after(lasting, Happening::End(End::Mode { node }));
    }

    fn blind(&mut self) {
        let node = self.any_node();
        self.nodes[node].blind = true;
        let lasting = self.lasting(2_000, 60_000);
        self.trouble(node, lasting);
        self.after(lasting, Happening::End(End::Blind { node }));
    }

    fn toggle_car(&mut self) {
        if self.car {
            self.car = false;
            self.tell("the car is off");
            let lasting = self.lasting(1_000, 90_000);
            self.after(lasting, Happening::End(End::Car));
        }
    }

    fn operate(&mut self) {
        let node = self.any_node();
        let peers = self.nodes[node].settings.peers.len();
        let peer = (peers > 0).then(|| super::node::peer_id(self.rng.below(peers)));
        let lasting = Some(self.lasting(5_000, 90_000));
        let request = match (self.rng.below(6), peer) {
            (0, Some(peer)) => OperatorRequest::Forget { peer },
            (1 | 2, _) => OperatorRequest::Pause {
                peer,
                reason: "test".to_owned(),
                lasting,
            },
            (3, _) => OperatorRequest::Pause {
                peer: None,
                reason: "test".to_owned(),
                lasting,
            },
            (4, _) => OperatorRequest::Resume { peer },
            _ => OperatorRequest::Drain,
        };
        if request == OperatorRequest::Drain {
            self.drain(node);
        }
        let by = "simulation".to_owned();
        self.deliver_to(node, MS, Arrival::of(Event::Operator { request, by }));
    }

    /// Its configuration is read again: as it was, with other numbers, or with a peer taken out and put back, which gives
    /// it nothing.
    fn reconfigure(&mut self) {
        let node = self.any_node();
        let of = &self.nodes[node];
        if of.settings.peers.is_empty() || of.frozen_until().is_some() || of.engine.is_none() {
            return;
        }
        let peer = self.rng.below(self.nodes[node].settings.peers.len());
        match self.rng.below(3) {
            0 => {}
            1 => {
                let grace = self.rng.millis(2_000, 20_000);
                let of = &mut self.nodes[node].settings;
                of.peers[peer].grace = grace.max(of.peers[peer].grace);
                of.breaker.canary_after += S;
            }
            _ => {
                let mut without = self.nodes[node].settings.clone();
                without.peers[peer] = PeerSettings::vacant();
                self.reload(node, without);
                // What its node has heard of it goes with it.
                self.nodes[node].changed = self.now;
                self.find_again(node, peer);
            }
        }
        let settings = self.nodes[node].settings.clone();
        self.reload(node, settings);
    }

    /// Says goodbye, ends, and starts again after a while.
    fn drain(&mut self, node: usize) {
        let run = self.nodes[node].run;
        self.nodes[node].draining = true;
        let ends = self.rng.millis(200, 5_000);
        self.after(ends, Happening::Crash { node, run });
        let starts = ends + self.lasting(1_000, 20_000);
        self.after(starts, Happening::Start { node });
    }

    pub(super) fn end(&mut self, end: End) {
        match end {
            End::BrokerDown => {
                self.broker.up = true;
                self.broker_returns();
            }
            End::SilentForLong(serial) if self.broker.silent == Some(serial) => {
                self.clients_lose_broker(3 * S);
            }
            End::BrokerSilent(serial) if self.broker.silent == Some(serial) => {
                self.broker.silent = None;
                self.run_backlog();
                self.broker_returns();
            }
            End::SilentForLong(_) | End::BrokerSilent(_) => {}
            End::Master => self.broker.role = Role::Replica,
            End::Demoted => {
                self.broker.leaving = false;
                self.broker.role = Role::Master;
                self.move_clients(false);
                self.broker_returns();
            }
            End::Held => {
                self.broker.held = false;
                self.run_backlog();
                self.broker_returns();
            }
            End::Stopped { process, life } => {
                if self.processes[process].life == life && self.processes[process].state == State::Stopped {
                    self.alter(process, |of| of.state = State::Running);
                    self.connect(process, life);
                }
            }
            End::Stuck { process, life } => {
                if self.processes[process].life == life {
                    self.alter(process, |of| of.stuck = false);
                }
            }
            End::Delay { node, link } => self.wire_mut(node, link).delay = Duration::ZERO,
            End::Lie { node, lie } if self.nodes[node].lie.serial == lie => self.end_lie(node),
            End::Lie { .. } => {}
            End::Mode { node } => self.nodes[node].mode = Mode::Works,
            End::Blind { node } => self.nodes[node].blind = false,
            End::Car => {
                self.car = true;
                self.car_on = self.now;
                self.tell("the car is on");
            }
        }
    }

    fn end_lie(&mut self, node: usize) {
        let of = &mut self.nodes[node].lie;
        of.serial = 0;
        of.loss = 0;
        of.reorders = false;
        if of.forgets.take().is_some() {
            // Only a new connection subscribes anew.
            self.lose(node, Link::Sub, MS, OnlyIf::Always);
        }
    }

    fn broker_returns(&mut self) {
        self.tell("the broker is well again");
        self.oracle.outage_ends(self.now);
        self.clients_return();
    }

    /// From now on nothing goes wrong any more; what is broken stays so until it is healed.
    pub(super) fn calm_down(&mut self) {
        self.calm = true;
        self.tell("no fault from now on");
        for node in 0..self.nodes.len() {
            self.nodes[node].mode = Mode::Works;
            self.nodes[node].blind = false;
            if self.nodes[node].draining {
                let run = self.nodes[node].run;
                self.crash(node, run);
            }
            self.after(S, Happening::Start { node });
            for link in Link::ALL {
                let wire = self.wire_mut(node, link);
                wire.delay = Duration::ZERO;
                wire.path_dark_until = Time::ZERO;
                if wire.dark && wire.up {
                    self.lose(node, link, 2 * S, OnlyIf::Dark);
                }
            }
            self.end_lie(node);
            let mut resume: Vec<_> = (0..self.nodes[node].settings.peers.len())
                .map(|peer| Some(super::node::peer_id(peer)))
                .collect();
            resume.push(None);
            for peer in resume {
                let request = OperatorRequest::Resume { peer };
                let by = "simulation".to_owned();
                self.deliver_to(node, 2 * S, Arrival::of(Event::Operator { request, by }));
            }
        }
    }
}
