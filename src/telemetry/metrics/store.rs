//! Metrics of `store`.

use prometheus::Registry;

/// Metrics of `store`.
#[derive(Clone, Debug)]
pub struct StoreMetrics {}

impl StoreMetrics {
    pub(super) fn register(_registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {})
    }
}
