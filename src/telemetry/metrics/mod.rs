//! Every metric that defib exports: one struct a module, registered in one place. Labels hold enums and names
//! from the configuration, never an id, an address or an error text. docs/metrics.md lists them all.

pub mod audit;
pub mod broker;
pub mod bus;
pub mod checks;
pub mod engine;
pub mod fleet;
pub mod http;
pub mod leases;
pub mod notify;
pub mod preflight;
pub mod remedies;
pub mod signing;
pub mod store;
pub mod tasks;

use std::collections::HashMap;

use prometheus::Registry;
use prometheus::core::{Collector, MetricVec, MetricVecBuilder};

/// All metrics of one node. Cheap to clone: every handle is shared.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// What `/metrics` gathers.
    pub registry: Registry,
    /// Of `audit`.
    pub audit: audit::AuditMetrics,
    /// Of the embedded broker.
    pub broker: broker::BrokerMetrics,
    /// Of `bus`.
    pub bus: bus::BusMetrics,
    /// Of `checks`.
    pub checks: checks::CheckMetrics,
    /// Of `engine`.
    pub engine: engine::EngineMetrics,
    /// Of `fleet`.
    pub fleet: fleet::FleetMetrics,
    /// Of `http`.
    pub http: http::HttpMetrics,
    /// Of `leases`.
    pub leases: leases::LeaseMetrics,
    /// Of `notify`.
    pub notify: notify::NotifyMetrics,
    /// Of the preflight.
    pub preflight: preflight::PreflightMetrics,
    /// Of `remedies`.
    pub remedies: remedies::RemedyMetrics,
    /// Of `signing`.
    pub signing: signing::SigningMetrics,
    /// Of `store`.
    pub store: store::StoreMetrics,
    /// Of `tasks`.
    pub tasks: tasks::TaskMetrics,
}

/// Drops the series in which that label has that value: its peer, or task, is no more.
fn forget<B: MetricVecBuilder>(series: &MetricVec<B>, label: &str, value: &str) {
    for family in series.collect() {
        for metric in family.get_metric() {
            let labels = metric.get_label().iter();
            let labels: HashMap<&str, &str> = labels.map(|pair| (pair.name(), pair.value())).collect();
            if labels.get(label) == Some(&value) {
                // It was there a moment ago; if it is gone, that is what was wanted.
                let _ = series.remove(&labels);
            }
        }
    }
}

impl Metrics {
    /// A reload took this peer away.
    pub fn forget_peer(&self, peer: &str) {
        self.engine.forget_peer(peer);
        self.http.forget_peer(peer);
        self.checks.forget_peer(peer);
    }

    /// Registers every metric. Fails only if two share a name: a fault of ours.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        Ok(Self {
            audit: audit::AuditMetrics::register(&registry)?,
            broker: broker::BrokerMetrics::register(&registry)?,
            bus: bus::BusMetrics::register(&registry)?,
            checks: checks::CheckMetrics::register(&registry)?,
            engine: engine::EngineMetrics::register(&registry)?,
            fleet: fleet::FleetMetrics::register(&registry)?,
            http: http::HttpMetrics::register(&registry)?,
            leases: leases::LeaseMetrics::register(&registry)?,
            notify: notify::NotifyMetrics::register(&registry)?,
            preflight: preflight::PreflightMetrics::register(&registry)?,
            remedies: remedies::RemedyMetrics::register(&registry)?,
            signing: signing::SigningMetrics::register(&registry)?,
            store: store::StoreMetrics::register(&registry)?,
            tasks: tasks::TaskMetrics::register(&registry)?,
            registry,
        })
    }
}
