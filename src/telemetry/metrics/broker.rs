//! Metrics of the embedded broker (`bus::embedded`).

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Why the broker's connection to a client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The client went away or said QUIT.
    Client,
    /// `CLIENT KILL`.
    Killed,
    /// It did not read, and what was queued for it passed the bound.
    SlowReader,
    /// It sent something that is no request, or one past the bounds.
    ProtocolError,
    /// The broker was full.
    Refused,
    /// The broker ended.
    Shutdown,
}

impl Closed {
    const ALL: [Self; 6] = [
        Self::Client,
        Self::Killed,
        Self::SlowReader,
        Self::ProtocolError,
        Self::Refused,
        Self::Shutdown,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Killed => "killed",
            Self::SlowReader => "slow_reader",
            Self::ProtocolError => "protocol_error",
            Self::Refused => "refused",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Metrics of the embedded broker. All stay 0 while the bus is a Redis server.
#[derive(Clone, Debug)]
pub struct BrokerMetrics {
    /// `defib_broker_clients`: connected now, the node's own two links among them.
    pub clients: IntGauge,
    /// `defib_broker_published_total`: messages that clients published.
    pub published: IntCounter,
    /// `defib_broker_delivered_total`: copies of them that were queued for subscribers.
    pub delivered: IntCounter,
    /// `defib_broker_dropped_total`: copies that never left, because their subscriber did not read.
    pub dropped: IntCounter,
    closed: IntCounterVec,
}

impl BrokerMetrics {
    /// Counts the end of one connection, by reason: `defib_broker_closed_total`.
    pub fn closed(&self, reason: Closed) {
        self.closed.with_label_values(&[reason.label()]).inc();
    }

    /// How many connections ended for this reason.
    pub fn closed_so_far(&self, reason: Closed) -> u64 {
        self.closed.with_label_values(&[reason.label()]).get()
    }

    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            clients: IntGauge::new("defib_broker_clients", "Clients of the embedded broker now")?,
            published: IntCounter::new(
                "defib_broker_published_total",
                "Messages published on the embedded broker",
            )?,
            delivered: IntCounter::new(
                "defib_broker_delivered_total",
                "Copies of messages that the embedded broker queued for subscribers",
            )?,
            dropped: IntCounter::new(
                "defib_broker_dropped_total",
                "Copies that were lost because their subscriber did not read and was disconnected",
            )?,
            closed: IntCounterVec::new(
                Opts::new(
                    "defib_broker_closed_total",
                    "Connections to the embedded broker that ended",
                ),
                &["reason"],
            )?,
        };
        for reason in Closed::ALL {
            metrics.closed.with_label_values(&[reason.label()]);
        }
        registry.register(Box::new(metrics.clients.clone()))?;
        registry.register(Box::new(metrics.published.clone()))?;
        registry.register(Box::new(metrics.delivered.clone()))?;
        registry.register(Box::new(metrics.dropped.clone()))?;
        registry.register(Box::new(metrics.closed.clone()))?;
        Ok(metrics)
    }
}
