//! What must never happen, judged by the world's truth and by accounts of its own, never by the engine's.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::fleet::Given;
use super::node::Echo;
use super::scenario::{Scenario, Target};
use super::world::{S, World};
use crate::engine::event::{Incarnation, OperatorRequest};
use crate::engine::time::Time;

/// Echoes that are remembered of a node.
const ECHOES: usize = 64;
/// A silent server that was away for less has cost nobody a connection.
pub(super) const NOTICEABLE: Duration = Duration::from_millis(2_500);
/// With no store, one restart for each peer in this time.
pub(super) const UNTOLD: Duration = Duration::from_secs(600);

/// A broken invariant.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Its name.
    pub invariant: &'static str,
    /// In virtual time.
    pub at: Time,
    /// What was seen.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutageKind {
    /// Gone: connections are closed and refused.
    Away,
    /// It answers nothing.
    Silent,
    /// Another server is the master.
    Replica,
    /// It holds PUBLISH.
    Held,
}

#[derive(Clone, Debug)]
pub(super) struct Outage {
    pub(super) kind: OutageKind,
    pub(super) begin: Time,
    pub(super) end: Option<Time>,
    /// For each node: the first own heartbeat that was taken after the end has come back.
    pub(super) outlived: Vec<Option<Time>>,
    /// For each node: it was told of the role.
    told: Vec<Option<Time>>,
}

/// How much of its past a node knows after a start.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kept {
    /// Everything up to this write.
    Until(u64),
    Missing,
    Corrupt,
}

pub(super) struct Oracle {
    pub(super) violation: Option<Violation>,
    pub(super) nodes: Vec<NodeRecord>,
    pub(super) outages: VecDeque<Outage>,
    pub(super) granted: u64,
    /// Leave that the group's store gave, since it last forgot, and when it did.
    pub(super) given: Vec<Given>,
    pub(super) forgot: Option<Time>,
    pub(super) explained: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Default)]
pub(super) struct NodeRecord {
    pub(super) started: Time,
    pub(super) first_echo: Option<Time>,
    pub(super) echoes: VecDeque<Echo>,
    /// When its last pause of its own ended.
    pub(super) stalled: Option<Time>,
    /// From when to when it did not run, the last few times.
    pub(super) frozen: VecDeque<(Time, Time)>,
    pub(super) paused: Option<Pause>,
    pub(super) draining: bool,
    /// No store was found at its start.
    pub(super) untold: bool,
    pub(super) corrupt: bool,
    pub(super) writes: u64,
    /// The last restart of anybody, and in which write it is told.
    pub(super) restarted: Option<(Time, u64)>,
    /// Down by our hand until proven, or until this.
    pub(super) down: BTreeMap<usize, Time>,
    pub(super) peers: Vec<PeerRecord>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    pub(super) until: Time,
    write: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct PeerRecord {
    pub(super) passed: Vec<bool>,
    /// Held suspect or dead now; and when that last was so.
    pub(super) doubts: bool,
    pub(super) doubted: Option<Time>,
    pub(super) dead_at: Option<Time>,
    pub(super) lived: Option<Duration>,
    pub(super) charges: Vec<Charge>,
    pub(super) level: u32,
    /// The end of its backoff, and in which write it is told.
    pub(super) not_before: Option<(Time, u64)>,
    /// Carried out: on which life, which rung, told in which write.
    pub(super) used: Vec<(Incarnation, u16, u64)>,
    pub(super) paused: Option<Pause>,
    /// An operator forgot it, and what was held against it.
    pub(super) forgotten: bool,
    /// The grant that is being carried out.
    pub(super) current: Option<(u64, Incarnation, u64)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Charge {
    pub(super) at: Time,
    pub(super) token: u64,
    pub(super) write: u64,
}

impl Oracle {
    pub(super) fn new(scenario: &Arc<Scenario>) -> Self {
        let nodes = scenario.nodes.iter().map(|node| NodeRecord {
            peers: node
                .settings
                .peers
                .iter()
                .map(|peer| PeerRecord {
                    passed: vec![false; peer.checks.len()],
                    ..PeerRecord::default()
                })
                .collect(),
            ..NodeRecord::default()
        });
        Self {
            violation: None,
            nodes: nodes.collect(),
            outages: VecDeque::new(),
            granted: 0,
            given: Vec::new(),
            forgot: None,
            explained: BTreeMap::new(),
        }
    }

    pub(super) fn echoed(&mut self, node: usize, echo: Echo) {
        let of = &mut self.nodes[node];
        of.first_echo.get_or_insert(echo.came);
        if of.echoes.len() == ECHOES {
            of.echoes.pop_front();
        }
        of.echoes.push_back(echo);
        for outage in &mut self.outages {
            if outage.end.is_some_and(|end| echo.taken >= end) {
                outage.outlived[node].get_or_insert(echo.came);
            }
        }
    }

    pub(super) fn role(&mut self, node: usize, replica: bool, now: Time) {
        if let Some(outage) = self.outages.back_mut()
            && replica
            && outage.kind == OutageKind::Replica
        {
            outage.told[node].get_or_insert(now);
        }
    }

    pub(super) fn passed(&mut self, node: usize, peer: usize, check: usize) {
        self.nodes[node].peers[peer].passed[check] = true;
    }

    pub(super) fn stalled(&mut self, node: usize, now: Time) {
        self.nodes[node].stalled = Some(now);
    }

    pub(super) fn frozen(&mut self, node: usize, from: Time, to: Time) {
        let of = &mut self.nodes[node].frozen;
        if of.len() == 8 {
            of.pop_front();
        }
        of.push_back((from, to));
    }

    pub(super) fn written(&mut self, node: usize, number: u64) {
        self.nodes[node].writes = number;
    }

    pub(super) fn operator(&mut self, node: usize, request: &OperatorRequest, now: Time) {
        let of = &mut self.nodes[node];
        let write = of.writes + 1;
        let pause = |lasting: Option<Duration>| {
            let until = lasting.map_or(Time::MAX, |lasting| now + lasting);
            Some(Pause { until, write })
        };
        match request {
            OperatorRequest::Pause {
                peer: None, lasting, ..
            } => of.paused = pause(*lasting),
            OperatorRequest::Pause {
                peer: Some(peer),
                lasting,
                ..
            } => {
                of.peers[peer.0 as usize].paused = pause(*lasting);
            }
            OperatorRequest::Resume { peer: None } => of.paused = None,
            OperatorRequest::Resume { peer: Some(peer) } => of.peers[peer.0 as usize].paused = None,
            OperatorRequest::Forget { peer } => of.peers[peer.0 as usize].forget(),
            OperatorRequest::Drain => of.draining = true,
            OperatorRequest::Restart(_) => {}
        }
    }

    pub(super) fn outage(&mut self, kind: OutageKind, now: Time) {
        if self.outages.len() == 32 {
            self.outages.pop_front();
        }
        self.outages.push_back(Outage {
            kind,
            begin: now,
            end: None,
            outlived: vec![None; self.nodes.len()],
            told: vec![None; self.nodes.len()],
        });
    }

    pub(super) fn outage_ends(&mut self, now: Time) {
        if let Some(outage) = self.outages.back_mut() {
            outage.end.get_or_insert(now);
        }
    }

    /// A run of `node` begins.
    pub(super) fn started(&mut self, node: usize, now: Time) {
        let of = &mut self.nodes[node];
        of.started = now;
        of.first_echo = None;
        of.echoes.clear();
        of.stalled = None;
        of.draining = false;
        for peer in std::mem::take(&mut of.down).into_keys() {
            // Its remedy was not proven yet when the last run ended: it may be done to that life again.
            of.peers[peer].used.pop();
        }
        for peer in &mut of.peers {
            if std::mem::take(&mut peer.doubts) {
                peer.doubted = Some(now);
            }
            peer.dead_at = None;
            peer.lived = None;
            peer.current = None;
        }
    }

    /// What the store holds was written while this life was being taken down: whether that was done to the end the
    /// next run cannot know, so it may do it (a store that is older than the truth makes no other promise).
    pub(super) fn taking_down(&mut self, node: usize, peer: usize, life: Option<&Incarnation>) {
        let used = &mut self.nodes[node].peers[peer].used;
        used.retain(|(used, ..)| Some(used) != life);
    }

    /// What it knows of the past from then on.
    pub(super) fn restored(&mut self, node: usize, kept: Kept, _now: Time) {
        let of = &mut self.nodes[node];
        let (untold, corrupt) = (matches!(kept, Kept::Missing), matches!(kept, Kept::Corrupt));
        (of.untold, of.corrupt) = (untold, corrupt);
        let known = match kept {
            Kept::Until(number) => number,
            Kept::Missing | Kept::Corrupt => 0,
        };
        of.restarted = of.restarted.filter(|(_, write)| *write <= known);
        of.paused = of.paused.filter(|pause| pause.write <= known);
        for peer in &mut of.peers {
            if untold || corrupt {
                peer.passed.fill(false);
                peer.forgotten = false;
            }
            peer.charges.retain(|charge| charge.write <= known);
            peer.used.retain(|(_, _, write)| *write <= known);
            peer.paused = peer.paused.filter(|pause| pause.write <= known);
            if peer.not_before.is_some_and(|(_, write)| write > known) {
                peer.not_before = None;
                peer.level = 0;
            }
        }
    }
}

impl PeerRecord {
    fn forget(&mut self) {
        let checks = self.passed.len();
        *self = Self {
            passed: vec![false; checks],
            paused: self.paused,
            forgotten: true,
            current: self.current.take(),
            ..Self::default()
        };
    }
}

impl Outage {
    /// `node` hears of nobody because of it, and cannot know yet.
    pub(super) fn unknown_to(&self, node: usize, now: Time) -> bool {
        let over = self.end.is_some_and(|end| now > end + 5 * S);
        self.kind == OutageKind::Replica && !over && self.told[node].is_none_or(|told| now <= told + S)
    }

    /// Nothing may be granted on `node` at `now` because of it. `excused`: an own heartbeat that was sent after
    /// the condemnation had been taken before it began.
    pub(super) fn forbids(
        &self,
        (node, of): (usize, &NodeRecord),
        now: Time,
        settle: Duration,
        excused: bool,
    ) -> Option<String> {
        let begin = match self.kind {
            OutageKind::Replica => self.told[node]?,
            OutageKind::Away | OutageKind::Silent | OutageKind::Held => self.begin,
        };
        if now < begin || excused {
            return None;
        }
        let kind = self.kind;
        let Some(end) = self.end.filter(|end| now >= *end) else {
            return Some(format!("{kind:?} since {}", self.begin));
        };
        // Who slept while the server was silent, and kept its connections, cannot know of it.
        let slept = of.frozen.iter().any(|(from, to)| *from < end && *to > self.begin);
        let settles = match kind {
            OutageKind::Silent if slept => false,
            OutageKind::Away | OutageKind::Replica => true,
            OutageKind::Silent => end.since(self.begin) >= NOTICEABLE,
            // Nobody loses a connection, and nobody exits.
            OutageKind::Held => false,
        };
        let from = match kind {
            OutageKind::Replica => Some(end),
            OutageKind::Away | OutageKind::Silent | OutageKind::Held => self.outlived[node],
        };
        let open = from.is_none_or(|from| now < from + settle);
        (settles && open).then(|| format!("{kind:?} from {} to {end}, settling", self.begin))
    }
}

impl World {
    pub(super) fn violate(&mut self, node: usize, invariant: &'static str, detail: String) {
        if self.oracle.violation.is_none() {
            self.tell(format!("VIOLATED {invariant} on n{node}: {detail}"));
            self.oracle.violation = Some(Violation {
                invariant,
                at: self.now,
                detail: format!("n{node}: {detail}"),
            });
        }
    }

    /// The truth about what `node` watches as `peer`: is it healthy, and since when is that so (or not so)?
    pub(super) fn truth(&self, node: usize, peer: usize) -> (bool, Time) {
        match self.nodes[node].watched[peer].target {
            Target::Process(process) => {
                let of = &self.processes[process];
                (of.healthy(), of.changed)
            }
            Target::Node(other) => {
                let of = &self.nodes[other];
                let muted = of.muted_until.min(self.now);
                (of.healthy(self.now), of.changed.max(muted))
            }
        }
    }

    /// Whether what `node` hears of `peer` may have been wrong within the last moments: messages lost, invented
    /// or put out of order, on its own link or on that of the node that speaks for the peer.
    pub(super) fn tainted(&self, node: usize, peer: usize) -> bool {
        let lied = |node: usize| {
            let until = self.nodes[node].lie.until;
            until > Time::ZERO && self.now < until + 20 * S
        };
        lied(node) || lied(self.speaker(node, peer))
    }

    /// The node that speaks for `peer`, or beside it.
    pub(super) fn speaker(&self, node: usize, peer: usize) -> usize {
        match self.nodes[node].watched[peer].target {
            Target::Process(process) => self.scenario.processes[process].home,
            Target::Node(other) => other,
        }
    }
}
