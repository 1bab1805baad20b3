//! Reads `[peer.NAME]`: owner, checks, remedies, backoff and budget, and the rules within one peer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::checks::{Checks, Heard, checks, implied_process};
use super::fields;
use super::questions::Expectations;
use super::reader::{Bad, Read, Reader, all_of};
use super::report::Origin;
use super::reports::Push;
use super::schema::time;
use crate::checks::notify::Notify;
use crate::checks::{self, Probe, Schedule};
use crate::docker::{Selector, SelectorError};
use crate::engine::settings::{BackoffSettings, Budget, PeerSettings, Plane, RemedySettings, WhenBusDown};
use crate::redis_client::Endpoint;
use crate::remedies::Remedy;
use crate::systemd::{Scope, UnitRef};

/// How a peer is found on this machine.
#[derive(Clone)]
pub(super) enum Owner {
    Process(checks::Owner),
    Container(Selector),
    Unit(UnitRef),
}

/// A peer as it was read, before it has a number.
pub(super) struct Peer {
    pub(super) settings: PeerSettings,
    pub(super) owner: Option<Owner>,
    /// Which of its checks watches the owner, and when.
    pub(super) process: Option<(u16, Schedule)>,
    pub(super) probes: Vec<(u16, Probe, Schedule)>,
    /// What each rung's executor needs; `healthz` has none.
    pub(super) remedies: Vec<Option<Remedy>>,
    /// What its passive checks listen to.
    pub(super) heard: Vec<Heard>,
    pub(super) notifies: Vec<(u16, Notify)>,
    pub(super) pushes: Vec<(u16, Push)>,
    /// Those that it names, if it does.
    pub(super) blockers: Option<Blockers>,
    /// Where `healthz_hold` was written, if it was.
    pub(super) hold_is_set: bool,
}

/// The blockers that a peer names.
pub(super) struct Blockers {
    pub(super) names: Vec<String>,
    pub(super) origin: Origin,
}

/// What the peers are read against.
pub(super) struct Surroundings<'a> {
    pub(super) interval: Duration,
    pub(super) expectations: &'a Expectations,
    /// Names of the targets of notifications.
    pub(super) targets: &'a [&'a str],
    /// Where captures lie, and how much they may be.
    pub(super) captures: &'a (PathBuf, u64),
    /// Where the node's sockets lie.
    pub(super) runtime: &'a Path,
}

fn blockers(reader: &Reader<'_>) -> Read<Option<Blockers>> {
    if !reader.is_set("blockers") {
        return Ok(None);
    }
    let names = reader.texts("blockers")?;
    let origin = reader.at("blockers");
    Ok(Some(Blockers { names, origin }))
}

/// Reads one peer.
pub(super) fn peer(reader: &Reader<'_>, name: &str, around: &Surroundings<'_>) -> Read<Peer> {
    let grace = reader.time("grace");
    let leave_within = reader.time("leave_within");
    let single_observer = reader.bool("single_observer");
    let (when_bus_down, blockers) = (reader.text("when_bus_down"), blockers(reader));
    let healthz_hold = reader.time("healthz_hold");
    let backoff = reader
        .open("backoff", &[&fields::BACKOFF])
        .and_then(|reader| backoff(&reader));
    let budget = reader
        .open("budget", &[&fields::BUDGET])
        .and_then(|reader| budget(&reader));
    let owner = owner(reader);
    let checks = checks(reader, name, grace.unwrap_or_default(), &owner, around);
    if let (Ok(backoff), Ok(budget)) = (&backoff, &budget) {
        backoff_within_budget(reader, *backoff, *budget);
    }
    if let (Ok(hold), Ok(budget)) = (healthz_hold, &budget)
        && hold >= budget.window
    {
        let message = format!(
            "`healthz_hold` ({}) must be less than the budget's `window` ({})",
            time(hold),
            time(budget.window)
        );
        reader.wrong(
            &reader.at("healthz_hold"),
            "healthz_hold",
            message,
            "else one pulse could follow another for ever",
        );
    }
    let known = owner.as_ref().ok().and_then(Option::as_ref);
    let remedies = remedies(reader, healthz_hold.unwrap_or_default(), known, around);
    let (owner, mut checks) = (owner?, checks?);
    if owner.is_some() && checks.process.is_none() {
        implied_process(&mut checks, grace?);
    }
    if checks.all.is_empty() {
        let message = format!("peer `{name}` has neither an owner nor a check: nothing of it is watched");
        return Err(reader.wrong(
            &reader.origin,
            "nothing_to_watch",
            message,
            "as in owner = { listens = 9080 }",
        ));
    }
    // An active check looks at this machine, also one that reads Redis besides; not one that reads nothing else.
    let local = owner.is_some()
        || checks.probes.iter().any(|(_, probe, _)| probe.is_here())
        || checks.all.iter().any(|check| check.plane == Plane::Local);
    let mut fits = Ok(());
    let remedies: Vec<_> = remedies?;
    for (settings, _, origin) in &remedies {
        fits = fits.and(remedy_fits(
            reader,
            origin,
            settings,
            owner.as_ref(),
            local,
            &checks,
        ));
    }
    fits?;
    let servers = watched_servers(&checks);
    let (settings, remedies) = remedies
        .into_iter()
        .map(|(settings, remedy, _)| (settings, remedy.map(|remedy| aimed(remedy, &servers))))
        .unzip();
    Ok(Peer {
        settings: PeerSettings {
            name: name.into(),
            // (`fleet::name` has the last word.)
            known_as: name.into(),
            local,
            grace: grace?,
            leave_within: leave_within?,
            single_observer: single_observer?,
            blockers: false,
            when_bus_down: if when_bus_down? == "local" {
                WhenBusDown::Local
            } else {
                WhenBusDown::Hold
            },
            checks: checks.all,
            remedies: settings,
            backoff: backoff?,
            budget: budget?,
            healthz_hold: healthz_hold?,
        },
        blockers: blockers?,
        owner,
        process: checks.process,
        probes: checks.probes,
        remedies,
        heard: checks.heard,
        notifies: checks.notifies,
        pushes: checks.pushes,
        hold_is_set: reader.is_set("healthz_hold"),
    })
}

/// The servers of its `subscription` checks; `None` stands for the bus's.
fn watched_servers(checks: &Checks) -> Vec<Option<Endpoint>> {
    let mut servers = Vec::new();
    for (_, probe, _) in &checks.probes {
        if let Probe::Subscription(subscription) = probe
            && !servers.contains(&subscription.redis)
        {
            servers.push(subscription.redis.clone());
        }
    }
    servers
}

/// `client_kill` acts where those checks look.
fn aimed(remedy: Remedy, servers: &[Option<Endpoint>]) -> Remedy {
    match remedy {
        Remedy::ClientKill { timeout, .. } => Remedy::ClientKill {
            servers: servers.to_vec(),
            timeout,
        },
        other => other,
    }
}

fn owner(peer: &Reader<'_>) -> Read<Option<Owner>> {
    if !peer.is_set("owner") {
        return Ok(None);
    }
    let reader = peer.open("owner", &[&fields::OWNER])?;
    let ways: Vec<&str> = fields::OWNER
        .fields
        .iter()
        .map(|field| field.key)
        .filter(|key| *key != "user" && reader.is_set(key))
        .collect();
    let [way] = ways.as_slice() else {
        if ways.is_empty() && reader.has_keys_besides(&["user"]) {
            // What stands there is no way, and that is reported.
            return Err(Bad);
        }
        let message = format!(
            "an owner is found in exactly one way, and here are {}",
            ways.len()
        );
        return Err(reader.wrong(
            &reader.origin,
            "one_owner",
            message,
            "one of listens, pid_file, heartbeat_file, command, pid, unit, container, compose, label",
        ));
    };
    let user = reader.maybe_bool("user")?;
    if user.is_some() && *way != "unit" {
        let message = "`user` says whose manager has the `unit`, and none is given";
        return Err(reader.wrong(&reader.key_at("user"), "user_unit", message, "remove it"));
    }
    let process = match *way {
        "unit" => return unit(&reader, way, user.unwrap_or_default()).map(|unit| unit.map(Owner::Unit)),
        "container" => return container(&reader, way, Selector::name),
        "compose" => return container(&reader, way, Selector::compose),
        "label" => return container(&reader, way, Selector::label),
        "listens" => reader.maybe_listens(way)?,
        "pid_file" => reader.maybe_path(way)?.map(checks::Owner::PidFile),
        "heartbeat_file" => reader.maybe_path(way)?.map(checks::Owner::HeartbeatFile),
        "command" => reader.maybe_text(way)?.map(checks::Owner::Command),
        _ => reader.maybe_int(way)?.map(checks::Owner::Pid),
    };
    Ok(process.map(Owner::Process))
}

/// The unit that `key` names.
pub(super) fn unit(reader: &Reader<'_>, key: &str, user: bool) -> Read<Option<UnitRef>> {
    let Some(text) = reader.maybe_text(key)? else {
        return Ok(None);
    };
    let scope = if user { Scope::User } else { Scope::System };
    UnitRef::new(&text, scope)
        .map(Some)
        .map_err(|wrong| reader.wrong(&reader.at(key), "value", format!("`{key}`: {wrong}"), ""))
}

fn container(
    reader: &Reader<'_>,
    key: &str,
    parse: impl Fn(&str) -> Result<Selector, SelectorError>,
) -> Read<Option<Owner>> {
    let Some(text) = reader.maybe_text(key)? else {
        return Ok(None);
    };
    parse(&text)
        .map(|selector| Some(Owner::Container(selector)))
        .map_err(|wrong| reader.wrong(&reader.at(key), "value", format!("`{key}`: {wrong}"), ""))
}

fn backoff(reader: &Reader<'_>) -> Read<BackoffSettings> {
    let (initial, max, reset_after) = (
        reader.time("initial"),
        reader.time("max"),
        reader.time("reset_after"),
    );
    if let (Ok(initial), Ok(max)) = (initial, max)
        && initial > max
    {
        let message = format!(
            "`initial` ({}) must not be more than `max` ({})",
            time(initial),
            time(max)
        );
        let key = if reader.is_set("initial") {
            "initial"
        } else {
            "max"
        };
        reader.wrong(&reader.at(key), "backoff_bounds", message, "");
    }
    Ok(BackoffSettings {
        initial: initial?,
        max: max?,
        reset_after: reset_after?,
    })
}

fn budget(reader: &Reader<'_>) -> Read<Budget> {
    let (count, window) = (reader.int("count"), reader.time("window"));
    Ok(Budget {
        count: count?,
        window: window?,
    })
}

/// Remedies spaced wider than the budget's window never spend it: nobody would ever be given up on. (systemd's
/// `StartLimitBurst=` with a long `RestartSec=` is the same trap.)
fn backoff_within_budget(reader: &Reader<'_>, backoff: BackoffSettings, budget: Budget) {
    let waits = (0..budget.count).map(|n| backoff.initial.saturating_mul(1 << n.min(20)).min(backoff.max));
    let least = waits.fold(Duration::ZERO, Duration::saturating_add);
    if least < budget.window {
        return;
    }
    let key = if reader.is_set("backoff") {
        "backoff"
    } else {
        "budget"
    };
    let message = format!(
        "{} remedies are at least {} apart by `backoff`, so the budget of {} in {} can never be spent",
        budget.count,
        time(least),
        budget.count,
        time(budget.window)
    );
    let help = format!(
        "shorten `backoff`, or make `budget.window` more than {}",
        time(least)
    );
    reader.wrong(&reader.key_at(key), "backoff_evades_budget", message, help);
}

/// Rungs of one ladder.
const MAX_REMEDIES: usize = 16;

/// The ladder, mildest first, each rung with where it was written.
fn remedies(
    peer: &Reader<'_>,
    healthz_hold: Duration,
    owner: Option<&Owner>,
    around: &Surroundings<'_>,
) -> Read<Vec<(RemedySettings, Option<Remedy>, Origin)>> {
    let list = peer.list("remedies");
    let mut ladder = Vec::new();
    if let Some(over) = list.get(MAX_REMEDIES) {
        let message = format!("a peer has at most {MAX_REMEDIES} remedies");
        ladder.push(Err(peer.wrong(&over.origin, "too_many", message, "")));
    }
    for node in list.iter().take(MAX_REMEDIES) {
        let rung = super::remedy::remedy(peer, node, healthz_hold, owner, around);
        ladder.push(rung.map(|(settings, remedy)| (settings, remedy, node.origin.clone())));
    }
    all_of(ladder)
}

fn remedy_fits(
    peer: &Reader<'_>,
    at: &Origin,
    remedy: &RemedySettings,
    owner: Option<&Owner>,
    local: bool,
    checks: &Checks,
) -> Read<()> {
    use crate::engine::settings::RemedyKind::{ClientKill, Healthz, Signal, SocketReset};
    let lives =
        owner.is_some() || checks.heard.iter().any(|heard| !heard.data) || !checks.notifies.is_empty();
    if remedy.kind == Signal && !matches!(owner, Some(Owner::Process(_) | Owner::Unit(_))) {
        let (message, help) = match owner {
            Some(_) => (
                "a signal goes to a process, and this peer's owner is a container",
                "use { do = \"docker\", action = \"kill\", signal = \"SIGTERM\" }",
            ),
            None => (
                "a signal goes to the peer's owner, and it has none",
                "add owner = { listens = 9080 }, or pid_file, command, pid, unit",
            ),
        };
        return Err(peer.wrong(at, "signal_needs_owner", message, help));
    }
    if remedy.kind == ClientKill && watched_servers(checks).is_empty() {
        let message = "`client_kill` ends what a `subscription` check condemned, and this peer has none";
        let help = "add checks.subscription = { channels = [\"can_messages\"] }";
        return Err(peer.wrong(at, "client_kill_needs_check", message, help));
    }
    if remedy.kind == Healthz && !local {
        let message = "`healthz` heals a peer of this machine, and this one is known by the bus alone";
        return Err(peer.wrong(
            at,
            "local_only",
            message,
            "configure it on the node beside that peer",
        ));
    }
    let condemns =
        |(_, probe, _): &(u16, Probe, Schedule)| matches!(probe, Probe::Sockets(_) | Probe::Subscription(_));
    if remedy.kind == SocketReset && !checks.probes.iter().any(condemns) {
        let message = "`socket_reset` ends the connections that a check condemned, and this peer has no check that does";
        return Err(peer.wrong(
            at,
            "reset_needs_sockets",
            message,
            "add a `subscription` or `sockets` check",
        ));
    }
    if !remedy.kind.tells() && !lives {
        let message =
            "this peer has nothing by which one life differs from the next, so nothing may be done to it";
        let help = "add an owner, a heartbeat or a notify check, or use do = \"log\" or \"notify\"";
        return Err(peer.wrong(at, "remedy_needs_incarnation", message, help));
    }
    Ok(())
}
