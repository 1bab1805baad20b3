//! Metrics of `bus`.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
};

/// Metrics of `bus`. Labels: `link` is `pub` or `sub`; `result` and `reason` are enums of `bus`.
#[derive(Clone, Debug)]
pub struct BusMetrics {
    /// `defib_bus_link_up{link}`: 1 while the link is connected, greeted and, for `sub`, subscribed.
    pub link_up: IntGaugeVec,
    /// `defib_bus_connects_total{link,result}`: attempts at a connection; `ok`, `failed` or `refused`.
    pub connects: IntCounterVec,
    /// `defib_bus_lost_total{link,reason}`: connections that stood and were given up.
    pub lost: IntCounterVec,
    /// `defib_bus_refusals_total{link}`: answers by which the server refused what the node needs.
    pub refusals: IntCounterVec,
    /// `defib_bus_ping_seconds{link}`: time from an in-band PING to its PONG.
    pub ping: HistogramVec,
    /// `defib_bus_published_total{result}`: own heartbeats; `ok`, `failed` (no answer, no link, one too many in
    /// flight) or `refused`.
    pub published: IntCounterVec,
    /// `defib_bus_publish_seconds`: time from a PUBLISH to its answer.
    pub publish: Histogram,
    /// `defib_bus_heartbeats_total`: messages received that were heartbeats.
    pub heartbeats: IntCounter,
    /// `defib_bus_opaque_total{reason}`: messages received that were no heartbeats, and why not.
    pub opaque: IntCounterVec,
    /// `defib_bus_dropped_total`: messages received that the event loop had no room for.
    pub dropped: IntCounter,
    /// `defib_vote_answers_total{result}`: nodes asked over HTTP; `ok`, `failed` (no answer), `refused` (another status
    /// than 200), `unreadable`, `unverified` or `renamed` (in the name of another node than a moment ago); an answer that is the same as the one before is not counted.
    pub asked: IntCounterVec,
}

impl BusMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let plain_counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            prometheus::Result::Ok(counter)
        };
        let buckets = vec![
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
        ];
        let link_up = IntGaugeVec::new(
            Opts::new(
                "defib_bus_link_up",
                "1 while the link is connected and, for sub, subscribed.",
            ),
            &["link"],
        )?;
        registry.register(Box::new(link_up.clone()))?;
        let ping = HistogramVec::new(
            HistogramOpts::new(
                "defib_bus_ping_seconds",
                "Time from an in-band PING to its PONG, by link.",
            )
            .buckets(buckets.clone()),
            &["link"],
        )?;
        registry.register(Box::new(ping.clone()))?;
        let publish = Histogram::with_opts(
            HistogramOpts::new(
                "defib_bus_publish_seconds",
                "Time from a PUBLISH of ours to its answer.",
            )
            .buckets(buckets),
        )?;
        registry.register(Box::new(publish.clone()))?;
        Ok(Self {
            link_up,
            connects: counter(
                "defib_bus_connects_total",
                "Attempts at a connection, by link and result.",
                &["link", "result"],
            )?,
            lost: counter(
                "defib_bus_lost_total",
                "Connections that stood and were given up, by link and reason.",
                &["link", "reason"],
            )?,
            refusals: counter(
                "defib_bus_refusals_total",
                "Answers by which the server refused what the node needs, by link.",
                &["link"],
            )?,
            ping,
            published: counter(
                "defib_bus_published_total",
                "Own heartbeats, by result.",
                &["result"],
            )?,
            publish,
            heartbeats: plain_counter(
                "defib_bus_heartbeats_total",
                "Messages received that were heartbeats.",
            )?,
            opaque: counter(
                "defib_bus_opaque_total",
                "Messages received that were no heartbeats, by reason.",
                &["reason"],
            )?,
            asked: counter(
                "defib_vote_answers_total",
                "Nodes that were asked for their votes over HTTP, by result.",
                &["result"],
            )?,
            dropped: plain_counter(
                "defib_bus_dropped_total",
                "Messages received that the event loop had no room for.",
            )?,
        })
    }
}
