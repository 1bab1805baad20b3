//! Metrics of `tasks`.

use prometheus::Registry;

/// Metrics of `tasks`.
#[derive(Clone, Debug)]
pub struct TaskMetrics {}

impl TaskMetrics {
    pub(super) fn register(_registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {})
    }
}
