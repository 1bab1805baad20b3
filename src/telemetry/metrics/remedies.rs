//! Metrics of `remedies`.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

use crate::engine::event::RemedyOutcome;
use crate::engine::settings::RemedyKind;

const OUTCOMES: [&str; 4] = ["acted", "fenced", "not_acted", "failed"];

/// Metrics of `remedies`.
#[derive(Clone, Debug)]
pub struct RemedyMetrics {
    runs: IntCounterVec,
    duration: HistogramVec,
    window: Histogram,
    dropped: IntCounter,
    captures: IntGauge,
    evicted: IntCounter,
}

impl RemedyMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let runs = IntCounterVec::new(
            Opts::new(
                "defib_executor_runs_total",
                "Granted remedies handed to an executor, by kind and outcome.",
            ),
            &["kind", "outcome"],
        )?;
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "defib_executor_run_duration_seconds",
                "How long an executor took, by kind.",
            )
            .buckets(vec![0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0]),
            &["kind"],
        )?;
        let window = Histogram::with_opts(
            HistogramOpts::new(
                "defib_executor_fence_window_seconds",
                "From the fence's re-check of the incarnation to the act: the window in which a new one could be hit.",
            )
            .buckets(vec![0.000_01, 0.000_1, 0.001, 0.01, 0.1, 1.0]),
        )?;
        let dropped = IntCounter::new(
            "defib_executor_output_dropped_bytes_total",
            "Output of commands that was over the bounds of the log.",
        )?;
        let captures = IntGauge::new(
            "defib_captures_bytes",
            "Size of all captures, after the last one.",
        )?;
        let evicted = IntCounter::new(
            "defib_captures_evicted_total",
            "Captures that went because newer ones needed the room.",
        )?;
        for kind in RemedyKind::ALL {
            // A pulse has no executor.
            if kind != RemedyKind::Healthz {
                duration.with_label_values(&[kind.as_str()]);
                for outcome in OUTCOMES {
                    runs.with_label_values(&[kind.as_str(), outcome]);
                }
            }
        }
        registry.register(Box::new(runs.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(window.clone()))?;
        registry.register(Box::new(dropped.clone()))?;
        registry.register(Box::new(captures.clone()))?;
        registry.register(Box::new(evicted.clone()))?;
        Ok(Self {
            runs,
            duration,
            window,
            dropped,
            captures,
            evicted,
        })
    }

    /// An executor ended.
    pub fn ended(&self, kind: RemedyKind, outcome: &RemedyOutcome, took: Duration) {
        let outcome = match outcome {
            RemedyOutcome::Acted { .. } => "acted",
            RemedyOutcome::Fenced { .. } => "fenced",
            RemedyOutcome::NotActed { .. } => "not_acted",
            RemedyOutcome::Failed { .. } => "failed",
        };
        self.runs.with_label_values(&[kind.as_str(), outcome]).inc();
        self.duration
            .with_label_values(&[kind.as_str()])
            .observe(took.as_secs_f64());
    }

    /// From the fence to the act.
    pub fn window(&self, window: Duration) {
        self.window.observe(window.as_secs_f64());
    }

    /// A capture was kept: the size of all of them now, and how many went for it.
    pub fn captured(&self, total: u64, evicted: u64) {
        self.captures.set(i64::try_from(total).unwrap_or(i64::MAX));
        self.evicted.inc_by(evicted);
    }

    /// Output that was not logged.
    pub fn dropped(&self, bytes: u64) {
        self.dropped.inc_by(bytes);
    }
}
