//! Metrics of `checks`.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::engine::event::{Outcome, OwnerSeen};

/// What kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// An `http` check.
    Http,
    /// A `sockets` check.
    Sockets,
    /// An expectation.
    Expectation,
    /// A look of the owner watch at its process, container or unit.
    Owner,
    /// A `docker` check.
    Docker,
    /// A `systemd` check.
    Systemd,
    /// A `metric` check.
    Metric,
    /// A `connections` check.
    Connections,
    /// A `memory` check.
    Memory,
    /// A `file` check.
    File,
    /// A `subscription` check.
    Subscription,
    /// A `tcp` check.
    Tcp,
    /// An `exec` check.
    Exec,
    /// A `redis_key` check.
    RedisKey,
    /// A `redis_lock` check.
    RedisLock,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunOutcome {
    /// As it should be.
    Pass,
    /// Not as it should be.
    Fail,
    /// The measurement failed.
    Unknown,
}

/// What the owner watch saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerEvent {
    /// A process was found and is held.
    Running,
    /// Its exit was seen.
    Exited,
    /// The same, and its own supervisor brings it back.
    Restarting,
    /// It was ended or suspended on purpose.
    Stopped,
    /// None is there.
    Absent,
    /// It cannot be looked at.
    Unseen,
}

/// What became of a datagram that came to a `notify` check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// Understood and passed on.
    Taken,
    /// Of a user that is not believed.
    ForeignUser,
    /// Of a process that is not the peer's.
    Stranger,
    /// The kernel did not say whose.
    Anonymous,
    /// Longer than may be.
    Oversize,
    /// Not of the protocol.
    Garbage,
    /// Too many came.
    Flood,
}

/// Metrics of `checks`.
#[derive(Clone, Debug)]
pub struct CheckMetrics {
    runs: IntCounterVec,
    duration: HistogramVec,
    owner_events: IntCounterVec,
    datagrams: IntCounterVec,
    comparisons: IntCounter,
    ghosts: IntGaugeVec,
    locks: IntGaugeVec,
    lock_ends: IntCounterVec,
}

/// How a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockState {
    /// And extended as usual.
    Held,
    /// It was not extended when it is usually extended.
    Suspect,
    /// Without a TTL.
    Endless,
    /// Nobody holds it.
    Free,
}

/// How a lock ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockEnd {
    /// Its time ran out.
    Expired,
    /// It went before that.
    Released,
    /// Another owner has it.
    Taken,
}

/// The locks of one `redis_lock` check: its series go with it.
#[derive(Debug)]
pub struct Locks {
    of_all: IntGaugeVec,
    ends: IntCounterVec,
    peer: String,
    check: String,
}

/// The ghosts of one `connections` check: its series goes with it.
#[derive(Debug)]
pub struct Ghosts {
    of_all: IntGaugeVec,
    /// `peer` and `check`.
    labels: [String; 2],
}

impl CheckMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let runs = IntCounterVec::new(
            Opts::new(
                "defib_check_runs_total",
                "Runs of active checks, by kind and outcome.",
            ),
            &["kind", "outcome"],
        )?;
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "defib_check_run_duration_seconds",
                "How long a run of an active check took, by kind.",
            )
            .buckets(vec![0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]),
            &["kind"],
        )?;
        let owner_events = IntCounterVec::new(
            Opts::new(
                "defib_owner_events_total",
                "What the owner watch saw of processes, by event.",
            ),
            &["event"],
        )?;
        let datagrams = IntCounterVec::new(
            Opts::new(
                "defib_notify_datagrams_total",
                "Datagrams that came to the peer's `notify` check, by outcome.",
            ),
            &["peer", "outcome"],
        )?;
        let comparisons = IntCounter::new(
            "defib_subscription_comparisons_total",
            "Times that a `subscription` check opened a subscription of its own, to compare what a silent one got.",
        )?;
        let ghosts = IntGaugeVec::new(
            Opts::new(
                "defib_peer_ghost_connections",
                "Connections that the peer counts and the kernel does not have; no series while that is unknown.",
            ),
            &["peer", "check"],
        )?;
        let locks = IntGaugeVec::new(
            Opts::new(
                "defib_peer_locks",
                "Locks that a `redis_lock` check sees, by state; no series while that is unknown.",
            ),
            &["peer", "check", "state"],
        )?;
        let lock_ends = IntCounterVec::new(
            Opts::new(
                "defib_peer_lock_ends_total",
                "Locks that a `redis_lock` check saw end, by how.",
            ),
            &["peer", "check", "end"],
        )?;
        for kind in CheckKind::ALL {
            duration.with_label_values(&[kind.as_str()]);
            for outcome in [RunOutcome::Pass, RunOutcome::Fail, RunOutcome::Unknown] {
                runs.with_label_values(&[kind.as_str(), outcome.as_str()]);
            }
        }
        for event in OwnerEvent::ALL {
            owner_events.with_label_values(&[event.as_str()]);
        }
        registry.register(Box::new(runs.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(owner_events.clone()))?;
        registry.register(Box::new(datagrams.clone()))?;
        registry.register(Box::new(ghosts.clone()))?;
        registry.register(Box::new(comparisons.clone()))?;
        registry.register(Box::new(locks.clone()))?;
        registry.register(Box::new(lock_ends.clone()))?;
        Ok(Self {
            locks,
            lock_ends,
            runs,
            duration,
            owner_events,
            datagrams,
            ghosts,
            comparisons,
        })
    }

    /// Where a `connections` check tells how many ghosts there are.
    pub fn ghosts(&self, peer: String, check: String) -> Ghosts {
        Ghosts {
            of_all: self.ghosts.clone(),
            labels: [peer, check],
        }
    }

    /// Where a `redis_lock` check tells how its locks are.
    pub fn locks(&self, peer: String, check: String) -> Locks {
        let locks = Locks {
            of_all: self.locks.clone(),
            ends: self.lock_ends.clone(),
            peer,
            check,
        };
        for end in LockEnd::ALL {
            locks.ended(end, 0);
        }
        locks
    }

    /// A run ended.
    pub fn ran(&self, kind: CheckKind, outcome: RunOutcome, took: Duration) {
        self.runs
            .with_label_values(&[kind.as_str(), outcome.as_str()])
            .inc();
        self.duration
            .with_label_values(&[kind.as_str()])
            .observe(took.as_secs_f64());
    }

    /// A subscription of our own was opened for a comparison.
    pub fn compared(&self) {
        self.comparisons.inc();
    }

    /// The peer has a `notify` check: its series are there before the first datagram.
    pub fn listens_to(&self, peer: &str) {
        for outcome in Datagram::ALL {
            self.datagrams.with_label_values(&[peer, outcome.as_str()]);
        }
    }

    pub(super) fn forget_peer(&self, peer: &str) {
        super::forget(&self.datagrams, "peer", peer);
        super::forget(&self.lock_ends, "peer", peer);
    }

    /// It has none any more.
    pub fn listens_no_longer_to(&self, peer: &str) {
        for outcome in Datagram::ALL {
            // It may have been another's too, who makes it anew.
            let _ = self.datagrams.remove_label_values(&[peer, outcome.as_str()]);
        }
    }

    /// A datagram came to the peer's `notify` check.
    pub fn notified(&self, peer: &str, outcome: Datagram) {
        self.datagrams.with_label_values(&[peer, outcome.as_str()]).inc();
    }

    /// The owner watch saw something.
    pub fn owner(&self, event: OwnerEvent) {
        self.owner_events.with_label_values(&[event.as_str()]).inc();
    }
}

impl Ghosts {
    /// So many; `None`: unknown.
    pub fn set(&self, ghosts: Option<u64>) {
        let labels: [&str; 2] = self.labels.each_ref().map(String::as_str);
        match ghosts {
            Some(ghosts) => {
                let ghosts = i64::try_from(ghosts).unwrap_or(i64::MAX);
                self.of_all.with_label_values(&labels).set(ghosts);
            }
            // It may be gone already, or never have been.
            None => drop(self.of_all.remove_label_values(&labels)),
        }
    }
}

impl Drop for Ghosts {
    fn drop(&mut self) {
        self.set(None);
    }
}

impl Locks {
    /// So many are so; `None`: unknown.
    pub fn set(&self, state: LockState, locks: Option<u64>) {
        let labels = [self.peer.as_str(), &self.check, state.as_str()];
        match locks {
            Some(locks) => {
                let locks = i64::try_from(locks).unwrap_or(i64::MAX);
                self.of_all.with_label_values(&labels).set(locks);
            }
            // It may be gone already, or never have been.
            None => drop(self.of_all.remove_label_values(&labels)),
        }
    }

    /// So many more ended so.
    pub fn ended(&self, end: LockEnd, locks: u64) {
        let labels = [self.peer.as_str(), &self.check, end.as_str()];
        self.ends.with_label_values(&labels).inc_by(locks);
    }

    /// How they are is not known.
    pub fn unknown(&self) {
        for state in LockState::ALL {
            self.set(state, None);
        }
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        self.unknown();
    }
}

impl LockState {
    const ALL: [Self; 4] = [Self::Held, Self::Suspect, Self::Endless, Self::Free];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Suspect => "suspect",
            Self::Endless => "endless",
            Self::Free => "free",
        }
    }
}

impl LockEnd {
    const ALL: [Self; 3] = [Self::Expired, Self::Released, Self::Taken];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Released => "released",
            Self::Taken => "taken",
        }
    }
}

impl CheckKind {
    const ALL: [Self; 15] = [
        Self::Http,
        Self::Sockets,
        Self::Expectation,
        Self::Owner,
        Self::Docker,
        Self::Systemd,
        Self::Metric,
        Self::Connections,
        Self::Memory,
        Self::File,
        Self::Subscription,
        Self::Tcp,
        Self::Exec,
        Self::RedisKey,
        Self::RedisLock,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Sockets => "sockets",
            Self::Expectation => "expectation",
            Self::Owner => "owner",
            Self::Docker => "docker",
            Self::Systemd => "systemd",
            Self::Metric => "metric",
            Self::Connections => "connections",
            Self::Memory => "memory",
            Self::File => "file",
            Self::Subscription => "subscription",
            Self::Tcp => "tcp",
            Self::Exec => "exec",
            Self::RedisKey => "redis_key",
            Self::RedisLock => "redis_lock",
        }
    }
}

impl RunOutcome {
    /// That of a check's run.
    pub const fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Pass => Self::Pass,
            Outcome::Fail { .. } | Outcome::Doubt { .. } => Self::Fail,
            Outcome::Unknown { .. } => Self::Unknown,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Unknown => "unknown",
        }
    }
}

impl Datagram {
    const ALL: [Self; 7] = [
        Self::Taken,
        Self::ForeignUser,
        Self::Stranger,
        Self::Anonymous,
        Self::Oversize,
        Self::Garbage,
        Self::Flood,
    ];

    /// As in the metric, and in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::ForeignUser => "foreign_user",
            Self::Stranger => "stranger",
            Self::Anonymous => "anonymous",
            Self::Oversize => "oversize",
            Self::Garbage => "garbage",
            Self::Flood => "flood",
        }
    }
}

impl OwnerEvent {
    const ALL: [Self; 6] = [
        Self::Running,
        Self::Exited,
        Self::Restarting,
        Self::Stopped,
        Self::Absent,
        Self::Unseen,
    ];

    /// That of what was seen.
    pub const fn of(seen: &OwnerSeen) -> Self {
        match seen {
            OwnerSeen::Running(_) => Self::Running,
            OwnerSeen::Exited(_) => Self::Exited,
            OwnerSeen::Restarting(_) => Self::Restarting,
            OwnerSeen::Stopped { .. } => Self::Stopped,
            OwnerSeen::Absent { .. } => Self::Absent,
            OwnerSeen::Unseen { .. } => Self::Unseen,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Restarting => "restarting",
            Self::Stopped => "stopped",
            Self::Absent => "absent",
            Self::Unseen => "unseen",
        }
    }
}
