//! Reads `[fleet]` and `[blocker.NAME]`: what guards ask of the outside.

use std::time::Duration;

use super::fields;
use super::peers::Peer;
use super::reader::{Read, Reader, all_of};
use super::schema::time;
use super::values::is_name;
use crate::bus::Backend;
use crate::engine::event::PeerId;
use crate::engine::settings::GroupBudget;
use crate::fleet::{Asks, Blocker, Group, Settings, Slots};

/// Blockers of one node.
const MAX_BLOCKERS: usize = 16;

/// What `[fleet]` says.
pub(super) struct Fleet {
    size: Option<u32>,
    turn: Duration,
    own_peers: bool,
    asks_nobody: bool,
}

pub(super) fn read(reader: &Reader<'_>) -> Read<Fleet> {
    let lease = reader.text("lease");
    let (peers, size, turn) = (
        reader.text("peers"),
        reader.maybe_int("size"),
        reader.time("turn"),
    );
    Ok(Fleet {
        size: size?,
        turn: turn?,
        own_peers: peers? == "own",
        asks_nobody: lease? == "none",
    })
}

/// Who is asked for leave on this bus.
pub(super) fn group(
    root: &Reader<'_>,
    fleet: &Fleet,
    backend: &Backend,
    node: &str,
    budget: Option<GroupBudget>,
) -> Group {
    let wrong = |key: &str, rule, message: String, help: &str| {
        root.wrong(&root.place("fleet", key), rule, message, help);
    };
    let spacing = budget.map_or(Duration::ZERO, |budget| budget.spacing);
    match (backend, fleet.size) {
        (_, None) if fleet.asks_nobody => Group::Alone,
        (Backend::Redis(_), None) => Group::Redis,
        (Backend::Redis(_), Some(_)) => {
            let message = "`size` is for a group without a bus, and bus.url names a Redis server, which keeps the leases";
            wrong("size", "fleet_size", message.to_owned(), "remove it");
            Group::Redis
        }
        (Backend::Embedded { .. }, Some(size)) => {
            if fleet.turn < spacing.saturating_mul(2) {
                let message = format!(
                    "`turn` ({}) must be at least twice `budget.spacing` ({})",
                    time(fleet.turn),
                    time(spacing)
                );
                wrong("turn", "fleet_turn", message, "");
            }
            Group::Slots(Slots::of(node, size, fleet.turn))
        }
        (Backend::Embedded { .. }, None) => Group::Alone,
    }
}

/// The blockers, before it is known whose they are.
pub(super) fn blockers(root: &Reader<'_>) -> Read<Vec<Blocker>> {
    let place = root.below("blocker");
    let mut all = Vec::new();
    for (index, (name, origin, node)) in root.named("blocker").into_iter().enumerate() {
        if index == MAX_BLOCKERS {
            let message = format!("there are at most {MAX_BLOCKERS} blockers");
            return Err(root.wrong(origin, "too_many", message, "join their queries with `or`"));
        }
        let named = if is_name(name) {
            Ok(())
        } else {
            let help = "a-z, 0-9, then also _ . -; at most 63";
            Err(root.wrong(
                origin,
                "name",
                format!("`{name}` is not a name for a blocker"),
                help,
            ))
        };
        let read = place
            .child(name, origin, node, &[&fields::BLOCKER])
            .and_then(|reader| blocker(&reader, name));
        all.push(named.and(read));
    }
    all_of(all)
}

fn blocker(reader: &Reader<'_>, name: &str) -> Read<Blocker> {
    let (http, prometheus, query) = (
        reader.maybe_text("http"),
        reader.maybe_text("prometheus"),
        reader.maybe_text("query"),
    );
    let (bearer, timeout) = (reader.maybe_secret("bearer"), reader.time("timeout"));
    let asks = match (http?, prometheus?, query?) {
        (Some(url), None, None) => Asks::Http(url),
        (None, Some(url), Some(query)) => Asks::Prometheus { url, query },
        (None, None, None) => {
            return Err(reader.wrong(
                &reader.origin,
                "blocker_which",
                "it is not said what is asked",
                "as in http = \"http://deployer:8080/running\", or prometheus = \"http://prometheus:9090\" with a query",
            ));
        }
        _ => {
            let key = reader.first_set(&["query", "prometheus"]).unwrap_or("http");
            let message = "a blocker has either `http`, or `prometheus` and `query`";
            return Err(reader.wrong(&reader.key_at(key), "blocker_which", message, "make two of it"));
        }
    };
    Ok(Blocker {
        name: name.to_owned(),
        asks,
        bearer: bearer?,
        timeout: timeout?,
        peers: Vec::new(),
    })
}

/// Whose remedies each may block: those of every peer that does not name others.
pub(super) fn assign(root: &Reader<'_>, blockers: &mut [Blocker], ids: &[PeerId], peers: &mut [Peer]) {
    for peer in peers.iter().filter_map(|peer| peer.blockers.as_ref()) {
        for name in &peer.names {
            if !blockers.iter().any(|blocker| blocker.name == *name) {
                let help = "define it as [blocker.NAME]";
                let message = format!("there is no blocker `{name}`");
                root.wrong(&peer.origin, "unknown_blocker", message, help);
            }
        }
    }
    for (id, peer) in ids.iter().copied().zip(peers) {
        for blocker in &mut *blockers {
            let named = |only: &super::peers::Blockers| only.names.contains(&blocker.name);
            if peer.blockers.as_ref().is_none_or(named) {
                blocker.peers.push(id);
                peer.settings.blockers = true;
            }
        }
    }
}

/// What the edge is told.
pub(super) fn settings(group: Group, fleet: &Fleet, blockers: Vec<Blocker>) -> Settings {
    Settings {
        group,
        own_peers: fleet.own_peers,
        blockers,
    }
}
