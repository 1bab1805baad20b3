//! Whether a drill may begin: where the guards would refuse to heal, nothing is broken either.

use crate::cli::args::DrillFault;
use crate::engine::event::Incarnation;
use crate::engine::peer::Liveness;
use crate::engine::self_trust::BusState;
use crate::engine::snapshot::{PeerView, Snapshot};
use crate::engine::time::Time;
use crate::http::Status;
use crate::http::explain::ahead;

/// It may.
pub(super) struct Ready {
    pub(super) incarnation: Incarnation,
    /// Worth saying before it begins.
    pub(super) notes: Vec<String>,
}

pub(super) fn find<'s>(status: &'s Status, name: &str) -> Option<&'s PeerView> {
    status
        .snapshot
        .as_ref()?
        .peers
        .iter()
        .find(|peer| &*peer.name == name)
}

/// # Errors
/// Why it may not.
pub(super) fn ready(status: &Status, name: &str, fault: DrillFault) -> Result<Ready, String> {
    if status.config_error.is_some() {
        return Err("the node's configuration is invalid: it judges nothing".to_owned());
    }
    let snapshot = status
        .snapshot
        .as_deref()
        .ok_or("the node has not judged anything yet")?;
    node(snapshot, status.now)?;
    let peer = find(status, name).ok_or_else(|| {
        let known: Vec<&str> = snapshot.peers.iter().take(20).map(|peer| &*peer.name).collect();
        format!("no peer is named {name:?}; there are {}", known.join(", "))
    })?;
    let incarnation = of_peer(peer)?;
    let mut notes = Vec::new();
    if snapshot.dry_run {
        if fault == DrillFault::Exit {
            return Err("the node is in a dry run: nobody would start the process again".to_owned());
        }
        notes.push("dry run: the node will decide and not act; the fault is undone once it has".to_owned());
    }
    Ok(Ready { incarnation, notes })
}

fn node(snapshot: &Snapshot, now: Time) -> Result<(), String> {
    let trust = &snapshot.trust;
    let later = |until: Option<Time>| until.filter(|until| now < *until);
    if snapshot.draining {
        return Err("the node drains: it heals nobody any more".to_owned());
    }
    if let Some(pause) = &snapshot.pause {
        return Err(format!("the node is paused by {}: {}", pause.by, pause.reason));
    }
    if trust.bus != BusState::Trusted {
        return Err(format!(
            "the node does not trust its bus ({}): {}",
            trust.bus, trust.detail
        ));
    }
    if let Some(until) = later(trust.settling_until) {
        return Err(format!(
            "the bus settles: no remedy would run; ends {}",
            ahead(until, now)
        ));
    }
    if let Some(until) = later(trust.stalled_until) {
        return Err(format!(
            "the node was stopped a moment ago: it judges nobody; ends {}",
            ahead(until, now)
        ));
    }
    if snapshot.mass_silence.is_some() {
        return Err("mass silence holds everything: no remedy would run".to_owned());
    }
    Ok(())
}

fn of_peer(peer: &PeerView) -> Result<Incarnation, String> {
    let name = &peer.name;
    if let Some(pause) = &peer.pause {
        return Err(format!("{name} is paused by {}: {}", pause.by, pause.reason));
    }
    if peer.liveness != Liveness::Alive {
        let state = format!("{name} is {}: {}", peer.liveness, peer.detail);
        return Err(format!("{state}; a drill begins with a peer that is alive"));
    }
    if peer.episode.is_some() {
        return Err(format!(
            "an episode of {name} is still open (`defib explain {name}`)"
        ));
    }
    if peer.remedies.iter().all(|kind| !kind.touches()) {
        return Err(format!("{name} has no remedy that acts: nothing would heal it"));
    }
    if peer.budget_left == 0 {
        return Err(format!("the budget of {name} is spent: nothing would heal it"));
    }
    peer.incarnation
        .clone()
        .ok_or_else(|| format!("no process of {name} is known: give it an owner"))
}
