//! Metrics of `store`.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Metrics of `store`.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    writes: IntCounterVec,
    write_seconds: Histogram,
    bytes: IntGauge,
    healthy: IntGauge,
    restored: IntGaugeVec,
}

/// What was found at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Missing,
    /// Something unreadable.
    Corrupt,
    /// The state of an earlier run.
    State,
}

impl Found {
    const ALL: [Self; 3] = [Self::Missing, Self::Corrupt, Self::State];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Corrupt => "corrupt",
            Self::State => "found",
        }
    }
}

impl StoreMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let new = Self {
            writes: IntCounterVec::new(
                Opts::new(
                    "defib_store_writes_total",
                    "Writes of the node's state, by result.",
                ),
                &["result"],
            )?,
            write_seconds: Histogram::with_opts(
                HistogramOpts::new("defib_store_write_seconds", "Time of one write, with its fsyncs.")
                    .buckets(vec![0.000_1, 0.001, 0.01, 0.1, 1.0, 10.0]),
            )?,
            bytes: IntGauge::new("defib_store_bytes", "Size of the state as last written.")?,
            healthy: IntGauge::new("defib_store_healthy", "1 unless the last write failed.")?,
            restored: IntGaugeVec::new(
                Opts::new(
                    "defib_store_restored",
                    "1 for what was found at the start: missing, corrupt or found.",
                ),
                &["found"],
            )?,
        };
        registry.register(Box::new(new.writes.clone()))?;
        registry.register(Box::new(new.write_seconds.clone()))?;
        registry.register(Box::new(new.bytes.clone()))?;
        registry.register(Box::new(new.healthy.clone()))?;
        registry.register(Box::new(new.restored.clone()))?;
        new.healthy.set(1);
        for result in ["ok", "error"] {
            new.writes.with_label_values(&[result]);
        }
        Ok(new)
    }

    /// The store was opened.
    pub fn opened(&self, found: Found) {
        for one in Found::ALL {
            self.restored
                .with_label_values(&[one.as_str()])
                .set(i64::from(one == found));
        }
    }

    /// A write succeeded: so many bytes in so long.
    pub fn written(&self, bytes: usize, took: Duration) {
        self.writes.with_label_values(&["ok"]).inc();
        self.write_seconds.observe(took.as_secs_f64());
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.healthy.set(1);
    }

    /// A write failed.
    pub fn failed(&self) {
        self.writes.with_label_values(&["error"]).inc();
        self.healthy.set(0);
    }
}
