//! Metrics of `leases`. No key and no token is ever a label.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

/// What is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Take it.
    Take,
    /// Let it last.
    Extend,
    /// Give it back.
    Release,
    /// Is it held?
    Look,
}

impl Call {
    const ALL: [Self; 4] = [Self::Take, Self::Extend, Self::Release, Self::Look];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Take => "take",
            Self::Extend => "extend",
            Self::Release => "release",
            Self::Look => "look",
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, or free.
    Yes,
    /// It is somebody else's, or gone.
    No,
    /// No answer.
    Unknown,
    /// The server refuses: a permission, a replica, no memory.
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

/// Why a lease that was held is not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its holder gave it back.
    Released,
    /// Redis says that it is another's, or gone.
    Gone,
    /// Its time was over before a renewal was confirmed.
    Expired,
    /// Its peer exited.
    PeerExited,
    /// Its peer is dead or has left, so it was not renewed.
    PeerDead,
    /// The node drained.
    Drained,
}

impl End {
    const ALL: [Self; 6] = [
        Self::Released,
        Self::Gone,
        Self::Expired,
        Self::PeerExited,
        Self::PeerDead,
        Self::Drained,
    ];

    /// As in the label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Gone => "gone",
            Self::Expired => "expired",
            Self::PeerExited => "peer_exited",
            Self::PeerDead => "peer_dead",
            Self::Drained => "drained",
        }
    }
}

/// Metrics of `leases`.
#[derive(Clone, Debug)]
pub struct LeaseMetrics {
    held: IntGauge,
    calls: IntCounterVec,
    duration: HistogramVec,
    ends: IntCounterVec,
}

impl LeaseMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let held = IntGauge::new("defib_leases_held", "Leases that this node holds.")?;
        let calls = IntCounterVec::new(
            Opts::new(
                "defib_lease_calls_total",
                "Requests for leases, by call and what came of it.",
            ),
            &["call", "outcome"],
        )?;
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "defib_lease_call_duration_seconds",
                "How long a request took, by call.",
            )
            .buckets(vec![0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0]),
            &["call"],
        )?;
        let ends = IntCounterVec::new(
            Opts::new("defib_lease_ends_total", "Leases that ended, by why."),
            &["why"],
        )?;
        for call in Call::ALL {
            duration.with_label_values(&[call.as_str()]);
            for outcome in Outcome::ALL {
                calls.with_label_values(&[call.as_str(), outcome.as_str()]);
            }
        }
        for end in End::ALL {
            ends.with_label_values(&[end.as_str()]);
        }
        registry.register(Box::new(held.clone()))?;
        registry.register(Box::new(calls.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(ends.clone()))?;
        Ok(Self {
            held,
            calls,
            duration,
            ends,
        })
    }

    /// So many are held now.
    pub fn held(&self, leases: usize) {
        self.held.set(i64::try_from(leases).unwrap_or(i64::MAX));
    }

    /// A request ended.
    pub fn called(&self, call: Call, outcome: Outcome, took: Duration) {
        self.calls
            .with_label_values(&[call.as_str(), outcome.as_str()])
            .inc();
        self.duration
            .with_label_values(&[call.as_str()])
            .observe(took.as_secs_f64());
    }

    /// A lease that was held ended.
    pub fn ended(&self, end: End) {
        self.ends.with_label_values(&[end.as_str()]).inc();
    }
}
