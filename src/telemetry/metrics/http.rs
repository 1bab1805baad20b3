//! Metrics of `http`: requests, connections, and whether the probes that a `healthz` remedy needs ever come.

use std::time::Duration;

use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Metrics of `http`.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    requests: IntCounterVec,
    connections: IntGaugeVec,
    cut: IntCounterVec,
    sse_clients: IntGauge,
    sse_missed: IntCounter,
    probes: IntCounterVec,
    wired: IntGaugeVec,
    unknown_peer: IntCounterVec,
    doubts_unheard: IntCounter,
    beats: IntCounterVec,
    run_time: GaugeVec,
}

/// What a beat of a `push` check said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// It lives; or its run ended well.
    Success,
    /// Its run begins.
    Start,
    /// It failed.
    Fail,
    /// Only a message.
    Log,
    /// It leaves on purpose.
    Stop,
    /// Refused: too many.
    Limited,
}

impl Beat {
    /// Its label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Start => "start",
            Self::Fail => "fail",
            Self::Log => "log",
            Self::Stop => "stop",
            Self::Limited => "limited",
        }
    }
}

/// One of the listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// The public one.
    Public,
    /// The admin Unix socket.
    AdminUnix,
    /// The admin loopback port.
    AdminTcp,
}

impl Listener {
    /// Its label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::AdminUnix => "admin_unix",
            Self::AdminTcp => "admin_tcp",
        }
    }
}

/// Why a connection was refused or ended by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Accepting failed: file descriptors or memory ran out.
    Accept,
    /// A request is in flight on every place: closed without a word.
    Full,
    /// Idle longest when its place was needed.
    Idle,
    /// Past the limit, and not a probe: answered 503.
    Busy,
    /// Too slow in sending its request or in taking its answer.
    Slow,
    /// Not HTTP/1, or its head is too large.
    Malformed,
    /// The connection broke.
    Broken,
}

impl Cut {
    /// Its label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Full => "full",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Slow => "slow",
            Self::Malformed => "malformed",
            Self::Broken => "broken",
        }
    }

    /// What hyper's error means.
    pub fn of(error: &hyper::Error) -> Self {
        if error.is_timeout() {
            Self::Slow
        } else if error.is_parse() || error.is_parse_too_large() || error.is_parse_status() {
            Self::Malformed
        } else {
            Self::Broken
        }
    }
}

/// An open connection; it is counted until this is dropped, on every path.
#[derive(Debug)]
#[must_use = "the gauge falls when this is dropped"]
pub struct Open(IntGauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl HttpMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let made = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(made.clone()))?;
            prometheus::Result::Ok(made)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let made = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(made.clone()))?;
            prometheus::Result::Ok(made)
        };
        let run_time = GaugeVec::new(
            Opts::new(
                "defib_push_run_duration_seconds",
                "How long the last run took that a `push` check was told the start and the end of.",
            ),
            &["peer", "check"],
        )?;
        registry.register(Box::new(run_time.clone()))?;
        let sse_clients = IntGauge::new("defib_http_sse_clients", "Clients that follow /api/v1/events.")?;
        registry.register(Box::new(sse_clients.clone()))?;
        let sse_missed = IntCounter::new(
            "defib_http_sse_missed_total",
            "Events that lagging clients of /api/v1/events did not get; each was told how many.",
        )?;
        registry.register(Box::new(sse_missed.clone()))?;
        let doubts_unheard = IntCounter::new(
            "defib_doubts_unheard_total",
            "Suspicions of other nodes, told with their questions for votes, that there was no room for.",
        )?;
        registry.register(Box::new(doubts_unheard.clone()))?;
        Ok(Self {
            doubts_unheard,
            requests: counters(
                "defib_http_requests_total",
                "Requests answered, by endpoint and status.",
                &["endpoint", "status"],
            )?,
            connections: gauges("defib_http_connections", "Open connections.", &["listener"])?,
            cut: counters(
                "defib_http_connections_cut_total",
                "Connections refused or ended by this node, or broken.",
                &["listener", "reason"],
            )?,
            sse_clients,
            sse_missed,
            probes: counters(
                "defib_healthz_probes_total",
                "Requests of /healthz that concern the peer. 0 means that its healthz remedy is not wired.",
                &["peer"],
            )?,
            wired: gauges(
                "defib_healthz_wired",
                "1 once a probe of /healthz has come for a peer with a healthz remedy, else 0.",
                &["peer"],
            )?,
            unknown_peer: counters(
                "defib_probes_unknown_peer_total",
                "Probes that named a peer which is not configured; they are answered 200.",
                &["endpoint"],
            )?,
            beats: counters(
                "defib_push_beats_total",
                "Beats of the peer's `push` checks, by what they said; `limited`: refused, too many.",
                &["peer", "outcome"],
            )?,
            run_time,
        })
    }

    /// A request was answered. `endpoint` comes from a fixed list, never from the request.
    pub fn answered(&self, endpoint: &'static str, status: u16) {
        self.requests
            .with_label_values(&[endpoint, status.to_string().as_str()])
            .inc();
    }

    /// A connection was opened.
    pub fn connection(&self, listener: Listener) -> Open {
        let gauge = self.connections.with_label_values(&[listener.as_str()]);
        gauge.inc();
        Open(gauge)
    }

    /// A connection was refused or ended.
    pub fn cut(&self, listener: Listener, why: Cut) {
        self.cut
            .with_label_values(&[listener.as_str(), why.as_str()])
            .inc();
    }

    /// A client follows the events.
    pub fn sse_client(&self) -> Open {
        self.sse_clients.inc();
        Open(self.sse_clients.clone())
    }

    /// A client lagged and lost so many events.
    pub fn sse_missed(&self, events: u64) {
        self.sse_missed.inc_by(events);
    }

    /// `/healthz` was asked about this configured peer.
    pub fn healthz_probed(&self, peer: &str) {
        self.probes.with_label_values(&[peer]).inc();
    }

    /// How often `/healthz` was asked about this configured peer.
    pub fn healthz_probes(&self, peer: &str) -> u64 {
        self.probes.with_label_values(&[peer]).get()
    }

    /// Brings `defib_healthz_wired` up to date for a peer that has the remedy.
    pub fn show_wiring(&self, peer: &str) {
        let wired = self.healthz_probes(peer) > 0;
        self.wired.with_label_values(&[peer]).set(i64::from(wired));
    }

    /// A `push` check of this configured peer was beaten.
    pub fn beat(&self, peer: &str, said: Beat) {
        self.beats.with_label_values(&[peer, said.as_str()]).inc();
    }

    /// A run took so long, by a `push` check of this configured peer.
    pub fn run_took(&self, peer: &str, check: &str, took: Duration) {
        self.run_time
            .with_label_values(&[peer, check])
            .set(took.as_secs_f64());
    }

    pub(super) fn forget_peer(&self, peer: &str) {
        super::forget(&self.probes, "peer", peer);
        super::forget(&self.wired, "peer", peer);
        super::forget(&self.beats, "peer", peer);
        super::forget(&self.run_time, "peer", peer);
    }

    /// Another node told whom it suspects, and there was no room for it.
    pub fn doubt_unheard(&self) {
        self.doubts_unheard.inc();
    }

    /// A probe named a peer that is not configured. `endpoint` as for [`Self::answered`].
    pub fn unknown_peer(&self, endpoint: &'static str) {
        self.unknown_peer.with_label_values(&[endpoint]).inc();
    }
}
