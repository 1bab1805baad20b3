//! Reads `[fleet]` and `[blocker.NAME]`: what guards ask of the outside.

use std::time::Duration;

use super::fields;
use super::host::Host;
use super::peers::{Owner, Peer};
use super::reader::{Read, Reader, all_of};
use super::schema::time;
use super::values::is_name;
use crate::bus::Backend;
use crate::engine::event::PeerId;
use crate::engine::settings::{CheckKind, GroupBudget, RemedyKind, RemedySettings, Source};
use crate::fleet::{Asks, Blocker, Group, Slots};
use crate::{checks, docker};

/// Blockers of one node.
const MAX_BLOCKERS: usize = 16;

/// What `[fleet]` says.
pub(super) struct Fleet {
    size: Option<u32>,
    turn: Duration,
    peers: Same,
    asks_nobody: bool,
}

/// What peers of one name on several nodes are.
#[derive(Clone, Copy)]
enum Same {
    /// What their owners tell.
    Auto,
    /// One.
    Shared,
    /// Each node's own.
    Own,
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
        peers: match peers?.as_str() {
            "shared" => Same::Shared,
            "own" => Same::Own,
            _ => Same::Auto,
        },
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

/// What the group calls each: two nodes that call a peer alike share its budget, and one of them heals it at a time.
pub(super) fn name(fleet: &Fleet, peers: &mut [Peer], docker: &docker::Settings, host: &Host, node: &str) {
    for peer in peers {
        let at = match fleet.peers {
            Same::Shared => None,
            Same::Own if peer.settings.local => Some(format!("node:{node}")),
            Same::Own => None,
            Same::Auto => match lives(peer, docker) {
                Lives::Anywhere => None,
                Lives::Machine => host.machine(),
                Lives::Processes => host.processes(),
                Lives::Network => host.network(),
            },
        };
        if let Some(at) = at {
            peer.settings.known_as = format!("{at}/{}", peer.settings.name).into();
        }
    }
}

/// Where a peer lives: which nodes mean the same one by its name.
enum Lives {
    /// All of them.
    Anywhere,
    /// Those of this machine.
    Machine,
    /// Those that see the same processes.
    Processes,
    /// Those that see the same ports.
    Network,
}

fn lives(peer: &Peer, docker: &docker::Settings) -> Lives {
    let pulses = |rung: &RemedySettings| rung.kind == RemedyKind::Healthz;
    match (&peer.owner, &docker.host) {
        (Some(Owner::Container(_)), docker::Host::Unix(_)) => Lives::Machine,
        // Whose machine that is, nobody knows here.
        (Some(Owner::Container(_)), _) => Lives::Anywhere,
        (Some(Owner::Process(checks::Owner::Listens(_) | checks::Owner::ListensAt(_))), _) => Lives::Network,
        (Some(Owner::Process(_)), _) => Lives::Processes,
        // The machine's manager is asked, or a user's there, whatever processes this node sees.
        (Some(Owner::Unit(_)), _) => Lives::Machine,
        // Whoever reads this node's pulse is beside it: a kubelet, of this pod.
        (None, _) if peer.settings.remedies.iter().any(pulses) => Lives::Network,
        // It speaks to this node's socket.
        (None, _) if !peer.notifies.is_empty() => Lives::Processes,
        (None, _) => Lives::Anywhere,
    }
}

/// What is known by another node's word, and restarted from here, has an owner there, by which that node tells it from those
/// of other machines: leave for the one name is none for the other.
pub(super) fn warnings(fleet: &Fleet, group: Group, peers: &[Peer], out: &mut Vec<String>) {
    if group != Group::Redis || !matches!(fleet.peers, Same::Auto) {
        return;
    }
    for settings in peers.iter().map(|peer| &peer.settings) {
        let claim = settings.checks.iter().find_map(|check| match &check.kind {
            CheckKind::Passive {
                source: Source::Claim { node, peer },
                ..
            } => Some((node, peer)),
            _ => None,
        });
        let restarts = settings.remedies.iter().find(|rung| rung.restarts);
        if let (Some((node, peer)), Some(rung), true) = (claim, restarts, settings.known_as == settings.name)
        {
            out.push(format!(
                "peer {}: its remedy `{}` restarts what {node} calls `{peer}`, which may have an owner there: then the two nodes ask \
                 for leave in two names, and can restart it at once. If {node} restarts it, too, call it alike and set fleet.peers \
                 to \"shared\" on both",
                settings.name,
                rung.kind.as_str()
            ));
        }
    }
}
