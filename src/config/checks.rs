//! Reads `[peer.NAME.checks]`, and the rules within one check.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::detectors::detector;
use super::measures;
use super::peers::{Owner, Surroundings};
use super::questions::{Expectations, question};
use super::reader::{Bad, Read, Reader};
use super::report::Origin;
use super::reports::{self, Push, default_socket};
use super::schema::{Section, time};
use super::suggest;
use super::tree::{Node, Value};
use super::values::is_name;
use super::{asks, fields, files};
use crate::checks::notify::Notify;
use crate::checks::subscription::{Rules, Subscription};
use crate::checks::{Probe, Schedule, WantedSockets};
use crate::engine::cause::Cause;
use crate::engine::event::ExpectationId;
use crate::engine::settings::{CheckKind, CheckSettings, Decides, FailAfter, Plane, Source};
use crate::sock_diag::Endpoint;

/// Checks of one peer.
const MAX_CHECKS: usize = 64;

/// What a passive check listens to, and where that was written.
pub(super) struct Heard {
    pub(super) origin: Origin,
    pub(super) source: Source,
    /// Channels of data: any message counts, and it says nothing of one life or the next.
    pub(super) data: bool,
}

/// The checks of one peer.
#[derive(Default)]
pub(super) struct Checks {
    pub(super) all: Vec<CheckSettings>,
    pub(super) process: Option<(u16, Schedule)>,
    pub(super) probes: Vec<(u16, Probe, Schedule)>,
    pub(super) heard: Vec<Heard>,
    pub(super) notifies: Vec<(u16, Notify)>,
    pub(super) pushes: Vec<(u16, Push)>,
}

pub(super) fn checks(
    peer: &Reader<'_>,
    peer_name: &str,
    grace: Duration,
    owner: &Read<Option<Owner>>,
    around: &Surroundings<'_>,
) -> Read<Checks> {
    let mut checks = Checks::default();
    let mut good = Ok(());
    let named = peer.named("checks");
    if let Some((_, origin, _)) = named.get(MAX_CHECKS) {
        good = Err(peer.wrong(
            origin,
            "too_many",
            format!("a peer has at most {MAX_CHECKS} checks"),
            "",
        ));
    }
    let place = peer.below("checks");
    for (name, origin, node) in named.into_iter().take(MAX_CHECKS) {
        let socket = default_socket(around.runtime, peer_name, name);
        let one = check(
            &place,
            &socket,
            name,
            origin,
            node,
            grace,
            owner,
            around,
            &mut checks,
        );
        good = good.and(one);
    }
    good.map(|()| checks)
}

#[allow(
    clippy::too_many_arguments,
    reason = "what a check is read from and what it is read against"
)]
fn check(
    all: &Reader<'_>,
    socket: &Path,
    name: &str,
    origin: &Origin,
    node: &Node,
    grace: Duration,
    owner: &Read<Option<Owner>>,
    around: &Surroundings<'_>,
    checks: &mut Checks,
) -> Read<()> {
    if !is_name(name) {
        return Err(all.wrong(
            origin,
            "name",
            format!("`{name}` is not a name for a check"),
            "a-z, 0-9, then also _ . -; at most 63",
        ));
    }
    let kind = match check_type(all, name, origin, node) {
        Ok(kind) => kind,
        Err(bad) => {
            // What no type has is wrong whichever is meant, and so is what is wrong for all.
            let any: Vec<_> = fields::CHECK_TYPES
                .iter()
                .flat_map(|kind| sections(kind))
                .collect();
            if let Ok(reader) = all.child(name, origin, node, &any) {
                let _ = common(&reader, grace, around.expectations);
            }
            return Err(bad);
        }
    };
    let reader = all.child(name, origin, node, &sections(kind))?;
    let index = u16::try_from(checks.all.len()).map_err(|_| Bad)?;
    let common = common(&reader, grace, around.expectations);
    // An owner that is wrong is reported, and is one.
    let ownerless = matches!(owner, Ok(None));
    let (kind, plane) = match kind {
        "heartbeat" | "traffic" => {
            let data = kind == "traffic";
            let source = if data {
                channels(&reader)
            } else {
                heartbeat(&reader)
            };
            let detector = detector(&reader, around.interval);
            let source = source?;
            checks.heard.push(Heard {
                origin: reader.origin.clone(),
                source: source.clone(),
                data,
            });
            (
                CheckKind::Passive {
                    source,
                    detector: detector?,
                    cause: Cause::PeerSilent,
                },
                Plane::Bus,
            )
        }
        "push" => {
            let (kind, push) = reports::push(&reader)?;
            checks.pushes.push((index, push));
            (kind, Plane::Local)
        }
        "notify" => {
            let (kind, notify) = reports::notify(&reader, socket, ownerless)?;
            checks.notifies.push((index, notify));
            (kind, Plane::Local)
        }
        "process" => {
            if ownerless {
                return Err(reader.wrong(
                    &reader.origin,
                    "process_needs_owner",
                    "a `process` check watches the peer's owner, and it has none",
                    "add owner = { listens = 9080 }, or pid_file, command, pid, unit, container, compose, label",
                ));
            }
            if checks.process.is_some() {
                return Err(reader.wrong(
                    &reader.origin,
                    "one_process",
                    "a peer has one `process` check",
                    "",
                ));
            }
            let (schedule, fail_after) = run(&reader)?;
            checks.process = Some((index, schedule));
            (
                CheckKind::Process {
                    fail_after,
                    interval: schedule.interval,
                },
                Plane::Local,
            )
        }
        kind => {
            let run = run(&reader);
            let interval = run
                .as_ref()
                .map_or(Duration::ZERO, |(schedule, _)| schedule.interval);
            let probe = match kind {
                "docker" => health(&reader, owner),
                "systemd" => state(&reader, owner),
                "metric" => measures::metric(&reader, interval),
                "connections" => measures::connections(&reader, owner.as_ref().ok().and_then(Option::as_ref)),
                "memory" => measures::memory(&reader, interval, owner),
                "file" => files::file(&reader, interval, owner.as_ref().ok().and_then(Option::as_ref)),
                "subscription" => subscription(&reader, run).map(Probe::Subscription),
                "sockets" => sockets(&reader).map(Probe::Sockets),
                "tcp" => asks::tcp(&reader),
                "exec" => asks::exec(&reader),
                "redis_key" => asks::redis_key(&reader),
                "redis_lock" => asks::redis_lock(&reader),
                _ => question(&reader, "url").map(Probe::Http),
            };
            let ((schedule, fail_after), probe) = (run?, probe?);
            let plane = probe.plane();
            let kind = CheckKind::Active {
                fail_after,
                interval: schedule.interval,
                proves: probe.proves(),
            };
            checks.probes.push((index, probe, schedule));
            (kind, plane)
        }
    };
    let (decides, grace, needs) = common?;
    checks.all.push(CheckSettings {
        name: name.into(),
        kind,
        plane,
        decides,
        grace,
        needs,
    });
    Ok(())
}

fn health(reader: &Reader<'_>, owner: &Read<Option<Owner>>) -> Read<Probe> {
    match owner {
        Ok(Some(Owner::Container(_))) => Ok(Probe::Docker),
        Ok(_) => Err(reader.wrong(
            &reader.origin,
            "docker_needs_container",
            "a `docker` check looks at the peer's owner, which is no container",
            "add owner = { container = \"NAME\" }, or compose, label",
        )),
        // The mistake in `owner` was told.
        Err(bad) => Err(*bad),
    }
}

fn state(reader: &Reader<'_>, owner: &Read<Option<Owner>>) -> Read<Probe> {
    let settle_within = reader.time("settle_within");
    match owner {
        Ok(Some(Owner::Unit(_))) => Ok(Probe::Systemd {
            settle_within: settle_within?,
        }),
        Ok(_) => Err(reader.wrong(
            &reader.origin,
            "systemd_needs_unit",
            "a `systemd` check looks at the peer's owner, which is no unit",
            "add owner = { unit = \"feed.service\" }",
        )),
        // The mistake in `owner` was told.
        Err(bad) => Err(*bad),
    }
}

/// The type of a check: what `type` says, else its key.
/// What may stand in a check of this type.
fn sections(kind: &str) -> Vec<&'static Section> {
    let own: &[&'static Section] = match kind {
        "heartbeat" => &[&fields::CHECK, &fields::CHECK_PASSIVE, &fields::CHECK_HEARTBEAT],
        "traffic" => &[&fields::CHECK, &fields::CHECK_PASSIVE, &fields::CHECK_TRAFFIC],
        "push" => &[&fields::CHECK, &fields::CHECK_PUSH],
        "notify" => &[&fields::CHECK, &fields::CHECK_NOTIFY],
        "process" => &[&fields::CHECK, &fields::CHECK_RUN, &fields::CHECK_PROCESS],
        "docker" => &[&fields::CHECK, &fields::CHECK_RUN, &fields::CHECK_DOCKER],
        "systemd" => &[&fields::CHECK, &fields::CHECK_RUN, &fields::CHECK_SYSTEMD],
        "metric" => &[&fields::CHECK, &fields::CHECK_RUN, &fields::CHECK_METRIC],
        "connections" => &[&fields::CHECK, &fields::CHECK_RUN, &fields::CHECK_CONNECTIONS],
        "memory" => &[&fields::CHECK, &fields::CHECK_RUN, &fields::CHECK_MEMORY],
        "file" => &[&fields::CHECK, &fields::CHECK_RUN, &fields::CHECK_FILE],
        "sockets" => &[&fields::CHECK, &fields::CHECK_RUN, &fields::CHECK_SOCKETS],
        "subscription" => &[&fields::CHECK, &fields::CHECK_RUN, &fields::CHECK_SUBSCRIPTION],
        "tcp" => &[&fields::CHECK, &fields::CHECK_RUN, &fields::CHECK_TCP],
        "exec" => &[&fields::CHECK, &fields::CHECK_RUN, &fields::CHECK_EXEC],
        "redis_key" => &[&fields::CHECK, &fields::CHECK_RUN, &fields::CHECK_REDIS_KEY],
        "redis_lock" => &[&fields::CHECK, &fields::CHECK_RUN, &fields::CHECK_REDIS_LOCK],
        _ => &[&fields::CHECK, &fields::CHECK_RUN, &fields::CHECK_HTTP],
    };
    own.to_vec()
}

fn check_type(place: &Reader<'_>, name: &str, origin: &Origin, node: &Node) -> Read<&'static str> {
    let given = match &node.value {
        Value::Table(table) => table.get("type").map(|entry| &entry.node),
        Value::Bad => return Err(Bad),
        _ => None,
    };
    let (word, at) = match given {
        None => (name, origin),
        Some(Node {
            value: Value::Text(word),
            origin,
            ..
        }) => (word.as_str(), origin),
        Some(node) if node.is_bad() => return Err(Bad),
        Some(node) => {
            let message = format!("`type` takes a text, and this is {}", node.value.describe());
            return Err(place.wrong(&node.origin, "value", message, ""));
        }
    };
    known(
        place,
        at,
        "check type",
        word,
        fields::CHECK_TYPES,
        &[],
        given.is_none(),
    )
}

/// `word` if it is one of `now`; else says whether a later version has it, or what may have been meant.
pub(super) fn known(
    place: &Reader<'_>,
    at: &Origin,
    what: &str,
    word: &str,
    now: &[&'static str],
    later: &[&'static str],
    by_key: bool,
) -> Read<&'static str> {
    if let Some(known) = now.iter().find(|known| **known == word) {
        return Ok(known);
    }
    let all = now.join(", ");
    if later.contains(&word) {
        let message = format!("the {what} `{word}` is not in this version");
        return Err(place.wrong(
            at,
            "not_in_this_version",
            message,
            format!("this version has {all}"),
        ));
    }
    let help = match suggest::closest(word, now.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? There are {all}"),
        None if by_key => format!("name it by its type, or give type = one of {all}"),
        None => format!("there are {all}"),
    };
    Err(place.wrong(at, "value", format!("there is no {what} `{word}`"), help))
}

type Common = (Decides, Duration, Option<ExpectationId>);

fn common(reader: &Reader<'_>, grace: Duration, expectations: &Expectations) -> Read<Common> {
    let decides = reader.text("decides").map(|decides| match decides.as_str() {
        "readiness" => Decides::Readiness,
        "nothing" => Decides::Nothing,
        _ => Decides::Liveness,
    });
    let grace = reader.maybe_time("grace").map(|given| given.unwrap_or(grace));
    let needs = reader.maybe_text("needs").and_then(|needs| match needs {
        None => Ok(None),
        Some(name) => expectations.find(&name).map(Some).ok_or_else(|| {
            let near = suggest::closest(&name, expectations.names());
            let help = near.map_or_else(
                || format!("add [when.{name}]"),
                |near| format!("did you mean \"{near}\"?"),
            );
            reader.wrong(
                &reader.at("needs"),
                "unknown_expectation",
                format!("there is no expectation `{name}`"),
                help,
            )
        }),
    });
    Ok((decides?, grace?, needs?))
}

fn run(reader: &Reader<'_>) -> Read<(Schedule, FailAfter)> {
    let (interval, timeout, fail_after) = (
        reader.time("interval"),
        reader.time("timeout"),
        reader.fail_after("fail_after"),
    );
    Ok((
        Schedule {
            interval: interval?,
            timeout: timeout?,
        },
        fail_after?,
    ))
}

fn sockets(reader: &Reader<'_>) -> Read<WantedSockets> {
    let (to, min, max_recv_q) = (reader.texts("to"), reader.int("min"), reader.int("max_recv_q"));
    let (standing, max_silence) = (reader.time("standing"), reader.maybe_time("max_silence"));
    let mut ends = Ok(Vec::new());
    for text in &to? {
        ends = ends.and_then(|mut ends: Vec<Endpoint>| {
            ends.push(endpoint(text).ok_or_else(|| {
                let message = format!("\"{text}\" is not a server");
                let help = "as in \"10.0.0.5:5432\", \"[fd00::5]:5432\", or \"*:5432\" for any address";
                reader.wrong(&reader.at("to"), "value", message, help)
            })?);
            Ok(ends)
        });
    }
    let to = ends?;
    if to.is_empty() {
        let message = "`to` names no server";
        return Err(reader.wrong(&reader.at("to"), "value", message, "as in to = [\"*:5432\"]"));
    }
    Ok(WantedSockets {
        to,
        min: min?,
        max_recv_q: max_recv_q?,
        standing: standing?,
        max_silence: max_silence?,
    })
}

fn endpoint(text: &str) -> Option<Endpoint> {
    let end = match text.strip_prefix("*:") {
        Some(port) => Endpoint::port(port.parse().ok()?),
        None => text.parse::<SocketAddr>().ok()?.into(),
    };
    (end.port != Some(0)).then_some(end)
}

fn subscription(reader: &Reader<'_>, run: Read<(Schedule, FailAfter)>) -> Read<Subscription> {
    let (channels, min) = (reader.texts("channels"), reader.maybe_int("min"));
    let (window, stuck_after) = (reader.time("window"), reader.time("stuck_after"));
    let redis = asks::server(reader);
    let (channels, window) = (channels?, window?);
    if let Ok((schedule, _)) = run
        && window < schedule.interval * 2
    {
        let message = format!(
            "`window` ({}) must be at least twice `interval` ({})",
            time(window),
            time(schedule.interval)
        );
        return Err(reader.wrong(&reader.at("window"), "window", message, ""));
    }
    Ok(Subscription {
        channels: channels.into_iter().map(Arc::from).collect(),
        rules: Rules {
            min: min?,
            window,
            stuck_after: stuck_after?,
        },
        redis: redis?,
    })
}

fn heartbeat(reader: &Reader<'_>) -> Read<Source> {
    let (channel, node, peer) = (
        reader.maybe_text("channel"),
        reader.maybe_text("node"),
        reader.maybe_text("peer"),
    );
    match (channel?, node?, peer?) {
        (Some(channel), None, None) => Ok(Source::Channels(vec![channel.into()])),
        (None, Some(node), None) => Ok(Source::Node(node.into())),
        (None, Some(node), Some(peer)) => Ok(Source::Claim {
            node: node.into(),
            peer: peer.into(),
        }),
        (_, _, Some(_)) => {
            let message = "`peer` says which peer of a `node` is meant";
            Err(reader.wrong(
                &reader.key_at("peer"),
                "heartbeat_source",
                message,
                "give node, too, and no channel",
            ))
        }
        (None, None, None) => {
            let message = "a heartbeat comes on a `channel` of its own or from a `node`";
            Err(reader.wrong(
                &reader.origin,
                "heartbeat_source",
                message,
                "as in channel = \"telemetry_heartbeat\" or node = \"node-b\"",
            ))
        }
        (Some(_), Some(_), None) => {
            let message = "a heartbeat comes on a `channel` of its own or from a `node`, not both";
            Err(reader.wrong(
                &reader.key_at("node"),
                "heartbeat_source",
                message,
                "make two checks of it",
            ))
        }
    }
}

fn channels(reader: &Reader<'_>) -> Read<Source> {
    let channels: Vec<Arc<str>> = reader.texts("channels")?.into_iter().map(Arc::from).collect();
    Ok(Source::Channels(channels))
}

/// An owner is watched even if no check says so.
pub(super) fn implied_process(checks: &mut Checks, grace: Duration) {
    let Ok(index) = u16::try_from(checks.all.len()) else {
        return;
    };
    let schedule = Schedule {
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
    };
    checks.process = Some((index, schedule));
    checks.all.push(CheckSettings {
        name: "process".into(),
        kind: CheckKind::Process {
            fail_after: FailAfter::default(),
            interval: schedule.interval,
        },
        plane: Plane::Local,
        decides: Decides::Liveness,
        grace,
        needs: None,
    });
}
