//! Metrics of `http`.

use prometheus::Registry;

/// Metrics of `http`.
#[derive(Clone, Debug)]
pub struct HttpMetrics {}

impl HttpMetrics {
    pub(super) fn register(_registry: &Registry) -> prometheus::Result<Self> {
        Ok(Self {})
    }
}
