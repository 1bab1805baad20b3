//! Metrics of `signing`.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Metrics of `signing`.
#[derive(Clone, Debug)]
pub struct SigningMetrics {
    /// `defib_signing_verified_total`: messages that verified, our own echoes among them.
    pub verified: IntCounter,
    refused: IntCounterVec,
    keys: IntGauge,
    reads: IntCounterVec,
}

impl SigningMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let new = Self {
            verified: IntCounter::new(
                "defib_signing_verified_total",
                "Messages that verified, our own echoes among them.",
            )?,
            refused: IntCounterVec::new(
                Opts::new(
                    "defib_signing_refused_total",
                    "Messages that did not verify and changed nothing, by reason.",
                ),
                &["reason"],
            )?,
            keys: IntGauge::new("defib_signing_keys", "Keys that are trusted now.")?,
            reads: IntCounterVec::new(
                Opts::new(
                    "defib_signing_reads_total",
                    "Readings of the key files, by result.",
                ),
                &["result"],
            )?,
        };
        registry.register(Box::new(new.verified.clone()))?;
        registry.register(Box::new(new.refused.clone()))?;
        registry.register(Box::new(new.keys.clone()))?;
        registry.register(Box::new(new.reads.clone()))?;
        Ok(new)
    }

    /// Those refused for this reason.
    pub fn refused(&self, reason: &str) -> IntCounter {
        self.refused.with_label_values(&[reason])
    }

    /// The keys were read: so many are trusted; `whole` if nothing was amiss.
    pub fn read(&self, keys: usize, whole: bool) {
        self.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
        let result = if whole { "ok" } else { "failed" };
        self.reads.with_label_values(&[result]).inc();
    }
}
