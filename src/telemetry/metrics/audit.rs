//! Metrics of `audit`.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

/// Metrics of `audit`.
#[derive(Clone, Debug)]
pub struct AuditMetrics {
    records: IntCounterVec,
    healthy: IntGauge,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is on the disk.
    Written,
    /// The disk did not take it.
    Failed,
    /// Too many were waiting for the disk.
    Dropped,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Written, Self::Failed, Self::Dropped];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

impl AuditMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let new = Self {
            records: IntCounterVec::new(
                Opts::new(
                    "defib_audit_records_total",
                    "Records of the audit, by what became of them.",
                ),
                &["outcome"],
            )?,
            healthy: IntGauge::new(
                "defib_audit_healthy",
                "1 unless the last write of the audit failed.",
            )?,
        };
        registry.register(Box::new(new.records.clone()))?;
        registry.register(Box::new(new.healthy.clone()))?;
        for outcome in Outcome::ALL {
            new.records.with_label_values(&[outcome.as_str()]);
        }
        new.healthy.set(1);
        Ok(new)
    }

    /// So many records came to this.
    pub fn records(&self, outcome: Outcome, count: usize) {
        self.records
            .with_label_values(&[outcome.as_str()])
            .inc_by(count as u64);
        match outcome {
            Outcome::Written => self.healthy.set(1),
            Outcome::Failed => self.healthy.set(0),
            Outcome::Dropped => {}
        }
    }
}
