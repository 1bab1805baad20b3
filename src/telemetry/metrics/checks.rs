//! Metrics of `checks`.

use prometheus::Registry;

/// Metrics of `checks`.
#[derive(Clone, Debug)]
pub struct CheckMetrics {}

impl CheckMetrics {
    pub(super) fn register(_registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {})
    }
}
