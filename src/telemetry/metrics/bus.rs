//! Metrics of `bus`.

use prometheus::Registry;

/// Metrics of `bus`.
#[derive(Clone, Debug)]
pub struct BusMetrics {}

impl BusMetrics {
    pub(super) fn register(_registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {})
    }
}
