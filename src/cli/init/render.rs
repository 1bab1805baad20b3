//! The file: what was found, as the canonical configuration, with the reasons beside it. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::Found;
use super::compose::{Project, Service, speaker};
use super::listen::Channel;
use crate::docker::Selector;
use crate::telemetry::logs::printable;

/// The variable that the configuration will read the bus's password from.
pub(super) const PASSWORD: &str = "REDIS_PASSWORD";

/// Data channels that are listed.
const LISTED: usize = 20;
/// Default of `suspect_after`: what is slower than half of it needs times of its own.
const SUSPECT_AFTER: Duration = Duration::from_secs(2);

/// One peer to be.
struct Peer {
    comments: Vec<String>,
    /// How it is found, if it has an owner.
    owner: Option<String>,
    checks: Vec<String>,
    remedies: &'static str,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            comments: Vec::new(),
            owner: None,
            checks: Vec::new(),
            remedies: LOG,
        }
    }
}

const LOG: &str = "remedies = [{ do = \"log\" }]";
const DOCKER: &str =
    "remedies = [{ do = \"docker\" }]     # restarts the container; not before dry_run is gone";

/// The text of the configuration.
pub(super) fn file(group: Option<&str>, found: &Found) -> String {
    let mut out = String::new();
    head(&mut out, group, found);
    let mut peers = from_services(found);
    from_channels(found, &mut peers);
    for (name, peer) in &peers {
        out.push('\n');
        for comment in &peer.comments {
            remark(&mut out, comment);
        }
        if peer.owner.is_none() && peer.checks.is_empty() {
            remark(&mut out, "Neither an owner nor a check of it could be made out.");
            continue;
        }
        line(&mut out, &format!("[peer.{}]", key(name)));
        match &peer.owner {
            Some(owner) => line(&mut out, owner),
            None => line(
                &mut out,
                "#owner = { command = \"…\" }        # with an owner it could be healed",
            ),
        }
        for check in &peer.checks {
            line(&mut out, check);
        }
        line(&mut out, peer.remedies);
    }
    if peers.is_empty() {
        out.push('\n');
        remark(&mut out, "Nothing to watch was found. A peer looks like this:");
        line(&mut out, "#[peer.feed]");
        line(
            &mut out,
            "#checks.heartbeat = { channel = \"telemetry_heartbeat\" }",
        );
    }
    nodes(&mut out, found);
    data_channels(&mut out, found);
    out
}

fn head(out: &mut String, group: Option<&str>, found: &Found) {
    let project = found.project.as_ref();
    remark(
        out,
        "Written by `defib init`. Nothing is acted on while `dry_run` is true: read this, see that",
    );
    remark(
        out,
        "`defib doctor` is content, watch `defib status` and `defib explain` for a while, then take it out.",
    );
    if let Some(project) = project {
        remark(out, &format!("Services: those of {}.", project.source));
    }
    for note in &found.notes {
        remark(out, note);
    }
    let group = group
        .or(project.and_then(|project| project.name.as_deref()))
        .unwrap_or("default");
    line(out, "");
    line(out, &format!("group = {}", text(&name_of(group))));
    line(
        out,
        "dry_run = true                     # decide, record and show everything, carry out nothing",
    );
    line(out, "");
    bus(out, found);
    line(out, "");
    line(out, "[http]");
    line(
        out,
        "listen = \"127.0.0.1:7337\"          # 0.0.0.0:7337 where probes come from outside",
    );
}

fn bus(out: &mut String, found: &Found) {
    let Some((redis, heard)) = &found.redis else {
        let inside = found.project.as_ref().and_then(Project::redis_inside);
        line(out, "[bus]");
        match inside {
            Some(url) => line(out, &format!("url = {}", text(&format!("${{REDIS_URL:-{url}}}")))),
            None => line(
                out,
                "url = \"${REDIS_URL:-embedded}\"       # embedded: this machine alone, without a Redis",
            ),
        }
        return;
    };
    let place = redis.endpoint.address.to_string();
    remark(
        out,
        &format!("Listened to {place} for {:.1} s.", heard.lasted.as_secs_f64()),
    );
    for note in &heard.notes {
        remark(out, note);
    }
    for (kind, count) in &heard.clients {
        remark(out, &format!("Clients: {count} {kind}"));
    }
    line(out, "[bus]");
    let url = redis.inside.as_ref().unwrap_or(&place);
    if redis.endpoint.password.is_some() || redis.endpoint.user.is_some() {
        // A URL of the environment might bring another user with it.
        line(out, &format!("url = {}", text(&escaped(url))));
    } else {
        line(
            out,
            &format!("url = {}", text(&format!("${{REDIS_URL:-{}}}", escaped(url)))),
        );
    }
    if let Some(user) = &redis.endpoint.user {
        line(out, &format!("user = {}", text(&escaped(user))));
    }
    if redis.endpoint.password.is_some() {
        line(out, &format!("password = {{ env = \"{PASSWORD}\" }}"));
    }
}

fn from_services(found: &Found) -> BTreeMap<String, Peer> {
    let of_project = found.project.iter().flat_map(|project| {
        let services = project.watched();
        services.map(|service| (name_of(&service.name), from_service(project, service)))
    });
    of_project.collect()
}

fn from_service(project: &Project, service: &Service) -> Peer {
    let mut peer = Peer::default();
    let image = if service.image.is_empty() {
        "built here"
    } else {
        &service.image
    };
    let mut what = format!("Service {} ({image})", service.name);
    if let Some(other) = &service.network_of {
        let _ = write!(what, ", in the network namespace of {other}");
    }
    peer.comments.push(what);
    peer.owner = owner(project, service);
    if peer.owner.is_some() {
        peer.remedies = DOCKER;
        if service.is_store() {
            peer.remedies = LOG;
            peer.comments
                .push("Its restart is no small shock: watched, and left to people.".to_owned());
        }
    }
    if let Some(url) = &service.health {
        peer.comments
            .push("Asked as its own health check asks.".to_owned());
        peer.checks
            .push(format!("checks.http = {{ url = {} }}", text(&escaped(url))));
    }
    peer
}

/// By the name that is fixed, else by its labels: names that compose makes up change with the number of containers.
fn owner(project: &Project, service: &Service) -> Option<String> {
    if let Some(container) = service
        .container
        .as_deref()
        .filter(|name| Selector::name(name).is_ok())
    {
        return Some(format!("owner = {{ container = {} }}", text(container)));
    }
    let both = format!("{}/{}", project.name.as_deref()?, service.name);
    let known = Selector::compose(&both).is_ok();
    known.then(|| format!("owner = {{ compose = {} }}", text(&both)))
}

/// A channel of heartbeats is a peer's own: that of the service which it is called after, or one for itself.
fn from_channels(found: &Found, peers: &mut BTreeMap<String, Peer>) {
    let services: Vec<&Service> = found.project.iter().flat_map(Project::watched).collect();
    let own =
        channels(found).filter(|(name, channel)| is_heartbeat(name, channel) && node(channel).is_none());
    for (name, channel) in own {
        let (check, said) = heartbeat_check(name, channel);
        let peer =
            speaker(&services, name).map_or_else(|| name_of(bare(name)), |service| name_of(&service.name));
        let peer = peers.entry(peer).or_default();
        let beats = |check: &String| check.starts_with("checks.heartbeat");
        if !peer.checks.iter().any(beats) {
            peer.comments.push(said);
            peer.checks.insert(0, check);
        }
    }
}

fn heartbeat_check(name: &str, channel: &Channel) -> (String, String) {
    let mut times = String::new();
    let said = match channel.interval() {
        Some(interval) => {
            if interval * 2 > SUSPECT_AFTER {
                let whole = interval.as_secs_f64().ceil();
                times = format!(
                    ", suspect_after = \"{}s\", dead_after = \"{}s\"",
                    whole * 3.0,
                    whole * 6.0
                );
            }
            format!("Heard on {name:?} every {:.1} s.", interval.as_secs_f64())
        }
        None if channel.messages == 0 => {
            format!("Nothing was heard on {name:?}; it is called like a heartbeat.")
        }
        None => {
            format!("Heard once on {name:?}: see how often it comes, and set suspect_after and dead_after.")
        }
    };
    (
        format!(
            "checks.heartbeat = {{ channel = {}{times} }}",
            text(&escaped(name))
        ),
        said,
    )
}

/// The defib that speaks on a channel.
fn node(channel: &Channel) -> Option<&str> {
    channel.heartbeat.as_ref()?.node.as_deref()
}

/// Groups share a channel: only the last of its nodes is named, and one of them may be this machine's own.
fn nodes(out: &mut String, found: &Found) {
    for (name, channel) in channels(found) {
        let Some(node) = node(channel) else { continue };
        let group = channel.heartbeat.as_ref().and_then(|beat| beat.group.as_deref());
        out.push('\n');
        remark(
            out,
            &format!(
                "A node of group {:?} speaks on {name:?}: {node:?}.",
                group.unwrap_or_default()
            ),
        );
        remark(
            out,
            "If it is another than this one, and the group is the same, it can be watched:",
        );
        remark(
            out,
            &format!(
                "  [peer.{0}]  checks.heartbeat = {{ node = {1} }}",
                key(&name_of(node)),
                text(node)
            ),
        );
    }
}

/// By its name, or because what comes on it tells of its sender's life, now and then.
fn is_heartbeat(name: &str, channel: &Channel) -> bool {
    let called = ["heartbeat", "keepalive", "keep_alive", "alive"];
    let lower = name.to_lowercase();
    let slow = channel
        .interval()
        .is_none_or(|interval| interval > Duration::from_millis(100));
    called.iter().any(|word| lower.contains(word)) || (channel.heartbeat.is_some() && slow)
}

/// `telemetry_heartbeat` without what makes it one.
fn bare(channel: &str) -> &str {
    let trimmed = |word: &str| {
        let cut = channel.strip_suffix(word).or_else(|| channel.strip_prefix(word));
        cut.map(|rest| rest.trim_matches(['_', '-', ':', '.', '/']))
            .filter(|rest| !rest.is_empty())
    };
    ["heartbeats", "heartbeat", "keepalive", "alive"]
        .iter()
        .find_map(|word| trimmed(word))
        .unwrap_or(channel)
}

fn data_channels(out: &mut String, found: &Found) {
    let mut data: Vec<(&String, &Channel)> = channels(found)
        .filter(|(name, channel)| !is_heartbeat(name, channel))
        .collect();
    if data.is_empty() {
        return;
    }
    data.sort_by_key(|(_, channel)| std::cmp::Reverse(channel.messages));
    out.push('\n');
    remark(
        out,
        "Channels of data. A peer that reads or writes one can have a check such as",
    );
    remark(
        out,
        "  checks.data = { type = \"traffic\", channels = [\"…\"], decides = \"nothing\" }",
    );
    for (name, channel) in data.iter().take(LISTED) {
        let rate = channel.interval().map_or_else(
            || format!("{} heard", channel.messages),
            |interval| format!("{:.1}/s", 1.0 / interval.as_secs_f64().max(0.000_001)),
        );
        let subscribed = if channel.subscribed {
            "subscribed to"
        } else {
            "nobody subscribed"
        };
        remark(out, &format!("  {name:?}: {rate}, {subscribed}"));
    }
    if data.len() > LISTED {
        remark(out, &format!("  and {} more", data.len() - LISTED));
    }
}

fn channels(found: &Found) -> impl Iterator<Item = (&String, &Channel)> {
    found.redis.iter().flat_map(|(_, heard)| &heard.channels)
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// A comment can hold anything but the end of its line.
fn remark(out: &mut String, text: &str) {
    line(out, &format!("# {}", printable(text)));
}

fn text(value: &str) -> String {
    toml::Value::from(value).to_string()
}

fn key(name: &str) -> String {
    if name.contains('.') {
        text(name)
    } else {
        name.to_owned()
    }
}

/// What was found stands for itself, and for no variable.
fn escaped(value: &str) -> String {
    value.replace("${", "$${")
}

/// As names of the configuration are: a-z, 0-9, then also _ . -; at most 63.
fn name_of(found: &str) -> String {
    let lower = found.to_lowercase();
    let allowed = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') {
            c
        } else {
            '-'
        }
    };
    let name: String = lower.chars().map(allowed).collect();
    let name: String = name
        .trim_start_matches(['_', '.', '-'])
        .chars()
        .take(63)
        .collect();
    if name.is_empty() { "peer".to_owned() } else { name }
}
