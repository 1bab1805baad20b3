//! Reads one entry of `remedies`, and the rules within it.

use std::path::PathBuf;
use std::time::Duration;

use super::checks::known;
use super::fields;
use super::peers::{Owner, Surroundings, unit};
use super::questions::question;
use super::reader::{Bad, Read, Reader};
use super::schema::{Section, size};
use super::tree::{Node, Value};
use super::values::of_names;
use crate::docker::Selector;
use crate::engine::settings::{RemedyKind, RemedySettings};
use crate::remedies::{Action, Capture, DockerAct, Remedy, Signal, SystemdAct, UnitAction, Until};
use crate::systemd::Whom;

/// What an executor may take on top of its own time-outs before it is taken for lost.
const SLACK: Duration = Duration::from_secs(5);

/// How long a process has before `then`, where the configuration does not say.
const THEN_AFTER: Duration = Duration::from_secs(10);

/// Reads `node`, an entry of `peer`'s `remedies`.
pub(super) fn remedy(
    peer: &Reader<'_>,
    node: &Node,
    healthz_hold: Duration,
    owner: Option<&Owner>,
    around: &Surroundings<'_>,
) -> Read<(RemedySettings, Option<Remedy>)> {
    let word = match &node.value {
        Value::Table(table) => table.get("do").map(|entry| &entry.node),
        _ => None,
    };
    let place = peer.below("remedies");
    let kind = match word {
        Some(Node {
            value: Value::Text(word),
            origin,
            ..
        }) => known(
            &place,
            origin,
            "remedy",
            word,
            fields::REMEDY_KINDS,
            fields::LATER_REMEDIES,
            false,
        )?,
        Some(node) if node.is_bad() => return Err(Bad),
        None if matches!(node.value, Value::Table(_)) => {
            let help = format!("do = one of {}", fields::REMEDY_KINDS.join(", "));
            return Err(peer.wrong(
                &node.origin,
                "missing",
                "this remedy does not say what to `do`",
                help,
            ));
        }
        // Of the wrong kind: reported where it is read.
        _ => "log",
    };
    let sections: &[&'static Section] = match kind {
        "healthz" => &[&fields::REMEDY, &fields::REMEDY_HEALTHZ],
        "signal" => &[&fields::REMEDY, &fields::REMEDY_SIGNAL],
        "exec" => &[&fields::REMEDY, &fields::REMEDY_EXEC],
        "http" => &[&fields::REMEDY, &fields::REMEDY_HTTP],
        "docker" => &[&fields::REMEDY, &fields::REMEDY_DOCKER],
        "systemd" => &[&fields::REMEDY, &fields::REMEDY_SYSTEMD],
        "socket_reset" => &[&fields::REMEDY, &fields::REMEDY_SOCKET_RESET],
        "client_kill" => &[&fields::REMEDY, &fields::REMEDY_CLIENT_KILL],
        "notify" => &[&fields::REMEDY, &fields::REMEDY_NOTIFY],
        "capture" => &[&fields::REMEDY, &fields::REMEDY_CAPTURE],
        _ => &[&fields::REMEDY, &fields::REMEDY_LOG],
    };
    let reader = peer.child("remedies", &node.origin, node, sections)?;
    let (causes, verify_within) = (reader.causes("for"), reader.time("verify_within"));
    reader.text("do")?;
    let (kind, remedy, takes, restarts): Kind = match kind {
        "healthz" => (RemedyKind::Healthz, None, healthz_hold, true),
        "signal" => signal(&reader)?,
        "exec" => exec(&reader)?,
        "http" => http(&reader)?,
        "docker" => docker(&reader, owner)?,
        "systemd" => systemd(&reader, owner)?,
        "socket_reset" => (
            RemedyKind::SocketReset,
            Some(Remedy::SocketReset),
            Duration::ZERO,
            false,
        ),
        "client_kill" => client_kill(&reader)?,
        "notify" => notify(&reader, around.targets)?,
        "capture" => capture(&reader, around.captures, owner)?,
        _ => (RemedyKind::Log, Some(Remedy::Log), Duration::ZERO, false),
    };
    let settings = RemedySettings {
        kind,
        causes: causes?,
        verify_within: verify_within?,
        act_within: takes + SLACK,
        restarts,
        needs_life: remedy.as_ref().is_some_and(Remedy::needs_life),
    };
    Ok((settings, remedy))
}

/// Kind, executor, how long it may take by its own time-outs, whether it restarts.
type Kind = (RemedyKind, Option<Remedy>, Duration, bool);

fn signal(reader: &Reader<'_>) -> Read<Kind> {
    let (first, then, after) = (
        reader.text("signal"),
        reader.maybe_text("then"),
        reader.maybe_time("after"),
    );
    let (first, then) = (number(&first?)?, then?);
    let after = after?.unwrap_or(THEN_AFTER);
    if then.is_none() && reader.is_set("after") {
        let message = "`after` is the time before `then`, which is not given";
        return Err(reader.wrong(
            &reader.key_at("after"),
            "signal_then",
            message,
            "add then = \"SIGKILL\"",
        ));
    }
    let then = then
        .map(|then| number(&then))
        .transpose()?
        .map(|then| (after, then));
    let takes = then.map_or(Duration::ZERO, |(after, _)| after);
    // Even a signal that only asks for a reload is charged: what a process makes of it is its own business. SIGCONT
    // goes to a stopped process only, and gives it back what was taken from it.
    let continues = first.0 == rustix::process::Signal::CONT.as_raw() && then.is_none();
    Ok((
        RemedyKind::Signal,
        Some(Remedy::Signal { signal: first, then }),
        takes,
        !continues,
    ))
}

fn number(name: &str) -> Read<Signal> {
    NUMBERS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, signal)| Signal(signal.as_raw()))
        .ok_or(Bad)
}

/// The name of a signal that a remedy may send.
pub(super) fn signal_name(signal: Signal) -> Option<&'static str> {
    NUMBERS
        .iter()
        .find(|(_, known)| known.as_raw() == signal.0)
        .map(|(name, _)| *name)
}

/// [`fields::SIGNALS`], with their numbers.
const NUMBERS: [(&str, rustix::process::Signal); 9] = [
    ("SIGTERM", rustix::process::Signal::TERM),
    ("SIGKILL", rustix::process::Signal::KILL),
    ("SIGINT", rustix::process::Signal::INT),
    ("SIGQUIT", rustix::process::Signal::QUIT),
    ("SIGHUP", rustix::process::Signal::HUP),
    ("SIGUSR1", rustix::process::Signal::USR1),
    ("SIGUSR2", rustix::process::Signal::USR2),
    ("SIGCONT", rustix::process::Signal::CONT),
    ("SIGABRT", rustix::process::Signal::ABORT),
];

fn exec(reader: &Reader<'_>) -> Read<Kind> {
    let (argv, timeout, restarts) = (
        reader.texts("command"),
        reader.time("timeout"),
        reader.bool("restarts"),
    );
    let (argv, timeout) = (argv?, timeout?);
    Ok((
        RemedyKind::Exec,
        Some(Remedy::Exec { argv, timeout }),
        timeout,
        restarts?,
    ))
}

fn http(reader: &Reader<'_>) -> Read<Kind> {
    let (url, method, body) = (
        reader.text("url"),
        reader.text("method"),
        reader.maybe_text("body"),
    );
    let (bearer, timeout, restarts) = (
        reader.maybe_secret("bearer"),
        reader.time("timeout"),
        reader.maybe_bool("restarts"),
    );
    let until = if reader.is_set("until") {
        reader
            .open("until", &[&fields::UNTIL])
            .and_then(|reader| until(&reader))
            .map(Some)
    } else {
        Ok(None)
    };
    let (until, timeout) = (until?, timeout?);
    let waits = until
        .as_ref()
        .map_or(Duration::ZERO, |until| until.deadline + until.interval);
    let restarts = restarts?.unwrap_or(until.is_none());
    let remedy = Remedy::Http {
        url: url?,
        method: method?,
        body: body?,
        bearer: bearer?,
        timeout,
        until,
    };
    Ok((RemedyKind::Http, Some(remedy), timeout + waits, restarts))
}

fn docker(reader: &Reader<'_>, owner: Option<&Owner>) -> Read<Kind> {
    let (container, action) = (reader.maybe_text("container"), reader.text("action"));
    let (signal, stop_timeout) = (reader.maybe_text("signal"), reader.maybe_time("stop_timeout"));
    let (container, action, signal, stop_timeout) = (container?, action?, signal?, stop_timeout?);
    for (key, only) in [("signal", "kill"), ("stop_timeout", "restart")] {
        if reader.is_set(key) && action != only {
            let rule = if key == "signal" {
                "kill_signal"
            } else {
                "stop_timeout"
            };
            let message = format!("`{key}` is for action = \"{only}\", and this is \"{action}\"");
            return Err(reader.wrong(&reader.key_at(key), rule, message, "remove one of them"));
        }
    }
    let (target, is_owner) = match (container, owner) {
        (Some(name), _) => {
            let named = Selector::name(&name).map_err(|wrong| {
                let message = format!("`container`: {wrong}");
                reader.wrong(&reader.at("container"), "value", message, "")
            })?;
            (named, false)
        }
        (None, Some(Owner::Container(owner))) => (owner.clone(), true),
        (None, _) => {
            return Err(reader.wrong(
                &reader.origin,
                "docker_needs_container",
                "a `docker` remedy acts on the peer's owner, which is no container",
                "name one: container = \"daq-telemetry\"",
            ));
        }
    };
    let act = DockerAct {
        target,
        is_owner,
        action: match action.as_str() {
            "start" => Action::Start,
            "kill" => Action::Kill(number(signal.as_deref().unwrap_or("SIGKILL"))?),
            _ => Action::Restart,
        },
        stop_timeout,
    };
    let takes = act.takes();
    Ok((RemedyKind::Docker, Some(Remedy::Docker(act)), takes, true))
}

fn systemd(reader: &Reader<'_>, owner: Option<&Owner>) -> Read<Kind> {
    let (user, action, timeout) = (
        reader.maybe_bool("user"),
        reader.text("action"),
        reader.time("timeout"),
    );
    let (signal, whom) = (reader.maybe_text("signal"), reader.maybe_text("whom"));
    let (user, action, signal, whom) = (user?, action?, signal?, whom?);
    if let Some(key) = reader.first_set(&["signal", "whom"]).filter(|_| action != "kill") {
        let message = format!("`{key}` is for action = \"kill\", and this is \"{action}\"");
        return Err(reader.wrong(&reader.key_at(key), "kill_signal", message, "remove one of them"));
    }
    let named = unit(reader, "unit", user.unwrap_or_default())?;
    let (target, is_owner) = match (named, owner) {
        (Some(unit), Some(Owner::Unit(owner))) if unit == *owner => (unit, true),
        (Some(unit), _) => (unit, false),
        (None, _) if user.is_some() => {
            let message = "`user` says whose manager has the `unit`, and none is given";
            return Err(reader.wrong(&reader.key_at("user"), "user_unit", message, "remove it"));
        }
        (None, Some(Owner::Unit(owner))) => (owner.clone(), true),
        (None, _) => {
            return Err(reader.wrong(
                &reader.origin,
                "systemd_needs_unit",
                "a `systemd` remedy acts on the peer's owner, which is no unit",
                "name one: unit = \"feed.service\"",
            ));
        }
    };
    let whom = match whom.as_deref() {
        Some("main") => Whom::Main,
        _ => Whom::All,
    };
    let act = SystemdAct {
        target,
        is_owner,
        action: match action.as_str() {
            "start" => UnitAction::Start,
            "kill" => UnitAction::Kill(number(signal.as_deref().unwrap_or("SIGKILL"))?, whom),
            _ => UnitAction::Restart,
        },
        timeout: timeout?,
    };
    let takes = act.takes();
    Ok((RemedyKind::Systemd, Some(Remedy::Systemd(act)), takes, true))
}

/// Its servers are those of the peer's `subscription` checks, which are read later.
fn client_kill(reader: &Reader<'_>) -> Read<Kind> {
    let timeout = reader.time("timeout")?;
    let servers = Vec::new();
    Ok((
        RemedyKind::ClientKill,
        Some(Remedy::ClientKill { servers, timeout }),
        timeout * 4,
        false,
    ))
}

fn capture(reader: &Reader<'_>, (dir, max_total): &(PathBuf, u64), owner: Option<&Owner>) -> Read<Kind> {
    let (command, timeout, logs) = (
        reader.maybe_texts("command"),
        reader.time("timeout"),
        reader.int("logs"),
    );
    let (sockets, max_size) = (reader.bool("sockets"), reader.maybe_size("max_size"));
    let (command, max_size) = (command?, max_size?.ok_or(Bad)?);
    if command.as_ref().is_some_and(Vec::is_empty) {
        return Err(reader.wrong(
            &reader.at("command"),
            "value",
            "`command`: the list is empty",
            "name a program",
        ));
    }
    if max_size > *max_total {
        let message = format!(
            "`max_size` ({}) must be at most capture.max_total ({})",
            size(max_size),
            size(*max_total)
        );
        return Err(reader.wrong(&reader.at("max_size"), "capture_size", message, ""));
    }
    let (logs, sockets) = (logs?, sockets?);
    if command.is_none() && (owner.is_none() || (logs == 0 && !sockets)) {
        let message = match owner {
            None => "the peer has no owner on this machine, whose sockets and log could be kept",
            Some(_) => "`sockets = false`, `logs = 0` and no `command`",
        };
        let message = format!("a `capture` that keeps nothing: {message}");
        return Err(reader.wrong(
            &reader.at("do"),
            "capture_nothing",
            message,
            "add a command, or an owner",
        ));
    }
    let capture = Capture {
        dir: dir.clone(),
        max_total: *max_total,
        max_size,
        command,
        timeout: timeout?,
        logs,
        sockets,
    };
    let takes = capture.takes();
    Ok((RemedyKind::Capture, Some(Remedy::Capture(capture)), takes, false))
}

fn notify(reader: &Reader<'_>, targets: &[&str]) -> Read<Kind> {
    let to = reader.text("to")?;
    if !targets.contains(&to.as_str()) {
        let message = format!("`to`: there is no [notify.{to}]");
        let help = if targets.is_empty() {
            format!("add [notify.{to}] with its url")
        } else {
            of_names(&to, targets)
        };
        return Err(reader.wrong(&reader.at("to"), "unknown_target", message, help));
    }
    Ok((
        RemedyKind::Notify,
        Some(Remedy::Notify { to: to.into() }),
        Duration::ZERO,
        false,
    ))
}

fn until(reader: &Reader<'_>) -> Read<Until> {
    let (check, deadline, interval) = (
        question(reader, "url"),
        reader.time("deadline"),
        reader.time("interval"),
    );
    Ok(Until {
        check: check?,
        deadline: deadline?,
        interval: interval?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_a_number() {
        for name in fields::SIGNALS {
            assert_eq!(number(name).ok().and_then(signal_name), Some(*name));
        }
    }
}
