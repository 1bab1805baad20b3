//! Rules between tables: channels, listeners, nodes; and what is allowed but probably not meant.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::peers::Peer;
use super::questions::Expectations;
use super::reader::{Read, Reader};
use super::report::Origin;
use super::schema::time;
use crate::checks::keys::key::RedisKey;
use crate::checks::keys::lock::RedisLock;
use crate::checks::{Probe, When};
use crate::engine::cause::Cause;
use crate::engine::settings::{
    CheckKind, CheckSettings, Decides, PeerSettings, RemedyKind, RemedySettings, Source,
};
use crate::{bus, http};

/// The peers' own channels, and those of data.
pub(super) fn named_channels(peers: &[Peer]) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
    let of = |data: bool| heard(peers, data).map(|(_, channel, _)| Arc::clone(channel));
    let subscribed = peers
        .iter()
        .flat_map(|peer| &peer.probes)
        .flat_map(|(_, probe, _)| match probe {
            Probe::Subscription(subscription) => subscription.channels.as_slice(),
            _ => &[],
        });
    let own: BTreeSet<Arc<str>> = of(false).collect();
    let data: BTreeSet<Arc<str>> = of(true).chain(subscribed.cloned()).collect();
    (own.into_iter().collect(), data.into_iter().collect())
}

/// No two checks listen on one socket.
pub(super) fn sockets(root: &Reader<'_>, peers: &Read<Vec<Peer>>) {
    let Ok(peers) = peers else { return };
    let mut taken: BTreeMap<&Path, &str> = BTreeMap::new();
    for peer in peers {
        for (_, notify) in &peer.notifies {
            if let Some(other) = taken.insert(&notify.socket, &peer.settings.name) {
                let message = format!(
                    "{} is the socket of a `notify` check of `{other}` and of one of `{}`",
                    notify.socket.display(),
                    peer.settings.name
                );
                let help = "each has a socket of its own: that is what tells them apart";
                root.wrong(&root.origin, "socket_clash", message, help);
            }
        }
    }
}

/// Data channels are only listened to; what is published on, or is one peer's own, may not be one.
pub(super) fn channels(root: &Reader<'_>, peers: &Read<Vec<Peer>>, ours: &str) {
    let Ok(peers) = peers else { return };
    let mut own: BTreeMap<&str, &str> = BTreeMap::new();
    for (peer, channel, _) in heard(peers, false) {
        own.insert(channel, &peer.settings.name);
    }
    for (peer, channel, origin) in heard(peers, false) {
        if &**channel == ours {
            let message = format!(
                "`{channel}` is where this node publishes: every node's heartbeat would be life of `{}`",
                peer.settings.name
            );
            root.wrong(
                origin,
                "channel_clash",
                message,
                "name the node that is meant: node = \"…\"",
            );
        }
    }
    for (peer, channel, origin) in heard(peers, true) {
        if &**channel == ours {
            let message = format!("`{channel}` is where this node publishes, and never on a data channel");
            root.wrong(
                origin,
                "channel_clash",
                message,
                "give heartbeat.channel a channel of its own",
            );
        } else if let Some(owner) = own.get(&**channel) {
            let message = format!(
                "`{channel}` is `{owner}`'s own heartbeat channel, and here a data channel of `{}`",
                peer.settings.name
            );
            root.wrong(
                origin,
                "channel_clash",
                message,
                "heartbeats travel apart from data",
            );
        }
    }
}

/// Channels of passive checks, with who listens to them and where that was written.
fn heard(peers: &[Peer], data: bool) -> impl Iterator<Item = (&Peer, &Arc<str>, &Origin)> {
    peers.iter().flat_map(move |peer| {
        peer.heard
            .iter()
            .filter(move |heard| heard.data == data)
            .flat_map(move |heard| {
                let channels: &[Arc<str>] = match &heard.source {
                    Source::Channels(channels) => channels,
                    Source::Node(_) | Source::Claim { .. } | Source::Reported { .. } => &[],
                };
                channels.iter().map(move |channel| (peer, channel, &heard.origin))
            })
    })
}

/// No two listeners on one port.
pub(super) fn listeners(root: &Reader<'_>, http: &http::Settings, backend: &bus::Backend) {
    let embedded = match backend {
        bus::Backend::Embedded { listen } => *listen,
        bus::Backend::Redis(_) => None,
    };
    let admin = http.admin_listen.as_ref().map(|(address, _)| *address);
    let all = [
        ("http", "listen", Some(http.listen)),
        ("http", "admin_listen", admin),
        ("bus", "listen", embedded),
    ];
    for (index, (table, key, address)) in all.into_iter().enumerate() {
        for (other_table, other_key, other) in &all[..index] {
            let (Some(a), Some(b)) = (address, *other) else {
                continue;
            };
            if clash(a, b) {
                let at = root.place(table, key);
                let message = format!("{table}.{key} ({a}) and {other_table}.{other_key} ({b}) are the same");
                root.wrong(&at, "duplicate_listener", message, "give each a port of its own");
            }
        }
    }
}

fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let any = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || any)
}

/// Heartbeats of nodes must be able to arrive, and be somebody else's.
pub(super) fn nodes(root: &Reader<'_>, peers: &[Peer], us: &str, backend: &bus::Backend) {
    let alone = matches!(backend, bus::Backend::Embedded { listen: None });
    for heard in peers.iter().flat_map(|peer| &peer.heard) {
        let (Source::Node(node) | Source::Claim { node, .. }) = &heard.source else {
            continue;
        };
        if &**node == us {
            let message = format!("`{node}` is this node: nobody proves its own life");
            root.wrong(
                &heard.origin,
                "watches_itself",
                message,
                "name another node, or watch the process with an owner",
            );
        } else if alone {
            let message =
                format!("`{node}` cannot be heard: two nodes without Redis would silently be two groups");
            let help = "set bus.url to a Redis, or bus.listen and let the other node join it by redis://";
            root.wrong(&heard.origin, "two_groups", message, help);
        }
    }
}

/// What is allowed and probably not meant.
pub(super) fn warnings(
    root: &Reader<'_>,
    peers: &[Peer],
    expectations: &Expectations,
    http: &http::Settings,
    backend: &bus::Backend,
    dry_run: bool,
) -> Vec<String> {
    let mut out = Vec::new();
    if dry_run {
        out.push("dry_run is on: remedies are decided and shown, and none is carried out".to_owned());
    }
    if http.listen.ip().is_unspecified() {
        out.push(format!(
            "http.listen ({}) is open to every machine that can reach this one; it shows status and metrics, and \
             changes nothing", http.listen
        ));
    }
    if peers.is_empty() {
        let none = root.named("peer").is_empty();
        out.push(
            if none {
                "no peer is configured: nobody is watched"
            } else {
                "no peer is served"
            }
            .to_owned(),
        );
    }
    for (needed_id, name) in expectations.ids.iter().zip(expectations.names()) {
        let needed = |peer: &Peer| {
            peer.settings
                .checks
                .iter()
                .any(|check| check.needs == Some(*needed_id))
        };
        if !peers.iter().any(needed) {
            out.push(format!("[when.{name}] is needed by no check"));
        }
    }
    let alone = matches!(backend, bus::Backend::Embedded { listen: None });
    let mut own: BTreeMap<&str, &str> = BTreeMap::new();
    for (peer, channel, _) in heard(peers, false) {
        if let Some(other) = own.insert(channel, &peer.settings.name) {
            out.push(format!(
                "`{channel}` is the heartbeat channel of `{other}` and of `{}`: the one that lives hides the one that died",
                peer.settings.name
            ));
        }
    }
    if alone && peers.iter().any(|peer| !peer.heard.is_empty()) {
        out.push(
            "checks listen to channels, but the embedded bus has no bus.listen: no other process can publish on it".to_owned(),
        );
    }
    if matches!(backend, bus::Backend::Embedded { .. }) {
        for peer in peers {
            keyless(peer, &mut out);
        }
        for (name, when, _) in &expectations.all {
            if matches!(when, When::RedisKey(RedisKey { redis: None, .. })) {
                out.push(format!(
                    "[when.{name}] reads a key, and the embedded bus has none: it will be unknown. Set bus.url to a Redis, or \
                     its `redis`"
                ));
            }
        }
    }
    for peer in peers {
        of_peer(peer, http, &mut out);
    }
    out
}

/// The embedded bus keeps no keys of applications.
fn keyless(peer: &Peer, out: &mut Vec<String>) {
    let name = &peer.settings.name;
    for (index, probe, _) in &peer.probes {
        let check = peer.settings.checks.get(usize::from(*index));
        let without = matches!(
            probe,
            Probe::RedisKey(RedisKey { redis: None, .. }) | Probe::RedisLock(RedisLock { redis: None, .. })
        );
        if let Some(check) = check.filter(|_| without) {
            out.push(format!(
                "peer {name}: its check `{}` reads keys, and the embedded bus has none: it will say unknown. Set bus.url to \
                 a Redis, or its `redis`", check.name
            ));
        }
    }
}

fn of_peer(peer: &Peer, http: &http::Settings, out: &mut Vec<String>) {
    let settings = &peer.settings;
    let name = &settings.name;
    let healthz = settings
        .remedies
        .iter()
        .any(|remedy| remedy.kind == RemedyKind::Healthz);
    if peer.hold_is_set && !healthz {
        out.push(format!(
            "peer {name}: healthz_hold has no effect without a `healthz` remedy"
        ));
    }
    if healthz && settings.healthz_hold.as_secs() < 30 {
        out.push(format!(
            "peer {name}: healthz_hold ({}) is less than a kubelet's default period × failureThreshold (30s): such a \
             probe would not see the pulse", time(settings.healthz_hold)
        ));
    }
    if healthz && http.listen.ip().is_loopback() {
        out.push(format!(
            "peer {name}: /healthz/{name} is on {}, where a kubelet's probe does not come; exec probes do",
            http.listen
        ));
    }
    if let Some(kind) = helpless_after_exit(settings) {
        out.push(format!(
            "peer {name}: once it has exited, nothing of its ladder can be done (`{kind}` acts on what runs): somebody else \
             must bring it back"
        ));
    }
    for remedy in &settings.remedies {
        if let Some(why) = unreachable(settings, remedy) {
            let kind = remedy.kind.as_str();
            out.push(format!(
                "peer {name}: its remedy `{kind}` will never be used: {why}"
            ));
        }
    }
}

/// The first rung of a ladder all of whose rungs for an exit act on what runs.
fn helpless_after_exit(peer: &PeerSettings) -> Option<&'static str> {
    let exits = peer
        .checks
        .iter()
        .any(|check| matches!(check.kind, CheckKind::Process { .. }));
    let mut rungs = peer
        .remedies
        .iter()
        .filter(|remedy| exits && remedy.is_for(Cause::PeerExited) && !remedy.kind.tells())
        .peekable();
    let first = rungs.peek()?.kind.as_str();
    rungs.all(|remedy| remedy.needs_life).then_some(first)
}

/// Why this remedy of the peer can never follow, if it cannot.
pub(super) fn unreachable(peer: &PeerSettings, remedy: &RemedySettings) -> Option<String> {
    let deciding: Vec<_> = peer
        .checks
        .iter()
        .filter(|check| check.decides == Decides::Liveness)
        .collect();
    if deciding.is_empty() {
        return Some("none of its checks decides liveness".to_owned());
    }
    let voted_on = |check: &&CheckSettings| matches!(check.kind, CheckKind::Passive { .. });
    if !peer.local && !peer.single_observer && remedy.restarts && !deciding.iter().any(voted_on) {
        return Some(
            "other observers vote on heartbeats and messages, none of which decides whether this peer lives, and \
             single_observer is false"
                .to_owned(),
        );
    }
    let proven = |cause: &Cause| deciding.iter().any(|check| causes(&check.kind).contains(cause));
    if !remedy.causes.is_empty() && !remedy.causes.iter().any(proven) {
        let wanted: Vec<&str> = remedy.causes.iter().map(|cause| cause.as_str()).collect();
        return Some(format!(
            "it is for {}, which none of its checks can prove",
            wanted.join(", ")
        ));
    }
    None
}

/// What a check can prove of its peer.
pub(super) fn causes(kind: &CheckKind) -> &'static [Cause] {
    match kind {
        CheckKind::Passive { .. } => &[Cause::PeerSilent],
        CheckKind::Active { proves, .. } => proves,
        CheckKind::Process { .. } => &[Cause::PeerExited, Cause::PeerStuck],
    }
}
