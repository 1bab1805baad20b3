//! Metrics of the preflight.

use prometheus::{IntGaugeVec, Opts, Registry};

use crate::preflight::{Finding, Item};

/// Metrics of the preflight.
#[derive(Clone, Debug)]
pub struct PreflightMetrics {
    ok: IntGaugeVec,
}

impl PreflightMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let ok = IntGaugeVec::new(
            Opts::new(
                "defib_preflight_ok",
                "1 if that part can work here, 0 if something is missing; no series while that cannot be told.",
            ),
            &["part", "peer", "name"],
        )?;
        registry.register(Box::new(ok.clone()))?;
        Ok(Self { ok })
    }

    /// What the last preflight found. Of several of one name (two rungs of one kind) the worst counts.
    pub fn found(&self, items: &[Item]) {
        self.ok.reset();
        for (value, missing) in [(1, false), (0, true)] {
            let alike = items.iter().filter(|item| match item.finding {
                Finding::Ok { .. } => !missing,
                Finding::Missing { .. } => missing,
                Finding::Unknown { .. } => false,
            });
            for item in alike {
                let subject = &item.subject;
                let labels = [subject.part.as_str(), &subject.peer, &subject.name];
                self.ok.with_label_values(&labels).set(value);
            }
        }
    }
}
