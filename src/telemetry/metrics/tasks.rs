//! Metrics of the node's own parts: its tasks, its loop, its end.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// It had nothing left to do.
    Planned,
    /// It failed.
    Error,
    /// It panicked: a fault of ours.
    Panic,
    /// The node ends, or ended it.
    Cancelled,
}

impl ExitReason {
    /// As in the label `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Error => "error",
            Self::Panic => "panic",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Who is told what the engine knows and wants: the loop's fan-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FanOut {
    /// Commands to the bus. Fails when its queue is full or it is being restarted.
    Bus,
    /// Questions of the guards to the outside. Fails as with the bus.
    Errand,
    /// Notices to logs, metrics and the event stream. Fails when a reader lagged behind.
    Notice,
    /// Snapshots to the endpoints.
    Snapshot,
    /// The state to the store.
    Persist,
    /// Heartbeats to `heartbeat.file`.
    File,
}

impl FanOut {
    const ALL: [Self; 6] = [
        Self::Bus,
        Self::Errand,
        Self::Notice,
        Self::Snapshot,
        Self::Persist,
        Self::File,
    ];

    /// As in the label `to`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bus => "bus",
            Self::Errand => "errand",
            Self::Notice => "notice",
            Self::Snapshot => "snapshot",
            Self::Persist => "persist",
            Self::File => "file",
        }
    }
}

/// Metrics of `runtime`.
#[derive(Clone, Debug)]
pub struct TaskMetrics {
    exits: IntCounterVec,
    restarts: IntCounterVec,
    running: IntGaugeVec,
    drain_seconds: Histogram,
    drain_timeouts: IntCounterVec,
    fanout_failures: IntCounterVec,
    fanout_seconds: HistogramVec,
    loop_events: IntCounter,
    loop_queue: IntGauge,
}

impl TaskMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let new = Self {
            exits: IntCounterVec::new(
                Opts::new(
                    "defib_task_exits_total",
                    "Ends of the node's own tasks, by reason.",
                ),
                &["task", "reason"],
            )?,
            restarts: IntCounterVec::new(
                Opts::new("defib_task_restarts_total", "Restarts of the node's own tasks."),
                &["task"],
            )?,
            running: IntGaugeVec::new(
                Opts::new("defib_tasks_running", "The node's own tasks that run now."),
                &["task"],
            )?,
            drain_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "defib_drain_seconds",
                    "From the request to end until every task had ended.",
                )
                .buckets(vec![0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]),
            )?,
            drain_timeouts: IntCounterVec::new(
                Opts::new(
                    "defib_drain_timeouts_total",
                    "Tasks that did not end in time and were dropped.",
                ),
                &["task"],
            )?,
            fanout_failures: IntCounterVec::new(
                Opts::new(
                    "defib_fanout_failures_total",
                    "What the event loop could not hand on, by receiver.",
                ),
                &["to"],
            )?,
            fanout_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "defib_fanout_seconds",
                    "Time the event loop took to hand on, by receiver.",
                )
                .buckets(vec![0.000_01, 0.000_1, 0.001, 0.01, 0.1, 1.0]),
                &["to"],
            )?,
            loop_events: IntCounter::new("defib_loop_events_total", "Events that the engine was handed.")?,
            loop_queue: IntGauge::new(
                "defib_loop_queue",
                "Events that waited at the end of the last turn.",
            )?,
        };
        registry.register(Box::new(new.exits.clone()))?;
        registry.register(Box::new(new.restarts.clone()))?;
        registry.register(Box::new(new.running.clone()))?;
        registry.register(Box::new(new.drain_seconds.clone()))?;
        registry.register(Box::new(new.drain_timeouts.clone()))?;
        registry.register(Box::new(new.fanout_failures.clone()))?;
        registry.register(Box::new(new.fanout_seconds.clone()))?;
        registry.register(Box::new(new.loop_events.clone()))?;
        registry.register(Box::new(new.loop_queue.clone()))?;
        for to in FanOut::ALL {
            new.fanout_failures.with_label_values(&[to.as_str()]);
        }
        Ok(new)
    }

    /// Counts `task` as running until the guard is dropped, on whichever path.
    #[must_use]
    pub fn running(&self, task: &str) -> RunningGuard {
        let gauge = self.running.with_label_values(&[task]);
        gauge.inc();
        RunningGuard(gauge)
    }

    /// A task ended.
    pub fn exited(&self, task: &str, reason: ExitReason) {
        self.exits.with_label_values(&[task, reason.as_str()]).inc();
    }

    /// A reload took this task away.
    pub fn forget(&self, task: &str) {
        super::forget(&self.exits, "task", task);
        super::forget(&self.restarts, "task", task);
        super::forget(&self.running, "task", task);
        super::forget(&self.drain_timeouts, "task", task);
    }

    /// A task is started again.
    pub fn restarted(&self, task: &str) {
        self.restarts.with_label_values(&[task]).inc();
    }

    /// The node drained for so long.
    pub fn drained(&self, took: Duration) {
        self.drain_seconds.observe(took.as_secs_f64());
    }

    /// A task did not end in time.
    pub fn hung(&self, task: &str) {
        self.drain_timeouts.with_label_values(&[task]).inc();
    }

    /// Something could not be handed on.
    pub fn fanout_failed(&self, to: FanOut) {
        self.fanout_failures.with_label_values(&[to.as_str()]).inc();
    }

    /// Something was handed on, which took so long.
    pub fn fanned_out(&self, to: FanOut, took: Duration) {
        self.fanout_seconds
            .with_label_values(&[to.as_str()])
            .observe(took.as_secs_f64());
    }

    /// A turn of the loop: events handled, and events that still wait.
    pub fn turned(&self, events: u64, waiting: usize) {
        self.loop_events.inc_by(events);
        self.loop_queue.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }
}

/// One running task. The gauge falls when this is dropped.
#[derive(Debug)]
pub struct RunningGuard(IntGauge);

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gauge_returns_on_every_path() {
        let metrics = TaskMetrics::register(&Registry::new()).unwrap();
        let value = || metrics.running.with_label_values(&["bus"]).get();
        let guard = metrics.running("bus");
        assert_eq!(value(), 1);
        drop(guard);
        assert_eq!(value(), 0);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _guard = metrics.running("bus");
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert_eq!(value(), 0);
    }
}
