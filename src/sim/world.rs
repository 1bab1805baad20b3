//! The world: one queue of (time, seq, happening), and everything that exists in it.
//!
//! Wall clocks do not appear: neither the engine nor anything here has one to jump.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::broker::{Broker, Parcel};
use super::executor::Act;
use super::faults::End;
use super::fleet::Request;
use super::ledger::Ledger;
use super::node::{Arrival, Node};
use super::oracle::Oracle;
use super::process::Process;
use super::queue::Queue;
use super::rng::Rng;
use super::scenario::Scenario;
use crate::engine::decision::Notice;
use crate::engine::event::Link;
use crate::engine::time::Time;

pub(super) const S: Duration = Duration::from_secs(1);
pub(super) const MS: Duration = Duration::from_millis(1);
/// Lines of the story that are kept for a violation's report.
const TRAIL: usize = 60;

/// Everything that can happen. `run` and `life` name the run of a node or the life of a process that it belongs
/// to: what outlived them is dropped.
#[derive(Debug)]
pub(super) enum Happening {
    /// A node's event loop wakes up for its engine's deadline.
    Wake {
        node: usize,
        wake: u64,
    },
    /// Something reaches a node's event loop.
    Arrive {
        node: usize,
        run: u32,
        what: Arrival,
    },
    /// A node's pause or suspension ends.
    Thaw {
        node: usize,
        freeze: u64,
    },
    /// A node starts (again).
    Start {
        node: usize,
    },
    /// A node's process ends.
    Crash {
        node: usize,
        run: u32,
    },
    /// A node notices that a connection is gone; `silence` and `dark`: only if that still holds.
    Lost {
        wire: WireId,
        only_if: OnlyIf,
    },
    /// A node tries to connect.
    Try {
        wire: WireId,
    },
    /// A link's role is read.
    Role {
        wire: WireId,
    },
    /// A message reaches the broker.
    AtBroker(Parcel),
    /// A process does what its schedule says.
    Beat {
        process: usize,
        life: u64,
    },
    Started {
        process: usize,
        life: u64,
    },
    Seen {
        process: usize,
        life: u64,
    },
    Respawn {
        process: usize,
        life: u64,
    },
    Connect {
        process: usize,
        life: u64,
    },
    /// It exits, if it still can.
    Exit {
        process: usize,
        life: u64,
        why: &'static str,
    },
    Moved {
        process: usize,
        away: bool,
    },
    /// A node's owner watch, checks and expectations.
    Owner {
        node: usize,
        run: u32,
        peer: usize,
    },
    Look {
        node: usize,
        run: u32,
        peer: usize,
        check: usize,
    },
    Http {
        node: usize,
        run: u32,
        peer: usize,
        check: usize,
    },
    Car {
        node: usize,
        run: u32,
    },
    /// A probe of `/healthz/{peer}`.
    Probe {
        process: usize,
        failures: u32,
    },
    /// An executor gets to its fence.
    Act(Act),
    /// An old message is told again.
    Replay {
        node: usize,
        lie: u64,
    },
    /// The next fault, and the end of one.
    Fault,
    End(End),
    /// A request reaches the group's store; the store forgets everything.
    AtStore(Request),
    Forget,
    /// No fault from now on.
    Calm,
}

/// One connection, or one attempt at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct WireId {
    pub(super) node: usize,
    pub(super) run: u32,
    pub(super) link: Link,
    pub(super) epoch: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum OnlyIf {
    Always,
    /// The broker's silence is still that one.
    Silent(u64),
    /// It is still dark.
    Dark,
}

pub(super) enum Line {
    World(Time, String),
    Node(Time, usize, Notice),
}

pub(super) struct World {
    pub(super) now: Time,
    pub(super) rng: Rng,
    pub(super) queue: Queue<Happening>,
    pub(super) scenario: Arc<Scenario>,
    pub(super) nodes: Vec<Node>,
    pub(super) processes: Vec<Process>,
    pub(super) broker: Broker,
    pub(super) ledger: Ledger,
    pub(super) car: bool,
    /// When it was last turned on.
    pub(super) car_on: Time,
    pub(super) oracle: Oracle,
    pub(super) trail: VecDeque<Line>,
    pub(super) faults: BTreeMap<&'static str, u64>,
    /// Names what has an end.
    pub(super) serial: u64,
    pub(super) calm_from: Time,
    pub(super) calm: bool,
    pub(super) until: Time,
    pub(super) happenings: u64,
    pub(super) verbose: bool,
}

impl World {
    pub(super) fn new(seed: u64, nodes: Option<usize>, minutes: Option<u64>, fleet: bool) -> Self {
        let mut rng = Rng::new(seed);
        let mut scenario = Scenario::draw(&mut rng, nodes);
        if fleet {
            scenario.share();
        }
        let scenario = Arc::new(scenario);
        let now = Time::from_origin(1_000 * S);
        let troubled = minutes.unwrap_or_else(|| 8 + rng.below(13) as u64);
        let calm_from = now + scenario.settle + 30 * S + Duration::from_secs(60 * troubled);
        let mut world = Self {
            now,
            queue: Queue::new(),
            nodes: (0..scenario.nodes.len())
                .map(|node| Node::new(&scenario, node))
                .collect(),
            processes: scenario.processes.iter().map(|_| Process::new(now)).collect(),
            broker: Broker::new(),
            ledger: Ledger::default(),
            car: true,
            car_on: now,
            oracle: Oracle::new(&scenario),
            trail: VecDeque::new(),
            faults: BTreeMap::new(),
            serial: 0,
            calm_from,
            calm: false,
            until: calm_from + super::finish::calm(scenario.settle),
            happenings: 0,
            verbose: false,
            scenario,
            rng,
        };
        world.begin();
        if fleet {
            world.after(120 * S, Happening::Forget);
        }
        world
    }

    fn begin(&mut self) {
        for process in 0..self.processes.len() {
            self.spawn(process);
            if self.scenario.processes[process].probed {
                self.after(5 * S, Happening::Probe { process, failures: 0 });
            }
        }
        for node in 0..self.nodes.len() {
            let within = self.rng.millis(0, 3_000);
            self.after(within, Happening::Start { node });
        }
        let settled = self.scenario.settle + 25 * S;
        self.after(settled, Happening::Fault);
        self.queue.put(self.calm_from, Happening::Calm);
    }

    pub(super) fn run(&mut self) {
        while self.oracle.violation.is_none() {
            let Some((at, happening)) = self.queue.take() else {
                break;
            };
            if at > self.until {
                self.now = self.until;
                self.finish();
                break;
            }
            self.now = at;
            self.happenings += 1;
            self.happen(happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Wake { node, wake } => self.wake(node, wake),
            Happening::Arrive { node, run, what } => self.arrive(node, run, what),
            Happening::Thaw { node, freeze } => self.thaw(node, freeze),
            Happening::Start { node } => self.start(node),
            Happening::Crash { node, run } => self.crash(node, run),
            Happening::Lost { wire, only_if } => self.lost(wire, only_if),
            Happening::Try { wire } => self.try_wire(wire),
            Happening::Role { wire } => self.read_role(wire),
            Happening::AtBroker(parcel) => self.at_broker(parcel),
            Happening::Beat { process, life } => self.beat(process, life),
            Happening::Started { process, life } => self.started(process, life),
            Happening::Seen { process, life } => self.seen(process, life),
            Happening::Respawn { process, life } => self.respawn(process, life),
            Happening::Connect { process, life } => self.connect(process, life),
            Happening::Exit { process, life, why } => self.exit(process, life, why),
            Happening::Moved { process, away } => self.processes[process].moved = away,
            Happening::Owner { node, run, peer } => self.find_owner(node, run, peer),
            Happening::Look {
                node,
                run,
                peer,
                check,
            } => self.look(node, run, peer, check),
            Happening::Http {
                node,
                run,
                peer,
                check,
            } => self.http(node, run, peer, check),
            Happening::Car { node, run } => self.ask_car(node, run),
            Happening::Probe { process, failures } => self.probe(process, failures),
            Happening::Act(act) => self.act(act),
            Happening::Replay { node, lie } => self.replay(node, lie),
            Happening::AtStore(request) => self.at_store(request),
            Happening::Forget => self.forget_store(),
            Happening::Fault => self.fault(),
            Happening::End(end) => self.end(end),
            Happening::Calm => self.calm_down(),
        }
    }

    pub(super) fn after(&mut self, wait: Duration, happening: Happening) {
        self.queue.put(self.now + wait, happening);
    }

    pub(super) fn serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Tells the story, for a violation's report.
    pub(super) fn tell(&mut self, line: impl Into<String>) {
        self.line(Line::World(self.now, line.into()));
    }

    pub(super) fn line(&mut self, line: Line) {
        if self.trail.len() >= TRAIL && !self.verbose {
            self.trail.pop_front();
        }
        self.trail.push_back(line);
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::World(at, words) => write!(f, "{at}  ** {words}"),
            Self::Node(at, node, notice) => {
                let who = notice.peer.as_deref().unwrap_or("-");
                write!(f, "{at}  n{node} {who}: {}", notice.what)
            }
        }
    }
}
