//! Metrics of `remedies`.

use prometheus::Registry;

/// Metrics of `remedies`.
#[derive(Clone, Debug)]
pub struct RemedyMetrics {}

impl RemedyMetrics {
    pub(super) fn register(_registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {})
    }
}
