//! Metrics of `engine`.

use prometheus::Registry;

/// Metrics of `engine`.
#[derive(Clone, Debug)]
pub struct EngineMetrics {}

impl EngineMetrics {
    pub(super) fn register(_registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {})
    }
}
