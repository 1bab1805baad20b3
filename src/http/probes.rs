//! What the probes answer, and why. Pure: from the view and the time alone.
//!
//! No endpoint that a kubelet reads for an *application* fails for a fault of defib's: not for a misspelt name,
//! a bad configuration, a lost bus or an unknown peer. `/readyz` alone is about the node.

use std::fmt::Write as _;
use std::time::Duration;

use super::explain::{ago, ahead, span};
use super::view::View;
use crate::engine::event::PeerId;
use crate::engine::peer::Liveness;
use crate::engine::self_trust::BusState;
use crate::engine::snapshot::{CheckView, EpisodePhase, PeerView, Snapshot};
use crate::engine::time::Time;
use crate::preflight::Finding;
use crate::telemetry::logs::printable;

/// The event loop must have turned within this. It turns at least once a second.
const LOOP_BOUND: Duration = Duration::from_secs(5);

/// Checks that are unknown, and parts that cannot work, in one answer.
const MAX_TOLD: usize = 50;

/// An answer to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// 200 or 503.
    pub(super) ok: bool,
    /// The truth in one line.
    pub(super) headline: String,
    /// What `?verbose` adds.
    pub(super) reasons: Vec<Reason>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// As it should be.
    Good(String),
    /// Why the answer is 503.
    Bad(String),
    /// Worth knowing; does not change the answer.
    Note(String),
}

impl Reason {
    fn is_bad(&self) -> bool {
        matches!(self, Self::Bad(_))
    }
}

impl Answer {
    fn new(ok: bool, headline: impl Into<String>) -> Self {
        Self {
            ok,
            headline: headline.into(),
            reasons: Vec::new(),
        }
    }

    fn with(mut self, reasons: Vec<Reason>) -> Self {
        self.reasons = reasons;
        self
    }

    /// The body: one line, or several with `verbose`.
    pub(super) fn body(&self, verbose: bool) -> String {
        let mut body = format!("{}\n", printable(&self.headline));
        if verbose {
            for reason in &self.reasons {
                let (mark, text) = match reason {
                    Reason::Good(text) => ('+', text),
                    Reason::Bad(text) => ('-', text),
                    Reason::Note(text) => ('i', text),
                };
                // Writing to a String cannot fail.
                let mut lines = text.lines().map(printable);
                let _ = writeln!(body, "[{mark}] {}", lines.next().unwrap_or_default());
                for line in lines {
                    let _ = writeln!(body, "    {line}");
                }
            }
        }
        body
    }
}

/// `/livez`: the node's own event loop turns.
pub(super) fn livez(view: &View, turned: Time, now: Time) -> Answer {
    if view.config_error().is_some() {
        return Answer::new(
            true,
            "ok: no event loop runs, because the configuration is invalid",
        );
    }
    let turns = event_loop(turned, now);
    let headline = match &turns {
        Reason::Bad(why) => why.clone(),
        Reason::Good(_) | Reason::Note(_) => "ok".to_owned(),
    };
    Answer::new(!turns.is_bad(), headline).with(vec![turns])
}

/// `/healthz`: that of the only peer with a `healthz` remedy; with several, 503 only while all pulse.
pub(super) fn healthz(view: &View, now: Time) -> Answer {
    match view.with_healthz() {
        [] => match view.config_error() {
            Some(_) => Answer::new(
                true,
                "ok: the configuration is invalid, nothing is judged (see /readyz)",
            ),
            None => Answer::new(true, "ok: no peer has a healthz remedy, so this never fails"),
        },
        [only] => healthz_of(view, *only, now),
        several => {
            let each: Vec<_> = several.iter().map(|id| healthz_of(view, *id, now)).collect();
            let pulsing = each.iter().filter(|answer| !answer.ok).count();
            let headline = format!("{pulsing} of {} peers with a healthz remedy pulse", each.len());
            let reasons = each.into_iter().map(|answer| {
                if answer.ok {
                    Reason::Good(answer.headline)
                } else {
                    Reason::Bad(answer.headline)
                }
            });
            Answer::new(pulsing < several.len(), headline).with(reasons.collect())
        }
    }
}

/// `/healthz/{peer}`: 503 only while its pulse lasts.
pub(super) fn healthz_of(view: &View, id: PeerId, now: Time) -> Answer {
    let Some(peer) = view.peer(id) else {
        return not_yet(view, id);
    };
    let name = &peer.name;
    let state = verdict(peer, now);
    let Some(healthz) = peer.healthz else {
        return Answer::new(
            true,
            format!("ok: {name} has no healthz remedy, so this never fails; it is {state}"),
        );
    };
    if let Some(until) = healthz.pulsing_until.filter(|until| now < *until) {
        let asks = format!(
            "{name} is {state}; its supervisor is asked to restart it, ends {}",
            ahead(until, now)
        );
        return Answer::new(false, format!("pulse: {asks}"));
    }
    let held = match &peer.episode {
        Some(episode) => match (&episode.phase, &episode.refusal) {
            (EpisodePhase::GaveUp { .. }, _) => "; given up, so no restart is asked for".to_owned(),
            (EpisodePhase::Waiting, Some(refusal)) => format!("; held by {refusal}"),
            (EpisodePhase::Verifying { .. }, _) => "; its proof of life is awaited".to_owned(),
            _ => String::new(),
        },
        None => String::new(),
    };
    Answer::new(true, format!("ok: {name} is {state}{held}")).with(checks(peer))
}

/// `/startupz`: listener and configuration stand.
pub(super) fn startupz(view: &View) -> Answer {
    match (view.config_error(), view.snapshot()) {
        (Some(_), _) => Answer::new(
            true,
            "ok: up, with an invalid configuration: nothing is judged (see /readyz)",
        ),
        (None, Some(_)) => Answer::new(true, "ok"),
        (None, None) => Answer::new(false, "starting: the engine has not run yet"),
    }
}

/// `/startupz/{peer}`: its first pass was seen, or its grace is over.
pub(super) fn startupz_of(view: &View, id: PeerId, now: Time) -> Answer {
    let Some(peer) = view.peer(id) else {
        return Answer::new(
            false,
            format!("starting: nothing is known of {} yet", view.name(id)),
        );
    };
    let state = verdict(peer, now);
    let headline = if peer.started {
        "ok"
    } else {
        "starting: no check has passed, and its grace is not over"
    };
    Answer::new(peer.started, format!("{headline}: {} is {state}", peer.name)).with(checks(peer))
}

/// `/readyz/{peer}`: no check that decides its readiness fails. Nothing known is not "not ready".
pub(super) fn readyz_of(view: &View, id: PeerId, now: Time) -> Answer {
    let Some(peer) = view.peer(id) else {
        return not_yet(view, id);
    };
    let headline = if peer.ready { "ok" } else { "not ready" };
    Answer::new(
        peer.ready,
        format!("{headline}: {} is {}", peer.name, verdict(peer, now)),
    )
    .with(checks(peer))
}

/// The answer of an application's probe that names nobody: never a failure.
pub(super) fn nobody(view: &View, asked: &str) -> Answer {
    match view.config_error() {
        Some(_) => Answer::new(
            true,
            "ok: the configuration is invalid, so no peer is known (see /readyz)",
        ),
        None => Answer::new(true, format!("ok: {}", view.nobody(asked))),
    }
}

/// `/readyz`: the node, its links, its permissions.
pub(super) fn readyz(view: &View, turned: Time, now: Time) -> Answer {
    let mut reasons = Vec::new();
    if let Some(error) = view.config_error() {
        reasons.push(Reason::Bad(format!(
            "config: invalid, nothing is judged:\n{error}"
        )));
    } else {
        reasons.push(match view.refused() {
            None => Reason::Good("config: valid".to_owned()),
            Some(why) => Reason::Note(format!(
                "config: the last reload was refused, and the configuration of before holds:\n{why}"
            )),
        });
        reasons.push(event_loop(turned, now));
        match view.snapshot() {
            Some(snapshot) => node(snapshot, now, &mut reasons),
            None => reasons.push(Reason::Bad("engine: has not run yet".to_owned())),
        }
        preflight(view, &mut reasons);
    }
    let subject = |reason: &Reason| match reason {
        Reason::Bad(text) => text.split(':').next().map(str::to_owned),
        Reason::Good(_) | Reason::Note(_) => None,
    };
    let bad: Vec<_> = reasons.iter().filter_map(subject).collect();
    let headline = if bad.is_empty() {
        "ok".to_owned()
    } else {
        format!("not ready: {} (?verbose says why)", bad.join(", "))
    };
    Answer::new(bad.is_empty(), headline).with(reasons)
}

fn node(snapshot: &Snapshot, now: Time, reasons: &mut Vec<Reason>) {
    let trust = &snapshot.trust;
    let bus = format!(
        "bus: {} for {}: {}",
        trust.bus,
        span(now.since(trust.since)),
        trust.detail
    );
    reasons.push(match trust.bus {
        BusState::Trusted => Reason::Good(bus),
        _ => Reason::Bad(bus),
    });
    for (name, link) in [("pub link", &trust.publishing), ("sub link", &trust.subscribed)] {
        let detail = link
            .detail
            .as_deref()
            .unwrap_or(if link.up { "up" } else { "down" });
        let text = format!("{name}: {detail}");
        reasons.push(if link.up {
            Reason::Good(text)
        } else {
            Reason::Bad(text)
        });
    }
    if snapshot.draining {
        reasons.push(Reason::Bad("draining: nothing is healed any more".to_owned()));
    }
    if let Some(until) = trust.stalled_until.filter(|until| now < *until) {
        reasons.push(Reason::Bad(format!(
            "own stall: nobody is judged; ends {}",
            ahead(until, now)
        )));
    }
    if let Some(until) = trust.settling_until.filter(|until| now < *until) {
        reasons.push(Reason::Note(format!(
            "settling: no remedy; ends {}",
            ahead(until, now)
        )));
    }
    if let Some(mass) = &snapshot.mass_silence {
        reasons.push(Reason::Note(format!(
            "mass silence: {} peers, {}",
            mass.members.len(),
            ago(mass.since, now)
        )));
    }
    if let Some(pause) = &snapshot.pause {
        reasons.push(Reason::Note(format!("paused by {}: {}", pause.by, pause.reason)));
    }
    if snapshot.dry_run {
        reasons.push(Reason::Note(
            "dry run: remedies are decided and not carried out".to_owned(),
        ));
    }
    // A missing permission shows as a check that cannot tell.
    let blind = snapshot
        .peers
        .iter()
        .flat_map(|peer| peer.checks.iter().map(move |check| (peer, check)));
    let blind = blind
        .filter(|(_, check)| check.verdict == Liveness::Unknown)
        .take(MAX_TOLD);
    reasons.extend(blind.map(|(peer, check)| {
        Reason::Note(format!(
            "{}: check {} is unknown: {}",
            peer.name, check.name, check.detail
        ))
    }));
}

/// What was missing for a check or a remedy to work when that was last looked at.
fn preflight(view: &View, reasons: &mut Vec<Reason>) {
    let Some(items) = view.preflight() else {
        reasons.push(Reason::Note("preflight: has not ended yet".to_owned()));
        return;
    };
    let fine = items
        .iter()
        .filter(|item| matches!(item.finding, Finding::Ok { .. }))
        .count();
    let text = format!("preflight: {fine} of {} parts can work", items.len());
    let missing = items.iter().any(|item| item.finding.is_missing());
    reasons.push(if missing {
        Reason::Bad(text)
    } else {
        Reason::Good(text)
    });
    let told = items.iter().filter_map(|item| {
        let text = format!("{}: {}", item.subject, item.finding);
        match item.finding {
            Finding::Ok { .. } => None,
            Finding::Missing { .. } => Some(Reason::Bad(text)),
            Finding::Unknown { .. } => Some(Reason::Note(text)),
        }
    });
    reasons.extend(told.take(MAX_TOLD));
}

fn event_loop(turned: Time, now: Time) -> Reason {
    let text = format!("event loop: turned {}", ago(turned, now));
    if now.since(turned) > LOOP_BOUND {
        Reason::Bad(text)
    } else {
        Reason::Good(text)
    }
}

fn verdict(peer: &PeerView, now: Time) -> String {
    let cause = peer.cause.map_or_else(String::new, |cause| format!(" ({cause})"));
    format!("{}{cause} for {}", peer.liveness, span(now.since(peer.since)))
}

fn checks(peer: &PeerView) -> Vec<Reason> {
    let told = |check: &CheckView| {
        let text = format!("{}: {}: {}", check.name, check.verdict, check.detail);
        match check.verdict {
            Liveness::Alive => Reason::Good(text),
            Liveness::Suspect | Liveness::Dead => Reason::Bad(text),
            Liveness::Unknown => Reason::Note(text),
        }
    };
    peer.checks.iter().map(told).collect()
}

fn not_yet(view: &View, id: PeerId) -> Answer {
    Answer::new(true, format!("ok: nothing is known of {} yet", view.name(id)))
}
