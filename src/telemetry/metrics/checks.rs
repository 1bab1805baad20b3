//! Metrics of `checks`.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use crate::engine::event::{Outcome, OwnerSeen};

/// What kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// An `http` check.
    Http,
    /// An expectation.
    Expectation,
    /// A look of the owner watch at its process or container.
    Owner,
    /// A `docker` check.
    Docker,
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

/// Metrics of `checks`.
#[derive(Clone, Debug)]
pub struct CheckMetrics {
    runs: IntCounterVec,
    duration: HistogramVec,
    owner_events: IntCounterVec,
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
        Ok(Self {
            runs,
            duration,
            owner_events,
        })
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

    /// The owner watch saw something.
    pub fn owner(&self, event: OwnerEvent) {
        self.owner_events.with_label_values(&[event.as_str()]).inc();
    }
}

impl CheckKind {
    const ALL: [Self; 4] = [Self::Http, Self::Expectation, Self::Owner, Self::Docker];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Expectation => "expectation",
            Self::Owner => "owner",
            Self::Docker => "docker",
        }
    }
}

impl RunOutcome {
    /// That of a check's run.
    pub const fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Pass => Self::Pass,
            Outcome::Fail { .. } => Self::Fail,
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
