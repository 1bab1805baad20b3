//! Metrics of `fleet`: what guards asked of the outside.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Leave of the group.
    Take,
    /// The same for a dry run: only whether it would be given.
    Look,
    /// It is told what becomes of it.
    Settle,
    /// The blockers of a peer.
    Blockers,
}

impl Call {
    const ALL: [Self; 4] = [Self::Take, Self::Look, Self::Settle, Self::Blockers];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Take => "take",
            Self::Look => "look",
            Self::Settle => "settle",
            Self::Blockers => "blockers",
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Given, settled, clear.
    Yes,
    /// Not now; blocked.
    No,
    /// No answer.
    Unknown,
    /// The server refuses: a permission, a replica, no memory, no scripts.
    Refused,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Yes, Self::No, Self::Unknown, Self::Refused];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
            Self::Refused => "refused",
        }
    }
}

/// Metrics of `fleet`.
#[derive(Clone, Debug)]
pub struct FleetMetrics {
    calls: IntCounterVec,
    duration: HistogramVec,
    /// Records in the group's ledger that no node of the group wrote.
    pub disbelieved: IntCounter,
}

impl FleetMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let calls = IntCounterVec::new(
            Opts::new(
                "defib_fleet_calls_total",
                "What guards asked of the outside, by call and what came of it.",
            ),
            &["call", "outcome"],
        )?;
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "defib_fleet_call_duration_seconds",
                "How long a question to the outside took, by call.",
            )
            .buckets(vec![0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0]),
            &["call"],
        )?;
        for call in Call::ALL {
            duration.with_label_values(&[call.as_str()]);
            for outcome in Outcome::ALL {
                calls.with_label_values(&[call.as_str(), outcome.as_str()]);
            }
        }
        let disbelieved = IntCounter::new(
            "defib_fleet_disbelieved_total",
            "Records of the group's leave that do not verify, and counted for nothing.",
        )?;
        registry.register(Box::new(calls.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(disbelieved.clone()))?;
        Ok(Self {
            calls,
            duration,
            disbelieved,
        })
    }

    /// A question was answered, or was not.
    pub fn called(&self, call: Call, outcome: Outcome, took: Duration) {
        self.calls
            .with_label_values(&[call.as_str(), outcome.as_str()])
            .inc();
        self.duration
            .with_label_values(&[call.as_str()])
            .observe(took.as_secs_f64());
    }
}
