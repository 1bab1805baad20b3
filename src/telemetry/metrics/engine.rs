//! Metrics of `engine`: what it judges, what it permits, what came of it.
//!
//! Counters follow the notices, one by one; gauges are brought up to date from the snapshot when somebody
//! scrapes, so that a peer's age is its age at that moment and a quiet node spends nothing on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use crate::engine::cause::Cause;
use crate::engine::decision::{Notice, What};
use crate::engine::event::Link;
use crate::engine::guards::GuardName;
use crate::engine::peer::Liveness;
use crate::engine::self_trust::BusState;
use crate::engine::snapshot::{EpisodePhase, PeerView, QuorumView, Snapshot, TrustView, Void};
use crate::engine::time::Time;
use crate::reload_desk::Outcome;

/// Metrics of `engine`.
#[derive(Clone, Debug)]
pub struct EngineMetrics {
    config_valid: IntGauge,
    reloads: IntCounterVec,
    reload_refused: IntGauge,
    applied_at: Gauge,
    uptime: Gauge,
    dry_run: IntGauge,
    draining: IntGauge,
    paused: IntGaugeVec,
    bus_state: IntGaugeVec,
    bus_settling: IntGauge,
    link_up: IntGaugeVec,
    link_replaced: IntCounterVec,
    echo: Histogram,
    last_echo: Arc<AtomicU64>,
    stalls: IntCounter,
    duplicate_node: IntCounter,
    stalled: prometheus::Counter,
    mass_silence: IntGauge,
    mass_silence_trips: IntCounter,
    group_nodes: IntGaugeVec,
    votes: IntCounter,
    votes_void: IntCounterVec,
    confirmed: IntCounter,
    liveness: IntGaugeVec,
    cause: IntGaugeVec,
    ready: IntGaugeVec,
    last_life: GaugeVec,
    budget_left: IntGaugeVec,
    gave_up: IntGaugeVec,
    leave_overdue: IntGaugeVec,
    pulsing: IntGaugeVec,
    check_verdict: IntGaugeVec,
    episodes_open: IntGauge,
    verdicts: IntCounterVec,
    incarnations: IntCounterVec,
    goodbyes: IntCounterVec,
    episodes: IntCounterVec,
    episodes_closed: IntCounterVec,
    recovery: Histogram,
    refusals: IntCounterVec,
    granted: IntCounterVec,
    remedies: IntCounterVec,
    operator: IntCounterVec,
}

/// Registers what it makes.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> prometheus::Result<C> {
        let made = made?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        self.add(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        ))
    }
}

const ECHO_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0];
const RECOVERY_BUCKETS: [f64; 10] = [0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0];

impl EngineMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let make = Maker(registry);
        let build = make.gauges(
            "defib_build_info",
            "Always 1; the version is in the label.",
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let config_valid = make.gauge(
            "defib_config_valid",
            "1 if the configuration is valid; 0 under --on-bad-config=observe, where nothing is judged.",
        )?;
        config_valid.set(1);
        Ok(Self {
            config_valid,
            reloads: make.counters(
                "defib_config_reloads_total",
                "Reloads asked for: `applied`, `unchanged` or `refused`.",
                &["outcome"],
            )?,
            reload_refused: make.gauge(
                "defib_config_reload_refused",
                "1 if the last configuration was refused: the one of before holds.",
            )?,
            applied_at: make.add(Gauge::new(
                "defib_config_applied_timestamp_seconds",
                "When the configuration that holds was last changed by a reload; 0: it is that of the start.",
            ))?,
            uptime: make.add(Gauge::new("defib_uptime_seconds", "Since the engine started."))?,
            dry_run: make.gauge("defib_dry_run", "1 if remedies are decided and not carried out.")?,
            draining: make.gauge("defib_draining", "1 if the node drains.")?,
            paused: make.gauges(
                "defib_paused",
                "1 if a pause is in force; scope is `node` or `peer`, and peer is empty for the node.",
                &["scope", "peer"],
            )?,
            bus_state: make.gauges(
                "defib_bus_state",
                "1 for the state that the bus is in.",
                &["state"],
            )?,
            bus_settling: make.gauge(
                "defib_bus_settling",
                "1 while no remedy runs, after the start or an outage of the bus.",
            )?,
            link_up: make.gauges("defib_link_up", "1 if the link is up.", &["link"])?,
            link_replaced: make.counters(
                "defib_link_replaced_total",
                "Times that the engine had the link replaced.",
                &["link"],
            )?,
            echo: make.histogram(
                "defib_echo_seconds",
                "From sending our own heartbeat to receiving it.",
                &ECHO_BUCKETS,
            )?,
            last_echo: Arc::default(),
            duplicate_node: make.counter(
                "defib_duplicate_node_total",
                "Times that another node of the group was found to use our name.",
            )?,
            stalls: make.counter(
                "defib_stalls_total",
                "Times that this node was stopped or starved.",
            )?,
            stalled: make.add(prometheus::Counter::new(
                "defib_stalled_seconds_total",
                "How long this node was stopped or starved.",
            ))?,
            mass_silence: make.gauge("defib_mass_silence", "1 while mass silence holds everything.")?,
            mass_silence_trips: make.counter(
                "defib_mass_silence_trips_total",
                "Times that many peers fell silent together.",
            )?,
            group_nodes: make.gauges(
                "defib_group_nodes",
                "Nodes of the group, this one among them: `live` are heard now, `known` were and did not leave.",
                &["state"],
            )?,
            votes: make.counter(
                "defib_votes_total",
                "Votes against a peer that other nodes sent, each time one was heard.",
            )?,
            votes_void: make.counters(
                "defib_votes_void_total",
                "Those of them that counted for nothing.",
                &["reason"],
            )?,
            confirmed: make.counter(
                "defib_confirmed_by_votes_total",
                "Silences that the votes of others confirmed before `dead_after`.",
            )?,
            liveness: make.gauges(
                "defib_peer_liveness",
                "1 for the state that the peer is in.",
                &["peer", "state"],
            )?,
            cause: make.gauges(
                "defib_peer_cause",
                "1 for the cause of the peer's state; no series while it is alive.",
                &["peer", "cause"],
            )?,
            ready: make.gauges("defib_peer_ready", "What /readyz/{peer} answers.", &["peer"])?,
            last_life: make.add(GaugeVec::new(
                Opts::new(
                    "defib_peer_last_life_seconds",
                    "Time since the peer's last sign of life; no series before the first.",
                ),
                &["peer"],
            ))?,
            budget_left: make.gauges(
                "defib_peer_budget_left",
                "Restarts that the peer's own budget still permits.",
                &["peer"],
            )?,
            gave_up: make.gauges(
                "defib_gave_up",
                "1 if no remedy is left to try for the peer: somebody has to look.",
                &["peer"],
            )?,
            leave_overdue: make.gauges(
                "defib_peer_leave_overdue",
                "1 if the peer said that it stops, and is still there after `leave_within`.",
                &["peer"],
            )?,
            pulsing: make.gauges(
                "defib_healthz_pulsing",
                "1 while /healthz/{peer} answers 503.",
                &["peer"],
            )?,
            check_verdict: make.gauges(
                "defib_check_verdict",
                "1 for the state that this check alone holds the peer to be in.",
                &["peer", "check", "state"],
            )?,
            episodes_open: make.gauge("defib_episodes_open", "Open episodes, given up ones among them.")?,
            verdicts: make.counters(
                "defib_verdicts_total",
                "Changes of a peer's liveness, by what it became and why.",
                &["peer", "to", "cause"],
            )?,
            incarnations: make.counters(
                "defib_peer_incarnations_total",
                "New incarnations of the peer.",
                &["peer"],
            )?,
            goodbyes: make.counters("defib_peer_goodbyes_total", "Goodbyes of the peer.", &["peer"])?,
            episodes: make.counters("defib_episodes_total", "Episodes opened.", &["peer", "cause"])?,
            episodes_closed: make.counters(
                "defib_episodes_closed_total",
                "Episodes ended: `healed`, `by_itself`, `gave_up` or `closed` (the peer left).",
                &["peer", "how"],
            )?,
            recovery: make.histogram(
                "defib_recovery_seconds",
                "From an episode's opening to the verified recovery.",
                &RECOVERY_BUCKETS,
            )?,
            refusals: make.counters(
                "defib_guard_refusals_total",
                "Refusals of a guard, each told once.",
                &["guard"],
            )?,
            granted: make.counters(
                "defib_remedies_granted_total",
                "Remedies that passed every guard.",
                &["peer", "remedy", "cause"],
            )?,
            remedies: make.counters(
                "defib_remedies_total",
                "Remedies by how their execution ended; outcome `dry_run` was decided and not carried out.",
                &["peer", "remedy", "outcome"],
            )?,
            operator: make.counters(
                "defib_operator_requests_total",
                "Requests of operators, by their answer.",
                &["request", "outcome"],
            )?,
        }
        .with_zeroes())
    }

    /// Series whose absence could be read as "unknown" start at 0.
    fn with_zeroes(self) -> Self {
        for guard in GuardName::ALL {
            self.refusals.with_label_values(&[guard.as_str()]);
        }
        for reason in Void::ALL {
            self.votes_void.with_label_values(&[reason.as_str()]);
        }
        for link in Link::ALL {
            self.link_replaced.with_label_values(&[link.as_str()]);
        }
        self
    }

    /// The configuration's state; valid until told otherwise.
    pub fn config_valid(&self, valid: bool) {
        self.config_valid.set(valid.into());
    }

    /// Its peers, or their checks, are others: what is shown of them is made anew at the next scrape.
    pub fn configured_anew(&self) {
        let gauges = [
            &self.liveness,
            &self.cause,
            &self.ready,
            &self.budget_left,
            &self.gave_up,
            &self.pulsing,
            &self.check_verdict,
            &self.paused,
        ];
        for gauge in gauges {
            gauge.reset();
        }
        self.last_life.reset();
    }

    pub(super) fn forget_peer(&self, peer: &str) {
        let counters = [
            &self.verdicts,
            &self.incarnations,
            &self.goodbyes,
            &self.episodes,
            &self.episodes_closed,
            &self.granted,
            &self.remedies,
        ];
        for counter in counters {
            super::forget(counter, "peer", peer);
        }
        // Not there: it was never set.
        let _ = self.leave_overdue.remove_label_values(&[peer]);
    }

    /// A reload was asked for. `at`: now, since 1970.
    pub fn reloaded(&self, outcome: &Outcome, at: Duration) {
        self.reloads.with_label_values(&[outcome.as_str()]).inc();
        match outcome {
            Outcome::Applied { .. } => {
                self.applied_at.set(at.as_secs_f64());
                self.reload_refused.set(0);
            }
            Outcome::Unchanged => self.reload_refused.set(0),
            Outcome::Refused { .. } => self.reload_refused.set(1),
        }
    }

    /// Counts what a notice tells. For each notice, once.
    pub fn observe_notice(&self, notice: &Notice) {
        let peer = notice.peer.as_deref().unwrap_or_default();
        match &notice.what {
            What::Liveness { to, cause, .. } => {
                let cause = cause.map_or("none", Cause::as_str);
                self.verdicts.with_label_values(&[peer, to.as_str(), cause]).inc();
            }
            What::Stalled { for_ms } => {
                self.stalls.inc();
                self.stalled.inc_by(*for_ms as f64 / 1000.0);
            }
            What::Incarnation { .. } => self.incarnations.with_label_values(&[peer]).inc(),
            What::Goodbye => self.goodbyes.with_label_values(&[peer]).inc(),
            What::EpisodeOpened { cause, .. } => {
                self.episodes.with_label_values(&[peer, cause.as_str()]).inc();
            }
            What::Refused { refusal, .. } => {
                self.refusals.with_label_values(&[refusal.guard.as_str()]).inc();
            }
            What::Granted { kind, cause, .. } => {
                self.granted
                    .with_label_values(&[peer, kind.as_str(), cause.as_str()])
                    .inc();
            }
            What::Acted { kind, outcome, .. } => {
                self.remedies
                    .with_label_values(&[peer, kind.as_str(), outcome])
                    .inc();
            }
            What::ExitedInstead { kind, .. } => {
                self.remedies
                    .with_label_values(&[peer, kind.as_str(), "exited_instead"])
                    .inc();
            }
            What::Recovered {
                remedies, after_ms, ..
            } => {
                let how = if *remedies == 0 { "by_itself" } else { "healed" };
                self.episodes_closed.with_label_values(&[peer, how]).inc();
                self.recovery.observe(*after_ms as f64 / 1000.0);
            }
            What::GaveUp { .. } => self.episodes_closed.with_label_values(&[peer, "gave_up"]).inc(),
            What::EpisodeClosed { .. } => self.episodes_closed.with_label_values(&[peer, "closed"]).inc(),
            What::MassSilenceTripped { .. } => self.mass_silence_trips.inc(),
            What::Operator { request, .. } => self.operator.with_label_values(&[request, "done"]).inc(),
            What::Restart { outcome, .. } => {
                self.operator.with_label_values(&["restart", outcome]).inc();
            }
            What::DuplicateNode { .. } => self.duplicate_node.inc(),
            // `WouldHeal` is counted by what follows it: `Acted`, whose outcome is `dry_run`.
            What::WouldHeal { .. }
            | What::Bus { .. }
            | What::MassSilenceEnded
            | What::Maintenance { .. }
            | What::LeaveOverdue { .. } => {}
            // Counted by who reloads: also what changed nothing.
            What::ConfigReloaded { .. } | What::ConfigRefused { .. } => {}
        }
    }

    /// The node's trust in itself. Cheap; called for each snapshot, so that no echo goes uncounted.
    pub fn observe_trust(&self, trust: &TrustView) {
        for state in BusState::ALL {
            self.bus_state
                .with_label_values(&[state.as_str()])
                .set((state == trust.bus).into());
        }
        for (link, seen) in [(Link::Pub, &trust.publishing), (Link::Sub, &trust.subscribed)] {
            self.link_up
                .with_label_values(&[link.as_str()])
                .set(seen.up.into());
            let replaced = self.link_replaced.with_label_values(&[link.as_str()]);
            replaced.inc_by(seen.replaced.saturating_sub(replaced.get()));
        }
        if let (Some(at), Some(took)) = (trust.last_echo, trust.echo_took)
            && self.last_echo.swap(at.as_nanos(), Ordering::Relaxed) != at.as_nanos()
        {
            self.echo.observe(took.as_secs_f64());
        }
    }

    /// Brings every gauge up to date. Costs time in proportion to the number of peers: for a scrape.
    pub fn observe_snapshot(&self, snapshot: &Snapshot, now: Time) {
        self.observe_trust(&snapshot.trust);
        let settling = snapshot.trust.settling_until.is_some_and(|until| now < until);
        self.bus_settling.set(settling.into());
        self.uptime
            .set((snapshot.uptime + now.since(snapshot.at)).as_secs_f64());
        self.dry_run.set(snapshot.dry_run.into());
        self.draining.set(snapshot.draining.into());
        self.mass_silence.set(snapshot.mass_silence.is_some().into());
        self.paused
            .with_label_values(&["node", ""])
            .set(snapshot.pause.is_some().into());
        self.observe_quorum(&snapshot.quorum);
        // A cause and an age may have gone since the last scrape.
        self.cause.reset();
        self.last_life.reset();
        for peer in &snapshot.peers {
            self.observe_peer(peer, now);
        }
        let open = snapshot
            .peers
            .iter()
            .filter(|peer| peer.episode.is_some())
            .count();
        self.episodes_open.set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    fn observe_quorum(&self, quorum: &QuorumView) {
        for (state, nodes) in [("live", quorum.live), ("known", quorum.known)] {
            let nodes = i64::try_from(nodes).unwrap_or(i64::MAX);
            self.group_nodes.with_label_values(&[state]).set(nodes);
        }
        self.votes.inc_by(quorum.heard.saturating_sub(self.votes.get()));
        for (reason, count) in &quorum.void {
            let void = self.votes_void.with_label_values(&[reason.as_str()]);
            void.inc_by(count.saturating_sub(void.get()));
        }
        self.confirmed
            .inc_by(quorum.confirmed.saturating_sub(self.confirmed.get()));
    }

    fn observe_peer(&self, peer: &PeerView, now: Time) {
        let name = &*peer.name;
        for state in Liveness::ALL {
            let set = |holds: bool| i64::from(holds);
            self.liveness
                .with_label_values(&[name, state.as_str()])
                .set(set(state == peer.liveness));
            for check in &peer.checks {
                let verdict = self
                    .check_verdict
                    .with_label_values(&[name, &*check.name, state.as_str()]);
                verdict.set(set(state == check.verdict));
            }
        }
        if let Some(cause) = peer.cause {
            self.cause.with_label_values(&[name, cause.as_str()]).set(1);
        }
        if let Some(life) = peer.last_life {
            self.last_life
                .with_label_values(&[name])
                .set(now.since(life).as_secs_f64());
        }
        self.ready.with_label_values(&[name]).set(peer.ready.into());
        self.budget_left
            .with_label_values(&[name])
            .set(peer.budget_left.into());
        self.paused
            .with_label_values(&["peer", name])
            .set(peer.pause.is_some().into());
        let gave_up = peer
            .episode
            .as_ref()
            .is_some_and(|episode| matches!(episode.phase, EpisodePhase::GaveUp { .. }));
        self.gave_up.with_label_values(&[name]).set(gave_up.into());
        self.leave_overdue
            .with_label_values(&[name])
            .set(peer.leave_overdue.into());
        if let Some(healthz) = peer.healthz {
            let pulsing = healthz.pulsing_until.is_some_and(|until| now < until);
            self.pulsing.with_label_values(&[name]).set(pulsing.into());
        }
    }
}
