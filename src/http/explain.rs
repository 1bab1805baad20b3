//! A peer, in words: what is known and since when, what each check says, which guard refused and until when, and
//! what happens next. Pure text from a snapshot.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::decision::{Notice, What};
use crate::engine::guards::{GuardName, Refusal};
use crate::engine::peer::Liveness;
use crate::engine::self_trust::BusState;
use crate::engine::settings::{Decides, Plane, RemedyKind};
use crate::engine::snapshot::{
    CheckView, EpisodePhase, EpisodeView, PauseView, PeerView, QuorumView, Snapshot, Void, VotesView,
};
use crate::engine::time::Time;
use crate::telemetry::logs::printable;

/// The whole explanation of `peer` at `now`. `healthz_probes` is how often `/healthz` was asked about it; `story`, what
/// was told of it in its open episode, or else in the last one.
pub fn explain(
    peer: &PeerView,
    snapshot: &Snapshot,
    healthz_probes: u64,
    story: &[Arc<Notice>],
    now: Time,
) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail; the Result is dropped in this one place.
    let _ = write(&mut text, peer, snapshot, healthz_probes, story, now);
    text
}

/// A span as a person says it: `320 ms`, `3.2 s`, `4 min 5 s`, `3 h 12 min`, `2 d 3 h`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..60 => format!("{}.{} s", seconds, span.subsec_millis() / 100),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// How long ago `then` was: `3.2 s ago`.
pub fn ago(then: Time, now: Time) -> String {
    format!("{} ago", span(now.since(then)))
}

/// When `then` comes: `in 3.2 s`, or `at any moment` if that is now or overdue.
pub fn ahead(then: Time, now: Time) -> String {
    if then == Time::MAX {
        "never".to_owned()
    } else if then <= now {
        "at any moment".to_owned()
    } else {
        format!("in {}", span(then.since(now)))
    }
}

/// What happens next to this peer, and when, in one line.
pub fn next(peer: &PeerView, snapshot: &Snapshot, now: Time) -> String {
    let unwell = peer.episode.is_some() || matches!(peer.liveness, Liveness::Suspect | Liveness::Dead);
    if unwell && snapshot.draining {
        return "nothing: the node drains".to_owned();
    }
    if unwell && let Some(pause) = peer.pause.as_ref().or(snapshot.pause.as_ref()) {
        return format!("nothing: {}", paused(pause, now));
    }
    match &peer.episode {
        Some(episode) => next_in_episode(episode, peer, now),
        None => next_judgement(peer, snapshot, now),
    }
}

fn next_in_episode(episode: &EpisodeView, peer: &PeerView, now: Time) -> String {
    let remedy = episode.remedy.map_or("no remedy", RemedyKind::as_str);
    match &episode.phase {
        EpisodePhase::Suspected => match judged_next(peer) {
            Some(at) => format!("condemned or cleared: judged again {}", ahead(at, now)),
            None => "condemned or cleared by the next evidence".to_owned(),
        },
        EpisodePhase::Waiting if peer.remedies.is_empty() => {
            "nothing: no remedy is configured, somebody has to look".to_owned()
        }
        EpisodePhase::Waiting
            if episode.remedy.is_none()
                && matches!(&episode.refusal, Some(Refusal { guard: GuardName::DryRun, .. })) =>
        {
            "nothing: dry run; every remedy for this cause was decided for this life already, and none was done"
                .to_owned()
        }
        EpisodePhase::Waiting if episode.remedy.is_none() => {
            format!(
                "nothing: no remedy of its ladder can be done for {}, somebody has to look",
                episode.cause
            )
        }
        EpisodePhase::Waiting => match &episode.refusal {
            Some(Refusal { guard: GuardName::DryRun, .. }) => {
                format!("nothing: dry run; without it, {remedy} would be done now")
            }
            Some(Refusal { guard, until: Some(until), .. }) => {
                format!("{} is asked again {}; then {remedy}", guard.as_str(), ahead(*until, now))
            }
            Some(Refusal { guard, until: None, .. }) => {
                format!("{remedy}, once {} no longer refuses", guard.as_str())
            }
            None => format!("{remedy}, once the guards have been asked"),
        },
        EpisodePhase::Acting { since, .. } => match pulsing_until(peer, now) {
            Some(until) => format!(
                "a new life is awaited; /healthz/{} answers 503 until then, ends {}",
                peer.name,
                ahead(until, now)
            ),
            None => format!("the remedy's execution ends (it began {})", ago(*since, now)),
        },
        EpisodePhase::Verifying { until } => {
            format!("every check that condemned it must pass; if not, the next remedy is asked for {}", ahead(*until, now))
        }
        EpisodePhase::GaveUp { .. } => {
            "nothing by itself: given up; still watched, and closed by its own proof of life or by `defib forget`"
                .to_owned()
        }
    }
}

fn next_judgement(peer: &PeerView, snapshot: &Snapshot, now: Time) -> String {
    if let Some(until) = snapshot.trust.stalled_until.filter(|until| now < *until) {
        return format!("judged again {}, after this node's own stall", ahead(until, now));
    }
    let held = snapshot.trust.bus != BusState::Trusted;
    if held && peer.checks.iter().all(|check| check.plane == Plane::Bus) {
        return format!(
            "judged again once the bus can be trusted (now {})",
            snapshot.trust.bus
        );
    }
    match judged_next(peer) {
        Some(at) => judged(at, now),
        None if peer.liveness == Liveness::Unknown => "judged once there is evidence".to_owned(),
        None => "judged again by the next evidence".to_owned(),
    }
}

fn pulsing_until(peer: &PeerView, now: Time) -> Option<Time> {
    peer.healthz?.pulsing_until.filter(|until| now < *until)
}

/// An alarm, not a date: whatever is seen before is judged at once.
fn judged(at: Time, now: Time) -> String {
    if at <= now {
        "judged again at any moment".to_owned()
    } else {
        format!("judged again {} at the latest", ahead(at, now))
    }
}

fn judged_next(peer: &PeerView) -> Option<Time> {
    let deciding = peer
        .checks
        .iter()
        .filter(|check| check.decides == Decides::Liveness);
    deciding.filter_map(|check| check.next).min()
}

fn paused(pause: &PauseView, now: Time) -> String {
    let until = match pause.until {
        Some(until) => format!("ends {}", ahead(until, now)),
        None => "until resumed".to_owned(),
    };
    format!(
        "paused by {} ({}), {until}",
        printable(&pause.by),
        printable(&pause.reason)
    )
}

fn write(
    out: &mut String,
    peer: &PeerView,
    snapshot: &Snapshot,
    healthz_probes: u64,
    story: &[Arc<Notice>],
    now: Time,
) -> std::fmt::Result {
    write_verdict(out, peer, now)?;
    writeln!(out, "  next          {}", next(peer, snapshot, now))?;
    writeln!(out, "\nchecks")?;
    for check in &peer.checks {
        write_check(out, check, now)?;
    }
    if peer.checks.is_empty() {
        writeln!(out, "  none: nothing can be said of this peer")?;
    }
    if let Some(votes) = &peer.votes {
        write_votes(out, votes, &snapshot.quorum)?;
    }
    if let Some(episode) = &peer.episode {
        write_episode(out, episode, peer, now)?;
    }
    write_story(out, story, peer.episode.is_some(), now)?;
    write_remedies(out, peer, snapshot, healthz_probes, now)?;
    write_node(out, snapshot, now)
}

fn write_verdict(out: &mut String, peer: &PeerView, now: Time) -> std::fmt::Result {
    write!(out, "{} is {}", peer.name, peer.liveness)?;
    if let Some(cause) = peer.cause {
        write!(out, " ({cause})")?;
    }
    write!(out, " for {}", span(now.since(peer.since)))?;
    if !peer.detail.is_empty() {
        write!(out, ": {}", printable(&peer.detail))?;
    }
    writeln!(out)?;
    match peer.last_life {
        Some(life) => writeln!(out, "  last life     {}", ago(life, now))?,
        None if peer.ever_alive => writeln!(out, "  last life     before this node started")?,
        None => writeln!(
            out,
            "  last life     never seen: not restarted unless its exit is witnessed"
        )?,
    }
    match &peer.incarnation {
        Some(life) => writeln!(out, "  incarnation   {}", printable(&life.0))?,
        None => writeln!(
            out,
            "  incarnation   none known: only `log` and `notify` may be done"
        )?,
    }
    if peer.incarnations > 0 {
        writeln!(out, "  other lives   {} seen since the start", peer.incarnations)?;
    }
    let place = if peer.local {
        "on this machine"
    } else {
        "remote: known by the bus alone"
    };
    writeln!(out, "  where         {place}")?;
    let status = |good: bool| if good { 200 } else { 503 };
    writeln!(
        out,
        "  answers       /startupz/{0} {1}, /readyz/{0} {2}",
        peer.name,
        status(peer.started),
        status(peer.ready)
    )
}

fn write_check(out: &mut String, check: &CheckView, now: Time) -> std::fmt::Result {
    let plane = match check.plane {
        Plane::Bus => "bus",
        Plane::Local => "local",
    };
    let decides = match check.decides {
        Decides::Liveness => "liveness",
        Decides::Readiness => "readiness",
        Decides::Nothing => "nothing",
    };
    write!(
        out,
        "  {:<13} {:<8} ({plane}, decides {decides})",
        check.name, check.verdict
    )?;
    if let Some(cause) = check.cause {
        write!(out, " {cause}")?;
    }
    if !check.detail.is_empty() {
        write!(out, ": {}", printable(&check.detail))?;
    }
    match check.last_pass {
        Some(pass) => write!(out, "; last pass {}", ago(pass, now))?,
        None => write!(out, "; never passed")?,
    }
    if let Some(at) = check.next {
        write!(out, "; {}", judged(at, now))?;
    }
    writeln!(out)
}

fn write_votes(out: &mut String, votes: &VotesView, quorum: &QuorumView) -> std::fmt::Result {
    let names = |of: &[Arc<str>]| {
        of.iter()
            .map(|name| printable(name).to_string())
            .collect::<Vec<_>>()
            .join(", ")
    };
    writeln!(
        out,
        "\nvotes: {} say so, {} must; {} of the {} nodes of the group are heard since",
        1 + votes.agree.len(),
        quorum.k,
        votes.live,
        quorum.known
    )?;
    if !votes.agree.is_empty() {
        writeln!(out, "  agree         {}", names(&votes.agree))?;
    }
    if !votes.hear_it.is_empty() {
        writeln!(out, "  hear it       {}", names(&votes.hear_it))?;
    }
    for (node, why) in &votes.void {
        let why = match why {
            Void::Stale => "its heartbeats come late",
            Void::Deaf => "it does not say that it hears this node",
            Void::Incarnation => "it speaks of another life, or names none",
            Void::OwnNode => "it is the peer's own node, whose word is its claim",
            Void::Unwatched => "nothing here listens to what it speaks of",
        };
        writeln!(out, "  void          {}: {why}", printable(node))?;
    }
    Ok(())
}

fn write_episode(out: &mut String, episode: &EpisodeView, peer: &PeerView, now: Time) -> std::fmt::Result {
    let by = episode
        .condemned_by
        .iter()
        .map(|name| &**name)
        .collect::<Vec<_>>()
        .join(", ");
    writeln!(
        out,
        "\nepisode {}, opened {}, cause {}",
        episode.id,
        ago(episode.since, now),
        episode.cause
    )?;
    if !by.is_empty() {
        writeln!(out, "  condemned by  {by}")?;
    }
    let phase = match &episode.phase {
        EpisodePhase::Suspected => "suspected, not condemned yet".to_owned(),
        EpisodePhase::Waiting if peer.remedies.is_empty() => "condemned; no remedy is configured".to_owned(),
        EpisodePhase::Waiting if episode.remedy.is_none() => {
            format!("condemned; no remedy is left to do for {}", episode.cause)
        }
        EpisodePhase::Waiting => "condemned, waiting for the guards' permission".to_owned(),
        EpisodePhase::Acting { token, since } => {
            format!(
                "a remedy is being carried out since {} (token {token})",
                span(now.since(*since))
            )
        }
        EpisodePhase::Verifying { until } => {
            format!(
                "acted; its own proof of life is awaited, the time for it ends {}",
                ahead(*until, now)
            )
        }
        EpisodePhase::GaveUp { since } => format!("given up {}: no remedy is left to try", ago(*since, now)),
    };
    writeln!(out, "  phase         {phase}")?;
    writeln!(out, "  remedies      {} carried out in it", episode.remedies)?;
    if let Some(refusal) = &episode.refusal {
        write!(
            out,
            "  guard         {} said no: {}",
            refusal.guard.as_str(),
            printable(&refusal.why)
        )?;
        match refusal.until {
            Some(until) => writeln!(out, " (could change {})", ahead(until, now))?,
            None => writeln!(out, " (changes only when something happens)")?,
        }
    }
    Ok(())
}

/// Lines of a story that are shown: its beginning, and its end.
const BEGINNING: usize = 8;
const END: usize = 16;

/// An episode from its opening on: verdicts and their causes, each remedy and what came of it, each guard's no.
fn write_story(out: &mut String, story: &[Arc<Notice>], is_open: bool, now: Time) -> std::fmt::Result {
    if story.is_empty() {
        return Ok(());
    }
    let title = if is_open { "so far" } else { "the last episode" };
    writeln!(out, "\n{title}")?;
    let left_out = story.len().saturating_sub(BEGINNING + END);
    for (index, notice) in story.iter().enumerate() {
        if left_out > 0 && index == BEGINNING {
            writeln!(out, "  {:<15} {left_out} more: `defib history`", "…")?;
        }
        if (BEGINNING..BEGINNING + left_out).contains(&index) {
            continue;
        }
        let words = notice.what.to_string();
        write!(out, "  {:<15} {}", ago(notice.at, now), printable(&words))?;
        match &notice.what {
            What::Refused { refusal, .. } => match refusal.until.filter(|until| *until < Time::MAX) {
                Some(until) => writeln!(out, " (for {})", span(until.since(notice.at)))?,
                None => writeln!(out)?,
            },
            _ => writeln!(out)?,
        }
    }
    Ok(())
}

fn write_remedies(
    out: &mut String,
    peer: &PeerView,
    snapshot: &Snapshot,
    healthz_probes: u64,
    now: Time,
) -> std::fmt::Result {
    let ladder = peer
        .remedies
        .iter()
        .map(|kind| kind.as_str())
        .collect::<Vec<_>>()
        .join(", then ");
    writeln!(out, "\nremedies")?;
    let ladder = if ladder.is_empty() {
        "none configured: somebody has to look"
    } else {
        &ladder
    };
    writeln!(out, "  ladder        {ladder}")?;
    writeln!(out, "  granted       {} since the start", peer.remedies_granted)?;
    writeln!(out, "  budget        {} left now", peer.budget_left)?;
    if let Some(pause) = &peer.pause {
        writeln!(out, "  pause         {}", paused(pause, now))?;
    }
    if peer.healthz.is_none() {
        return Ok(());
    }
    if healthz_probes == 0 {
        writeln!(
            out,
            "  healthz       the remedy is not wired: no probe of /healthz/{} has come in the {} since the start",
            peer.name,
            span(snapshot.uptime + now.since(snapshot.at)),
        )?;
    } else {
        writeln!(
            out,
            "  healthz       wired: {healthz_probes} probes since the start"
        )?;
    }
    match pulsing_until(peer, now) {
        Some(until) => writeln!(
            out,
            "  pulse         /healthz/{} answers 503, ends {}",
            peer.name,
            ahead(until, now)
        ),
        None => writeln!(out, "  pulse         /healthz/{} answers 200", peer.name),
    }
}

fn write_node(out: &mut String, snapshot: &Snapshot, now: Time) -> std::fmt::Result {
    let trust = &snapshot.trust;
    writeln!(out, "\nnode {} of group {}", snapshot.node, snapshot.group)?;
    write!(
        out,
        "  bus           {} for {}",
        trust.bus,
        span(now.since(trust.since))
    )?;
    if trust.detail.is_empty() {
        writeln!(out)?;
    } else {
        writeln!(out, ": {}", printable(&trust.detail))?;
    }
    if let Some(until) = trust.settling_until.filter(|until| now < *until) {
        writeln!(out, "  settling      no remedy; ends {}", ahead(until, now))?;
    }
    if let Some(until) = trust.stalled_until.filter(|until| now < *until) {
        writeln!(
            out,
            "  own stall     nobody is judged; ends {}",
            ahead(until, now)
        )?;
    }
    if let Some(mass) = &snapshot.mass_silence {
        let canary = match (&mass.canary, mass.canary_at) {
            (Some(name), _) => format!("{name} may be healed as a canary"),
            (None, Some(at)) => format!("a canary may be healed {}", ahead(at, now)),
            (None, None) => "all is held".to_owned(),
        };
        writeln!(
            out,
            "  mass silence  {} peers, {}: {canary}",
            mass.members.len(),
            ago(mass.since, now)
        )?;
    }
    if let Some(pause) = &snapshot.pause {
        writeln!(out, "  pause         {}", paused(pause, now))?;
    }
    if snapshot.dry_run {
        writeln!(out, "  dry run       remedies are decided and not carried out")?;
    }
    if snapshot.draining {
        writeln!(out, "  draining      nothing is healed any more")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_said_as_people_say_them() {
        let said = [
            0,
            320,
            1000,
            3290,
            59_999,
            60_000,
            245_000,
            11_520_000,
            183_600_000,
        ]
        .map(|millis| span(Duration::from_millis(millis)));
        assert_eq!(
            said,
            [
                "0 ms",
                "320 ms",
                "1.0 s",
                "3.2 s",
                "59.9 s",
                "1 min 0 s",
                "4 min 5 s",
                "3 h 12 min",
                "2 d 3 h"
            ]
        );
    }

    #[test]
    fn what_is_overdue_is_not_said_to_lie_ahead() {
        let now = Time::from_origin(Duration::from_secs(10));
        assert_eq!(ahead(now + Duration::from_secs(2), now), "in 2.0 s");
        assert_eq!(ahead(Time::ZERO, now), "at any moment");
        assert_eq!(ahead(Time::MAX, now), "never");
    }
}
