//! The processes that are watched, and the truth about them.

use std::sync::Arc;
use std::time::Duration;

use super::broker::{Parcel, Sender};
use super::node::Arrival;
use super::scenario::{OnOutage, Voice};
use super::world::{Happening, S, World};
use crate::engine::event::{Ballot, Body, Event, Heartbeat, Incarnation, OwnerSeen};
use crate::engine::time::Time;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Dead,
    Starting,
    Running,
    Stopped,
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) state: State,
    pub(super) life: u64,
    /// Its own fault: its health endpoint fails, and it does not beat.
    pub(super) stuck: bool,
    /// Its machine is suspended.
    pub(super) asleep: bool,
    pub(super) connected: bool,
    /// It has gone over to another server, which nobody here listens to.
    pub(super) moved: bool,
    /// The run of its node that holds it by a pidfd.
    pub(super) held: Option<u32>,
    /// When its health last changed.
    pub(super) changed: Time,
    pub(super) born: Time,
    slept: Duration,
}

impl Process {
    pub(super) fn new(now: Time) -> Self {
        Self {
            state: State::Dead,
            life: 0,
            stuck: false,
            asleep: false,
            connected: false,
            moved: false,
            held: None,
            changed: now,
            born: now,
            slept: Duration::ZERO,
        }
    }

    /// The truth: nothing is wrong with it.
    pub(super) fn healthy(&self) -> bool {
        self.state == State::Running && !self.stuck && !self.asleep
    }
}

impl World {
    pub(super) fn incarnation(&self, process: usize) -> Incarnation {
        self.incarnation_of(process, self.processes[process].life)
    }

    pub(super) fn incarnation_of(&self, process: usize, life: u64) -> Incarnation {
        Incarnation(format!("proc:{}:{life}", self.scenario.processes[process].name).into())
    }

    pub(super) fn process_boot(&self, process: usize) -> String {
        format!(
            "{}/{}",
            self.scenario.processes[process].name, self.processes[process].life
        )
    }

    /// The one way in which a process changes: its health is kept account of.
    pub(super) fn alter(&mut self, process: usize, how: impl FnOnce(&mut Process)) {
        let of = &mut self.processes[process];
        let before = of.healthy();
        how(of);
        if of.healthy() != before {
            of.changed = self.now;
        }
    }

    pub(super) fn spawn(&mut self, process: usize) {
        let now = self.now;
        self.alter(process, |of| {
            of.state = State::Starting;
            of.life += 1;
            of.stuck = false;
            of.connected = false;
            of.held = None;
            of.born = now;
            of.slept = Duration::ZERO;
        });
        let life = self.processes[process].life;
        let name = Arc::clone(&self.scenario.processes[process].name);
        self.tell(format!("{name} starts its life {life}"));
        let start = self.rng.millis(50, 2_500);
        self.after(start, Happening::Started { process, life });
        // The owner watch finds it soon.
        let seen = self.rng.millis(6, 60);
        self.after(seen, Happening::Seen { process, life });
    }

    /// The owner watch of its node takes hold of it, if it still runs.
    pub(super) fn seen(&mut self, process: usize, life: u64) {
        let home = self.scenario.processes[process].home;
        let of = &self.processes[process];
        if of.life != life || of.state == State::Dead || of.held == Some(self.nodes[home].run) {
            return;
        }
        if let Some(until) = self.nodes[home].frozen_until() {
            let at = until + self.rng.millis(0, 50);
            return self.queue.put(at, Happening::Seen { process, life });
        }
        if self.nodes[home].engine.is_some() {
            self.processes[process].held = Some(self.nodes[home].run);
            let incarnation = self.incarnation(process);
            self.tell_owner(process, OwnerSeen::Running(incarnation), Duration::ZERO);
        }
    }

    pub(super) fn started(&mut self, process: usize, life: u64) {
        if self.processes[process].life != life || self.processes[process].state != State::Starting {
            return;
        }
        if self.put_off_until_awake(process, Happening::Started { process, life }) {
            return;
        }
        self.alter(process, |of| of.state = State::Running);
        self.connect(process, life);
        self.after(Duration::ZERO, Happening::Beat { process, life });
    }

    pub(super) fn connect(&mut self, process: usize, life: u64) {
        let of = &self.processes[process];
        if of.life != life || of.state == State::Dead || of.connected {
            return;
        }
        if self.broker.answers() && of.state == State::Running && !of.asleep {
            self.processes[process].connected = true;
        } else {
            let again = self.rng.millis(200, 2_000);
            self.after(again, Happening::Connect { process, life });
        }
    }

    /// It ends, for whatever reason; its supervisor may bring it back.
    pub(super) fn kill(&mut self, process: usize, why: &str) {
        if self.processes[process].state == State::Dead {
            return;
        }
        let life = self.processes[process].life;
        self.alter(process, |of| {
            of.state = State::Dead;
            of.connected = false;
        });
        let plan = &self.scenario.processes[process];
        let supervised = plan.supervised;
        let line = format!("{} ends its life {life}: {why}", plan.name);
        self.tell(line);
        let home = self.scenario.processes[process].home;
        if self.processes[process].held.take() == Some(self.nodes[home].run) {
            let incarnation = self.incarnation_of(process, life);
            let told = self.rng.millis(0, 5);
            self.tell_owner(process, OwnerSeen::Exited(incarnation), told);
        }
        if let Some(wait) = supervised {
            self.after(wait, Happening::Respawn { process, life });
        }
    }

    /// Brought back, unless somebody else did so before.
    pub(super) fn respawn(&mut self, process: usize, life: u64) {
        if self.put_off_until_awake(process, Happening::Respawn { process, life }) {
            return;
        }
        let of = &self.processes[process];
        if of.life == life && of.state == State::Dead {
            self.spawn(process);
        }
    }

    /// Nothing goes on on a machine that sleeps.
    fn put_off_until_awake(&mut self, process: usize, happening: Happening) -> bool {
        if !self.processes[process].asleep {
            return false;
        }
        let home = self.scenario.processes[process].home;
        let awake = self.nodes[home].frozen_until().unwrap_or(self.now) + self.rng.millis(1, 50);
        self.queue.put(awake, happening);
        true
    }

    fn tell_owner(&mut self, process: usize, seen: OwnerSeen, after: Duration) {
        let home = self.scenario.processes[process].home;
        let Some(peer) = self.nodes[home].owner_of(process) else {
            return;
        };
        if !self.nodes[home].watches_owner(peer) {
            return;
        }
        // The watch looks when its node is there; what runs at its start it finds by itself.
        let event = Event::Owner {
            peer: super::node::peer_id(peer),
            seen,
        };
        self.deliver_to(home, after, Arrival::of(event));
    }

    pub(super) fn beat(&mut self, process: usize, life: u64) {
        let of = &self.processes[process];
        if of.life != life || of.state == State::Dead {
            return;
        }
        self.after(S, Happening::Beat { process, life });
        let of = &self.processes[process];
        let plan = &self.scenario.processes[process];
        if !of.healthy() || !of.connected || (plan.needs_car && !self.car) {
            return;
        }
        let up = self.now.since(of.born).saturating_sub(of.slept);
        let mut beat = Heartbeat {
            node: None,
            group: None,
            boot: None,
            slot: None,
            late_ms: None,
            uptime_s: Some(up.as_secs_f64()),
            interval_ms: None,
            goodbye: false,
            peers: Vec::new(),
            ballot: Ballot::default(),
        };
        let body = match plan.voice {
            Voice::Booted => {
                beat.boot = Some(self.process_boot(process).into());
                beat.slot = Some(up.as_secs());
                beat.interval_ms = Some(1_000);
                Body::Heartbeat(beat)
            }
            Voice::Uptime => Body::Heartbeat(beat),
            Voice::Opaque => Body::Opaque,
        };
        let parcel = Parcel {
            sender: Sender::Process(process),
            channel: Arc::clone(&plan.channel),
            body,
            sent: self.now,
        };
        let latency = self.rng.millis(0, 2);
        self.after(latency, Happening::AtBroker(parcel));
    }

    /// The connections of all clients are gone; some exit of it.
    pub(super) fn clients_lose_broker(&mut self, began: Duration) {
        for process in 0..self.processes.len() {
            if self.processes[process].state == State::Dead {
                continue;
            }
            self.processes[process].connected = false;
            let life = self.processes[process].life;
            let exits = match self.scenario.processes[process].on_outage {
                OnOutage::Stays => None,
                OnOutage::ExitsAtOnce => Some(self.rng.millis(0, 60)),
                OnOutage::ExitsLate => Some(self.rng.millis(6_000, 7_000).saturating_sub(began)),
            };
            if let Some(after) = exits {
                let why = "the broker went";
                self.after(after, Happening::Exit { process, life, why });
            }
        }
    }

    pub(super) fn exit(&mut self, process: usize, life: u64, why: &str) {
        let of = &self.processes[process];
        if of.life == life && of.state != State::Stopped && !of.asleep {
            self.kill(process, why);
        }
    }

    /// The broker is back: whoever stayed comes back to it, some of them slowly.
    pub(super) fn clients_return(&mut self) {
        for process in 0..self.processes.len() {
            if !self.processes[process].connected {
                let life = self.processes[process].life;
                let within = self.rng.millis(50, 10_000);
                self.after(within, Happening::Connect { process, life });
            }
        }
    }

    /// Time during which its machine slept is none to it.
    pub(super) fn wake_processes(&mut self, home: usize, slept: Duration) {
        for process in 0..self.processes.len() {
            if self.scenario.processes[process].home == home {
                self.alter(process, |of| {
                    of.asleep = false;
                    of.slept += slept;
                });
            }
        }
    }
}
