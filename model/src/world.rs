//! Three real engines, two targets and one Redis in virtual time. What happens between two choices of the checker
//! is determined; the choices are the faults, and when they come.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::Engine;
use crate::engine::cause::Cause;
use crate::engine::decision::{Decision, Grant};
use crate::engine::event::{
    Body, CheckId, Event, Heartbeat, Incarnation, Link, LinkStatus, Observation, Outcome, OwnerSeen, PeerId,
    RemedyOutcome, Role,
};
use crate::engine::outside::{Errand, LeaseAnswer, Mark, Reservation, Settlement};
use crate::engine::persist::Restored;
use crate::engine::time::Time;
use crate::ledger::{Id, Ledger};
use crate::oracle::{Act, Oracle};
use crate::setting::{self, Kind, NODES, TARGETS};

const MS: Duration = Duration::from_millis(1);
/// One way of a message.
const WAY: Duration = MS;
/// Until a link without an answer is given up, as its edge does; and how long the group's answer is waited for.
const SILENCE: Duration = Duration::from_millis(1500);
const REPLY: Duration = Duration::from_secs(2);
/// From a grant to the executor's last look, and from there to the end of the act.
const LOOK: Duration = Duration::from_millis(100);
const ACT: Duration = Duration::from_millis(200);
/// From a start to the next failure, of one that keeps failing: less than its grace would hide it.
const RELAPSE: Duration = Duration::from_millis(2500);
/// Between two looks at a target, two heartbeats of one, two readings of the server's role.
const EVERY: Duration = Duration::from_secs(1);

/// What of the defences is left out. Each must make the checker find something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mutation {
    /// The executor does not look again before it acts.
    pub no_fence: bool,
    /// The executor begins although its time is over.
    pub no_deadline: bool,
    /// The group forgets at once what was carried out.
    pub no_done_mark: bool,
    /// The group grants whatever it is asked.
    pub no_lease: bool,
    /// The node's own budget is twice what it may be.
    pub no_floor: bool,
    /// The node's links and echoes do not depend on Redis: it notices no outage.
    pub no_self_trust: bool,
    /// Silences count as together only if they are within a millisecond.
    pub no_breaker: bool,
}

/// What the checker may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// Nothing: time goes on.
    Pass,
    /// This life of the target fails from now on.
    Fails(usize),
    /// What is done to this life of the target has no effect, although it is called done.
    FailsForGood(usize),
    /// This life fails, and each life after it a little after its start: the storm.
    KeepsFailing(usize),
    /// It recovers by itself.
    Recovers(usize),
    /// Somebody else restarts it.
    RestartedByOthers(usize),
    /// Redis answers nobody.
    RedisAway,
    /// It does again, and has kept everything, or nothing.
    RedisBack { forgets: bool },
    /// Redis loses what it has written, and goes on.
    RedisForgets,
    /// Redis grants the next two reservations, whatever it held: two masters, each without what the other one knows.
    RedisGrantsTwice,
    /// For one pass, nothing from Redis reaches the node: neither heartbeats nor answers.
    Loses(usize),
    /// The node stands still for so many passes.
    Pauses(usize, u8),
    /// The node stands still for so many passes once its next remedy is granted, before its executor looks again.
    PausesAtGrant(usize, u8),
}

#[derive(Clone, Debug)]
pub struct Target {
    life: u32,
    ill: bool,
    for_good: bool,
    relapses: bool,
    relapse: Option<Time>,
    beats: Time,
}

#[derive(Clone, Debug)]
struct Node {
    engine: Engine,
    due: Vec<(Time, Event)>,
    acts: Vec<Running>,
    link_up: bool,
    looks: Time,
    role: Time,
    loses: bool,
    stands: u8,
    trap: Option<u8>,
    seen: [u32; TARGETS],
}

/// A granted remedy in the hands of its executor.
#[derive(Clone, Debug)]
struct Running {
    grant: Grant,
    at: Time,
    looked: bool,
}

#[derive(Clone, Debug)]
pub struct World {
    kind: Kind,
    mutation: Mutation,
    now: Time,
    nodes: Vec<Node>,
    targets: Vec<Target>,
    redis_up: bool,
    group: Ledger,
    grants_anything: u8,
    pub passes: u8,
    pub faults: u8,
    pub oracle: Oracle,
}

impl World {
    /// Everybody hears everybody, and all has settled.
    pub fn settled(kind: Kind, mutation: Mutation) -> Self {
        let now = Time::from_origin(Duration::from_secs(1000));
        let nodes = (0..NODES).map(|index| {
            let settings = setting::settings(kind, index, mutation);
            Node {
                engine: Engine::new(
                    settings,
                    &Restored::Found(Box::default(), Duration::ZERO),
                    index as u64,
                    now,
                ),
                due: Vec::new(),
                acts: Vec::new(),
                link_up: false,
                looks: now + 10 * MS * (index as u32 + 1),
                role: now,
                loses: false,
                stands: 0,
                trap: None,
                seen: [0; TARGETS],
            }
        });
        let mut world = Self {
            kind,
            mutation,
            now,
            nodes: nodes.collect(),
            targets: (0..TARGETS)
                .map(|index| Target {
                    life: 1,
                    ill: false,
                    for_good: false,
                    relapses: false,
                    relapse: None,
                    beats: now + 100 * MS * (index as u32 + 1),
                })
                .collect(),
            redis_up: true,
            group: Ledger::default(),
            grants_anything: 0,
            passes: 0,
            faults: 0,
            oracle: Oracle::new(kind),
        };
        world.run(setting::SETTLE + Duration::from_secs(4));
        world
    }

    pub fn is_redis_up(&self) -> bool {
        self.redis_up
    }

    pub fn target(&self, index: usize) -> (bool, bool) {
        (self.targets[index].ill, self.targets[index].for_good)
    }

    pub fn node_is_well(&self, index: usize) -> bool {
        let node = &self.nodes[index];
        node.stands == 0 && node.trap.is_none() && !node.loses
    }

    /// Whether the next two reservations would be granted anyway.
    pub fn grants_anything(&self) -> bool {
        self.grants_anything > 0
    }

    pub fn choose(&mut self, choice: Choice) {
        if choice != Choice::Pass {
            self.faults += 1;
        }
        match choice {
            Choice::Pass => self.pass(),
            Choice::Fails(target) => self.fails(target),
            Choice::FailsForGood(target) => {
                self.targets[target].for_good = true;
                self.fails(target);
            }
            Choice::KeepsFailing(target) => {
                self.targets[target].relapses = true;
                self.fails(target);
            }
            Choice::Recovers(target) => {
                self.targets[target].ill = false;
                self.targets[target].relapses = false;
                self.oracle.well(target);
            }
            Choice::RestartedByOthers(target) => self.restarted(target),
            Choice::RedisAway => {
                self.redis_up = false;
                self.oracle.redis_away(self.now);
            }
            Choice::RedisBack { forgets } => {
                self.redis_up = true;
                self.oracle.redis_back(self.now);
                if forgets {
                    self.forget();
                }
            }
            Choice::RedisForgets => self.forget(),
            Choice::RedisGrantsTwice => {
                self.grants_anything = 2;
                self.oracle.group_is_honest = false;
            }
            Choice::Loses(node) => self.nodes[node].loses = true,
            Choice::Pauses(node, passes) => self.nodes[node].stands = passes,
            Choice::PausesAtGrant(node, passes) => self.nodes[node].trap = Some(passes),
        }
    }

    fn fails(&mut self, target: usize) {
        self.targets[target].ill = true;
        self.targets[target].relapse = None;
        self.oracle.failed(target, self.targets[target].life, self.now);
    }

    /// Another life, and a well one.
    fn restarted(&mut self, target: usize) {
        let of = &mut self.targets[target];
        of.life += 1;
        of.ill = false;
        of.for_good = false;
        of.relapse = of.relapses.then_some(self.now + RELAPSE);
        self.oracle.well(target);
    }

    fn forget(&mut self) {
        self.group.forget();
        self.oracle.group_is_honest = false;
    }

    fn pass(&mut self) {
        self.passes += 1;
        self.run(setting::PASS);
        for node in &mut self.nodes {
            node.loses = false;
            node.stands = node.stands.saturating_sub(1);
        }
    }

    fn run(&mut self, length: Duration) {
        let end = self.now + length;
        loop {
            let next = self.next();
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            self.turn();
        }
    }

    /// When anything happens next.
    fn next(&self) -> Time {
        let beats = self
            .targets
            .iter()
            .map(|target| target.beats.min(target.relapse.unwrap_or(Time::MAX)));
        let nodes = self.nodes.iter().filter(|node| node.stands == 0).map(Node::next);
        beats.chain(nodes).min().unwrap_or(Time::MAX)
    }

    /// Everything that is due now, in the order of the nodes.
    fn turn(&mut self) {
        for index in 0..TARGETS {
            if self.targets[index].relapse.is_some_and(|at| at <= self.now) {
                self.fails(index);
            }
            if self.targets[index].beats <= self.now {
                self.targets[index].beats = self.now + EVERY;
                if !self.targets[index].ill && self.kind == Kind::Remote {
                    let beat = setting::beat(index, self.targets[index].life, self.now);
                    self.publish(&beat);
                }
            }
        }
        for index in 0..NODES {
            if self.nodes[index].stands == 0 {
                self.turn_of(index);
            }
        }
    }

    fn turn_of(&mut self, index: usize) {
        let now = self.now;
        if self.nodes[index].role <= now {
            self.nodes[index].role = now + EVERY;
            self.links(index);
        }
        if self.nodes[index].looks <= now {
            self.nodes[index].looks = now + EVERY;
            self.look(index);
        }
        self.nodes[index].due.sort_by_key(|(at, _)| *at);
        while let Some((at, _)) = self.nodes[index].due.first()
            && *at <= now
        {
            let (_, event) = self.nodes[index].due.remove(0);
            self.feed(index, event);
            if self.nodes[index].stands > 0 {
                return;
            }
        }
        if self.nodes[index].engine.poll_timeout() <= now {
            self.feed(
                index,
                Event::Tick {
                    suspended: Duration::ZERO,
                },
            );
        }
        self.execute(index);
    }

    /// The edge reads the role, or finds that nobody answers.
    fn links(&mut self, index: usize) {
        let reachable = (self.redis_up && !self.nodes[index].loses) || self.mutation.no_self_trust;
        let node = &mut self.nodes[index];
        let status = match (reachable, node.link_up) {
            (true, _) => LinkStatus::Up {
                role: Role::Master,
                plain: true,
            },
            // A PING has its time; within a loss of one pass it would not run out.
            (false, true) if self.redis_up => return,
            (false, true) => LinkStatus::Down {
                reason: "no answer".to_owned(),
            },
            (false, false) => return,
        };
        let after = if reachable { Duration::ZERO } else { SILENCE };
        node.link_up = reachable;
        for link in Link::ALL {
            let status = status.clone();
            self.nodes[index]
                .due
                .push((self.now + after, Event::Link { link, status }));
        }
    }

    /// The owner watch and the check that looks at this machine.
    fn look(&mut self, index: usize) {
        if self.kind == Kind::Remote {
            return;
        }
        for (target, of) in self.targets.clone().into_iter().enumerate() {
            let peer = PeerId(target as u32);
            if self.nodes[index].seen[target] != of.life {
                self.nodes[index].seen[target] = of.life;
                let seen = OwnerSeen::Running(setting::life(target, of.life));
                self.feed(index, Event::Owner { peer, seen });
            }
            let outcome = if of.ill {
                Outcome::Fail {
                    cause: Cause::PeerStuck,
                    detail: "unhealthy".to_owned(),
                }
            } else {
                Outcome::Pass
            };
            let check = CheckId { peer, index: 0 };
            let began = self.now;
            self.feed(
                index,
                Event::Observation(Observation {
                    check,
                    began,
                    outcome,
                }),
            );
        }
    }

    fn feed(&mut self, index: usize, event: Event) {
        let now = self.now;
        self.nodes[index].engine.handle(event, now);
        while let Some(decision) = self.nodes[index].engine.poll_decision() {
            match decision {
                Decision::Publish(beat) => self.publish_of(index, &beat),
                Decision::Heal(grant) => self.granted(index, grant),
                Decision::Errand(Errand::Reserve(reservation)) => self.reserve(index, reservation),
                Decision::Errand(Errand::Settle(settlement)) => self.settle(index, &settlement),
                Decision::Errand(Errand::AskBlockers { .. })
                | Decision::ReplaceLink { .. }
                | Decision::Persist(_) => {}
                Decision::Notice(notice) => self.oracle.notice(index, &notice),
            }
        }
    }

    fn publish_of(&mut self, index: usize, beat: &Heartbeat) {
        let slot = beat.slot.unwrap_or_default();
        let now = self.now;
        if self.redis_up && !self.nodes[index].loses {
            self.nodes[index]
                .due
                .push((now + WAY, Event::Published { slot, receivers: 1 }));
            self.publish(beat);
        } else if self.mutation.no_self_trust {
            self.nodes[index]
                .due
                .push((now + WAY, Event::Published { slot, receivers: 1 }));
            self.hand(index, beat);
        } else {
            self.nodes[index]
                .due
                .push((now + EVERY, Event::PublishFailed { slot }));
        }
    }

    fn publish(&mut self, beat: &Heartbeat) {
        if !self.redis_up {
            return;
        }
        for index in 0..NODES {
            if !self.nodes[index].loses {
                self.hand(index, beat);
            }
        }
    }

    fn hand(&mut self, index: usize, beat: &Heartbeat) {
        let channel: Arc<str> = setting::CHANNEL.into();
        let body = Body::Heartbeat(beat.clone());
        self.nodes[index]
            .due
            .push((self.now + 2 * WAY, Event::Message { channel, body }));
    }

    /// Redis runs the script when the request arrives; what is lost may be the request or the answer. Lost is the answer:
    /// that is the worse.
    fn reserve(&mut self, index: usize, reservation: Arc<Reservation>) {
        let (now, lost) = (self.now, !self.redis_up || self.nodes[index].loses);
        let unavailable = LeaseAnswer::Unavailable {
            why: "no answer".to_owned(),
            away: true,
        };
        let answer = if self.redis_up {
            if self.mutation.no_lease || self.grants_anything > 0 {
                self.group.forget();
            }
            self.grants_anything = self.grants_anything.saturating_sub(1);
            self.group.take(id(index, &reservation), &reservation, now)
        } else {
            unavailable.clone()
        };
        let (answer, after) = if lost {
            (unavailable, REPLY)
        } else {
            (answer, 2 * WAY)
        };
        self.nodes[index]
            .due
            .push((now + after, Event::Lease { reservation, answer }));
    }

    fn settle(&mut self, index: usize, settlement: &Settlement) {
        if self.redis_up && !self.nodes[index].loses {
            let mut settlement = settlement.clone();
            if self.mutation.no_done_mark {
                settlement.mark = Mark::Clear;
            }
            self.group
                .settle(id(index, &settlement.reservation), &settlement, self.now);
        }
    }

    fn granted(&mut self, index: usize, grant: Grant) {
        self.oracle.granted(index, &grant, self.now, self.redis_up);
        let node = &mut self.nodes[index];
        node.acts.push(Running {
            grant,
            at: self.now + LOOK,
            looked: false,
        });
        if let Some(passes) = node.trap.take() {
            node.stands = passes;
        }
    }

    /// The executor: looks whether it is still the granted life, acts at once, and tells a little later.
    fn execute(&mut self, index: usize) {
        let now = self.now;
        let due: BTreeSet<usize> = (0..self.nodes[index].acts.len())
            .filter(|place| self.nodes[index].acts[*place].at <= now)
            .collect();
        for place in due.into_iter().rev() {
            let running = self.nodes[index].acts.remove(place);
            let token = running.grant.token;
            if running.looked {
                let outcome = RemedyOutcome::Acted {
                    detail: "done".to_owned(),
                };
                self.feed(index, Event::RemedyEnded { token, outcome });
                continue;
            }
            let target = running.grant.peer.0 as usize;
            let life = setting::life(target, self.targets[target].life);
            let moved_on = life != running.grant.incarnation && !self.mutation.no_fence;
            let too_late = now >= running.grant.until && !self.mutation.no_deadline;
            if moved_on || too_late {
                let outcome = RemedyOutcome::Fenced {
                    detail: "another life".to_owned(),
                };
                self.feed(index, Event::RemedyEnded { token, outcome });
                continue;
            }
            self.act(index, &running.grant, life);
            self.nodes[index].acts.push(Running {
                at: now + ACT,
                looked: true,
                ..running
            });
        }
    }

    fn act(&mut self, index: usize, grant: &Grant, life: Incarnation) {
        let target = grant.peer.0 as usize;
        let act = Act {
            node: index,
            target,
            life,
            number: self.targets[target].life,
            rung: grant.rung,
            token: grant.token,
            granted: grant.until - setting::ACT_WITHIN,
            at: self.now,
        };
        self.oracle.acted(act);
        if !self.targets[target].for_good {
            self.restarted(target);
        }
    }
}

fn id(node: usize, reservation: &Reservation) -> Id {
    Id {
        node,
        run: 0,
        number: reservation.number,
    }
}

impl Node {
    fn next(&self) -> Time {
        let due = self.due.iter().map(|(at, _)| *at).min().unwrap_or(Time::MAX);
        let acts = self.acts.iter().map(|act| act.at).min().unwrap_or(Time::MAX);
        let edge = self.looks.min(self.role);
        due.min(acts).min(edge).min(self.engine.poll_timeout())
    }
}
